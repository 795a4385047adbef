//! Locks on a real server: the contract, what its other identities may do, and what a thief cannot hide.

use std::sync::Arc;

use bytes::Bytes;
use chrono::{TimeDelta, Utc};
use farshore::stores::{GetOptions, Holds, Lock, LockMode, PutOptions, S3Config, S3Store, Store, StoreError, read_all};

use crate::{
    s3,
    support::{lock_contract::shows_seven_true, server, store_contract::Fresh},
};

fn config() -> S3Config {
    s3::config("farshore-locks", &s3::fresh_prefix())
}

async fn fresh() -> Fresh {
    let store = S3Store::connect(config()).await.unwrap();
    store.create_locking().await.unwrap();
    Fresh::new(Arc::new(store))
}

mod contract {
    crate::lock_contract!(super::fresh);
}

#[tokio::test]
async fn a_bucket_without_object_lock_says_so_and_refuses_locks() {
    let store = S3Store::connect(S3Config { bucket: "farshore-contract".to_owned(), ..config() }).await.unwrap();
    store.create().await.unwrap();
    let support = store.lock_support().await.unwrap();
    assert!(!support.object_lock && !support.versioned, "{support:?}");
    let lock = Lock { mode: LockMode::Governance, until: Utc::now() + TimeDelta::hours(1) };
    let options = PutOptions { lock: Some(lock), ..PutOptions::default() };
    store.put("k", Bytes::from_static(b"x"), options).await.unwrap_err();
    store.put("free", Bytes::from_static(b"x"), PutOptions::default()).await.unwrap();
    assert!(matches!(store.extend_lock("free", lock).await.unwrap_err(), StoreError::Unsupported { .. }));
    store.delete_versions("free").await.unwrap();
    assert!(matches!(store.stat("free").await.unwrap_err(), StoreError::NotFound { .. }));
}

#[tokio::test]
async fn first_versions_show_what_markers_and_overwriting_hide() {
    let config = config();
    let store = S3Store::connect(config.clone()).await.unwrap();
    store.create_locking().await.unwrap();
    let first = S3Store::connect(S3Config { first_versions: true, ..config }).await.unwrap();
    let put = async |key: &str, body: &'static str| {
        store.put(key, Bytes::from_static(body.as_bytes()), PutOptions::default()).await.unwrap();
    };
    for number in 0..7 {
        put(&format!("k{number}"), "true").await;
    }
    put("k0", "false").await;
    put("k1", "false and longer").await;
    put("k1", "false again").await;
    for number in 1..7 {
        store.delete(&format!("k{number}")).await.unwrap();
    }
    put("k6", "after the marker").await;
    shows_seven_true(&first).await;
    assert!(matches!(first.stat("k").await.unwrap_err(), StoreError::NotFound { .. }));
}

#[tokio::test]
async fn an_identity_that_may_not_see_legal_holds_is_not_told_that_there_is_none() {
    let config = config();
    let admin = S3Store::connect(config.clone()).await.unwrap();
    admin.create_locking().await.unwrap();
    admin.put("free", Bytes::from_static(b"x"), PutOptions::default()).await.unwrap();
    assert_eq!(admin.holds("free", None, None).await.unwrap(), Holds::default());
    // It has the right to see locks alone.
    let blind = S3Config { access_key: Some(server("FARSHORE_TEST_S3_WRITER_KEY")), ..config };
    let blind = S3Store::connect(blind).await.unwrap();
    let refused = blind.holds("free", None, None).await.unwrap_err();
    assert!(matches!(refused, StoreError::Denied { action: "read the legal hold of", .. }), "{refused:?}");
}

/// What a thief of these credentials can do to what is locked.
async fn cannot_destroy(identity: &str) {
    let config = config();
    let admin = S3Store::connect(config.clone()).await.unwrap();
    admin.create_locking().await.unwrap();
    let thief = S3Config { access_key: Some(server(identity)), ..config };
    let thief = S3Store::connect(thief).await.unwrap();
    for mode in [LockMode::Governance, LockMode::Compliance] {
        let key = format!("packs/{mode}");
        let lock = Lock { mode, until: Utc::now() + TimeDelta::hours(1) };
        let options = PutOptions { if_absent: true, lock: Some(lock), ..PutOptions::default() };
        thief.put(&key, Bytes::from_static(b"pack"), options).await.unwrap();
        let refused = thief.delete_versions(&key).await.unwrap_err();
        // These credentials may delete; it is the lock that keeps it.
        assert!(matches!(refused, StoreError::Locked { .. }), "{refused}");
        thief.put("free", Bytes::from_static(b"x"), PutOptions::default()).await.unwrap();
        thief.delete_versions("free").await.unwrap();
        assert_eq!(read_all(&admin, &key, GetOptions::default(), 100).await.unwrap(), "pack");
    }
}

#[tokio::test]
async fn the_writers_credentials_do_not_delete_a_locked_version() {
    cannot_destroy("FARSHORE_TEST_S3_WRITER_KEY").await;
}

#[tokio::test]
async fn the_pruners_credentials_do_not_delete_a_locked_version() {
    cannot_destroy("FARSHORE_TEST_S3_PRUNER_KEY").await;
}
