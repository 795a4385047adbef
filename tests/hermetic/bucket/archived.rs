//! Objects of a bucket that lie in an archive: reported, and asked for where that is wanted.

use std::sync::Arc;

use bytes::Bytes;
use farshore::{
    sources::bucket::{BucketOptions, BucketSource},
    stores::{MemoryStore, PutOptions, Retrieval, RetrievalPriority, SharedStore, Store, StoreError},
};

use super::watched::Watched;
use crate::support::exchange::Capturing;

async fn put(store: &dyn Store, key: &str, bytes: &[u8]) {
    store.put(key, Bytes::copy_from_slice(bytes), PutOptions::default()).await.unwrap();
}

fn source(store: SharedStore) -> BucketSource {
    BucketSource::new(store, BucketOptions::default())
}

fn asking(store: SharedStore) -> BucketSource {
    let retrieval = Retrieval { priority: RetrievalPriority::Standard, days: 3 };
    BucketSource::new(store, BucketOptions { rehydrate: Some(retrieval), ..BucketOptions::default() })
}

const ARCHIVED: fn(String) -> StoreError =
    |place| StoreError::Archived { place, detail: "InvalidObjectState".into(), next: "bring it back" };

/// Three archived objects, and one that is not.
async fn bucket() -> Arc<Watched> {
    let store = Watched::over(MemoryStore::new("b"));
    for key in ["cold/1", "cold/2", "cold/3", "warm"] {
        put(&*store, key, b"twelve bytes").await;
    }
    for key in ["cold/1", "cold/2", "cold/3"] {
        store.fail("get", key, ARCHIVED);
    }
    store
}

#[tokio::test]
async fn archived_objects_are_counted_in_one_problem_with_an_example_and_what_brings_them_back() {
    let store = bucket().await;
    let capturing = Capturing::first();
    let facts = capturing.run(&source(store.clone())).await.unwrap().facts;
    assert_eq!((&facts["archived"], &facts["archived_bytes"]), (&3.into(), &36.into()));
    assert_eq!((&facts["unreadable"], &facts["objects"]), (&0.into(), &1.into()));
    assert_eq!((capturing.sink.entries()[0].display_path(), store.calls("bring_back")), ("warm".to_owned(), 0));
    let problems = capturing.problems();
    assert_eq!(problems.len(), 1, "{problems:?}");
    for words in ["3 objects of 36 bytes", "\"cold/1\" for one", "bring it back"] {
        assert!(problems[0].contains(words), "{words}: {problems:?}");
    }
    // What was read before it was archived is still in the point: it has not changed.
    let whole = Capturing::first();
    let sound = MemoryStore::new("b");
    for key in ["cold/1", "warm"] {
        put(&*sound, key, b"twelve bytes").await;
    }
    whole.run(&source(sound.clone())).await.unwrap();
    let later = Watched::over(sound);
    later.fail("get", "cold/1", ARCHIVED);
    let again = Capturing::after(&whole.sink);
    let facts = again.run(&source(later)).await.unwrap().facts;
    assert_eq!((&facts["archived"], &facts["objects"], again.problems().len()), (&0.into(), &2.into(), 0));
}

#[tokio::test]
async fn what_is_archived_is_asked_for_where_the_policy_says_so_and_read_by_a_later_backup() {
    let store = bucket().await;
    let capturing = Capturing::first();
    let facts = capturing.run(&asking(store.clone())).await.unwrap().facts;
    assert_eq!((&facts["archived"], &facts["archived_coming"], store.calls("bring_back")), (&3.into(), &3.into(), 3));
    let problems = capturing.problems();
    assert_eq!(problems.len(), 1, "{problems:?}");
    for words in ["3 objects of 36 bytes", "not in this point", "3 of them were asked for and typically come within 5 h"] {
        assert!(problems[0].contains(words), "{words}: {problems:?}");
    }
    store.heal();
    let later = Capturing::after(&capturing.sink);
    let facts = later.run(&asking(store.clone())).await.unwrap().facts;
    assert_eq!((&facts["objects"], &facts["archived"], later.problems().len()), (&4.into(), &0.into(), 0));
    assert_eq!(store.calls("bring_back"), 3, "what can be read is not asked for");
}

#[tokio::test]
async fn what_may_not_be_asked_for_is_said_with_the_reason() {
    let store = bucket().await;
    let denied: fn(String) -> StoreError =
        |place| StoreError::Denied { place, action: "bring back", detail: "AccessDenied".into() };
    for key in ["cold/2", "cold/3"] {
        store.fail("bring_back", key, denied);
    }
    let capturing = Capturing::first();
    let facts = capturing.run(&asking(store)).await.unwrap().facts;
    assert_eq!((&facts["archived"], &facts["archived_coming"], &facts["objects"]), (&3.into(), &1.into(), &1.into()));
    let problems = capturing.problems();
    for words in ["1 of them were asked for", "2 could not be asked for", "permission denied to bring back"] {
        assert!(problems.len() == 1 && problems[0].contains(words), "{words}: {problems:?}");
    }
}
