//! A backup that stops anywhere, and one whose site fails at any call: every point that is listed is whole, and the next backup
//! succeeds.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use chrono::TimeDelta;
use farshore::{repository::COMMIT_MARGIN, stores::SharedStore};

use crate::support::{
    faulty_store::{Call, Fault, FaultyStore},
    recovery::{Objects, Recovery, noise, objects, patient, store_of},
    sites::{Log, Logged},
    soak,
    staged_store::Staged,
};

/// A site with one point; and the bucket changed since, so that the second backup has several packs to store.
async fn begun(packs: u64) -> (Recovery, Objects, Objects) {
    let recovery = Recovery::new(true);
    let store: SharedStore = store_of(&Objects::new()).await;
    recovery.init(&store).await;
    recovery.put("kept", noise(40_000, 1)).await;
    recovery.put("replaced", noise(40_000, 2)).await;
    recovery.backup(store.clone(), &recovery.fresh_cache()).await.unwrap();
    let then = objects(recovery.source.as_ref()).await;
    recovery.put("replaced", noise(50_000, 3)).await;
    // Packs have 16 MiB.
    for number in 0..packs * 5 {
        recovery.put(&format!("new/{number}"), noise(4 << 20, 10 + number)).await;
    }
    (recovery, objects(store.as_ref()).await, then)
}

/// Every point is whole, verification finds no damage, and the next backup succeeds.
async fn assert_sound(recovery: &Recovery, all: &Objects, then: &Objects, what: &str) {
    let now = objects(recovery.source.as_ref()).await;
    let cache = recovery.fresh_cache();
    let store = store_of(all).await;
    let points = recovery.points(store.clone(), &cache).await.unwrap();
    for (number, point) in points.iter().enumerate() {
        assert_eq!(point.unreadable, None, "{what}");
        let restored = recovery.restore(store.clone(), &cache, &point.id).await.unwrap();
        assert!(restored == *if number == 0 { then } else { &now }, "{what}: point {number} is another");
    }
    let verified = recovery.verify(store.clone(), &cache).await.unwrap();
    assert_eq!(verified.damage, [], "{what}");
    let next = recovery.backup(store.clone(), &cache).await.unwrap().point_id;
    assert!(recovery.restore(store, &recovery.fresh_cache(), &next).await.unwrap() == now, "{what}: the next point is another");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_that_stops_after_any_write_leaves_every_listed_point_whole() {
    let (recovery, before, then) = begun(1).await;
    let log = Log::default();
    let recording = Arc::new(Logged { number: 0, inner: store_of(&before).await, log: Arc::clone(&log) });
    recovery.backup(recording, &recovery.fresh_cache()).await.unwrap();
    let written: Vec<_> = log.lock().unwrap().iter().map(|(_, key, body)| (key.clone(), body.clone())).collect();
    let names: Vec<_> = written.iter().map(|(key, _)| key.split('/').next().unwrap()).collect();
    assert_eq!((names[0], *names.last().unwrap()), ("keys", "points"), "{names:?}");
    assert!(names.iter().filter(|name| **name == "packs").count() >= 3, "{names:?}");
    let mut deleted = 0;
    for stop in 0..=written.len() {
        let what = format!("after {stop} of {} writes", written.len());
        let mut all = before.clone();
        all.extend(written[..stop].iter().cloned());
        assert_eq!(all.keys().filter(|key| key.starts_with("points/")).count(), 1 + usize::from(stop == written.len()));
        assert_sound(&recovery, &all, &then, &what).await;
        // The next prunes; in everyday tests after the last write and every third of those before it.
        if soak(1) > 1 || (written.len() - stop).is_multiple_of(3) {
            deleted += recovery.assert_prunes_keep_every_point(&all, &recovery.identities, &what).await;
        }
    }
    assert!(deleted > 0, "no prune found anything that the stopped run had left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_that_stops_after_any_write_leaves_the_next_one_whole_though_listings_lack_some_of_what_it_wrote() {
    let (recovery, before, then) = begun(0).await;
    let (mut stops, mut seed) = (0, 0);
    for stop in 0.. {
        let mut went_through = false;
        // All that is new is missing, then what the seed says; with the local index of the run that was stopped, and without.
        for round in 0..soak(2) {
            for keeps_cache in [true, false] {
                seed += 1;
                let what = format!("after {stop} writes, round {round}, seed {seed}, with the stopped run's cache: {keeps_cache}");
                let site: SharedStore = recovery.site_of(&before).await;
                recovery.clock.advance(Duration::from_secs(3600));
                let (cut, cache) = (Arc::new(Staged::over(site.clone())), recovery.fresh_cache());
                cut.writes_left.store(stop, Ordering::SeqCst);
                match recovery.backup(cut, &cache).await {
                    Ok(_) => went_through = true,
                    Err(error) => assert!(error.to_string().contains("the connection broke"), "{what}: {error}"),
                }
                let lagging = FaultyStore::over(site.clone());
                lagging.lag_some(COMMIT_MARGIN - TimeDelta::seconds(1), seed, if round == 0 { 0.0 } else { 0.5 });
                let cache = if keeps_cache { cache } else { recovery.fresh_cache() };
                recovery.backup(lagging, &cache).await.unwrap_or_else(|error| panic!("{what}: {error}"));
                let all = objects(site.as_ref()).await;
                let points = all.keys().filter(|key| key.starts_with("points/")).count();
                assert_eq!(points, if went_through { 3 } else { 2 }, "{what}");
                assert_sound(&recovery, &all, &then, &what).await;
            }
        }
        if went_through {
            break;
        }
        stops += 1;
    }
    // A key, packs, an index, the point.
    assert!(stops >= 5, "{stops}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_fault_at_any_call_does_not_hinder_a_backup() {
    let (recovery, before, _) = begun(0).await;
    let quiet = FaultyStore::over(store_of(&before).await);
    recovery.backup(patient(quiet.clone()), &recovery.fresh_cache()).await.unwrap();
    let faults = [Fault::RefusedBefore, Fault::AnswerLost, Fault::Throttled, Fault::BodyBreaks(10), Fault::BodyEndsEarly(10)];
    let now = objects(recovery.source.as_ref()).await;
    for call in [Call::Put, Call::Get, Call::List, Call::Stat] {
        for number in 0..quiet.calls(call) {
            for fault in faults {
                let inner = store_of(&before).await;
                let faulty = FaultyStore::over(inner.clone());
                faulty.queue_after(number, call, fault);
                let what = format!("{fault:?} at {call:?} {number}");
                let report = recovery.backup(patient(faulty), &recovery.fresh_cache()).await;
                let point = report.unwrap_or_else(|error| panic!("{what}: {error}")).point_id;
                let restored = recovery.restore(inner, &recovery.fresh_cache(), &point).await.unwrap();
                assert!(restored == now, "{what}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_site_that_fails_again_and_again_ends_in_an_error_or_a_whole_point() {
    let (recovery, before, then) = begun(0).await;
    let (mut failed, mut done) = (0, 0);
    for seed in 0..40 {
        let inner = store_of(&before).await;
        // Without retries the first fault ends the run; with them, and half of all calls failing, some runs get through.
        let faulty: SharedStore = FaultyStore::seeded(inner.clone(), seed, if seed % 2 == 0 { 0.1 } else { 0.4 });
        let store = if seed % 2 == 0 { faulty } else { patient(faulty) };
        match recovery.backup(store, &recovery.fresh_cache()).await {
            Ok(_) => done += 1,
            Err(error) => {
                failed += 1;
                assert!(error.to_string().len() > 10, "seed {seed}: {error}");
            }
        }
        assert_sound(&recovery, &objects(inner.as_ref()).await, &then, &format!("seed {seed}")).await;
    }
    assert!(failed > 0 && done > 0, "{failed} failed, {done} done: the faults prove nothing");
}
