//! Options about what lies in an archive tier.

use crate::stores::{Retrieval, RetrievalPriority};

/// How packs are brought back.
#[derive(Debug, clap::Args)]
pub(super) struct RehydrateArgs {
    /// Bring packs back that the restore needs and that lie in an archive tier, and wait for them: hours, and money. Without it such a restore is
    /// refused before anything is written; --dry-run says how many there are and how long it takes.
    #[arg(long, value_name = "PRIORITY", value_enum, num_args = 0..=1, require_equals = true, default_missing_value = "standard")]
    rehydrate: Option<Priority>,
    /// How many days what was brought back can be read (on S3; elsewhere it stays).
    #[arg(long, value_name = "DAYS", default_value_t = Retrieval::DEFAULT_DAYS, value_parser = clap::value_parser!(u16).range(1..=365), requires = "rehydrate")]
    rehydrate_days: u16,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Priority {
    /// As cheap as can be (S3: Bulk).
    Bulk,
    /// What the provider does where nothing is said.
    Standard,
    /// As soon as can be (S3: Expedited, Azure: High), which costs most.
    High,
}

impl RehydrateArgs {
    /// What was asked for; nothing if nothing was.
    pub(super) fn retrieval(&self) -> Option<Retrieval> {
        let priority = match self.rehydrate? {
            Priority::Bulk => RetrievalPriority::Bulk,
            Priority::Standard => RetrievalPriority::Standard,
            Priority::High => RetrievalPriority::High,
        };
        Some(Retrieval { priority, days: self.rehydrate_days })
    }
}
