//! Indexes rebuilt from the packs themselves: each pack ends with a sealed directory of its chunks, which the catalogue key opens.
//!
//! Of each pack only header, directory and trailer are read. A pack whose directory cannot be opened stays unknown, and is named.

use std::{collections::HashSet, sync::Arc};

use futures_util::{StreamExt, stream};

use super::{
    ChunkCache, PackCheck, Repository, RepositoryError,
    error::{Result, reading},
    format::{HEADER_BYTES, Id, MAX_PACK_BYTES, index_key, name_sha256, pack_key},
    index::encode_index,
    keys::random,
    pack::{PackEntry, Tail, open_directory},
    seal::SealingKey,
    structure::list_packs,
    workers::off_thread,
};
use crate::stores::{GetOptions, PutOptions, StoreError, read_all};

/// Packs looked at at once.
const READS: usize = 8;
/// What is read of a pack's end at first, bytes: room for the directory of 1,400 chunks, which is most packs'.
const TAIL_BYTES: u64 = 64 << 10;
/// A rebuilt index is stored whenever it has so many chunks …
const CHUNKS_PER_INDEX: usize = 65_536;
/// … or so many packs. Memory is bounded by one index and the directories being read.
const PACKS_PER_INDEX: usize = 64;

/// What a rebuilding did, or would do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rebuilt {
    /// Packs that no usable index named, and whose own directory is sound.
    pub packs: u64,
    /// Their chunks.
    pub chunks: u64,
    /// Keys of the indexes stored.
    pub indexes: Vec<String>,
    /// Packs that no usable index names and whose own directory cannot be used.
    pub unusable: Vec<PackCheck>,
}

impl Repository {
    /// Finds packs that no index in the local one names, and stores indexes that do (`write`): the local one knows them when it is
    /// opened the next time. Without `write` it only says what it would store, and the local index knows them as long as somebody
    /// holds it.
    ///
    /// # Errors
    /// The store's, [`RepositoryError::Cache`].
    pub async fn rebuild_indexes(&self, write: bool) -> Result<Rebuilt> {
        let cache = self.chunks().await?;
        let known: HashSet<[u8; 32]> = cache.packs()?.into_iter().map(|(_, record)| record.sha256).collect();
        let unnamed: Vec<_> = list_packs(self).await?.into_iter().filter(|(name, _)| !known.contains(name)).collect();
        let run: Id = random();
        let key = Arc::new(self.catalogue.sealing_key(&run));
        let mut rebuilt = Rebuilt::default();
        let (mut batch, mut chunks) = (Vec::new(), 0);
        let mut entries = stream::iter(unnamed)
            .map(|(name, pack)| async move { (name, self.pack_entry(&name, pack.size).await) })
            .buffer_unordered(READS);
        while let Some((name, entry)) = entries.next().await {
            match entry {
                Ok(entry) => {
                    rebuilt.packs += 1;
                    rebuilt.chunks += entry.places.len() as u64;
                    chunks += entry.places.len();
                    batch.push(entry);
                }
                Err(error) if error.is_damage() || matches!(error, RepositoryError::Key { .. }) => {
                    rebuilt.unusable.push(PackCheck { key: pack_key(&name), detail: error.to_string() });
                }
                Err(error) => return Err(error),
            }
            if chunks >= CHUNKS_PER_INDEX || batch.len() >= PACKS_PER_INDEX {
                chunks = 0;
                let entries = std::mem::take(&mut batch);
                rebuilt.indexes.extend(self.rebuilt_index(&cache, write.then_some((run, &key)), entries).await?);
            }
        }
        if !batch.is_empty() {
            rebuilt.indexes.extend(self.rebuilt_index(&cache, write.then_some((run, &key)), batch).await?);
        }
        Ok(rebuilt)
    }

    /// Stores an index, and returns its key; or, where nothing is to be written, tells the local one alone, under a name that no site
    /// has: the next look forgets it.
    async fn rebuilt_index(
        &self,
        cache: &Arc<ChunkCache>,
        write: Option<(Id, &Arc<SealingKey>)>,
        entries: Vec<PackEntry>,
    ) -> Result<Option<String>> {
        if let Some((run, key)) = write {
            return Ok(Some(index_key(&self.put_index(run, key, Arc::new(entries)).await?)));
        }
        let cache = Arc::clone(cache);
        off_thread(move || cache.add(&random(), &entries)).await.map(|()| None)
    }

    /// Makes the local index forget what these indexes said: it may have read them when they were whole.
    ///
    /// # Errors
    /// The store's, [`RepositoryError::Cache`].
    pub async fn forget_indexes(&self, keys: impl Iterator<Item = &str>) -> Result<()> {
        let names: Vec<[u8; 32]> = keys.filter_map(name_sha256).collect();
        let cache = self.chunks().await?;
        off_thread(move || cache.forget(&names)).await.map(|_| ())
    }

    /// What a pack says of itself.
    async fn pack_entry(&self, name: &[u8; 32], size: u64) -> Result<PackEntry> {
        let (key, store) = (pack_key(name), self.store.as_ref());
        let place = format!("{}/{key}", store.describe());
        let damaged = |detail: &str| RepositoryError::Damaged { place: place.clone(), detail: detail.to_owned() };
        let size = u32::try_from(size).ok().filter(|size| *size <= MAX_PACK_BYTES).ok_or_else(|| damaged("is too large"))?;
        let end = u64::from(size);
        let range = async |start: u64, end: u64| {
            let options = GetOptions { range: Some(start..end), ..GetOptions::default() };
            read_all(store, &key, options, end - start).await.map_err(reading)
        };
        if end <= HEADER_BYTES as u64 {
            return Err(damaged("is too short"));
        }
        let header = range(0, HEADER_BYTES as u64).await?;
        let mut tail = range(end - TAIL_BYTES.min(end), end).await?;
        let directory = Tail::parse(&place, &tail, end)?.directory_bytes();
        if directory > tail.len() as u64 {
            tail = range(end - directory, end).await?;
        }
        let (name, catalogue) = (*name, Arc::clone(&self.catalogue));
        off_thread(move || open_directory(&place, &name, size, &header, &tail, &catalogue)).await
    }

    /// Stores an index of these packs; returns its name.
    pub(super) async fn put_index(&self, run: Id, key: &Arc<SealingKey>, entries: Arc<Vec<PackEntry>>) -> Result<[u8; 32]> {
        let (catalogue, key) = (Arc::clone(&self.catalogue), Arc::clone(key));
        let (bytes, name) = off_thread(move || Ok(encode_index(&catalogue, &run, &key, &entries))).await?;
        let object = index_key(&name);
        let options = PutOptions { if_absent: true, sha256: Some(name), ..PutOptions::default() };
        match self.store.put(&object, bytes.into(), options).await {
            Ok(_) | Err(StoreError::AlreadyExists { .. }) => Ok(name),
            Err(error) => Err(error.into()),
        }
    }
}
