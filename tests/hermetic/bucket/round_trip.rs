//! What was captured comes back as it was.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use farshore::{
    sources::{
        Rebuild,
        bucket::{BucketOptions, BucketSource, BucketTarget},
    },
    stores::{
        FilesystemStore, GetOptions, Limit, MemoryStore, ObjectAttributes, PutOptions, SharedStore, Store, StoreError, read_all,
    },
};
use proptest::prelude::{ProptestConfig, any, prop, proptest};

use super::watched::Watched;
use crate::support::{
    busy_store::{BusyStore, Capacity},
    exchange::{Capturing, Rebuilding, assert_checks, names},
};

const PART: usize = 8 << 20;

/// Bytes that differ from part to part.
fn large(parts: usize, more: usize) -> Vec<u8> {
    (0..(parts * PART + more) / 4).flat_map(|number| (number as u32).to_le_bytes()).collect()
}

fn rich() -> ObjectAttributes {
    ObjectAttributes {
        content_type: Some("image/png".into()),
        cache_control: Some("max-age=60".into()),
        content_disposition: Some("attachment; filename=\"a.png\"".into()),
        content_encoding: Some("gzip".into()),
        content_language: Some("de".into()),
        storage_class: None,
        metadata: [("owner".to_owned(), "mm".to_owned()), ("note".to_owned(), "a b".to_owned())].into(),
        tags: [("tier".to_owned(), "gold/1".to_owned())].into(),
        ..ObjectAttributes::default()
    }
}

async fn put(store: &dyn Store, key: &str, bytes: impl Into<Bytes>, attributes: ObjectAttributes) {
    store.put(key, bytes.into(), PutOptions { attributes, ..PutOptions::default() }).await.unwrap();
}

/// Everything of a store: bytes and attributes by key.
async fn picture(store: &dyn Store) -> BTreeMap<String, (blake3::Hash, ObjectAttributes)> {
    let mut all = BTreeMap::new();
    let mut after = None;
    loop {
        let page = store.list("", after.as_deref(), 100).await.unwrap();
        for object in &page.objects {
            let options = GetOptions { attributes: true, ..GetOptions::default() };
            let attributes = store.get(&object.key, options.clone()).await.unwrap().attributes;
            let bytes = read_all(store, &object.key, options, u64::MAX).await.unwrap();
            all.insert(object.key.clone(), (blake3::hash(&bytes), attributes));
        }
        after = page.objects.last().map(|object| object.key.clone());
        if !page.more {
            return all;
        }
    }
}

async fn captured(store: SharedStore) -> (Capturing, serde_json::Value) {
    let capturing = Capturing::first();
    let facts = capturing.run(&BucketSource::new(store, BucketOptions::default())).await.unwrap().facts;
    assert_eq!(capturing.problems(), Vec::<String>::new());
    (capturing, facts)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_is_written_while_others_are_held_against_what_is_there_though_few_requests_are_allowed() {
    // More than one batch, with what is there already between all of it.
    let (source, there) = (MemoryStore::new("source"), MemoryStore::new("target"));
    for number in 0..6_000 {
        let (key, body) = (format!("{number:04}"), format!("object {number}"));
        put(source.as_ref(), &key, body.clone(), ObjectAttributes::default()).await;
        if number % 4 == 3 {
            put(there.as_ref(), &key, body, ObjectAttributes::default()).await;
        }
    }
    let (capturing, facts) = captured(source.clone()).await;
    // Every call takes a moment, in which others are asked for.
    let capacity = Capacity { at_once: 1000, per_second: usize::MAX, latency: Duration::from_micros(1) };
    let busy: SharedStore = Arc::new(BusyStore::over(there.clone(), capacity));
    let target = BucketTarget::new(Limit::over(busy, 1));
    let rebuilding = Rebuilding::over();
    let rebuild = rebuilding.run(&target, capturing.sink.origin(), &facts);
    let rebuilt = tokio::time::timeout(Duration::from_secs(120), rebuild).await.expect("it hangs").unwrap();
    assert_eq!((rebuilt.items, rebuilt.items_kept), (4_500, 1_500));
    assert!(picture(there.as_ref()).await == picture(source.as_ref()).await);
}

async fn awkward() -> Arc<MemoryStore> {
    let store = MemoryStore::new("source");
    let long = format!("{}/{}", "k".repeat(500), "ü".repeat(261));
    assert_eq!(long.len(), 1023);
    let longest = "x".repeat(1024);
    let keys = [
        "a//b",
        "a/",
        "a",
        "..",
        "../../up",
        "/rooted",
        "./x",
        "with space",
        "per%20cent",
        "new\nline",
        "tab\t",
        "emoji-🦀",
        "ünï/çødé",
        "\u{7f}\u{1}",
        "back\\slash",
        "quote\"'",
        "a-b",
        "a.b",
        &long,
        &longest,
    ];
    for key in keys {
        put(&*store, key, format!("bytes of {key}"), rich()).await;
    }
    put(&*store, "empty", "", ObjectAttributes::default()).await;
    put(&*store, "exactly a part", large(1, 0), ObjectAttributes::default()).await;
    put(&*store, "three parts", large(2, 4444), rich()).await;
    store
}

#[tokio::test]
async fn awkward_keys_large_objects_headers_metadata_and_tags_come_back_into_another_bucket() {
    let store = awkward().await;
    let (capturing, facts) = captured(store.clone()).await;
    let target = Watched::over(MemoryStore::new("target"));
    let rebuild = BucketTarget::new(target.clone());
    assert!(rebuild.inspect(&facts, false).await.unwrap().contains("empty"));
    let rebuilt = Rebuilding::anew().run(&rebuild, capturing.sink.origin(), &facts).await.unwrap();
    assert_checks(&rebuilt);
    assert_eq!((rebuilt.items, rebuilt.items_kept), (23, 0));
    assert_eq!(rebuilt.phases[0].name, "object transfer");
    assert_eq!((target.calls("begin_upload"), target.calls("upload_part"), target.calls("complete_upload")), (1, 3, 1));
    assert_eq!(picture(&*target).await, picture(&*store).await);
}

#[tokio::test]
async fn a_bucket_comes_back_into_a_directory_and_never_beside_it() {
    let store = awkward().await;
    let (capturing, facts) = captured(store.clone()).await;
    let place = tempfile::tempdir().unwrap();
    let target = FilesystemStore::new(place.path().join("objects"));
    let rebuild = BucketTarget::new(target.clone());
    assert!(rebuild.inspect(&facts, false).await.is_ok());
    let rebuilt = Rebuilding::anew().run(&rebuild, capturing.sink.origin(), &facts).await.unwrap();
    assert_checks(&rebuilt);
    assert_eq!(picture(&*target).await, picture(&*store).await);
    assert_eq!(names(place.path()), ["objects"]);
}

#[tokio::test]
async fn what_lies_there_and_matches_is_neither_fetched_nor_written() {
    let store = awkward().await;
    let (capturing, facts) = captured(store.clone()).await;
    let target = Watched::over(MemoryStore::new("target"));
    let rebuild = BucketTarget::new(target.clone());
    Rebuilding::anew().run(&rebuild, capturing.sink.origin(), &facts).await.unwrap();

    let refused = rebuild.inspect(&facts, false).await.unwrap_err().to_string();
    assert!(refused.contains("--into-existing"), "{refused}");
    assert!(Rebuilding::anew().run(&rebuild, capturing.sink.origin(), &facts).await.is_err());

    let before = target.calls("put") + target.calls("begin_upload");
    put(&*target, "a-b", "BYTES of a-b", rich()).await;
    put(&*target, "a.b", "bytes of a.b", ObjectAttributes::default()).await;
    target.delete("a//b").await.unwrap();
    put(&*target, "of someone else", "x", ObjectAttributes::default()).await;
    let rebuilt = Rebuilding::over().run(&rebuild, capturing.sink.origin(), &facts).await.unwrap();
    assert_checks(&rebuilt);
    assert_eq!((rebuilt.items, rebuilt.items_kept), (3, 20));
    assert_eq!(target.calls("put") + target.calls("begin_upload"), before + 3 + 3);
    assert!(rebuilt.checks.iter().any(|check| check.name.contains("other objects") && check.actual == "1"));
    target.delete("of someone else").await.unwrap();
    assert_eq!(picture(&*target).await, picture(&*store).await);
}

#[tokio::test]
async fn where_etags_can_be_compared_no_object_is_read_to_find_out_whether_it_matches() {
    let source = Watched::over(awkward().await);
    source.show_digests();
    let (capturing, facts) = captured(source.clone()).await;
    let target = Watched::over(MemoryStore::new("target"));
    target.show_digests();
    let rebuild = BucketTarget::new(target.clone());
    Rebuilding::anew().run(&rebuild, capturing.sink.origin(), &facts).await.unwrap();
    put(&*target, "a-b", "BYTES of a-b", rich()).await;
    put(&*target, "a.b", "bytes of a.b", ObjectAttributes::default()).await;
    let rebuilt = Rebuilding::over().run(&rebuild, capturing.sink.origin(), &facts).await.unwrap();
    assert_checks(&rebuilt);
    assert_eq!((rebuilt.items, rebuilt.items_kept), (2, 21));
    // The empty object has no first byte to ask for; another one was known to differ by its ETag.
    assert_eq!((target.calls("get whole"), target.calls("get range")), (1, 21));
    assert_eq!(picture(&*target).await, picture(&*source).await);
}

#[tokio::test]
async fn an_upload_that_fails_is_aborted_told_and_missed_in_the_checks() {
    let store = awkward().await;
    let (capturing, facts) = captured(store.clone()).await;
    for method in ["upload_part", "complete_upload"] {
        let target = Watched::over(MemoryStore::new("target"));
        target.fail(method, "three parts", |place| StoreError::Other { place, action: "put", detail: "no such class".into() });
        let rebuilding = Rebuilding::anew();
        let rebuilt = rebuilding.run(&BucketTarget::new(target.clone()), capturing.sink.origin(), &facts).await.unwrap();
        assert_eq!(target.calls("abort_upload"), 1, "{method}");
        assert!(rebuilding.problems().iter().any(|problem| problem.contains("three parts") && problem.contains("no such class")));
        assert!(rebuilt.checks.iter().any(farshore::progress::Check::failed));
        assert_eq!(rebuilt.items, 22);
    }
}

#[tokio::test]
async fn a_target_without_room_ends_the_restore_with_one_error_and_no_upload_left_open() {
    let store = awkward().await;
    let (capturing, facts) = captured(store.clone()).await;
    let target = Watched::over(MemoryStore::new("target"));
    target.fail("complete_upload", "", |place| StoreError::Full { place, detail: "disk".into() });
    let error =
        Rebuilding::anew().run(&BucketTarget::new(target.clone()), capturing.sink.origin(), &facts).await.unwrap_err().to_string();
    assert!(error.contains("no space left"), "{error}");
    assert_eq!(target.calls("abort_upload"), 1);
}

#[tokio::test]
async fn a_delivery_that_breaks_off_leaves_no_upload_open_and_the_next_restore_completes_it() {
    let store = MemoryStore::new("source");
    put(&*store, "large", large(3, 0), rich()).await;
    put(&*store, "small", "small", rich()).await;
    let (capturing, facts) = captured(store.clone()).await;
    let target = Watched::over(MemoryStore::new("target"));
    let rebuild = BucketTarget::new(target.clone());
    let broken = Rebuilding::anew().run(&rebuild, capturing.sink.origin().breaking_after(3), &facts).await;
    assert!(broken.unwrap_err().to_string().contains("the site went away"));
    assert_eq!(target.calls("begin_upload"), target.calls("abort_upload") + target.calls("complete_upload"));
    assert!(target.stat("large").await.is_err());
    assert_checks(&Rebuilding::over().run(&rebuild, capturing.sink.origin(), &facts).await.unwrap());
    assert_eq!(picture(&*target).await, picture(&*store).await);
}

#[tokio::test]
async fn a_selection_is_restored_without_holding_the_whole_count_against_it() {
    let store = awkward().await;
    let (capturing, facts) = captured(store).await;
    let target = MemoryStore::new("target");
    let rebuilding = Rebuilding { partial: true, ..Rebuilding::anew() };
    let origin = capturing.sink.origin().only(|entry| entry.path.starts_with(b"a"));
    let rebuilt = rebuilding.run(&BucketTarget::new(target.clone()), origin, &facts).await.unwrap();
    assert_checks(&rebuilt);
    assert_eq!(rebuilt.items, 5);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_keys_come_back_in_ascending_order(
        objects in prop::collection::btree_map("[a-c/. %\u{e9}\u{1F980}\n-]{1,12}", prop::collection::vec(any::<u8>(), 0..2000), 0..60)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let store = MemoryStore::new("source");
            for (key, bytes) in &objects {
                put(&*store, key, bytes.clone(), ObjectAttributes::default()).await;
            }
            // That entries ascend is checked by the sink.
            let (capturing, facts) = captured(store.clone()).await;
            let target = MemoryStore::new("target");
            let rebuilt = Rebuilding::anew().run(&BucketTarget::new(target.clone()), capturing.sink.origin(), &facts).await.unwrap();
            assert_checks(&rebuilt);
            assert_eq!(rebuilt.items as usize, objects.len());
            assert_eq!(picture(&*target).await, picture(&*store).await);
        });
    }
}

#[tokio::test]
async fn what_the_source_had_encrypted_with_a_key_of_its_own_is_said_where_the_target_has_none() {
    let store = MemoryStore::new("source");
    let by_kms = ObjectAttributes {
        encryption: Some("aws:kms".to_owned()),
        encryption_key: Some("arn:aws:kms:eu-central-1:1:key/k".to_owned()),
        ..rich()
    };
    for key in ["a", "b"] {
        put(&*store, key, "bytes", by_kms.clone()).await;
    }
    put(&*store, "plain", "bytes", rich()).await;
    let (capturing, facts) = captured(store.clone()).await;
    let target = MemoryStore::new("target");
    let rebuilding = Rebuilding::anew();
    assert_checks(&rebuilding.run(&BucketTarget::new(target.clone()), capturing.sink.origin(), &facts).await.unwrap());
    let problems = rebuilding.problems();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].contains("2 objects") && problems[0].contains("(aws:kms)"), "{problems:?}");
    // It is not passed on as if it were an attribute, and makes no object another one.
    assert!(picture(&*target).await.values().all(|(_, attributes)| *attributes == rich()));
    let again = Rebuilding::over();
    let rebuilt = again.run(&BucketTarget::new(target), capturing.sink.origin(), &facts).await.unwrap();
    assert_eq!((rebuilt.items, rebuilt.items_kept, again.problems().len()), (0, 3, 0));
}
