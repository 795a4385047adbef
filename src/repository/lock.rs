//! Object Lock: everything that a point needs is held by the site itself, at least so many days from the point on.
//!
//! * What is written through [`Locking`] is locked from the moment it exists, for the policy's days and [`GENERATION_DAYS`] more.
//! * A new point also refers to what earlier runs stored. Before it is committed, every such object whose lock would end before
//!   the point's own days do gets a longer one: by generation, so that a pack is touched about every ten days and not by every
//!   backup. What cannot be extended fails the backup: no point exists that is not covered.
//! * Known locks are remembered in the local index. It can be lost: then each is asked for once.
//! * Deleting through it means every version: a delete marker over a locked version would free nothing.
//!
//! Assumes that the first version of a name is ours (names are written once), and that the local clock is not days behind the
//! site's, which each answer shows.
//!
//! Leaves out on purpose: shortening, which no operation needs; and points that a rule or a pin keeps beyond the days, which
//! prune obeys and the site does not.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use futures_util::{StreamExt, stream};
use tokio::sync::OnceCell;

use super::{
    ChunkCache, Class, Repository, RepositoryError,
    error::Result,
    format::{DOOMED, Id, KEYS, PARTS, RECIPIENTS, REPOSITORY_FILE, index_key, pack_key},
    keys::{SetName, data_key_id, data_key_object, log_key_id},
    point::list_all,
    workers::off_thread,
};
use crate::{
    clock::SharedClock,
    stores::{
        Availability, Download, GetOptions, Holds, Lock, LockMode, LockSupport, ObjectAttributes, ObjectStat, Page, PutOptions,
        Retrieval, SharedStore, Store, StoreError, UploadedPart, VersionCursor, VersionPage, Versioning,
    },
};

/// By how many days locks are longer than asked for, so that they are extended about so often. (A day of requests for each pack
/// would cost more than ten days of storing what is no longer needed.)
pub const GENERATION_DAYS: u32 = 10;
/// Extensions at once.
const EXTENSIONS: usize = 32;

/// How firmly and how long a site keeps what a backup stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LockTerm {
    /// Who can lift a lock before its time.
    pub mode: LockMode,
    /// From a point on, all that it needs is locked at least so many days.
    pub days: u32,
}

impl LockTerm {
    /// The least that must hold what a point of `now` needs.
    fn least(&self, now: DateTime<Utc>) -> Lock {
        Lock { mode: self.mode, until: now + TimeDelta::days(self.days.into()) }
    }

    /// What is asked for at `now`.
    fn generous(&self, now: DateTime<Utc>) -> Lock {
        Lock { mode: self.mode, until: now + TimeDelta::days((self.days + GENERATION_DAYS).into()) }
    }
}

/// A store that locks what is written to it.
#[derive(Debug)]
pub(super) struct Locking {
    inner: SharedStore,
    term: LockTerm,
    clock: SharedClock,
    /// The site's time, and ours of that moment by the clock that nobody sets; asked for before the first lock.
    counted_from: OnceCell<(DateTime<Utc>, Duration)>,
    /// Locks of what was written, until the local index knows them. An entry for each object of the run: packs, not chunks.
    fresh: Mutex<HashMap<String, Lock>>,
}

impl Locking {
    pub(super) fn over(inner: SharedStore, term: LockTerm, clock: SharedClock) -> Arc<Self> {
        Arc::new(Self { inner, term, clock, counted_from: OnceCell::new(), fresh: Mutex::default() })
    }

    /// The site's time: as it was when it was first asked for, and what has passed since by the clock that nobody sets. So a clock that
    /// is wrong, or is set meanwhile, locks nothing for years. It may lag (a machine that slept), never lead.
    async fn now(&self) -> Result<DateTime<Utc>, StoreError> {
        let ask = async || match self.inner.time().await {
            Ok(time) => Ok((time, self.clock.monotonic())),
            Err(StoreError::Unsupported { .. }) => Ok((self.clock.now(), self.clock.monotonic())),
            Err(error) => Err(error),
        };
        let (then, at) = self.counted_from.get_or_try_init(ask).await?;
        Ok(TimeDelta::from_std(self.clock.monotonic().saturating_sub(*at)).map_or(*then, |passed| *then + passed))
    }

    fn fresh(&self) -> MutexGuard<'_, HashMap<String, Lock>> {
        // Each change is a single insertion or a swap.
        self.fresh.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[async_trait]
impl Store for Locking {
    fn describe(&self) -> String {
        self.inner.describe()
    }

    async fn put(&self, key: &str, body: Bytes, options: PutOptions) -> Result<ObjectStat, StoreError> {
        if key.starts_with(DOOMED) || key.starts_with(PARTS) {
            // No restore needs it, and prune takes it away when it is done with.
            return self.inner.put(key, body, options).await;
        }
        let lock = self.term.generous(self.now().await?);
        match self.inner.put(key, body, PutOptions { lock: Some(lock), ..options }).await {
            Ok(stored) => {
                if lock.until < self.term.least(stored.modified).until {
                    return Err(StoreError::Other {
                        place: format!("{}/{key}", self.describe()),
                        action: "lock",
                        detail: format!(
                            "by the site's clock ({}) the lock ends before {} days have passed: this machine's clock is far behind; set it, then run the command again",
                            stored.modified, self.term.days
                        ),
                    });
                }
                self.fresh().insert(key.to_owned(), lock);
                Ok(stored)
            }
            // Names are hashes or random: it is the same object, of a run that may have locked it long ago, or not at all.
            Err(there @ StoreError::AlreadyExists { .. }) => {
                let held = self.inner.extend_lock(key, lock).await?;
                self.fresh().insert(key.to_owned(), held);
                Err(there)
            }
            Err(error) => Err(error),
        }
    }

    async fn get(&self, key: &str, options: GetOptions) -> Result<Download, StoreError> {
        self.inner.get(key, options).await
    }

    async fn stat(&self, key: &str) -> Result<ObjectStat, StoreError> {
        self.inner.stat(key).await
    }

    async fn list(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> Result<Page, StoreError> {
        self.inner.list(prefix, start_after, limit).await
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.inner.delete_versions(key).await
    }

    async fn begin_upload(&self, _key: &str, _attributes: ObjectAttributes) -> Result<String, StoreError> {
        // Nothing in a repository is that large, and what came this way would not be locked.
        Err(StoreError::Unsupported { place: self.describe(), what: "an upload in parts, locked," })
    }

    async fn upload_part(&self, key: &str, upload: &str, number: u32, body: Bytes) -> Result<UploadedPart, StoreError> {
        self.inner.upload_part(key, upload, number, body).await
    }

    async fn complete_upload(
        &self,
        key: &str,
        upload: &str,
        parts: &[UploadedPart],
        if_absent: bool,
    ) -> Result<ObjectStat, StoreError> {
        self.inner.complete_upload(key, upload, parts, if_absent).await
    }

    async fn abort_upload(&self, key: &str, upload: &str) -> Result<(), StoreError> {
        self.inner.abort_upload(key, upload).await
    }

    async fn time(&self) -> Result<DateTime<Utc>, StoreError> {
        self.inner.time().await
    }

    async fn create(&self) -> Result<(), StoreError> {
        self.inner.create_locking().await
    }

    async fn create_locking(&self) -> Result<(), StoreError> {
        self.inner.create_locking().await
    }

    async fn lock_support(&self) -> Result<LockSupport, StoreError> {
        self.inner.lock_support().await
    }

    async fn lock_of(&self, key: &str) -> Result<Option<Lock>, StoreError> {
        self.inner.lock_of(key).await
    }

    async fn holds(&self, key: &str, version: Option<&str>, shown: Option<Holds>) -> Result<Holds, StoreError> {
        self.inner.holds(key, version, shown).await
    }

    async fn set_lock(&self, key: &str, lock: Lock) -> Result<(), StoreError> {
        self.inner.set_lock(key, lock).await
    }

    async fn extend_lock(&self, key: &str, lock: Lock) -> Result<Lock, StoreError> {
        self.inner.extend_lock(key, lock).await
    }

    async fn availability(&self, key: &str, version: Option<&str>) -> Result<Availability, StoreError> {
        self.inner.availability(key, version).await
    }

    async fn bring_back(&self, key: &str, version: Option<&str>, how: Retrieval) -> Result<Availability, StoreError> {
        self.inner.bring_back(key, version, how).await
    }

    async fn versioning(&self) -> Result<Versioning, StoreError> {
        self.inner.versioning().await
    }

    async fn list_versions(&self, prefix: &str, from: Option<&VersionCursor>, limit: usize) -> Result<VersionPage, StoreError> {
        self.inner.list_versions(prefix, from, limit).await
    }

    async fn delete_versions(&self, key: &str) -> Result<(), StoreError> {
        self.inner.delete_versions(key).await
    }
}

/// What earlier runs stored and a new point relies on.
#[derive(Debug)]
pub(super) struct Relied {
    /// Numbers of packs in the local index.
    pub packs: HashSet<u32>,
    /// The data key of this run.
    pub data_key: Id,
    /// For whom it is wrapped.
    pub recipient_set: SetName,
}

impl Repository {
    /// Locks what is written from now on, and everything that a point needs before it is committed.
    #[must_use]
    pub fn with_lock(mut self, term: LockTerm) -> Self {
        let locking = Locking::over(self.store, term, self.clock.clone());
        self.store = locking.clone();
        self.locking = Some(locking);
        self
    }

    /// Makes sure that everything is locked that a point of now will need. Returns how many locks were extended.
    pub(super) async fn cover(&self, cache: &Arc<ChunkCache>, relied: Relied) -> Result<u64> {
        let Some(locking) = &self.locking else { return Ok(0) };
        let now = locking.now().await?;
        let (least, generous) = (locking.term.least(now), locking.term.generous(now));
        self.check_that_locks_are_kept(&relied.data_key, &least).await?;
        let objects = self.needed(cache, relied).await?;
        let known = Arc::clone(cache);
        let fresh = std::mem::take(&mut *locking.fresh());
        let due = off_thread(move || {
            known.note_locks(fresh.iter().map(|(key, lock)| (key.as_str(), lock)))?;
            let mut due = Vec::new();
            for object in objects {
                if !known.lock(&object)?.is_some_and(|lock| lock.covers(&least)) {
                    due.push(object);
                }
            }
            Ok(due)
        })
        .await?;
        let mut extensions = stream::iter(due)
            .map(|key| async move { (locking.inner.extend_lock(&key, generous).await, key) })
            .buffer_unordered(EXTENSIONS);
        let mut held: Vec<(String, Lock)> = Vec::new();
        while let Some((outcome, key)) = extensions.next().await {
            let lock = outcome.map_err(|error| RepositoryError::Refused {
                subject: format!("{}/{key}", self.store.describe()),
                detail: format!(
                    "is needed by the new point, and its lock could not be extended, so that no point was made: {error}. The agent's identity needs the rights that `farshore permissions` prints for the writer"
                ),
            })?;
            held.push((key, lock));
        }
        let (extended, noter) = (held.len() as u64, Arc::clone(cache));
        off_thread(move || noter.note_locks(held.iter().map(|(key, lock)| (key.as_str(), lock)))).await?;
        Ok(extended)
    }

    /// Some servers answer 200 to a lock and do nothing.
    async fn check_that_locks_are_kept(&self, data_key: &Id, least: &Lock) -> Result<()> {
        let key = data_key_object(data_key, self.is_unencrypted());
        if self.store.lock_of(&key).await?.is_some_and(|lock| lock.covers(least)) {
            return Ok(());
        }
        Err(RepositoryError::Refused {
            subject: format!("{}/{key}", self.store.describe()),
            detail: format!(
                "was stored with a {} lock, and the site does not hold it: no point was made. Use a bucket with Object Lock (`farshore init --create` makes one; on Azure a container with version-level immutability support), or take `lock` out of the policy and accept that whoever may delete can delete everything",
                least.mode
            ),
        })
    }

    /// Keys of all objects that restoring a point takes and that this run did not write itself.
    async fn needed(&self, cache: &Arc<ChunkCache>, relied: Relied) -> Result<Vec<String>> {
        let Relied { packs, data_key, recipient_set } = relied;
        let reader = Arc::clone(cache);
        let (mut needed, data_keys) = off_thread(move || {
            let (mut needed, mut data_keys) = (Vec::new(), HashSet::from([data_key]));
            for number in &packs {
                let record = reader.pack(*number)?;
                needed.push(pack_key(&record.sha256));
                if record.class == Class::Data {
                    data_keys.insert(record.data_key);
                }
            }
            needed.extend(reader.indexes_of(&packs)?.iter().map(index_key));
            Ok((needed, data_keys))
        })
        .await?;
        let plain = self.is_unencrypted();
        let mut wraps: HashMap<String, Vec<String>> = HashMap::new();
        for object in list_all(self, KEYS).await? {
            // No point needs the log: its files are locked when they are stored, and their keys with them.
            if log_key_id(&object.key, plain).is_some() {
                continue;
            }
            if data_key_id(&object.key, plain).is_none_or(|id| data_keys.contains(&id)) {
                let name = object.key.split('.').next().unwrap_or_default().to_owned();
                wraps.entry(name).or_default().push(object.key);
            }
        }
        // A key that was wrapped anew for today's recipients needs its older wraps no more, and rotation is to delete them.
        let current = format!(".{recipient_set}.");
        for all in wraps.into_values() {
            match all.iter().find(|wrap| recipient_set != SetName::FIRST && wrap.contains(&current)) {
                Some(newest) => needed.push(newest.clone()),
                None => needed.extend(all),
            }
        }
        needed.extend(list_all(self, RECIPIENTS).await?.into_iter().map(|object| object.key));
        needed.push(REPOSITORY_FILE.to_owned());
        needed.sort_unstable();
        needed.dedup();
        Ok(needed)
    }
}
