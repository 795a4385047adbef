//! Locks: until when a store itself refuses to delete an object, whoever asks; and legal holds, which have no end.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::ObjectAttributes;

/// Who can lift a lock before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LockMode {
    /// Identities with a right of their own for that (S3: `s3:BypassGovernanceRetention`). Azure has no such right apart from that
    /// of locking, so that its store reads this mode (an unlocked policy), and writes it only where a restore puts back what a source had.
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

/// What holds an object, or rather one version of it, until a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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

/// Everything that holds a version of an object.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Holds {
    /// Until a time.
    pub lock: Option<Lock>,
    /// Until somebody takes it away.
    pub legal_hold: bool,
}

impl Holds {
    /// Whether anything holds it.
    pub fn any(&self) -> bool {
        self.lock.is_some() || self.legal_hold
    }

    /// Whether this holds at least as firmly and as long as `wanted`.
    pub fn covers(&self, wanted: &Self) -> bool {
        let lock = wanted.lock.is_none_or(|wanted| self.lock.is_some_and(|lock| lock.covers(&wanted)));
        lock && (self.legal_hold || !wanted.legal_hold)
    }
}

impl std::fmt::Display for Holds {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(Lock { mode, until }) = self.lock {
            write!(out, "{mode} until {}", until.format("%Y-%m-%d %H:%M:%SZ"))?;
        }
        out.write_str(match (self.lock.is_some(), self.legal_hold) {
            (true, true) => " and a legal hold",
            (false, true) => "a legal hold",
            (true, false) => "",
            (false, false) => "nothing",
        })
    }
}

impl ObjectAttributes {
    /// What held the object.
    pub fn holds(&self) -> Holds {
        Holds { lock: self.lock, legal_hold: self.legal_hold }
    }

    /// The same, held by this.
    #[must_use]
    pub fn held_by(self, holds: Holds) -> Self {
        Self { lock: holds.lock, legal_hold: holds.legal_hold, ..self }
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

#[cfg(test)]
mod tests {
    use super::{Holds, Lock, LockMode, ObjectAttributes};

    fn lock(mode: LockMode, seconds: i64) -> Option<Lock> {
        Some(Lock { mode, until: chrono::DateTime::from_timestamp(seconds, 0).unwrap() })
    }

    #[test]
    fn what_holds_covers_what_is_weaker_and_nothing_else() {
        let (governance, compliance) = (lock(LockMode::Governance, 100), lock(LockMode::Compliance, 100));
        let of = |lock, legal_hold| Holds { lock, legal_hold };
        for (there, wanted, covers) in [
            (of(None, false), of(None, false), true),
            (of(None, false), of(governance, false), false),
            (of(governance, false), of(governance, false), true),
            (of(governance, false), of(compliance, false), false),
            (of(compliance, false), of(governance, false), true),
            (of(compliance, false), of(lock(LockMode::Governance, 101), false), false),
            (of(compliance, false), of(None, true), false),
            (of(None, true), of(None, true), true),
            (of(None, true), of(governance, true), false),
            (of(compliance, true), of(None, false), true),
        ] {
            assert_eq!(there.covers(&wanted), covers, "{there} over {wanted}");
        }
        assert_eq!(of(governance, true).to_string(), "governance until 1970-01-01 00:01:40Z and a legal hold");
        assert_eq!((of(None, false).to_string(), of(None, true).to_string()), ("nothing".to_owned(), "a legal hold".to_owned()));
    }

    #[test]
    fn what_holds_an_object_is_stored_under_names_and_only_where_there_is_something() {
        let free = rmp_serde::to_vec_named(&ObjectAttributes::default()).unwrap();
        assert_eq!(free, [0x80], "a map of nothing, as older programs wrote it");
        assert_eq!(rmp_serde::from_slice::<ObjectAttributes>(&free).unwrap(), ObjectAttributes::default());
        let held = ObjectAttributes::default().held_by(Holds { lock: lock(LockMode::Compliance, 100), legal_hold: true });
        let stored = rmp_serde::to_vec_named(&held).unwrap();
        assert_eq!(rmp_serde::from_slice::<ObjectAttributes>(&stored).unwrap(), held);
        let said = serde_json::to_value(&held).unwrap();
        assert_eq!(
            said,
            serde_json::json!({ "lock": { "mode": "compliance", "until": "1970-01-01T00:01:40Z" }, "legal_hold": true })
        );
        assert_eq!(rmp_serde::from_slice::<serde_json::Value>(&stored).unwrap(), said, "in the repository as in JSON");
    }
}
