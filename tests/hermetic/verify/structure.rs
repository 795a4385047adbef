//! What listing alone tells.

use bytes::Bytes;
use farshore::{
    operations::VerifyLevel,
    stores::{PutOptions, SharedStore},
};

use super::{nightly, verified};
use crate::support::{
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
