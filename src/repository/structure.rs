//! The repository as a whole: the local index against the site's, packs against indexes.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use chrono::{DateTime, Utc};
use futures_util::{StreamExt, stream};
use serde::Serialize;
use sha2::{Digest, Sha256};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{
    ChunkCache, Class, Dooms, Marks, Repository, RepositoryError,
    cache::{PackRecord, Seen},
    error::Result,
    format::{
        DAMAGED, DOOMED, EVIDENCE, INDEXES, Id, KEYS, MAX_INDEX_BYTES, PACKS, PINS, POINTS, RECIPIENTS, index_key, name_sha256,
    },
    index::decode_index,
    keys::{Catalogue, data_key_id, data_key_object},
    pack::PackEntry,
    point::{list_all, list_store},
    workers::off_thread,
};
use crate::stores::{GetOptions, ObjectStat, SharedStore, StoreError, is_archive, may_be_archived, read_all};

/// Indexes fetched at once.
const FETCHES: usize = 32;
/// Bytes of indexes fetched at once, as the site stores them; read, they take some three times as much. A larger one comes alone.
const FETCHED_BYTES: u32 = 8 << 20;
/// Chunks of new indexes that are put into the local index together, as soon as there are so many: some 10 MB.
const ROWS_AT_ONCE: usize = 100_000;

/// Packs at the site, by their names.
type StoredPacks = HashMap<[u8; 32], StoredPack>;

/// A pack as the site lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredPack {
    /// Its bytes.
    pub size: u64,
    /// When the site stored it.
    pub stored_at: DateTime<Utc>,
    /// Whether its storage class is one of which it may have to be brought back before it can be read.
    pub may_be_archived: bool,
    /// Whether its storage class is an archive.
    pub is_archived: bool,
}

/// What one look at the site showed: packs that indexes name, and the packs and data keys that are there, each listed once.
#[derive(Debug)]
pub struct Survey {
    /// Packs that indexes name, by their numbers in the local index. Each that was stored before it was named is in the listing.
    pub named: Vec<(u32, PackRecord)>,
    there: StoredPacks,
    keys: HashMap<Id, String>,
}

/// Opens the local index and adds what the site has and it has not. An index that is damaged is left out and remembered: it
/// must not keep what other indexes name from being restored.
pub(super) async fn synchronise(repository: &Repository) -> Result<(Arc<ChunkCache>, Survey)> {
    let mut shared = repository.cache.lock().await;
    let in_use = shared.upgrade();
    let may_clear = in_use.is_none();
    let cache = match in_use {
        Some(cache) => cache,
        None => {
            let directory = repository.cache_directory.clone();
            Arc::new(off_thread(move || ChunkCache::open(&directory)).await?)
        }
    };
    *shared = Arc::downgrade(&cache);
    let (marks, dooms) = tokio::try_join!(repository.marks(), repository.doom_records())?;
    let dooms = Dooms::of(&dooms);
    let site = Site { store: &repository.store, catalogue: &repository.catalogue };
    let (mut seen, mut survey) = look(repository, &site, &cache, &marks, &dooms, may_clear).await?;
    if !seen.missing.is_empty() {
        // A prune deletes indexes before packs: what is missing now may have been taken away since the indexes were listed.
        (seen, survey) = look(repository, &site, &cache, &marks, &dooms, false).await?;
    }
    cache.set_seen(seen);
    Ok((cache, survey))
}

/// Brings the local index up to date, and holds what it knows against what is there.
async fn look(
    repository: &Repository,
    site: &Site<'_>,
    cache: &Arc<ChunkCache>,
    marks: &Marks,
    dooms: &Dooms,
    may_clear: bool,
) -> Result<(Seen, Survey)> {
    let unusable = update_indexes(site, cache, marks, may_clear).await?;
    let mut seen = Seen { damaged: marks.unreadable.clone(), ..Seen::default() };
    // In this order: a pack that is known now was stored before it is looked for.
    let named = cache.packs()?;
    let (there, keys) = tokio::try_join!(list_packs(repository), list_data_keys(repository))?;
    if !unusable.is_empty() {
        let names: HashSet<[u8; 32]> = named.iter().map(|(_, record)| record.sha256).collect();
        let unnamed = there.iter().filter(|(name, _)| !names.contains(*name)).map(|(_, pack)| pack.stored_at).min();
        // Whatever it named was stored before it.
        let (needless, damaged) = unusable.into_iter().partition(|index| unnamed.is_none_or(|first| first > index.stored_at));
        seen.damaged.extend(checks(damaged));
        seen.needless = checks(needless);
    }
    let lost = |record: &PackRecord| {
        let locked = record.class == Class::Data && !keys.contains_key(&record.data_key);
        locked || there.get(&record.sha256).map(|pack| pack.size) != Some(u64::from(record.size))
    };
    seen.quarantined = marks.quarantined(&named, repository.is_unencrypted());
    seen.doomed = named.iter().filter(|(_, record)| dooms.names(record)).map(|(number, _)| *number).collect();
    let archived = |record: &PackRecord| there.get(&record.sha256).is_some_and(|pack| pack.may_be_archived);
    seen.archived = named.iter().filter(|(_, record)| archived(record)).map(|(number, _)| *number).collect();
    seen.missing = named.iter().filter(|(_, record)| lost(record)).map(|(number, _)| *number).collect();
    Ok((seen, Survey { named, there, keys }))
}

/// What it takes to read indexes.
pub(super) struct Site<'a> {
    pub(super) store: &'a SharedStore,
    pub(super) catalogue: &'a Arc<Catalogue>,
}

/// An index at the site that cannot be used.
pub(super) struct UnusableIndex {
    check: PackCheck,
    stored_at: DateTime<Utc>,
}

fn checks(indexes: Vec<UnusableIndex>) -> Vec<PackCheck> {
    indexes.into_iter().map(|index| index.check).collect()
}

/// Forgets the indexes that the site has no more, and adds those that are new. One that is marked as damaged may have been read
/// when it was whole: it is read again. Returns those that are damaged.
pub(super) async fn update_indexes(
    site: &Site<'_>,
    cache: &Arc<ChunkCache>,
    marks: &Marks,
    may_clear: bool,
) -> Result<Vec<UnusableIndex>> {
    let there = list_indexes(site.store).await?;
    let mut known = cache.indexes()?;
    let is_marked = |index: &[u8; 32]| marks.damage(&index_key(index)).is_some();
    let vanished: Vec<_> = known.iter().filter(|index| !there.contains_key(*index) || is_marked(index)).copied().collect();
    if !vanished.is_empty() {
        known.retain(|index| !is_marked(index));
        let forgetter = Arc::clone(cache);
        let wasteful = off_thread(move || forgetter.forget(&vanished)).await?;
        if wasteful && may_clear {
            // Not while somebody uses it, who knows packs by their numbers.
            let clearer = Arc::clone(cache);
            off_thread(move || clearer.clear()).await?;
            known.clear();
        }
    }
    let wanted: Vec<_> = there.into_iter().filter(|(name, _)| !known.contains(name)).collect();
    let any = !wanted.is_empty();
    let mut damaged = Vec::new();
    let room = &Semaphore::new(FETCHED_BYTES as usize);
    let mut fetched = stream::iter(wanted)
        .map(|(name, object)| async move {
            let held = hold(room, object.size).await;
            (name, read_index(site, &name, &object.key).await, object, held)
        })
        .buffer_unordered(FETCHES);
    let (mut gathered, mut rows) = (Vec::new(), 0);
    while let Some((name, packs, object, _held)) = fetched.next().await {
        match packs {
            Ok(packs) => {
                rows += packs.iter().map(|pack| pack.places.len()).sum::<usize>();
                gathered.push((name, packs));
                if rows >= ROWS_AT_ONCE {
                    add(cache, std::mem::take(&mut gathered)).await?;
                    rows = 0;
                }
            }
            // A prune replaced it since it was listed: the next look shows what took its place.
            Err(RepositoryError::Store(StoreError::NotFound { .. })) => {}
            Err(error) if error.is_damage() => {
                let check = PackCheck { key: object.key, detail: error.to_string() };
                damaged.push(UnusableIndex { check, stored_at: object.modified });
            }
            Err(error) => return Err(error),
        }
    }
    drop(fetched);
    add(cache, gathered).await?;
    if any {
        let saver = Arc::clone(cache);
        off_thread(move || saver.persist()).await?;
    }
    Ok(damaged)
}

/// Adds indexes to the local one. Most looks find none, and write nothing then.
async fn add(cache: &Arc<ChunkCache>, indexes: Vec<([u8; 32], Vec<PackEntry>)>) -> Result<()> {
    if indexes.is_empty() {
        return Ok(());
    }
    let cache = Arc::clone(cache);
    off_thread(move || cache.add_all(&indexes.iter().map(|(name, packs)| (name, packs.as_slice())).collect::<Vec<_>>())).await
}

/// Waits until an index of so many bytes has room beside those that are being read.
async fn hold(room: &Semaphore, size: u64) -> SemaphorePermit<'_> {
    let bytes = u32::try_from(size).map_or(FETCHED_BYTES, |size| size.min(FETCHED_BYTES));
    room.acquire_many(bytes).await.expect("the semaphore is never closed")
}

/// Indexes at the site.
pub(super) async fn list_indexes(store: &SharedStore) -> Result<HashMap<[u8; 32], ObjectStat>> {
    let listed = list_store(store, INDEXES).await?;
    Ok(listed.into_iter().filter_map(|object| Some((name_sha256(&object.key)?, object))).collect())
}

/// The packs at the site.
pub(super) async fn list_packs(repository: &Repository) -> Result<StoredPacks> {
    let stored = |object: ObjectStat| {
        let class = object.storage_class.as_deref();
        let pack = StoredPack {
            size: object.size,
            stored_at: object.modified,
            may_be_archived: class.is_some_and(may_be_archived),
            is_archived: class.is_some_and(is_archive),
        };
        Some((name_sha256(&object.key)?, pack))
    };
    Ok(list_all(repository, PACKS).await?.into_iter().filter_map(stored).collect())
}

/// Data keys at the site, with the names of their objects; not those that are empty.
pub(super) async fn list_data_keys(repository: &Repository) -> Result<HashMap<Id, String>> {
    let plain = repository.is_unencrypted();
    let listed = list_all(repository, KEYS).await?.into_iter().filter(|object| object.size > 0);
    Ok(listed.filter_map(|object| Some((data_key_id(&object.key, plain)?, object.key))).collect())
}

pub(super) async fn read_index(site: &Site<'_>, name: &[u8; 32], key: &str) -> Result<Vec<PackEntry>> {
    let bytes = read_all(site.store.as_ref(), key, GetOptions::sealed(), MAX_INDEX_BYTES).await?;
    let (place, catalogue, name) = (format!("{}/{key}", site.store.describe()), Arc::clone(site.catalogue), *name);
    off_thread(move || decode_index(&place, &name, &bytes, &catalogue)).await
}

/// What is wrong with an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PackCheck {
    /// Key of the object.
    pub key: String,
    /// What is wrong.
    pub detail: String,
}

/// What is wrong with a data key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyCheck {
    /// The object.
    pub check: PackCheck,
    /// It may be sound, and wrapped to others than the identities at hand.
    pub is_locked: bool,
}

/// Packs as the site lists them, against the indexes.
#[derive(Debug, Clone, Default)]
pub struct StructureReport {
    /// Packs that an index names and that are there in the right size: when the site stored each, by its number in the cache.
    pub sound: HashMap<u32, DateTime<Utc>>,
    /// Packs that are missing or of another size, by number, with what is wrong.
    pub broken: HashMap<u32, String>,
    /// Data keys that packs need and the site has not.
    pub keys_missing: BTreeMap<Id, KeyCheck>,
    /// Data keys that no pack needs.
    pub keys_unneeded: u64,
    /// Packs that no index names: a run that died left them, one is at work, or an index was lost.
    pub unindexed: u64,
    /// Bytes of them.
    pub unindexed_bytes: u64,
}

impl Survey {
    /// Compares packs (`known`, by their numbers in the local index) with what was listed.
    pub fn structure(&self, known: &HashMap<u32, PackRecord>, unencrypted: bool) -> StructureReport {
        let Self { there, keys, .. } = self;
        let mut report = StructureReport::default();
        let (mut named, mut needed) = (HashSet::new(), HashSet::new());
        for (number, PackRecord { sha256, size, class, data_key, .. }) in known {
            named.insert(*sha256);
            if *class == Class::Data {
                needed.insert(*data_key);
            }
            match there.get(sha256) {
                Some(pack) if pack.size == u64::from(*size) => {
                    report.sound.insert(*number, pack.stored_at);
                }
                Some(StoredPack { size: found, .. }) => {
                    report.broken.insert(*number, format!("has {found} bytes, its index says {size}"));
                }
                None => {
                    report.broken.insert(*number, "is missing".to_owned());
                }
            }
        }
        for id in needed.iter().filter(|id| !keys.contains_key(*id)) {
            let key = data_key_object(id, unencrypted);
            let detail = "is missing or empty; its packs cannot be read".to_owned();
            report.keys_missing.insert(*id, KeyCheck { check: PackCheck { key, detail }, is_locked: false });
        }
        report.keys_unneeded = keys.keys().filter(|id| !needed.contains(*id)).count() as u64;
        for pack in there.iter().filter(|(sha256, _)| !named.contains(*sha256)).map(|(_, found)| found) {
            report.unindexed += 1;
            report.unindexed_bytes += pack.size;
        }
        report
    }
}

impl Repository {
    /// Packs at the site.
    ///
    /// # Errors
    /// The store's.
    pub async fn stored_packs(&self) -> Result<HashMap<[u8; 32], StoredPack>> {
        list_packs(self).await
    }

    /// A hash of everything that the site lists: the same as long as nothing is stored, replaced or deleted.
    ///
    /// # Errors
    /// The store's.
    pub async fn listing_hash(&self) -> Result<[u8; 32]> {
        let mut hash = Sha256::new();
        for prefix in [DAMAGED, DOOMED, EVIDENCE, INDEXES, KEYS, PACKS, PINS, POINTS, RECIPIENTS] {
            for object in list_all(self, prefix).await? {
                hash.update(object.key.as_bytes());
                hash.update([0]);
                hash.update(object.size.to_le_bytes());
                hash.update(object.modified.timestamp_micros().to_le_bytes());
            }
        }
        Ok(hash.finalize().into())
    }

    /// Reads every index at the site, whatever the local one knows already; returns how many there are, and those that are
    /// damaged.
    ///
    /// # Errors
    /// The store's.
    pub async fn check_indexes(&self) -> Result<(u64, Vec<PackCheck>)> {
        let there = list_indexes(&self.store).await?;
        let total = there.len() as u64;
        let site = &Site { store: &self.store, catalogue: &self.catalogue };
        let room = &Semaphore::new(FETCHED_BYTES as usize);
        let checks = stream::iter(there)
            .map(|(name, object)| async move {
                let _held = hold(room, object.size).await;
                (read_index(site, &name, &object.key).await.map(|_| ()), object.key)
            })
            .buffer_unordered(FETCHES);
        Ok((total, failures(checks).await?))
    }
}

/// Of the objects checked, those that are damaged.
async fn failures(checks: impl stream::Stream<Item = (Result<()>, String)>) -> Result<Vec<PackCheck>> {
    let mut found = Vec::new();
    let mut checks = std::pin::pin!(checks);
    while let Some((outcome, key)) = checks.next().await {
        match outcome {
            Ok(()) => {}
            // A prune replaced it since it was listed.
            Err(RepositoryError::Store(StoreError::NotFound { .. })) => {}
            Err(error) if error.is_damage() => {
                found.push(PackCheck { key, detail: error.to_string() });
            }
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}
