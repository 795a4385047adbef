//! Backups that are still at work when what they rely on goes.

use std::{sync::Arc, time::Duration};

use farshore::{
    clock::Clock,
    operations::OperationError,
    policy::Retention,
    report::BackupReport,
    repository::DoomRecord,
    stores::{MemoryStore, SharedStore, Store},
};
use tokio::sync::Notify;

use super::basics::{DAY, HOUR, begun};
use crate::support::{
    recovery::{Recovery, noise, objects},
    staged_store::Staged,
};

/// A site with a point that holds "a" alone and is too old, and one that does not; the source has "a" again.
async fn with_something_to_adopt() -> (Recovery, Arc<MemoryStore>) {
    let (recovery, site) = begun(true).await;
    recovery.put("a", noise(300_000, 1)).await;
    recovery.backup(site.clone(), &recovery.fresh_cache()).await.unwrap();
    recovery.source.delete("a").await.unwrap();
    recovery.put("b", noise(200_000, 2)).await;
    recovery.clock.advance(5 * DAY);
    recovery.backup(site.clone(), &recovery.fresh_cache()).await.unwrap();
    recovery.source.delete("b").await.unwrap();
    recovery.put("a", noise(300_000, 1)).await;
    recovery.put("c", noise(100_000, 3)).await;
    (recovery, site)
}

/// A backup that adopts "a", and is held up before its first own pack is stored, while prunes run with these pauses after them.
async fn held_up(recovery: &Recovery, site: &Arc<MemoryStore>, pauses: &[Duration]) -> Result<BackupReport, OperationError> {
    let mut staged = Staged::over(site.clone());
    staged.pack_may_go = Some(Notify::new());
    let staged = Arc::new(staged);
    let cache = recovery.fresh_cache();
    let (report, ()) = tokio::join!(recovery.backup(staged.clone(), &cache), async {
        staged.pack_came.notified().await;
        for pause in pauses {
            recovery.prune(site.clone(), &recovery.fresh_cache()).await.unwrap();
            recovery.clock.advance(*pause);
        }
        staged.pack_may_go.as_ref().unwrap().notify_one();
    });
    report
}

async fn assert_whole(recovery: &Recovery, site: &SharedStore, points: usize) {
    let cache = recovery.fresh_cache();
    let listed = recovery.points(site.clone(), &cache).await.unwrap();
    assert_eq!(listed.len(), points, "{listed:#?}");
    for point in listed {
        recovery.restore(site.clone(), &cache, &point.id).await.unwrap_or_else(|error| panic!("{}: {error}", point.id));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_that_is_done_within_the_grace_keeps_what_it_adopted() {
    let (recovery, site) = with_something_to_adopt().await;
    held_up(&recovery, &site, &[20 * HOUR]).await.unwrap();
    for _ in 0..4 {
        recovery.clock.advance(27 * HOUR);
        recovery.prune(site.clone(), &recovery.fresh_cache()).await.unwrap();
    }
    let restored = recovery.restore(site, &recovery.fresh_cache(), "latest").await.unwrap();
    assert!(restored == objects(recovery.source.as_ref()).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_that_outlives_the_grace_makes_no_point_with_a_hole() {
    // Doomed and about to mature; matured; deleted, and the record with it; long ago.
    for pauses in
        [&[26 * HOUR - Duration::from_secs(240)][..], &[27 * HOUR], &[27 * HOUR, HOUR], &[27 * HOUR, 27 * HOUR, 60 * HOUR]]
    {
        let (recovery, site) = with_something_to_adopt().await;
        let refused = held_up(&recovery, &site, pauses).await.unwrap_err().to_string();
        assert!(refused.contains("what this backup relies on") && refused.contains("retention.grace"), "{pauses:?}: {refused}");
        let deleted = pauses.len() > 1;
        assert_whole(&recovery, &(site.clone() as SharedStore), if deleted { 1 } else { 2 }).await;
        // As the message says.
        recovery.backup(site.clone(), &recovery.fresh_cache()).await.unwrap();
        let restored = recovery.restore(site, &recovery.fresh_cache(), "latest").await.unwrap();
        assert!(restored == objects(recovery.source.as_ref()).await, "{pauses:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_stays_as_long_as_only_points_need_what_it_names_that_another_policy_has_doomed() {
    for is_doomed in [true, false] {
        let mut recovery = Recovery::new(true);
        recovery.retention = Retention { keep_within: Duration::ZERO, keep_last: 1, keep_verified: 1, ..Retention::default() };
        let store: SharedStore = MemoryStore::with_clock("site", recovery.clock.clone());
        recovery.init(&store).await;
        recovery.put("object", noise(50_000, 1)).await;
        recovery.backup(store.clone(), &recovery.fresh_cache()).await.unwrap();
        // An old record of a pack that was needed again: what a point adopted before it was doomed.
        let repository = recovery.open(store.clone(), &recovery.fresh_cache()).await.unwrap();
        let all = objects(store.as_ref()).await;
        let packs = all.keys().filter_map(|key| Some(key.strip_prefix("packs/")?.rsplit_once('/')?.1.to_owned())).collect();
        let at = recovery.clock.now();
        let record = DoomRecord { policy: "p".to_owned(), at, grace_seconds: 3600, packs, ..DoomRecord::default() };
        repository.put_doom(&record).await.unwrap();
        let key = objects(store.as_ref()).await.into_keys().find(|key| key.starts_with("doomed/")).unwrap();
        recovery.clock.advance(6 * 24 * HOUR);
        if is_doomed {
            recovery.put("object", noise(50_000, 2)).await;
            recovery.backup(store.clone(), &recovery.fresh_cache()).await.unwrap();
            assert_eq!(recovery.prune(store.clone(), &recovery.fresh_cache()).await.unwrap().points_doomed, 1);
        }
        // A prune of the first policy may be at work, which deletes the point, and then by this very record what it needed.
        recovery.beside("q").prune(store.clone(), &recovery.fresh_cache()).await.unwrap();
        assert_eq!(objects(store.as_ref()).await.contains_key(&key), is_doomed);
    }
}
