//! Locks and legal holds in a restore: what of them is put with the objects, and what is said of them.
//!
//! Nothing is locked unless somebody says so: a restore into a bucket for a test would otherwise make objects that nobody can delete for
//! years. What ended since the backup, or is about to, is never put: the server would refuse it.

use std::sync::{
    OnceLock,
    atomic::{AtomicU64, Ordering},
};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;

use super::concerns_one_object;
use crate::{
    progress::{Check, CheckOutcome},
    sources::SourceError,
    stores::{Holds, Lock, LockMode, ObjectStat, SharedStore, Store, StoreError},
};

/// What ends so soon counts as ended: a batch takes its time, and the target's clock may be ahead by as much as a backup puts up with.
const ENDS_SOON: TimeDelta = TimeDelta::minutes(5);

/// What becomes of the locks and legal holds that were recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RestoredLocks {
    /// They are left out.
    #[default]
    LeftOut,
    /// They are put with each object as they were.
    AsRecorded,
    /// The same, but each lock in governance mode, which an identity with a right for that can lift.
    Governance,
}

/// What was met of them, counted on the way.
#[derive(Debug, Default)]
pub(super) struct Met {
    /// Objects with a lock that has not ended, or a legal hold.
    held: AtomicU64,
    /// Objects whose lock has ended since it was recorded.
    ended: AtomicU64,
    /// The first object that was to be written with a lock, and with a legal hold.
    first: [OnceLock<(String, Holds)>; 2],
}

impl Met {
    /// This object is to be written so.
    pub(super) fn to_be_written(&self, key: &str, holds: Holds) {
        for (first, is_there) in self.first.iter().zip([holds.lock.is_some(), holds.legal_hold]) {
            if is_there {
                first.get_or_init(|| (key.to_owned(), holds));
            }
        }
    }
}

impl RestoredLocks {
    /// What is asked of the target for an object that was held like this.
    pub(super) fn wanted(self, recorded: Holds, now: DateTime<Utc>, met: &Met) -> Holds {
        let lock = recorded.lock.filter(|lock| lock.until > now + ENDS_SOON);
        met.ended.fetch_add(u64::from(recorded.lock.is_some() && lock.is_none()), Ordering::Relaxed);
        let holds = Holds { lock, ..recorded };
        met.held.fetch_add(u64::from(holds.any()), Ordering::Relaxed);
        match self {
            Self::LeftOut => Holds::default(),
            Self::AsRecorded => holds,
            Self::Governance => Holds { lock: lock.map(|lock| Lock { mode: LockMode::Governance, ..lock }), ..holds },
        }
    }

    fn is_wanted(self) -> bool {
        self != Self::LeftOut
    }

    /// Refuses a target that cannot lock what is to be locked. One that is not there yet is made so that it can.
    pub(super) async fn check(self, store: &SharedStore) -> Result<(), SourceError> {
        if !self.is_wanted() {
            return Ok(());
        }
        match store.lock_support().await {
            Ok(support) if support.object_lock => Ok(()),
            Ok(support) => Err(SourceError::UnfitTarget {
                subject: store.describe(),
                detail: format!(
                    "objects cannot be locked there, as --locks asks for. {}. Or restore without --locks",
                    support.remedy.as_deref().unwrap_or(
                        "Name a bucket that was made with Object Lock (one that does not exist yet is made so by the restore)"
                    )
                ),
            }),
            Err(StoreError::NoSuchPlace { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes the target.
    pub(super) async fn create(self, store: &SharedStore) -> Result<(), StoreError> {
        if self.is_wanted() { store.create_locking().await } else { store.create().await }
    }

    /// For a plan: what will be done, as the end of a line.
    pub(super) fn plan(self, facts: &Value) -> String {
        let count = |name: &str| facts.get(name).and_then(Value::as_u64);
        let counts = match (count("locked_objects"), count("held_objects")) {
            (Some(locked), Some(held)) => format!(" (at the backup {locked} objects with a lock, {held} with a legal hold)"),
            _ => String::new(),
        };
        match self {
            Self::LeftOut if [count("locked_objects"), count("held_objects")].iter().flatten().all(|count| *count == 0) => {
                String::new()
            }
            Self::LeftOut => format!("; locks and legal holds are left out{counts}"),
            Self::AsRecorded => format!("; locks that have not ended and legal holds are put on objects as they were{counts}"),
            Self::Governance => {
                format!("; locks that have not ended are put on objects in governance mode, and legal holds{counts}")
            }
        }
    }

    /// What is said when all is written. A server may take a lock and keep none: of the first object with a lock, and of the first with a
    /// legal hold, it is read back.
    pub(super) async fn checks(self, store: &SharedStore, met: &Met) -> Result<Vec<Check>, SourceError> {
        let mut checks = Vec::new();
        let held = met.held.load(Ordering::Relaxed);
        if held > 0 && !self.is_wanted() {
            let name = "objects locked or held at their source, and not here (`farshore restore --locks` puts that back)";
            checks.push(Check::note(name, held, 0));
        }
        let ended = met.ended.load(Ordering::Relaxed);
        if ended > 0 {
            checks.push(Check::note("objects whose lock has ended since the backup, and is not put back", ended, 0));
        }
        let names = ["a lock in the target", "a legal hold in the target"];
        for (name, first) in names.into_iter().zip(&met.first) {
            let Some((key, wanted)) = first.get() else { continue };
            let name = format!("{name} (tried with {key:?})");
            match store.holds(key, None, None).await {
                Ok(found) => {
                    let outcome = if found.covers(wanted) { CheckOutcome::Passed } else { CheckOutcome::Failed };
                    checks.push(Check { name, expected: wanted.to_string(), actual: found.to_string(), outcome });
                }
                // Not written: that was said.
                Err(StoreError::NotFound { .. }) => {}
                Err(error) if concerns_one_object(&error) => {
                    checks.push(Check::note(name, wanted, format!("it could not be read back: {error}")));
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(checks)
    }
}

/// Whether an object of the target is held as firmly as is wanted; what a read of it did not show is asked for.
pub(super) async fn is_held(store: &dyn Store, there: &ObjectStat, shown: Holds, wanted: Holds) -> Result<bool, SourceError> {
    if shown.covers(&wanted) {
        return Ok(true);
    }
    match store.holds(&there.key, None, Some(shown)).await {
        Ok(found) => Ok(found.covers(&wanted)),
        Err(error) if concerns_one_object(&error) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::{DateTime, Holds, Lock, LockMode, Met, Ordering, RestoredLocks, TimeDelta};

    #[test]
    fn what_has_ended_or_is_about_to_is_not_put_and_is_counted() {
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let lock = |mode, minutes| Some(Lock { mode, until: now + TimeDelta::minutes(minutes) });
        let governance = lock(LockMode::Governance, 60);
        let compliance = lock(LockMode::Compliance, 60);
        let of = |lock, legal_hold| Holds { lock, legal_hold };
        let all = [
            of(compliance, false),
            of(lock(LockMode::Compliance, 4), true),
            of(lock(LockMode::Governance, -60), false),
            of(None, false),
        ];
        for (manner, expected) in [
            (RestoredLocks::LeftOut, [of(None, false); 4]),
            (RestoredLocks::AsRecorded, [of(compliance, false), of(None, true), of(None, false), of(None, false)]),
            (RestoredLocks::Governance, [of(governance, false), of(None, true), of(None, false), of(None, false)]),
        ] {
            let met = Met::default();
            assert_eq!(all.map(|recorded| manner.wanted(recorded, now, &met)), expected, "{manner:?}");
            assert_eq!((met.held.load(Ordering::Relaxed), met.ended.load(Ordering::Relaxed)), (2, 2), "{manner:?}");
        }
    }

    #[test]
    fn a_plan_says_what_becomes_of_locks_where_there_are_any() {
        let (none, some) = (serde_json::json!({}), serde_json::json!({ "locked_objects": 3, "held_objects": 0 }));
        assert_eq!(RestoredLocks::LeftOut.plan(&none), "");
        assert!(RestoredLocks::LeftOut.plan(&some).contains("left out (at the backup 3 objects with a lock"));
        assert!(RestoredLocks::AsRecorded.plan(&none).ends_with("as they were"));
        assert!(RestoredLocks::Governance.plan(&some).contains("governance mode"));
    }
}
