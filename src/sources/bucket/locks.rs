//! What holds the objects of a source, asked for where the policy says `locks = true`.
//!
//! What a read shows of locks and legal holds is recorded in any case. But either can be set, lengthened or lifted later, and nothing in a
//! listing tells; and to an identity that may not see them a locked object looks like a free one. So with `locks` each object that is not
//! read is asked for, and of one that is read what its answer may have kept quiet; and what cannot be asked is a problem, one for all.
//! Then an object keeps what was recorded when it was read.

use std::sync::{
    OnceLock,
    atomic::{AtomicU64, Ordering},
};

use super::{BucketAttributes, concerns_one_object};
use crate::{
    progress::{Finding, Problem},
    sources::{Entry, SourceError},
    stores::{Holds, SharedStore, StoreError},
};

/// Without these AWS tells nothing of locks, and does not say so.
const RIGHTS: &str = "s3:GetObjectRetention and s3:GetObjectLegalHold";

/// Asks for what holds objects, and counts it.
#[derive(Debug)]
pub(super) struct Asking {
    store: SharedStore,
    /// Objects of which it is known.
    asked: AtomicU64,
    locked: AtomicU64,
    held: AtomicU64,
    /// Objects of which it is not.
    unknown: AtomicU64,
    /// Why this store, or this identity, will never be told: nothing more is asked.
    refused: OnceLock<StoreError>,
    /// What else kept the first of them from being known.
    failed: OnceLock<StoreError>,
}

impl Asking {
    pub(super) fn of(store: &SharedStore) -> Self {
        Self {
            store: store.clone(),
            asked: AtomicU64::new(0),
            locked: AtomicU64::new(0),
            held: AtomicU64::new(0),
            unknown: AtomicU64::new(0),
            refused: OnceLock::new(),
            failed: OnceLock::new(),
        }
    }

    /// The entry of an object that was not read, with what holds it now; `version` as it is listed.
    pub(super) async fn unchanged(&self, entry: Entry, version: Option<&str>) -> Result<Entry, SourceError> {
        let attributes = entry.attributes()?;
        self.renewed(entry, attributes, version, None).await
    }

    /// The entry of an object that was just read.
    pub(super) async fn read(&self, entry: Entry) -> Result<Entry, SourceError> {
        let attributes: BucketAttributes = entry.attributes()?;
        let (version, shown) = (attributes.version.clone(), attributes.object.holds());
        self.renewed(entry, attributes, version.as_deref(), Some(shown)).await
    }

    async fn renewed(
        &self,
        mut entry: Entry,
        attributes: BucketAttributes,
        version: Option<&str>,
        shown: Option<Holds>,
    ) -> Result<Entry, SourceError> {
        let recorded = attributes.object.holds();
        // A key was listed as text.
        let found = self.ask(&entry.display_path(), version, shown).await?.unwrap_or(recorded);
        self.locked.fetch_add(u64::from(found.lock.is_some()), Ordering::Relaxed);
        self.held.fetch_add(u64::from(found.legal_hold), Ordering::Relaxed);
        if found != recorded {
            entry.set_attributes(&BucketAttributes { object: attributes.object.held_by(found), ..attributes })?;
        }
        Ok(entry)
    }

    /// What holds an object; nothing if that is not known.
    async fn ask(&self, key: &str, version: Option<&str>, shown: Option<Holds>) -> Result<Option<Holds>, SourceError> {
        if self.refused.get().is_some() {
            self.unknown.fetch_add(1, Ordering::Relaxed);
            return Ok(None);
        }
        let error = match self.store.holds(key, version, shown).await {
            Ok(holds) => {
                self.asked.fetch_add(1, Ordering::Relaxed);
                return Ok(Some(holds));
            }
            // Gone since it was listed: what was recorded is what is known of it.
            Err(StoreError::NotFound { .. }) => return Ok(None),
            Err(error) if concerns_one_object(&error) => error,
            Err(error) => return Err(error.into()),
        };
        let is_final = matches!(error, StoreError::Denied { .. } | StoreError::Unsupported { .. });
        let why = if is_final { &self.refused } else { &self.failed };
        why.get_or_init(|| error);
        self.unknown.fetch_add(1, Ordering::Relaxed);
        Ok(None)
    }

    /// For the facts of a snapshot: objects of which it is known what holds them, those with a lock, and those with a legal hold.
    pub(super) fn counts(&self) -> [u64; 3] {
        [&self.asked, &self.locked, &self.held].map(|count| count.load(Ordering::Relaxed))
    }

    /// What is to be said of what is not known.
    pub(super) fn problem(&self, place: String) -> Option<Problem> {
        let error = self.refused.get().or_else(|| self.failed.get())?;
        let unknown = self.unknown.load(Ordering::Relaxed);
        Some(Problem::new(
            place,
            format!(
                "what holds its objects could not be asked ({error}); of {unknown} of them the point has what their last read showed, which may be nothing: {}",
                mend(error)
            ),
        ))
    }
}

/// The next step.
fn mend(error: &StoreError) -> String {
    match error {
        StoreError::Denied { .. } => format!("allow this identity {RIGHTS}, or leave `locks = true` out of the policy"),
        StoreError::Unsupported { .. } => "nothing is locked there: leave `locks = true` out of the policy".to_owned(),
        _ => "the next backup asks again".to_owned(),
    }
}

/// Whether it can be asked what holds an object.
pub(super) async fn examine(store: &SharedStore, key: &str) -> Option<Finding> {
    const NAME: &str = "locks";
    match store.holds(key, None, None).await {
        Ok(_) => Some(Finding::sound(NAME, "may be seen (tried with one object)")),
        // It was just listed and read: whatever deletes it now is no concern of an examination.
        Err(StoreError::NotFound { .. }) => None,
        Err(error @ (StoreError::Denied { .. } | StoreError::Unsupported { .. })) => {
            Some(Finding::wrong(NAME, format!("cannot be seen: {error}"), mend(&error)))
        }
        Err(error) => Some(Finding::failed(NAME, error)),
    }
}
