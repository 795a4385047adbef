//! Repacking: of packs of which little is needed, that part goes into new ones.
//!
//! A pack is used only if its SHA-256 is its name, so that no damage is given a new name. Chunks under a data key are taken over as
//! they are sealed, without that key; chunks under a run's catalogue key are opened and sealed anew under this run's. The new
//! packs are stored, and then their index; only after that may the old ones be doomed.

use std::sync::Arc;

use super::Removal;
use crate::{
    repository::{
        Budget, Class, PackCheck, PackRecord, Reach, RepositoryError,
        chunk::open_chunk,
        error::{Result, reading},
        format::{Header, Kind, MAX_CHUNK_BYTES, pack_key},
        keys::Catalogue,
        pack::{Pack, PackBuilder, PackEntry, read_pack},
        seal::SealingKey,
        workers::off_thread,
    },
    stores::{GetOptions, PutOptions, StoreError, read_all},
};

/// What repacking did.
#[derive(Debug, Default)]
pub struct Repacked {
    /// Packs whose needed part now lies elsewhere.
    pub replaced: Vec<[u8; 32]>,
    /// Bytes of them.
    pub bytes_before: u64,
    /// Packs written.
    pub packs: u64,
    /// Bytes of these.
    pub bytes_after: u64,
    /// Packs that are damaged, and were left as they are.
    pub damaged: Vec<PackCheck>,
}

/// Packs that were filled and stored since the last index.
struct Open {
    builder: Option<(PackBuilder, Header)>,
    stored: Vec<PackEntry>,
    /// Packs of which a part is in `builder` or `stored`.
    emptied: Vec<[u8; 32]>,
}

impl Removal<'_> {
    /// Puts what is needed of these packs (by number) into new ones. Two packs are in memory at a time.
    ///
    /// # Errors
    /// The store's.
    pub async fn repack(
        &self,
        mut packs: Vec<(u32, PackRecord)>,
        reach: &Reach,
        budget: &Budget,
        mut progress: impl FnMut(u64),
    ) -> Result<Repacked> {
        // What can share a pack comes together.
        packs.sort_by_key(|(number, record)| (record.class == Class::Catalogue, record.data_key, *number));
        let mut done = Repacked::default();
        let mut open = Open { builder: None, stored: Vec::new(), emptied: Vec::new() };
        for (number, record) in packs {
            let Some(needed) = reach.needed(number) else { continue };
            let header = self.header(&record);
            let most = (budget.pack_bytes() + MAX_CHUNK_BYTES) as u64;
            if open.builder.as_ref().is_some_and(|(builder, other)| *other != header || builder.len() as u64 + needed.bytes > most)
            {
                self.close(&mut open, &mut done).await?;
            }
            let (mut builder, _) = open
                .builder
                .take()
                .unwrap_or_else(|| (PackBuilder::new(header, budget.buffer(budget.pack_bytes() + MAX_CHUNK_BYTES)), header));
            let bytes = match self.whole(&record).await {
                Ok(bytes) => bytes,
                Err(error) if error.is_damage() => {
                    done.damaged.push(PackCheck { key: pack_key(&record.sha256), detail: error.to_string() });
                    open.builder = Some((builder, header)).filter(|(builder, _)| !builder.is_empty());
                    continue;
                }
                Err(error) => return Err(error),
            };
            let (place, catalogue, key) = (pack_key(&record.sha256), Arc::clone(&self.repository.catalogue), Arc::clone(&self.key));
            let (needed, size, sha256) = (needed.clone(), record.size, record.sha256);
            let (filled, outcome) = off_thread(move || {
                // A part that was moved before damage showed is in two packs then: it costs room and no truth.
                let outcome = move_chunks(&place, &record, &bytes, &catalogue, &key, |ordinal| needed.has(ordinal), &mut builder);
                Ok((builder, outcome))
            })
            .await?;
            builder = filled;
            match outcome {
                Ok(()) => {
                    done.bytes_before += u64::from(size);
                    progress(u64::from(size));
                    open.emptied.push(sha256);
                }
                Err(error) if error.is_damage() => {
                    done.damaged.push(PackCheck { key: pack_key(&sha256), detail: error.to_string() });
                }
                Err(error) => return Err(error),
            }
            let full = builder.len() >= budget.pack_bytes();
            open.builder = Some((builder, header)).filter(|(builder, _)| !builder.is_empty());
            if full {
                self.close(&mut open, &mut done).await?;
            }
        }
        self.close(&mut open, &mut done).await?;
        self.store_index(std::mem::take(&mut open.stored)).await?;
        done.replaced.append(&mut open.emptied);
        Ok(done)
    }

    fn header(&self, record: &PackRecord) -> Header {
        let kind = if record.class == Class::Data { Kind::DataPack } else { Kind::CataloguePack };
        Header { kind, catalogue_key: self.repository.catalogue.id, run: self.run, data_key: record.data_key }
    }

    async fn whole(&self, record: &PackRecord) -> Result<bytes::Bytes> {
        let (store, key) = (self.repository.store.as_ref(), pack_key(&record.sha256));
        read_all(store, &key, GetOptions::sealed(), record.size.into()).await.map_err(reading)
    }

    /// Stores the pack that is being filled; the packs that were emptied into it count once its index is stored.
    async fn close(&self, open: &mut Open, done: &mut Repacked) -> Result<()> {
        let Some((builder, _)) = open.builder.take() else { return Ok(()) };
        let key = Arc::clone(&self.key);
        let Pack { entry, bytes } = off_thread(move || Ok(builder.finish(&key))).await?;
        let size = bytes.len() as u64;
        let options = PutOptions { if_absent: true, sha256: Some(entry.sha256), ..PutOptions::default() };
        match self.repository.store.put(&pack_key(&entry.sha256), bytes.into(), options).await {
            Ok(_) | Err(StoreError::AlreadyExists { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        done.packs += 1;
        done.bytes_after += size;
        open.stored.push(entry);
        // An index for each 64 packs, as the writer has it.
        if open.stored.len() >= 64 {
            self.store_index(std::mem::take(&mut open.stored)).await?;
            done.replaced.append(&mut open.emptied);
        }
        Ok(())
    }
}

/// Appends the chunks that are `wanted`, by their order, to a pack.
fn move_chunks(
    place: &str,
    record: &PackRecord,
    bytes: &[u8],
    catalogue: &Catalogue,
    key: &SealingKey,
    wanted: impl Fn(u32) -> bool,
    builder: &mut PackBuilder,
) -> Result<()> {
    let entry = read_pack(place, &record.sha256, bytes, catalogue)?;
    let same = (entry.class, entry.run, entry.data_key) == (record.class, record.run, record.data_key);
    if !same || entry.directory_hash() != record.directory {
        return Err(RepositoryError::Damaged {
            place: place.to_owned(),
            detail: "its header or directory is not what its index says".to_owned(),
        });
    }
    let opener = catalogue.opening_key(&record.run);
    let mut encoded = Vec::new();
    for (ordinal, chunk) in (0..).zip(&entry.places) {
        if !wanted(ordinal) {
            continue;
        }
        let start = chunk.offset as usize;
        let sealed = &bytes[start..start + chunk.sealed_bytes as usize];
        match record.class {
            Class::Data => builder.push_sealed(chunk, sealed),
            Class::Catalogue => {
                open_chunk(&opener, &chunk.id, chunk.encoding, chunk.plain_bytes, sealed, &mut encoded, 0).map_err(|error| {
                    RepositoryError::Damaged { place: format!("{place}, chunk {}", chunk.id), detail: error.to_string() }
                })?;
                builder.push(key, chunk.id, chunk.plain_bytes, chunk.encoding, &encoded);
            }
        }
    }
    Ok(())
}
