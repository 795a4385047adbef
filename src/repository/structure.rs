//! The repository as a whole: the local index against the site's, packs against indexes.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use futures_util::{StreamExt, stream};

use super::{
    ChunkCache, Class, Repository, RepositoryError,
    cache::PackRecord,
    error::{Result, reading},
    format::{INDEXES, KEYS, MAX_INDEX_BYTES, PACKS, name_sha256, pack_key},
    index::decode_index,
    keys::data_key_object,
    pack::PackEntry,
    point::list_all,
};
use crate::stores::{GetOptions, read_all};

/// Indexes fetched at once.
const FETCHES: usize = 8;

/// Opens the local index, unless it is open, and adds what the site has and it has not.
pub(super) async fn synchronise(repository: &Repository, open: Option<Arc<ChunkCache>>) -> Result<Arc<ChunkCache>> {
    let cache = match open {
        Some(cache) => cache,
        None => {
            let directory = repository.cache_directory.clone();
            Arc::new(off_thread(move || ChunkCache::open(&directory)).await?)
        }
    };
    let mut listed = list_all(repository, INDEXES).await?;
    // Oldest first: where two indexes name a chunk, its first pack was lost and the newer one mends it.
    listed.sort_by(|left, right| (left.modified, &left.key).cmp(&(right.modified, &right.key)));
    let there: Vec<([u8; 32], String)> =
        listed.into_iter().filter_map(|object| Some((name_sha256(&object.key)?, object.key))).collect();
    let mut known = cache.indexes()?;
    let names: HashSet<[u8; 32]> = there.iter().map(|(name, _)| *name).collect();
    if !known.is_subset(&names) {
        // An index went away: what it named may be gone, too.
        cache.clear()?;
        known.clear();
    }
    let wanted: Vec<_> = there.into_iter().filter(|(name, _)| !known.contains(name)).collect();
    let any = !wanted.is_empty();
    let mut damaged = Vec::new();
    let mut fetched =
        stream::iter(wanted).map(|(name, key)| async move { (fetch(repository, name, &key).await, name, key) }).buffered(FETCHES);
    while let Some((packs, name, key)) = fetched.next().await {
        match packs {
            Ok(packs) => {
                let cache = Arc::clone(&cache);
                off_thread(move || cache.add(&name, &packs)).await?;
            }
            // What it names is unknown then, and nothing else is hurt: the other points can be restored.
            Err(error) if error.is_damage() => {
                tracing::warn!(%error, "an index is passed over");
                damaged.push(IndexCheck { key, detail: error.to_string() });
            }
            Err(error) => return Err(error),
        }
    }
    cache.set_damaged(damaged);
    if any {
        let saver = Arc::clone(&cache);
        off_thread(move || saver.persist()).await?;
    }
    Ok(cache)
}

/// Reads an index.
async fn fetch(repository: &Repository, name: [u8; 32], key: &str) -> Result<Vec<PackEntry>> {
    let bytes = read_all(repository.store.as_ref(), key, GetOptions::default(), MAX_INDEX_BYTES).await.map_err(reading)?;
    let (place, catalogue) = (format!("{}/{key}", repository.store.describe()), Arc::clone(&repository.catalogue));
    off_thread(move || decode_index(&place, &name, &bytes, &catalogue)).await
}

async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        Err(RepositoryError::Cache { path: "local index".to_owned(), detail: format!("a defect: {error}") })
    })
}

/// What is wrong with an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexCheck {
    /// Key of the index.
    pub key: String,
    /// What is wrong.
    pub detail: String,
}

/// What is wrong with a pack, as the listing shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackCheck {
    /// Key of the pack.
    pub key: String,
    /// What is wrong.
    pub detail: String,
}

/// Packs as the site lists them, against the indexes.
#[derive(Debug, Clone, Default)]
pub struct StructureReport {
    /// Packs that an index names and that are there in the right size.
    pub packs_sound: u64,
    /// Bytes of them.
    pub pack_bytes: u64,
    /// Packs that are missing or of another size.
    pub broken: Vec<PackCheck>,
    /// Packs that no index names: a run that died left them, or one is at work.
    pub unreferenced: u64,
    /// Numbers of the broken packs in the local index.
    pub broken_numbers: std::collections::HashSet<u32>,
}

impl Repository {
    /// Compares packs with indexes. Nothing is downloaded but new indexes.
    ///
    /// # Errors
    /// The store's, [`RepositoryError::Cache`].
    pub async fn structure(&self, cache: &ChunkCache) -> Result<StructureReport> {
        let mut there: HashMap<[u8; 32], u64> =
            list_all(self, PACKS).await?.into_iter().filter_map(|object| Some((name_sha256(&object.key)?, object.size))).collect();
        let keys: HashSet<String> = list_all(self, KEYS).await?.into_iter().map(|object| object.key).collect();
        let mut report = StructureReport::default();
        for (number, PackRecord { sha256, size, class, data_key, .. }) in cache.packs()? {
            let key = data_key_object(&data_key, self.is_unencrypted());
            let detail = match there.remove(&sha256) {
                Some(found) if found == u64::from(size) => {
                    if class == Class::Catalogue || keys.contains(&key) {
                        report.packs_sound += 1;
                        report.pack_bytes += found;
                        continue;
                    }
                    format!("cannot be read: its key {key} is missing from the site; put it back from another copy of the site")
                }
                Some(found) => format!("has {found} bytes, its index says {size}"),
                None => "is missing".to_owned(),
            };
            report.broken.push(PackCheck { key: pack_key(&sha256), detail });
            report.broken_numbers.insert(number);
        }
        report.unreferenced = there.len() as u64;
        Ok(report)
    }

    /// Reads every index, whether the local one has it or not, and returns those that are not what was stored.
    ///
    /// # Errors
    /// The store's.
    pub async fn check_indexes(&self) -> Result<Vec<IndexCheck>> {
        let listed = list_all(self, INDEXES).await?;
        let named = listed.into_iter().filter_map(|object| Some((name_sha256(&object.key)?, object.key)));
        let mut checks =
            stream::iter(named).map(|(name, key)| async move { (fetch(self, name, &key).await, key) }).buffered(FETCHES);
        let mut damaged = Vec::new();
        while let Some((read, key)) = checks.next().await {
            match read {
                Ok(_) => {}
                Err(error) if error.is_damage() => damaged.push(IndexCheck { key, detail: error.to_string() }),
                Err(error) => return Err(error),
            }
        }
        Ok(damaged)
    }
}
