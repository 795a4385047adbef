//! Problems that do not stop the work.

use serde::{Deserialize, Serialize};

/// Something that went wrong without stopping the work: what it hit, and what happened with the next step to take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The thing it concerns: a path, an object key, a table.
    pub subject: String,
    /// What happened, and what to do about it. Never holds a secret.
    pub message: String,
}

impl Problem {
    /// A problem with `subject`.
    pub fn new(subject: impl Into<String>, message: impl Into<String>) -> Self {
        Self { subject: subject.into(), message: message.into() }
    }
}
