//! Points copied from one site to another.

use farshore::{
    report::ExitCode,
    repository::Repository,
    stores::{PutOptions, SharedStore},
};

use crate::support::{
    recovery::{Objects, Recovery, noise, objects, store_of},
    sites::{Far, fresh_reader},
};

/// Two sites with different readers, the first with two points of which the second changes little.
async fn begun() -> (Recovery, Far, Far, Objects, Objects) {
    let recovery = Recovery::new(true);
    recovery.put("empty", Vec::new()).await;
    recovery.put("large", noise(20 << 20, 1)).await;
    for number in 0..30 {
        recovery.put(&format!("small/{number:02}"), noise(3000 + number, number as u64 + 5)).await;
    }
    let (identities, recipients) = fresh_reader();
    let stores: [SharedStore; 2] = [store_of(&Objects::new()).await, store_of(&Objects::new()).await];
    recovery.init(&stores[0]).await;
    Repository::init(&stores[1], &recovery.shared_clock(), &recipients).await.unwrap();
    let [first, second] = stores;
    let from = recovery.far("from", first);
    let to = Far { name: "to", store: second, recipients, identities };
    let cache = recovery.fresh_cache();
    recovery.backup_to(recovery.source.clone(), std::slice::from_ref(&from), &cache).await.unwrap();
    let then = objects(recovery.source.as_ref()).await;
    recovery.put("small/07", noise(5000, 77)).await;
    recovery.put("small/new", noise(4000, 78)).await;
    recovery.backup_to(recovery.source.clone(), std::slice::from_ref(&from), &cache).await.unwrap();
    let now = objects(recovery.source.as_ref()).await;
    (recovery, from, to, then, now)
}

/// Keys of the packs that hold data: kind 1 in their header.
async fn data_packs(store: &SharedStore) -> Vec<String> {
    let all = objects(store.as_ref()).await;
    all.into_iter().filter(|(key, body)| key.starts_with("packs/") && body[9] == 1).map(|(key, _)| key).collect()
}

async fn spoil(store: &SharedStore, key: &str) {
    let mut body = objects(store.as_ref()).await.remove(key).unwrap().to_vec();
    body[64..].fill(0);
    store.put(key, body.into(), PutOptions::default()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_restores_identically_with_the_readers_of_the_target_and_a_second_one_does_nothing() {
    let (recovery, from, to, then, now) = begun().await;
    let cache = recovery.fresh_cache();
    let report = recovery.copy(&from, &to, None, &cache).await.unwrap();
    assert_eq!((report.points.len(), report.exit_code()), (2, ExitCode::Success));
    assert_eq!((report.points[0].items_adopted, report.points[1].items_adopted), (0, 30), "of 31 with content one has changed");
    for (point, expected) in report.points.iter().zip([&then, &now]) {
        let restored = recovery.restore_with(&to.identities, to.store.clone(), &recovery.fresh_cache(), &point.id).await.unwrap();
        assert!(restored == *expected, "{} is another", point.id);
        recovery.restore(to.store.clone(), &recovery.fresh_cache(), &point.id).await.expect_err("the source's reader is none here");
    }
    let verified = recovery.verify_with(&to.identities, to.store.clone(), &cache).await.unwrap();
    assert_eq!(verified.damage, []);
    let (here, there) = (recovery.open(from.store.clone(), &cache).await.unwrap(), {
        recovery.open_with(&to.identities, to.store.clone(), &cache).await.unwrap()
    });
    for name in here.point_names(Some("p")).await.unwrap() {
        let (mut left, mut right) = (here.point(&name).await.unwrap(), there.point(&name).await.unwrap());
        for snapshot in left.snapshots.iter_mut().chain(&mut right.snapshots) {
            snapshot.entries = farshore::repository::ChunkList::default();
        }
        let (left, right) = (serde_json::to_value(left).unwrap(), serde_json::to_value(right).unwrap());
        assert_eq!(left, right, "all that the backup said is kept");
    }
    let before = objects(to.store.as_ref()).await.len();
    let again = recovery.copy(&from, &to, None, &cache).await.unwrap();
    assert_eq!((again.points.len(), again.present.len(), again.exit_code()), (0, 2, ExitCode::Success));
    assert_eq!(objects(to.store.as_ref()).await.len(), before, "nothing was written");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_both_sites_have_in_an_earlier_point_is_not_read() {
    let (recovery, from, to, _, now) = begun().await;
    let old = {
        let repository = recovery.open(from.store.clone(), &recovery.fresh_cache()).await.unwrap();
        let names = repository.point_names(Some("p")).await.unwrap();
        recovery.copy(&from, &to, Some(&names[0].id), &recovery.fresh_cache()).await.unwrap();
        names[1].id.clone()
    };
    // The packs that the first point was stored in can be read no more; the second needs only what is new from elsewhere.
    let cache = recovery.fresh_cache();
    let large = data_packs(&from.store).await;
    let sizes = objects(from.store.as_ref()).await;
    let spoilt: Vec<_> = large.into_iter().filter(|key| sizes[key].len() > 20_000).collect();
    assert!(!spoilt.is_empty());
    for key in &spoilt {
        spoil(&from.store, key).await;
    }
    let report = recovery.copy(&from, &to, Some(&old), &cache).await.unwrap();
    assert_eq!((report.points[0].items_adopted, report.points[0].bytes_read), (30, 9000), "{report:?}");
    let restored = recovery.restore_with(&to.identities, to.store.clone(), &recovery.fresh_cache(), &old).await.unwrap();
    assert!(restored == now);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_chunk_at_the_source_is_named_with_its_path_and_makes_no_point() {
    let (recovery, from, to, _, _) = begun().await;
    for key in data_packs(&from.store).await {
        spoil(&from.store, &key).await;
    }
    let report = recovery.copy(&from, &to, Some("latest"), &recovery.fresh_cache()).await.unwrap();
    assert_eq!((report.points.len(), report.exit_code()), (0, ExitCode::Damaged));
    let message = &report.damaged[0].message;
    assert!(message.contains("source b, small/") && message.contains("damaged"), "{message}");
    assert!(objects(to.store.as_ref()).await.keys().all(|key| !key.starts_with("points/")), "no point was made");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_identity_that_opens_no_data_copies_nothing() {
    let (recovery, mut from, to, _, _) = begun().await;
    from.identities = recovery.agent.clone();
    let error = recovery.copy(&from, &to, Some("latest"), &recovery.fresh_cache()).await.unwrap_err();
    assert!(error.to_string().contains("keys/data-"), "{error}");
    assert!(objects(to.store.as_ref()).await.keys().all(|key| !key.starts_with("points/")), "no point was made");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_direct_backup_after_a_copy_finds_the_same_chunks() {
    let (recovery, from, to, _, _) = begun().await;
    recovery.copy(&from, &to, None, &recovery.fresh_cache()).await.unwrap();
    let before = data_packs(&to.store).await;
    // A third site that has nothing yet makes the backup read everything.
    let third: SharedStore = store_of(&Objects::new()).await;
    recovery.init(&third).await;
    let sites = [recovery.far("third", third), to.clone()];
    let backed = recovery.backup_to(recovery.source.clone(), &sites, &recovery.fresh_cache()).await.unwrap();
    assert_eq!((backed.failed.len(), backed.reports[0].sources[0].items_unchanged), (0, 0));
    assert_eq!(data_packs(&to.store).await, before, "a copy is cut as a backup would have cut it");
}
