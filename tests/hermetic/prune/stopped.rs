//! The real prune and the real backup, stopped: a prune that ends after any of its writes, a backup that sleeps through a whole grace,
//! an undelete that comes too late.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use farshore::stores::{
    Download, GetOptions, ObjectAttributes, ObjectStat, Page, PutOptions, SharedStore, Store, StoreError, UploadedPart,
};
use tokio::sync::Notify;

use super::basics::{DAY, HOUR, Points, begun};
use crate::support::recovery::{Recovery, noise};

/// Breaks after so many puts and deletes; holds the first pack back while it is told to.
#[derive(Debug)]
struct Stopping {
    inner: SharedStore,
    writes_left: AtomicUsize,
    holds_packs: AtomicBool,
    pack_came: Notify,
    pack_may_go: Notify,
}

impl Stopping {
    fn over(inner: SharedStore, writes_left: usize) -> Arc<Self> {
        Arc::new(Self {
            inner,
            writes_left: writes_left.into(),
            holds_packs: false.into(),
            pack_came: Notify::new(),
            pack_may_go: Notify::new(),
        })
    }

    fn write(&self) -> Result<(), StoreError> {
        let left = self.writes_left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        left.map(|_| ()).map_err(|_| StoreError::Unavailable { place: self.describe(), detail: "the connection broke".to_owned() })
    }
}

#[async_trait]
impl Store for Stopping {
    fn describe(&self) -> String {
        self.inner.describe()
    }
    async fn put(&self, key: &str, body: Bytes, options: PutOptions) -> Result<ObjectStat, StoreError> {
        if key.starts_with("packs/") && self.holds_packs.swap(false, Ordering::SeqCst) {
            self.pack_came.notify_one();
            self.pack_may_go.notified().await;
        }
        self.write()?;
        self.inner.put(key, body, options).await
    }
    async fn get(&self, key: &str, options: GetOptions) -> Result<Download, StoreError> {
        self.inner.get(key, options).await
    }
    async fn stat(&self, key: &str) -> Result<ObjectStat, StoreError> {
        self.inner.stat(key).await
    }
    async fn list(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> Result<Page, StoreError> {
        self.inner.list(prefix, start_after, limit).await
    }
    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.write()?;
        self.inner.delete(key).await
    }
    async fn begin_upload(&self, key: &str, attributes: ObjectAttributes) -> Result<String, StoreError> {
        self.inner.begin_upload(key, attributes).await
    }
    async fn upload_part(&self, key: &str, upload: &str, number: u32, body: Bytes) -> Result<UploadedPart, StoreError> {
        self.inner.upload_part(key, upload, number, body).await
    }
    async fn complete_upload(
        &self,
        key: &str,
        upload: &str,
        parts: &[UploadedPart],
        if_absent: bool,
    ) -> Result<ObjectStat, StoreError> {
        self.inner.complete_upload(key, upload, parts, if_absent).await
    }
    async fn abort_upload(&self, key: &str, upload: &str) -> Result<(), StoreError> {
        self.inner.abort_upload(key, upload).await
    }
    async fn time(&self) -> Result<DateTime<Utc>, StoreError> {
        self.inner.time().await
    }
    async fn create(&self) -> Result<(), StoreError> {
        self.inner.create().await
    }
}

/// Two points, of which the older one is to go: only it needs `old`, and both need `shared`.
pub(super) async fn two_points() -> (Recovery, SharedStore, Points) {
    let (recovery, site) = begun(true).await;
    let store: SharedStore = site;
    let mut points = Points(Vec::new());
    recovery.put("old", noise(200_000, 1)).await;
    points.add(&recovery, &store).await;
    recovery.clock.advance(DAY);
    recovery.source.delete("old").await.unwrap();
    recovery.put("shared", noise(100_000, 2)).await;
    points.add(&recovery, &store).await;
    points.check(&recovery, &store, "begun").await;
    recovery.clock.advance(4 * DAY);
    (recovery, store, points)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prune_that_stops_after_any_write_leaves_every_listed_point_whole_and_the_next_one_goes_on() {
    let mut stops = 0;
    for stop in 0.. {
        let what = format!("after {stop} writes");
        let (recovery, store, mut points) = two_points().await;
        recovery.prune(store.clone(), &recovery.fresh_cache()).await.unwrap();
        recovery.clock.advance(27 * HOUR);
        let ended = recovery.prune(Stopping::over(store.clone(), stop), &recovery.fresh_cache()).await;
        if let Err(error) = &ended {
            assert!(error.to_string().contains("the connection broke"), "{what}: {error}");
            stops += 1;
        }
        points.check(&recovery, &store, &what).await;
        // What had been doomed comes back in the source meanwhile.
        recovery.put("old", noise(200_000, 1)).await;
        points.add(&recovery, &store).await;
        for _ in 0..2 {
            recovery.clock.advance(27 * HOUR);
            recovery.prune(store.clone(), &recovery.fresh_cache()).await.unwrap_or_else(|error| panic!("{what}: {error}"));
        }
        assert!(points.check(&recovery, &store, &what).await.len() <= 2, "{what}");
        if ended.is_ok() {
            break;
        }
    }
    // A point, an index in place of another or none, packs, a key, the record.
    assert!(stops >= 4, "{stops}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_that_sleeps_until_prune_has_dooms_deletions_and_record_behind_it_makes_no_point() {
    let (recovery, store, points) = two_points().await;
    recovery.put("old", noise(200_000, 1)).await;
    let held = Stopping::over(store.clone(), usize::MAX);
    held.holds_packs.store(true, Ordering::SeqCst);
    let cache = recovery.fresh_cache();
    let (made, ()) = tokio::join!(recovery.backup(held.clone(), &cache), async {
        held.pack_came.notified().await;
        // Also the key of the sleeping run goes: no index names a pack under it yet.
        for _ in 0..4 {
            recovery.prune(store.clone(), &recovery.fresh_cache()).await.unwrap();
            recovery.clock.advance(27 * HOUR);
        }
        let records = store.list("doomed/", None, 10).await.unwrap().objects;
        assert!(records.is_empty(), "nothing is left that tells of what was deleted: {records:?}");
        held.pack_may_go.notify_one();
    });
    let said = made.unwrap_err().to_string();
    assert!(said.contains("a prune doomed what this backup relies on") && said.contains("run it again"), "{said}");
    assert_eq!(points.check(&recovery, &store, "after").await.len(), 1);
    recovery.backup(store, &recovery.fresh_cache()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_point_comes_back_within_its_grace_and_not_when_a_prune_may_be_about_to_delete_it() {
    for (hours, minutes, in_time) in [(20, 0, true), (25, 55, false), (27, 0, false)] {
        let (recovery, store, points) = two_points().await;
        recovery.prune(store.clone(), &recovery.fresh_cache()).await.unwrap();
        recovery.clock.advance(hours * HOUR + minutes * HOUR / 60);
        let undone = recovery.undelete(store.clone(), &recovery.fresh_cache(), &points.0[0].0).await;
        assert_eq!(undone.is_ok(), in_time, "after {hours} h {minutes} min: {undone:?}");
        for _ in 0..3 {
            recovery.clock.advance(27 * HOUR);
            recovery.prune(store.clone(), &recovery.fresh_cache()).await.unwrap();
        }
        assert_eq!(points.check(&recovery, &store, "after").await.len(), if in_time { 2 } else { 1 });
    }
}
