//! Prune on a site that fails, and on one whose listings lag behind; and what else is done to points and their packs where the site fails.
//!
//! What is promised where a listing lacks what was stored less than `COMMIT_MARGIN` ago: no point gets a hole. A backup commits that much
//! before anything matures that it relies on, so that prune sees every point that keeps something from being deleted; and what it
//! does not see for the lag of a record it does not delete.

use chrono::TimeDelta;
use farshore::{
    operations::VerifyLevel,
    repository::{COMMIT_MARGIN, MarkState},
    stores::SharedStore,
};

use super::{basics::HOUR, stopped::two_points};
use crate::support::{
    faulty_store::{Call, Fault, FaultyStore},
    recovery::{Objects, Recovery, noise, objects, patient},
    soak,
};

const FAULTS: [Fault; 5] =
    [Fault::RefusedBefore, Fault::AnswerLost, Fault::Throttled, Fault::BodyBreaks(10), Fault::BodyEndsEarly(10)];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_fault_at_any_call_does_not_hinder_a_prune() {
    for call in [Call::Put, Call::Delete, Call::Get, Call::List] {
        let mut number = 0;
        loop {
            // In everyday tests one kind of fault for each call, in turn.
            let faults = if soak(1) > 1 { &FAULTS[..] } else { &FAULTS[number as usize % FAULTS.len()..][..1] };
            let mut calls = 0;
            for fault in faults {
                let what = format!("{fault:?} at {call:?} {number}");
                let (recovery, store, points) = two_points().await;
                recovery.prune(store.clone(), &recovery.fresh_cache()).await.unwrap();
                recovery.clock.advance(27 * HOUR);
                let faulty = FaultyStore::over(store.clone());
                faulty.queue_after(number, call, *fault);
                let pruned = recovery.prune(patient(faulty.clone()), &recovery.fresh_cache()).await;
                let report = pruned.unwrap_or_else(|error| panic!("{what}: {error}"));
                assert_eq!((report.points_deleted, report.problems.len()), (1, 0), "{what}: {report:#?}");
                assert_eq!(points.check(&recovery, &store, &what).await.len(), 1, "{what}");
                calls = faulty.calls(call);
            }
            // Everyday tests look at every third call from the eighth on.
            number += if soak(1) > 1 || number < 8 { 1 } else { 3 };
            if number >= calls {
                break;
            }
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Operation {
    Undelete,
    Pin,
    Restore,
    VerifyStructure,
    VerifyReading,
    Repair,
}

const OPERATIONS: [Operation; 6] = [
    Operation::Undelete,
    Operation::Pin,
    Operation::Restore,
    Operation::VerifyStructure,
    Operation::VerifyReading,
    Operation::Repair,
];

impl Operation {
    /// Does it, to this point where it is about one. What is to be blamed, if anything.
    async fn carry_out(
        self,
        recovery: &Recovery,
        store: SharedStore,
        (point, then): &(String, Objects),
    ) -> Result<Vec<String>, String> {
        let cache = recovery.fresh_cache();
        let verify = async |level| {
            let report = recovery.verify_at(store.clone(), &cache, level).await?;
            Ok(report.damage.iter().map(|damage| format!("{damage:?}")).collect())
        };
        let outcome = match self {
            Self::Undelete => recovery.undelete(store, &cache, point).await.map(|_| Vec::new()),
            Self::Pin => recovery.pin(store, &cache, point).await.map(|_| Vec::new()),
            Self::Restore => recovery
                .restore(store, &cache, point)
                .await
                .map(|restored| if restored == *then { Vec::new() } else { vec![format!("{point} is another")] }),
            Self::VerifyStructure => verify(VerifyLevel::Structure).await,
            Self::VerifyReading => verify(VerifyLevel::ReadData(100.0)).await,
            Self::Repair => recovery.repair(store, &cache, false, &|_| {}).await.map(|_| Vec::new()),
        };
        outcome.map_err(|error| error.to_string())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_fault_at_any_call_hinders_no_undelete_pin_restore_verification_or_repair() {
    let (recovery, store, points) = two_points().await;
    recovery.prune(store.clone(), &recovery.fresh_cache()).await.unwrap();
    let whole = objects(store.as_ref()).await;
    let mut without_index = whole.clone();
    let lost = whole.keys().find(|key| key.starts_with("indexes/")).unwrap();
    without_index.remove(lost);
    for operation in OPERATIONS {
        let (point, before) = match operation {
            Operation::Undelete => (&points.0[0], &whole),
            Operation::Repair => (&points.0[1], &without_index),
            _ => (&points.0[1], &whole),
        };
        for call in [Call::Put, Call::Get, Call::List, Call::Stat, Call::Time] {
            let mut number = 0;
            loop {
                // In everyday tests one kind of fault for each call, in turn.
                let faults = if soak(1) > 1 { &FAULTS[..] } else { &FAULTS[number as usize % FAULTS.len()..][..1] };
                let mut calls = 0;
                for fault in faults {
                    let what = format!("{operation:?}: {fault:?} at {call:?} {number}");
                    let inner: SharedStore = recovery.site_of(before).await;
                    let faulty = FaultyStore::over(inner.clone());
                    faulty.queue_after(number, call, *fault);
                    let blamed = operation.carry_out(&recovery, patient(faulty.clone()), point).await;
                    assert_eq!(blamed, Ok(Vec::new()), "{what}");
                    assert_eq!(points.check(&recovery, &inner, &what).await.len(), 2, "{what}");
                    let listed = recovery.points(inner, &recovery.fresh_cache()).await.unwrap();
                    let is_pinned = listed.iter().any(|listed| listed.id == point.0 && listed.pinned.is_some());
                    assert_eq!(is_pinned, matches!(operation, Operation::Undelete | Operation::Pin), "{what}");
                    calls = faulty.calls(call);
                }
                // Everyday tests look at every third call from the fourth on.
                number += if soak(1) > 1 || number < 4 { 1 } else { 3 };
                if number >= calls {
                    break;
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mark_that_a_prune_takes_away_before_it_is_read_blames_nothing() {
    let (recovery, store, _) = two_points().await;
    let faulty = FaultyStore::over(store);
    let repository = recovery.open(faulty.clone(), &recovery.fresh_cache()).await.unwrap();
    repository.put_mark("packs/gone", MarkState::Damaged, "test").await.unwrap();
    assert_eq!(repository.marks().await.unwrap().damage("packs/gone"), Some("test"));
    faulty.queue(Call::Get, [Fault::Gone]);
    let marks = repository.marks().await.unwrap();
    assert_eq!((marks.unreadable.as_slice(), marks.damage("packs/gone")), (&[][..], None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listings_that_lack_what_was_stored_in_the_last_minutes_cost_no_point_a_chunk() {
    let (recovery, store, mut points) = two_points().await;
    let lagging = FaultyStore::over(store.clone());
    lagging.lag_listings(COMMIT_MARGIN - TimeDelta::seconds(1));
    let lagging: SharedStore = lagging;
    for round in 0..6_u64 {
        // A point that relies on what the first one stored, made just before prune looks, while prune dooms and deletes.
        recovery.put("old", noise(200_000, 1)).await;
        recovery.put("new", noise(50_000, 10 + round)).await;
        points.add(&recovery, &lagging).await;
        recovery.prune(lagging.clone(), &recovery.fresh_cache()).await.unwrap();
        points.check(&recovery, &store, &format!("round {round}")).await;
        recovery.clock.advance(13 * HOUR);
        recovery.prune(lagging.clone(), &recovery.fresh_cache()).await.unwrap();
        points.check(&recovery, &store, &format!("round {round}, later")).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listings_that_still_show_what_was_deleted_in_the_last_minutes_cost_no_point_a_chunk() {
    for keeps_cache in [true, false] {
        let (recovery, store, mut points) = two_points().await;
        let lagging = FaultyStore::over(store.clone());
        let shown: SharedStore = lagging.clone();
        let cache = recovery.fresh_cache();
        // The local index knows all of it.
        recovery.points(shown.clone(), &cache).await.unwrap();
        recovery.verify_at(shown.clone(), &cache, VerifyLevel::Structure).await.unwrap();
        recovery.prune(shown.clone(), &recovery.fresh_cache()).await.unwrap();
        recovery.clock.advance(27 * HOUR);
        lagging.lag_listings(COMMIT_MARGIN - TimeDelta::seconds(1));
        let pruned = recovery.prune(shown.clone(), &recovery.fresh_cache()).await.unwrap();
        assert!(pruned.points_deleted == 1 && pruned.packs_deleted.objects > 0, "{pruned:#?}");
        let packs = |all: &[farshore::stores::ObjectStat]| all.iter().filter(|object| object.key.starts_with("packs/")).count();
        let listed = shown.list("", None, 10_000).await.unwrap().objects;
        let there = store.list("", None, 10_000).await.unwrap().objects;
        assert!(packs(&listed) > packs(&there), "the listing hides what was deleted");
        // What was deleted comes back in the source, a minute later.
        recovery.put("old", noise(200_000, 1)).await;
        let cache = if keeps_cache { cache } else { recovery.fresh_cache() };
        let made = recovery.backup(shown.clone(), &cache).await.unwrap();
        points.0.push((made.point_id, objects(recovery.source.as_ref()).await));
        let what = format!("with a local index from before: {keeps_cache}");
        assert_eq!(points.check(&recovery, &store, &what).await.len(), 2, "{what}");
    }
}
