//! A bucket that keeps versions, read as of T.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use chrono::DateTime;
use farshore::{
    clock::{Clock, FixedClock, Moment, SharedClock},
    sources::{
        ConsistencyTime,
        bucket::{BucketAttributes, BucketOptions, BucketSource},
    },
    stores::{GetOptions, MemoryStore, PutOptions, SharedStore, Store, StoreError, read_all},
};

use super::watched::Watched;
use crate::support::exchange::Capturing;

/// A bucket that keeps versions, its clock, and what is done to it.
struct Bucket {
    clock: Arc<FixedClock>,
    store: Arc<MemoryStore>,
    watched: Arc<Watched>,
}

impl Bucket {
    fn new() -> Self {
        let clock = FixedClock::shared(DateTime::from_timestamp(1_795_399_203, 0).unwrap());
        let store = MemoryStore::with_clock("b", clock.clone());
        let watched = Watched::over(store.clone());
        Self { clock, store, watched }
    }

    async fn put(&self, key: &str, bytes: &[u8]) {
        self.store.put(key, Bytes::copy_from_slice(bytes), PutOptions::default()).await.unwrap();
    }

    async fn delete(&self, key: &str) {
        self.store.delete(key).await.unwrap();
    }

    /// Time passes: more than clocks may differ.
    fn wait(&self) {
        self.clock.advance(Duration::from_secs(10));
    }

    /// The instant of a database that was captured right now.
    fn instant(&self) -> ConsistencyTime {
        let shared: SharedClock = self.clock.clone();
        let now = Moment::now(&shared);
        ConsistencyTime { at: self.clock.now(), from: now, until: now }
    }

    async fn capture(&self, capturing: Capturing, at: ConsistencyTime) -> (Capturing, serde_json::Value) {
        let mut capturing = capturing;
        capturing.clock = self.clock.clone();
        capturing.consistent_at = Some(at);
        let source = BucketSource::new(self.watched.clone() as SharedStore, BucketOptions::default());
        let facts = capturing.run(&source).await.unwrap().facts;
        (capturing, facts)
    }
}

fn contents(capturing: &Capturing) -> Vec<(String, Vec<u8>)> {
    capturing.sink.entries().iter().map(|entry| (entry.display_path(), capturing.sink.bytes(entry))).collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, Vec<u8>)> {
    expected.iter().map(|(key, bytes)| ((*key).to_owned(), bytes.as_bytes().to_vec())).collect()
}

#[tokio::test]
async fn what_happened_after_the_instant_is_not_in_the_snapshot() {
    let bucket = Bucket::new();
    bucket.put("before versions", b"null").await;
    bucket.put("null overwritten", b"old").await;
    bucket.store.keep_versions();
    for key in ["kept", "overwritten", "deleted", "deleted before", "back again"] {
        bucket.put(key, b"old").await;
    }
    bucket.wait();
    bucket.delete("deleted before").await;
    bucket.delete("back again").await;
    bucket.wait();
    bucket.put("back again", b"again").await;
    bucket.wait();
    let at = bucket.instant();
    bucket.wait();
    for key in ["overwritten", "new", "deleted before", "null overwritten"] {
        bucket.put(key, b"later").await;
    }
    bucket.delete("deleted").await;
    bucket.wait();
    let (first, facts) = bucket.capture(Capturing::first(), at).await;
    let expected = [
        ("back again", "again"),
        ("before versions", "null"),
        ("deleted", "old"),
        ("kept", "old"),
        ("null overwritten", "old"),
        ("overwritten", "old"),
    ];
    assert_eq!(contents(&first), pairs(&expected));
    assert_eq!((first.problems(), &facts["versioning"], &facts["covered"]), (vec![], &"enabled".into(), &3.into()));
    assert_eq!(facts["modified_after_consistency"], 5);
    assert!(facts["reading"].as_str().unwrap().contains("5 objects were written or deleted since"), "{facts}");

    // What did not change is not read, with versions as without.
    let reads = bucket.watched.calls("get");
    let (again, _) = bucket.capture(Capturing::after(&first.sink), at).await;
    assert_eq!((bucket.watched.calls("get"), again.sink.opened()), (reads, 0));
    let (now, _) = bucket.capture(Capturing::after(&again.sink), bucket.instant()).await;
    assert_eq!(bucket.watched.calls("get"), reads + 4);
    let expected = [
        ("back again", "again"),
        ("before versions", "null"),
        ("deleted before", "later"),
        ("kept", "old"),
        ("new", "later"),
        ("null overwritten", "later"),
        ("overwritten", "later"),
    ];
    assert_eq!(contents(&now), pairs(&expected));
}

#[tokio::test]
async fn pages_may_cut_the_versions_of_a_key_apart() {
    let bucket = Bucket::new();
    bucket.store.keep_versions();
    // More than two pages of one key alone, and the instant in their middle.
    bucket.put("a", b"first").await;
    for number in 0..1500 {
        bucket.put("hot", format!("early {number}").as_bytes()).await;
    }
    bucket.put("z", b"last").await;
    bucket.wait();
    let at = bucket.instant();
    bucket.wait();
    for number in 0..1500 {
        bucket.put("hot", format!("late {number}").as_bytes()).await;
    }
    bucket.delete("z").await;
    let (capturing, _) = bucket.capture(Capturing::first(), at).await;
    assert_eq!(contents(&capturing), pairs(&[("a", "first"), ("hot", "early 1499"), ("z", "last")]));
    assert!(bucket.watched.calls("list_versions") > 3);
}

#[tokio::test]
async fn without_the_right_to_list_versions_the_present_is_read_and_the_right_is_named() {
    let bucket = Bucket::new();
    bucket.store.keep_versions();
    bucket.put("a", b"old").await;
    let at = bucket.instant();
    bucket.wait();
    bucket.put("a", b"new").await;
    bucket.watched.fail("list_versions", "", |place| StoreError::Denied {
        place,
        action: "list versions",
        detail: "AccessDenied".into(),
    });
    let (capturing, facts) = bucket.capture(Capturing::first(), at).await;
    assert_eq!(contents(&capturing), pairs(&[("a", "new")]));
    let problems = capturing.problems();
    assert!(problems.len() == 1 && problems[0].contains("allow this identity s3:ListBucketVersions"), "{problems:?}");
    assert_eq!((&facts["versioning"], &facts["modified_after_consistency"]), (&"denied".into(), &1.into()));
}

#[tokio::test]
async fn without_the_right_to_read_versions_the_present_is_read_and_counted() {
    let bucket = Bucket::new();
    bucket.store.keep_versions();
    for key in ["a", "b", "c"] {
        bucket.put(key, b"old").await;
    }
    let at = bucket.instant();
    bucket.wait();
    bucket.put("b", b"new").await;
    bucket.watched.deny_versions();
    let (capturing, facts) = bucket.capture(Capturing::first(), at).await;
    assert_eq!(contents(&capturing), pairs(&[("a", "old"), ("b", "new"), ("c", "old")]));
    let problems = capturing.problems();
    assert!(problems.len() == 1 && problems[0].contains("s3:GetObjectVersion"), "{problems:?}");
    assert_eq!(facts["read_as_present"], 3);
}

#[tokio::test]
async fn a_version_that_is_removed_for_good_before_it_is_read_gives_way_to_what_is_there() {
    let bucket = Bucket::new();
    bucket.store.keep_versions();
    bucket.put("a", b"old").await;
    let at = bucket.instant();
    bucket.wait();
    bucket.watched.before_get("a", async |inner| {
        inner.delete_versions("a").await.unwrap();
        inner.put("a", Bytes::from_static(b"new"), PutOptions::default()).await.unwrap();
    });
    let (capturing, facts) = bucket.capture(Capturing::first(), at).await;
    assert_eq!((contents(&capturing), &facts["reread"]), (pairs(&[("a", "new")]), &1.into()));
    let attributes: BucketAttributes = capturing.sink.entries()[0].attributes().unwrap();
    assert_eq!(attributes.version, bucket.store.stat("a").await.unwrap().version);
    assert_eq!(read_all(&*bucket.store, "a", GetOptions::default(), 10).await.unwrap(), "new");
}

#[tokio::test]
async fn a_bucket_without_versions_says_how_much_was_written_after_the_instant() {
    let bucket = Bucket::new();
    bucket.put("a", b"old").await;
    bucket.wait();
    let at = bucket.instant();
    bucket.wait();
    bucket.put("b", b"new").await;
    let (capturing, facts) = bucket.capture(Capturing::first(), at).await;
    assert_eq!(contents(&capturing), pairs(&[("a", "old"), ("b", "new")]));
    assert_eq!((&facts["versioning"], &facts["modified_after_consistency"]), (&"off".into(), &1.into()));
    let said = facts["reading"].as_str().unwrap();
    assert!(said.contains("keeps no versions; 1 object was written after that"), "{said}");
}
