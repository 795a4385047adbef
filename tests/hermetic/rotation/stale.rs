//! Rotations where listings lack what came in the last minutes: a set, a wrap, the key of tonight's backup.

use chrono::TimeDelta;
use farshore::{
    repository::COMMIT_MARGIN,
    stores::{SharedStore, Store},
};

use super::Team;
use crate::support::{
    faulty_store::FaultyStore,
    recovery::{noise, objects},
    slow::assert_clear,
    soak,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotations_on_listings_that_lag_shut_nobody_out_who_stays_and_one_after_that_completes() {
    let lag = COMMIT_MARGIN - TimeDelta::seconds(1);
    let (mut hidden, mut refused) = (0, 0);
    for seed in 0..soak(4) {
        let team = Team::new();
        let (before, contents) = team.begun().await;
        let store: SharedStore = team.recovery.site_of(&before).await;
        team.recovery.clock.advance(lag.to_std().unwrap());
        // Tonight's backup has just ended.
        team.recovery.put("third", noise(50_000, 3)).await;
        team.recovery.backup(store.clone(), &team.recovery.fresh_cache()).await.unwrap();
        let contents = [contents[0].clone(), contents[1].clone(), objects(team.recovery.source.as_ref()).await];
        let lagging = FaultyStore::over(store.clone());
        lagging.lag_some(lag, seed, if seed % 2 == 0 { 0.0 } else { 0.5 });
        let shown = lagging.list("keys/", None, 1000).await.unwrap().objects.len();
        hidden += usize::from(shown < store.list("keys/", None, 1000).await.unwrap().objects.len());
        let to_cid = team.request(&[&team.bob, &team.cid]);
        for round in 0..3 {
            let what = format!("seed {seed}, round {round}");
            if let Err(error) = team.rotate(&team.bob, lagging.clone(), &to_cid).await {
                assert_clear(&error, &what);
                refused += 1;
            }
            team.assert_opens_everything(&team.bob, &store, &contents, &what).await;
        }
        team.recovery.clock.advance(COMMIT_MARGIN.to_std().unwrap());
        let what = format!("seed {seed}");
        let done = team.rotate(&team.bob, lagging.clone(), &to_cid).await.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(done.unwrapped.is_empty() && done.left.is_empty(), "{what}: {done:?}");
        for person in [&team.bob, &team.cid] {
            team.assert_opens_everything(person, &store, &contents, &what).await;
        }
        for number in 0..contents.len() {
            team.restore(&team.ann, store.clone(), number).await.unwrap_err();
        }
    }
    assert!(hidden > 0, "no listing hid a key ({refused} refused)");
}
