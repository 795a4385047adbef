//! What holds an object: the retention of Object Lock, and legal holds.
//!
//! AWS tells both with an object (`x-amz-object-lock-…`) where there is something to tell, and only those who have
//! `s3:GetObjectRetention`, or `s3:GetObjectLegalHold`; some servers never tell. So that a missing header means "nothing" only once it is
//! known that this server tells this identity: such a header was seen, or the question itself was answered with "nothing" at AWS' own
//! address. Before that the question is asked, where somebody wants to know ([`super::Store::holds`]), and a refusal is an error. The
//! two are learned apart, since they take two rights. (With tags it is alike: `tags.rs`.)

use std::sync::atomic::{AtomicBool, Ordering};

use aws_sdk_s3::{
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
    operation::{get_object::GetObjectOutput, head_object::HeadObjectOutput},
    primitives::DateTime as SdkDateTime,
    types::{ObjectLockLegalHoldStatus, ObjectLockMode},
};
use chrono::DateTime;

use super::{Holds, S3Store, StoreError};
use crate::stores::{Lock, LockMode};

/// What was learned of a server; shared by all requests of a store.
#[derive(Debug, Default)]
pub(super) struct ToldHolds {
    /// It tells of locks with the object itself.
    lock: AtomicBool,
    /// It tells of legal holds.
    legal_hold: AtomicBool,
}

impl ToldHolds {
    /// An answer showed these.
    fn seen(&self, lock: bool, legal_hold: bool) {
        self.lock.fetch_or(lock, Ordering::Relaxed);
        self.legal_hold.fetch_or(legal_hold, Ordering::Relaxed);
    }
}

/// The question itself was answered: that something is there which the object did not show says that it is not told.
fn answered(told: &AtomicBool, any: bool, at_aws: bool) {
    if !any && at_aws {
        told.store(true, Ordering::Relaxed);
    }
}

/// What the headers of an answer say.
pub(super) struct Shown<'a> {
    mode: Option<&'a ObjectLockMode>,
    until: Option<&'a SdkDateTime>,
    legal_hold: Option<&'a ObjectLockLegalHoldStatus>,
}

impl<'a> Shown<'a> {
    pub(super) fn of(output: &'a GetObjectOutput) -> Self {
        Self {
            mode: output.object_lock_mode(),
            until: output.object_lock_retain_until_date(),
            legal_hold: output.object_lock_legal_hold_status(),
        }
    }

    fn of_head(output: &'a HeadObjectOutput) -> Self {
        Self {
            mode: output.object_lock_mode(),
            until: output.object_lock_retain_until_date(),
            legal_hold: output.object_lock_legal_hold_status(),
        }
    }

    /// Whether it has ended or not.
    fn lock(&self) -> Option<Lock> {
        let mode = match self.mode? {
            ObjectLockMode::Compliance => LockMode::Compliance,
            ObjectLockMode::Governance => LockMode::Governance,
            _ => return None,
        };
        let until = DateTime::from_timestamp(self.until?.secs(), self.until?.subsec_nanos())?;
        Some(Lock { mode, until })
    }
}

impl S3Store {
    /// What an answer shows, and that it does.
    pub(super) fn shown_holds(&self, shown: &Shown<'_>) -> Holds {
        let lock = shown.lock();
        self.told_holds.seen(lock.is_some(), shown.legal_hold.is_some());
        Holds {
            lock: lock.filter(|lock| lock.until > self.clock.now()),
            legal_hold: shown.legal_hold == Some(&ObjectLockLegalHoldStatus::On),
        }
    }

    pub(super) async fn read_holds(&self, key: &str, version: Option<&str>, shown: Option<Holds>) -> Result<Holds, StoreError> {
        let mut holds = match shown {
            Some(shown) => shown,
            None => self.head_holds(key, version).await?,
        };
        let told = &self.told_holds;
        if holds.lock.is_none() && !told.lock.load(Ordering::Relaxed) {
            holds.lock = self.retention(key, version).await?;
            answered(&told.lock, holds.lock.is_some(), self.tag_counts.is_at_aws());
        }
        if !holds.legal_hold && !told.legal_hold.load(Ordering::Relaxed) {
            holds.legal_hold = self.ask_legal_hold(key, version).await?;
            answered(&told.legal_hold, holds.legal_hold, self.tag_counts.is_at_aws());
        }
        Ok(holds)
    }

    async fn head_holds(&self, key: &str, version: Option<&str>) -> Result<Holds, StoreError> {
        let output = self.head(key, version, "stat").await?;
        Ok(self.shown_holds(&Shown::of_head(&output)))
    }

    async fn ask_legal_hold(&self, key: &str, version: Option<&str>) -> Result<bool, StoreError> {
        let ask = self.client.get_object_legal_hold().bucket(&self.bucket).key(self.whole(key));
        let ask = ask.set_version_id(version.map(str::to_owned)).set_request_payer(self.payer.clone());
        match ask.send().await {
            Ok(output) => {
                let status = output.legal_hold().and_then(|hold| hold.status());
                Ok(status == Some(&ObjectLockLegalHoldStatus::On))
            }
            Err(error) => self.unless_none(key, "read the legal hold of", &error).map(|()| false),
        }
    }

    /// What it means that a question about a lock or a legal hold was refused: fails unless it means that there is none.
    pub(super) fn unless_none<E>(
        &self,
        key: &str,
        action: &'static str,
        error: &SdkError<E, HttpResponse>,
    ) -> Result<(), StoreError>
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let code = error.as_service_error().and_then(ProvideErrorMetadata::code).unwrap_or_default();
        match self.error(key, action, error) {
            _ if code == "NoSuchObjectLockConfiguration" => Ok(()),
            // The object was just listed, read or looked at: what some servers cannot find is what holds it.
            StoreError::NotFound { .. } => Ok(()),
            // "Bucket is missing Object Lock Configuration".
            StoreError::Other { .. } if code == "InvalidRequest" => {
                Err(StoreError::Unsupported { place: self.place.clone(), what: "locking objects" })
            }
            meaning => Err(meaning),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Lock, LockMode, ObjectLockMode, Ordering, SdkDateTime, Shown, ToldHolds, answered};

    #[test]
    fn that_nothing_is_shown_means_nothing_only_where_it_is_known_to_be_told() {
        let told = ToldHolds::default();
        let knows = |told: &ToldHolds| (told.lock.load(Ordering::Relaxed), told.legal_hold.load(Ordering::Relaxed));
        answered(&told.lock, false, false);
        assert_eq!(knows(&told), (false, false), "another server than AWS: one free object says nothing of the next");
        answered(&told.lock, true, true);
        assert_eq!(knows(&told), (false, false), "a lock that was not shown: it does not tell");
        answered(&told.lock, false, true);
        assert_eq!(knows(&told), (true, false), "each takes a right of its own");
        let told = ToldHolds::default();
        told.seen(false, true);
        told.seen(false, false);
        assert_eq!(knows(&told), (false, true), "what was seen once stays known");
    }

    #[test]
    fn a_lock_is_what_has_a_mode_and_an_end() {
        let until = SdkDateTime::from_secs(100);
        let of = |mode, until| Shown { mode, until, legal_hold: None }.lock();
        let expected = Lock { mode: LockMode::Governance, until: chrono::DateTime::from_timestamp(100, 0).unwrap() };
        assert_eq!(of(Some(&ObjectLockMode::Governance), Some(&until)), Some(expected));
        assert_eq!(of(Some(&ObjectLockMode::Governance), None), None);
        assert_eq!(of(None, Some(&until)), None);
        assert_eq!(of(Some(&ObjectLockMode::from("ANOTHER")), Some(&until)), None);
    }
}
