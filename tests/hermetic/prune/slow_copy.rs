//! A copy of which one call takes very long, at the site it reads from or at the one it writes to, while prunes at both doom, delete and
//! forget what it reads and what it builds on.

use farshore::{
    report::CopyReport,
    stores::{SharedStore, Store},
};

use super::basics::{DAY, HOUR, Points, begun};
use crate::support::{
    faulty_store::FaultyStore,
    recovery::{Objects, Recovery, noise, objects},
    slow::{assert_clear, slow, slow_calls},
};

/// Three points at one site, of which the other has the first and the last.
struct Scene {
    recovery: Recovery,
    points: Points,
    /// What the site that is read from holds, and the one that is written to.
    sites: [Objects; 2],
}

impl Scene {
    async fn new() -> Self {
        let (recovery, here) = begun(true).await;
        let there = recovery.site_of(&Objects::new()).await;
        let stores: [SharedStore; 2] = [here, there];
        recovery.init(&stores[1]).await;
        let mut points = Points(Vec::new());
        recovery.put("shared", noise(100_000, 1)).await;
        for (number, sites) in [(0, &stores[..]), (1, &stores[..1]), (2, &stores[..])] {
            if number > 0 {
                recovery.source.delete(&format!("own/{}", number - 1)).await.unwrap();
            }
            recovery.put(&format!("own/{number}"), noise(60_000, 10 + number)).await;
            let sites: Vec<_> = sites.iter().map(|store| recovery.far("s", store.clone())).collect();
            let backed = recovery.backup_to(recovery.source.clone(), &sites, &recovery.fresh_cache()).await.unwrap();
            assert_eq!((backed.failed.len(), backed.reports.len()), (0, sites.len()));
            points.0.push((backed.reports[0].point_id.clone(), objects(recovery.source.as_ref()).await));
            recovery.clock.advance(DAY);
        }
        let sites = [objects(stores[0].as_ref()).await, objects(stores[1].as_ref()).await];
        Self { recovery, points, sites }
    }

    /// Both sites, stored five days ago: the newest point is all that a prune keeps.
    async fn stores(&self) -> [SharedStore; 2] {
        let stores: [SharedStore; 2] = [self.recovery.site_of(&self.sites[0]).await, self.recovery.site_of(&self.sites[1]).await];
        self.recovery.clock.advance(5 * DAY);
        stores
    }

    /// What is doomed, deleted and forgotten in 54 hours.
    async fn prunes(&self, stores: &[&SharedStore]) {
        let cache = self.recovery.fresh_cache();
        for _ in 0..3 {
            for store in stores {
                self.recovery.prune((*store).clone(), &cache).await.unwrap();
            }
            self.recovery.clock.advance(27 * HOUR);
        }
    }

    /// A copy of the point that only one site has.
    async fn copy(&self, stores: &[SharedStore; 2]) -> Result<CopyReport, farshore::operations::OperationError> {
        let [here, there] = [0, 1].map(|number| self.recovery.far(["a", "b"][number], stores[number].clone()));
        self.recovery.copy(&here, &there, Some(&self.points.0[1].0), &self.recovery.fresh_cache()).await
    }
}

/// With one call of `side` slow, while `pruned` are: how often the point was copied, was gone, and was refused.
async fn copy_slowly(scene: &Scene, side: usize, pruned: &[usize], step: u64) -> (u64, u64, u64) {
    let quiet = {
        let mut stores = scene.stores().await;
        let quiet = FaultyStore::over(stores[side].clone());
        stores[side] = quiet.clone();
        let report = scene.copy(&stores).await.unwrap();
        assert!(report.points[0].items_adopted > 0 && report.points[0].bytes_read > 0, "{report:?}");
        quiet
    };
    let (mut copied, mut vanished, mut refused) = (0, 0, 0);
    for at in slow_calls(&quiet, step) {
        let stores = scene.stores().await;
        let (faulty, what) = slow(&stores[side], at);
        let what = format!("site {side} ({pruned:?} pruned): {what}");
        let mut through = stores.clone();
        through[side] = faulty.clone();
        let pruned: Vec<_> = pruned.iter().map(|number| &stores[*number]).collect();
        let (done, came) = faulty.while_slow(scene.copy(&through), scene.prunes(&pruned)).await;
        assert!(came, "{what}: it never came to it: {done:?}");
        match done {
            Ok(report) => {
                assert_eq!(report.damaged, [], "{what}: nothing was damaged, it was deleted");
                let there = recovered(scene, &stores[1]).await.contains(&scene.points.0[1].0);
                assert!(there || !report.problems.is_empty(), "{what}: {report:?}");
                assert_eq!(there, !report.points.is_empty(), "{what}: what it says and what is there differ");
                if there { copied += 1 } else { vanished += 1 }
            }
            Err(error) => {
                assert_clear(&error, &what);
                refused += 1;
            }
        }
        for store in &stores {
            scene.points.check(&scene.recovery, store, &what).await;
        }
        // And what is done at either site from then on finds everything that is kept.
        scene.prunes(&[&stores[0], &stores[1]]).await;
        for store in &stores {
            let left = scene.points.check(&scene.recovery, store, &what).await;
            assert!(left.contains(&scene.points.0[2].0), "{what}: {left:?}");
        }
    }
    (copied, vanished, refused)
}

async fn recovered(scene: &Scene, store: &SharedStore) -> Vec<String> {
    let cache = scene.recovery.fresh_cache();
    scene.recovery.points(store.clone(), &cache).await.unwrap().into_iter().map(|point| point.id).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_of_which_one_call_outlasts_its_point_or_what_it_builds_on_makes_a_whole_point_or_none() {
    let scene = Scene::new().await;
    // Slow where it reads: the point itself goes meanwhile, or nobody prunes and only time passes.
    let (copied, vanished, refused) = copy_slowly(&scene, 0, &[0, 1], 3).await;
    assert!(vanished > 0, "reading: {copied} copied, {vanished} vanished, {refused} refused: this proves little");
    let (copied, vanished, refused) = copy_slowly(&scene, 0, &[], 5).await;
    assert!(copied > 0 && vanished == 0, "reading: {copied} copied, {vanished} vanished, {refused} refused");
    // Slow where it writes: what it adopts goes, and what it has written is doomed, being needed by no point yet.
    let (copied, vanished, refused) = copy_slowly(&scene, 1, &[1], 3).await;
    assert!(copied > 0 && vanished == 0 && refused > 0, "writing: {copied} copied, {vanished} vanished, {refused} refused");
}
