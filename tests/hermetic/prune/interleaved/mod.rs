//! The real operations at once on one site, call by call: a gate stops each before every call, and a seeded scheduler decides whose turn it
//! is, how much time passes meanwhile, and who is killed.
//!
//! Two things are random: the seed, and in which order the calls come that one operation makes at once. So a seed shows nearly the same again.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use farshore::{
    clock::Clock,
    policy::Retention,
    stores::{
        Download, GetOptions, MemoryStore, ObjectAttributes, ObjectStat, Page, PutOptions, SharedStore, Store, StoreError,
        UploadedPart,
    },
};
use futures_util::{FutureExt, future::join_all};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::sync::{Notify, oneshot};

use super::{basics::HOUR, seed};
use crate::support::{
    recovery::{Objects, Recovery, noise, objects},
    soak,
};

/// Who waits at the gate, and for whom it opens.
#[derive(Debug)]
struct Gate {
    state: Mutex<Waiting>,
    /// Somebody came, went through, or is done.
    moved: Notify,
}

#[derive(Debug)]
struct Waiting {
    /// By actor: calls that it wants to make.
    calls: Vec<Vec<oneshot::Sender<Turn>>>,
    /// What the actor is at was killed: nothing of it gets through any more.
    killed: Vec<bool>,
    done: Vec<bool>,
    /// A call is being carried out.
    busy: bool,
}

/// The right to make one call; given back when it is dropped.
#[derive(Debug)]
struct Turn(Arc<Gate>);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.state.lock().unwrap().busy = false;
        self.0.moved.notify_one();
    }
}

impl Gate {
    fn of(actors: usize) -> Arc<Self> {
        let calls = (0..actors).map(|_| Vec::new()).collect();
        let state = Waiting { calls, killed: vec![false; actors], done: vec![false; actors], busy: false };
        Arc::new(Self { state: Mutex::new(state), moved: Notify::new() })
    }

    async fn pass(&self, actor: usize) -> Result<Turn, StoreError> {
        let killed = || StoreError::Unavailable { place: "gate".to_owned(), detail: "killed".to_owned() };
        let turn = {
            let mut state = self.state.lock().unwrap();
            if state.killed[actor] {
                return Err(killed());
            }
            let (opens, turn) = oneshot::channel();
            state.calls[actor].push(opens);
            turn
        };
        self.moved.notify_one();
        turn.await.map_err(|_| killed())
    }

    /// The actor begins something new, in its turn.
    async fn begin(&self, actor: usize) {
        self.state.lock().unwrap().killed[actor] = false;
        drop(self.pass(actor).await);
        // Killed while it waited to begin: that kills nothing.
        self.state.lock().unwrap().killed[actor] = false;
    }

    fn is_killed(&self, actor: usize) -> bool {
        self.state.lock().unwrap().killed[actor]
    }

    fn done(&self, actor: usize) {
        self.state.lock().unwrap().done[actor] = true;
        self.moved.notify_one();
    }

    /// Opens for one call after the other, each when all the actors wait or are done, until all are done.
    async fn schedule(self: &Arc<Self>, recovery: &Recovery, random: &mut StdRng) {
        // Some runs see days pass, most do not.
        let days = [0.0, 0.001, 0.003, 0.01][random.random_range(0..4)];
        let deaths = [0.0, 0.003, 0.01][random.random_range(0..3)];
        loop {
            let ready = {
                let mut state = self.state.lock().unwrap();
                for calls in &mut state.calls {
                    calls.retain(|call| !call.is_closed());
                }
                let actors = 0..state.done.len();
                if state.done.iter().all(|done| *done) {
                    return;
                }
                let rests = |actor: usize| state.done[actor] || !state.calls[actor].is_empty();
                let settled = !state.busy && actors.clone().all(rests);
                settled.then(|| actors.filter(|actor| !state.calls[*actor].is_empty()).collect::<Vec<_>>())
            };
            let Some(ready) = ready else {
                self.moved.notified().await;
                continue;
            };
            let actor = ready[random.random_range(0..ready.len())];
            if random.random_bool(days) {
                recovery.clock.advance(HOUR * random.random_range(20..30));
            } else if random.random_bool(0.02) {
                recovery.clock.advance(Duration::from_secs(random.random_range(0..3 * 3600)));
            } else {
                recovery.clock.advance(Duration::from_secs(random.random_range(0..120)));
            }
            let mut state = self.state.lock().unwrap();
            if random.random_bool(deaths) {
                state.killed[actor] = true;
                state.calls[actor].clear();
                continue;
            }
            let number = random.random_range(0..state.calls[actor].len());
            let opens = state.calls[actor].swap_remove(number);
            state.busy = true;
            drop(state);
            // Dropped, where the actor does not wait any more: that gives the turn back.
            drop(opens.send(Turn(Arc::clone(self))));
        }
    }
}

/// The site, as one actor reaches it.
#[derive(Debug)]
struct Gated {
    inner: SharedStore,
    gate: Arc<Gate>,
    actor: usize,
}

#[async_trait]
impl Store for Gated {
    fn describe(&self) -> String {
        self.inner.describe()
    }
    async fn put(&self, key: &str, body: Bytes, options: PutOptions) -> Result<ObjectStat, StoreError> {
        let _turn = self.gate.pass(self.actor).await?;
        self.inner.put(key, body, options).await
    }
    async fn get(&self, key: &str, options: GetOptions) -> Result<Download, StoreError> {
        let _turn = self.gate.pass(self.actor).await?;
        self.inner.get(key, options).await
    }
    async fn stat(&self, key: &str) -> Result<ObjectStat, StoreError> {
        let _turn = self.gate.pass(self.actor).await?;
        self.inner.stat(key).await
    }
    async fn list(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> Result<Page, StoreError> {
        let _turn = self.gate.pass(self.actor).await?;
        self.inner.list(prefix, start_after, limit).await
    }
    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        let _turn = self.gate.pass(self.actor).await?;
        self.inner.delete(key).await
    }
    async fn begin_upload(&self, key: &str, _: ObjectAttributes) -> Result<String, StoreError> {
        panic!("this test does not stop the multipart upload of {key}")
    }
    async fn upload_part(&self, key: &str, _: &str, _: u32, _: Bytes) -> Result<UploadedPart, StoreError> {
        panic!("this test does not stop the multipart upload of {key}")
    }
    async fn complete_upload(&self, key: &str, _: &str, _: &[UploadedPart], _: bool) -> Result<ObjectStat, StoreError> {
        panic!("this test does not stop the multipart upload of {key}")
    }
    async fn abort_upload(&self, key: &str, _: &str) -> Result<(), StoreError> {
        panic!("this test does not stop the multipart upload of {key}")
    }
    async fn time(&self) -> Result<DateTime<Utc>, StoreError> {
        let _turn = self.gate.pass(self.actor).await?;
        self.inner.time().await
    }
    async fn create(&self) -> Result<(), StoreError> {
        self.inner.create().await
    }
}

/// What the actors know together.
struct Shared {
    recovery: Recovery,
    gate: Arc<Gate>,
    site: Arc<MemoryStore>,
    seed: u64,
    /// What each point holds whose backup said that it made it.
    points: Mutex<BTreeMap<String, Objects>>,
    /// What backups held that did not say so: a point may be there nevertheless.
    unsaid: Mutex<Vec<Objects>>,
    /// Points that somebody was told are pinned.
    pinned: Mutex<BTreeSet<String>>,
    /// What could not be done to a point, when it took less than a day: the point must not be there for long.
    failed: Mutex<Vec<(String, String)>>,
}

/// An actor needs this much time less than the grace for what it reads to be there until it is done.
const SOON: TimeDelta = TimeDelta::hours(20);

#[derive(Debug, Clone, Copy)]
enum Role {
    Backup,
    Prune,
    Restore,
    Verify,
    Undelete,
    Pin,
}

const ROLES: [Role; 8] =
    [Role::Backup, Role::Backup, Role::Prune, Role::Prune, Role::Restore, Role::Verify, Role::Undelete, Role::Pin];

impl Shared {
    fn store(&self, actor: usize) -> SharedStore {
        Arc::new(Gated { inner: self.site.clone(), gate: Arc::clone(&self.gate), actor })
    }

    async fn act(&self, actor: usize) {
        let mut random = StdRng::seed_from_u64(self.seed * 100 + actor as u64);
        let role = ROLES[actor];
        let (source, cache) = (MemoryStore::new("source"), self.recovery.fresh_cache());
        // A capture knows by its tag that an object is the same, and this store's tags count writes: no two machines have one in common.
        for _ in 0..1000 * actor {
            source.put("tags", Bytes::new(), PutOptions::default()).await.unwrap();
        }
        let rounds = match role {
            Role::Backup | Role::Prune => 4,
            Role::Restore | Role::Verify | Role::Undelete | Role::Pin => 2,
        };
        for _ in 0..rounds {
            self.gate.begin(actor).await;
            match role {
                Role::Backup => self.back_up(actor, &source, &mut random).await,
                // By turns with the local index it has, and with none.
                Role::Prune => {
                    let cache = if random.random_bool(0.5) { cache.clone() } else { self.recovery.fresh_cache() };
                    let pruned = self.recovery.prune(self.store(actor), &cache).await;
                    self.said(actor, pruned.map(|_| ()).map_err(|error| error.to_string()), &["looked too long ago"]);
                }
                Role::Restore | Role::Verify | Role::Undelete | Role::Pin => self.look(actor, role, &cache, &mut random).await,
            }
        }
        self.gate.done(actor);
    }

    /// An error is one of those that are meant, or the actor was killed.
    fn said(&self, actor: usize, outcome: Result<(), String>, meant: &[&str]) {
        if let Err(said) = outcome {
            let is_meant = self.gate.is_killed(actor) || meant.iter().any(|meant| said.contains(meant));
            assert!(is_meant, "seed {}: {:?} said {said}", self.seed, ROLES[actor]);
        }
    }

    async fn back_up(&self, actor: usize, source: &Arc<MemoryStore>, random: &mut StdRng) {
        // Few objects of few kinds, so that they go and come back, and the machines share them.
        for name in 0..5 {
            let key = format!("object/{name}");
            if random.random_bool(0.4) {
                let body = noise(1000 + 12_000 * name, random.random_range(0..4));
                source.put(&key, body.into(), PutOptions::default()).await.unwrap();
            } else if random.random_bool(0.3) {
                source.delete(&key).await.unwrap();
            }
        }
        let held = objects(source.as_ref()).await;
        let made = self.recovery.backup_of(source.clone(), self.store(actor), &self.recovery.fresh_cache()).await;
        match made {
            Ok(report) => drop(self.points.lock().unwrap().insert(report.point_id, held)),
            Err(error) => {
                self.unsaid.lock().unwrap().push(held);
                self.said(actor, Err(error.to_string()), &["a prune doomed what this backup relies on", "was taken back"]);
            }
        }
    }

    /// Does something to any of the points that are listed.
    async fn look(&self, actor: usize, role: Role, cache: &std::path::Path, random: &mut StdRng) {
        let recovery = &self.recovery;
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
        if recovery.clock.now() - began < SOON && !self.gate.is_killed(actor) {
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

    /// Every point that is there and not doomed is what was captured.
    async fn whole(&self, when: &str) {
        let (recovery, seed) = (&self.recovery, self.seed);
        let (store, cache): (SharedStore, _) = (self.site.clone(), recovery.fresh_cache());
        let listed = recovery.points(store.clone(), &cache).await.unwrap();
        for point in listed.iter().filter(|point| point.doomed.is_none()) {
            let restored = recovery.restore(store.clone(), &cache, &point.id).await;
            let restored = restored.unwrap_or_else(|error| panic!("seed {seed}, {when}: {}: {error}", point.id));
            self.check(&point.id, &restored, when);
            let known = self.points.lock().unwrap().contains_key(&point.id) || self.unsaid.lock().unwrap().contains(&restored);
            assert!(known, "seed {seed}, {when}: nobody made {}", point.id);
            let failed = self.failed.lock().unwrap();
            let hindered: Vec<_> = failed.iter().filter(|(id, _)| *id == point.id).collect();
            assert!(hindered.is_empty(), "seed {seed}: {hindered:?}");
        }
        for pinned in self.pinned.lock().unwrap().iter() {
            let is_there = listed.iter().any(|point| point.id == *pinned && point.doomed.is_none());
            assert!(is_there, "seed {seed}, {when}: {pinned} is pinned, and gone or doomed");
        }
        assert_eq!(recovery.verify(store, &recovery.fresh_cache()).await.unwrap().damage, [], "seed {seed}, {when}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_runs_at_once_every_point_that_stays_is_whole_and_quiet_prunes_leave_no_garbage() {
    let (first, mut made, mut deleted) = (seed(), 0, 0);
    for seed in first..first + soak(12) {
        println!("FARSHORE_TEST_SEED={seed}");
        let mut recovery = Recovery::new(true);
        // From one that hardly a backup is done in to one that all are: what runs at once meets every stage of what is doomed.
        let grace = HOUR * [1, 2, 3, 6, 12, 26][seed as usize % 6];
        recovery.retention =
            Retention { keep_within: Duration::ZERO, keep_last: 2, keep_verified: 1, grace, ..Retention::default() };
        let site = MemoryStore::with_clock("site", recovery.clock.clone());
        recovery.init(&(site.clone() as SharedStore)).await;
        let shared = Shared {
            recovery,
            gate: Gate::of(ROLES.len()),
            site: site.clone(),
            seed,
            points: Mutex::default(),
            unsaid: Mutex::default(),
            pinned: Mutex::default(),
            failed: Mutex::default(),
        };
        let mut random = StdRng::seed_from_u64(seed);
        let actors = join_all((0..ROLES.len()).map(|actor| shared.act(actor).boxed_local()));
        tokio::join!(actors, shared.gate.schedule(&shared.recovery, &mut random));
        made += shared.points.lock().unwrap().len();
        shared.whole("when all were done").await;
        let store: SharedStore = site.clone();
        let mut last = None;
        for _ in 0..8 {
            shared.recovery.clock.advance(27 * HOUR);
            last = Some(shared.recovery.prune(store.clone(), &shared.recovery.fresh_cache()).await.unwrap());
        }
        shared.whole("when it was quiet").await;
        let last = last.unwrap();
        assert!(last.packs.bytes * 10 <= last.bytes_needed * 12, "seed {seed}: {last:#?}");
        let left = objects(site.as_ref()).await;
        assert!(!left.keys().any(|key| key.starts_with("doomed/")), "seed {seed}: {:?}", left.keys());
        let points = shared.points.lock().unwrap();
        deleted += points.keys().filter(|id| !left.keys().any(|key| key.contains(*id))).count();
    }
    assert!(made > 30 && deleted > 15, "{made} points made, {deleted} deleted: this proves nothing");
}
