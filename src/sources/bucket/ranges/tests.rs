use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::DateTime;

use super::{Manner, Span};
use crate::{
    clock::FixedClock,
    sources::bucket::{as_of::Window, listing::Listing},
    stores::{
        Download, GetOptions, MemoryStore, ObjectAttributes, ObjectStat, Page, PutOptions, SharedStore, Store, StoreError,
        UploadedPart, VersionCursor, VersionPage,
    },
};

/// How long each answer takes.
const ROUND_TRIP: Duration = Duration::from_millis(100);

/// A memory store far away, which counts what is asked of it.
#[derive(Debug)]
struct Far {
    inner: Arc<MemoryStore>,
    seeks: bool,
    asked: AtomicU64,
}

impl Far {
    async fn asked(&self) {
        self.asked.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(ROUND_TRIP).await;
    }
}

#[async_trait]
impl Store for Far {
    fn describe(&self) -> String {
        self.inner.describe()
    }
    fn seeks(&self) -> bool {
        self.seeks
    }
    async fn list(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> Result<Page, StoreError> {
        self.asked().await;
        self.inner.list(prefix, start_after, limit).await
    }
    async fn list_versions(&self, prefix: &str, from: Option<&VersionCursor>, limit: usize) -> Result<VersionPage, StoreError> {
        self.asked().await;
        self.inner.list_versions(prefix, from, limit).await
    }
    async fn put(&self, key: &str, body: Bytes, options: PutOptions) -> Result<ObjectStat, StoreError> {
        self.inner.put(key, body, options).await
    }
    async fn get(&self, key: &str, options: GetOptions) -> Result<Download, StoreError> {
        self.inner.get(key, options).await
    }
    async fn stat(&self, key: &str) -> Result<ObjectStat, StoreError> {
        self.inner.stat(key).await
    }
    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.inner.delete(key).await
    }
    async fn begin_upload(&self, key: &str, attributes: ObjectAttributes) -> Result<String, StoreError> {
        self.inner.begin_upload(key, attributes).await
    }
    async fn upload_part(&self, key: &str, upload: &str, number: u32, body: Bytes) -> Result<UploadedPart, StoreError> {
        self.inner.upload_part(key, upload, number, body).await
    }
    async fn complete_upload(
        &self,
        key: &str,
        upload: &str,
        parts: &[UploadedPart],
        if_absent: bool,
    ) -> Result<ObjectStat, StoreError> {
        self.inner.complete_upload(key, upload, parts, if_absent).await
    }
    async fn abort_upload(&self, key: &str, upload: &str) -> Result<(), StoreError> {
        self.inner.abort_upload(key, upload).await
    }
    async fn create(&self) -> Result<(), StoreError> {
        self.inner.create().await
    }
}

async fn far(keys: &[String], versions: usize) -> Arc<Far> {
    let clock = FixedClock::shared(DateTime::from_timestamp(1_700_000_000, 0).unwrap());
    let inner = MemoryStore::with_clock("bucket", clock);
    if versions > 0 {
        inner.keep_versions();
    }
    for _ in 0..versions.max(1) {
        for key in keys {
            inner.put(key, Bytes::from_static(b"x"), PutOptions::default()).await.unwrap();
        }
    }
    Arc::new(Far { inner, seeks: true, asked: AtomicU64::new(0) })
}

/// Without printing all of them.
fn assert_alike(listed: &[String], wanted: &[String], what: &str) {
    let differ = listed.iter().zip(wanted).position(|(left, right)| left != right);
    assert!(
        listed.len() == wanted.len() && differ.is_none(),
        "{what}: {} of {} keys, first other: {differ:?}",
        listed.len(),
        wanted.len()
    );
}

async fn listed(store: &Arc<Far>, manner: Manner, span: Span) -> Vec<String> {
    let store: SharedStore = store.clone();
    let mut listing = Listing::of(store, manner, span);
    let mut keys = Vec::new();
    while let Some(object) = listing.next().await.unwrap() {
        keys.push(object.key);
    }
    keys
}

fn hashed(n: u32) -> String {
    blake3::hash(&n.to_le_bytes()).to_hex().to_string()
}

/// Keys of many shapes, sorted.
fn shapes(count: u32) -> Vec<(&'static str, Vec<String>)> {
    let of = |key: &dyn Fn(u32) -> String| {
        let mut keys: Vec<_> = (0..count).map(key).collect();
        keys.sort();
        keys.dedup();
        keys
    };
    let day = |n: u32| format!("2026{:02}{:02}", 1 + n / 28 % 12, 1 + n % 28);
    vec![
        ("hashes", of(&hashed)),
        ("numbers", of(&|n| format!("{n}"))),
        ("one folder", of(&|n| format!("a/very/deep/folder/of/files/{n:09}"))),
        (
            "days, as Mattermost has them",
            of(&|n| format!("{}/teams/noteam/channels/{}/users/{}/x.png", day(n / 97), hashed(n % 31), hashed(n))),
        ),
        ("most under one of three", of(&|n| if n % 50 == 0 { format!("a/{n}") } else { format!("m{}", hashed(n)) })),
        (
            "letters of many scripts",
            of(&|n| {
                let letter = char::from_u32(0x100 + n % 0x9000).unwrap();
                format!("{letter}/{}", n / 0x9000)
            }),
        ),
        ("long ones that begin alike", of(&|n| format!("{}{}", "x/".repeat(400), hashed(n)))),
    ]
}

#[tokio::test(start_paused = true)]
async fn every_key_is_listed_once_and_in_order_whatever_the_keys_look_like() {
    for count in [0, 1, 999, 1000, 1001, 12_345] {
        for (shape, keys) in shapes(count) {
            let store = far(&keys, 0).await;
            assert_alike(&listed(&store, Manner::Present, Span::default()).await, &keys, &format!("{shape}, {count}"));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn of_versions_every_key_is_chosen_once_and_counted_once() {
    let now = DateTime::from_timestamp(1_700_000_000, 0).unwrap();
    for (shape, keys) in shapes(5_000) {
        let store = far(&keys, 3).await;
        let window = Window { from: now, until: now };
        assert_alike(&listed(&store, Manner::AsOf(window), Span::default()).await, &keys, shape);
        // As of an earlier instant there was nothing yet, and each key says once that it came later.
        let earlier = now - chrono::TimeDelta::hours(1);
        let shared: SharedStore = store.clone();
        let mut listing = Listing::of(shared, Manner::AsOf(Window { from: earlier, until: earlier }), Span::default());
        assert_eq!(listing.next().await.unwrap(), None, "{shape}");
        assert_eq!(listing.later().keys, keys.len() as u64, "{shape}");
    }
}

#[tokio::test(start_paused = true)]
async fn parts_of_the_keys_are_listed_without_what_lies_beside_them() {
    for (shape, keys) in shapes(9_000) {
        let store = far(&keys, 0).await;
        let middle = |part: usize| Some(keys[keys.len() * part / 3].clone());
        let cuts = [None, middle(1), Some("never/there".to_owned()).max(middle(1)), None];
        let mut cuts = cuts.to_vec();
        cuts[1..3].sort();
        let mut all = Vec::new();
        for pair in cuts.windows(2) {
            all.extend(listed(&store, Manner::Present, Span { after: pair[0].clone(), until: pair[1].clone() }).await);
        }
        assert_alike(&all, &keys, shape);
    }
}

#[tokio::test(start_paused = true)]
async fn a_far_bucket_is_listed_several_times_as_fast_for_hardly_more_requests() {
    for (shape, keys) in shapes(40_000) {
        let store = far(&keys, 0).await;
        // Letters of several bytes are hardly told from one another by their first one.
        let faster = match shape {
            "hashes" => 3.5,
            "letters of many scripts" => 1.0,
            _ => 1.5,
        };
        let pages = keys.len().div_ceil(1000) as u64;
        let limit = ROUND_TRIP.mul_f64((pages as f64 + 1.0) / faster);
        let all = tokio::time::timeout(limit, listed(&store, Manner::Present, Span::default())).await;
        assert_eq!(all.map(|all| all.len()), Ok(keys.len()), "{shape}: less than {faster} times as fast");
        let asked = store.asked.load(Ordering::Relaxed);
        assert!(asked < pages * 2, "{shape}: {asked} requests for {pages} pages");
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_cannot_seek_is_asked_for_one_page_after_the_other() {
    let (_, keys) = shapes(5_500).swap_remove(0);
    let store = Arc::new(Far { inner: far(&keys, 0).await.inner.clone(), seeks: false, asked: AtomicU64::new(0) });
    assert_alike(&listed(&store, Manner::Present, Span::default()).await, &keys, "hashes");
    assert_eq!(store.asked.load(Ordering::Relaxed), 6);
}

#[tokio::test(start_paused = true)]
async fn whoever_takes_nothing_is_not_listed_for_without_end() {
    let (_, keys) = shapes(100_000).swap_remove(0);
    let store = far(&keys, 0).await;
    let shared: SharedStore = store.clone();
    let listing = Listing::of(shared, Manner::Present, Span::default());
    tokio::time::sleep(Duration::from_secs(600)).await;
    let asked = store.asked.load(Ordering::Relaxed);
    assert!((20..=2 * super::MOST_AHEAD as u64).contains(&asked), "{asked}");
    drop(listing);
}
