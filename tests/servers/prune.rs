//! Prune against a real S3 server: what goes is gone, what Object Lock holds is left for later, each with the rights of its role.
//!
//! The server has its own clock, which no test can turn: a wrapper tells other times of what was stored.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use farshore::{
    clock::{Clock, FixedClock},
    policy::Retention,
    repository::LockTerm,
    stores::{
        Download, GetOptions, Holds, Lock, LockMode, LockSupport, ObjectAttributes, ObjectStat, Page, PutOptions, S3Config,
        S3Store, SharedStore, Store, StoreError, UploadedPart,
    },
};

use crate::{
    s3,
    support::{
        recovery::{Recovery, noise, objects},
        server,
    },
};

const DAY: Duration = Duration::from_secs(24 * 3600);

fn config(bucket: &str, prefix: &str, identity: &str) -> S3Config {
    S3Config { access_key: Some(server(identity)), ..s3::config(bucket, prefix) }
}

/// When each object was stored, by the turned clock; shared by all connections.
type Times = Arc<Mutex<HashMap<String, DateTime<Utc>>>>;

/// The real server, whose clock can be turned.
#[derive(Debug)]
struct Turned {
    inner: Arc<S3Store>,
    clock: Arc<FixedClock>,
    stored: Times,
}

impl Turned {
    fn tell(&self, mut stat: ObjectStat) -> ObjectStat {
        if let Some(time) = self.stored.lock().unwrap().get(&stat.key) {
            stat.modified = *time;
        }
        stat
    }
}

#[async_trait]
impl Store for Turned {
    fn describe(&self) -> String {
        self.inner.describe()
    }
    async fn put(&self, key: &str, body: Bytes, options: PutOptions) -> Result<ObjectStat, StoreError> {
        let stat = self.inner.put(key, body, options).await?;
        self.stored.lock().unwrap().insert(key.to_owned(), self.clock.now());
        Ok(self.tell(stat))
    }
    async fn get(&self, key: &str, options: GetOptions) -> Result<Download, StoreError> {
        self.inner.get(key, options).await
    }
    async fn stat(&self, key: &str) -> Result<ObjectStat, StoreError> {
        self.inner.stat(key).await.map(|stat| self.tell(stat))
    }
    async fn list(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> Result<Page, StoreError> {
        let page = self.inner.list(prefix, start_after, limit).await?;
        Ok(Page { objects: page.objects.into_iter().map(|stat| self.tell(stat)).collect(), ..page })
    }
    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.inner.delete(key).await
    }
    async fn delete_versions(&self, key: &str) -> Result<(), StoreError> {
        self.inner.delete_versions(key).await
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
        absent: bool,
    ) -> Result<ObjectStat, StoreError> {
        self.inner.complete_upload(key, upload, parts, absent).await
    }
    async fn abort_upload(&self, key: &str, upload: &str) -> Result<(), StoreError> {
        self.inner.abort_upload(key, upload).await
    }
    async fn time(&self) -> Result<DateTime<Utc>, StoreError> {
        // That the server tells its time, and that it is now, is a part of what is tested.
        let told = self.inner.time().await?;
        assert!((told - Utc::now()).abs() < TimeDelta::minutes(2), "the server says {told}");
        Ok(self.clock.now())
    }
    async fn create(&self) -> Result<(), StoreError> {
        self.inner.create().await
    }
    async fn create_locking(&self) -> Result<(), StoreError> {
        self.inner.create_locking().await
    }
    async fn lock_support(&self) -> Result<LockSupport, StoreError> {
        self.inner.lock_support().await
    }
    async fn lock_of(&self, key: &str) -> Result<Option<Lock>, StoreError> {
        self.inner.lock_of(key).await
    }
    async fn holds(&self, key: &str, version: Option<&str>, shown: Option<Holds>) -> Result<Holds, StoreError> {
        self.inner.holds(key, version, shown).await
    }
    async fn set_lock(&self, key: &str, lock: Lock) -> Result<(), StoreError> {
        self.inner.set_lock(key, lock).await
    }
    async fn extend_lock(&self, key: &str, lock: Lock) -> Result<Lock, StoreError> {
        self.inner.extend_lock(key, lock).await
    }
}

/// A repository with two points a month apart, the writer's way to it and the pruner's.
struct Site {
    recovery: Recovery,
    writer: SharedStore,
    pruner: SharedStore,
    points: Vec<String>,
}

async fn begun(bucket: &str, lock: Option<LockTerm>) -> Site {
    let admin = S3Store::connect(config(bucket, "", "FARSHORE_TEST_S3_ACCESS_KEY")).await.unwrap();
    if lock.is_some() {
        admin.create_locking().await.unwrap()
    } else {
        admin.create().await.unwrap()
    }
    let mut recovery = Recovery::new(true);
    recovery.clock = FixedClock::shared(DateTime::from_timestamp(Utc::now().timestamp(), 0).unwrap());
    recovery.retention = Retention { keep_within: 7 * DAY, keep_verified: 1, ..Retention::default() };
    recovery.lock = lock;
    let (prefix, stored) = (s3::fresh_prefix(), Times::default());
    let connect = async |identity: &str| -> SharedStore {
        let inner = Arc::new(S3Store::connect(config(bucket, &prefix, identity)).await.unwrap());
        let turned: SharedStore = Arc::new(Turned { inner, clock: Arc::clone(&recovery.clock), stored: Arc::clone(&stored) });
        turned
    };
    let writer = connect("FARSHORE_TEST_S3_WRITER_KEY").await;
    let pruner = connect("FARSHORE_TEST_S3_PRUNER_KEY").await;
    recovery.init(&writer).await;
    recovery.put("always", noise(300_000, 1)).await;
    recovery.put("once", noise(200_000, 2)).await;
    let mut points = vec![recovery.backup(writer.clone(), &recovery.fresh_cache()).await.unwrap().point_id];
    recovery.source.delete("once").await.unwrap();
    recovery.put("later", noise(100_000, 3)).await;
    recovery.clock.advance(30 * DAY);
    points.push(recovery.backup(writer.clone(), &recovery.fresh_cache()).await.unwrap().point_id);
    Site { recovery, writer, pruner, points }
}

impl Site {
    async fn restores(&self, point: &str) -> bool {
        let now = objects(self.recovery.source.as_ref()).await;
        self.recovery.restore(self.writer.clone(), &self.recovery.fresh_cache(), point).await.is_ok_and(|back| back == now)
    }

    async fn bytes(&self) -> u64 {
        self.writer.list("packs/", None, 1000).await.unwrap().objects.iter().map(|object| object.size).sum()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_real_server_an_old_point_is_doomed_deleted_and_its_packs_with_it() {
    let site = begun("farshore-prune", None).await;
    let before = site.bytes().await;
    let doomed = site.recovery.prune(site.pruner.clone(), &site.recovery.fresh_cache()).await.unwrap();
    assert_eq!((doomed.points_doomed, doomed.points_deleted, doomed.problems.len()), (1, 0, 0), "{doomed:#?}");
    for _ in 0..2 {
        site.recovery.clock.advance(Duration::from_secs(27 * 3600));
        let pruned = site.recovery.prune(site.pruner.clone(), &site.recovery.fresh_cache()).await.unwrap();
        assert_eq!(pruned.problems, [], "{pruned:#?}");
    }
    let listed = site.recovery.points(site.writer.clone(), &site.recovery.fresh_cache()).await.unwrap();
    assert_eq!(listed.iter().map(|point| &point.id).collect::<Vec<_>>(), [&site.points[1]]);
    assert!(before - site.bytes().await > 150_000, "{before} bytes before, {} after", site.bytes().await);
    assert!(site.restores(&site.points[1]).await);
    assert_eq!(site.recovery.verify(site.writer.clone(), &site.recovery.fresh_cache()).await.unwrap().damage, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_object_lock_holds_is_left_for_later_by_prune_and_refused_by_the_server_to_everybody() {
    let site = begun("farshore-prune-locked", Some(LockTerm { mode: LockMode::Compliance, days: 40 })).await;
    let everything: Vec<String> = site.writer.list("", None, 1000).await.unwrap().objects.into_iter().map(|one| one.key).collect();
    let pack = everything.iter().find(|key| key.starts_with("packs/")).unwrap();
    for thief in [&site.writer, &site.pruner] {
        let refused = thief.delete_versions(pack).await.unwrap_err();
        assert!(matches!(refused, StoreError::Locked { .. }), "{refused}");
    }
    let mut said = 0;
    for _ in 0..3 {
        let pruned = site.recovery.prune(site.pruner.clone(), &site.recovery.fresh_cache()).await.unwrap();
        assert_eq!((pruned.problems.len(), pruned.points_deleted, pruned.packs_deleted.objects), (0, 0, 0), "{pruned:#?}");
        if pruned.locked > 0 {
            said += 1;
            assert!(pruned.locked_until.unwrap() > site.recovery.clock.now(), "{pruned:#?}");
        }
        site.recovery.clock.advance(Duration::from_secs(27 * 3600));
    }
    assert!(said > 0, "nobody was told that a lock holds what was to go");
    let after: Vec<String> = site.writer.list("", None, 1000).await.unwrap().objects.into_iter().map(|one| one.key).collect();
    assert!(everything.iter().all(|key| after.contains(key)), "{everything:?} became {after:?}");
    assert!(site.restores(&site.points[1]).await);
    let old = site.recovery.restore(site.writer.clone(), &site.recovery.fresh_cache(), &site.points[0]).await.unwrap();
    assert_eq!(old["once"], noise(200_000, 2));
}
