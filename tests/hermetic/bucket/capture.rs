//! What is read, what is not, and what is told.

use bytes::Bytes;
use farshore::{
    sources::{
        Capture,
        bucket::{BucketAttributes, BucketOptions, BucketSource},
    },
    stores::{MemoryStore, PutOptions, SharedStore, Store, StoreError},
};

use super::watched::Watched;
use crate::support::exchange::Capturing;

async fn put(store: &dyn Store, key: &str, bytes: &[u8]) {
    store.put(key, Bytes::copy_from_slice(bytes), PutOptions::default()).await.unwrap();
}

fn source(store: SharedStore) -> BucketSource {
    BucketSource::new(store, BucketOptions::default())
}

fn keys(capturing: &Capturing) -> Vec<String> {
    capturing.sink.entries().iter().map(farshore::sources::Entry::display_path).collect()
}

#[tokio::test]
async fn only_what_changed_is_read_and_the_rest_is_handed_on_as_it_was() {
    let store = Watched::over(MemoryStore::new("b"));
    for number in 0..2500 {
        put(&*store, &format!("k/{number}"), format!("object {number}").as_bytes()).await;
    }
    let first = Capturing::first();
    let facts = first.run(&source(store.clone())).await.unwrap().facts;
    assert_eq!((store.calls("get"), &facts["objects"], &facts["read_objects"]), (2500, &2500.into(), &2500.into()));

    let second = Capturing::after(&first.sink);
    let facts = second.run(&source(store.clone())).await.unwrap().facts;
    assert_eq!((store.calls("get"), second.sink.opened()), (2500, 0));
    assert_eq!((&facts["unchanged_objects"], &facts["read_bytes"]), (&2500.into(), &0.into()));
    assert_eq!(second.sink.entries(), first.sink.entries());

    put(&*store, "k/7", b"object 7 anew").await;
    put(&*store, "k/8", b"object 8").await;
    put(&*store, "a new one", b"new").await;
    store.delete("k/9").await.unwrap();
    let third = Capturing::after(&second.sink);
    let facts = third.run(&source(store.clone())).await.unwrap().facts;
    assert_eq!((store.calls("get"), &facts["gone"], &facts["objects"]), (2503, &1.into(), &2500.into()));
    let changed = third.sink.entries().into_iter().find(|entry| entry.path == b"k/7").unwrap();
    assert_eq!(third.sink.bytes(&changed), b"object 7 anew");
    assert_eq!(source(store.clone()).kind(), "bucket");

    let whole = Capturing::after(&third.sink);
    whole.run(&BucketSource::new(store.clone(), BucketOptions { read_unchanged: true, ..BucketOptions::default() })).await.unwrap();
    assert_eq!(store.calls("get"), 5003);
}

#[tokio::test]
async fn an_object_that_changes_after_the_listing_is_read_as_it_is_now() {
    let store = Watched::over(MemoryStore::new("b"));
    for key in ["a", "b", "c"] {
        put(&*store, key, b"old").await;
    }
    store.before_get("b", async |inner| put(&*inner, "b", b"newer").await);
    let capturing = Capturing::first();
    let facts = capturing.run(&source(store.clone())).await.unwrap().facts;
    assert_eq!((&facts["reread"], capturing.problems().len()), (&1.into(), 0));
    let entries = capturing.sink.entries();
    assert_eq!(capturing.sink.bytes(&entries[1]), b"newer");
    let attributes: BucketAttributes = entries[1].attributes().unwrap();
    assert_eq!(attributes.etag, store.stat("b").await.unwrap().etag);
}

#[tokio::test]
async fn an_object_that_never_stays_the_same_or_vanishes_is_a_problem_and_the_rest_goes_on() {
    let store = Watched::over(MemoryStore::new("b"));
    for key in ["a", "b", "c", "d"] {
        put(&*store, key, b"old").await;
    }
    store.before_get("b", async |inner| put(&*inner, "b", b"newer").await);
    store.before_get("b", async |inner| put(&*inner, "b", b"newest").await);
    store.before_get("c", async |inner| inner.delete("c").await.unwrap());
    store.fail("get", "d", |place| StoreError::Denied { place, action: "get", detail: "archived".into() });
    let capturing = Capturing::first();
    let facts = capturing.run(&source(store)).await.unwrap().facts;
    assert_eq!((&facts["vanished"], &facts["unreadable"], &facts["objects"]), (&1.into(), &2.into(), &1.into()));
    assert_eq!(keys(&capturing), ["a"]);
    let problems = capturing.problems();
    for (key, words) in [("b: ", "changed while"), ("c: ", "vanished after it was listed"), ("d: ", "permission denied")] {
        assert!(problems.iter().any(|problem| problem.starts_with(key) && problem.contains(words)), "{key}: {problems:?}");
    }
}

#[tokio::test]
async fn archived_objects_are_counted_in_one_problem_with_an_example_and_what_brings_them_back() {
    let store = Watched::over(MemoryStore::new("b"));
    for key in ["cold/1", "cold/2", "cold/3", "warm"] {
        put(&*store, key, b"twelve bytes").await;
    }
    let archived: fn(String) -> StoreError =
        |place| StoreError::Archived { place, detail: "InvalidObjectState".into(), next: "bring it back" };
    for key in ["cold/1", "cold/2", "cold/3"] {
        store.fail("get", key, archived);
    }
    let capturing = Capturing::first();
    let facts = capturing.run(&source(store.clone())).await.unwrap().facts;
    assert_eq!((&facts["archived"], &facts["archived_bytes"]), (&3.into(), &36.into()));
    assert_eq!((&facts["unreadable"], &facts["objects"]), (&0.into(), &1.into()));
    assert_eq!(keys(&capturing), ["warm"]);
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
    later.fail("get", "cold/1", archived);
    let again = Capturing::after(&whole.sink);
    let facts = again.run(&source(later)).await.unwrap().facts;
    assert_eq!((&facts["archived"], &facts["objects"], again.problems().len()), (&0.into(), &2.into(), 0));
}

#[tokio::test]
async fn a_bucket_of_which_nothing_can_be_read_is_an_error_and_not_an_empty_point() {
    let store = Watched::over(MemoryStore::new("b"));
    put(&*store, "a", b"x").await;
    store.fail("get", "", |place| StoreError::Denied { place, action: "get", detail: "AccessDenied".into() });
    let error = Capturing::first().run(&source(store)).await.unwrap_err().to_string();
    assert!(error.contains("permission denied to get") && error.contains("grant"), "{error}");
}

#[tokio::test]
async fn a_failing_listing_ends_the_capture_however_far_it_came() {
    let store = Watched::over(MemoryStore::new("b"));
    put(&*store, "a", b"x").await;
    store.fail("list", "", |place| StoreError::Unavailable { place, detail: "connection reset".into() });
    let error = Capturing::first().run(&source(store)).await.unwrap_err().to_string();
    assert!(error.contains("connection reset"), "{error}");
}

#[tokio::test]
async fn an_empty_bucket_is_an_empty_snapshot() {
    let capturing = Capturing::first();
    let facts = capturing.run(&source(MemoryStore::new("b"))).await.unwrap().facts;
    assert_eq!((&facts["objects"], &facts["bytes"], capturing.problems().len()), (&0.into(), &0.into(), 0));
}

#[tokio::test]
async fn a_version_that_differs_under_an_equal_etag_is_read_again_and_one_not_listed_is_not_held_against_it() {
    let store = Watched::over(MemoryStore::new("b"));
    put(&*store, "a", b"x").await;
    let first = Capturing::first();
    first.run(&source(store.clone())).await.unwrap();
    let mut entry = first.sink.entries().remove(0);
    let mut attributes: BucketAttributes = entry.attributes().unwrap();
    attributes.version = Some("v1".to_owned());
    entry.set_attributes(&attributes).unwrap();
    let again = Capturing::after_entries(&first.sink, vec![entry.clone()]);
    let facts = again.run(&source(store.clone())).await.unwrap().facts;
    assert_eq!((again.sink.opened(), &facts["versioned"]), (0, &true.into()));
    assert_eq!(again.sink.entries(), std::slice::from_ref(&entry));

    for (version, read) in [("v1", 0), ("v2", 1)] {
        store.list_version(version);
        let again = Capturing::after_entries(&first.sink, vec![entry.clone()]);
        again.run(&source(store.clone())).await.unwrap();
        assert_eq!(again.sink.opened(), read, "{version}");
    }
}
