//! Whose rights a document of permissions is about; which rights these are is each store's own matter.

/// Whose rights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The agent: backups, pins, evidence. Can neither delete nor overwrite, nor shorten a lock.
    Writer,
    /// An operator: restores, drills, verifications. Writes evidence of them and nothing else.
    Reader,
    /// The machine that prunes. Deletes what no lock holds; cannot lift one.
    Pruner,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Writer, Self::Reader, Self::Pruner];

    /// As it is said in output.
    pub fn word(self) -> &'static str {
        match self {
            Self::Writer => "writer",
            Self::Reader => "reader",
            Self::Pruner => "pruner",
        }
    }
}
