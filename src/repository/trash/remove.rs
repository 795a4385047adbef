//! Deleting what has matured, in the order that leaves nothing half said. See the room's head.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use chrono::{DateTime, Utc};
use futures_util::{StreamExt, stream};

use super::look_holds;
use crate::{
    clock::Moment,
    repository::{
        ChunkCache, Repository, RepositoryError,
        error::Result,
        format::{DAMAGED, Id, KEYS, index_key, name_sha256, pack_key},
        keys::{data_key_id, data_key_object, random},
        pack::PackEntry,
        point::list_all,
        seal::SealingKey,
        structure::{Site, list_indexes, read_index, update_indexes},
        workers::off_thread,
    },
    stores::{Lock, LockMode, ObjectStat, StoreError},
};

/// Deletions at once.
const DELETIONS: usize = 16;
/// How often it is begun anew where another prune has replaced what this one is about to replace.
const ATTEMPTS: u32 = 5;
/// An index that takes the place of others has at most so many chunks, or packs: see the writer.
const CHUNKS_PER_INDEX: usize = 65_536;
const PACKS_PER_INDEX: usize = 64;

/// What was deleted, and what a lock still holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removed {
    /// Objects that are gone.
    pub objects: u64,
    /// Objects that a lock holds: a later prune deletes them.
    pub locked: Vec<String>,
    /// When the first of these locks ends.
    pub locked_until: Option<DateTime<Utc>>,
}

impl Removed {
    /// Both together.
    pub fn add(&mut self, other: Self) {
        self.objects += other.objects;
        self.locked.extend(other.locked);
        self.locked_until = [self.locked_until, other.locked_until].into_iter().flatten().min();
    }
}

/// One prune's way to write and delete.
#[derive(Debug)]
pub struct Removal<'a> {
    pub(super) repository: &'a Repository,
    pub(super) cache: Arc<ChunkCache>,
    /// Everything that this prune seals is one run's.
    pub(super) run: Id,
    pub(super) key: Arc<SealingKey>,
    looked: Moment,
}

impl<'a> Removal<'a> {
    /// In this repository, whose local index is up to date. What is deleted was decided by a look that began at `looked`: once that
    /// is too long ago ([`look_holds`]), nothing is.
    pub fn new(repository: &'a Repository, cache: Arc<ChunkCache>, looked: Moment) -> Self {
        let run = random();
        Self { repository, cache, run, key: Arc::new(repository.catalogue.sealing_key(&run)), looked }
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        if look_holds(self.looked.since(&self.repository.clock)) {
            return self.repository.store.delete(key).await;
        }
        Err(StoreError::Other {
            place: format!("{}/{key}", self.repository.store.describe()),
            action: "delete",
            detail: "this prune looked too long ago at what is needed; run it again".to_owned(),
        })
    }

    /// Deletes objects, every version of them. What is gone already counts as deleted.
    ///
    /// # Errors
    /// The store's; a lock is none.
    pub async fn objects(&self, keys: Vec<String>) -> Result<Removed> {
        let mut removed = Removed::default();
        let mut deletions = stream::iter(keys).map(|key| async move { (self.delete(&key).await, key) }).buffer_unordered(DELETIONS);
        while let Some((outcome, key)) = deletions.next().await {
            match outcome {
                Ok(()) => removed.objects += 1,
                Err(StoreError::Locked { until, .. }) => {
                    self.note_lock(&key, until).await?;
                    removed.locked_until = [removed.locked_until, Some(until)].into_iter().flatten().min();
                    removed.locked.push(key);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(removed)
    }

    /// So that a later prune need not try in vain.
    async fn note_lock(&self, key: &str, until: DateTime<Utc>) -> Result<()> {
        let (cache, key) = (Arc::clone(&self.cache), key.to_owned());
        let lock = Lock { mode: LockMode::Governance, until };
        off_thread(move || cache.note_locks(std::iter::once((key.as_str(), &lock)))).await
    }

    /// Deletes packs, after the indexes that name them have given way to ones that do not.
    ///
    /// # Errors
    /// The store's; a lock is none.
    pub async fn packs(&self, packs: HashSet<[u8; 32]>) -> Result<Removed> {
        let (packs, mut held) = self.replace_indexes(&packs, None).await?;
        held.add(self.objects(packs.iter().map(pack_key).collect()).await?);
        Ok(held)
    }

    /// Makes no index that the site stored before `before` name these packs, which are lost.
    ///
    /// # Errors
    /// The store's; a lock is none.
    pub async fn names(&self, packs: HashSet<[u8; 32]>, before: DateTime<Utc>) -> Result<Removed> {
        if packs.is_empty() {
            return Ok(Removed::default());
        }
        let (_, held) = self.replace_indexes(&packs, Some(before)).await?;
        Ok(held)
    }

    /// Makes no index (that the site stored before `before`, if that is given) name these packs. Those of an index that is locked must
    /// stay; returns the others, and what is locked.
    async fn replace_indexes(
        &self,
        packs: &HashSet<[u8; 32]>,
        before: Option<DateTime<Utc>>,
    ) -> Result<(HashSet<[u8; 32]>, Removed)> {
        let site = Site { store: &self.repository.store, catalogue: &self.repository.catalogue };
        for _ in 0..ATTEMPTS {
            let young = match before {
                Some(before) => list_indexes(site.store).await?.into_iter().filter(|(_, index)| index.modified >= before).collect(),
                None => HashMap::new(),
            };
            if let Some(replaced) = self.replace_known_indexes(packs.clone(), &young).await? {
                return Ok(replaced);
            }
            // What another prune has put in its place may name the same packs.
            update_indexes(&site, &self.cache, &self.repository.marks().await?, false).await?;
        }
        Err(RepositoryError::Refused {
            subject: self.repository.store.describe(),
            detail: "other prunes replace the indexes that this one is about to replace: let one of them come to its end, and run it again"
                .to_owned(),
        })
    }

    /// The same by the indexes that the local one knows, but for `young`; nothing if one of them was gone: another prune is at work.
    async fn replace_known_indexes(
        &self,
        mut packs: HashSet<[u8; 32]>,
        young: &HashMap<[u8; 32], ObjectStat>,
    ) -> Result<Option<(HashSet<[u8; 32]>, Removed)>> {
        let (cache, wanted) = (Arc::clone(&self.cache), packs.clone());
        let indexes = off_thread(move || {
            let named = cache.packs()?.into_iter().filter(|(_, record)| wanted.contains(&record.sha256));
            cache.indexes_of(&named.map(|(number, _)| number).collect())
        })
        .await?;
        let (mut held, mut replaced) = (Removed::default(), Vec::new());
        let (mut batch, mut chunks) = (Vec::new(), 0);
        // Which packs each names, and no more: of all chunks together there may be more than fit into memory.
        let mut read: Vec<([u8; 32], Vec<[u8; 32]>)> = Vec::new();
        for name in indexes.into_iter().filter(|name| !young.contains_key(name)) {
            let entries = match self.named_by(&name).await {
                Ok(Some(entries)) => entries,
                Ok(None) => return Ok(None),
                // Nobody reads it: it names nothing.
                Err(error) if error.is_damage() => continue,
                Err(error) => return Err(error),
            };
            let lock = match self.repository.locking {
                Some(_) => match self.repository.store.lock_of(&index_key(&name)).await {
                    Err(StoreError::NotFound { .. }) => return Ok(None),
                    lock => lock?,
                },
                None => None,
            };
            if let Some(lock) = lock {
                held.locked_until = [held.locked_until, Some(lock.until)].into_iter().flatten().min();
                for entry in &entries {
                    if packs.remove(&entry.sha256) {
                        held.locked.push(pack_key(&entry.sha256));
                    }
                }
                continue;
            }
            read.push((name, entries.iter().map(|entry| entry.sha256).collect()));
        }
        for (name, named) in read {
            // An index may name a pack that another, locked one names as well: then it stays as it is.
            if !named.iter().any(|pack| packs.contains(pack)) {
                continue;
            }
            let Some(entries) = self.named_by(&name).await? else { return Ok(None) };
            replaced.push(name);
            for entry in entries.into_iter().filter(|entry| !packs.contains(&entry.sha256)) {
                chunks += entry.places.len();
                batch.push(entry);
                if chunks >= CHUNKS_PER_INDEX || batch.len() >= PACKS_PER_INDEX {
                    chunks = 0;
                    self.store_index(std::mem::take(&mut batch)).await?;
                }
            }
        }
        self.store_index(batch).await?;
        let outcome = self.objects(replaced.iter().map(index_key).collect()).await?;
        if !outcome.locked.is_empty() {
            // A lock that nobody told us of. The packs it names stay, and the next prune knows.
            let locked: HashSet<String> = outcome.locked.iter().cloned().collect();
            for name in replaced.iter().filter(|name| locked.contains(&index_key(name))) {
                for entry in self.named_by(name).await?.into_iter().flatten() {
                    if packs.remove(&entry.sha256) {
                        held.locked.push(pack_key(&entry.sha256));
                    }
                }
            }
            replaced.retain(|name| !locked.contains(&index_key(name)));
            held.locked_until = [held.locked_until, outcome.locked_until].into_iter().flatten().min();
        }
        let cache = Arc::clone(&self.cache);
        off_thread(move || cache.forget(&replaced)).await?;
        Ok(Some((packs, held)))
    }

    /// The packs that an index names; nothing if it is gone.
    async fn named_by(&self, index: &[u8; 32]) -> Result<Option<Vec<PackEntry>>> {
        let site = Site { store: &self.repository.store, catalogue: &self.repository.catalogue };
        match read_index(&site, index, &index_key(index)).await {
            Ok(entries) => Ok(Some(entries)),
            Err(RepositoryError::Store(StoreError::NotFound { .. })) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Stores an index of these packs, if there are any, and adds it to the local one.
    pub(super) async fn store_index(&self, entries: Vec<PackEntry>) -> Result<()> {
        if entries.is_empty() {
            return Ok(());
        }
        let entries = Arc::new(entries);
        let name = self.repository.put_index(self.run, &self.key, Arc::clone(&entries)).await?;
        let cache = Arc::clone(&self.cache);
        off_thread(move || cache.add(&name, &entries)).await
    }

    /// Deletes every wrap of data keys.
    ///
    /// # Errors
    /// The store's; a lock is none.
    pub async fn data_keys(&self, ids: &HashSet<Id>) -> Result<Removed> {
        let plain = self.repository.is_unencrypted();
        let wraps = list_all(self.repository, KEYS).await?.into_iter().map(|object| object.key);
        self.objects(wraps.filter(|object| data_key_id(object, plain).is_some_and(|id| ids.contains(&id))).collect()).await
    }

    /// Deletes marks about packs, data keys and indexes (these by their keys) that are gone.
    ///
    /// # Errors
    /// The store's; a lock is none.
    pub async fn marks(&self, packs: &HashSet<[u8; 32]>, keys: &HashSet<Id>, indexes: &[&String]) -> Result<Removed> {
        let plain = self.repository.is_unencrypted();
        let mut gone: HashSet<String> = packs.iter().map(hex::encode).collect();
        gone.extend(indexes.iter().filter_map(|key| name_sha256(key)).map(hex::encode));
        gone.extend(keys.iter().filter_map(|id| Some(data_key_object(id, plain).strip_prefix(KEYS)?.to_owned())));
        let about = |object: &str| object.strip_prefix(DAMAGED).and_then(|rest| Some(rest.split_once('/')?.0.to_owned()));
        let marks = list_all(self.repository, DAMAGED).await?.into_iter().map(|object| object.key);
        self.objects(marks.filter(|mark| about(mark).is_some_and(|object| gone.contains(&object))).collect()).await
    }
}

impl Repository {
    /// Data keys at the site: when the newest wrap of each was stored.
    ///
    /// # Errors
    /// The store's.
    pub async fn stored_data_keys(&self) -> Result<HashMap<Id, DateTime<Utc>>> {
        let plain = self.is_unencrypted();
        let mut keys: HashMap<Id, DateTime<Utc>> = HashMap::new();
        for object in list_all(self, KEYS).await? {
            if let Some(id) = data_key_id(&object.key, plain) {
                keys.entry(id).and_modify(|stored| *stored = (*stored).max(object.modified)).or_insert(object.modified);
            }
        }
        Ok(keys)
    }
}
