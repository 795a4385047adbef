//! Copies between sites whose listings lag behind: they lack what came in the last minutes, all of it or some.

use chrono::TimeDelta;
use farshore::{repository::COMMIT_MARGIN, stores::SharedStore};

use crate::support::{
    faulty_store::FaultyStore,
    recovery::{Objects, Recovery, noise, objects},
    slow::assert_clear,
    soak,
};

/// Every point of a site gives back what it should, and nothing is damaged; how many there are.
async fn assert_whole(recovery: &Recovery, store: &SharedStore, contents: &[(String, Objects)], what: &str) -> usize {
    let cache = recovery.fresh_cache();
    let listed = recovery.points(store.clone(), &cache).await.unwrap();
    for point in &listed {
        let (_, then) = contents.iter().find(|(id, _)| *id == point.id).unwrap();
        let restored = recovery.restore(store.clone(), &cache, &point.id).await.unwrap();
        assert!(restored == *then, "{what}: {} is another", point.id);
    }
    assert_eq!(recovery.verify(store.clone(), &cache).await.unwrap().damage, [], "{what}");
    listed.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_between_sites_whose_listings_lag_makes_whole_points_and_one_after_that_completes() {
    let lag = COMMIT_MARGIN - TimeDelta::seconds(1);
    let (mut behind, mut refused) = (0, 0);
    for seed in 0..soak(4) {
        let recovery = Recovery::new(true);
        let stores: [SharedStore; 2] = [recovery.site_of(&Objects::new()).await, recovery.site_of(&Objects::new()).await];
        recovery.init(&stores[0]).await;
        recovery.init(&stores[1]).await;
        recovery.clock.advance(lag.to_std().unwrap());
        let mut contents = Vec::new();
        // One point at both sites since long, and two at one of them just now.
        recovery.put("shared", noise(80_000, 1)).await;
        for number in 0..3 {
            recovery.put(&number.to_string(), noise(40_000, 10 + number)).await;
            let sites = [recovery.far("a", stores[0].clone()), recovery.far("b", stores[1].clone())];
            let sites = if number == 0 { &sites[..] } else { &sites[..1] };
            let backed = recovery.backup_to(recovery.source.clone(), sites, &recovery.fresh_cache()).await.unwrap();
            contents.push((backed.reports[0].point_id.clone(), objects(recovery.source.as_ref()).await));
            if number == 0 {
                recovery.clock.advance(lag.to_std().unwrap());
            }
        }
        // A listing may lack all that is new, or show some of it: perhaps a point, and not the index of its packs.
        let spared = if seed % 2 == 0 { 0.0 } else { 0.5 };
        let lagging = [0, 1].map(|number| FaultyStore::over(stores[number].clone()));
        lagging.iter().for_each(|store| store.lag_some(lag, seed, spared));
        let [from, to] = [0, 1].map(|number| recovery.far(["a", "b"][number], lagging[number].clone()));
        // Twice: the second does not see what the first has written.
        for round in 0..2 {
            let what = format!("seed {seed}, round {round}");
            match recovery.copy(&from, &to, None, &recovery.fresh_cache()).await {
                Ok(report) => assert!(spared > 0.0 || report.damaged.is_empty(), "{what}: {report:?}"),
                Err(error) => {
                    assert_clear(&error, &what);
                    refused += 1;
                }
            }
            let there = assert_whole(&recovery, &stores[1], &contents, &what).await;
            behind += usize::from(there < 3);
        }
        recovery.clock.advance(COMMIT_MARGIN.to_std().unwrap());
        let report = recovery.copy(&from, &to, None, &recovery.fresh_cache()).await.unwrap();
        // Where a listing shows a point that has just come and not yet its index, what is the same is read once more, and said.
        assert!(report.damaged.is_empty() && (spared > 0.0 || report.problems.is_empty()), "seed {seed}: {report:?}");
        assert_eq!(assert_whole(&recovery, &stores[1], &contents, &format!("seed {seed}")).await, 3);
    }
    assert!(behind > 0, "no listing hid a point: {behind}, {refused}");
}
