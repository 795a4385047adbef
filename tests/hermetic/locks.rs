//! Object Lock, on a store that plays a versioned bucket and a clock that is handed in: what is locked, until when, and what a thief
//! with the right to delete can do.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use farshore::{
    clock::{Clock, FixedClock},
    repository::{LockTerm, MarkState, Repository},
    stores::{LockMode, MemoryStore, PutOptions, SharedStore, Store, StoreError},
};

use crate::support::{
    faulty_store::{Call, Fault, FaultyStore},
    recovery::{Recovery, noise, objects},
};

const DAYS: u32 = 30;
/// What locks get beyond the days.
const GENERATION: i64 = 10;

struct Site {
    recovery: Recovery,
    store: Arc<MemoryStore>,
    cache: PathBuf,
}

impl Site {
    async fn new(mode: LockMode) -> Self {
        let mut recovery = Recovery::new(true);
        recovery.lock = Some(LockTerm { mode, days: DAYS });
        let store = MemoryStore::locking("site", recovery.clock.clone());
        recovery.init(&(store.clone() as SharedStore)).await;
        for number in 0..3_u64 {
            recovery.put(&format!("object-{number}"), noise(200_000, number)).await;
        }
        Self { cache: recovery.fresh_cache(), recovery, store }
    }

    fn now(&self) -> DateTime<Utc> {
        self.recovery.clock.now()
    }

    fn days_pass(&self, days: u64) {
        self.recovery.clock.advance(Duration::from_secs(days * 24 * 3600));
    }

    async fn backup(&self) {
        self.recovery.backup(self.store.clone(), &self.cache).await.unwrap();
    }

    /// Until when each object is locked.
    async fn locks(&self) -> BTreeMap<String, Option<DateTime<Utc>>> {
        let mut all = BTreeMap::new();
        // What `init` left of its probes is nobody's.
        for key in objects(self.store.as_ref()).await.into_keys().filter(|key| !key.starts_with("probe/")) {
            let lock = self.store.lock_of(&key).await.unwrap();
            all.insert(key, lock.map(|lock| lock.until));
        }
        all
    }

    async fn points(&self) -> usize {
        self.store.list("points/", None, 1000).await.unwrap().objects.len()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_is_stored_is_locked_from_the_beginning() {
    for mode in [LockMode::Governance, LockMode::Compliance] {
        let site = Site::new(mode).await;
        site.backup().await;
        let locks = site.locks().await;
        for kind in ["repository.json", "keys/catalogue", "keys/data", "packs/", "indexes/", "points/"] {
            assert!(locks.keys().any(|key| key.starts_with(kind)), "no {kind} in {:?}", locks.keys());
        }
        for (key, until) in &locks {
            assert!(until.unwrap() >= site.now() + TimeDelta::days(DAYS.into()), "{key} is locked until {until:?}");
            assert_eq!(site.store.lock_of(key).await.unwrap().unwrap().mode, mode);
            assert!(matches!(site.store.delete_versions(key).await.unwrap_err(), StoreError::Locked { .. }));
        }
        let repository = site.recovery.open(site.store.clone(), &site.cache).await.unwrap();
        assert_eq!(repository.file().locks, Some(mode.to_string()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_new_point_builds_on_is_locked_as_long_as_that_point_and_touched_every_ten_days_only() {
    let site = Site::new(LockMode::Compliance).await;
    site.backup().await;
    let first = site.locks().await;
    site.days_pass(1);
    site.backup().await;
    let second = site.locks().await;
    for (key, until) in &first {
        assert_eq!(second[key], *until, "{key} was touched after a day");
    }
    // What is not needed any more is not locked any longer: these bytes lie in a pack of their own.
    site.recovery.put("object-3", noise(300_000, 77)).await;
    site.backup().await;
    let third = site.locks().await;
    site.recovery.source.delete("object-3").await.unwrap();
    site.days_pass(10);
    site.backup().await;
    let now = site.now();
    let fourth = site.locks().await;
    let (mut extended, mut left) = (Vec::new(), Vec::new());
    for (key, until) in &third {
        if fourth[key] == *until {
            left.push(key.as_str())
        } else {
            extended.push(key.as_str())
        }
        assert!(fourth[key] >= *until, "{key} was shortened");
    }
    for key in &extended {
        let until = fourth[*key].unwrap();
        assert!(until >= now + TimeDelta::days(i64::from(DAYS) + GENERATION) - TimeDelta::minutes(5), "{key}: {until}");
    }
    for kind in ["repository.json", "keys/catalogue", "keys/data", "packs/", "indexes/"] {
        assert!(extended.iter().any(|key| key.starts_with(kind)), "no {kind} was extended: {extended:?}");
    }
    assert!(left.iter().any(|key| key.starts_with("packs/")), "a pack that nothing needs was extended: {extended:?}");
    assert_eq!(left.iter().filter(|key| key.starts_with("points/")).count(), 3, "a point is locked for its own days");
    // Everything that this point needs is locked as long as it is: what ends sooner goes, and the point is still whole.
    site.days_pass(u64::from(DAYS) - 1);
    for key in fourth.keys() {
        let _ = site.store.delete_versions(key).await;
    }
    let restored = site.recovery.restore(site.store.clone(), &site.recovery.fresh_cache(), "latest").await.unwrap();
    assert!(restored == objects(site.recovery.source.as_ref()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn known_locks_are_not_asked_for_and_lost_knowledge_is_asked_for_once() {
    let site = Site::new(LockMode::Compliance).await;
    site.backup().await;
    let counting = FaultyStore::over(site.store.clone());
    let asked = |before: u64| counting.calls(Call::Lock) - before;
    site.recovery.backup(counting.clone(), &site.cache).await.unwrap();
    assert_eq!(asked(0), 1, "the probe of this run's key");
    let fresh = site.recovery.fresh_cache();
    let before = counting.calls(Call::Lock);
    site.recovery.backup(counting.clone(), &fresh).await.unwrap();
    assert!(asked(before) > 4, "packs, indexes, keys, repository.json");
    let before = counting.calls(Call::Lock);
    site.recovery.backup(counting.clone(), &fresh).await.unwrap();
    assert!(asked(before) <= 2, "{}", asked(before));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_cannot_be_extended_fails_the_backup_and_leaves_no_point() {
    let site = Site::new(LockMode::Compliance).await;
    site.backup().await;
    site.days_pass(11);
    let refusing = FaultyStore::over(site.store.clone());
    refusing.queue(Call::Lock, [Fault::None, Fault::None, Fault::RefusedBefore]);
    let error = site.recovery.backup(refusing.clone(), &site.cache).await.unwrap_err().to_string();
    assert!(error.contains("could not be extended") && error.contains("no point was made"), "{error}");
    assert_eq!(site.points().await, 1);
    site.recovery.backup(refusing, &site.cache).await.unwrap();
    assert_eq!(site.points().await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_that_answers_and_does_not_lock_is_found_out() {
    let mut recovery = Recovery::new(false);
    recovery.lock = Some(LockTerm { mode: LockMode::Compliance, days: DAYS });
    let init = async |store: SharedStore| {
        let clock: farshore::clock::SharedClock = recovery.clock.clone();
        Repository::init_locked(&store, &clock, &recovery.recipients, recovery.lock).await
    };
    let forgetful = FaultyStore::over(MemoryStore::locking("site", recovery.clock.clone()));
    forgetful.forget_locks();
    let error = init(forgetful).await.unwrap_err().to_string();
    assert!(error.contains("answers as if it locked objects, and does not"), "{error}");
    let error = init(MemoryStore::with_clock("plain", recovery.clock.clone())).await.unwrap_err().to_string();
    assert!(error.contains("not versioned") && error.contains("farshore init --create"), "{error}");

    // One that stops doing it later.
    let site = Site::new(LockMode::Governance).await;
    site.backup().await;
    let forgetful = FaultyStore::over(site.store.clone());
    forgetful.forget_locks();
    let error = site.recovery.backup(forgetful, &site.cache).await.unwrap_err().to_string();
    assert!(error.contains("the site does not hold it: no point was made"), "{error}");
    assert_eq!(site.points().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_wrong_makes_neither_short_locks_nor_a_backup() {
    let site = Site::new(LockMode::Compliance).await;
    let ahead = FixedClock::shared(site.now() + TimeDelta::days(GENERATION + 1));
    let store = MemoryStore::locking("site", ahead);
    for (key, body) in objects(site.store.as_ref()).await {
        store.put(&key, body, PutOptions::default()).await.unwrap();
    }
    // What is no backup, and locked all the same: by the site's time.
    let repository = site.recovery.open(store.clone(), &site.recovery.fresh_cache()).await.unwrap();
    let mark = repository.put_mark("packs/00/00", MarkState::Damaged, "a test").await.unwrap();
    let until = store.lock_of(&mark).await.unwrap().unwrap().until;
    assert_eq!(until, store.time().await.unwrap() + TimeDelta::days(i64::from(DAYS) + GENERATION));
    let error = site.recovery.backup(store, &site.recovery.fresh_cache()).await.unwrap_err().to_string();
    assert!(error.contains("differ by more than 5 minutes"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn markers_and_overwriting_hide_a_repository_and_first_versions_show_it() {
    let site = Site::new(LockMode::Compliance).await;
    site.backup().await;
    let before = objects(site.store.as_ref()).await;
    for (number, key) in before.keys().enumerate() {
        if number % 2 == 0 {
            site.store.put(key, Bytes::from_static(b"false"), PutOptions::default()).await.unwrap();
        }
        if number % 3 > 0 || number % 2 == 1 {
            site.store.delete(key).await.unwrap();
        }
    }
    let fresh = || site.recovery.fresh_cache();
    site.recovery.restore(site.store.clone(), &fresh(), "latest").await.unwrap_err();
    let shown = site.store.first_versions();
    assert!(objects(shown.as_ref()).await == before, "something is hidden");
    let restored = site.recovery.restore(shown, &fresh(), "latest").await.unwrap();
    assert!(restored == objects(site.recovery.source.as_ref()).await);
}
