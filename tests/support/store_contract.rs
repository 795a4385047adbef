//! The contract of `trait Store`: every store and every wrapper passes every one of these.
//!
//! [`store_contract!`] makes one test of each promise, so that a failure names the promise.

use std::{any::Any, collections::BTreeMap};

use bytes::Bytes;
use farshore::stores::{
    GetOptions, LockMode, ObjectAttributes, PutOptions, SharedStore, Store, StoreError, UploadedPart, read_all,
};
use futures_util::future::join_all;
use sha2::{Digest, Sha256};

/// A fresh, empty store, and what must live as long as it.
pub struct Fresh {
    pub store: SharedStore,
    pub held: Box<dyn Any + Send + Sync>,
    /// Which keys the server behind it can hold at all; a test of a server says there why not all.
    pub can_hold: fn(&str) -> bool,
    /// How firmly it locks, where it does.
    pub modes: &'static [LockMode],
    /// Whether deleting hides what is locked, or is refused.
    pub hides_locked: bool,
}

impl Fresh {
    pub fn new(store: SharedStore) -> Self {
        Self::holding(store, ())
    }

    pub fn holding(store: SharedStore, held: impl Any + Send + Sync) -> Self {
        let modes = &[LockMode::Governance, LockMode::Compliance];
        Self { store, held: Box::new(held), can_hold: |_| true, modes, hides_locked: true }
    }

    fn possible<T: AsRef<str>>(&self, keys: impl IntoIterator<Item = T>) -> Vec<T> {
        keys.into_iter().filter(|key| (self.can_hold)(key.as_ref())).collect()
    }
}

/// Makes a test of each promise for the store that `$fresh` (an async function) makes.
#[macro_export]
macro_rules! store_contract {
    ($fresh:path) => {
        $crate::store_contract!(@each $fresh:
            exactly_one_of_eight_racers_creates_an_object
            what_was_put_is_what_is_read
            ranges_inside_over_the_end_and_beyond_it
            pages_are_in_byte_order_and_start_after_the_key_given
            a_prefix_selects_exactly_the_keys_that_begin_with_it
            awkward_keys_come_back_whole
            impossible_keys_are_refused
            a_wrong_checksum_is_refused_and_nothing_becomes_visible
            deleting_is_idempotent
            attributes_and_tags_come_back
            overwriting_replaces_attributes_and_changes_the_etag
            a_get_of_another_etag_is_refused
            parts_uploaded_out_of_order_are_joined_in_order
            completing_if_absent_keeps_what_is_there
            an_abandoned_upload_leaves_nothing
            what_is_missing_is_not_found
            a_body_of_many_pieces_arrives_whole
        );
    };
    (@each $fresh:path: $($promise:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                let fresh = $fresh().await;
                $crate::support::store_contract::$promise(&fresh).await;
            }
        )*
    };
}

fn digest(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// Bytes that look like nothing and are the same each time.
pub fn noise(length: usize, seed: u64) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes.into()
}

async fn put(store: &SharedStore, key: &str, body: &'static str) {
    let stat = store.put(key, Bytes::from_static(body.as_bytes()), PutOptions::default()).await.unwrap();
    assert_eq!((stat.key.as_str(), stat.size), (key, body.len() as u64));
}

async fn body(store: &SharedStore, key: &str) -> Bytes {
    read_all(&**store, key, GetOptions::default(), 1 << 30).await.unwrap()
}

async fn all_keys(store: &dyn Store, prefix: &str, limit: usize) -> Vec<String> {
    let mut keys: Vec<String> = Vec::new();
    loop {
        let page = store.list(prefix, keys.last().map(String::as_str), limit).await.unwrap();
        assert!(page.objects.len() <= limit);
        assert!(!page.more || !page.objects.is_empty(), "a page that promises more must lead on");
        keys.extend(page.objects.into_iter().map(|object| object.key));
        if !page.more {
            return keys;
        }
    }
}

fn awkward_keys() -> Vec<String> {
    let mut keys: Vec<String> = [
        "a",
        "a/b",
        "a//b",
        "a/",
        "a-b",
        "a.b",
        "/leading",
        "//",
        "..",
        "../up",
        "a/../b",
        ".",
        "./x",
        "with space",
        " ",
        "+%&=?#",
        "%41",
        "%~=a",
        "%2F",
        "ümläut/日本語/🦀",
        "\\back\\slash",
        "quote\"'<>&",
        "tab\there",
        "line\nbreak",
        "bell\u{7}",
        "del\u{7f}",
        ".farshore/x",
        "~",
        "*",
        "a:b|c",
        "CON",
        "trailing.",
        "trailing ",
    ]
    .map(str::to_owned)
    .into();
    keys.push("x".repeat(1024));
    keys.push("ü".repeat(400));
    keys.push(format!("{}/{}", "y".repeat(300), "z".repeat(256)));
    keys.push("x".repeat(255));
    keys.push("x".repeat(256));
    keys
}

pub async fn exactly_one_of_eight_racers_creates_an_object(fresh: &Fresh) {
    let store = fresh.store.clone();
    for round in 0..4 {
        let key = format!("race/{round}");
        let options = || PutOptions { if_absent: true, ..PutOptions::default() };
        let racers = (0..8_u8).map(|racer| {
            let (store, key) = (store.clone(), key.clone());
            tokio::spawn(async move { store.put(&key, vec![racer; 1000].into(), options()).await })
        });
        let mut winners = Vec::new();
        for (racer, result) in join_all(racers).await.into_iter().enumerate() {
            match result.unwrap() {
                Ok(_) => winners.push(u8::try_from(racer).unwrap()),
                Err(StoreError::AlreadyExists { .. }) => {}
                Err(error) => panic!("a loser must learn that the object exists, not: {error}"),
            }
        }
        assert_eq!(winners.len(), 1, "winners of round {round}: {winners:?}");
        assert_eq!(body(&store, &key).await, vec![winners[0]; 1000]);
    }
}

pub async fn what_was_put_is_what_is_read(fresh: &Fresh) {
    let store = fresh.store.clone();
    for (key, bytes) in [("empty", Bytes::new()), ("one", noise(1, 1)), ("dir/some", noise(100_000, 2))] {
        let options = PutOptions { sha256: Some(digest(&bytes)), ..PutOptions::default() };
        let stored = store.put(key, bytes.clone(), options).await.unwrap();
        assert_eq!(stored.size, bytes.len() as u64);
        let stat = store.stat(key).await.unwrap();
        assert_eq!((stat.key.as_str(), stat.size, &stat.etag), (key, bytes.len() as u64, &stored.etag));
        assert!(stat.sha256.is_none_or(|sha256| sha256 == digest(&bytes)), "a kept checksum is that of the bytes");
        let age = chrono::Utc::now() - stat.modified;
        assert!(age.num_minutes().abs() < 5, "the time is the site's now: {}", stat.modified);
        let download = store.get(key, GetOptions::default()).await.unwrap();
        assert_eq!((download.stat.size, download.stat.key.as_str(), &download.stat.etag), (stat.size, key, &stat.etag));
        assert_eq!(body(&store, key).await, bytes);
    }
}

pub async fn ranges_inside_over_the_end_and_beyond_it(fresh: &Fresh) {
    let store = fresh.store.clone();
    let bytes = noise(10_000, 3);
    store.put("k", bytes.clone(), PutOptions::default()).await.unwrap();
    store.put("empty", Bytes::new(), PutOptions::default()).await.unwrap();
    let ranged = |range| GetOptions { range: Some(range), ..GetOptions::default() };
    for range in [0..1, 0..10_000, 5_000..7_001, 9_999..10_000, 9_000..20_000, 0..u64::MAX] {
        let download = store.get("k", ranged(range.clone())).await.unwrap();
        assert_eq!(download.stat.size, 10_000, "the size is the whole object's");
        let end = usize::try_from(range.end.min(10_000)).unwrap();
        let read = read_all(&*store, "k", ranged(range.clone()), 1 << 20).await.unwrap();
        assert_eq!(read, bytes[usize::try_from(range.start).unwrap()..end], "{range:?}");
    }
    for (key, range) in [("k", 10_000..10_001), ("k", 20_000..30_000), ("empty", 0..1), ("k", 5..5)] {
        let error = store.get(key, ranged(range.clone())).await.map(|_| ()).unwrap_err();
        assert!(matches!(error, StoreError::InvalidRange { .. }), "{key} {range:?}: {error}");
    }
}

pub async fn pages_are_in_byte_order_and_start_after_the_key_given(fresh: &Fresh) {
    let store = fresh.store.clone();
    let mut keys = fresh.possible(awkward_keys());
    keys.extend((0..20).map(|number| format!("many/{number:03}")));
    for key in &keys {
        store.put(key, Bytes::from_static(b"x"), PutOptions::default()).await.unwrap();
    }
    keys.sort();
    for limit in [1, 7, 1000] {
        assert_eq!(all_keys(&*store, "", limit).await, keys, "pages of {limit}");
    }
    // A start key need not exist.
    for start in ["a", "a!", "a/", "a/a", "a0", "many/", "many/010", "many/0105", "many0", "zzz", "\u{10ffff}"] {
        let page = store.list("", Some(start), 3).await.unwrap();
        let listed: Vec<_> = page.objects.into_iter().map(|object| object.key).collect();
        let expected: Vec<_> = keys.iter().filter(|key| key.as_str() > start).take(3).cloned().collect();
        assert_eq!(listed, expected, "after {start:?}");
    }
}

pub async fn a_prefix_selects_exactly_the_keys_that_begin_with_it(fresh: &Fresh) {
    let store = fresh.store.clone();
    let keys = fresh.possible(["a", "a/", "a/b", "a/b/c", "a/bc", "a/c", "ab", "b/b"]);
    for &key in &keys {
        put(&store, key, "x").await;
    }
    for prefix in ["", "a", "a/", "a/b", "a/b/", "b", "b/", "c", "a/b/c", "a/b/c/"] {
        let expected: Vec<_> = keys.iter().copied().filter(|key| key.starts_with(prefix)).collect();
        for limit in [2, 100] {
            assert_eq!(all_keys(&*store, prefix, limit).await, expected, "{prefix:?}");
        }
    }
    // A start key before, within and after the prefix.
    for start in fresh.possible(["A", "a/b", "a/bb", "b"]) {
        let page = store.list("a/", Some(start), 100).await.unwrap();
        let listed: Vec<_> = page.objects.into_iter().map(|object| object.key).collect();
        let expected: Vec<_> = keys.iter().copied().filter(|key| key.starts_with("a/") && *key > start).collect();
        assert_eq!(listed, expected, "after {start:?}");
    }
}

pub async fn awkward_keys_come_back_whole(fresh: &Fresh) {
    let store = fresh.store.clone();
    let keys = fresh.possible(awkward_keys());
    for key in &keys {
        store.put(key, Bytes::from(key.clone()), PutOptions::default()).await.unwrap();
    }
    for key in &keys {
        assert_eq!(body(&store, key).await, key.as_bytes(), "{key:?}");
        assert_eq!(&store.stat(key).await.unwrap().key, key);
    }
    // Each is deleted without touching another.
    for (index, key) in keys.iter().enumerate() {
        store.delete(key).await.unwrap();
        assert!(matches!(store.stat(key).await, Err(StoreError::NotFound { .. })), "{key:?} is still there");
        for other in &keys[index + 1..] {
            assert!(store.stat(other).await.is_ok(), "deleting {key:?} deleted {other:?}");
        }
    }
    assert_eq!(all_keys(&*store, "", 1000).await, Vec::<String>::new());
}

pub async fn impossible_keys_are_refused(fresh: &Fresh) {
    let store = fresh.store.clone();
    for key in [String::new(), "x".repeat(1025)] {
        assert!(store.put(&key, Bytes::new(), PutOptions::default()).await.is_err());
        assert!(store.get(&key, GetOptions::default()).await.is_err());
        assert!(store.stat(&key).await.is_err());
        assert!(store.delete(&key).await.is_err());
    }
}

pub async fn a_wrong_checksum_is_refused_and_nothing_becomes_visible(fresh: &Fresh) {
    let store = fresh.store.clone();
    let options = |if_absent| PutOptions { if_absent, sha256: Some(digest(b"other")), ..PutOptions::default() };
    for if_absent in [false, true] {
        let error = store.put("new", Bytes::from_static(b"body"), options(if_absent)).await.unwrap_err();
        assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
        assert!(matches!(store.stat("new").await, Err(StoreError::NotFound { .. })));
    }
    put(&store, "old", "as it was").await;
    store.put("old", Bytes::from_static(b"body"), options(false)).await.unwrap_err();
    assert_eq!(body(&store, "old").await, "as it was");
}

pub async fn deleting_is_idempotent(fresh: &Fresh) {
    let store = fresh.store.clone();
    put(&store, "dir/k", "x").await;
    store.delete("dir/k").await.unwrap();
    store.delete("dir/k").await.unwrap();
    store.delete("never/was").await.unwrap();
    store.delete("dir").await.unwrap();
    assert_eq!(all_keys(&*store, "", 10).await, Vec::<String>::new());
}

fn rich_attributes() -> ObjectAttributes {
    ObjectAttributes {
        content_type: Some("text/plain; charset=utf-8".to_owned()),
        cache_control: Some("max-age=60".to_owned()),
        content_disposition: Some("attachment; filename=\"a b.txt\"".to_owned()),
        content_encoding: Some("gzip".to_owned()),
        content_language: Some("de".to_owned()),
        storage_class: None,
        metadata: BTreeMap::from([("owner".to_owned(), "alice".to_owned()), ("greeting".to_owned(), "Grüße, 日本".to_owned())]),
        tags: BTreeMap::from([("class".to_owned(), "attachment +/=:@ more".to_owned()), ("empty".to_owned(), String::new())]),
        ..ObjectAttributes::default()
    }
}

pub async fn attributes_and_tags_come_back(fresh: &Fresh) {
    let store = fresh.store.clone();
    let options = PutOptions { if_absent: true, attributes: rich_attributes(), ..PutOptions::default() };
    store.put("dir/rich", Bytes::from_static(b"not really gzip"), options).await.unwrap();
    let with_tags = GetOptions { attributes: true, ..GetOptions::default() };
    let download = store.get("dir/rich", with_tags.clone()).await.unwrap();
    assert_eq!(ObjectAttributes { storage_class: None, ..download.attributes }, rich_attributes());
    assert_eq!(body(&store, "dir/rich").await, "not really gzip", "an encoded body is never decoded");
    let without = store.get("dir/rich", GetOptions::default()).await.unwrap().attributes;
    assert_eq!(without.tags, BTreeMap::new());
    assert_eq!(without.metadata, rich_attributes().metadata);

    let upload = store.begin_upload("joined", rich_attributes()).await.unwrap();
    let part = store.upload_part("joined", &upload, 1, Bytes::from_static(b"part")).await.unwrap();
    store.complete_upload("joined", &upload, &[part], false).await.unwrap();
    let download = store.get("joined", with_tags).await.unwrap();
    assert_eq!(ObjectAttributes { storage_class: None, ..download.attributes }, rich_attributes());
}

pub async fn overwriting_replaces_attributes_and_changes_the_etag(fresh: &Fresh) {
    let store = fresh.store.clone();
    let options = PutOptions { attributes: rich_attributes(), ..PutOptions::default() };
    let first = store.put("k", Bytes::from_static(b"one"), options).await.unwrap();
    let second = store.put("k", Bytes::from_static(b"two"), PutOptions::default()).await.unwrap();
    assert_ne!(first.etag, second.etag);
    assert_eq!(store.stat("k").await.unwrap().etag, second.etag);
    let download = store.get("k", GetOptions { attributes: true, ..GetOptions::default() }).await.unwrap();
    assert_eq!(download.attributes.metadata, BTreeMap::new());
    assert_eq!(download.attributes.tags, BTreeMap::new());
    assert_eq!(body(&store, "k").await, "two");
}

pub async fn a_get_of_another_etag_is_refused(fresh: &Fresh) {
    let store = fresh.store.clone();
    let first = store.put("k", Bytes::from_static(b"one"), PutOptions::default()).await.unwrap();
    let matching = |etag: &str| GetOptions { if_match: Some(etag.to_owned()), ..GetOptions::default() };
    assert_eq!(read_all(&*store, "k", matching(&first.etag), 10).await.unwrap(), "one");
    store.put("k", Bytes::from_static(b"two"), PutOptions::default()).await.unwrap();
    let error = store.get("k", matching(&first.etag)).await.map(|_| ()).unwrap_err();
    assert!(matches!(error, StoreError::Changed { .. }), "{error}");
}

const PART_BYTES: usize = 5 << 20;

pub async fn parts_uploaded_out_of_order_are_joined_in_order(fresh: &Fresh) {
    let store = fresh.store.clone();
    let bodies = [noise(PART_BYTES, 4), noise(PART_BYTES, 5), noise(1234, 6)];
    let upload = store.begin_upload("dir/large", ObjectAttributes::default()).await.unwrap();
    let mut parts: Vec<UploadedPart> = Vec::new();
    for number in [3, 1, 2] {
        let part = bodies[number - 1].clone();
        parts.push(store.upload_part("dir/large", &upload, u32::try_from(number).unwrap(), part).await.unwrap());
        assert!(matches!(store.stat("dir/large").await, Err(StoreError::NotFound { .. })), "parts are not visible");
        assert_eq!(all_keys(&*store, "", 10).await, Vec::<String>::new());
    }
    parts.sort_by_key(|part| part.number);
    for (part, body) in parts.iter().zip(&bodies) {
        assert_eq!(part.sha256, digest(body));
    }
    let stat = store.complete_upload("dir/large", &upload, &parts, true).await.unwrap();
    assert_eq!((stat.key.as_str(), stat.size), ("dir/large", 2 * PART_BYTES as u64 + 1234));
    assert_eq!(store.stat("dir/large").await.unwrap().etag, stat.etag);
    assert!(body(&store, "dir/large").await == bodies.concat());
    assert_eq!(all_keys(&*store, "", 10).await, ["dir/large"]);
}

pub async fn completing_if_absent_keeps_what_is_there(fresh: &Fresh) {
    let store = fresh.store.clone();
    let upload = store.begin_upload("k", ObjectAttributes::default()).await.unwrap();
    let part = store.upload_part("k", &upload, 1, Bytes::from_static(b"late")).await.unwrap();
    put(&store, "k", "first").await;
    let error = store.complete_upload("k", &upload, &[part], true).await.unwrap_err();
    assert!(matches!(error, StoreError::AlreadyExists { .. }), "{error}");
    assert_eq!(body(&store, "k").await, "first");
    store.abort_upload("k", &upload).await.unwrap();
}

pub async fn an_abandoned_upload_leaves_nothing(fresh: &Fresh) {
    let store = fresh.store.clone();
    let upload = store.begin_upload("k", ObjectAttributes::default()).await.unwrap();
    let part = store.upload_part("k", &upload, 1, Bytes::from_static(b"never")).await.unwrap();
    store.abort_upload("k", &upload).await.unwrap();
    store.abort_upload("k", &upload).await.unwrap();
    assert!(matches!(store.stat("k").await, Err(StoreError::NotFound { .. })));
    assert_eq!(all_keys(&*store, "", 10).await, Vec::<String>::new());
    let error = store.complete_upload("k", &upload, &[part], false).await.unwrap_err();
    assert!(matches!(error, StoreError::NotFound { .. }), "{error}");
}

pub async fn what_is_missing_is_not_found(fresh: &Fresh) {
    let store = fresh.store.clone();
    put(&store, "there/it/is", "x").await;
    for key in ["missing", "there", "there/it", "there/it/is/not", "missing/deep/down"] {
        let got = store.get(key, GetOptions::default()).await.map(|_| ()).unwrap_err();
        assert!(matches!(got, StoreError::NotFound { .. }), "{key}: {got}");
        let stat = store.stat(key).await.unwrap_err();
        assert!(matches!(&stat, StoreError::NotFound { place } if place.ends_with(key)), "{key}: {stat}");
    }
}

pub async fn a_body_of_many_pieces_arrives_whole(fresh: &Fresh) {
    let store = fresh.store.clone();
    let bytes = noise((5 << 20) + 77, 7);
    let options = PutOptions { sha256: Some(digest(&bytes)), if_absent: true, ..PutOptions::default() };
    store.put("big", bytes.clone(), options).await.unwrap();
    assert!(body(&store, "big").await == bytes);
    let range = GetOptions { range: Some(1_000_003..4_000_037), ..GetOptions::default() };
    assert!(read_all(&*store, "big", range, 1 << 30).await.unwrap() == bytes[1_000_003..4_000_037]);
}
