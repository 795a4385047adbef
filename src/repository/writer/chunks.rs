//! One chunk through the workers: name it, know it or not, compress, seal, pack.

use std::sync::{Arc, atomic::Ordering};

use bytes::Bytes;

use super::{Shared, content::Slot, packs};
use crate::repository::{
    ChunkId, ChunkRef, Class, RepositoryError, chunk::Encoding, error::Result, format::MAX_CHUNK_BYTES, pack::PackBuilder,
    workers::Desk,
};

impl Shared {
    /// Queues a chunk for the workers; `slot` learns its name.
    pub(super) fn chunk(shared: &Arc<Self>, class: Class, plain: Bytes, slot: Slot) {
        let this = Arc::clone(shared);
        shared.workers.run(move |desk| {
            let guard = this.guard();
            if let Err(error) = this.check().and_then(|()| process(&this, desk, class, &plain, &slot)) {
                this.fail(error);
            }
            guard.done();
        });
    }

    /// Whether a stored index names the chunk, and its pack is at the site, not known to be damaged, and not doomed.
    pub(super) fn has(&self, chunk: &ChunkRef) -> Result<bool> {
        let Some(location) = self.cache.find(chunk)? else { return Ok(false) };
        let there = self.cache.seen().is_adoptable(location.pack);
        if there {
            self.found.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).insert(location.pack);
        }
        Ok(there)
    }

    /// Whether the repository has the chunk; if not, the caller must store it: nobody else of this run will.
    fn claim(&self, chunk: &ChunkRef) -> Result<bool> {
        let id = chunk.id;
        let mut shard = self.claims[id.0[0] as usize % self.claims.len()].lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        // In this order: chunks move from the claims to the cache, and leave the claims only when they are there.
        if shard.contains(&id) || self.has(chunk)? {
            return Ok(true);
        }
        shard.insert(id);
        Ok(false)
    }

    /// Chunks that a stored index names now need no claim any more.
    pub(super) fn release<'a>(&self, ids: impl Iterator<Item = &'a ChunkId>) {
        for id in ids {
            self.claims[id.0[0] as usize % self.claims.len()].lock().unwrap_or_else(|poisoned| poisoned.into_inner()).remove(id);
        }
    }
}

fn process(shared: &Arc<Shared>, desk: &mut Desk, class: Class, plain: &Bytes, slot: &Slot) -> Result<()> {
    let id = shared.catalogue.chunk_id(class, plain);
    let length = u32::try_from(plain.len()).map_err(|_| RepositoryError::Refused {
        subject: "a chunk".to_owned(),
        detail: "a defect: is longer than 4 GiB".to_owned(),
    })?;
    let known = shared.claim(&ChunkRef { id, length })?;
    slot.fill(ChunkRef { id, length });
    let counters = &shared.counters;
    counters.bytes_read.fetch_add(u64::from(length), Ordering::Relaxed);
    if known {
        counters.chunks_known.fetch_add(1, Ordering::Relaxed);
        return Ok(());
    }
    counters.chunks_new.fetch_add(1, Ordering::Relaxed);
    counters.bytes_new.fetch_add(u64::from(length), Ordering::Relaxed);
    let encoding = desk.encode(plain);
    let encoded: &[u8] = if encoding == Encoding::Zstd { &desk.scratch } else { plain };
    let key = match class {
        Class::Data => &shared.data_sealing,
        Class::Catalogue => &shared.catalogue_sealing,
    };
    let full = {
        // Sealed right into the pack: the lock is held for a copy and for AES, a fiftieth of what compressing took.
        let mut builders = shared.builders.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let target = shared.budget.pack_bytes();
        // Room for the chunk that goes beyond the target, and for the directory.
        let buffer = || shared.budget.buffer(target + MAX_CHUNK_BYTES + (1 << 20));
        let builder = builders.entry(class).or_insert_with(|| PackBuilder::new(shared.header(class), buffer()));
        builder.push(key, id, length, encoding, encoded);
        let full = if builder.len() >= target { builders.remove(&class) } else { None };
        // Under the same lock: a flush finds it among the builders or among the uploads.
        full.map(|builder| (builder, shared.uploading.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).token()))
    };
    if let Some((builder, uploading)) = full {
        packs::close(shared, builder, &uploading);
    }
    Ok(())
}
