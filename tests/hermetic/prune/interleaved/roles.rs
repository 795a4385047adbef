//! The actors: what each does in its turns, what it may be told, and what must be true of the site whenever somebody looks.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use chrono::TimeDelta;
use farshore::{
    clock::Clock,
    operations::{OperationError, VerifyLevel},
    policy::Retention,
    report::BackupReport,
    repository::{CLOCK_TOLERANCE, COMMIT_MARGIN, Dooms, LEAST_GRACE, Reach},
    stores::{MemoryStore, PutOptions, SharedStore, Store},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{
    gate::{Gate, Gated},
    schedule::{QUICK_COMMIT, Style},
    witness::Witness,
};
use crate::support::recovery::{Objects, Recovery, noise, objects};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Backup,
    Prune,
    Restore,
    Verify,
    Undelete,
    Pin,
}

pub(super) const ROLES: [Role; 8] =
    [Role::Backup, Role::Backup, Role::Prune, Role::Prune, Role::Restore, Role::Verify, Role::Undelete, Role::Pin];

/// What happened in one schedule, or in all: a test in which these stay zero proves nothing.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) points: usize,
    pub(super) points_deleted: usize,
    pub(super) packs_deleted: u64,
    /// Points that were committed while a pack that they rely on was doomed.
    pub(super) doomed_adopted: usize,
    /// Commits refused, because a prune had doomed what the backup relies on.
    pub(super) refused: usize,
    /// Points taken back after a commit in which the machine slept.
    pub(super) taken_back: usize,
    /// Prunes that met something doomed and needed again.
    pub(super) spared: usize,
    /// Prunes that would have deleted what they had looked at a day ago.
    pub(super) too_late: usize,
    /// Commits that came half an hour after the look, or later.
    pub(super) slow_commits: usize,
    /// Checks of all points.
    pub(super) checks: usize,
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.points += other.points;
        self.points_deleted += other.points_deleted;
        self.packs_deleted += other.packs_deleted;
        self.doomed_adopted += other.doomed_adopted;
        self.refused += other.refused;
        self.taken_back += other.taken_back;
        self.spared += other.spared;
        self.too_late += other.too_late;
        self.slow_commits += other.slow_commits;
        self.checks += other.checks;
    }
}

/// What the actors know together.
pub(super) struct Shared {
    /// By policy; both have the one repository.
    pub(super) policies: [Recovery; 2],
    pub(super) gate: Arc<Gate>,
    pub(super) site: Arc<MemoryStore>,
    witness: Arc<Witness>,
    pub(super) seed: u64,
    pub(super) style: Style,
    /// For whoever checks.
    pub(super) cache: PathBuf,
    /// What each point holds whose backup said that it made it.
    pub(super) points: Mutex<BTreeMap<String, Objects>>,
    /// What backups held that did not say so: a point may be there nevertheless.
    pub(super) unsaid: Mutex<Vec<Objects>>,
    /// Points that somebody was told are pinned.
    pub(super) pinned: Mutex<BTreeSet<String>>,
    /// What could not be done to a point, when it took less than the grace: the point must not be there for long.
    pub(super) failed: Mutex<Vec<(String, String)>>,
    /// Sets of contents, the one that was taken up last at the end.
    sets: Mutex<[u64; 3]>,
    pub(super) tally: Mutex<Tally>,
}

impl Shared {
    pub(super) async fn new(policies: [Recovery; 2], gate: &Arc<Gate>, site: &Arc<MemoryStore>, seed: u64, style: Style) -> Self {
        let cache = policies[0].fresh_cache();
        let repository = policies[0].open(site.clone(), &cache).await.unwrap();
        let grace = TimeDelta::from_std(policies[0].retention.grace).unwrap();
        Self {
            cache,
            witness: Arc::new(Witness { repository, grace, seed }),
            policies,
            gate: Arc::clone(gate),
            site: Arc::clone(site),
            seed,
            style,
            points: Mutex::default(),
            unsaid: Mutex::default(),
            pinned: Mutex::default(),
            failed: Mutex::default(),
            sets: Mutex::new([0, 1, 2]),
            tally: Mutex::default(),
        }
    }

    fn store(&self, actor: usize) -> SharedStore {
        Arc::new(Gated { inner: self.site.clone(), gate: Arc::clone(&self.gate), actor, witness: Arc::clone(&self.witness) })
    }

    fn recovery(&self, actor: usize) -> &Recovery {
        &self.policies[actor % 2]
    }

    /// A backup that takes less must go through, whatever prunes meanwhile; what is read in less must be there.
    fn allowed(&self) -> TimeDelta {
        let Retention { grace, .. } = self.policies[0].retention;
        TimeDelta::from_std(grace).unwrap().max(LEAST_GRACE) - COMMIT_MARGIN - CLOCK_TOLERANCE
    }

    fn rounds(&self, role: Role) -> u32 {
        match role {
            Role::Backup => 5,
            Role::Prune => 6,
            Role::Undelete if self.style == Style::Looked => 2,
            Role::Restore | Role::Verify | Role::Undelete | Role::Pin if matches!(self.style, Style::Any | Style::Even) => 1,
            Role::Restore | Role::Verify | Role::Undelete | Role::Pin => 0,
        }
    }

    pub(super) async fn act(&self, actor: usize) {
        let mut random = StdRng::seed_from_u64(self.seed * 100 + actor as u64);
        let (role, recovery) = (ROLES[actor], self.recovery(actor));
        let (source, cache) = (MemoryStore::new("source"), recovery.fresh_cache());
        // A capture knows by its tag that an object is the same, and this store's tags count writes: no two machines have one in common.
        for _ in 0..1000 * actor {
            source.put("tags", Bytes::new(), PutOptions::default()).await.unwrap();
        }
        for _ in 0..self.rounds(role) {
            self.gate.begin(actor).await;
            // By turns with the local index it has, and with none.
            let cache = if self.style == Style::Copies || random.random_bool(0.7) { cache.clone() } else { recovery.fresh_cache() };
            match role {
                Role::Backup => self.back_up(actor, &source, &cache, &mut random).await,
                Role::Prune => {
                    let pruned = recovery.prune(self.store(actor), &cache).await;
                    let mut tally = self.tally.lock().unwrap();
                    match pruned {
                        Ok(report) => {
                            tally.spared += usize::from(report.packs_spared > 0);
                            tally.packs_deleted += report.packs_deleted.objects;
                        }
                        Err(error) => {
                            tally.too_late += usize::from(error.to_string().contains("looked too long ago"));
                            self.said(actor, &error, &["looked too long ago"]);
                        }
                    }
                }
                Role::Restore | Role::Verify | Role::Undelete | Role::Pin => self.look(actor, role, &cache, &mut random).await,
            }
        }
        self.gate.done(actor);
    }

    /// An error is one of those that are meant, or the actor was killed.
    fn said(&self, actor: usize, error: &OperationError, meant: &[&str]) {
        let said = error.to_string();
        let is_meant = self.gate.is_killed(actor) || meant.iter().any(|meant| said.contains(meant));
        assert!(is_meant, "seed {}: {:?} said {said}", self.seed, ROLES[actor]);
    }

    /// Which contents a machine takes up. There are three sets, the same for both machines, that go and come back as a whole: what
    /// points drop, a later one takes up again, and a pack of one set is needed by nobody while there is no point of it. Where copies
    /// are wanted, both machines store the same new one.
    fn next_set(&self, random: &mut StdRng) -> u64 {
        let mut sets = self.sets.lock().unwrap();
        let set = if self.style == Style::Copies {
            if random.random_bool(0.6) { sets[2] } else { random.random_range(3..1_000_000) }
        } else {
            // The one that was dropped the longest ago, mostly.
            sets[if random.random_bool(0.7) { 0 } else { random.random_range(1..3) }]
        };
        match sets.iter().position(|known| *known == set) {
            Some(known) => sets[known..].rotate_left(1),
            None => sets[2] = set,
        }
        set
    }

    async fn back_up(&self, actor: usize, source: &Arc<MemoryStore>, cache: &Path, random: &mut StdRng) {
        let whole = random.random_bool(0.8);
        let set = self.next_set(random);
        for name in 0..4 {
            let key = format!("object/{name}");
            if whole || random.random_bool(0.3) {
                let body = noise(1000 + 9000 * name, set * 10 + name as u64);
                source.put(&key, body.into(), PutOptions::default()).await.unwrap();
            } else if random.random_bool(0.1) {
                source.delete(&key).await.unwrap();
            }
        }
        let held = objects(source.as_ref()).await;
        let (recovery, began) = (self.recovery(actor), self.policies[0].clock.now());
        let made = recovery.backup_of(source.clone(), self.store(actor), cache).await;
        let took = recovery.clock.now() - began;
        // What was doomed after the look may have matured by now.
        let was_slow = !self.gate.is_killed(actor) && self.gate.commit_took(actor).is_some_and(|took| took >= LEAST_GRACE / 2);
        assert!(!was_slow || self.gate.has_looked_again(actor), "seed {}: a slow commit was not looked at again", self.seed);
        self.tally.lock().unwrap().slow_commits += usize::from(was_slow);
        match made {
            Ok(report) => {
                let adopted = self.relies_on_doomed(recovery, &report).await;
                self.tally.lock().unwrap().doomed_adopted += usize::from(adopted);
                self.points.lock().unwrap().insert(report.point_id, held);
            }
            Err(error) => {
                self.unsaid.lock().unwrap().push(held);
                self.said(actor, &error, &["a prune doomed what this backup relies on", "was taken back"]);
                self.refusal_is_right(actor, took, &error.to_string());
            }
        }
    }

    /// Only what took longer than the grace is refused, and only what slept in its commit is taken back.
    fn refusal_is_right(&self, actor: usize, took: TimeDelta, said: &str) {
        let (seed, mut tally) = (self.seed, self.tally.lock().unwrap());
        if said.contains("a prune doomed what this backup relies on") {
            tally.refused += 1;
            assert!(took >= self.allowed(), "seed {seed}: a backup of {took} was refused");
        }
        if said.contains("was taken back") {
            tally.taken_back += 1;
            let commit_took = self.gate.commit_took(actor).unwrap_or_default();
            assert!(
                commit_took >= QUICK_COMMIT,
                "seed {seed}: a point that was committed {commit_took} after the look was taken back"
            );
        }
    }

    /// Whether a pack is doomed that a point relies on.
    async fn relies_on_doomed(&self, recovery: &Recovery, report: &BackupReport) -> bool {
        let store: SharedStore = self.site.clone();
        if store.list("doomed/", None, 1).await.unwrap().objects.is_empty() {
            return false;
        }
        let repository = recovery.open(store, &self.cache).await.unwrap();
        let name = repository.find_point(Some(&recovery.policy.name), &report.point_id).await.unwrap();
        let point = repository.point(&name).await.unwrap();
        let reader = recovery.reader(&repository).await.unwrap();
        let mut reach = Reach::new(reader.cache()).unwrap();
        for snapshot in &point.snapshots {
            let followed = reach.follow(&reader, snapshot).await;
            followed.unwrap_or_else(|error| panic!("seed {}: {} has a hole when it is made: {error}", self.seed, report.point_id));
        }
        let dooms = Dooms::of(&repository.doom_records().await.unwrap());
        reader.cache().packs().unwrap().iter().any(|(number, record)| reach.needs(*number) && dooms.names(record))
    }

    /// Does something to any of the points that are listed.
    async fn look(&self, actor: usize, role: Role, cache: &Path, random: &mut StdRng) {
        let recovery = self.recovery(actor);
        let began = recovery.clock.now();
        let Ok(points) = recovery.points(self.store(actor), cache).await else { return };
        let wanted: Vec<_> = points.into_iter().filter(|point| matches!(role, Role::Undelete) == point.doomed.is_some()).collect();
        if wanted.is_empty() {
            return;
        }
        let id = wanted[random.random_range(0..wanted.len())].id.clone();
        let failed = match role {
            Role::Restore => match recovery.restore(self.store(actor), cache, &id).await {
                Ok(restored) => {
                    self.check(&id, &restored, "restored meanwhile");
                    None
                }
                Err(error) => Some((id, error.to_string())),
            },
            Role::Verify => match recovery.verify(self.store(actor), cache).await {
                Ok(report) => {
                    // Nor does it call damage what nobody needs and a prune takes away meanwhile.
                    let in_time = recovery.clock.now() - began < self.allowed() && !self.gate.is_killed(actor);
                    assert!(
                        !in_time || report.damage.iter().all(|damage| !damage.points.is_empty()),
                        "seed {}: {:#?}",
                        self.seed,
                        report.damage
                    );
                    report.damage.first().map(|damage| (damage.points.first().cloned().unwrap_or(id), format!("{damage:?}")))
                }
                Err(error) => Some((id, error.to_string())),
            },
            Role::Undelete | Role::Pin => {
                let pinned = match role {
                    Role::Undelete => recovery.undelete(self.store(actor), cache, &id).await,
                    _ => recovery.pin(self.store(actor), cache, &id).await,
                };
                if pinned.is_ok() {
                    self.pinned.lock().unwrap().insert(id);
                }
                None
            }
            Role::Backup | Role::Prune => None,
        };
        if recovery.clock.now() - began < self.allowed() && !self.gate.is_killed(actor) {
            self.failed.lock().unwrap().extend(failed);
        }
    }

    fn check(&self, id: &str, restored: &Objects, when: &str) {
        let points = self.points.lock().unwrap();
        let right = match points.get(id) {
            Some(held) => held == restored,
            // Whoever made it has not said so yet, and perhaps never will.
            None => true,
        };
        assert!(right, "seed {}: point {id} is another, {when}", self.seed);
    }

    /// Every point that is there, doomed or not, finds every chunk in a pack that is there; but for the points of these keys.
    pub(super) async fn no_holes(&self, unsettled: &[String], when: &str) {
        let (recovery, seed) = (&self.policies[0], self.seed);
        self.tally.lock().unwrap().checks += 1;
        // Of a copy: verification keeps evidence and marks.
        let copy = recovery.site_of(&objects(self.site.as_ref()).await).await;
        let verified = self.policies[0].verify_now(copy, &self.cache, VerifyLevel::Structure).await;
        let verified = verified.unwrap_or_else(|error| panic!("seed {seed}, {when}: {error}"));
        let is_settled = |point: &String| !unsettled.iter().any(|key| key.contains(point));
        let holes: Vec<_> = verified.damage.iter().filter(|damage| damage.points.iter().any(is_settled)).collect();
        assert!(holes.is_empty(), "seed {seed}, {when}: {holes:#?}");
    }

    pub(super) fn different_policies(&self) -> &[Recovery] {
        let one = self.policies[0].policy == self.policies[1].policy;
        if one { &self.policies[..1] } else { &self.policies }
    }

    /// Every point that is there and not doomed is what was captured.
    pub(super) async fn whole(&self, when: &str) {
        let seed = self.seed;
        let (store, cache): (SharedStore, _) = (self.site.clone(), &self.cache);
        let mut standing = BTreeSet::new();
        for recovery in self.different_policies() {
            let listed = recovery.points(store.clone(), cache).await.unwrap();
            for point in listed.iter().filter(|point| point.doomed.is_none()) {
                standing.insert(point.id.clone());
                let restored = recovery.restore(store.clone(), cache, &point.id).await;
                let restored = restored.unwrap_or_else(|error| panic!("seed {seed}, {when}: {}: {error}", point.id));
                self.check(&point.id, &restored, when);
                let known = self.points.lock().unwrap().contains_key(&point.id) || self.unsaid.lock().unwrap().contains(&restored);
                assert!(known, "seed {seed}, {when}: nobody made {}", point.id);
                let failed = self.failed.lock().unwrap();
                let hindered: Vec<_> = failed.iter().filter(|(id, _)| *id == point.id).collect();
                assert!(hindered.is_empty(), "seed {seed}: {hindered:?}");
            }
        }
        for pinned in self.pinned.lock().unwrap().iter() {
            assert!(standing.contains(pinned), "seed {seed}, {when}: {pinned} is pinned, and gone or doomed");
        }
    }
}
