//! Several machines that make one recovery point of a bucket together.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use farshore::{
    operations::{BackupRequest, Destination, NamedSource, ShardNumber, backup_shard, commit_shards},
    policy::Policy,
    progress::Tally,
    report::{BackupReport, ShardReport},
    repository::Agent,
    sources::{
        Capture, CaptureContext, Captured, Cut, Entry, SourceError,
        bucket::{BucketOptions, BucketSource},
    },
    stores::{MemoryStore, SharedStore, Store},
};

use crate::support::{
    faulty_store::{Call, Fault, FaultyStore},
    recovery::{Recovery, noise, objects},
};

const OBJECTS: u64 = 60;
const SHARDS: u32 = 3;

/// A source that one machine captures as a whole, and that counts how often.
#[derive(Debug, Default)]
struct Whole {
    captures: AtomicU32,
}

#[async_trait]
impl Capture for Whole {
    fn kind(&self) -> &'static str {
        "command"
    }

    fn describe(&self) -> String {
        "whole".to_owned()
    }

    async fn capture(&self, context: CaptureContext<'_>) -> Result<Captured, SourceError> {
        self.captures.fetch_add(1, Ordering::Relaxed);
        let mut writer = context.sink.content(Cut::ContentDefined, None).await?;
        writer.write(noise(5_000, 9).into()).await?;
        let mut entry = Entry::new(b"output", "stdout");
        entry.content = Some(writer.finish().await?);
        context.sink.entry(entry).await?;
        Ok(Captured { facts: serde_json::json!({ "n": 1 }), consistent_at: None })
    }
}

struct Case {
    recovery: Recovery,
    site: Arc<MemoryStore>,
    whole: Option<Arc<Whole>>,
    /// What each machine knows already.
    caches: Vec<PathBuf>,
}

impl Case {
    async fn new() -> Self {
        let recovery = Recovery::new(true);
        for number in 0..OBJECTS {
            recovery.put(&format!("o/{number:02}"), noise(2_000, number)).await;
        }
        let site = MemoryStore::with_clock("site", recovery.clock.clone());
        recovery.init(&(site.clone() as SharedStore)).await;
        let caches = (0..=SHARDS).map(|_| recovery.fresh_cache()).collect();
        Self { recovery, site, whole: None, caches }
    }

    /// A machine of its own does `work`, reading the bucket through `source`.
    async fn on_machine<T>(&self, machine: u32, source: SharedStore, work: impl AsyncFnOnce(BackupRequest<'_>) -> T) -> T {
        let recovery = &self.recovery;
        recovery.clock.advance(Duration::from_secs(60));
        let repository = recovery.open(self.site.clone(), &self.caches[machine as usize]).await.unwrap();
        let bucket: Arc<dyn Capture> = Arc::new(BucketSource::new(source, BucketOptions::default()));
        let mut sources = vec![NamedSource { name: "b".to_owned(), capture: bucket }];
        if let Some(whole) = &self.whole {
            sources.insert(0, NamedSource { name: "w".to_owned(), capture: whole.clone() });
        }
        work(BackupRequest {
            checkpoint_every: recovery.checkpoint_every,
            policy: &recovery.policy,
            sources,
            destinations: vec![Destination { name: "s".to_owned(), repository: &repository, recipients: &recovery.recipients }],
            unreachable: Vec::new(),
            workers: Arc::clone(&recovery.workers),
            observer: Tally::alone(),
            clock: recovery.shared_clock(),
            agent: Agent { version: "0".to_owned(), host: format!("machine {machine}") },
            parallelism: 2,
            time_limit: Some(Duration::from_secs(60)),
        })
        .await
    }

    async fn shard_from(&self, number: u32, source: SharedStore) -> Result<ShardReport, String> {
        let shard = ShardNumber { number, shards: SHARDS };
        let done = self.on_machine(number, source, async |request| backup_shard(&request, shard).await).await;
        done.map_err(|error| error.to_string())
    }

    async fn shard(&self, number: u32) -> Result<ShardReport, String> {
        self.shard_from(number, self.recovery.source.clone()).await
    }

    async fn commit_of(&self, shards: u32) -> Result<BackupReport, String> {
        // Nothing of the bucket is needed for it.
        let nowhere = MemoryStore::new("nowhere");
        let done = self.on_machine(SHARDS, nowhere, async |request| commit_shards(&request, shards, Duration::ZERO).await).await;
        done.map(|mut backed| backed.reports.remove(0)).map_err(|error| error.to_string())
    }

    async fn commit(&self) -> Result<BackupReport, String> {
        self.commit_of(SHARDS).await
    }

    async fn assert_whole(&self) {
        let cache = self.recovery.fresh_cache();
        let restored = self.recovery.restore(self.site.clone(), &cache, "latest").await.unwrap();
        assert!(restored == objects(self.recovery.source.as_ref()).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn shards_in_any_order_make_the_point_that_one_machine_would_have_made() {
    let case = Case::new().await;
    let source = FaultyStore::over(case.recovery.source.clone());
    let mut reports = Vec::new();
    for number in [2, 0, 1] {
        reports.push(case.shard_from(number, source.clone()).await.unwrap());
    }
    assert_eq!(source.calls(Call::Get), OBJECTS, "every object is read by one of them");
    assert!(reports.iter().all(|report| report.sources[0].items > 5), "{reports:?}");
    let committed = case.commit().await.unwrap();
    assert_eq!((committed.sources[0].items, committed.sources[0].bytes_read), (OBJECTS, OBJECTS * 2_000));
    case.assert_whole().await;
    // The next one builds on it, and so does a backup that is not shared.
    case.recovery.put("o/07", noise(3_000, 700)).await;
    case.recovery.source.delete("o/33").await.unwrap();
    let before = source.calls(Call::Get);
    for number in 0..SHARDS {
        case.shard_from(number, source.clone()).await.unwrap();
    }
    assert_eq!(source.calls(Call::Get) - before, 1);
    let committed = case.commit().await.unwrap();
    assert_eq!((committed.sources[0].items, committed.sources[0].items_unchanged), (OBJECTS - 1, OBJECTS - 2));
    case.assert_whole().await;
    let far = case.recovery.far("s", case.site.clone());
    let backed = case.recovery.backup_to(source.clone(), &[far], &case.caches[0]).await.unwrap();
    assert_eq!(backed.reports[0].sources[0].items_unchanged, OBJECTS - 1);
    case.assert_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_one_of_the_shards_there_is_no_point_and_it_is_named() {
    let case = Case::new().await;
    assert!(case.commit().await.unwrap_err().contains("run the shards"));
    for number in [0, 2] {
        case.shard(number).await.unwrap();
    }
    let before = objects(case.site.as_ref()).await;
    let error = case.commit().await.unwrap_err();
    assert!(error.contains("not done: 1;"), "{error}");
    // Whoever waits looks often.
    assert!(objects(case.site.as_ref()).await == before, "a commit that is not ready stored something");
    assert!(case.recovery.points(case.site.clone(), &case.caches[0]).await.unwrap().is_empty());
    case.shard(1).await.unwrap();
    // One more time, on whatever machine: it is there.
    let again = case.shard(1).await.unwrap();
    assert!(again.was_there && again.bytes_stored == 0, "{again:?}");
    case.commit().await.unwrap();
    case.assert_whole().await;
    // The plan is used up.
    assert!(case.commit().await.unwrap_err().contains("run the shards"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_is_killed_goes_on_where_it_was() {
    let mut case = Case::new().await;
    case.recovery.checkpoint_every = Duration::ZERO;
    let source = FaultyStore::over(case.recovery.source.clone());
    source.queue_after(15, Call::Get, Fault::SlowAfter);
    let some = async {
        while objects(case.site.as_ref()).await.keys().filter(|key| key.starts_with("parts/")).count() < 6 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        done = case.shard_from(1, source) => panic!("it came to its end: {done:?}"),
        () = some => {}
    }
    let source = FaultyStore::over(case.recovery.source.clone());
    let report = case.shard_from(1, source.clone()).await.unwrap();
    let read = source.calls(Call::Get);
    assert!(!report.was_there && read <= report.sources[0].items - 4, "{read} of {} were read again", report.sources[0].items);
    for number in [0, 2] {
        case.shard(number).await.unwrap();
    }
    case.commit().await.unwrap();
    case.assert_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_of_another_plan_are_never_joined() {
    let mut case = Case::new().await;
    for number in [0, 1] {
        case.shard(number).await.unwrap();
    }
    // Of another number of shards there is no plan.
    assert!(case.commit_of(2).await.unwrap_err().contains("there is no plan of 2 shards"));
    // Another policy is another plan: what was captured for the first one does not count.
    let text = format!("{}\n# changed\n", case.recovery.policy.text);
    case.recovery.policy = Policy::parse(&text, "test").unwrap();
    assert!(case.commit().await.unwrap_err().contains("another policy"));
    let third = case.shard(2).await.unwrap();
    let error = case.commit().await.unwrap_err();
    assert!(error.contains("not done: 0, 1;") && error.contains(&third.plan), "{error}");
    // Nor does what is a day old.
    for number in [0, 1] {
        assert_eq!(case.shard(number).await.unwrap().plan, third.plan);
    }
    case.recovery.clock.advance(Duration::from_secs(24 * 3600));
    assert!(case.commit().await.unwrap_err().contains("more than 20 hours old"));
    for number in 0..SHARDS {
        let report = case.shard(number).await.unwrap();
        assert!(!report.was_there && report.plan != third.plan);
    }
    case.commit().await.unwrap();
    case.assert_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_point_that_was_made_meanwhile_ends_the_plan() {
    let case = Case::new().await;
    for number in 0..SHARDS {
        case.shard(number).await.unwrap();
    }
    let far = case.recovery.far("s", case.site.clone());
    case.recovery.backup_to(case.recovery.source.clone(), &[far], &case.caches[0]).await.unwrap();
    assert!(case.commit().await.unwrap_err().contains("another backup has made a point since"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_shared_is_captured_once_and_before_any_bucket_is_listed() {
    let mut case = Case::new().await;
    let whole = Arc::new(Whole::default());
    case.whole = Some(whole.clone());
    let text = case.recovery.policy.text.replacen(
        "[[source]]",
        "[[source]]\nname = \"w\"\nkind = \"command\"\ncapture = [\"true\"]\n[[source]]",
        1,
    );
    case.recovery.policy = Policy::parse(&text, "test").unwrap();
    for number in [1, 2, 0] {
        case.shard(number).await.unwrap();
    }
    assert_eq!(whole.captures.load(Ordering::Relaxed), 1);
    let committed = case.commit().await.unwrap();
    assert_eq!(committed.sources.iter().map(|source| source.name.as_str()).collect::<Vec<_>>(), ["w", "b"]);
    let cache = case.recovery.fresh_cache();
    let repository = case.recovery.open(case.site.clone(), &cache).await.unwrap();
    let name = repository.find_point(Some("p"), "latest").await.unwrap();
    let point = repository.point(&name).await.unwrap();
    assert_eq!((point.snapshots[0].entry_count, point.snapshots[1].entry_count), (1, OBJECTS));
    assert_eq!(point.snapshots[0].facts, serde_json::json!({ "n": 1 }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_begins_while_another_makes_the_plan_waits_for_it() {
    let mut case = Case::new().await;
    case.whole = Some(Arc::new(Whole::default()));
    let text = case.recovery.policy.text.replacen(
        "[[source]]",
        "[[source]]\nname = \"w\"\nkind = \"command\"\ncapture = [\"true\"]\n[[source]]",
        1,
    );
    case.recovery.policy = Policy::parse(&text, "test").unwrap();
    let (one, other) = tokio::join!(case.shard(0), case.shard(1));
    assert_eq!(one.unwrap().plan, other.unwrap().plan);
    assert_eq!(case.whole.as_ref().unwrap().captures.load(Ordering::Relaxed), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_prune_took_away_is_not_in_a_point() {
    let mut case = Case::new().await;
    case.recovery.retention.grace = Duration::from_secs(3600);
    for number in 0..SHARDS {
        case.shard(number).await.unwrap();
    }
    // Parts that are not taken away, so that only what they name is.
    let parts = objects(case.site.as_ref()).await.into_iter().filter(|(key, _)| key.starts_with("parts/")).collect::<Vec<_>>();
    case.recovery.clock.advance(Duration::from_secs(2 * 3600));
    let pruned = case.recovery.prune(case.site.clone(), &case.caches[0]).await.unwrap();
    assert!(pruned.parts_deleted > 3 && pruned.packs_doomed.objects > 0, "{pruned:?}");
    assert!(case.commit().await.unwrap_err().contains("run the shards"));
    for (key, body) in parts {
        case.site.put(&key, body, farshore::stores::PutOptions::default()).await.unwrap();
    }
    let error = case.commit().await.unwrap_err();
    assert!(error.contains("Run all shards again"), "{error}");
    // Whoever does what it says gets a point, though each shard finds that it was whole once.
    for number in 0..SHARDS {
        assert!(!case.shard(number).await.unwrap().was_there);
    }
    case.commit().await.unwrap();
    case.assert_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_that_cannot_be_read_is_passed_over_and_another_is_made() {
    let case = Case::new().await;
    for number in 0..SHARDS {
        case.shard(number).await.unwrap();
    }
    let plans = async || -> Vec<(String, Vec<u8>)> {
        let all = objects(case.site.as_ref()).await.into_iter();
        all.filter(|(key, _)| key.contains("/plan/")).map(|(key, body)| (key, body.to_vec())).collect()
    };
    let (key, mut body) = plans().await.remove(0);
    let middle = body.len() / 2;
    body[middle] ^= 1;
    case.site.delete(&key).await.unwrap();
    case.site.put(&key, body.into(), farshore::stores::PutOptions::default()).await.unwrap();
    // What anybody who may write can put there without any key.
    let last = format!("{}99999999", key.strip_suffix("00000001").unwrap());
    case.site.put(&last, "no plan".into(), farshore::stores::PutOptions::default()).await.unwrap();
    let error = case.commit().await.unwrap_err();
    assert!(error.contains("there is no plan of 3 shards"), "{error}");
    for number in 0..SHARDS {
        case.shard(number).await.unwrap();
    }
    assert_eq!(plans().await.len(), 3);
    case.commit().await.unwrap();
    case.assert_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_shards_of_a_plan_that_is_over_have_read_is_not_read_again() {
    let case = Case::new().await;
    for number in [0, 1] {
        case.shard(number).await.unwrap();
    }
    case.recovery.clock.advance(Duration::from_secs(21 * 3600));
    for number in 0..SHARDS {
        let source = FaultyStore::over(case.recovery.source.clone());
        let report = case.shard_from(number, source.clone()).await.unwrap();
        assert!(!report.was_there);
        // The cuts may be a few keys from where they were.
        let read = source.calls(Call::Get);
        assert!(if number == 2 { read > 15 } else { read < 5 }, "shard {number} read {read} objects");
    }
    case.commit().await.unwrap();
    case.assert_whole().await;
}
