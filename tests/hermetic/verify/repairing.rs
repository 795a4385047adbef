//! Indexes that are lost come back out of the packs, and what is hurt is named.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, atomic::Ordering},
};

use bytes::Bytes;
use farshore::{
    report::{Hurt, RepairReport},
    stores::{PutOptions, SharedStore},
};

use super::nightly;
use crate::support::{
    recovery::{Objects, Recovery, noise, objects, store_of},
    staged_store::Staged,
    watched_store::WatchedStore,
};

async fn repair(recovery: &Recovery, store: &SharedStore, dry_run: bool) -> (RepairReport, Vec<Hurt>) {
    let hurt = Mutex::new(Vec::new());
    let report = recovery
        .repair(store.clone(), &recovery.fresh_cache(), dry_run, &|one: &Hurt| hurt.lock().unwrap().push(one.clone()))
        .await
        .unwrap();
    (report, hurt.into_inner().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn indexes_that_are_lost_or_damaged_are_rebuilt_from_the_packs_without_reading_their_data() {
    for encrypted in [true, false] {
        let recovery = Recovery::new(encrypted);
        // More chunks in one pack than fit into what is read of its end at first.
        for number in 0..2_000 {
            recovery.put(&format!("many/{number:05}"), noise(100, 10_000 + number)).await;
        }
        let (store, ids) = nightly(&recovery, 3).await;
        let contents = objects(recovery.source.as_ref()).await;
        let whole = objects(store.as_ref()).await;
        for harm in ["missing", "flipped", "emptied"] {
            let mut all: Objects = whole.clone();
            for (key, body) in whole.iter().filter(|(key, _)| key.starts_with("indexes/")) {
                match harm {
                    "missing" => drop(all.remove(key)),
                    "emptied" => drop(all.insert(key.clone(), Bytes::new())),
                    _ => {
                        let mut bytes = body.to_vec();
                        bytes[100] ^= 1;
                        all.insert(key.clone(), bytes.into());
                    }
                }
            }
            let hurt: SharedStore = store_of(&all).await;
            recovery.restore(hurt.clone(), &recovery.fresh_cache(), &ids[2]).await.unwrap_err();
            let (planned, named) = repair(&recovery, &hurt, true).await;
            assert_eq!(objects(hurt.as_ref()).await, all, "a dry run writes nothing");
            assert!(planned.packs_found >= 6 && planned.indexes_written.is_empty());
            assert_eq!((planned.points_whole, named), (3, Vec::new()), "{harm}: what a repair would leave hurt");
            let watched = WatchedStore::over(hurt.clone(), recovery.clock.clone());
            let (done, named) = repair(&recovery, &(watched.clone() as SharedStore), false).await;
            assert_eq!((done.packs_found, done.points_whole, named.len()), (planned.packs_found, 3, 0), "{harm}: {done:?}");
            assert!(watched.whole_reads().is_empty(), "only the ends of packs are read");
            assert_eq!(recovery.restore(hurt.clone(), &recovery.fresh_cache(), &ids[2]).await.unwrap(), contents, "{harm}");
            let verified = recovery.verify(hurt.clone(), &recovery.fresh_cache()).await.unwrap();
            assert_eq!(verified.damage, [], "{harm}: what was replaced is no damage");
            assert_eq!(verified.mended.len(), if harm == "missing" { 0 } else { 3 }, "{harm}");
            assert_eq!(repair(&recovery, &hurt, false).await.0.packs_found, 0, "once is enough");
        }
    }
}

/// Everything but what a repair adds, whose names are another each time.
fn lasting(all: Objects) -> Objects {
    all.into_iter().filter(|(key, _)| !["indexes/", "damaged/", "evidence/"].iter().any(|kind| key.starts_with(kind))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repair_that_stops_after_any_write_ends_the_same_when_it_is_run_again() {
    let recovery = Recovery::new(true);
    let (store, ids) = nightly(&recovery, 4).await;
    let contents = objects(recovery.source.as_ref()).await;
    let whole = objects(store.as_ref()).await;
    let mut hurt = whole.clone();
    // One index is gone, one has a flipped bit, one is empty, one is as it was.
    let names: Vec<String> = whole.keys().filter(|key| key.starts_with("indexes/")).cloned().collect();
    assert_eq!(names.len(), 4);
    hurt.remove(&names[0]);
    let mut flipped = whole[&names[1]].to_vec();
    flipped[100] ^= 1;
    hurt.insert(names[1].clone(), flipped.into());
    hurt.insert(names[2].clone(), Bytes::new());
    let mut stops = 0;
    for stop in 0.. {
        let what = format!("after {stop} writes");
        let site: SharedStore = recovery.site_of(&hurt).await;
        let (cut, cache) = (Arc::new(Staged::over(site.clone())), recovery.fresh_cache());
        cut.writes_left.store(stop, Ordering::SeqCst);
        let ended = recovery.repair(cut, &cache, false, &|_| {}).await;
        if let Err(error) = &ended {
            assert!(error.to_string().contains("the connection broke"), "{what}: {error}");
        }
        assert!(lasting(objects(site.as_ref()).await) == lasting(whole.clone()), "{what}: something else was touched");
        // By the same machine, which remembers what it has seen, or by another.
        let cache = if stop % 2 == 0 { cache } else { recovery.fresh_cache() };
        let again = recovery.repair(site.clone(), &cache, false, &|hurt| panic!("{what}: {hurt:?}")).await.unwrap();
        assert_eq!((again.points_whole, again.points_hurt.len(), again.damaged.len()), (4, 0, 0), "{what}: {again:?}");
        let (none, named) = repair(&recovery, &site, false).await;
        assert_eq!((none.packs_found, none.indexes_written.len(), named.len()), (0, 0, 0), "{what}");
        let marks = objects(site.as_ref()).await.into_keys().filter(|key| key.starts_with("damaged/")).count();
        assert_eq!(marks, 2, "{what}: one for each damaged index, however often it was met");
        for (number, id) in ids.iter().enumerate() {
            let restored = recovery.restore(site.clone(), &recovery.fresh_cache(), id).await.unwrap();
            let then: Objects = contents.clone().into_iter().take(number + 1).collect();
            assert!(restored == then, "{what}: point {number}");
        }
        let verified = recovery.verify(site.clone(), &recovery.fresh_cache()).await.unwrap();
        assert_eq!((verified.damage, verified.mended.len()), (vec![], 2), "{what}");
        assert!(lasting(objects(site.as_ref()).await) == lasting(whole.clone()), "{what}: something else was touched");
        if ended.is_ok() {
            break;
        }
        stops += 1;
    }
    // An index, two marks.
    assert_eq!(stops, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_point_and_path_that_damage_hurts_is_named_and_no_other_until_a_backup_mends_them() {
    let recovery = Recovery::new(true);
    let (store, ids) = nightly(&recovery, 3).await;
    let contents = objects(recovery.source.as_ref()).await;
    // Of the pack that holds `01` (the second point's) one bit, of the one that holds `02` all.
    let all = objects(store.as_ref()).await;
    let mut packs = Vec::new();
    for (key, body) in all.iter().filter(|(key, body)| key.starts_with("packs/") && body[9] == 1) {
        let mut without = all.clone();
        without.remove(key);
        let alone: SharedStore = store_of(&without).await;
        let (_, named) = repair(&recovery, &alone, true).await;
        let paths: BTreeSet<_> = named.into_iter().map(|hurt| hurt.path.unwrap()).collect();
        packs.push((paths.into_iter().collect::<Vec<_>>().join(" "), key.clone(), body.clone()));
    }
    packs.sort();
    assert_eq!(packs.iter().map(|(path, ..)| path.as_str()).collect::<Vec<_>>(), ["00", "01", "02"]);
    let mut flipped = packs[1].2.to_vec();
    flipped[2_000] ^= 1;
    store.put(&packs[1].1, flipped.into(), PutOptions::default()).await.unwrap();
    store.delete(&packs[2].1).await.unwrap();
    let found = recovery.verify(store.clone(), &recovery.fresh_cache()).await.unwrap();
    assert_eq!(found.damage.len(), 2, "{found:?}");
    let (report, named) = repair(&recovery, &store, false).await;
    let named: BTreeSet<_> =
        named.into_iter().map(|hurt| (hurt.point, hurt.source.unwrap(), hurt.path.unwrap(), hurt.bytes)).collect();
    let expected = [(1, "01"), (2, "01"), (2, "02")]
        .map(|(point, path): (usize, &str)| (ids[point].clone(), "b".to_owned(), path.to_owned(), 20_000));
    assert_eq!(named, expected.into());
    assert_eq!((report.points_whole, report.points_hurt.len(), report.damaged.len()), (1, 2, 2));
    assert_eq!((report.points_hurt[1].sources[0].entries, report.points_hurt[1].sources[0].hurt), (3, 2));
    // What can still be restored is.
    assert_eq!(recovery.restore(store.clone(), &recovery.fresh_cache(), &ids[0]).await.unwrap().len(), 1);
    recovery.restore(store.clone(), &recovery.fresh_cache(), &ids[1]).await.unwrap_err();
    recovery.backup(store.clone(), &recovery.fresh_cache()).await.unwrap();
    let (report, named) = repair(&recovery, &store, false).await;
    assert_eq!((report.points_whole, named), (4, vec![]));
    assert_eq!(recovery.restore(store.clone(), &recovery.fresh_cache(), &ids[2]).await.unwrap(), contents);
    let after = recovery.verify(store.clone(), &recovery.fresh_cache()).await.unwrap();
    assert_eq!((after.damage, after.mended.len()), (vec![], 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pack_whose_directory_is_damaged_still_gives_back_what_an_index_knows() {
    let recovery = Recovery::new(true);
    let (store, _) = nightly(&recovery, 2).await;
    let all = objects(store.as_ref()).await;
    let (key, body) = all.iter().find(|(key, body)| key.starts_with("packs/") && body[9] == 1).unwrap();
    let mut bytes = body.to_vec();
    *bytes.last_mut().unwrap() ^= 1;
    store.put(key, bytes.into(), PutOptions::default()).await.unwrap();
    assert_eq!(recovery.verify(store.clone(), &recovery.fresh_cache()).await.unwrap().damage.len(), 1);
    let (report, _) = repair(&recovery, &store, false).await;
    // Its directory cannot be found any more, so a repair must believe the worst; a restore, which knows the index, gets all of it.
    assert_eq!(report.damaged.len(), 1);
    let contents = objects(recovery.source.as_ref()).await;
    assert_eq!(recovery.restore(store.clone(), &recovery.fresh_cache(), "latest").await.unwrap(), contents);
}
