//! Two-site backups and copies that stop anywhere, and whose sites fail at any call.

use std::sync::{Arc, Mutex};

use farshore::{
    operations::Backed,
    stores::{MemoryStore, SharedStore},
};

use crate::support::{
    faulty_store::{Call, Fault, FaultyStore},
    recovery::{Objects, Recovery, noise, objects, patient, store_of},
    sites::{Log, Logged},
    soak,
};

/// Two sites with the same first point; and the bucket changed since.
async fn begun(large: u64) -> (Recovery, [Objects; 2], Objects, Objects) {
    let recovery = Recovery::new(true);
    recovery.put("kept", noise(40_000, 1)).await;
    recovery.put("replaced", noise(40_000, 2)).await;
    let stores: [SharedStore; 2] = [store_of(&Objects::new()).await, store_of(&Objects::new()).await];
    recovery.init(&stores[0]).await;
    recovery.init(&stores[1]).await;
    let sites = [recovery.far("a", stores[0].clone()), recovery.far("b", stores[1].clone())];
    recovery.backup_to(recovery.source.clone(), &sites, &recovery.fresh_cache()).await.unwrap();
    let then = objects(recovery.source.as_ref()).await;
    recovery.put("replaced", noise(50_000, 3)).await;
    for number in 0..large {
        recovery.put(&format!("new/{number}"), noise(4 << 20, 10 + number)).await;
    }
    let now = objects(recovery.source.as_ref()).await;
    (recovery, [objects(stores[0].as_ref()).await, objects(stores[1].as_ref()).await], then, now)
}

/// Every point of a site is whole, and nothing that its points need is damaged.
async fn assert_whole(recovery: &Recovery, store: SharedStore, then: &Objects, now: &Objects, what: &str) {
    let cache = recovery.fresh_cache();
    for (number, point) in recovery.points(store.clone(), &cache).await.unwrap().iter().enumerate() {
        assert_eq!(point.unreadable, None, "{what}");
        let restored = recovery.restore(store.clone(), &cache, &point.id).await.unwrap();
        assert!(restored == *if number == 0 { then } else { now }, "{what}: point {number} is another");
    }
    assert_eq!(recovery.verify(store, &cache).await.unwrap().damage, [], "{what}");
}

fn logged(number: usize, inner: SharedStore, log: &Log) -> SharedStore {
    Arc::new(Logged { number, inner, log: Arc::clone(log) })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_to_two_sites_that_stops_after_any_write_leaves_both_whole() {
    let (recovery, before, then, now) = begun(5).await;
    let log: Log = Arc::new(Mutex::default());
    let stores = [logged(0, store_of(&before[0]).await, &log), logged(1, store_of(&before[1]).await, &log)];
    let sites = [recovery.far("a", stores[0].clone()), recovery.far("b", stores[1].clone())];
    recovery.backup_to(recovery.source.clone(), &sites, &recovery.fresh_cache()).await.unwrap();
    let written = log.lock().unwrap().clone();
    assert!(written.len() >= 10, "{} writes prove little", written.len());
    for stop in 0..=written.len() {
        let mut all = before.clone();
        for (number, key, body) in &written[..stop] {
            all[*number].insert(key.clone(), body.clone());
        }
        let what = format!("after {stop} of {} writes", written.len());
        let stores: [SharedStore; 2] = [store_of(&all[0]).await, store_of(&all[1]).await];
        for store in &stores {
            assert_whole(&recovery, store.clone(), &then, &now, &what).await;
        }
        let sites = [recovery.far("a", stores[0].clone()), recovery.far("b", stores[1].clone())];
        let next = recovery.backup_to(recovery.source.clone(), &sites, &recovery.fresh_cache()).await.unwrap();
        assert_eq!((next.failed.len(), next.reports.len()), (0, 2), "{what}");
        for store in stores {
            let restored = recovery.restore(store, &recovery.fresh_cache(), &next.reports[0].point_id).await.unwrap();
            assert!(restored == now, "{what}: the next point is another");
        }
    }
}

/// A site with one point more than the other.
async fn one_ahead(large: u64) -> (Recovery, [Objects; 2], Objects, Objects) {
    let (recovery, [ahead, behind], then, now) = begun(large).await;
    let store = store_of(&ahead).await;
    let sites = [recovery.far("a", store.clone())];
    recovery.backup_to(recovery.source.clone(), &sites, &recovery.fresh_cache()).await.unwrap();
    (recovery, [objects(store.as_ref()).await, behind], then, now)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_stops_after_any_write_leaves_whole_points_and_the_next_one_completes() {
    let (recovery, [ahead, behind], then, now) = one_ahead(5).await;
    let from = recovery.far("a", store_of(&ahead).await);
    let log: Log = Arc::new(Mutex::default());
    let to = recovery.far("b", logged(1, store_of(&behind).await, &log));
    recovery.copy(&from, &to, None, &recovery.fresh_cache()).await.unwrap();
    let written = log.lock().unwrap().clone();
    assert!(written.len() >= 5 && written.last().unwrap().1.starts_with("points/"), "{}", written.len());
    let mut deleted = 0;
    for stop in 0..=written.len() {
        let mut all = behind.clone();
        all.extend(written[..stop].iter().map(|(_, key, body)| (key.clone(), body.clone())));
        let what = format!("after {stop} of {} writes", written.len());
        let store = store_of(&all).await;
        assert_whole(&recovery, store.clone(), &then, &now, &what).await;
        let next = recovery.copy(&from, &recovery.far("b", store.clone()), None, &recovery.fresh_cache()).await.unwrap();
        assert_eq!(next.points.len(), usize::from(stop < written.len()), "{what}");
        assert_eq!(recovery.points(store.clone(), &recovery.fresh_cache()).await.unwrap().len(), 2, "{what}");
        assert_whole(&recovery, store, &then, &now, &what).await;
        // The next prunes come before the next copy; in everyday tests after the last write and every third of those before it.
        if soak(1) > 1 || (written.len() - stop).is_multiple_of(3) {
            deleted += recovery.assert_prunes_keep_every_point(&all, &recovery.identities, &what).await;
        }
    }
    assert!(deleted > 0, "no prune found anything that the stopped copy had left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_fault_at_any_call_of_either_site_does_not_hinder_a_copy() {
    let (recovery, [ahead, behind], _, now) = one_ahead(0).await;
    let quiet = [FaultyStore::over(store_of(&ahead).await), FaultyStore::over(store_of(&behind).await)];
    let ends = [0, 1].map(|number| recovery.far(["a", "b"][number], patient(quiet[number].clone())));
    recovery.copy(&ends[0], &ends[1], None, &recovery.fresh_cache()).await.unwrap();
    for (side, quiet) in quiet.iter().enumerate() {
        for call in [Call::Put, Call::Get, Call::List, Call::Stat] {
            for number in 0..quiet.calls(call) {
                let bodies = [Fault::BodyBreaks(10), Fault::BodyEndsEarly(10)];
                let faults = [Fault::RefusedBefore, Fault::AnswerLost, Fault::Throttled].into_iter();
                for fault in faults.chain(bodies.into_iter().filter(|_| call == Call::Get)) {
                    let stores = [store_of(&ahead).await, store_of(&behind).await];
                    let faulty = [0, 1].map(|number| FaultyStore::over(stores[number].clone()));
                    faulty[side].queue_after(number, call, fault);
                    let what = format!("{fault:?} at {call:?} {number} of site {side}");
                    let ends = [0, 1].map(|number| recovery.far(["a", "b"][number], patient(faulty[number].clone())));
                    let report = recovery.copy(&ends[0], &ends[1], None, &recovery.fresh_cache()).await;
                    let report = report.unwrap_or_else(|error| panic!("{what}: {error}"));
                    let point = &report.points[0].id;
                    let restored = recovery.restore(stores[1].clone(), &recovery.fresh_cache(), point).await.unwrap();
                    assert!(restored == now, "{what}");
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_without_retries_ends_in_an_error_or_a_whole_point() {
    let (recovery, [ahead, behind], then, now) = one_ahead(0).await;
    let (mut failed, mut done) = (0, 0);
    for seed in 0..30 {
        let stores = [store_of(&ahead).await, store_of(&behind).await];
        let ends = [0, 1].map(|number| {
            let faulty: SharedStore = FaultyStore::seeded(stores[number].clone(), seed + number as u64, 0.02);
            recovery.far(["a", "b"][number], faulty)
        });
        match recovery.copy(&ends[0], &ends[1], None, &recovery.fresh_cache()).await {
            Ok(report) if report.damaged.is_empty() => done += 1,
            Ok(_) => failed += 1,
            Err(error) => {
                failed += 1;
                assert!(error.to_string().len() > 10, "seed {seed}: {error}");
            }
        }
        assert_whole(&recovery, stores[1].clone(), &then, &now, &format!("seed {seed}")).await;
    }
    assert!(failed > 0 && done > 0, "{failed} failed, {done} done: the faults prove nothing");
}

/// A backup to two sites, of which one meets a fault at the call of this number and kind; `over` may lay something over that site.
async fn struck(
    recovery: &Recovery,
    before: &[Objects; 2],
    side: usize,
    over: impl Fn(SharedStore) -> SharedStore,
    (number, call, fault): (u64, Call, Fault),
) -> ([Arc<MemoryStore>; 2], Arc<FaultyStore>, Backed) {
    let stores = [store_of(&before[0]).await, store_of(&before[1]).await];
    let faulty = FaultyStore::over(stores[side].clone());
    faulty.queue_after(number, call, fault);
    let mut sites = [0, 1].map(|number| recovery.far(["a", "b"][number], stores[number].clone()));
    sites[side].store = over(faulty.clone());
    let backed = recovery.backup_to(recovery.source.clone(), &sites, &recovery.fresh_cache()).await.unwrap();
    (stores, faulty, backed)
}

/// A refusal for good, one that passes, and a connection that is reset when the write has taken effect.
const KINDS: [Fault; 3] = [Fault::Denied, Fault::Throttled, Fault::AnswerLost];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_fault_at_any_call_of_one_of_two_sites_keeps_the_other_from_nothing_and_is_caught_up_with() {
    let (recovery, before, then, now) = begun(0).await;
    let names = ["a", "b"];
    let quiet = [FaultyStore::over(store_of(&before[0]).await), FaultyStore::over(store_of(&before[1]).await)];
    let both = [0, 1].map(|number| recovery.far(names[number], quiet[number].clone()));
    recovery.backup_to(recovery.source.clone(), &both, &recovery.fresh_cache()).await.unwrap();
    let (mut known, mut unknown, mut turn) = (0, 0, 0_usize);
    for (side, quiet) in quiet.iter().enumerate() {
        for call in [Call::Put, Call::Get, Call::List, Call::Stat] {
            // In everyday tests one kind of fault at each write and at every sixth other call, in turn.
            let step = if soak(1) > 1 || call == Call::Put { 1 } else { 6 };
            for number in (0..quiet.calls(call)).step_by(step) {
                turn += 1;
                let kinds = if soak(1) > 1 { &KINDS[..] } else { &KINDS[turn % 3..][..1] };
                for fault in kinds {
                    let what = format!("{fault:?} at {call:?} {number} of site {side}");
                    let (stores, faulty, backed) = struck(&recovery, &before, side, |store| store, (number, call, *fault)).await;
                    let failed: Vec<_> = backed.failed.iter().map(|(name, _)| name.as_str()).collect();
                    assert_eq!((failed, backed.reports.len()), (vec![names[side]], 1), "{what}");
                    assert!(backed.failed[0].1.to_string().len() > 10, "{what}");
                    assert_eq!(backed.reports[0].missing_at, [names[side]], "{what}");
                    // The point itself says it, if it was known when the point was stored.
                    let other: SharedStore = stores[1 - side].clone();
                    let points = recovery.points(other.clone(), &recovery.fresh_cache()).await.unwrap();
                    let stored = other.list("points/", None, 10).await.unwrap().objects.iter().map(|one| one.modified).max();
                    let was_known = faulty.struck_at() < stored;
                    let says: &[&str] = if was_known { &names[side..=side] } else { &[] };
                    assert_eq!(points.last().unwrap().missing_at, says, "{what}");
                    assert!(was_known || side == 1, "{what}: the first site is done with before the second stores its point");
                    if was_known {
                        known += 1
                    } else {
                        unknown += 1
                    }
                    for store in &stores {
                        assert_whole(&recovery, store.clone(), &then, &now, &what).await;
                    }
                    assert_eq!(points.len(), 2, "{what}");
                    let sites = [0, 1].map(|number| recovery.far(names[number], stores[number].clone()));
                    let next = recovery.backup_to(recovery.source.clone(), &sites, &recovery.fresh_cache()).await.unwrap();
                    assert_eq!((next.failed.len(), next.reports.len()), (0, 2), "{what}");
                    assert!(next.reports.iter().all(|report| report.missing_at.is_empty()), "{what}");
                    let id = &next.reports[0].point_id;
                    for store in stores {
                        let restored = recovery.restore(store, &recovery.fresh_cache(), id).await.unwrap();
                        assert!(restored == now, "{what}: the next point is another");
                    }
                }
            }
        }
    }
    assert!(known > 5 && unknown > 0, "{known} known, {unknown} unknown: this proves little");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_fault_that_passes_at_any_call_of_one_of_two_sites_costs_neither_its_point() {
    let (recovery, before, _, now) = begun(0).await;
    let names = ["a", "b"];
    let quiet = [FaultyStore::over(store_of(&before[0]).await), FaultyStore::over(store_of(&before[1]).await)];
    let both = [0, 1].map(|number| recovery.far(names[number], patient(quiet[number].clone())));
    recovery.backup_to(recovery.source.clone(), &both, &recovery.fresh_cache()).await.unwrap();
    let mut turn = 0_usize;
    for (side, quiet) in quiet.iter().enumerate() {
        for call in [Call::Put, Call::Get, Call::List, Call::Stat] {
            let step = if soak(1) > 1 || call == Call::Put { 1 } else { 5 };
            for number in (0..quiet.calls(call)).step_by(step) {
                turn += 1;
                let kinds = [Fault::Throttled, Fault::AnswerLost];
                let kinds = if soak(1) > 1 || call == Call::Put { &kinds[..] } else { &kinds[turn % 2..][..1] };
                for fault in kinds {
                    let what = format!("{fault:?} at {call:?} {number} of site {side}");
                    let (stores, faulty, backed) = struck(&recovery, &before, side, patient, (number, call, *fault)).await;
                    assert!(faulty.struck_at().is_some(), "{what}: it never came to it");
                    assert_eq!((backed.failed.len(), backed.reports.len()), (0, 2), "{what}");
                    for store in stores {
                        let points = recovery.points(store.clone(), &recovery.fresh_cache()).await.unwrap();
                        assert!(points.last().unwrap().missing_at.is_empty(), "{what}");
                        let restored = recovery.restore(store, &recovery.fresh_cache(), &backed.reports[0].point_id).await.unwrap();
                        assert!(restored == now, "{what}");
                    }
                }
            }
        }
    }
}
