//! Locks on Azure, against a server that does what Microsoft's documents say (`tests/support/fake_azure`): no real one was reached.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use farshore::{
    clock::{Clock, FixedClock, SystemClock},
    repository::{LockTerm, Repository},
    stores::{AzureConfig, AzureStore, GetOptions, Lock, LockMode, PutOptions, SharedStore, Store, StoreError, read_all},
};

use crate::support::{
    fake_azure::{FakeAzure, Rules},
    lock_contract::shows_seven_true,
    recovery::{Recovery, noise, objects, patient},
    store_contract::Fresh,
};

async fn fresh_with(rules: Rules) -> Fresh {
    let fake = FakeAzure::today(rules);
    let store = Arc::new(fake.store("p").await);
    Fresh { modes: &[LockMode::Compliance], hides_locked: rules.deleting_hides, ..Fresh::holding(store, fake) }
}

async fn fresh() -> Fresh {
    fresh_with(Rules::default()).await
}

async fn fresh_that_hides() -> Fresh {
    fresh_with(Rules { deleting_hides: true, current_by_name_only: true, ..Rules::default() }).await
}

mod contract {
    crate::lock_contract!(super::fresh);
}

/// Where the documents may be read in two ways, the other one.
mod contract_in_the_other_reading {
    crate::lock_contract!(super::fresh_that_hides);
}

fn in_an_hour() -> Lock {
    Lock { mode: LockMode::Compliance, until: DateTime::from_timestamp(Utc::now().timestamp() + 3600, 0).unwrap() }
}

async fn put(store: &AzureStore, key: &str, body: &'static str, lock: Option<Lock>) {
    store.put(key, Bytes::from_static(body.as_bytes()), PutOptions { lock, ..PutOptions::default() }).await.unwrap();
}

#[tokio::test]
async fn a_deletion_that_is_refused_hides_nothing_and_touches_no_other_version() {
    for deleting_hides in [false, true] {
        let fake = FakeAzure::today(Rules { deleting_hides, ..Rules::default() });
        let store = fake.store("p").await;
        let lock = in_an_hour();
        put(&store, "k", "true", Some(lock)).await;
        put(&store, "k", "over it", None).await;
        let before = fake.versions();
        let refused = store.delete_versions("k").await.unwrap_err();
        assert!(matches!(refused, StoreError::Locked { until, .. } if until == lock.until), "{refused}");
        assert_eq!(fake.versions(), before);
        assert!(!fake.asked().iter().any(|request| request.starts_with("DELETE")), "{:?}", fake.asked());
    }
}

#[tokio::test]
async fn the_current_version_is_deleted_by_its_name_and_then_by_its_id() {
    let fake = FakeAzure::today(Rules::default());
    let store = fake.store("p").await;
    put(&store, "k", "x", None).await;
    store.delete_versions("k").await.unwrap();
    assert_eq!(fake.versions(), []);
    let deletions: Vec<bool> =
        fake.asked().iter().filter(|request| request.starts_with("DELETE")).map(|request| request.contains("versionid=")).collect();
    assert_eq!(deletions, [false, true]);
    // What an interruption between the two steps leaves.
    put(&store, "k", "x", None).await;
    store.delete("k").await.unwrap();
    store.delete_versions("k").await.unwrap();
    assert_eq!(fake.versions(), []);
}

#[tokio::test]
async fn a_blob_of_a_hundred_and_more_versions_goes_whole() {
    let fake = FakeAzure::today(Rules::default());
    let store = fake.store("p").await;
    for _ in 0..205 {
        put(&store, "k", "x", None).await;
    }
    put(&store, "k2", "stays", None).await;
    store.delete_versions("k").await.unwrap();
    assert_eq!(fake.versions(), [("p/k2".to_owned(), 1, true)]);
}

#[tokio::test]
async fn a_legal_hold_is_no_lock_that_ends_and_nothing_is_touched_under_it() {
    let fake = FakeAzure::today(Rules::default());
    let store = fake.store("p").await;
    put(&store, "k", "x", None).await;
    fake.hold_everything();
    let refused = store.delete_versions("k").await.unwrap_err();
    assert!(matches!(refused, StoreError::Denied { .. }) && refused.to_string().contains("legal hold"), "{refused}");
    assert!(matches!(store.delete("k").await.unwrap_err(), StoreError::Denied { .. }));
    assert_eq!(read_all(&store, "k", GetOptions::default(), 10).await.unwrap(), "x");
}

#[tokio::test]
async fn a_lock_that_its_setter_could_lift_is_refused() {
    let store = FakeAzure::today(Rules::default()).store("p").await;
    let weak = Lock { mode: LockMode::Governance, ..in_an_hour() };
    let options = PutOptions { lock: Some(weak), ..PutOptions::default() };
    let refused = store.put("k", Bytes::from_static(b"x"), options).await.unwrap_err();
    assert!(matches!(refused, StoreError::Unsupported { .. }) && refused.to_string().contains("governance"), "{refused}");
    assert!(matches!(store.stat("k").await.unwrap_err(), StoreError::NotFound { .. }));
    put(&store, "k", "x", None).await;
    assert!(matches!(store.extend_lock("k", weak).await.unwrap_err(), StoreError::Unsupported { .. }));
    assert_eq!(store.lock_of("k").await.unwrap(), None);
}

#[tokio::test]
async fn init_refuses_a_container_without_the_support_and_says_what_to_enable() {
    let term = Some(LockTerm { mode: LockMode::Compliance, days: 30 });
    let recovery = Recovery::new(false);
    // The fake shows the machine's time.
    let clock = SystemClock::shared();
    for (rules, words) in [
        (
            Rules { supports_policies: false, claims_support: false, ..Rules::default() },
            [
                "The container farshore of the account fakeaccount has no version-level immutability support, which needs blob versioning",
                "az storage container-rm create --storage-account fakeaccount --resource-group GROUP --name farshore --enable-vlw true",
            ],
        ),
        // It says so, and takes the headers for nothing.
        (
            Rules { supports_policies: false, ..Rules::default() },
            ["the site answers as if it locked objects, and does not", "version-level immutability support"],
        ),
        (
            Rules { supports_policies: false, denies_properties: true, ..Rules::default() },
            ["the site answers as if it locked objects, and does not", "version-level immutability support"],
        ),
        (
            Rules { lets_locks_be_shortened: true, ..Rules::default() },
            ["the site lets locks be shortened", "version-level immutability support"],
        ),
    ] {
        let fake = FakeAzure::today(rules);
        let store: SharedStore = Arc::new(fake.store("p").await);
        let refused = Repository::init_locked(&store, &clock, &recovery.recipients, term).await.unwrap_err().to_string();
        for words in words {
            assert!(refused.contains(words), "{words}: {refused}");
        }
        let left = fake.versions();
        assert!(left.iter().all(|(name, ..)| name.starts_with("p/probe/")), "no repository was made: {left:?}");
    }
}

#[tokio::test]
async fn what_the_container_says_need_not_be_readable_where_what_it_does_is_tried() {
    let recovery = Recovery::new(false);
    let fake = FakeAzure::today(Rules { denies_properties: true, ..Rules::default() });
    let store: SharedStore = Arc::new(fake.store("p").await);
    let term = Some(LockTerm { mode: LockMode::Compliance, days: 30 });
    let made = Repository::init_locked(&store, &SystemClock::shared(), &recovery.recipients, term).await.unwrap();
    assert!(
        made.findings.iter().any(|one| one.name == "locks (compliance)" && one.found.starts_with("kept")),
        "{:?}",
        made.findings
    );
}

#[tokio::test]
async fn a_missing_container_is_not_made_where_it_could_not_lock() {
    let fake = FakeAzure::today(Rules::default());
    let store = fake.store("p").await;
    store.create_locking().await.unwrap();
    fake.remove_container();
    let refused = store.create_locking().await.unwrap_err().to_string();
    assert!(refused.contains("az storage container-rm create") && refused.contains("--enable-vlw true"), "{refused}");
    assert!(!fake.asked().iter().any(|request| request.starts_with("PUT")), "{:?}", fake.asked());
}

#[tokio::test]
async fn first_versions_show_what_deletion_and_overwriting_hide() {
    let fake = FakeAzure::today(Rules::default());
    let store = fake.store("p").await;
    let first = AzureStore::connect(AzureConfig { first_versions: true, ..fake.config("p") }).await.unwrap();
    for number in 0..7 {
        put(&store, &format!("k{number}"), "true", None).await;
    }
    put(&store, "k0", "false", None).await;
    put(&store, "k1", "false and longer", None).await;
    put(&store, "k1", "false again", None).await;
    for number in 1..7 {
        store.delete(&format!("k{number}")).await.unwrap();
    }
    put(&store, "k6", "after the deletion", None).await;
    shows_seven_true(&first).await;
    assert!(matches!(first.stat("k").await.unwrap_err(), StoreError::NotFound { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_are_extended_by_generation_and_what_outlives_them_is_deleted() {
    let mut recovery = Recovery::new(true);
    recovery.clock = FixedClock::shared(DateTime::from_timestamp(Utc::now().timestamp(), 0).unwrap());
    recovery.lock = Some(LockTerm { mode: LockMode::Compliance, days: 2 });
    let fake = FakeAzure::start(Rules::default(), recovery.shared_clock());
    let store = Arc::new(fake.store("p").await);
    let site = patient(store.clone());
    recovery.init(&site).await;
    recovery.put("object", noise(100_000, 1)).await;
    let cache = recovery.fresh_cache();
    recovery.backup(site.clone(), &cache).await.unwrap();
    let keys = async || {
        let all = objects(site.as_ref()).await.into_keys();
        all.filter(|key| !key.starts_with("probe/")).collect::<Vec<_>>()
    };
    let first = keys().await;
    let mut before = Vec::new();
    for key in &first {
        let lock = store.lock_of(key).await.unwrap().unwrap();
        assert!(lock.until >= recovery.clock.now() + TimeDelta::days(2), "{key} is locked until {}", lock.until);
        assert!(matches!(store.delete_versions(key).await.unwrap_err(), StoreError::Locked { .. }), "{key}");
        before.push(lock.until);
    }
    for (days, extended) in [(9, false), (2, true)] {
        recovery.clock.advance(Duration::from_secs(days * 24 * 3600));
        recovery.backup(site.clone(), &cache).await.unwrap();
        for (key, before) in first.iter().zip(&before).filter(|(key, _)| !key.starts_with("points/")) {
            let until = store.lock_of(key).await.unwrap().unwrap().until;
            assert_eq!(until > *before, extended, "{key} after {days} more days: {until}");
        }
    }
    // The first point's own lock ended after twelve days, and it goes whole; what the later ones need stays.
    recovery.clock.advance(Duration::from_secs(2 * 24 * 3600));
    let mut gone = 0;
    for key in keys().await {
        match store.delete_versions(&key).await {
            Ok(()) => gone += 1,
            Err(StoreError::Locked { .. }) => {}
            Err(error) => panic!("{key}: {error}"),
        }
    }
    assert!(
        gone > 0 && fake.versions().iter().all(|(name, versions, current)| *versions == 1 && *current || name.contains("probe/"))
    );
    let restored = recovery.restore(site.clone(), &recovery.fresh_cache(), "latest").await.unwrap();
    assert!(restored == objects(recovery.source.as_ref()).await);
}
