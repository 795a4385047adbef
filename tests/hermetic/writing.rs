//! On the way in: how often a backup asks the site what is there, and when a pack leaves.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use farshore::{
    repository::{Budget, ChunkList, Cutting, Reader, Writer},
    stores::{MemoryStore, SharedStore},
};
use futures_util::TryStreamExt;

use crate::support::{
    busy_store::{BusyStore, Capacity},
    recovery::{Recovery, noise},
    watched_store::WatchedStore,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_lists_what_the_site_has_once() {
    let recovery = Recovery::new(true);
    recovery.put("object", noise(100_000, 1)).await;
    let store: SharedStore = MemoryStore::with_clock("site", recovery.clock.clone());
    recovery.init(&store).await;
    let cache = recovery.fresh_cache();
    recovery.backup(store.clone(), &cache).await.unwrap();
    let watched = WatchedStore::over(store, recovery.clock.clone());
    recovery.backup(watched.clone(), &cache).await.unwrap();
    let listings = watched.listings();
    for prefix in ["packs/", "indexes/", "damaged/"] {
        assert_eq!(listings.get(prefix), Some(&1), "{prefix}: {listings:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_packed_is_sent_off_in_a_lull_if_it_is_worth_a_pack() {
    let recovery = Recovery::new(true);
    let store: SharedStore = MemoryStore::new("site");
    recovery.init(&store).await;
    let repository = recovery.open(store.clone(), &recovery.fresh_cache()).await.unwrap();
    let writer = Writer::begin(&repository, &recovery.recipients, Arc::clone(&recovery.workers), Budget::new(0)).await.unwrap();
    let write = async |bytes: usize, seed: u64| -> ChunkList {
        let mut content = writer.content(Cutting::Fixed(128 << 10), Some(bytes as u64));
        content.write(Bytes::from(noise(bytes, seed))).await.unwrap();
        content.finish().await.unwrap().0
    };
    let packs = async || store.list("packs/", None, 1000).await.unwrap().objects.len();
    let small = write(100_000, 1).await;
    writer.send_off();
    let large = write(4 << 20, 2).await;
    writer.send_off();
    let came = async {
        while packs().await == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), came).await.expect("it was not sent off");
    let after = write(100_000, 3).await;
    writer.flush().await.unwrap();
    assert_eq!(packs().await, 2, "the small one left with the large one, and what came after by itself");
    let repository = recovery.open(store.clone(), &recovery.fresh_cache()).await.unwrap();
    let reader = Reader::open(&repository, Arc::clone(&recovery.workers), Budget::new(0)).await.unwrap();
    for (list, bytes, seed) in [(small, 100_000, 1), (large, 4 << 20, 2), (after, 100_000, 3)] {
        let read: Vec<Bytes> = reader.read(&list).try_collect().await.unwrap();
        assert!(read.concat() == noise(bytes, seed), "{bytes} bytes");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_just_sent_off_is_waited_for() {
    let recovery = Recovery::new(true);
    let inner: SharedStore = MemoryStore::new("site");
    recovery.init(&inner).await;
    let capacity = Capacity { at_once: 1000, per_second: usize::MAX, latency: Duration::from_millis(100) };
    let store: SharedStore = Arc::new(BusyStore::over(inner.clone(), capacity));
    let repository = recovery.open(store, &recovery.fresh_cache()).await.unwrap();
    let writer = Writer::begin(&repository, &recovery.recipients, Arc::clone(&recovery.workers), Budget::new(0)).await.unwrap();
    for seed in 0..5 {
        let mut content = writer.content(Cutting::Fixed(128 << 10), Some(4 << 20));
        content.write(Bytes::from(noise(4 << 20, seed))).await.unwrap();
        content.finish().await.unwrap();
        writer.send_off();
        writer.settle().await.unwrap();
        assert_eq!(inner.list("packs/", None, 1000).await.unwrap().objects.len() as u64, seed + 1);
    }
}
