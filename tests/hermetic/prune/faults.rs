//! Prune on a site that fails, and on one whose listings lag behind.
//!
//! What is promised where a listing lacks what was stored less than `COMMIT_MARGIN` ago: no point gets a hole. A backup commits that much
//! before anything matures that it relies on, so that prune sees every point that keeps something from being deleted; and what it
//! does not see for the lag of a record it does not delete.

use chrono::TimeDelta;
use farshore::{repository::COMMIT_MARGIN, stores::SharedStore};

use super::{basics::HOUR, stopped::two_points};
use crate::support::{
    faulty_store::{Call, Fault, FaultyStore},
    recovery::{noise, patient},
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
                faulty.queue(call, (0..number).map(|_| Fault::None).chain([*fault]));
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
