//! The real prune and the real backup, stopped: a prune that ends after any of its writes, a backup that sleeps through a whole grace,
//! an undelete that comes too late.

use std::sync::{Arc, atomic::Ordering};

use farshore::stores::{SharedStore, Store};
use tokio::sync::Notify;

use super::basics::{DAY, HOUR, Points, begun};
use crate::support::{
    recovery::{Recovery, noise},
    staged_store::Staged,
};

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
        let stopping = Arc::new(Staged::over(store.clone()));
        stopping.writes_left.store(stop, Ordering::SeqCst);
        let ended = recovery.prune(stopping, &recovery.fresh_cache()).await;
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
    let mut held = Staged::over(store.clone());
    held.pack_may_go = Some(Notify::new());
    let held = Arc::new(held);
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
        held.pack_may_go.as_ref().unwrap().notify_one();
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
