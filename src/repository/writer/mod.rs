//! The way in: bytes → chunks → keyed hash → known? → zstd → seal → pack → site, all stages at once.
//!
//! Bytes arrive on async tasks ([`ContentStream`]) and are only copied there; cutting, hashing, compressing, sealing and naming
//! packs happen on [`Workers`]; uploads are async again. What is in flight is bounded by the [`Budget`] and by the number of
//! uploads. The first error ends the run: everything that waits learns of it.
//!
//! If we stop here: before an upload is confirmed its pack is in no index; before an index is stored its chunks are in no
//! cache; before the point is stored nothing of the run is visible.

mod chunks;
mod commit;
mod content;
mod entries;
mod packs;

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use chrono::{DateTime, Utc};
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use content::{ContentStream, Cutting};
pub use entries::EntryStream;

use super::{
    Budget, ChunkCache, ChunkId, Class, PackCheck, Reader, Recipients, Repository, RepositoryError, Workers,
    error::Result,
    format::{Header, Id, Kind},
    keys::{Catalogue, SetName, create_data_key, random},
    pack::{PackBuilder, PackEntry},
    seal::SealingKey,
    site_clock::site_time,
};
use crate::{clock::Moment, stores::SharedStore};

/// What a run wrote.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct WriteSummary {
    /// Chunks that the repository did not have.
    pub chunks_new: u64,
    /// Chunks that it had, so that they were not stored again.
    pub chunks_known: u64,
    /// Plain bytes that went through the pipeline.
    pub bytes_read: u64,
    /// Plain bytes of the new chunks.
    pub bytes_new: u64,
    /// Bytes sent to the site: packs and indexes.
    pub bytes_stored: u64,
    /// Packs written.
    pub packs: u64,
}

#[derive(Debug, Default)]
struct Counters {
    chunks_new: AtomicU64,
    chunks_known: AtomicU64,
    bytes_read: AtomicU64,
    bytes_new: AtomicU64,
    bytes_stored: AtomicU64,
    packs: AtomicU64,
}

/// What all parts of a run share.
#[derive(Debug)]
pub(super) struct Shared {
    store: SharedStore,
    catalogue: Arc<Catalogue>,
    workers: Arc<Workers>,
    budget: Budget,
    runtime: tokio::runtime::Handle,
    cache: Arc<ChunkCache>,
    run: Id,
    /// Before it looked at packs and keys that may be doomed.
    begun: Moment,
    /// The same by the site's clock.
    begun_at_site: DateTime<Utc>,
    data_key: Id,
    /// For whom the data key is wrapped.
    recipient_set: SetName,
    data_sealing: SealingKey,
    catalogue_sealing: SealingKey,
    cutter: content::Cutter,
    /// Chunks of this run that no stored index names yet, in shards by the first byte of the id.
    claims: Vec<Mutex<HashSet<ChunkId>>>,
    builders: Mutex<HashMap<Class, PackBuilder>>,
    uploads: Arc<Semaphore>,
    /// Packs that were closed since the last flush.
    uploading: Mutex<TaskTracker>,
    /// Numbers of the packs of earlier runs in which chunks were found.
    found: Mutex<HashSet<u32>>,
    /// Packs that this run stored.
    own: Mutex<Vec<[u8; 32]>>,
    /// Packs that the site confirmed and no stored index names yet.
    confirmed: Mutex<Vec<PackEntry>>,
    failure: OnceLock<Arc<RepositoryError>>,
    failed: CancellationToken,
    counters: Counters,
}

impl Shared {
    /// Records the first error of the run and wakes everything that waits.
    fn fail(&self, error: RepositoryError) {
        let _ = self.failure.set(Arc::new(error));
        self.failed.cancel();
    }

    fn check(&self) -> Result<()> {
        self.failure.get().map_or(Ok(()), |error| Err(RepositoryError::Earlier(Arc::clone(error))))
    }

    /// Waits for `work`, or for the failure of the run.
    async fn unless_failed<T>(&self, work: impl Future<Output = T>) -> Result<T> {
        tokio::select! {
            biased;
            () = self.failed.cancelled() => Err(self.check().err().unwrap_or_else(|| RepositoryError::Refused {
                subject: "backup".to_owned(),
                detail: "was cancelled".to_owned(),
            })),
            done = work => Ok(done),
        }
    }

    /// What is lost, if `work` ends without having reached its end.
    fn guard(self: &Arc<Self>) -> Guard {
        Guard { shared: Arc::clone(self), done: false }
    }

    /// Refuses while any chunk of this run is in no stored index: a point never refers to what is not confirmed.
    fn all_stored(&self) -> Result<()> {
        let open: usize = self.claims.iter().map(|shard| shard.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).len()).sum();
        if open == 0 {
            return Ok(());
        }
        Err(RepositoryError::Refused {
            subject: "backup".to_owned(),
            detail: format!("a defect: {open} chunks were lost on their way to the site; no point was made"),
        })
    }

    fn header(&self, class: Class) -> Header {
        let (kind, data_key) = match class {
            Class::Data => (Kind::DataPack, self.data_key),
            Class::Catalogue => (Kind::CataloguePack, [0; 16]),
        };
        Header { kind, catalogue_key: self.catalogue.id, run: self.run, data_key }
    }
}

/// Fails the run when it is dropped before its end: a panic, on whatever thread, must not pass for work that was done.
struct Guard {
    shared: Arc<Shared>,
    done: bool,
}

impl Guard {
    fn done(mut self) {
        self.done = true;
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if !self.done {
            self.shared.fail(RepositoryError::Refused {
                subject: "backup".to_owned(),
                detail: "a defect: a part of the pipeline gave up; the log says why".to_owned(),
            });
        }
    }
}

/// One backup run's way into the repository.
#[derive(Debug)]
pub struct Writer {
    shared: Arc<Shared>,
}

impl Drop for Writer {
    fn drop(&mut self) {
        // A run that is given up must not go on uploading behind its caller's back.
        self.shared.failed.cancel();
    }
}

impl Writer {
    /// Begins a run: a fresh data key, stored wrapped before anything is sealed under it; the local index up to date; the packs
    /// that the index names looked up at the site, so that no chunk of a lost, damaged or doomed pack is adopted.
    ///
    /// # Errors
    /// The store's, [`RepositoryError::OtherRecipients`], [`RepositoryError::Key`], [`RepositoryError::Cache`],
    /// [`RepositoryError::Damaged`].
    pub async fn begin(repository: &Repository, recipients: &Recipients, workers: Arc<Workers>, budget: Budget) -> Result<Self> {
        let unencrypted = matches!(recipients, Recipients::Nobody);
        if unencrypted != repository.is_unencrypted() {
            return Err(RepositoryError::Refused {
                subject: repository.store.describe(),
                detail: format!(
                    "the repository is {}, the policy says otherwise; mend [encryption] in the policy, or choose another prefix and run `farshore init`",
                    if repository.is_unencrypted() { "unencrypted" } else { "encrypted" }
                ),
            });
        }
        // Before anything is written: points are dated by this machine's clock.
        let (_, recipient_set) =
            tokio::try_join!(site_time(&repository.store, &repository.clock), repository.settled_set(recipients))?;
        // Before the run looks at packs and keys that may be doomed: the site's time of it is when the run began.
        let begun = Moment::now(&repository.clock);
        let (data_key, data_sealing, begun_at_site) = create_data_key(&repository.store, recipients, recipient_set).await?;
        let cache = repository.chunks().await?;
        let run: Id = random();
        let shared = Shared {
            store: repository.store.clone(),
            catalogue: Arc::clone(&repository.catalogue),
            workers,
            uploads: Arc::new(Semaphore::new(budget.uploads())),
            budget,
            runtime: tokio::runtime::Handle::current(),
            cache,
            run,
            begun,
            begun_at_site,
            data_key,
            recipient_set,
            data_sealing,
            catalogue_sealing: repository.catalogue.sealing_key(&run),
            cutter: content::Cutter::new(repository.catalogue.cut_seed),
            claims: (0..64).map(|_| Mutex::default()).collect(),
            builders: Mutex::default(),
            uploading: Mutex::default(),
            found: Mutex::default(),
            own: Mutex::default(),
            confirmed: Mutex::default(),
            failure: OnceLock::new(),
            failed: CancellationToken::new(),
            counters: Counters::default(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// A reader over what this run has seen of the site, without another look at it.
    pub fn reader(&self, repository: &Repository, budget: Budget) -> Reader {
        Reader::over(repository, Arc::clone(&self.shared.cache), Arc::clone(&self.shared.workers), budget)
    }

    /// Whether the recipients are others by now than those whom this run wrapped its data key to: a rotation ran meanwhile.
    ///
    /// # Errors
    /// The store's, [`RepositoryError::Damaged`].
    pub async fn recipients_changed(&self, repository: &Repository) -> Result<bool> {
        Ok(!repository.is_unencrypted() && repository.newest_recipients().await?.name != self.shared.recipient_set)
    }

    /// Packs that indexes name and the site has lost; the next bytes that are the same mend them.
    pub fn packs_missing(&self) -> usize {
        self.shared.cache.seen().missing.len()
    }

    /// Indexes that are damaged, each with the reason: what only they name is stored anew.
    pub fn indexes_damaged(&self) -> Vec<PackCheck> {
        self.shared.cache.seen().damaged.clone()
    }

    /// Whether every chunk of this list can be adopted: known, and its pack at the site; of long lists the chunks that hold the
    /// list as well as those in it.
    ///
    /// # Errors
    /// [`RepositoryError::Cache`], [`RepositoryError::Damaged`], the store's.
    pub async fn has(&self, reader: &Reader, list: &super::ChunkList) -> Result<bool> {
        for chunk in list.chunks()? {
            if !self.shared.has(&chunk)? {
                return Ok(false);
            }
        }
        let mut list = list.clone();
        while list.level > 0 {
            let below = reader.level_below(&list).await?;
            for chunk in below.chunks()? {
                if !self.shared.has(&chunk)? {
                    return Ok(false);
                }
            }
            list = below;
        }
        Ok(true)
    }

    /// Bytes that contents may wait for room with while entries are written as well: half of what may be in flight.
    pub fn room(&self) -> u32 {
        u32::try_from(self.shared.budget.chunk_bytes() / 2).unwrap_or(u32::MAX)
    }

    /// A stream for the bytes of one entry. `size` is a hint in bytes.
    pub fn content(&self, cutting: Cutting, size: Option<u64>) -> ContentStream {
        ContentStream::new(Arc::clone(&self.shared), Class::Data, cutting, size)
    }

    /// A stream for the entries of one snapshot.
    pub fn entries(&self) -> EntryStream {
        EntryStream::new(Arc::clone(&self.shared))
    }

    /// What was written so far.
    pub fn summary(&self) -> WriteSummary {
        let counters = &self.shared.counters;
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        WriteSummary {
            chunks_new: of(&counters.chunks_new),
            chunks_known: of(&counters.chunks_known),
            bytes_read: of(&counters.bytes_read),
            bytes_new: of(&counters.bytes_new),
            bytes_stored: of(&counters.bytes_stored),
            packs: of(&counters.packs),
        }
    }

    /// Sends the contents that are packed so far, if they are worth a pack, and does not wait for it.
    pub fn send_off(&self) {
        packs::send_off(&self.shared);
    }

    /// Flushes, when everything was handed over and nothing comes meanwhile: every chunk of this run is stored then, and named by an index.
    ///
    /// # Errors
    /// The first error of the run.
    pub async fn settle(&self) -> Result<()> {
        self.flush().await?;
        self.shared.all_stored()
    }

    /// Stores what is still being packed and waits until the site has confirmed every pack that was begun until now, and an index
    /// that names it. What comes meanwhile is not waited for.
    ///
    /// # Errors
    /// The first error of the run.
    pub async fn flush(&self) -> Result<()> {
        packs::flush(&self.shared).await
    }
}
