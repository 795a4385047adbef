//! Reading with little memory and few requests: nobody holds what another one waits for, and waits for him.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use farshore::{
    repository::{Budget, ChunkList, Cutting, Reader, Repository, Writer},
    stores::{Limit, MemoryStore, SharedStore},
};
use futures_util::{StreamExt, TryStreamExt};

use crate::support::{
    busy_store::{BusyStore, Capacity},
    recovery::{Recovery, noise},
};

/// Twice as many bytes as the least memory has room for, in pieces of 8 MiB.
const BYTES: usize = 64 << 20;

async fn content(repository: &Repository, reader: &Reader) -> ChunkList {
    let name = repository.point_names(None).await.unwrap().remove(0);
    let point = repository.point(&name).await.unwrap();
    let entry = reader.entries(&point.snapshots[0]).try_next().await.unwrap().unwrap();
    entry.content.unwrap()
}

async fn backed_up() -> (Recovery, SharedStore) {
    let recovery = Recovery::new(true);
    recovery.put("large", noise(BYTES, 1)).await;
    let store: SharedStore = MemoryStore::with_clock("site", recovery.clock.clone());
    recovery.init(&store).await;
    recovery.backup(store.clone(), &recovery.fresh_cache()).await.unwrap();
    (recovery, store)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_longer_than_the_memory_is_read_ahead_and_comes_in_order() {
    let (recovery, store) = backed_up().await;
    let capacity = Capacity { at_once: 1000, per_second: usize::MAX, latency: Duration::from_micros(1) };
    let busy: SharedStore = Arc::new(BusyStore::over(store, capacity));
    let repository = recovery.open(busy, &recovery.fresh_cache()).await.unwrap();
    let reader = Reader::open(&repository, Arc::clone(&recovery.workers), Budget::new(0)).await.unwrap();
    let list = content(&repository, &reader).await;
    for round in 0..10 {
        let (mut pieces, mut bytes) = (reader.read(&list), 0);
        while let Some(piece) = tokio::time::timeout(Duration::from_secs(30), pieces.next()).await.expect("it hangs") {
            bytes += piece.unwrap().len();
        }
        assert_eq!(bytes, BYTES, "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_read_ahead_and_not_asked_for_leaves_others_their_requests() {
    let (recovery, store) = backed_up().await;
    let capacity = Capacity { at_once: 1000, per_second: usize::MAX, latency: Duration::from_millis(20) };
    let limited: SharedStore = Limit::over(Arc::new(BusyStore::over(store, capacity)), 1);
    let repository = recovery.open(limited.clone(), &recovery.fresh_cache()).await.unwrap();
    let reader = Reader::open(&repository, Arc::clone(&recovery.workers), Budget::new(0)).await.unwrap();
    let mut pieces = reader.read(&content(&repository, &reader).await);
    let first = pieces.next().await.unwrap().unwrap();
    // Others are on their way, and nobody asks for them now.
    let other = tokio::time::timeout(Duration::from_secs(10), limited.stat("repository.json"));
    assert!(other.await.expect("it hangs").unwrap().size > 0);
    let rest = pieces.map_ok(|piece| piece.len()).try_fold(0, |sum, bytes| std::future::ready(Ok(sum + bytes)));
    let rest: usize = tokio::time::timeout(Duration::from_secs(60), rest).await.expect("it hangs").unwrap();
    assert_eq!(first.len() + rest, BYTES);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_of_a_fixed_size_is_the_same_however_its_bytes_come() {
    const PART: usize = 128 << 10;
    let recovery = Recovery::new(true);
    let store: SharedStore = MemoryStore::new("site");
    recovery.init(&store).await;
    let repository = recovery.open(store.clone(), &recovery.fresh_cache()).await.unwrap();
    let writer = Writer::begin(&repository, &recovery.recipients, Arc::clone(&recovery.workers), Budget::new(0)).await.unwrap();
    // Three times what the least memory holds, so that shares go back.
    let bytes = Bytes::from(noise(96 << 20, 7));
    let kept = 9 * PART + 100;
    let mut lists = Vec::new();
    for (length, step, hint) in [
        (kept, kept, Some(kept as u64)),
        (kept, PART, Some(kept as u64)),
        (kept, 1 << 20, None),
        (kept, PART - 1, Some(5 * PART as u64)),
        (kept, PART + 1, Some(100 * PART as u64)),
        (kept, 7000, Some(0)),
        (bytes.len(), 1 << 20, Some(bytes.len() as u64)),
    ] {
        let mut content = writer.content(Cutting::Fixed(PART as u32), hint);
        for from in (0..length).step_by(step) {
            let piece = bytes.slice(from..length.min(from + step));
            tokio::time::timeout(Duration::from_secs(60), content.write(piece)).await.expect("it hangs").unwrap();
        }
        let (list, size) = content.finish().await.unwrap();
        assert_eq!(size, length as u64);
        lists.push((list, length, step));
    }
    writer.flush().await.unwrap();
    let repository = recovery.open(store, &recovery.fresh_cache()).await.unwrap();
    let reader = Reader::open(&repository, Arc::clone(&recovery.workers), Budget::new(0)).await.unwrap();
    for (list, length, step) in lists {
        let chunks = reader.flatten(&list).await.unwrap();
        let parts: Vec<usize> = chunks.iter().map(|chunk| chunk.length as usize).collect();
        assert!(parts[..length / PART].iter().all(|part| *part == PART), "in steps of {step}");
        assert_eq!(parts.iter().sum::<usize>(), length);
        let (mut pieces, mut at) = (reader.read(&list), 0);
        while let Some(piece) = pieces.try_next().await.unwrap() {
            assert!(piece == bytes[at..at + piece.len()], "in steps of {step}, at {at}");
            at += piece.len();
        }
        assert_eq!(at, length);
    }
}
