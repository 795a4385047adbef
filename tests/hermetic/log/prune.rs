//! What of the log goes, beside recovery points of a cluster that is made up.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use farshore::{
    operations::{BackupRequest, CHECKPOINT_EVERY, Destination, LogPruneRequest, NamedSource, OperationError, backup, prune_log},
    progress::Tally,
    report::LogPruneReport,
    repository::{Agent, LockTerm, LogKey},
    sources::{Capture, CaptureContext, Captured, SourceError},
    stores::{LockMode, MemoryStore, SharedStore},
};
use serde_json::json;

use super::{
    SEGMENT_BYTES, SYSTEM,
    faults::{assert_comes_back, begun, log_name, opened, put, writer},
    name,
};
use crate::support::{
    faulty_store::FaultyStore,
    recovery::{Objects, Recovery, objects},
};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// A cluster whose backup begins in this segment.
#[derive(Debug)]
struct Cluster {
    timeline: u32,
    segment: u64,
}

#[async_trait]
impl Capture for Cluster {
    fn kind(&self) -> &'static str {
        "postgres"
    }

    fn describe(&self) -> String {
        "a cluster".to_owned()
    }

    async fn capture(&self, _: CaptureContext<'_>) -> Result<Captured, SourceError> {
        let lsn = |bytes: u64| format!("{:X}/{:X}", bytes >> 32, bytes & 0xFFFF_FFFF);
        let start = self.segment * SEGMENT_BYTES as u64 + 40;
        let facts = json!({
            "method": "physical", "server_version_num": 180_000, "system_identifier": SYSTEM.to_string(), "timeline": self.timeline,
            "start_lsn": lsn(start), "stop_lsn": lsn(start + 300), "from_standby": false, "wal_segment_bytes": SEGMENT_BYTES,
            "wal_segments": 1, "page_bytes": 8192, "checksums": true, "pages_checked": 0, "pages_damaged": 0, "data_directory": "/pg",
            "data_directory_mode": "700", "tablespaces": [], "databases": [], "database": "app", "superuser": "postgres",
            "settings": {}, "unlogged_relations": 0, "read_by": "sql", "files": 0, "directories": 0, "bytes": 0, "vanished": 0
        });
        Ok(Captured { facts, consistent_at: None })
    }
}

/// A recovery point that begins in this segment.
pub(super) async fn point(recovery: &Recovery, store: &SharedStore, timeline: u32, segment: u64) -> String {
    recovery.clock.advance(Duration::from_secs(60));
    let repository = recovery.open(store.clone(), &recovery.fresh_cache()).await.unwrap();
    let mut backed = backup(BackupRequest {
        checkpoint_every: CHECKPOINT_EVERY,
        policy: &recovery.policy,
        sources: vec![NamedSource { name: "db".to_owned(), capture: Arc::new(Cluster { timeline, segment }) }],
        destinations: vec![Destination { name: "s".to_owned(), repository: &repository, recipients: &recovery.recipients }],
        unreachable: Vec::new(),
        workers: Arc::clone(&recovery.workers),
        observer: Tally::alone(),
        clock: recovery.shared_clock(),
        agent: Agent { version: "0".to_owned(), host: "test".to_owned() },
        parallelism: 2,
        time_limit: None,
    })
    .await
    .unwrap();
    backed.reports.remove(0).point_id
}

async fn prune(recovery: &Recovery, store: &SharedStore, dry_run: bool) -> Result<LogPruneReport, OperationError> {
    recovery.clock.advance(Duration::from_secs(60));
    let repository = recovery.open_with(&recovery.agent, store.clone(), &recovery.fresh_cache()).await?;
    prune_log(LogPruneRequest { repository: &repository, dry_run, clock: recovery.shared_clock() }).await
}

pub(super) async fn archived(store: &SharedStore) -> Vec<String> {
    let keys = objects(store.as_ref()).await.into_keys().filter(|key| key.starts_with("wal/"));
    keys.map(|key| key.rsplit('/').next().unwrap().to_owned()).collect()
}

/// Ten segments, a history, and a point that begins in the sixth.
async fn ten() -> (Recovery, SharedStore) {
    let (recovery, store) = begun(true).await;
    fill(&recovery, &store).await;
    (recovery, store)
}

pub(super) async fn fill(recovery: &Recovery, store: &SharedStore) {
    let writer = writer(recovery, store.clone(), &LogKey::default()).await;
    for number in 1..=10 {
        put(&writer, number).await.unwrap();
    }
    writer.put(&log_name("00000002.history"), b"1\t0/1\tx\n"[..].into()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_lies_before_every_point_goes_and_nothing_else() {
    let (recovery, store) = ten().await;
    // Without a point everything stays.
    let report = prune(&recovery, &store, false).await.unwrap();
    assert_eq!((report.files.objects, report.deleted.objects), (11, 0));
    assert_eq!(report.without_point, [SYSTEM.to_string()]);
    let early = point(&recovery, &store, 1, 3).await;
    point(&recovery, &store, 1, 6).await;
    let before = objects(store.as_ref()).await;
    let report = prune(&recovery, &store, true).await.unwrap();
    assert_eq!((report.deleted.objects, report.dry_run), (2, true));
    assert!(objects(store.as_ref()).await == before, "a dry run deletes nothing");
    assert_eq!(prune(&recovery, &store, false).await.unwrap().deleted.objects, 2);
    let left = archived(&store).await;
    assert_eq!((left.len(), &left[0], &left[8]), (9, &name(1, 3), &"00000002.history".to_owned()));
    assert_eq!(prune(&recovery, &store, false).await.unwrap().deleted.objects, 0);
    // A point that is doomed can still be brought back: it counts until it is gone. `farshore prune` takes the log with it.
    let mut recovery = recovery;
    recovery.retention.keep_within = Duration::from_secs(1);
    recovery.retention.keep_verified = 0;
    recovery.retention.keep_last = 1;
    recovery.clock.advance(Duration::from_secs(60));
    let report = recovery.prune(store.clone(), &recovery.fresh_cache()).await.unwrap();
    assert_eq!((report.points_doomed, report.log.unwrap().deleted.objects), (1, 0));
    recovery.clock.advance(2 * DAY);
    let report = recovery.prune(store.clone(), &recovery.fresh_cache()).await.unwrap();
    assert_eq!((report.points_deleted, report.log.unwrap().deleted.objects), (1, 3), "point {early}");
    assert_eq!(archived(&store).await[0], name(1, 6));
    for number in 6..=10 {
        assert_comes_back(&recovery, &recovery.identities, &store, number, "after the prune").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_point_that_cannot_be_read_or_clocks_apart_nothing_goes() {
    let (recovery, store) = ten().await;
    point(&recovery, &store, 1, 6).await;
    let id = point(&recovery, &store, 1, 7).await;
    let key = objects(store.as_ref()).await.into_keys().find(|key| key.ends_with(&id)).unwrap();
    let mut body = objects(store.as_ref()).await.remove(&key).unwrap().to_vec();
    let middle = body.len() / 2;
    body[middle] ^= 1;
    store.delete(&key).await.unwrap();
    store.put(&key, body.into(), farshore::stores::PutOptions::default()).await.unwrap();
    let report = prune(&recovery, &store, false).await.unwrap();
    assert_eq!((report.deleted.objects, report.problems.len(), report.exit_code().code()), (0, 1, 4));
    store.delete(&key).await.unwrap();
    let elsewhere = Recovery::new(true);
    elsewhere.clock.advance(Duration::from_secs(24 * 3600));
    let repository = recovery.open_with(&recovery.agent, store.clone(), &recovery.fresh_cache()).await.unwrap();
    let request = LogPruneRequest { repository: &repository, dry_run: false, clock: elsewhere.shared_clock() };
    let error = prune_log(request).await.unwrap_err();
    assert!(error.to_string().contains("the site's clock"), "{error}");
    assert_eq!(archived(&store).await.len(), 11);
    assert_eq!(prune(&recovery, &store, false).await.unwrap().deleted.objects, 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopped_at_any_call_a_prune_leaves_what_is_needed_and_the_next_goes_on() {
    let (recovery, store) = ten().await;
    point(&recovery, &store, 1, 6).await;
    let before = objects(store.as_ref()).await;
    for calls in 0.. {
        let store: SharedStore = recovery.site_of(&before).await;
        // As if they had been stored before the point: a copy has one time for all.
        point(&recovery, &store, 1, 8).await;
        let faulty = FaultyStore::over(store.clone());
        let repository = recovery.open_with(&recovery.agent, faulty.clone(), &recovery.fresh_cache()).await.unwrap();
        faulty.break_after(calls);
        let request = LogPruneRequest { repository: &repository, dry_run: false, clock: recovery.shared_clock() };
        let stopped = prune_log(request).await;
        for number in [6, 8, 10] {
            assert_comes_back(&recovery, &recovery.identities, &store, number, &format!("after {calls} calls")).await;
        }
        recovery.clock.advance(DAY);
        let left = archived(&store).await;
        assert!(left.len() >= 6 && left.contains(&"00000002.history".to_owned()), "after {calls} calls: {left:?}");
        if stopped.is_ok() {
            assert!(calls > 5, "{calls}");
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_locked_goes_later() {
    let mut recovery = Recovery::new(true);
    recovery.lock = Some(LockTerm { mode: LockMode::Compliance, days: 30 });
    let store: SharedStore = MemoryStore::locking("site", recovery.clock.clone());
    recovery.init(&store).await;
    let key = LogKey::default();
    let repository = opened(&recovery, &recovery.agent, store.clone()).await;
    assert_eq!(repository.log_files(None).await.unwrap(), []);
    fill(&recovery, &store).await;
    put(&writer(&recovery, store.clone(), &key).await, 11).await.unwrap();
    point(&recovery, &store, 1, 6).await;
    let locked = store.lock_of(&log_name(&name(1, 1)).to_string()).await.unwrap().unwrap();
    assert!(locked.until >= recovery.shared_clock().now() + chrono::TimeDelta::days(30), "{locked:?}");
    let report = prune(&recovery, &store, false).await.unwrap();
    assert_eq!((report.deleted.objects, report.locked), (0, 5), "{report:?}");
    assert!(report.locked_until.is_some_and(|until| until <= locked.until));
    assert_eq!(archived(&store).await.len(), 12);
    recovery.clock.advance(45 * DAY);
    assert_eq!(prune(&recovery, &store, false).await.unwrap().deleted.objects, 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_no_file_needs_go_in_the_end_and_those_that_one_needs_never() {
    let (recovery, store) = begun(true).await;
    // Two months, each day a process with a key of its own, and a history on the third day, which stays for ever.
    for day in 1..=60_u64 {
        let writer = writer(&recovery, store.clone(), &LogKey::default()).await;
        put(&writer, day).await.unwrap();
        if day == 3 {
            writer.put(&log_name("00000002.history"), b"1\t0/1\tx\n"[..].into()).await.unwrap();
        }
        recovery.clock.advance(DAY);
    }
    point(&recovery, &store, 1, 10).await;
    let keys = async || objects(store.as_ref()).await.into_keys().filter(|key| key.starts_with("keys/log-")).count();
    let report = prune(&recovery, &store, false).await.unwrap();
    assert_eq!((report.deleted.objects, report.keys_deleted), (9, 0), "not worth a look");
    // A copy of the site shows one time for all of it, or any: what the files themselves say counts.
    let copied: SharedStore = recovery.site_of(&objects(store.as_ref()).await).await;
    recovery.clock.advance(10 * DAY);
    let late: Objects = objects(store.as_ref()).await.into_iter().filter(|(key, _)| key.starts_with("wal/")).collect();
    for (key, body) in late {
        copied.delete(&key).await.unwrap();
        copied.put(&key, body, farshore::stores::PutOptions::default()).await.unwrap();
    }
    recovery.clock.advance(10 * DAY);
    let report = prune(&recovery, &copied, false).await.unwrap();
    assert_eq!((report.deleted.objects, report.keys_deleted), (0, 8), "all seem needless, and eight are");
    for number in [10, 35, 60] {
        assert_comes_back(&recovery, &recovery.identities, &copied, number, "the copy").await;
    }
    // The first point is gone some day.
    let old = objects(store.as_ref()).await.into_keys().find(|key| key.starts_with("points/")).unwrap();
    point(&recovery, &store, 1, 50).await;
    store.delete(&old).await.unwrap();
    let report = prune(&recovery, &store, false).await.unwrap();
    assert_eq!(report.deleted.objects, 40);
    assert_eq!(report.keys_deleted, 48, "all but those of 50 to 60, and that of the history");
    assert_eq!(keys().await, 12);
    for number in [50, 60] {
        assert_comes_back(&recovery, &recovery.identities, &store, number, "the rest").await;
    }
}
