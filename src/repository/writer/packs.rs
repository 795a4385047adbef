//! Packs on their way to the site, and the indexes that name them.

use std::{
    collections::hash_map::Entry,
    sync::{Arc, atomic::Ordering},
};

use tokio::sync::oneshot;
use tokio_util::task::{TaskTracker, task_tracker::TaskTrackerToken};

use super::Shared;
use crate::{
    repository::{
        Class, RepositoryError,
        error::Result,
        format::{index_key, pack_key},
        index::encode_index,
        pack::{Pack, PackBuilder, PackEntry},
        workers::off_thread,
    },
    stores::{PutOptions, StoreError},
};

/// An index is stored whenever this many chunks are confirmed and in none: a run that dies loses no more than that.
const CHUNKS_PER_INDEX: usize = 65_536;
/// … or this many packs.
const PACKS_PER_INDEX: usize = 64;
/// A pack is closed before it is full only from this part of its size on: small packs cost a request each, at every time they are read.
const SHARE_WORTH_A_PACK: usize = 8;

/// Names a full pack and sends it off. On a worker thread: hashing is CPU work, and waiting for a free upload holds the
/// workers back, which is how a slow site slows the sources down.
/// `uploading` is the tracker that counted it when it was taken from the builders.
pub(super) fn close(shared: &Arc<Shared>, builder: PackBuilder, uploading: &TaskTrackerToken) {
    let pack = builder.finish(&shared.catalogue_sealing);
    let permit = shared.runtime.block_on(shared.unless_failed(Arc::clone(&shared.uploads).acquire_owned()));
    let Ok(Ok(permit)) = permit else { return };
    let task = Arc::clone(shared);
    let guard = shared.guard();
    let upload = async move {
        if let Ok(Err(error)) = task.unless_failed(upload(&task, pack)).await {
            task.fail(error);
        }
        guard.done();
        drop(permit);
    };
    uploading.task_tracker().spawn_on(upload, &shared.runtime);
}

async fn put(shared: &Shared, key: &str, bytes: Vec<u8>, name: [u8; 32]) -> Result<()> {
    let size = bytes.len() as u64;
    let options = PutOptions { if_absent: true, sha256: Some(name), ..PutOptions::default() };
    match shared.store.put(key, shared.budget.lend(bytes, None), options).await {
        Ok(stored) if stored.size == size => {}
        Ok(stored) => {
            return Err(RepositoryError::Damaged {
                place: format!("{}/{key}", shared.store.describe()),
                detail: format!("the site confirmed {} bytes of {size}", stored.size),
            });
        }
        // The name is the SHA-256 of the bytes: what is there is the same, if it is whole.
        Err(StoreError::AlreadyExists { .. }) if shared.store.stat(key).await?.size == size => {}
        Err(error) => return Err(error.into()),
    }
    shared.counters.bytes_stored.fetch_add(size, Ordering::Relaxed);
    Ok(())
}

async fn upload(shared: &Arc<Shared>, pack: Pack) -> Result<()> {
    put(shared, &pack_key(&pack.entry.sha256), pack.bytes, pack.entry.sha256).await?;
    shared.counters.packs.fetch_add(1, Ordering::Relaxed);
    let due = {
        shared.own.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(pack.entry.sha256);
        let mut confirmed = shared.confirmed.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        confirmed.push(pack.entry);
        let chunks: usize = confirmed.iter().map(|entry| entry.places.len()).sum();
        if chunks >= CHUNKS_PER_INDEX || confirmed.len() >= PACKS_PER_INDEX { std::mem::take(&mut *confirmed) } else { Vec::new() }
    };
    store_index(shared, due).await
}

async fn store_index(shared: &Arc<Shared>, entries: Vec<PackEntry>) -> Result<()> {
    if entries.is_empty() {
        return Ok(());
    }
    let encoder = Arc::clone(shared);
    let (bytes, name, entries) = off_thread(move || {
        let (bytes, name) = encode_index(&encoder.catalogue, &encoder.run, &encoder.catalogue_sealing, &entries);
        Ok((bytes, name, entries))
    })
    .await?;
    put(shared, &index_key(&name), bytes, name).await?;
    let cacher = Arc::clone(shared);
    off_thread(move || {
        cacher.cache.add(&name, &entries)?;
        cacher.release(entries.iter().flat_map(|entry| entry.places.iter().map(|place| &place.id)));
        Ok(())
    })
    .await
}

/// See [`super::Writer::send_off`].
pub(super) fn send_off(shared: &Arc<Shared>) {
    let (builder, uploading) = {
        let mut builders = shared.builders.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let Entry::Occupied(open) = builders.entry(Class::Data) else { return };
        if open.get().len() < shared.budget.pack_bytes() / SHARE_WORTH_A_PACK {
            return;
        }
        // Under the same lock: a flush finds it among the builders or among the uploads.
        (open.remove(), shared.uploading.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).token())
    };
    // Nobody waits for it before a flush does.
    drop(close_by_a_worker(shared, builder, uploading));
}

/// Has a worker [`close`] a pack, and reply when that is done.
fn close_by_a_worker(shared: &Arc<Shared>, builder: PackBuilder, uploading: TaskTrackerToken) -> oneshot::Receiver<()> {
    let closer = Arc::clone(shared);
    let (reply, closed) = oneshot::channel();
    shared.workers.run(move |_| {
        let guard = closer.guard();
        close(&closer, builder, &uploading);
        guard.done();
        let _ = reply.send(());
    });
    closed
}

/// See [`super::Writer::flush`].
pub(super) async fn flush(shared: &Arc<Shared>) -> Result<()> {
    let (open, begun): (Vec<_>, TaskTracker) = {
        let mut builders = shared.builders.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let open = builders.drain().map(|(_, builder)| builder).filter(|builder| !builder.is_empty()).collect();
        (open, std::mem::take(&mut *shared.uploading.lock().unwrap_or_else(|poisoned| poisoned.into_inner())))
    };
    for builder in open {
        let closed = close_by_a_worker(shared, builder, begun.token());
        // A reply that never comes has failed the run: the check below says so.
        shared.unless_failed(closed).await?.ok();
    }
    begun.close();
    shared.unless_failed(begun.wait()).await?;
    shared.check()?;
    let rest = std::mem::take(&mut *shared.confirmed.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
    store_index(shared, rest).await?;
    shared.check()
}
