//! Reading with little memory and few requests: nobody holds what another one waits for, and waits for him.

use std::{sync::Arc, time::Duration};

use farshore::{
    repository::{Budget, ChunkList, Reader, Repository},
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
