//! What a store promises about locks: one contract for those that lock, and one for those that cannot.

use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use farshore::stores::{GetOptions, Holds, Lock, LockMode, ObjectAttributes, PutOptions, SharedStore, Store, StoreError, read_all};

use super::store_contract::Fresh;

/// Makes a test of each promise for the locking store that `$fresh` (an async function) makes.
#[macro_export]
macro_rules! lock_contract {
    ($fresh:path) => {
        $crate::lock_contract!(@each $fresh:
            a_store_that_locks_says_so
            a_lock_that_was_put_is_read_back
            what_holds_an_object_goes_with_it_and_is_told_of_each_version
            what_is_locked_is_not_deleted_and_the_error_says_until_when
            deleting_hides_what_is_locked_or_is_refused_and_frees_nothing
            a_lock_is_extended_and_never_shortened_or_weakened
            what_lies_over_an_object_gets_none_of_its_lock
            what_is_not_locked_goes_with_all_its_versions
            a_lock_ends
        );
    };
    (@each $fresh:path: $($promise:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                let fresh = $fresh().await;
                $crate::support::lock_contract::$promise(&fresh).await;
            }
        )*
    };
}

fn until(hours: i64) -> DateTime<Utc> {
    // Whole seconds are what stores keep.
    DateTime::from_timestamp(Utc::now().timestamp(), 0).unwrap() + TimeDelta::hours(hours)
}

fn lock(mode: LockMode, hours: i64) -> Lock {
    Lock { mode, until: until(hours) }
}

/// Keys, and the modes of their locks.
fn modes(fresh: &Fresh) -> impl Iterator<Item = (&'static str, LockMode)> {
    fresh.modes.iter().map(|mode| (if *mode == LockMode::Governance { "g" } else { "c" }, *mode))
}

/// What has the key `c` is sealed: its checksum may be another, and its lock is the same.
async fn put(store: &SharedStore, key: &str, body: &'static str, lock: Option<Lock>) {
    store
        .put(key, Bytes::from_static(body.as_bytes()), PutOptions { lock, sealed: key == "c", ..PutOptions::default() })
        .await
        .unwrap();
}

async fn body(store: &SharedStore, key: &str) -> Bytes {
    read_all(&**store, key, GetOptions::default(), 1 << 20).await.unwrap()
}

async fn assert_locked(store: &SharedStore, key: &str, lock: Lock) {
    match store.delete_versions(key).await.unwrap_err() {
        StoreError::Locked { until, .. } => assert_eq!(until.timestamp(), lock.until.timestamp()),
        other => panic!("a lock is told from a missing right: {other}"),
    }
}

pub async fn a_store_that_locks_says_so(fresh: &Fresh) {
    let support = fresh.store.lock_support().await.unwrap();
    assert!(support.versioned && support.object_lock, "{support:?}");
    // Made already: as it was.
    fresh.store.create_locking().await.unwrap();
}

pub async fn a_lock_that_was_put_is_read_back(fresh: &Fresh) {
    let store = &fresh.store;
    for (key, mode) in modes(fresh) {
        let lock = lock(mode, 1);
        put(store, key, "x", Some(lock)).await;
        assert_eq!(store.lock_of(key).await.unwrap(), Some(lock));
    }
    put(store, "free", "x", None).await;
    assert_eq!(store.lock_of("free").await.unwrap(), None);
    assert!(matches!(store.lock_of("missing").await.unwrap_err(), StoreError::NotFound { .. }));
}

pub async fn what_holds_an_object_goes_with_it_and_is_told_of_each_version(fresh: &Fresh) {
    let store = &fresh.store;
    let all = [LockMode::Governance, LockMode::Compliance].map(|mode| Some(lock(mode, 2)));
    let all = all.into_iter().chain([None]).flat_map(|lock| [false, true].map(|legal_hold| Holds { lock, legal_hold }));
    for (number, holds) in all.enumerate() {
        let attributes = ObjectAttributes::default().held_by(holds);
        let (small, large) = (format!("small-{number}"), format!("large-{number}"));
        let options = PutOptions { attributes: attributes.clone(), ..PutOptions::default() };
        let stored = store.put(&small, Bytes::from_static(b"x"), options).await.unwrap();
        let upload = store.begin_upload(&large, attributes).await.unwrap();
        let part = store.upload_part(&large, &upload, 1, Bytes::from_static(b"part")).await.unwrap();
        store.complete_upload(&large, &upload, &[part], false).await.unwrap();
        for key in [&small, &large] {
            let shown = store.get(key, GetOptions::default()).await.unwrap().attributes.holds();
            assert_eq!((shown, store.holds(key, None, None).await.unwrap()), (holds, holds), "{key}");
            assert_eq!(store.holds(key, None, Some(shown)).await.unwrap(), holds, "{key}");
            assert_eq!(store.delete_versions(key).await.is_err(), holds.any(), "{key}");
        }
        if holds.any() {
            put(store, &small, "over it", None).await;
            assert_eq!(store.holds(&small, None, None).await.unwrap(), Holds::default(), "{small}");
            assert_eq!(store.holds(&small, stored.version.as_deref(), None).await.unwrap(), holds, "{small}");
        }
    }
    assert!(matches!(store.holds("missing", None, None).await.unwrap_err(), StoreError::NotFound { .. }));
}

pub async fn what_is_locked_is_not_deleted_and_the_error_says_until_when(fresh: &Fresh) {
    let store = &fresh.store;
    for (key, mode) in modes(fresh) {
        let lock = lock(mode, 1);
        put(store, key, "kept", Some(lock)).await;
        assert_locked(store, key, lock).await;
        assert_eq!(body(store, key).await, "kept");
    }
}

pub async fn deleting_hides_what_is_locked_or_is_refused_and_frees_nothing(fresh: &Fresh) {
    let (store, lock) = (&fresh.store, lock(LockMode::Compliance, 1));
    put(store, "k", "kept", Some(lock)).await;
    if fresh.hides_locked {
        store.delete("k").await.unwrap();
        assert!(matches!(store.stat("k").await.unwrap_err(), StoreError::NotFound { .. }));
        assert!(store.list("", None, 10).await.unwrap().objects.is_empty());
    } else {
        let refused = store.delete("k").await.unwrap_err();
        assert!(matches!(refused, StoreError::Locked { until, .. } if until == lock.until), "{refused}");
        assert_eq!(body(store, "k").await, "kept");
    }
    assert_locked(store, "k", lock).await;
    assert_eq!(store.lock_of("k").await.unwrap(), Some(lock), "it is there, whatever lies over it");
}

pub async fn a_lock_is_extended_and_never_shortened_or_weakened(fresh: &Fresh) {
    let store = &fresh.store;
    let weak = fresh.modes[0];
    put(store, "k", "x", Some(lock(weak, 2))).await;
    let longer = lock(weak, 3);
    assert_eq!(store.extend_lock("k", longer).await.unwrap(), longer);
    assert_eq!(store.extend_lock("k", lock(weak, 1)).await.unwrap(), longer);
    assert_eq!(store.lock_of("k").await.unwrap(), Some(longer));
    // The store itself refuses, whoever asks in earnest.
    for (_, mode) in modes(fresh) {
        let key = format!("refused-{mode}");
        let held = lock(mode, 2);
        put(store, &key, "x", Some(held)).await;
        store.set_lock(&key, lock(mode, 1)).await.unwrap_err();
        assert_eq!(store.lock_of(&key).await.unwrap(), Some(held));
    }

    let firm = lock(LockMode::Compliance, 2);
    put(store, "c", "x", Some(firm)).await;
    let asked = lock(weak, 4);
    let extended = Lock { mode: LockMode::Compliance, until: asked.until };
    assert_eq!(store.extend_lock("c", asked).await.unwrap(), extended);
    assert_eq!(store.lock_of("c").await.unwrap(), Some(extended));

    put(store, "free", "x", None).await;
    assert_eq!(store.extend_lock("free", firm).await.unwrap(), firm);
    assert_locked(store, "free", firm).await;
    assert!(matches!(store.extend_lock("missing", firm).await.unwrap_err(), StoreError::NotFound { .. }));
}

pub async fn what_lies_over_an_object_gets_none_of_its_lock(fresh: &Fresh) {
    let (store, short, long) = (&fresh.store, lock(LockMode::Compliance, 1), lock(LockMode::Compliance, 3));
    put(store, "k", "true", Some(short)).await;
    put(store, "k", "false", None).await;
    assert_eq!(store.lock_of("k").await.unwrap(), Some(short));
    store.extend_lock("k", long).await.unwrap();
    assert_locked(store, "k", long).await;
    assert_eq!(store.lock_of("k").await.unwrap(), Some(long));
}

pub async fn what_is_not_locked_goes_with_all_its_versions(fresh: &Fresh) {
    let store = &fresh.store;
    put(store, "k", "one", None).await;
    put(store, "k", "two", None).await;
    store.delete("k").await.unwrap();
    put(store, "k-and-more", "stays", None).await;
    store.delete_versions("k").await.unwrap();
    store.delete_versions("k").await.unwrap();
    assert!(matches!(store.lock_of("k").await.unwrap_err(), StoreError::NotFound { .. }), "no version is left");
    assert_eq!(body(store, "k-and-more").await, "stays");
}

pub async fn a_lock_ends(fresh: &Fresh) {
    let store = &fresh.store;
    let short = Lock { mode: LockMode::Compliance, until: DateTime::from_timestamp(Utc::now().timestamp() + 3, 0).unwrap() };
    put(store, "k", "x", Some(short)).await;
    assert_locked(store, "k", short).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(store.lock_of("k").await.unwrap(), None);
    store.delete_versions("k").await.unwrap();
    assert!(matches!(store.stat("k").await.unwrap_err(), StoreError::NotFound { .. }));
}

/// The contract of a store that cannot lock: it says so, instead of storing what it does not hold.
pub async fn a_store_without_locks_refuses_them(store: &SharedStore) {
    let lock = lock(LockMode::Governance, 1);
    assert!(!store.lock_support().await.unwrap().object_lock);
    let options = PutOptions { lock: Some(lock), ..PutOptions::default() };
    let refused = store.put("locked", Bytes::from_static(b"x"), options).await.unwrap_err();
    assert!(matches!(refused, StoreError::Unsupported { .. }), "{refused}");
    assert!(matches!(store.stat("locked").await.unwrap_err(), StoreError::NotFound { .. }));
    let held = ObjectAttributes::default().held_by(Holds { lock: None, legal_hold: true });
    let options = PutOptions { attributes: held, ..PutOptions::default() };
    let refused = store.put("held", Bytes::from_static(b"x"), options).await.unwrap_err();
    assert!(matches!(refused, StoreError::Unsupported { .. }), "{refused}");
    put(store, "k", "x", None).await;
    assert!(matches!(store.holds("k", None, None).await.unwrap_err(), StoreError::Unsupported { .. }));
    assert!(matches!(store.extend_lock("k", lock).await.unwrap_err(), StoreError::Unsupported { .. }));
    assert!(matches!(store.create_locking().await.unwrap_err(), StoreError::Unsupported { .. }));
    assert_eq!(store.lock_of("k").await.unwrap(), None);
    store.delete_versions("k").await.unwrap();
    assert!(matches!(store.stat("k").await.unwrap_err(), StoreError::NotFound { .. }));
}

/// A store shows the objects `k0` to `k6`, each with the four bytes that were stored first, however many a listing gives at once.
pub async fn shows_seven_true(first: &dyn Store) {
    for limit in [1, 3, 100] {
        let mut keys: Vec<String> = Vec::new();
        loop {
            let page = first.list("", keys.last().map(String::as_str), limit).await.unwrap();
            assert!(page.objects.len() <= limit && page.objects.iter().all(|object| object.size == 4), "{:?}", page.objects);
            keys.extend(page.objects.into_iter().map(|object| object.key));
            if !page.more {
                break;
            }
        }
        assert_eq!(keys, (0..7).map(|number| format!("k{number}")).collect::<Vec<_>>());
    }
    for number in 0..7 {
        let key = format!("k{number}");
        assert_eq!(read_all(first, &key, GetOptions::default(), 100).await.unwrap(), "true");
        assert_eq!(first.stat(&key).await.unwrap().size, 4);
    }
}
