//! A versioned bucket on a real S3 server, read as of a database's instant while an application uploads, overwrites and deletes.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use farshore::{
    clock::{Moment, SharedClock},
    sources::{
        ConsistencyTime,
        bucket::{BucketOptions, BucketSource, BucketTarget},
    },
    stores::{GetOptions, PutOptions, S3Store, SharedStore, VersionCursor, read_all},
};

use crate::{
    postgres::{Database, Server},
    s3,
    support::exchange::{Capturing, Rebuilding, assert_checks},
};

/// What the choice allows for clocks beside the window that it knows T to lie in.
const MARGIN: TimeDelta = TimeDelta::seconds(2);

async fn store(bucket: &str) -> SharedStore {
    let config = s3::config(bucket, &s3::fresh_prefix());
    Arc::new(S3Store::connect(config).await.unwrap())
}

/// A bucket that keeps versions.
async fn versioned() -> SharedStore {
    let store = store("farshore-locks").await;
    store.create_locking().await.unwrap();
    store
}

/// What an object holds: its key, which writing of it this is, and when it was written.
fn body(key: &str, number: u64) -> Bytes {
    format!("{key} {number} {}", Utc::now().timestamp_millis()).into()
}

fn read_body(bytes: &[u8]) -> (u64, i64) {
    let text = std::str::from_utf8(bytes).unwrap();
    let mut words = text.split(' ').skip(1).map(|word| word.parse::<i64>().unwrap());
    (words.next().unwrap().try_into().unwrap(), words.next().unwrap())
}

/// An application: objects before their rows, rows deleted before their objects.
struct Application {
    database: Database,
    store: SharedStore,
    stop: AtomicBool,
}

impl Application {
    async fn sql(self: &Arc<Self>, sql: String) -> String {
        let this = Arc::clone(self);
        tokio::task::spawn_blocking(move || this.database.psql(&sql)).await.unwrap()
    }

    async fn write(self: &Arc<Self>, key: &str, number: u64) {
        self.store.put(key, body(key, number), PutOptions::default()).await.unwrap();
        self.sql(format!("INSERT INTO files VALUES ('{key}', {number}) ON CONFLICT (path) DO UPDATE SET number = {number}")).await;
    }

    /// Uploads, overwrites and deletes until it is told to stop; returns when objects were deleted for good, in milliseconds.
    async fn live(self: Arc<Self>) -> BTreeMap<String, i64> {
        let mut deleted = BTreeMap::new();
        for number in 1u64.. {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            self.write(&format!("once/{number:05}"), number).await;
            self.write(&format!("hot/{}", number % 7), number).await;
            if number > 6 && number.is_multiple_of(2) {
                let key = format!("once/{:05}", number - 6);
                self.sql(format!("DELETE FROM files WHERE path = '{key}'")).await;
                self.store.delete(&key).await.unwrap();
                deleted.insert(key, Utc::now().timestamp_millis());
            }
        }
        deleted
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_row_of_the_instant_finds_its_object_while_the_application_goes_on() {
    let database = Server::Fifteen.database();
    database.psql("CREATE TABLE files (path text PRIMARY KEY, number bigint NOT NULL)");
    let application = Arc::new(Application { database, store: versioned().await, stop: AtomicBool::new(false) });
    let living = tokio::spawn(Arc::clone(&application).live());
    let clock: SharedClock = Capturing::first().clock;
    let mut instants = Vec::new();
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(2200)).await;
        let from = Moment::now(&clock);
        let rows = application.sql("SELECT path || ' ' || number FROM files".to_owned()).await;
        instants.push((ConsistencyTime { at: Utc::now(), from, until: Moment::now(&clock) }, rows));
    }
    // The bucket is listed long after the last instant, as after a long dump.
    tokio::time::sleep(Duration::from_millis(5500)).await;
    let source = BucketSource::new(Arc::clone(&application.store), BucketOptions::default());
    let mut earlier: Option<Capturing> = None;
    let mut snapshots = Vec::new();
    for (time, rows) in instants {
        let mut capturing = earlier.as_ref().map_or_else(Capturing::first, |earlier| Capturing::after(&earlier.sink));
        capturing.clock = clock.clone();
        capturing.consistent_at = Some(time);
        let facts = capturing.run(&source).await.unwrap().facts;
        assert_eq!((capturing.problems(), &facts["versioning"]), (vec![], &"enabled".into()), "{facts}");
        assert!(facts["covered"].as_u64().unwrap() > 0, "nothing raced the capture: {facts}");
        snapshots.push((time, rows, facts, capturing.sink.origin()));
        earlier = Some(capturing);
    }
    application.stop.store(true, Ordering::Relaxed);
    let deleted = living.await.unwrap();
    for (time, rows, facts, origin) in snapshots {
        let target = store("farshore-bucket-source").await;
        target.create().await.unwrap();
        assert_checks(&Rebuilding::anew().run(&BucketTarget::new(Arc::clone(&target)), origin, &facts).await.unwrap());
        // The bucket's clock is this machine's.
        let end = |end: &str| facts["as_of"][end].as_str().unwrap().parse::<DateTime<Utc>>().unwrap();
        assert!(end("from") <= time.at && time.at <= end("until"), "{facts}");
        let (first, last) = ((end("from") - MARGIN).timestamp_millis(), (end("until") + MARGIN).timestamp_millis());
        let mut named = 0;
        for row in rows.lines().filter(|row| !row.trim().is_empty()) {
            let (path, number) = row.trim().split_once(' ').unwrap();
            let number: u64 = number.parse().unwrap();
            let bytes = read_all(&*target, path, GetOptions::default(), 100).await.unwrap_or_else(|error| panic!("{row}: {error}"));
            let (found, written) = read_body(&bytes);
            if path.starts_with("once/") {
                assert_eq!(found, number, "{row}");
            }
            assert!(found >= number && written <= last, "{row}: {found}, written at {written}");
            named += 1;
        }
        assert!(named > 10, "{rows}");
        for object in target.list("", None, 1000).await.unwrap().objects {
            let bytes = read_all(&*target, &object.key, GetOptions::default(), 100).await.unwrap();
            assert!(read_body(&bytes).1 <= last, "{} was uploaded long after T", object.key);
            assert!(deleted.get(&object.key).is_none_or(|time| *time >= first), "{} was deleted long before T", object.key);
        }
    }
}

#[tokio::test]
async fn the_server_tells_versions_and_markers_and_pages_may_cut_them_apart() {
    let store = versioned().await;
    for key in ["a", "b", "c"] {
        for number in 0..5 {
            store.put(key, body(key, number), PutOptions::default()).await.unwrap();
        }
    }
    store.delete("b").await.unwrap();
    store.put("b", body("b", 9), PutOptions::default()).await.unwrap();
    store.delete("c").await.unwrap();
    let whole = store.list_versions("", None, 1000).await.unwrap();
    assert!(whole.next.is_none());
    for key in ["a", "b", "c"] {
        let of_key = || whole.versions.iter().filter(|version| version.stat.key == key);
        let mut numbers = Vec::new();
        for version in of_key().filter(|version| !version.marker) {
            let options = GetOptions { version: version.stat.version.clone(), ..GetOptions::default() };
            numbers.push(read_body(&read_all(&*store, key, options, 100).await.unwrap()).0);
        }
        let (expected, markers): (&[u64], usize) = match key {
            "a" => (&[4, 3, 2, 1, 0], 0),
            "b" => (&[9, 4, 3, 2, 1, 0], 1),
            _ => (&[4, 3, 2, 1, 0], 1),
        };
        assert_eq!((numbers.as_slice(), of_key().filter(|version| version.marker).count()), (expected, markers), "{key}");
        let latest: Vec<bool> = of_key().filter(|version| version.latest).map(|version| version.marker).collect();
        assert_eq!(latest, [key == "c"], "{key}");
    }
    for limit in [1, 2, 3, 7] {
        let (mut all, mut from) = (Vec::new(), None);
        loop {
            let page = store.list_versions("", from.as_ref(), limit).await.unwrap();
            all.extend(page.versions);
            from = page.next;
            if from.is_none() {
                break;
            }
        }
        let id =
            |version: &farshore::stores::ObjectVersion| (version.stat.key.clone(), version.marker, version.stat.version.clone());
        let sorted = |versions: &[farshore::stores::ObjectVersion]| {
            let mut ids: Vec<_> = versions.iter().map(id).collect();
            ids.sort();
            ids
        };
        assert_eq!(sorted(&all), sorted(&whole.versions), "{limit} at a time");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_are_listed_from_after_any_key_whether_it_is_there_or_not() {
    let store = versioned().await;
    // No key that is another one's folder, too: this server's pages of versions lose such ones.
    for key in ["a", "b", "bc", "d"] {
        for number in 0..2 {
            store.put(key, body(key, number), PutOptions::default()).await.unwrap();
        }
    }
    store.delete("d").await.unwrap();
    for (after, wanted) in
        [("a", "b b bc bc d d d"), ("aa", "b b bc bc d d d"), ("b", "bc bc d d d"), ("b~", "d d d"), ("d", ""), ("~", "")]
    {
        let page = store.list_versions("", Some(&VersionCursor::after(after)), 1000).await.unwrap();
        let keys: Vec<_> = page.versions.iter().map(|version| version.stat.key.as_str()).collect();
        assert_eq!((keys.join(" ").as_str(), page.next), (wanted, None), "after {after}");
        // And on from there, one at a time.
        let (mut from, mut one_by_one) = (VersionCursor::after(after), Vec::new());
        loop {
            let page = store.list_versions("", Some(&from), 1).await.unwrap();
            one_by_one.extend(page.versions.into_iter().map(|version| version.stat.key));
            match page.next {
                Some(next) => from = next,
                None => break,
            }
        }
        assert_eq!(one_by_one.join(" "), wanted, "one at a time after {after}");
    }
}
