//! Locks: until when a store itself refuses to delete an object, whoever asks.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// Who can lift a lock before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LockMode {
    /// Identities with a right of their own for that (S3: `s3:BypassGovernanceRetention`). Azure has no such right apart from that
    /// of locking, so that its store reads this mode (an unlocked policy) and never writes it.
    Governance,
    /// Nobody, not even the account's owner.
    Compliance,
}

impl std::fmt::Display for LockMode {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self {
            Self::Governance => "governance",
            Self::Compliance => "compliance",
        })
    }
}

/// What holds an object, or rather one version of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lock {
    /// Who can lift it.
    pub mode: LockMode,
    /// The site's clock must reach this first. Stores keep whole seconds.
    pub until: DateTime<Utc>,
}

impl Lock {
    /// Whether this lock holds at least as firmly and as long as `wanted`.
    pub fn covers(&self, wanted: &Self) -> bool {
        let firm = self.mode == LockMode::Compliance || wanted.mode == LockMode::Governance;
        firm && self.until.timestamp() >= wanted.until.timestamp()
    }

    /// The firmer mode and the later end of both.
    pub fn joined(&self, other: &Self) -> Self {
        let compliance = [self.mode, other.mode].contains(&LockMode::Compliance);
        let mode = if compliance { LockMode::Compliance } else { LockMode::Governance };
        Self { mode, until: self.until.max(other.until) }
    }
}

/// What a store says of its ability to lock.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LockSupport {
    /// Whether overwriting and deleting keep what was there before.
    pub versioned: bool,
    /// Whether objects can be locked.
    pub object_lock: bool,
    /// Where they cannot: what makes it possible there, as a sentence in the provider's own words, if the store knows.
    pub remedy: Option<String>,
}
