//! What damage leaves behind: it is said as long as it hurts, on every machine, whatever that machine read when all was whole; and what
//! was mended is gone for good.

use std::collections::BTreeSet;

use bytes::Bytes;
use chrono::TimeDelta;
use farshore::{
    clock::{Clock, FixedClock},
    operations::VerifyLevel,
    repository::DoomRecord,
    stores::{PutOptions, SharedStore, Store},
};

use super::nightly;
use crate::support::{
    faulty_store::FaultyStore,
    recovery::{Recovery, noise, objects},
};

/// Flips a bit of the first object below a prefix that is also chosen by its kind; its key.
async fn flip(store: &SharedStore, prefix: &str, kind: u8, at: usize) -> String {
    let all = objects(store.as_ref()).await;
    let (key, body) = all.iter().find(|(key, body)| key.starts_with(prefix) && body[9] == kind).unwrap();
    let mut bytes = body.to_vec();
    bytes[at] ^= 16;
    store.put(key, Bytes::from(bytes), PutOptions::default()).await.unwrap();
    key.clone()
}

async fn keys(store: &SharedStore, prefix: &str) -> BTreeSet<String> {
    objects(store.as_ref()).await.into_keys().filter(|key| key.starts_with(prefix)).collect()
}

const DAY: std::time::Duration = std::time::Duration::from_secs(86_400);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_index_is_not_believed_by_whom_it_told_something_when_it_was_whole_and_goes_when_it_was_replaced() {
    let recovery = Recovery::new(true);
    let (store, ids) = nightly(&recovery, 2).await;
    let contents = objects(recovery.source.as_ref()).await;
    let (warm, cold) = (recovery.fresh_cache(), || recovery.fresh_cache());
    recovery.verify_at(store.clone(), &warm, VerifyLevel::Structure).await.unwrap();
    let index = flip(&store, "indexes/", 3, 100).await;
    let found = recovery.verify(store.clone(), &warm).await.unwrap();
    assert_eq!(found.damage.iter().map(|damage| damage.object.as_str()).collect::<Vec<_>>(), [index.as_str()]);
    // Also by one that reads no index again.
    for cache in [warm.clone(), cold()] {
        let found = recovery.verify_at(store.clone(), &cache, VerifyLevel::Structure).await.unwrap();
        assert!(found.damage.iter().any(|damage| damage.object == index), "{found:?}");
    }
    recovery.restore(store.clone(), &warm, "latest").await.unwrap_err();
    let repaired = recovery.repair(store.clone(), &warm, false, &|_| {}).await.unwrap();
    assert!(repaired.packs_found > 0 && repaired.points_hurt.is_empty(), "{repaired:?}");
    assert_eq!(repaired.replaced.iter().map(|damage| damage.object.as_str()).collect::<Vec<_>>(), [index.as_str()]);
    for cache in [warm.clone(), cold()] {
        assert_eq!(recovery.restore(store.clone(), &cache, &ids[1]).await.unwrap(), contents);
        let verified = recovery.verify(store.clone(), &cache).await.unwrap();
        assert_eq!((verified.damage.len(), verified.mended.len()), (0, 1), "{verified:?}");
        assert_eq!(recovery.backup(store.clone(), &cache).await.unwrap().problems, [], "nothing is left out");
    }
    let pruned = recovery.prune(store.clone(), &warm).await.unwrap();
    assert_eq!(pruned.problems, []);
    assert!(!keys(&store, "").await.iter().any(|key| *key == index || key.starts_with("damaged/")), "it and its mark are gone");
    assert_eq!(recovery.verify(store.clone(), &cold()).await.unwrap().mended, []);
    assert_eq!(recovery.restore(store.clone(), &cold(), &ids[1]).await.unwrap(), contents);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn known_damage_is_said_every_night_until_it_is_mended() {
    let recovery = Recovery::new(true);
    let (store, ids) = nightly(&recovery, 2).await;
    let cache = recovery.fresh_cache();
    let pack = flip(&store, "packs/", 1, 5_000).await;
    let first = recovery.verify(store.clone(), &cache).await.unwrap();
    assert_eq!(first.damage.len(), 1);
    for level in [VerifyLevel::Structure, VerifyLevel::ReadPart(30), VerifyLevel::ReadPart(30)] {
        for cache in [cache.clone(), recovery.fresh_cache()] {
            let again = recovery.verify_at(store.clone(), &cache, level).await.unwrap();
            let said: Vec<_> = again.damage.iter().map(|damage| (&damage.object, &damage.points)).collect();
            assert_eq!(said, [(&pack, &first.damage[0].points)], "{level:?}");
            assert!(!said[0].1.is_empty() && said[0].1.iter().all(|point| ids.contains(point)));
        }
    }
    recovery.backup(store.clone(), &cache).await.unwrap();
    assert_eq!(recovery.verify_at(store.clone(), &cache, VerifyLevel::Structure).await.unwrap().damage, []);
    let mended = recovery.verify(store.clone(), &cache).await.unwrap();
    assert_eq!((mended.damage.len(), mended.mended.len()), (0, 1), "{mended:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_record_that_no_restore_needs_is_damage_once_and_known_from_then_on() {
    let recovery = Recovery::new(true);
    let (store, _) = nightly(&recovery, 1).await;
    let cache = recovery.fresh_cache();
    recovery.verify(store.clone(), &cache).await.unwrap();
    let evidence = flip(&store, "evidence/", 5, 80).await;
    let structure = async || recovery.verify_at(store.clone(), &cache, VerifyLevel::Structure).await.unwrap();
    assert_eq!(structure().await.damage[0].object, evidence);
    assert_eq!(recovery.verify(store.clone(), &cache).await.unwrap().damage[0].object, evidence);
    for found in [structure().await, recovery.verify(store.clone(), &cache).await.unwrap()] {
        assert_eq!((found.damage.len(), found.known.len()), (0, 1), "{found:?}");
        assert_eq!(found.known[0].object, evidence);
    }
    // Another one is damage again.
    store.delete(keys(&store, "evidence/").await.iter().find(|key| **key != evidence).unwrap()).await.unwrap();
    assert_eq!(recovery.verify(store.clone(), &cache).await.unwrap().damage.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_point_from_a_clock_that_ran_ahead_is_not_the_latest_once_another_comes() {
    let mut recovery = Recovery::new(true);
    let (store, _) = nightly(&recovery, 1).await;
    let right = recovery.clock.clone();
    // A machine whose clock is a year ahead, as its site's was; by now that one is right.
    recovery.clock = FixedClock::shared(right.now() + TimeDelta::days(365));
    let ahead_site: SharedStore = recovery.site_of(&objects(store.as_ref()).await).await;
    recovery.put("ahead", noise(1000, 7)).await;
    let ahead = recovery.backup(ahead_site.clone(), &recovery.fresh_cache()).await.unwrap().point_id;
    recovery.clock = right.clone();
    let store: SharedStore = recovery.site_of(&objects(ahead_site.as_ref()).await).await;
    right.advance(DAY);
    recovery.put("newest", noise(1000, 8)).await;
    let newest = recovery.backup(store.clone(), &recovery.fresh_cache()).await.unwrap().point_id;
    let listed: Vec<String> =
        recovery.points(store.clone(), &recovery.fresh_cache()).await.unwrap().into_iter().map(|point| point.id).collect();
    assert_eq!(listed[1..], [ahead, newest]);
    let restored = recovery.restore(store, &recovery.fresh_cache(), "latest").await.unwrap();
    assert!(restored.contains_key("newest"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_doom_record_that_names_nothing_millions_of_times_takes_no_memory_of_those_who_read_it() {
    let recovery = Recovery::new(true);
    let (store, _) = nightly(&recovery, 1).await;
    let repository = recovery.open(store.clone(), &recovery.fresh_cache()).await.unwrap();
    let pack = keys(&store, "packs/").await.first().unwrap().rsplit_once('/').unwrap().1.to_owned();
    let nothing = vec![String::new(); 500_000];
    let packs: Vec<String> = nothing.iter().cloned().chain(std::iter::repeat_n(pack.clone(), 50_000)).collect();
    let record = DoomRecord {
        policy: "p".to_owned(),
        grace_seconds: 3600,
        points: nothing.clone(),
        packs,
        keys: nothing,
        ..DoomRecord::default()
    };
    repository.put_doom(&record).await.unwrap();
    let stored = objects(store.as_ref()).await;
    assert!(stored.iter().any(|(key, body)| key.starts_with("doomed/") && body.len() < 10_000), "a few bytes say it");
    let records = repository.doom_records().await.unwrap();
    let read = records[0].record.as_ref().unwrap();
    assert_eq!((read.points.len(), read.packs.as_slice(), read.keys.len()), (0, [pack].as_slice(), 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pack_that_a_lagging_listing_does_not_show_yet_is_neither_deleted_nor_forgotten() {
    let recovery = Recovery::new(true);
    let (store, _) = nightly(&recovery, 1).await;
    let before = keys(&store, "").await;
    recovery.put("next", noise(50_000, 9)).await;
    recovery.backup(store.clone(), &recovery.fresh_cache()).await.unwrap();
    let mut all = objects(store.as_ref()).await;
    let is_new = |key: &String| !before.contains(key);
    // As far as a backup has come that is about to commit.
    all.retain(|key, _| !(is_new(key) && key.starts_with("points/")));
    let site = recovery.site_of(&all).await;
    // Now: the new packs, and last the index, which a listing shows before them.
    let packs: Vec<String> = all.keys().filter(|key| is_new(key) && key.starts_with("packs/")).cloned().collect();
    let lagging = FaultyStore::over(site.clone());
    lagging.hide(packs.iter().cloned());
    for _ in 0..2 {
        recovery.prune(lagging.clone(), &recovery.fresh_cache()).await.unwrap();
    }
    let left = objects(site.as_ref()).await;
    for key in all.keys().filter(|key| key.starts_with("packs/") || key.starts_with("indexes/")) {
        assert!(left.contains_key(key), "{key} went");
    }
    // What is lost, and not only late, is not named for ever.
    for pack in &packs {
        site.delete(pack).await.unwrap();
    }
    recovery.clock.advance(3 * DAY);
    recovery.prune(site.clone(), &recovery.fresh_cache()).await.unwrap();
    let cache = recovery.fresh_cache();
    let repository = recovery.open(site.clone(), &cache).await.unwrap();
    let named = repository.chunks().await.unwrap().packs().unwrap();
    assert!(named.iter().all(|(_, record)| !packs.contains(&farshore::repository::pack_key(&record.sha256))));
}
