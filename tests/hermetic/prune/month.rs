//! Thirty days and nights of one agent, on a fake clock: churn, backups and prunes that are killed, sites that fail, pins, undeletion.
//! At the end every point that is listed restores to what it captured, and the site holds little more than what they need.

use std::{collections::BTreeMap, sync::Arc};

use farshore::{
    policy::Retention,
    stores::{MemoryStore, SharedStore, Store},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::basics::{DAY, HOUR, begun};
use crate::support::{
    faulty_store::FaultyStore,
    recovery::{Objects, Recovery, noise, objects, patient},
    soak,
};

const DAYS: u64 = 30;
/// Total at the site against what the points need.
const MOST_OVERHEAD: f64 = 1.2;

/// What came of a month.
#[derive(Debug, Default)]
struct Month {
    backups: u64,
    failed: u64,
    prunes_failed: u64,
    points_deleted: u64,
    packs_emptied: u64,
    undeleted: u64,
    /// Bytes at the site for each that the points need.
    overhead: f64,
}

struct Life {
    recovery: Recovery,
    site: Arc<MemoryStore>,
    random: StdRng,
    /// What the source held when each point was made, by id.
    made: BTreeMap<String, Objects>,
    month: Month,
}

impl Life {
    /// The site as this run sees it: sound, failing now and then (with retries), or dying in the middle.
    fn connection(&mut self) -> SharedStore {
        let inner: SharedStore = self.site.clone();
        match self.random.random_range(0..10) {
            0..5 => inner,
            5..8 => patient(FaultyStore::seeded(inner, self.random.random(), 0.03)),
            _ => {
                let dying = FaultyStore::over(inner);
                dying.break_after(self.random.random_range(1..60));
                dying
            }
        }
    }

    /// A day's changes: some new, some gone, some rewritten, and a long one that is changed in the middle.
    async fn churn(&mut self, day: u64) {
        let keys: Vec<String> = objects(self.recovery.source.as_ref()).await.into_keys().collect();
        for number in 0..self.random.random_range(2..6) {
            let size = self.random.random_range(1..120_000);
            self.recovery.put(&format!("{day:02}/{number}"), noise(size, self.random.random())).await;
        }
        for key in &keys {
            match self.random.random_range(0..40) {
                0 | 1 => self.recovery.source.delete(key).await.unwrap(),
                2 | 3 => self.recovery.put(key, noise(self.random.random_range(1..120_000), self.random.random())).await,
                _ => {}
            }
        }
        let mut long = noise(3_000_000, 7);
        let at = self.random.random_range(0..long.len() - 1000);
        long[at..at + 1000].copy_from_slice(&noise(1000, day));
        self.recovery.put("long", long).await;
    }

    async fn back_up(&mut self) {
        for _ in 0..2 {
            let connection = self.connection();
            let outcome = self.recovery.backup(connection, &self.recovery.fresh_cache()).await;
            let now = objects(self.recovery.source.as_ref()).await;
            // Whoever was killed at the very last may have committed.
            for point in self.recovery.points(self.site.clone(), &self.recovery.fresh_cache()).await.unwrap() {
                self.made.entry(point.id).or_insert_with(|| now.clone());
            }
            match outcome {
                Ok(_) => return self.month.backups += 1,
                Err(error) => {
                    assert!(error.to_string().len() > 10, "{error}");
                    self.month.failed += 1;
                }
            }
        }
    }

    async fn prune(&mut self) {
        let connection = self.connection();
        match self.recovery.prune(connection, &self.recovery.fresh_cache()).await {
            Ok(report) => {
                self.month.points_deleted += report.points_deleted;
                self.month.packs_emptied += report.packs_emptied.objects;
            }
            Err(_) => self.month.prunes_failed += 1,
        }
    }

    /// Brings a doomed point back, if there is one that does not mature in the next hours.
    async fn undelete(&mut self) {
        let points = self.recovery.points(self.site.clone(), &self.recovery.fresh_cache()).await.unwrap();
        let Some(doomed) = points.iter().find(|point| point.doomed.is_some()) else { return };
        if self.recovery.undelete(self.site.clone(), &self.recovery.fresh_cache(), &doomed.id).await.is_ok() {
            self.month.undeleted += 1;
        }
    }

    /// Every listed point gives back what it captured.
    async fn check(&self, what: &str) {
        let cache = self.recovery.fresh_cache();
        for point in self.recovery.points(self.site.clone(), &cache).await.unwrap() {
            assert_eq!(point.unreadable, None, "{what}: {}", point.id);
            let restored = self.recovery.restore(self.site.clone(), &cache, &point.id).await;
            let restored = restored.unwrap_or_else(|error| panic!("{what}: {}: {error}", point.id));
            assert!(restored == self.made[&point.id], "{what}: {} gives back something else", point.id);
        }
        let verified = self.recovery.verify(self.site.clone(), &cache).await.unwrap();
        assert_eq!(verified.damage, [], "{what}");
    }
}

async fn month(seed: u64) -> Month {
    let what = format!("seed {seed}");
    let (mut recovery, site) = begun(true).await;
    // By number, so that nothing more goes while what is left of the month is cleared away.
    recovery.retention = Retention { keep_within: DAY, keep_last: 8, keep_weekly: 3, ..Retention::default() };
    for number in 0..40 {
        recovery.put(&format!("old/{number:02}"), noise(40_000, number)).await;
    }
    let random = StdRng::seed_from_u64(seed);
    let mut life = Life { recovery, site, random, made: BTreeMap::new(), month: Month::default() };
    for day in 0..DAYS {
        life.churn(day).await;
        life.back_up().await;
        life.recovery.clock.advance(6 * HOUR);
        life.prune().await;
        if life.random.random_bool(0.3) {
            life.prune().await;
        }
        life.recovery.clock.advance(6 * HOUR);
        if life.random.random_bool(0.08) {
            life.undelete().await;
        }
        if day % 5 == 4 {
            life.check(&format!("{what}, day {day}")).await;
        }
        life.recovery.clock.advance(12 * HOUR);
    }
    // Nobody disturbs it any more: what is not needed goes, also what killed runs left.
    for _ in 0..4 {
        life.recovery.prune(life.site.clone(), &life.recovery.fresh_cache()).await.unwrap();
        life.recovery.clock.advance(27 * HOUR);
    }
    life.check(&what).await;
    let last = life.recovery.prune(life.site.clone(), &life.recovery.fresh_cache()).await.unwrap();
    assert_eq!((last.problems.len(), last.packs_waiting.objects), (0, 0), "{what}: {last:#?}");
    let mut bytes: BTreeMap<String, usize> = BTreeMap::new();
    for (key, body) in objects(life.site.as_ref()).await {
        *bytes.entry(key.split('/').next().unwrap().to_owned()).or_default() += body.len();
    }
    let total: usize = bytes.values().sum();
    life.month.overhead = total as f64 / last.bytes_needed as f64;
    assert!(life.month.overhead <= MOST_OVERHEAD, "{what}: {:.3}: {bytes:?} of {last:#?}", life.month.overhead);
    life.month
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_thirty_days_of_churn_crashes_and_faults_every_point_restores_and_little_is_left_over() {
    let mut all = Month::default();
    for seed in 0..soak(2) {
        let month = month(seed).await;
        all.backups += month.backups;
        all.failed += month.failed;
        all.prunes_failed += month.prunes_failed;
        all.points_deleted += month.points_deleted;
        all.packs_emptied += month.packs_emptied;
        all.undeleted += month.undeleted;
        all.overhead = all.overhead.max(month.overhead);
    }
    let happened = [all.failed, all.prunes_failed, all.points_deleted, all.packs_emptied, all.undeleted];
    assert!(all.backups > 25 && happened.into_iter().all(|count| count > 0), "these months prove nothing: {all:?}");
    println!("{all:?}");
}
