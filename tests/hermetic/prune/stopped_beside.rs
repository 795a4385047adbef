//! A prune that stops after any of its writes where it has more to do, or less room: with packs to be emptied, with locks, with another
//! policy at the same site. And an undelete that stops.

use std::sync::{Arc, atomic::Ordering};

use farshore::{
    repository::LockTerm,
    stores::{LockMode, MemoryStore, SharedStore, Store},
};

use super::{
    basics::{DAY, HOUR, Points, begun},
    stopped::two_points,
};
use crate::support::{
    faulty_store::{Call, Fault, FaultyStore},
    recovery::{Recovery, noise, objects},
    soak,
    staged_store::Staged,
};

/// A policy with its bucket, and what its points give back.
pub(super) struct Party {
    pub(super) recovery: Recovery,
    pub(super) points: Points,
}

/// A site, and the policies that use it. The first one's prune is stopped.
pub(super) struct Scene {
    pub(super) site: SharedStore,
    /// The same, where it locks.
    locking: Option<Arc<MemoryStore>>,
    pub(super) parties: Vec<Party>,
}

impl Scene {
    pub(super) async fn check(&self, what: &str) {
        for (number, party) in self.parties.iter().enumerate() {
            party.points.check(&party.recovery, &self.site, &format!("{what}, policy {number}")).await;
        }
        if let Some(site) = &self.locking {
            // Nothing lies hidden under a marker while a lock holds it: it would cost room, and nobody would know what it is for.
            let shown = objects(site.as_ref()).await;
            for key in objects(site.first_versions().as_ref()).await.into_keys().filter(|key| !key.starts_with("probe/")) {
                let is_held = site.lock_of(&key).await.unwrap().is_some();
                assert!(!is_held || shown.contains_key(&key), "{what}: {key} is locked and hidden");
            }
        }
    }

    /// What all policies' prunes did together.
    pub(super) async fn prune(&self, what: &str) -> (u64, u64, u64) {
        let mut sum = (0, 0, 0);
        for Party { recovery, .. } in &self.parties {
            let pruned = recovery.prune(self.site.clone(), &recovery.fresh_cache()).await;
            let pruned = pruned.unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(pruned.problems, [], "{what}");
            sum = (sum.0 + pruned.points_deleted, sum.1 + pruned.packs_emptied.objects, sum.2 + pruned.locked);
        }
        sum
    }
}

/// In a scene that `prepare` makes, and after `before` prunes a bit more than a day apart: the first policy's prune stops after each
/// write. Then what was doomed comes back, the others prune, and in the end at most so many points are left. How often it stopped, and
/// how many packs were emptied and held by locks where it was not stopped.
async fn stop_everywhere(prepare: impl AsyncFn() -> Scene, before: usize, after: usize, left: &[usize]) -> (u64, u64, u64) {
    let mut stops = 0;
    // In everyday tests after none and every third write.
    let step = if soak(1) > 1 { 1 } else { 3 };
    for stop in (0..).step_by(step) {
        let what = format!("after {before} prunes, {stop} writes");
        let mut scene = prepare().await;
        for _ in 0..before {
            scene.prune(&what).await;
            scene.parties[0].recovery.clock.advance(27 * HOUR);
        }
        let cut = Arc::new(Staged::over(scene.site.clone()));
        cut.writes_left.store(stop, Ordering::SeqCst);
        let ended = {
            let recovery = &scene.parties[0].recovery;
            recovery.prune(cut, &recovery.fresh_cache()).await
        };
        if let Err(error) = &ended {
            assert!(error.to_string().contains("the connection broke"), "{what}: {error}");
            stops += 1;
        }
        scene.check(&what).await;
        let site = scene.site.clone();
        for Party { recovery, points } in &mut scene.parties {
            recovery.put("old", noise(200_000, 1)).await;
            points.add(recovery, &site).await;
        }
        for _ in 0..after {
            scene.parties[0].recovery.clock.advance(27 * HOUR);
            scene.prune(&what).await;
        }
        scene.check(&what).await;
        for (party, left) in scene.parties.iter().zip(left) {
            let listed = party.recovery.points(scene.site.clone(), &party.recovery.fresh_cache()).await.unwrap();
            assert!(listed.len() <= *left, "{what}: {} points are left", listed.len());
        }
        if let Ok(report) = ended {
            return (stops, report.packs_emptied.objects, report.locked);
        }
    }
    unreachable!("it ends where nothing stops it")
}

/// The older point's pack holds what only it needs, and a little that the newer one needs as well.
pub(super) async fn with_a_pack_to_be_emptied() -> Scene {
    let (mut recovery, site) = begun(true).await;
    recovery.retention.max_unused = 1;
    let site: SharedStore = site;
    let mut points = Points(Vec::new());
    recovery.put("old", noise(200_000, 1)).await;
    recovery.put("part", noise(30_000, 4)).await;
    points.add(&recovery, &site).await;
    recovery.clock.advance(DAY);
    recovery.source.delete("old").await.unwrap();
    recovery.put("shared", noise(100_000, 2)).await;
    points.add(&recovery, &site).await;
    recovery.clock.advance(4 * DAY);
    Scene { site, locking: None, parties: vec![Party { recovery, points }] }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prune_that_stops_while_it_empties_packs_leaves_every_chunk_in_one() {
    let (stops, emptied, _) = stop_everywhere(with_a_pack_to_be_emptied, 0, 4, &[2]).await;
    assert!(stops >= 1 && emptied > 0, "{stops} stops, {emptied} packs emptied");
    let (stops, ..) = stop_everywhere(with_a_pack_to_be_emptied, 1, 4, &[2]).await;
    assert!(stops >= 1, "{stops} stops");
}

/// What was stored in the first days is free again, or not yet, or was locked anew for the newest point's sake.
pub(super) async fn with_locks() -> Scene {
    let mut recovery = Recovery::new(true);
    recovery.retention = begun(true).await.0.retention;
    // Of a day, and ten more by generation.
    recovery.lock = Some(LockTerm { mode: LockMode::Governance, days: 1 });
    let locking = MemoryStore::locking("site", recovery.clock.clone());
    let site: SharedStore = locking.clone();
    recovery.init(&site).await;
    let mut points = Points(Vec::new());
    recovery.put("old", noise(200_000, 1)).await;
    points.add(&recovery, &site).await;
    recovery.put("part", noise(60_000, 4)).await;
    points.add(&recovery, &site).await;
    recovery.clock.advance(6 * DAY);
    recovery.put("later", noise(60_000, 5)).await;
    points.add(&recovery, &site).await;
    recovery.clock.advance(5 * DAY + HOUR);
    recovery.source.delete("old").await.unwrap();
    recovery.source.delete("later").await.unwrap();
    recovery.put("shared", noise(100_000, 2)).await;
    points.add(&recovery, &site).await;
    recovery.clock.advance(HOUR);
    Scene { site, locking: Some(locking), parties: vec![Party { recovery, points }] }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prune_that_stops_where_locks_hold_some_of_it_leaves_every_listed_point_whole() {
    let (stops, _, locked) = stop_everywhere(with_locks, 1, 3, &[3]).await;
    assert!(stops >= 1 && locked > 0, "{stops} stops, {locked} locked");
}

/// Two policies, of which each needs something that lies in a pack of the other's; and one point of each is to go.
async fn with_another_policy() -> Scene {
    let (recovery, site) = begun(true).await;
    let site: SharedStore = site;
    let other = recovery.beside("q");
    let mut parties = [recovery, other].map(|recovery| Party { recovery, points: Points(Vec::new()) });
    for (number, Party { recovery, points }) in parties.iter_mut().enumerate() {
        recovery.put("old", noise(200_000, 1)).await;
        recovery.put("own", noise(50_000, 20 + number as u64)).await;
        points.add(recovery, &site).await;
    }
    parties[0].recovery.clock.advance(DAY);
    for (number, Party { recovery, points }) in parties.iter_mut().enumerate() {
        recovery.source.delete("own").await.unwrap();
        recovery.put("from the other", noise(50_000, 20 + (1 - number as u64))).await;
        if number == 0 {
            // The other one goes on needing it.
            recovery.source.delete("old").await.unwrap();
        }
        points.add(recovery, &site).await;
    }
    parties[0].recovery.clock.advance(4 * DAY);
    Scene { site, locking: None, parties: parties.into() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prune_that_stops_where_another_policy_shares_the_site_costs_neither_a_point() {
    for before in [0, 1] {
        let (stops, ..) = stop_everywhere(with_another_policy, before, 3, &[2, 2]).await;
        assert!(stops >= 1, "{stops} stops after {before} prunes");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_undelete_that_stops_at_its_write_keeps_the_point_when_it_is_run_again() {
    // Nothing was written; or it was, and nobody learnt of it.
    for fault in [Fault::RefusedBefore, Fault::AnswerLost] {
        let what = format!("{fault:?}");
        let (recovery, store, points) = two_points().await;
        let id = points.0[0].0.clone();
        recovery.prune(store.clone(), &recovery.fresh_cache()).await.unwrap();
        recovery.clock.advance(HOUR);
        let faulty = FaultyStore::over(store.clone());
        faulty.queue(Call::Put, [fault]);
        let said = recovery.undelete(faulty.clone(), &recovery.fresh_cache(), &id).await.unwrap_err().to_string();
        assert!(said.contains("refused before") || said.contains("answer was lost"), "{what}: {said}");
        assert_eq!(faulty.calls(Call::Put), 1, "{what}: it has one write");
        assert_eq!(points.check(&recovery, &store, &what).await.len(), 2);
        // Others go on meanwhile.
        recovery.clock.advance(HOUR);
        recovery.prune(store.clone(), &recovery.fresh_cache()).await.unwrap();
        recovery.undelete(store.clone(), &recovery.fresh_cache(), &id).await.unwrap();
        for _ in 0..4 {
            recovery.clock.advance(27 * HOUR);
            let pruned = recovery.prune(store.clone(), &recovery.fresh_cache()).await.unwrap();
            assert_eq!((pruned.points_deleted, pruned.points_doomed), (0, 0), "{what}");
        }
        assert_eq!(points.check(&recovery, &store, &what).await.len(), 2, "{what}");
        let listed = recovery.points(store.clone(), &recovery.fresh_cache()).await.unwrap();
        let pinned: Vec<_> = listed.iter().map(|point| point.pinned.is_some()).collect();
        assert_eq!(pinned, [true, false], "{what}");
        let there = objects(store.as_ref()).await;
        // Nothing is doomed any more that it could be brought back from.
        recovery.undelete(store.clone(), &recovery.fresh_cache(), &id).await.unwrap_err();
        assert!(!there.keys().any(|key| key.starts_with("doomed/")), "{what}: the record of its doom is done with");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_undelete_that_came_too_late_is_not_in_time_when_it_is_run_again() {
    let (recovery, store, points) = two_points().await;
    recovery.prune(store.clone(), &recovery.fresh_cache()).await.unwrap();
    // Ten minutes before its grace is over it looks, and then its write takes as long.
    recovery.clock.advance(25 * HOUR + HOUR * 49 / 60);
    let faulty = FaultyStore::over(store.clone());
    faulty.queue(Call::Put, [Fault::SlowBefore]);
    let (cache, id) = (recovery.fresh_cache(), &points.0[0].0);
    let later = async { recovery.clock.advance(HOUR / 6) };
    let (undone, came) = faulty.while_slow(recovery.undelete(faulty.clone(), &cache, id), later).await;
    assert!(came);
    for undone in [undone, recovery.undelete(store.clone(), &recovery.fresh_cache(), id).await] {
        let said = undone.unwrap_err().to_string();
        assert!(said.contains("its grace had ended or was about to") || said.contains("is not doomed"), "{said}");
    }
}
