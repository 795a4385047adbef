//! The real operations at once on one site, call by call: a gate stops each before every call, and a seeded scheduler decides whose turn
//! it is, who sleeps where a rule of the protocol bites, how much time passes meanwhile, and who is killed.
//!
//! Held against it: after every deletion each point that is there finds every chunk (but for one whose backup slept in its commit and
//! has not looked again yet); no backup is refused that took less than the grace; no point is taken back whose commit was quick; nothing
//! that is pinned goes; garbage goes. No prune deletes what no doom record of at least the policy's age names at that moment, and a backup
//! that slept in its commit looks at the records again.
//!
//! Two things are random: the seed, and in which order the calls come that one operation makes at once. So a seed shows nearly the same
//! again, and a failure may need some runs of its seed.
//!
//! Which breaks of a rule it was seen to find, and which it was not, stands in `docs/soak.md`.

mod gate;
mod roles;
mod schedule;
mod witness;

use std::time::Duration;

use farshore::{
    policy::Retention,
    stores::{MemoryStore, SharedStore},
};
use futures_util::{FutureExt, future::join_all};
use gate::Gate;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use roles::{ROLES, Shared, Tally};
use schedule::{STYLES, Schedule, Style};

use super::{basics::HOUR, seed};
use crate::support::{
    recovery::{Recovery, objects},
    soak,
};

/// One schedule, and some days of quiet after it.
async fn run(seed: u64) -> Tally {
    let style = STYLES[seed as usize % STYLES.len()];
    let mut random = StdRng::seed_from_u64(!seed);
    let mut recovery = Recovery::new(true);
    // From one that hardly a backup is done in to one that all are: what runs at once meets every stage of what is doomed. The
    // first is less than a policy may say: it counts for an hour.
    let graces = match style {
        Style::Adopted => [HOUR / 6, HOUR / 6, 2 * HOUR, 26 * HOUR],
        Style::Looked | Style::Deleting | Style::Copies => [HOUR, HOUR, 2 * HOUR, 6 * HOUR],
        _ => [HOUR, 2 * HOUR, 6 * HOUR, 26 * HOUR],
    };
    let grace = graces[random.random_range(0..4)];
    let keep_last = random.random_range(1..=2);
    recovery.retention = Retention { keep_within: Duration::ZERO, keep_last, keep_verified: 1, grace, ..Retention::default() };
    let site = MemoryStore::with_clock("site", recovery.clock.clone());
    recovery.init(&(site.clone() as SharedStore)).await;
    let clock = recovery.clock.clone();
    // Two machines of one policy, or two policies.
    let other =
        recovery.beside(if matches!(style, Style::Looked | Style::Deleting) || random.random_bool(0.5) { "q" } else { "p" });
    let gate = Gate::of(ROLES.len());
    let shared = Shared::new([recovery, other], &gate, &site, seed, style).await;
    let mut schedule = Schedule::new(seed, &gate, &clock, &ROLES, grace, style);
    let scheduler = async {
        while let Some(begins) = schedule.step().await {
            if begins && std::mem::take(&mut schedule.deleted) {
                shared.no_holes(&schedule.unsettled(), "when something was deleted").await;
            }
        }
    };
    tokio::join!(join_all((0..ROLES.len()).map(|actor| shared.act(actor).boxed_local())), scheduler);
    shared.whole("when all were done").await;
    shared.no_holes(&[], "when all were done").await;
    let store: SharedStore = site.clone();
    let mut last = None;
    // Points, then their packs, then the keys of these, each doomed, a grace later gone, and the record after that.
    for _ in 0..8 {
        clock.advance(40 * HOUR);
        for recovery in shared.different_policies() {
            last = Some(recovery.prune(store.clone(), &shared.cache).await.unwrap());
        }
    }
    shared.whole("when it was quiet").await;
    let verified = shared.policies[0].verify(store, &shared.policies[0].fresh_cache()).await.unwrap();
    assert_eq!(verified.damage, [], "seed {seed}");
    let last = last.unwrap();
    assert!(last.packs.bytes * 10 <= last.bytes_needed * 12, "seed {seed}: {last:#?}");
    let left = objects(site.as_ref()).await;
    assert!(!left.keys().any(|key| key.starts_with("doomed/")), "seed {seed}: {:?}", left.keys());
    let points = shared.points.into_inner().unwrap();
    let points_deleted = points.keys().filter(|id| !left.keys().any(|key| key.contains(*id))).count();
    Tally { points: points.len(), points_deleted, ..shared.tally.into_inner().unwrap() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_runs_at_once_every_point_that_is_there_is_whole_and_quiet_prunes_leave_no_garbage() {
    let (first, usual, mut all) = (seed(), soak(20), Tally::default());
    // Else the schedules missed what they are for: which stage of what is doomed they meet depends on threads, too.
    let reached = |all: &Tally| {
        let counts =
            [all.doomed_adopted, all.refused, all.taken_back, all.spared, all.slow_commits, all.packs_deleted as usize, all.checks];
        counts.iter().all(|count| *count > 0)
    };
    for seed in first..first + 10 * usual {
        if seed >= first + usual && reached(&all) {
            break;
        }
        let tally = run(seed).await;
        println!("FARSHORE_TEST_SEED={seed} {:?} {tally:?}", STYLES[seed as usize % STYLES.len()]);
        all += tally;
    }
    println!("{all:?}");
    assert!(reached(&all), "{all:?}: this proves nothing");
    assert!(all.points > 30 && all.points_deleted > 15, "{all:?}: this proves nothing");
}
