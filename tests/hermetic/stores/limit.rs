//! The limit wrapper: the contract, and that it limits.

use std::time::Duration;

use bytes::Bytes;
use farshore::stores::{GetOptions, Limit, MemoryStore, PutOptions, Store};
use futures_util::StreamExt;

use crate::support::store_contract::Fresh;

async fn fresh() -> Fresh {
    Fresh::new(Limit::over(MemoryStore::new("test"), 2))
}

mod contract {
    crate::store_contract!(super::fresh);
}

#[tokio::test]
async fn a_get_counts_until_its_body_is_read_or_dropped() {
    let store = Limit::over(MemoryStore::new("test"), 1);
    store.put("k", Bytes::from_static(b"x"), PutOptions::default()).await.unwrap();
    let free = || tokio::time::timeout(Duration::from_millis(30), store.stat("k"));

    let dropped = store.get("k", GetOptions::default()).await.unwrap();
    assert!(free().await.is_err(), "an open body holds the only permit");
    drop(dropped);
    free().await.unwrap().unwrap();

    let mut read = store.get("k", GetOptions::default()).await.unwrap();
    assert_eq!(read.body.next().await.unwrap().unwrap(), "x");
    assert!(free().await.is_err());
    assert!(read.body.next().await.is_none());
    free().await.unwrap().unwrap();
}

#[tokio::test]
async fn a_failed_call_gives_its_permit_back() {
    let store = Limit::over(MemoryStore::new("test"), 1);
    for _ in 0..3 {
        assert!(store.get("missing", GetOptions::default()).await.is_err());
    }
}
