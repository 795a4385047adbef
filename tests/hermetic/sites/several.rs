//! One read of the source, several sites.

use std::sync::Arc;

use farshore::stores::SharedStore;

use crate::support::{
    faulty_store::{Call, Fault, FaultyStore},
    recovery::{Objects, Recovery, noise, objects, store_of},
    sites::fresh_reader,
};

async fn filled() -> Recovery {
    let recovery = Recovery::new(true);
    recovery.put("empty", Vec::new()).await;
    recovery.put("large", noise(20 << 20, 1)).await;
    for number in 0..20 {
        recovery.put(&format!("small/{number:02}"), noise(3000 + number, number as u64 + 5)).await;
    }
    recovery
}

async fn site(recovery: &Recovery) -> SharedStore {
    let store: SharedStore = store_of(&Objects::new()).await;
    recovery.init(&store).await;
    store
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_sites_get_the_same_point_and_the_source_is_read_once() {
    let (recovery, now) = {
        let recovery = filled().await;
        let now = objects(recovery.source.as_ref()).await;
        (recovery, now)
    };
    let reads = async |sites: &[_]| {
        let source = FaultyStore::over(recovery.source.clone());
        let backed = recovery.backup_to(source.clone(), sites, &recovery.fresh_cache()).await.unwrap();
        assert!(backed.failed.is_empty(), "{:?}", backed.failed);
        (backed.reports, source.calls(Call::Get))
    };
    let alone = recovery.far("alone", site(&recovery).await);
    let (_, for_one) = reads(&[alone]).await;
    let two = [recovery.far("a", site(&recovery).await), recovery.far("b", site(&recovery).await)];
    let (reports, for_two) = reads(&two).await;
    assert_eq!((for_two, for_one >= now.len() as u64 - 1), (for_one, true), "each object is read once, however many sites");
    assert_eq!((&reports[0].point_id, reports[0].consistent_at), (&reports[1].point_id, reports[1].consistent_at));
    for far in &two {
        let restored = recovery.restore(far.store.clone(), &recovery.fresh_cache(), &reports[0].point_id).await.unwrap();
        assert!(restored == now, "{} gives back something else", far.name);
    }
    let (again, none) = reads(&two).await;
    assert_eq!((none, again[1].sources[0].items_unchanged), (0, now.len() as u64), "nothing has changed, nothing is read");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_site_that_fails_at_any_write_is_left_behind_and_catches_up_in_the_next_run() {
    let recovery = filled().await;
    let stores = [site(&recovery).await, site(&recovery).await];
    let both = [recovery.far("a", stores[0].clone()), recovery.far("b", stores[1].clone())];
    recovery.backup_to(recovery.source.clone(), &both, &recovery.fresh_cache()).await.unwrap();
    recovery.put("new", noise(9 << 20, 99)).await;
    let (first, second) = (objects(stores[0].as_ref()).await, objects(stores[1].as_ref()).await);
    let now = objects(recovery.source.as_ref()).await;
    let counting = FaultyStore::over(store_of(&second).await);
    let (a, b) = (recovery.far("a", store_of(&first).await), recovery.far("b", counting.clone()));
    recovery.backup_to(recovery.source.clone(), &[a, b], &recovery.fresh_cache()).await.unwrap();
    let mut stages = 0;
    for call in [Call::Put, Call::Get, Call::List] {
        for number in 0..counting.calls(call) {
            let (a, down) = (store_of(&first).await, store_of(&second).await);
            let faulty = FaultyStore::over(down.clone());
            faulty.queue(call, (0..number).map(|_| Fault::None).chain((0..1000).map(|_| Fault::RefusedBefore)));
            let what = format!("{call:?} fails from {number} on");
            let broken = [recovery.far("a", a.clone()), recovery.far("b", faulty)];
            let backed = recovery.backup_to(recovery.source.clone(), &broken, &recovery.fresh_cache()).await.unwrap();
            let names: Vec<_> = backed.failed.iter().map(|(name, _)| name.as_str()).collect();
            assert_eq!((names, backed.reports.len()), (vec!["b"], 1), "{what}");
            assert_eq!(backed.reports[0].missing_at, ["b"], "{what}");
            let point = &backed.reports[0].point_id;
            let restored = recovery.restore(a.clone(), &recovery.fresh_cache(), point).await.unwrap();
            assert!(restored == now, "{what}: the point at the other site is another");
            stages += 1;
            // The next run: what both had before is not read, what b missed is.
            let source = FaultyStore::over(recovery.source.clone());
            let whole = [recovery.far("a", a), recovery.far("b", down.clone())];
            let backed = recovery.backup_to(source.clone(), &whole, &recovery.fresh_cache()).await.unwrap();
            assert_eq!((backed.failed.len(), backed.reports.len()), (0, 2), "{what}");
            assert!(source.calls(Call::Get) <= 2, "{what}: {} reads for one object", source.calls(Call::Get));
            let restored = recovery.restore(down, &recovery.fresh_cache(), &backed.reports[1].point_id).await.unwrap();
            assert!(restored == now, "{what}: the site that caught up has something else");
        }
    }
    assert!(stages > 10, "{stages} stages prove little");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_point_names_the_site_that_missed_it_as_far_as_was_known_at_its_commit() {
    let recovery = filled().await;
    let (good, missing): (SharedStore, SharedStore) = (site(&recovery).await, store_of(&Objects::new()).await);
    let sites = [recovery.far("good", good.clone()), recovery.far("missing", missing)];
    let backed = recovery.backup_to(recovery.source.clone(), &sites, &recovery.fresh_cache()).await.unwrap();
    assert_eq!(backed.failed.len(), 1, "there is no repository at the second");
    let points = recovery.points(good, &recovery.fresh_cache()).await.unwrap();
    assert_eq!(points[0].missing_at, ["missing"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_all_sites_fail_there_is_no_point_and_each_error_is_kept() {
    let recovery = filled().await;
    let broken = async |name| {
        let faulty = FaultyStore::over(site(&recovery).await);
        // The data key, and then nothing more.
        faulty.queue(Call::Put, std::iter::once(Fault::None).chain((0..1000).map(|_| Fault::RefusedBefore)));
        recovery.far(name, faulty)
    };
    let sites = [broken("a").await, broken("b").await];
    let backed = recovery.backup_to(recovery.source.clone(), &sites, &recovery.fresh_cache()).await.unwrap();
    let names: Vec<_> = backed.failed.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!((names, backed.reports.len()), (vec!["a", "b"], 0));
    assert!(backed.failed.iter().all(|(_, error)| error.to_string().contains("refused before")), "{:?}", backed.failed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_site_opens_with_the_identities_of_its_own_recipients() {
    let recovery = filled().await;
    let now = objects(recovery.source.as_ref()).await;
    let (identities, recipients) = fresh_reader();
    let other: SharedStore = store_of(&Objects::new()).await;
    let clock = recovery.shared_clock();
    farshore::repository::Repository::init(&other, &clock, &recipients).await.unwrap();
    let mut second = recovery.far("other", other.clone());
    (second.recipients, second.identities) = (recipients, identities.clone());
    let sites = [recovery.far("usual", site(&recovery).await), second];
    let backed = recovery.backup_to(recovery.source.clone(), &sites, &recovery.fresh_cache()).await.unwrap();
    assert!(backed.failed.is_empty(), "{:?}", backed.failed);
    let point = backed.reports[0].point_id.as_str();
    let restored = recovery.restore_with(&identities, other.clone(), &recovery.fresh_cache(), point).await.unwrap();
    assert!(restored == now);
    recovery.restore(other, &recovery.fresh_cache(), point).await.expect_err("the usual reader is none there");
    let usual = Arc::clone(&sites[0].store);
    recovery.restore_with(&identities, usual, &recovery.fresh_cache(), point).await.expect_err("and the other none here");
}
