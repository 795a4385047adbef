//! The repository as a whole: the local index against the site's, packs against indexes.

use std::{collections::HashMap, sync::Arc};

use futures_util::{StreamExt, TryStreamExt, stream};

use super::{
    ChunkCache, Repository, RepositoryError,
    cache::PackRecord,
    error::Result,
    format::{INDEXES, MAX_INDEX_BYTES, PACKS, name_sha256, pack_key},
    index::decode_index,
    point::list_all,
};
use crate::stores::{GetOptions, read_all};

/// Indexes fetched at once.
const FETCHES: usize = 8;

/// Opens the local index and adds what the site has and it has not.
pub(super) async fn synchronise(repository: &Repository) -> Result<Arc<ChunkCache>> {
    let directory = repository.cache_directory.clone();
    let cache = tokio::task::spawn_blocking(move || ChunkCache::open(&directory)).await.unwrap_or_else(|error| {
        Err(RepositoryError::Cache { path: "local index".to_owned(), detail: format!("a defect: {error}") })
    })?;
    let cache = Arc::new(cache);
    let listed = list_all(repository, INDEXES).await?;
    let there: HashMap<[u8; 32], String> =
        listed.into_iter().filter_map(|object| Some((name_sha256(&object.key)?, object.key))).collect();
    let mut known = cache.indexes()?;
    if known.iter().any(|index| !there.contains_key(index)) {
        // An index went away: what it named may be gone, too.
        cache.clear()?;
        known.clear();
    }
    let wanted: Vec<_> = there.into_iter().filter(|(name, _)| !known.contains(name)).collect();
    let any = !wanted.is_empty();
    let fetched = stream::iter(wanted)
        .map(|(name, key)| async move {
            let bytes = read_all(repository.store.as_ref(), &key, GetOptions::default(), MAX_INDEX_BYTES).await?;
            let (place, catalogue) = (format!("{}/{key}", repository.store.describe()), Arc::clone(&repository.catalogue));
            let packs = off_thread(move || decode_index(&place, &name, &bytes, &catalogue)).await?;
            Ok::<_, RepositoryError>((name, packs))
        })
        .buffer_unordered(FETCHES);
    fetched
        .try_for_each(|(name, packs)| {
            let cache = Arc::clone(&cache);
            off_thread(move || cache.add(&name, &packs))
        })
        .await?;
    if any {
        let saver = Arc::clone(&cache);
        off_thread(move || saver.persist()).await?;
    }
    Ok(cache)
}

async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        Err(RepositoryError::Cache { path: "local index".to_owned(), detail: format!("a defect: {error}") })
    })
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
        let mut report = StructureReport::default();
        for (number, PackRecord { sha256, size, .. }) in cache.packs()? {
            let detail = match there.remove(&sha256) {
                Some(found) if found == u64::from(size) => {
                    report.packs_sound += 1;
                    report.pack_bytes += found;
                    continue;
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
}
