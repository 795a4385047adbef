//! One prune after the other, nothing else at work.

use std::{sync::Arc, time::Duration};

use chrono::TimeDelta;
use farshore::{
    clock::{Clock, FixedClock},
    policy::Retention,
    stores::{MemoryStore, PutOptions, SharedStore, Store},
};

use crate::support::recovery::{Objects, Recovery, noise, objects};

pub(super) const HOUR: Duration = Duration::from_secs(3600);
pub(super) const DAY: Duration = Duration::from_secs(24 * 3600);

/// A repository of an agent that keeps points for not quite three days, and no floor to speak of.
pub(super) async fn begun(encrypted: bool) -> (Recovery, Arc<MemoryStore>) {
    let mut recovery = Recovery::new(encrypted);
    recovery.retention = Retention { keep_within: 2 * DAY + 22 * HOUR, keep_verified: 1, ..Retention::default() };
    let store = MemoryStore::with_clock("site", recovery.clock.clone());
    recovery.init(&(store.clone() as SharedStore)).await;
    (recovery, store)
}

/// What each point gives back.
pub(super) struct Points(pub(super) Vec<(String, Objects)>);

impl Points {
    /// A backup of what the source holds now.
    pub(super) async fn add(&mut self, recovery: &Recovery, store: &SharedStore) {
        let point = recovery.backup(store.clone(), &recovery.fresh_cache()).await.unwrap().point_id;
        self.0.push((point, objects(recovery.source.as_ref()).await));
    }

    /// Every point that is listed restores to what was captured; the ids of those that are.
    pub(super) async fn check(&self, recovery: &Recovery, store: &SharedStore, what: &str) -> Vec<String> {
        let cache = recovery.fresh_cache();
        let listed = recovery.points(store.clone(), &cache).await.unwrap();
        for point in &listed {
            let (_, then) = self.0.iter().find(|(id, _)| *id == point.id).unwrap_or_else(|| panic!("{what}: {}", point.id));
            let restored =
                recovery.restore(store.clone(), &cache, &point.id).await.unwrap_or_else(|error| panic!("{what}: {error}"));
            assert!(restored == *then, "{what}: {} is another", point.id);
        }
        let verified = recovery.verify(store.clone(), &cache).await.unwrap();
        assert_eq!(verified.damage, [], "{what}");
        listed.into_iter().map(|point| point.id).collect()
    }
}

async fn bytes_of(store: &SharedStore, prefix: &str) -> (usize, u64) {
    let all = store.list(prefix, None, 100_000).await.unwrap().objects;
    (all.len(), all.iter().map(|object| object.size).sum())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn points_that_retention_does_not_keep_go_with_everything_that_only_they_need() {
    for encrypted in [true, false] {
        let (recovery, site) = begun(encrypted).await;
        let store: SharedStore = site.clone();
        let mut points = Points(Vec::new());
        // What every point shares, what most of them share, and what is each day's own.
        recovery.put("a-shared", noise(300_000, 1)).await;
        for day in 0..5_u64 {
            recovery.put(&format!("day/{day}"), noise(200_000, 100 + day)).await;
            if day > 0 {
                recovery.source.delete(&format!("day/{}", day - 1)).await.unwrap();
            }
            points.add(&recovery, &store).await;
            recovery.clock.advance(DAY);
        }
        let before = bytes_of(&store, "packs/").await;
        let all = objects(store.as_ref()).await;
        let plan = recovery.prune_so(store.clone(), &recovery.fresh_cache(), true).await.unwrap();
        assert!(objects(store.as_ref()).await == all, "a dry run writes nothing");
        assert_eq!((plan.points_doomed, plan.points.iter().filter(|point| point.keep).count()), (3, 2), "{plan:#?}");
        let doomed = recovery.prune(store.clone(), &recovery.fresh_cache()).await.unwrap();
        assert_eq!((doomed.points_doomed, doomed.points_deleted), (3, 0), "{doomed:#?}");
        assert!(doomed.packs_doomed.objects >= 3 && doomed.problems.is_empty(), "{doomed:#?}");
        assert_eq!(points.check(&recovery, &store, "doomed").await.len(), 5);
        assert!(bytes_of(&store, "packs/").await.1 >= before.1, "nothing goes before the grace is over");
        // Within the grace nothing more is to be done.
        recovery.clock.advance(20 * HOUR);
        let waiting = recovery.prune(store.clone(), &recovery.fresh_cache()).await.unwrap();
        assert_eq!((waiting.points_doomed, waiting.points_deleted, waiting.packs_deleted.objects), (0, 0, 0), "{waiting:#?}");
        recovery.clock.advance(7 * HOUR);
        let deleted = recovery.prune(store.clone(), &recovery.fresh_cache()).await.unwrap();
        // A fourth one has become too old meanwhile.
        assert_eq!((deleted.points_deleted, deleted.points_doomed), (3, 1), "{deleted:#?}");
        assert!(deleted.packs_deleted.objects >= 3, "{deleted:#?}");
        assert_eq!(points.check(&recovery, &store, "deleted").await.len(), 2);
        for _ in 0..4 {
            recovery.clock.advance(27 * HOUR);
            recovery.prune(store.clone(), &recovery.fresh_cache()).await.unwrap();
        }
        // The floor keeps the last verified one. Nothing but what it needs is left.
        assert_eq!(points.check(&recovery, &store, "at last").await.len(), 1);
        let last = recovery.prune(store.clone(), &recovery.fresh_cache()).await.unwrap();
        assert_eq!(last.packs_waiting.objects + last.packs_doomed.objects, 0, "{last:#?}");
        assert!(last.packs.bytes < last.bytes_needed * 12 / 10, "{last:#?}");
        let keys: Vec<_> = objects(store.as_ref()).await.into_keys().filter(|key| key.starts_with("keys/data-")).collect();
        assert!(keys.len() <= 3, "keys of runs that are gone are left: {keys:?}");
        assert!(!objects(store.as_ref()).await.keys().any(|key| key.starts_with("doomed/")));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_backed_up_pruned_or_even_planned_while_the_clocks_differ() {
    for (seconds, fits) in [(299, true), (301, false), (-299, true), (-301, false)] {
        let (recovery, before) = begun(true).await;
        recovery.put("a", noise(1000, 1)).await;
        recovery.backup(before.clone(), &recovery.fresh_cache()).await.unwrap();
        // The same site with a clock of its own; ours goes on by a minute with each backup and prune, so it does, too.
        let site = FixedClock::shared(recovery.clock.now() + TimeDelta::seconds(seconds));
        let store: SharedStore = MemoryStore::with_clock("site", site.clone());
        for (key, body) in objects(before.as_ref()).await {
            store.put(&key, body, PutOptions::default()).await.unwrap();
        }
        let there = objects(store.as_ref()).await;
        site.advance(Duration::from_secs(60));
        let outcome = recovery.backup(store.clone(), &recovery.fresh_cache()).await;
        let said = outcome.as_ref().err().map(ToString::to_string).unwrap_or_default();
        assert_eq!(outcome.is_ok(), fits, "{seconds} s: {said}");
        assert!(
            fits || objects(store.as_ref()).await == there,
            "a backup by a wrong clock writes nothing, not even what would be locked"
        );
        for dry_run in [true, false] {
            site.advance(Duration::from_secs(60));
            let outcome = recovery.prune_so(store.clone(), &recovery.fresh_cache(), dry_run).await;
            let said = outcome.as_ref().err().map(ToString::to_string).unwrap_or_default();
            assert_eq!(outcome.is_ok(), fits, "{seconds} s: {said}");
            assert!(fits || (said.contains("differ by more than 5 minutes") && said.contains("memory://site")), "{said}");
        }
    }
}
