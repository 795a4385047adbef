//! Deleting files of the log, and keys that no file needs.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::{StreamExt, stream};

use super::{LogName, StoredLog, format::key_of};
use crate::{
    clock::Moment,
    repository::{
        Repository,
        error::{Result, reading},
        format::{HEADER_BYTES, Id, KEYS},
        keys::log_key_id,
        look_holds,
        point::list_all,
    },
    stores::{GetOptions, StoreError, read_all},
};

/// Deletions, or headers read, at once.
const AT_ONCE: usize = 16;
/// A key is used for a day, and what it sealed is stored within another.
const KEY_REACHES: TimeDelta = TimeDelta::hours(48);

/// What was deleted of logs, and what a lock holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogRemoved {
    /// Keys of objects that are gone.
    pub gone: HashSet<String>,
    /// Objects that a lock holds: a later prune deletes them.
    pub locked: u64,
    /// When the first of these locks ends.
    pub locked_until: Option<DateTime<Utc>>,
}

impl Repository {
    /// Deletes files of the log, every version of them; what is gone already counts as deleted. What is to go was decided by a look that
    /// began at `looked`: once that is too long ago, nothing is deleted.
    ///
    /// # Errors
    /// The store's; a lock is none.
    pub async fn remove_log_files(&self, files: &[LogName], looked: Moment) -> Result<LogRemoved> {
        self.remove_log_objects(files.iter().map(ToString::to_string).collect(), looked).await
    }

    async fn remove_log_objects(&self, keys: Vec<String>, looked: Moment) -> Result<LogRemoved> {
        let mut removed = LogRemoved::default();
        let mut deletions = stream::iter(keys)
            .map(|key| async move {
                if !look_holds(looked.since(&self.clock)) {
                    return (Err(too_long_ago(self, &key)), key);
                }
                (self.store.delete(&key).await, key)
            })
            .buffer_unordered(AT_ONCE);
        while let Some((outcome, key)) = deletions.next().await {
            match outcome {
                Ok(()) => drop(removed.gone.insert(key)),
                Err(StoreError::Locked { until, .. }) => {
                    removed.locked += 1;
                    removed.locked_until = [removed.locked_until, Some(until)].into_iter().flatten().min();
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(removed)
    }

    /// Keys of the log that can seal nothing any more and that none of `files`, which are all there are, was sealed under; nothing if
    /// there are not `worth` of them by the times at which the site stored keys and files. Those times only say whether it is worth a look:
    /// then the head of every file is read, since a site that was copied shows other times.
    ///
    /// # Errors
    /// The store's; [`RepositoryError::Damaged`] for a file whose key cannot be told.
    pub async fn needless_log_keys(&self, files: &[StoredLog], now: DateTime<Utc>, worth: usize) -> Result<HashSet<Id>> {
        let done = |stored: &DateTime<Utc>| now - *stored > KEY_REACHES;
        let mut old: HashMap<Id, DateTime<Utc>> = self.stored_log_keys().await?;
        old.retain(|_, stored| done(stored));
        let in_reach =
            |stored: DateTime<Utc>| files.iter().any(|file| file.stored_at >= stored && file.stored_at - stored <= KEY_REACHES);
        if old.values().filter(|stored| !in_reach(**stored)).count() < worth {
            return Ok(HashSet::new());
        }
        let mut read = stream::iter(files).map(|file| self.log_key_of(&file.name)).buffer_unordered(AT_ONCE);
        while let Some(key) = read.next().await {
            old.remove(&key?);
        }
        Ok(old.into_keys().collect())
    }

    /// The key that a stored file is sealed under.
    async fn log_key_of(&self, name: &LogName) -> Result<Id> {
        let (key, length) = (name.to_string(), HEADER_BYTES as u64);
        let options = GetOptions { range: Some(0..length), ..GetOptions::default() };
        let bytes = read_all(self.store.as_ref(), &key, options, length).await.map_err(reading)?;
        key_of(&format!("{}/{key}", self.store.describe()), &bytes)
    }

    /// Keys of the log at the site: when the newest wrap of each was stored.
    ///
    /// # Errors
    /// The store's.
    pub async fn stored_log_keys(&self) -> Result<HashMap<Id, DateTime<Utc>>> {
        let plain = self.is_unencrypted();
        let mut keys: HashMap<Id, DateTime<Utc>> = HashMap::new();
        for object in list_all(self, KEYS).await? {
            if let Some(id) = log_key_id(&object.key, plain) {
                keys.entry(id).and_modify(|stored| *stored = (*stored).max(object.modified)).or_insert(object.modified);
            }
        }
        Ok(keys)
    }

    /// Deletes every wrap of these keys of the log.
    ///
    /// # Errors
    /// The store's; a lock is none.
    pub async fn remove_log_keys(&self, ids: &HashSet<Id>, looked: Moment) -> Result<LogRemoved> {
        let plain = self.is_unencrypted();
        let wraps = list_all(self, KEYS).await?.into_iter().map(|object| object.key);
        let wraps = wraps.filter(|key| log_key_id(key, plain).is_some_and(|id| ids.contains(&id)));
        self.remove_log_objects(wraps.collect(), looked).await
    }
}

fn too_long_ago(repository: &Repository, key: &str) -> StoreError {
    StoreError::Other {
        place: format!("{}/{key}", repository.store.describe()),
        action: "delete",
        detail: "this prune looked too long ago at what is needed; run it again".to_owned(),
    }
}
