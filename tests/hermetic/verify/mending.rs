//! From a flipped bit to a repository that is whole again.

use bytes::Bytes;
use farshore::{
    operations::{OperationError, VerifyLevel},
    repository::RepositoryError,
    stores::{PutOptions, SharedStore},
};

use super::{nightly, verified};
use crate::support::recovery::{Objects, Recovery, objects};

/// Flips a bit of a chunk in the largest data pack that came with a point; its key.
async fn spoil_a_pack(store: &SharedStore) -> String {
    let all = objects(store.as_ref()).await;
    let packs = all.iter().filter(|(key, body)| key.starts_with("packs/") && body[9] == 1);
    let (key, body) = packs.max_by_key(|(_, body)| body.len()).unwrap();
    let mut bytes = body.to_vec();
    bytes[5_000] ^= 16;
    store.put(key, Bytes::from(bytes), PutOptions::default()).await.unwrap();
    key.clone()
}

async fn marks(store: &SharedStore) -> Vec<String> {
    objects(store.as_ref()).await.into_keys().filter(|key| key.starts_with("damaged/")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_verification_finds_damaged_is_stored_anew_by_the_next_backup_and_old_points_are_whole_again() {
    for encrypted in [true, false] {
        let recovery = Recovery::new(encrypted);
        let (store, ids) = nightly(&recovery, 3).await;
        let contents: Objects = objects(recovery.source.as_ref()).await;
        let cache = recovery.fresh_cache();
        let key = spoil_a_pack(&store).await;
        // Without a verification nobody knows: a backup does not read data again.
        assert_eq!(recovery.backup(store.clone(), &cache).await.unwrap().problems, []);
        recovery.restore(store.clone(), &cache, "latest").await.unwrap_err();
        let found = recovery.verify(store.clone(), &cache).await.unwrap();
        assert_eq!(found.damage.iter().map(|damage| damage.object.as_str()).collect::<Vec<_>>(), [key.as_str()]);
        assert!(found.damage[0].points.contains(&ids[2]));
        assert_eq!(marks(&store).await.len(), 1);
        // Said once, however often it is found.
        recovery.verify(store.clone(), &recovery.fresh_cache()).await.unwrap();
        assert_eq!(marks(&store).await.len(), 1);
        // With the index that is there already, and with none.
        for cache in [cache.clone(), recovery.fresh_cache()] {
            let report = recovery.backup(store.clone(), &cache).await.unwrap();
            for id in [&report.point_id, &ids[2]] {
                for reader in [cache.clone(), recovery.fresh_cache()] {
                    assert_eq!(recovery.restore(store.clone(), &reader, id).await.unwrap(), contents);
                }
            }
        }
        let after = recovery.verify(store.clone(), &recovery.fresh_cache()).await.unwrap();
        assert_eq!(after.damage, []);
        assert_eq!(after.mended.iter().map(|damage| damage.object.as_str()).collect::<Vec<_>>(), [key.as_str()]);
        assert_eq!(verified(&recovery, &store).await.len(), 6, "the old points count again");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pack_that_is_sound_again_is_trusted_again() {
    let recovery = Recovery::new(true);
    let (store, _) = nightly(&recovery, 2).await;
    let before = objects(store.as_ref()).await;
    let key = spoil_a_pack(&store).await;
    recovery.verify(store.clone(), &recovery.fresh_cache()).await.unwrap();
    store.put(&key, before[&key].clone(), PutOptions::default()).await.unwrap();
    let report = recovery.verify(store.clone(), &recovery.fresh_cache()).await.unwrap();
    assert_eq!((report.damage, report.mended), (vec![], vec![]));
    assert_eq!(marks(&store).await.len(), 2, "damaged, then sound");
    let again = recovery.backup(store.clone(), &recovery.fresh_cache()).await.unwrap();
    assert_eq!(again.packs_written, 0, "nothing is stored anew: {again:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mark_that_cannot_be_read_counts_and_is_named() {
    let recovery = Recovery::new(true);
    let (store, _) = nightly(&recovery, 2).await;
    spoil_a_pack(&store).await;
    recovery.verify(store.clone(), &recovery.fresh_cache()).await.unwrap();
    let mark = marks(&store).await.remove(0);
    let mut bytes = objects(store.as_ref()).await[&mark].to_vec();
    bytes[70] ^= 1;
    store.put(&mark, bytes.into(), PutOptions::default()).await.unwrap();
    let report = recovery.backup(store.clone(), &recovery.fresh_cache()).await.unwrap();
    assert!(report.packs_written > 0 && report.problems.iter().any(|problem| problem.subject == mark), "{report:?}");
    for level in [VerifyLevel::Structure, VerifyLevel::ReadData(100.0)] {
        let found = recovery.verify_at(store.clone(), &recovery.fresh_cache(), level).await.unwrap().damage;
        assert_eq!(found.iter().filter(|damage| damage.object == mark).count(), 1, "{level:?}: {found:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_wrong_identity_marks_nothing() {
    // The agent's own key opens the catalogue and no data: to it every data key looks locked, whichever part is read.
    let recovery = Recovery::new(true);
    let (store, _) = nightly(&recovery, 2).await;
    for level in [VerifyLevel::ReadData(100.0), VerifyLevel::ReadPart(2), VerifyLevel::ReadPart(50), VerifyLevel::ReadPart(1000)] {
        let refused = recovery.verify_so_far(&recovery.agent, store.clone(), &recovery.fresh_cache(), level).await.unwrap_err();
        assert!(matches!(refused, OperationError::Repository(RepositoryError::Key { .. })), "{level:?}: {refused}");
    }
    assert_eq!(marks(&store).await, [] as [String; 0]);
}
