//! Stores that refuse what is too much for them, and stores that are far away: how many requests are under way.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use farshore::{
    clock::TimerClock,
    stores::{Limit, MemoryStore, PutOptions, Retry, RetryPolicy, SharedStore, Store},
};
use tokio::{task::JoinSet, time::Instant};

use crate::support::{
    busy_store::{BusyStore, Capacity, Second},
    recovery::Recovery,
};

/// Nothing but its latency bounds it.
fn free(latency_ms: u64) -> Capacity {
    Capacity { at_once: usize::MAX, per_second: usize::MAX, latency: Duration::from_millis(latency_ms) }
}

/// Callers that always have something to do, as the tests' own clock goes.
struct Callers {
    busy: Arc<BusyStore>,
    stop: Arc<AtomicBool>,
    calls: JoinSet<()>,
}

impl Callers {
    async fn start(capacity: Capacity, callers: usize, most: usize) -> Self {
        let memory = MemoryStore::new("busy");
        memory.put("k", Bytes::from_static(b"x"), PutOptions::default()).await.unwrap();
        let busy = Arc::new(BusyStore::over(memory, capacity));
        let store: SharedStore = Retry::over(Limit::over(busy.clone(), most), RetryPolicy::default(), TimerClock::shared());
        let (stop, mut calls) = (Arc::new(AtomicBool::new(false)), JoinSet::new());
        for _ in 0..callers {
            let (store, stop) = (store.clone(), Arc::clone(&stop));
            calls.spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    store.stat("k").await.unwrap();
                }
            });
        }
        Self { busy, stop, calls }
    }

    /// What the next seconds see.
    async fn seconds(&self, count: usize) -> Vec<Second> {
        let before = self.busy.seconds().len();
        tokio::time::sleep(Duration::from_secs(count as u64)).await;
        self.busy.seconds().into_iter().skip(before).take(count).collect()
    }

    async fn end(mut self) {
        self.stop.store(true, Ordering::SeqCst);
        while let Some(ended) = self.calls.join_next().await {
            ended.unwrap();
        }
    }
}

fn sum(seconds: &[Second], of: impl Fn(&Second) -> usize) -> usize {
    seconds.iter().map(of).sum()
}

#[tokio::test(start_paused = true)]
async fn a_server_that_takes_few_at_once_is_given_few_and_more_as_soon_as_it_takes_more() {
    let latency = Duration::from_millis(20);
    let callers = Callers::start(Capacity { at_once: 6, per_second: usize::MAX, latency }, 128, 128).await;
    callers.seconds(3).await;
    let narrow = callers.seconds(60).await;
    let (done, refused) = (sum(&narrow, |second| second.done), sum(&narrow, |second| second.refused));
    assert!(refused * 50 < done, "{refused} refused of {done}");
    // Six at a time are 300 a second.
    assert!(done >= 60 * 300 * 6 / 10, "{done}");
    callers.busy.set(free(20));
    callers.seconds(30).await;
    let wide = callers.seconds(3).await;
    assert!(wide.iter().all(|second| second.most_at_once >= 100), "{wide:?}");
    callers.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_takes_so_many_in_a_second_is_asked_hardly_more() {
    let latency = Duration::from_millis(5);
    // Below one at a time: 100 requests of 5 ms are half a second.
    let callers = Callers::start(Capacity { at_once: usize::MAX, per_second: 100, latency }, 64, 64).await;
    callers.seconds(10).await;
    let narrow = callers.seconds(60).await;
    let (done, refused) = (sum(&narrow, |second| second.done), sum(&narrow, |second| second.refused));
    assert!(refused * 10 < done, "{refused} refused of {done}");
    assert!(done >= 60 * 100 / 2, "{done}");
    callers.busy.set(free(5));
    callers.seconds(60).await;
    assert!(callers.seconds(1).await[0].most_at_once >= 16);
    callers.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_far_server_gets_as_many_requests_as_the_way_takes_to_fill() {
    let callers = Callers::start(free(80), 512, 256).await;
    callers.seconds(4).await;
    let far = callers.seconds(2).await;
    // 256 under way in each 80 ms.
    assert!(sum(&far, |second| second.done) >= 2 * 256 * 12 * 9 / 10, "{far:?}");
    assert!(far.iter().all(|second| second.most_at_once <= 256), "{far:?}");
    callers.end().await;
}

#[tokio::test]
async fn a_backup_of_a_busy_bucket_to_a_busy_site_ends() {
    let (recovery, busy) =
        (Recovery::new(true), |at_once| Capacity { at_once, per_second: usize::MAX, latency: Duration::from_millis(2) });
    let bucket = MemoryStore::new("bucket");
    for number in 0..400 {
        bucket.put(&format!("k{number:03}"), Bytes::from(vec![number as u8; 2000]), PutOptions::default()).await.unwrap();
    }
    let over = |inner: SharedStore, at_once| {
        let busy = Arc::new(BusyStore::over(inner, busy(at_once)));
        let clock = TimerClock::shared();
        (busy.clone(), Retry::over(Limit::over(busy, 64), RetryPolicy::default(), clock) as SharedStore)
    };
    let (_, source) = over(bucket, 4);
    let site: SharedStore = recovery.site_of(&Default::default()).await;
    recovery.init(&site).await;
    let (refusing, far) = over(site, 2);
    let cache = tempfile::tempdir().unwrap();
    let started = Instant::now();
    let backed = recovery.backup_to(source, &[recovery.far("far", far)], cache.path()).await.unwrap();
    assert!(backed.failed.is_empty());
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
    let seconds = refusing.seconds();
    let (done, refused) = (sum(&seconds, |second| second.done), sum(&seconds, |second| second.refused));
    assert!(refused <= 8 + done / 5, "{refused} refused of {done}");
}
