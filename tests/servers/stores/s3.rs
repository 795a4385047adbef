//! The S3 store: the contract against a real server, and what is true of S3 alone.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use farshore::stores::{GetOptions, PutOptions, S3Config, S3Store, Store, StoreError, read_all};

use crate::{s3, support::store_contract::Fresh};

fn config() -> S3Config {
    s3::config("farshore-contract", &s3::fresh_prefix())
}

async fn connect(config: S3Config) -> S3Store {
    S3Store::connect(config).await.unwrap()
}

async fn fresh() -> Fresh {
    let store = connect(config()).await;
    store.create().await.unwrap();
    Fresh { can_hold: seaweedfs_can_hold, ..Fresh::new(Arc::new(store)) }
}

/// SeaweedFS keeps objects as files, and so cannot hold every key that S3 can (found by asking it without this program): it joins
/// slashes, reads a backslash as one, keeps no object at the name of a directory, loses the bytes of `a/`, refuses `.` and `..`
/// and names over 255 bytes, and sorts `a/…` before `a-b`. Those keys are tested with the stores that can.
fn seaweedfs_can_hold(key: &str) -> bool {
    let segments_fit = key.split('/').all(|segment| !matches!(segment, "" | "." | "..") && segment.len() <= 255);
    segments_fit && !key.contains('\\') && !matches!(key, "a" | "a-b" | "a.b" | "a/b")
}

mod contract {
    crate::store_contract!(super::fresh);
}

#[tokio::test]
async fn a_missing_bucket_is_named_and_can_be_made() {
    let bucket = format!("farshore-{:016x}", rand::random::<u64>());
    let store = connect(S3Config { bucket, prefix: String::new(), ..config() }).await;
    for error in [store.list("", None, 1).await.unwrap_err(), store.get("k", GetOptions::default()).await.map(|_| ()).unwrap_err()]
    {
        assert!(matches!(error, StoreError::NoSuchPlace { .. }), "{error}");
    }
    store.create().await.unwrap();
    store.create().await.unwrap();
    store.put("k", Bytes::from_static(b"x"), PutOptions::default()).await.unwrap();
    let listed = store.list("", None, 10).await.unwrap();
    assert_eq!(listed.objects.len(), 1, "an empty prefix is the whole bucket");
}

#[tokio::test]
async fn wrong_keys_are_unauthenticated_and_the_secret_is_not_repeated() {
    let wrong_secret = connect(S3Config { secret_key: Some("hush-hush".into()), ..config() }).await;
    let wrong_key = connect(S3Config { access_key: Some("nobody".to_owned()), ..config() }).await;
    for store in [wrong_secret, wrong_key] {
        for error in [
            store.stat("k").await.unwrap_err(),
            store.put("k", Bytes::new(), PutOptions::default()).await.unwrap_err(),
            store.list("", None, 1).await.unwrap_err(),
        ] {
            assert!(matches!(error, StoreError::Unauthenticated { .. }), "{error:?}");
            assert!(!error.to_string().contains("hush-hush") && error.to_string().contains("check the access key"), "{error}");
        }
    }
}

#[tokio::test]
async fn a_server_that_is_away_is_unavailable() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let store = connect(S3Config { endpoint: Some(endpoint), ..config() }).await;
    let error = tokio::time::timeout(Duration::from_secs(20), store.stat("k")).await.unwrap().unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    assert!(error.is_transient());
}

#[tokio::test]
async fn two_prefixes_of_one_bucket_do_not_see_each_other() {
    let first = config();
    let second = S3Config { prefix: format!("{}-and-more", first.prefix), ..first.clone() };
    let (first, second) = (connect(first).await, connect(second).await);
    first.create().await.unwrap();
    first.put("k", Bytes::from_static(b"first"), PutOptions::default()).await.unwrap();
    second.put("k", Bytes::from_static(b"second"), PutOptions::default()).await.unwrap();
    assert_eq!(first.list("", None, 10).await.unwrap().objects.len(), 1);
    assert_eq!(read_all(&second, "k", GetOptions::default(), 10).await.unwrap(), "second");
}

#[tokio::test]
async fn the_server_keeps_the_checksum_it_verified() {
    let store = fresh().await.store;
    let put = store.put("k", Bytes::from_static(b"body"), PutOptions::default()).await.unwrap();
    assert!(put.sha256.is_some());
    assert_eq!(store.stat("k").await.unwrap().sha256, put.sha256);
    // It takes a CRC-32C as well.
    let sealed = PutOptions { sealed: true, ..PutOptions::default() };
    assert_eq!(store.put("sealed", Bytes::from_static(b"body"), sealed).await.unwrap().sha256, None);
    for options in [GetOptions::sealed(), GetOptions::default()] {
        assert_eq!(read_all(&*store, "sealed", options, 10).await.unwrap(), "body");
    }
}

#[tokio::test]
async fn a_listing_that_the_server_does_not_sort_is_an_error_and_never_a_gap() {
    let store = fresh().await.store;
    store.put("a-b", Bytes::new(), PutOptions::default()).await.unwrap();
    store.put("a/b", Bytes::new(), PutOptions::default()).await.unwrap();
    // SeaweedFS says `a/b`, `a-b`.
    let whole = store.list("", None, 10).await.unwrap_err();
    assert!(whole.to_string().contains("not sorted"), "{whole}");
    assert!(!whole.is_transient(), "asking again would not help");
    let paged = match store.list("", None, 1).await {
        Ok(page) => store.list("", Some(&page.objects[0].key), 1).await.map(|_| ()),
        Err(error) => Err(error),
    };
    assert!(paged.unwrap_err().to_string().contains("not sorted"));
}
