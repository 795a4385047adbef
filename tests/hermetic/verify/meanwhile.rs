//! A backup that commits while a verification or a repair is at work: what is new is no damage.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use farshore::{
    operations::VerifyLevel,
    stores::{Download, GetOptions, ObjectAttributes, ObjectStat, Page, PutOptions, SharedStore, Store, StoreError, UploadedPart},
};
use tokio::sync::Notify;

use super::nightly;
use crate::support::recovery::{Recovery, noise};

/// A site whose caller waits before one of its calls.
#[derive(Debug)]
struct Waits {
    inner: SharedStore,
    calls_left: AtomicI64,
    came: Notify,
    may_go: Notify,
}

impl Waits {
    async fn call(&self) {
        if self.calls_left.fetch_sub(1, Ordering::SeqCst) == 0 {
            self.came.notify_one();
            self.may_go.notified().await;
        }
    }

    fn has_come(&self) -> bool {
        self.calls_left.load(Ordering::SeqCst) < 0
    }
}

#[async_trait]
impl Store for Waits {
    fn describe(&self) -> String {
        self.inner.describe()
    }
    async fn put(&self, key: &str, body: Bytes, options: PutOptions) -> Result<ObjectStat, StoreError> {
        self.call().await;
        self.inner.put(key, body, options).await
    }
    async fn get(&self, key: &str, options: GetOptions) -> Result<Download, StoreError> {
        self.call().await;
        self.inner.get(key, options).await
    }
    async fn stat(&self, key: &str) -> Result<ObjectStat, StoreError> {
        self.call().await;
        self.inner.stat(key).await
    }
    async fn list(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> Result<Page, StoreError> {
        self.call().await;
        self.inner.list(prefix, start_after, limit).await
    }
    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        panic!("neither deletes {key}")
    }
    async fn begin_upload(&self, key: &str, _: ObjectAttributes) -> Result<String, StoreError> {
        panic!("nothing here is large enough for a multipart upload, and {key} is")
    }
    async fn upload_part(&self, key: &str, _: &str, _: u32, _: Bytes) -> Result<UploadedPart, StoreError> {
        panic!("nothing here is large enough for a multipart upload, and {key} is")
    }
    async fn complete_upload(&self, key: &str, _: &str, _: &[UploadedPart], _: bool) -> Result<ObjectStat, StoreError> {
        panic!("nothing here is large enough for a multipart upload, and {key} is")
    }
    async fn abort_upload(&self, key: &str, _: &str) -> Result<(), StoreError> {
        panic!("nothing here is large enough for a multipart upload, and {key} is")
    }
    async fn time(&self) -> Result<DateTime<Utc>, StoreError> {
        self.call().await;
        self.inner.time().await
    }
    async fn create(&self) -> Result<(), StoreError> {
        self.inner.create().await
    }
}

#[derive(Debug, Clone, Copy)]
enum Reads {
    Structure,
    Everything,
    Repair,
}

/// What a reading finds wrong when a backup commits before its call of this number, and whether it makes so many calls.
async fn wrong_after(call: i64, reads: Reads) -> (Vec<String>, bool) {
    let recovery = Recovery::new(true);
    let (store, _) = nightly(&recovery, 1).await;
    recovery.put("new", noise(20_000, 99)).await;
    let waits =
        Arc::new(Waits { inner: store.clone(), calls_left: AtomicI64::new(call), came: Notify::new(), may_go: Notify::new() });
    let site: SharedStore = waits.clone();
    let reading = async {
        let cache = recovery.fresh_cache();
        let said = |damage: &farshore::report::Damage| format!("{damage:?}");
        let wrong: Vec<String> = match reads {
            Reads::Structure => {
                recovery.verify_at(site, &cache, VerifyLevel::Structure).await.unwrap().damage.iter().map(said).collect()
            }
            Reads::Everything => recovery.verify(site, &cache).await.unwrap().damage.iter().map(said).collect(),
            Reads::Repair => {
                let report = recovery.repair(site, &cache, true, &|_| ()).await.unwrap();
                report.points_hurt.iter().map(|hurt| format!("{hurt:?}")).collect()
            }
        };
        let has_come = waits.has_come();
        waits.came.notify_one();
        (wrong, has_come)
    };
    let backup = async {
        waits.came.notified().await;
        recovery.backup(store.clone(), &recovery.fresh_cache()).await.unwrap();
        waits.may_go.notify_one();
    };
    let (found, ()) = tokio::join!(reading, backup);
    // And the next verification sees the new point.
    assert_eq!(recovery.verify_at(store, &recovery.fresh_cache(), VerifyLevel::Structure).await.unwrap().damage, []);
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whichever_call_a_backup_commits_before_what_it_made_is_no_damage() {
    for reads in [Reads::Structure, Reads::Everything, Reads::Repair] {
        let mut call = 0;
        loop {
            let (wrong, has_come) = wrong_after(call, reads).await;
            assert!(wrong.is_empty(), "{reads:?}, before call {call}: {wrong:?}");
            if !has_come {
                break;
            }
            call += 1;
        }
        println!("{reads:?}: {call} calls");
        assert!(call > 15, "{reads:?}: {call} calls prove nothing");
    }
}
