//! What listing alone tells.

use bytes::Bytes;
use farshore::{
    operations::VerifyLevel,
    stores::{PutOptions, SharedStore},
};

use super::{nightly, verified};
use crate::support::{
    faulty_store::{Call, FaultyStore},
    recovery::{Recovery, noise, objects},
    watched_store::WatchedStore,
};

async fn replace(store: &SharedStore, key: &str, body: Bytes) {
    store.put(key, body, PutOptions::default()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nothing_needs_is_left_over_and_no_damage() {
    let recovery = Recovery::new(true);
    let (store, ids) = nightly(&recovery, 3).await;
    let look = async || recovery.verify_at(store.clone(), &recovery.fresh_cache(), VerifyLevel::Structure).await.unwrap();
    let report = look().await;
    assert_eq!((report.damage.as_slice(), report.packs_unreferenced, report.keys_unreferenced), (&[][..], 0, 0));
    assert!(report.packs_checked >= 6 && report.packs_read == 0 && report.points_checked == 3);
    // A crash before the index, a key that was never used, and a point that is gone.
    replace(&store, &format!("packs/ab/{}", "ab".repeat(32)), noise(1_000, 1).into()).await;
    replace(&store, &format!("keys/data-{}.age", "ab".repeat(16)), noise(100, 1).into()).await;
    let point = objects(store.as_ref()).await.into_keys().find(|key| key.ends_with(&ids[2])).unwrap();
    store.delete(&point).await.unwrap();
    let report = look().await;
    assert_eq!((report.damage.as_slice(), report.mended.as_slice(), report.problems.as_slice()), (&[][..], &[][..], &[][..]));
    assert_eq!((report.packs_unreferenced, report.keys_unreferenced), (3, 1), "the stray one, and two of the last point");
    assert!(report.bytes_unreferenced > 21_000 && report.bytes_unreferenced < 25_000, "{}", report.bytes_unreferenced);
    assert!(verified(&recovery, &store).await.is_empty(), "nothing was read");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pack_that_was_put_there_again_is_held_against_the_sites_checksum() {
    let recovery = Recovery::new(true);
    let (store, ids) = nightly(&recovery, 2).await;
    let watched = WatchedStore::over(store.clone(), recovery.clock.clone());
    let look = async || recovery.verify_at(watched.clone(), &recovery.fresh_cache(), VerifyLevel::Structure).await.unwrap();
    assert_eq!(look().await.checksums_compared, 0, "nothing is asked for that the listing tells");
    let all = objects(store.as_ref()).await;
    let (key, body) = all.iter().find(|(key, body)| key.starts_with("packs/") && body[9] == 1).unwrap();
    replace(&store, key, body.clone()).await;
    let report = look().await;
    assert_eq!((report.checksums_compared, report.damage.as_slice()), (1, &[][..]));
    replace(&store, key, noise(body.len(), 9).into()).await;
    let report = look().await;
    assert_eq!(report.damage.len(), 1, "{report:?}");
    assert_eq!((&report.damage[0].object, report.damage[0].points.contains(&ids[1])), (key, true));
    assert!(watched.whole_reads().is_empty(), "no pack is downloaded");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_verification_of_the_structure_lists_packs_once_and_reads_a_point_for_each_that_there_is() {
    let recovery = Recovery::new(true);
    let (store, _) = nightly(&recovery, 3).await;
    let cache = recovery.fresh_cache();
    recovery.verify_at(store.clone(), &cache, VerifyLevel::Structure).await.unwrap();
    let watched = WatchedStore::over(store.clone(), recovery.clock.clone());
    let counted = FaultyStore::over(watched.clone());
    recovery.verify_at(counted.clone(), &cache, VerifyLevel::Structure).await.unwrap();
    let listings = watched.listings();
    for prefix in ["packs/", "points/", "indexes/", "evidence/"] {
        assert_eq!(listings.get(prefix), Some(&1), "{prefix}: {listings:?}");
    }
    // The repository's own file, the catalogue key, and the points.
    assert_eq!((counted.calls(Call::Get), counted.calls(Call::Stat)), (2 + 3, 0));
    assert_eq!((watched.whole_reads().len(), watched.part_reads()), (0, 0), "no list is read again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_followed_once_is_not_followed_again_and_is_not_believed_when_a_pack_is_gone() {
    let recovery = Recovery::new(true);
    let (store, _) = nightly(&recovery, 3).await;
    let (watched, cache) = (WatchedStore::over(store.clone(), recovery.clock.clone()), recovery.fresh_cache());
    let look = async || recovery.verify_at(watched.clone(), &cache, VerifyLevel::Structure).await.unwrap();
    let first = look().await;
    assert_eq!((first.points_checked, first.damage.as_slice()), (3, &[][..]));
    let for_three = watched.part_reads();
    assert!(for_three >= 3, "each point has a list of its own");
    let again = look().await;
    assert_eq!((again.points_checked, again.packs_checked, again.damage.as_slice()), (3, first.packs_checked, &[][..]));
    assert_eq!((again.packs_unreferenced, watched.part_reads()), (0, 0), "nothing but points is read");
    // A point that came since is followed, the others are not.
    let before = objects(store.as_ref()).await;
    recovery.put("new", noise(20_000, 77)).await;
    let new = recovery.backup(store.clone(), &recovery.fresh_cache()).await.unwrap().point_id;
    assert_eq!(look().await.points_checked, 4);
    let for_one = watched.part_reads();
    assert!(for_one > 0 && for_one < for_three, "{for_one} of {for_three}");
    // Its data go: it is hurt, whatever was remembered, and the others are not.
    let stored = objects(store.as_ref()).await;
    let (lost, body) =
        stored.into_iter().find(|(key, body)| key.starts_with("packs/") && body[9] == 1 && !before.contains_key(key)).unwrap();
    store.delete(&lost).await.unwrap();
    let report = look().await;
    let hurt: Vec<_> = report.damage.iter().map(|damage| (&damage.object, damage.points.as_slice())).collect();
    assert_eq!(hurt, [(&lost, std::slice::from_ref(&new))]);
    replace(&store, &lost, body).await;
    assert_eq!(look().await.damage, []);
    // The index goes that names them.
    let stored = objects(store.as_ref()).await;
    let (lost, body) = stored.into_iter().find(|(key, _)| key.starts_with("indexes/") && !before.contains_key(key)).unwrap();
    store.delete(&lost).await.unwrap();
    let report = look().await;
    assert_eq!(report.damage.len(), 1, "{report:?}");
    assert_eq!(report.damage[0].points, std::slice::from_ref(&new), "the point cannot be followed: {report:?}");
    replace(&store, &lost, body).await;
    assert_eq!(look().await.damage, []);
    // Whoever reads everything follows everything.
    watched.part_reads();
    recovery.verify_at(watched.clone(), &cache, VerifyLevel::ReadData(100.0)).await.unwrap();
    assert!(watched.part_reads() > for_three);
}
