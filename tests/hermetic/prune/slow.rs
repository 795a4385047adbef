//! A call that takes very long, before it is carried out or before its answer comes, while prunes doom, delete and forget what is no
//! longer kept: whatever waits for it ends right, or says why not.

use std::{path::Path, time::Duration};

use farshore::{operations::VerifyLevel, stores::SharedStore};

use super::{
    basics::{DAY, HOUR, Points},
    stopped::two_points,
    stopped_beside::{Party, with_a_pack_to_be_emptied},
};
use crate::support::{
    faulty_store::{Call, Fault, FaultyStore},
    recovery::{Objects, Recovery, noise, objects},
    slow::{assert_clear, slow, slow_calls},
    soak,
};

/// Two points of which the older one is to go, as often as needed.
struct Scene {
    recovery: Recovery,
    points: Points,
    whole: Objects,
}

impl Scene {
    async fn new() -> Self {
        let (recovery, store, points) = two_points().await;
        Self { recovery, points, whole: objects(store.as_ref()).await }
    }

    /// The same, where prunes also empty a pack of which the point that stays needs a part.
    async fn with_a_pack_to_be_emptied() -> Self {
        let mut scene = with_a_pack_to_be_emptied().await;
        let Party { recovery, points } = scene.parties.remove(0);
        Self { recovery, points, whole: objects(scene.site.as_ref()).await }
    }

    /// A site with the two points, stored five days ago.
    async fn site(&self) -> SharedStore {
        let site = self.recovery.site_of(&self.whole).await;
        self.recovery.clock.advance(5 * DAY);
        site
    }

    /// What is doomed, deleted and forgotten in 54 hours.
    async fn prunes(&self, store: &SharedStore) {
        let cache = self.recovery.fresh_cache();
        for _ in 0..3 {
            self.recovery.prune(store.clone(), &cache).await.unwrap();
            self.recovery.clock.advance(27 * HOUR);
        }
    }

    /// The point that is to go, and the one that stays.
    fn ids(&self) -> [&str; 2] {
        [0, 1].map(|number| self.points.0[number].0.as_str())
    }

    async fn check(&self, store: &SharedStore, new: Option<(String, Objects)>, what: &str) {
        let points = Points(self.points.0.iter().cloned().chain(new).collect());
        points.check(&self.recovery, store, what).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_of_which_one_call_outlasts_everything_makes_a_whole_point_or_none() {
    let scene = Scene::new().await;
    let recovery = &scene.recovery;
    // What only the point needs that goes comes back.
    recovery.put("old", noise(200_000, 1)).await;
    recovery.put("new", noise(50_000, 3)).await;
    let now = objects(recovery.source.as_ref()).await;
    let quiet = FaultyStore::over(scene.site().await);
    recovery.backup(quiet.clone(), &recovery.fresh_cache()).await.unwrap();
    let (mut made, mut refused) = (0, 0);
    for at in slow_calls(&quiet, 3) {
        let site = scene.site().await;
        let (faulty, what) = slow(&site, at);
        let cache = recovery.fresh_cache();
        let (backed, came) = faulty.while_slow(recovery.backup(faulty.clone(), &cache), scene.prunes(&site)).await;
        assert!(came, "{what}: it never came to it");
        let new = match backed {
            Ok(report) => Some((report.point_id, now.clone())),
            Err(error) => {
                assert_clear(&error, &what);
                None
            }
        };
        if new.is_some() {
            made += 1
        } else {
            refused += 1
        }
        scene.check(&site, new, &what).await;
        recovery.backup(site.clone(), &recovery.fresh_cache()).await.unwrap();
        assert!(recovery.restore(site, &recovery.fresh_cache(), "latest").await.unwrap() == now, "{what}: the next point");
    }
    assert!(made > 0 && refused > 0, "{made} made, {refused} refused: this proves little");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prune_of_which_one_call_outlasts_everything_deletes_nothing_that_a_point_needs() {
    let scene = Scene::new().await;
    let recovery = &scene.recovery;
    let doomed = async || {
        let site = scene.site().await;
        recovery.prune(site.clone(), &recovery.fresh_cache()).await.unwrap();
        recovery.clock.advance(27 * HOUR);
        site
    };
    let quiet = FaultyStore::over(doomed().await);
    recovery.prune(quiet.clone(), &recovery.fresh_cache()).await.unwrap();
    recovery.put("old", noise(200_000, 1)).await;
    recovery.put("new", noise(50_000, 3)).await;
    let now = objects(recovery.source.as_ref()).await;
    let (mut done, mut refused) = (0, 0);
    for at in slow_calls(&quiet, 11) {
        let site = doomed().await;
        let (faulty, what) = slow(&site, at);
        let (cache, mut made) = (recovery.fresh_cache(), None);
        let meanwhile = async {
            // Others doom, delete and back up what was doomed, before and after.
            made = Some(recovery.backup(site.clone(), &recovery.fresh_cache()).await.unwrap().point_id);
            scene.prunes(&site).await;
        };
        let (pruned, came) = faulty.while_slow(recovery.prune(faulty.clone(), &cache), meanwhile).await;
        assert!(came, "{what}: it never came to it");
        match pruned {
            Ok(_) => done += 1,
            Err(error) => {
                assert_clear(&error, &what);
                refused += 1;
            }
        }
        let new = made.map(|id| (id, now.clone()));
        scene.check(&site, new.clone(), &what).await;
        scene.prunes(&site).await;
        scene.check(&site, new, &what).await;
    }
    assert!(done > 0 && refused > 0, "{done} done, {refused} refused: this proves little");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_of_which_one_call_outlasts_its_point_gives_back_all_of_it_or_an_error() {
    let scene = Scene::new().await;
    let recovery = &scene.recovery;
    for (number, id) in scene.ids().into_iter().enumerate() {
        let quiet = FaultyStore::over(scene.site().await);
        recovery.restore(quiet.clone(), &recovery.fresh_cache(), id).await.unwrap();
        let (mut done, mut refused) = (0, 0);
        for at in slow_calls(&quiet, 3) {
            let site = scene.site().await;
            let (faulty, what) = slow(&site, at);
            let cache = recovery.fresh_cache();
            let (restored, came) = faulty.while_slow(recovery.restore(faulty.clone(), &cache, id), scene.prunes(&site)).await;
            assert!(came, "{what}: it never came to it");
            match restored {
                Ok(restored) => {
                    assert!(restored == scene.points.0[number].1, "{what}: point {number} is another");
                    done += 1;
                }
                Err(error) => {
                    assert_clear(&error, &what);
                    refused += 1;
                }
            }
        }
        assert!(if number == 0 { refused > 0 } else { done > 0 }, "point {number}: {done} done, {refused} refused");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_verification_of_which_one_call_outlasts_a_point_calls_nothing_damaged() {
    let scenes = [Scene::new().await, Scene::with_a_pack_to_be_emptied().await];
    let mut moved = 0;
    for (scene, level, step) in [
        (&scenes[0], VerifyLevel::Structure, 5),
        (&scenes[0], VerifyLevel::ReadData(100.0), 13),
        (&scenes[1], VerifyLevel::ReadData(100.0), 5),
    ] {
        let recovery = &scene.recovery;
        let verify = async |store: SharedStore, cache: &Path| recovery.verify_at(store, cache, level).await;
        let quiet = FaultyStore::over(scene.site().await);
        verify(quiet.clone(), &recovery.fresh_cache()).await.unwrap();
        let mut done = 0;
        for at in slow_calls(&quiet, step) {
            let site = scene.site().await;
            let (faulty, what) = slow(&site, at);
            let cache = recovery.fresh_cache();
            let (verified, came) = faulty.while_slow(verify(faulty.clone(), &cache), scene.prunes(&site)).await;
            assert!(came, "{level:?}, {what}: it never came to it");
            match verified {
                Ok(report) => {
                    assert_eq!(report.damage, [], "{level:?}, {what}");
                    moved += report.points_moved;
                    assert_eq!(report.problems, [], "{level:?}, {what}");
                    done += 1;
                }
                Err(error) => assert_clear(&error, &what),
            }
            let marks = site.list("damaged/", None, 10).await.unwrap().objects;
            assert!(marks.is_empty(), "{level:?}, {what}: {marks:?}");
            scene.check(&site, None, &what).await;
        }
        assert!(done > 3, "{level:?}: {done} done");
    }
    assert!(moved > 0, "no pack was emptied before it was read");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_somebody_else_takes_away_while_a_verification_waits_is_damage() {
    let scene = Scene::new().await;
    let recovery = &scene.recovery;
    let quiet = FaultyStore::over(scene.site().await);
    let whole = recovery.verify(quiet.clone(), &recovery.fresh_cache()).await.unwrap();
    let mut found = 0;
    for number in (0..quiet.calls(Call::Get)).step_by(if soak(1) > 1 { 1 } else { 3 }) {
        let site = scene.site().await;
        let (faulty, what) = slow(&site, (Call::Get, number, Fault::SlowBefore));
        let cache = recovery.fresh_cache();
        let robbed = async {
            for pack in site.list("packs/", None, 100).await.unwrap().objects {
                site.delete(&pack.key).await.unwrap();
            }
        };
        let (verified, came) = faulty.while_slow(recovery.verify(faulty.clone(), &cache), robbed).await;
        assert!(came, "{what}: it never came to it");
        // Unless everything had been read by then, which is as good as if it had ended.
        let had_read = verified.as_ref().is_ok_and(|report| report.damage.is_empty() && report.packs_read == whole.packs_read);
        if let Some(report) = verified.ok().filter(|_| !had_read) {
            found += 1;
            assert!(report.damage.iter().any(|damage| !damage.points.is_empty()), "{what}: {report:#?}");
        }
        let after = recovery.verify(site, &recovery.fresh_cache()).await.unwrap();
        assert!(!after.damage.is_empty(), "{what}");
    }
    assert!(found > 1, "{found} found: this proves little");
}

/// One thread, so that the timers of this test can be told that time has passed.
#[tokio::test]
async fn a_backup_whose_time_is_up_during_any_call_says_rightly_whether_there_is_a_point() {
    let scene = Scene::new().await;
    let recovery = &scene.recovery;
    recovery.put("new", noise(50_000, 3)).await;
    let now = objects(recovery.source.as_ref()).await;
    let quiet = FaultyStore::over(scene.site().await);
    recovery.backup(quiet.clone(), &recovery.fresh_cache()).await.unwrap();
    let (mut made, mut refused) = (0, 0);
    for at in slow_calls(&quiet, 1) {
        let site = scene.site().await;
        let (faulty, what) = slow(&site, at);
        let cache = recovery.fresh_cache();
        let time_is_up = async {
            tokio::time::pause();
            // It is done at once; what it waits for is others' turn.
            let _ = futures_util::poll!(std::pin::pin!(tokio::time::advance(recovery.time_limit + Duration::from_secs(1))));
            tokio::time::resume();
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
        };
        let (backed, came) = faulty.while_slow(recovery.backup(faulty.clone(), &cache), time_is_up).await;
        assert!(came, "{what}: it never came to it");
        // The write of the point: it may be there, so that it must be brought to its end.
        let is_commit = at.0 == Call::Put && at.1 + 1 == quiet.calls(Call::Put);
        assert!(backed.is_ok() || !is_commit, "{what}: {backed:?}");
        let new = match backed {
            Ok(report) => {
                made += 1;
                Some((report.point_id, now.clone()))
            }
            Err(error) => {
                let said = error.to_string();
                assert!(said.contains("took longer than 1m") && said.contains("no point was made"), "{what}: {said}");
                refused += 1;
                None
            }
        };
        scene.check(&site, new, &what).await;
    }
    assert!(made > 0 && refused > 10, "{made} made, {refused} refused: this proves little");
}
