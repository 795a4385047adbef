//! A point that is lost, which a rule keeps, and which somebody gives up.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use farshore::{
    operations::{GiveUpRequest, GivenUp, OperationError, PinRequest, give_up, pin},
    report::{Agent, PruneReport},
    repository::{LockTerm, PinAction, PinRecord},
    stores::{Lock, LockMode, MemoryStore, PutOptions, SharedStore, Store},
};

use super::basics::{DAY, HOUR, Points, begun};
use crate::support::{
    recovery::{Objects, Recovery, noise, objects},
    staged_store::Staged,
};

/// Three points, each with bytes of its own, all of them young; the lists of the second one are lost.
struct Scene {
    recovery: Recovery,
    whole: Points,
    lost: String,
    /// What the site has lost, and what it still holds.
    taken: Objects,
    left: Objects,
}

fn agent() -> Agent {
    Agent { user: "u".to_owned(), host: "h".to_owned(), version: "0".to_owned() }
}

impl Scene {
    async fn new() -> Self {
        let (mut recovery, site) = begun(true).await;
        recovery.retention.keep_within = 30 * DAY;
        let store: SharedStore = site;
        let mut points = Points(Vec::new());
        let mut lists = Vec::new();
        for number in 0..3 {
            let before = objects(store.as_ref()).await;
            recovery.put("shared", noise(100_000, 1)).await;
            recovery.put("own", noise(60_000, 10 + number)).await;
            points.add(&recovery, &store).await;
            recovery.clock.advance(HOUR);
            lists.push(catalogue_packs(&recovery, &store, &before).await);
        }
        let mut left = objects(store.as_ref()).await;
        let taken: Objects = lists[1].iter().filter_map(|key| left.remove_entry(key)).collect();
        assert!(!taken.is_empty(), "{lists:?}");
        let lost = points.0.remove(1).0;
        Self { recovery, whole: points, lost, taken, left }
    }

    /// The site as it is without them, stored when what is there was old enough to be doomed.
    async fn site(&self) -> SharedStore {
        let store: SharedStore = self.recovery.site_of(&self.left).await;
        self.recovery.clock.advance(2 * DAY);
        store
    }

    async fn give_up(&self, store: &SharedStore, point: &str, reason: &str) -> Result<GivenUp, OperationError> {
        let repository = self.recovery.open_with(&self.recovery.agent, store.clone(), &self.recovery.fresh_cache()).await?;
        let reader = self.recovery.reader(&repository).await?;
        let point = repository.find_point(Some("p"), point).await?;
        let now = self.recovery.shared_clock().now();
        give_up(&GiveUpRequest { repository: &repository, reader: &reader, point: &point, reason, agent: &agent(), now }).await
    }

    async fn unpin(&self, store: &SharedStore) {
        let repository = self.recovery.open_with(&self.recovery.agent, store.clone(), &self.recovery.fresh_cache()).await.unwrap();
        let point = repository.find_point(Some("p"), &self.lost).await.unwrap();
        let (action, now) = (PinAction::Unpin, self.recovery.shared_clock().now());
        let (repository, point, agent) = (&repository, &point, &agent());
        pin(&PinRequest { repository, point, action, until: None, reason: "mended", agent, now }).await.unwrap();
    }

    async fn prune(&self, store: &SharedStore) -> PruneReport {
        self.recovery.prune(store.clone(), &self.recovery.fresh_cache()).await.unwrap()
    }

    /// Every point but the lost one gives back what it should; whether that one is still listed.
    async fn check(&self, store: &SharedStore, what: &str) -> bool {
        let cache = self.recovery.fresh_cache();
        for (id, then) in &self.whole.0 {
            let restored = self.recovery.restore(store.clone(), &cache, id).await.unwrap_or_else(|error| panic!("{what}: {error}"));
            assert!(restored == *then, "{what}: {id} is another");
        }
        let listed = self.recovery.points(store.clone(), &cache).await.unwrap();
        listed.iter().any(|point| point.id == self.lost)
    }
}

/// Packs that came since, and that hold lists.
async fn catalogue_packs(recovery: &Recovery, store: &SharedStore, before: &Objects) -> Vec<String> {
    let repository = recovery.open(store.clone(), &recovery.fresh_cache()).await.unwrap();
    let packs = repository.chunks().await.unwrap().packs().unwrap().into_iter().map(|(_, record)| record);
    let lists = packs.filter(|record| record.class == farshore::repository::Class::Catalogue);
    lists.map(|record| farshore::repository::pack_key(&record.sha256)).filter(|key| !before.contains_key(key)).collect()
}

fn said(report: &PruneReport) -> String {
    report.problems.iter().map(|problem| format!("{}: {}\n", problem.subject, problem.message)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_point_holds_everything_until_it_is_given_up_and_goes_after_a_grace_with_what_only_it_needs() {
    let scene = Scene::new().await;
    let store = scene.site().await;
    // Garbage, which waits with everything else.
    scene.recovery.source.delete("own").await.unwrap();
    let before = objects(store.as_ref()).await;
    for _ in 0..3 {
        let report = scene.prune(&store).await;
        assert!(said(&report).contains(&scene.lost) && said(&report).contains("farshore give-up"), "{report:#?}");
        scene.recovery.clock.advance(27 * HOUR);
    }
    assert!(objects(store.as_ref()).await == before, "nothing goes, and nothing is doomed");

    let given_up = scene.give_up(&store, &scene.lost, " the disk is gone ").await.unwrap();
    assert_eq!((given_up.record.action, given_up.record.reason.as_str()), (PinAction::GiveUp, "the disk is gone"));
    assert!(given_up.damage.is_damage(), "{}", given_up.damage);
    let listed = scene.recovery.points(store.clone(), &scene.recovery.fresh_cache()).await.unwrap();
    let why: Vec<_> = listed.iter().filter_map(|point| point.given_up.as_deref()).collect();
    assert_eq!(why, ["the disk is gone (u@h)"]);

    let plan = scene.recovery.prune_so(store.clone(), &scene.recovery.fresh_cache(), true).await.unwrap();
    let verdict = plan.points.iter().find(|point| point.point == scene.lost).unwrap();
    assert_eq!((verdict.keep, verdict.why.as_str()), (false, "given up: the disk is gone (u@h)"));
    let dooming = scene.prune(&store).await;
    assert_eq!((dooming.points_doomed, dooming.points_deleted, dooming.problems.len()), (1, 0, 1), "{dooming:#?}");
    assert!(said(&dooming).contains("was given up, and goes"), "{dooming:#?}");
    assert!(scene.check(&store, "doomed").await);
    scene.recovery.clock.advance(20 * HOUR);
    let waiting = scene.prune(&store).await;
    assert_eq!((waiting.points_deleted, waiting.packs_deleted.objects), (0, 0), "not before its grace is over: {waiting:#?}");
    assert!(said(&waiting).contains("was given up"), "it is said as long as the point is there: {waiting:#?}");
    scene.recovery.clock.advance(7 * HOUR);
    let deleting = scene.prune(&store).await;
    assert_eq!(deleting.points_deleted, 1, "{deleting:#?}");
    assert!(!scene.check(&store, "deleted").await);
    let mut last = scene.prune(&store).await;
    for _ in 0..6 {
        scene.recovery.clock.advance(27 * HOUR);
        last = scene.prune(&store).await;
    }
    assert!(!scene.check(&store, "at last").await);
    assert_eq!((last.problems.len(), last.packs_waiting.objects), (0, 0), "{last:#?}");
    // What only that point needed has gone, too.
    assert!(last.packs.bytes < last.bytes_needed * 12 / 10, "{last:#?}");
    let verified = scene.recovery.verify(store.clone(), &scene.recovery.fresh_cache()).await.unwrap();
    assert_eq!(verified.damage, [], "what is left is whole");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prune_after_giving_up_that_stops_after_any_write_leaves_every_other_point_whole_and_the_next_ones_go_on() {
    let scene = Scene::new().await;
    let (mut stops, mut early) = (0, 0);
    for stop in 0.. {
        let what = format!("after {stop} writes");
        let store = scene.site().await;
        scene.give_up(&store, &scene.lost, "r").await.unwrap();
        let left = Arc::new(Staged::over(store.clone()));
        left.writes_left.store(stop, Ordering::SeqCst);
        let mut went_through = true;
        for _ in 0..3 {
            let ended = scene.recovery.prune(left.clone(), &scene.recovery.fresh_cache()).await;
            went_through &= ended.is_ok();
            scene.recovery.clock.advance(27 * HOUR);
        }
        stops += usize::from(!went_through);
        early += usize::from(scene.check(&store, &what).await);
        for _ in 0..4 {
            scene.prune(&store).await;
            scene.recovery.clock.advance(27 * HOUR);
        }
        assert!(!scene.check(&store, &what).await, "{what}");
        if went_through {
            break;
        }
    }
    assert!(stops >= 4 && early > 0, "{stops} stops, {early} before the point was deleted: this proves little");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_lost_or_is_pinned_is_not_given_up_and_nothing_is_written() {
    let scene = Scene::new().await;
    let store = scene.site().await;
    let refused = async |point: &str, reason: &str| {
        let before = objects(store.as_ref()).await;
        let error = scene.give_up(&store, point, reason).await.unwrap_err().to_string();
        assert!(objects(store.as_ref()).await == before, "{error}");
        error
    };
    assert!(refused(&scene.lost, "  ").await.contains("--reason"));
    for (whole, _) in &scene.whole.0 {
        assert!(refused(whole, "r").await.contains("is not lost"));
    }
    scene.recovery.pin(store.clone(), &scene.recovery.fresh_cache(), &scene.lost).await.unwrap();
    let said = refused(&scene.lost, "r").await;
    assert!(said.contains("is pinned (needed)") && said.contains("farshore unpin"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_gives_up_a_sound_point_is_not_believed_and_is_told() {
    let scene = Scene::new().await;
    let everything = scene.left.clone().into_iter().chain(scene.taken.clone()).collect();
    let store: SharedStore = scene.recovery.site_of(&everything).await;
    scene.recovery.clock.advance(2 * DAY);
    // Whoever has the agent's key can write it.
    let repository = scene.recovery.open_with(&scene.recovery.agent, store.clone(), &scene.recovery.fresh_cache()).await.unwrap();
    for point in repository.point_names(None).await.unwrap() {
        let record = PinRecord {
            action: PinAction::GiveUp,
            point: point.id.clone(),
            policy: point.policy.clone(),
            until: None,
            reason: "theft".to_owned(),
            user: "thief".to_owned(),
            host: "elsewhere".to_owned(),
            at: scene.recovery.shared_clock().now(),
        };
        repository.put_pin(&record).await.unwrap();
    }
    for _ in 0..4 {
        let report = scene.prune(&store).await;
        assert_eq!((report.points_doomed, report.points_deleted, report.problems.len()), (0, 0, 3), "{report:#?}");
        assert!(
            said(&report).lines().all(|line| line.contains("is not lost") && line.contains("may write to the site")),
            "{report:#?}"
        );
        assert!(report.points.iter().all(|point| point.keep && point.why.starts_with("within 30 days")), "{report:#?}");
        scene.recovery.clock.advance(27 * HOUR);
    }
    assert!(scene.check(&store, "believed").await);
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Mended,
    Pinned,
    TakenBack,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_given_up_point_that_is_mended_or_pinned_or_taken_back_within_its_grace_stays() {
    let scene = Scene::new().await;
    for turn in [Turn::Mended, Turn::Pinned, Turn::TakenBack] {
        let store = scene.site().await;
        scene.give_up(&store, &scene.lost, "r").await.unwrap();
        assert_eq!(scene.prune(&store).await.points_doomed, 1);
        scene.recovery.clock.advance(20 * HOUR);
        match turn {
            Turn::Mended => {
                for (key, body) in &scene.taken {
                    store.put(key, body.clone(), PutOptions::default()).await.unwrap();
                }
            }
            Turn::Pinned => drop(scene.recovery.undelete(store.clone(), &scene.recovery.fresh_cache(), &scene.lost).await.unwrap()),
            Turn::TakenBack => scene.unpin(&store).await,
        }
        for _ in 0..3 {
            scene.recovery.clock.advance(27 * HOUR);
            let report = scene.prune(&store).await;
            assert_eq!((report.points_deleted, report.packs_deleted.objects), (0, 0), "{turn:?}: {report:#?}");
            let told = if turn == Turn::Mended { "is not lost" } else { "what it needs cannot be told" };
            assert!(said(&report).contains(told), "{turn:?}: {report:#?}");
        }
        assert!(scene.check(&store, &format!("{turn:?}")).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_given_up_point_under_a_lock_goes_when_the_lock_ends_and_holds_what_is_doomed_until_then() {
    let mut scene = Scene::new().await;
    scene.recovery.lock = Some(LockTerm { mode: LockMode::Governance, days: 1 });
    let store: SharedStore = MemoryStore::locking("site", scene.recovery.clock.clone());
    for (key, body) in &scene.left {
        store.put(key, body.clone(), PutOptions::default()).await.unwrap();
    }
    scene.recovery.clock.advance(2 * DAY);
    let point = objects(store.as_ref()).await.into_keys().find(|key| key.contains(&scene.lost)).unwrap();
    let until = scene.recovery.shared_clock().now() + chrono::TimeDelta::days(6);
    store.set_lock(&point, Lock { mode: LockMode::Governance, until }).await.unwrap();
    scene.give_up(&store, &scene.lost, "r").await.unwrap();
    let mut later = 0;
    for _ in 0..8 {
        let report = scene.prune(&store).await;
        later += report.locked;
        if scene.recovery.shared_clock().now() < until {
            assert_eq!((report.points_deleted, report.packs_deleted.objects), (0, 0), "{report:#?}");
            assert!(scene.check(&store, "locked").await);
        }
        scene.recovery.clock.advance(27 * HOUR);
    }
    assert!(later > 2, "the lock was never met");
    assert!(!scene.check(&store, "the lock has ended").await);
}

/// What was decided about a point before it was given up does not count: it has a grace of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_point_that_was_doomed_before_it_was_given_up_has_a_grace_of_its_own() {
    let mut scene = Scene::new().await;
    let store = scene.site().await;
    // A mistake in the policy, mended before anything was deleted.
    scene.recovery.retention.keep_within = Duration::from_secs(1);
    assert!(scene.prune(&store).await.points_doomed > 0);
    scene.recovery.retention.keep_within = 30 * DAY;
    scene.recovery.clock.advance(27 * HOUR);
    scene.give_up(&store, &scene.lost, "r").await.unwrap();
    let report = scene.prune(&store).await;
    assert_eq!((report.points_deleted, report.points_doomed), (0, 1), "{report:#?}");
    scene.recovery.clock.advance(27 * HOUR);
    assert_eq!(scene.prune(&store).await.points_deleted, 1);
    assert!(!scene.check(&store, "deleted").await);
}
