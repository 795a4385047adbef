//! A limit of bandwidth on the way to real servers: held over all connections, in both directions, with what is stored unchanged.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use farshore::{
    clock::FixedClock,
    stores::{
        AzureConfig, AzureCredential, AzureStore, Bandwidth, Deadlines, FilesystemStore, GetOptions, Hours, Limit, PutOptions,
        S3Config, S3Store, SharedStore, TimeOfDay, WireConfig, Zone, read_all,
    },
};
use futures_util::future::join_all;

use crate::{s3, support::server, support::store_contract::noise};

const RATE: u64 = 4_000_000;
/// Bytes of each object.
const SIZE: usize = 1_500_000;
const OBJECTS: usize = 6;

fn bandwidth() -> Option<Arc<Bandwidth>> {
    let hours = Hours { window: None, upload: Some(RATE), download: Some(RATE) };
    Some(Bandwidth::new(vec![hours], FixedClock::shared("2026-11-23T12:00:00Z".parse().unwrap())))
}

/// The limit gives each of six bodies a sixth of 4 MB/s, so that neither a deadline for a stall nor one for the whole could be kept without
/// telling its time from the server's.
fn wire(bandwidth: Option<Arc<Bandwidth>>) -> WireConfig {
    let deadlines = Deadlines {
        stall: Duration::from_secs(1),
        answer: Duration::from_secs(1),
        least_bytes_per_second: 2_000_000,
        ..Deadlines::default()
    };
    WireConfig { deadlines, bandwidth }
}

async fn s3_store(bandwidth: Option<Arc<Bandwidth>>) -> SharedStore {
    let config = S3Config { wire: wire(bandwidth), ..s3::config("farshore-contract", &s3::fresh_prefix()) };
    Arc::new(S3Store::connect(config).await.unwrap())
}

async fn azure_store(bandwidth: Option<Arc<Bandwidth>>) -> SharedStore {
    let config = AzureConfig {
        account: server("FARSHORE_TEST_AZURE_ACCOUNT"),
        container: "farshore-contract".to_owned(),
        prefix: s3::fresh_prefix(),
        endpoint: Some(server("FARSHORE_TEST_AZURE_ENDPOINT")),
        credential: AzureCredential::AccountKey(server("FARSHORE_TEST_AZURE_KEY").into()),
        wire: wire(bandwidth),
        ..AzureConfig::default()
    };
    Arc::new(AzureStore::connect(config).await.unwrap())
}

/// Seconds that all six take at once.
async fn timed<T>(each: impl AsyncFn(usize) -> T) -> (f64, Vec<T>) {
    let started = Instant::now();
    let done = join_all((0..OBJECTS).map(|number| each(number))).await;
    (started.elapsed().as_secs_f64(), done)
}

/// The rate within a tenth, whatever the machine is busy with being on top.
fn assert_rate(seconds: f64, what: &str) {
    let rate = (SIZE * OBJECTS) as f64 / seconds / RATE as f64;
    assert!((0.9..1.1).contains(&rate), "{what}: {rate:.3} of the limit");
}

async fn holds(store: SharedStore) {
    store.create().await.unwrap();
    let bodies: Vec<Bytes> = (0..OBJECTS).map(|number| noise(SIZE, number as u64)).collect();
    let put = async |number: usize| {
        store.put(&format!("k{number}"), bodies[number].clone(), PutOptions::default()).await.unwrap();
    };
    let (seconds, _) = timed(put).await;
    assert_rate(seconds, &format!("to {}", store.describe()));
    let get = async |number: usize| read_all(&*store, &format!("k{number}"), GetOptions::default(), 1 << 30).await.unwrap();
    let (seconds, read) = timed(get).await;
    assert_rate(seconds, &format!("from {}", store.describe()));
    assert!(read == bodies);
}

#[tokio::test]
async fn the_rate_is_held_on_s3() {
    holds(s3_store(bandwidth()).await).await;
}

#[tokio::test]
async fn the_rate_is_held_on_azure() {
    holds(azure_store(bandwidth()).await).await;
}

#[tokio::test]
async fn the_rate_is_held_on_a_directory() {
    let directory = tempfile::tempdir().unwrap();
    holds(Limit::over_line(FilesystemStore::new(directory.path().to_owned()), 64, bandwidth())).await;
}

#[tokio::test]
async fn an_hour_that_ends_ends_its_limit_in_the_middle_of_an_upload() {
    let clock = FixedClock::shared("2026-11-23T17:59:00Z".parse().unwrap());
    let window = Some((TimeOfDay::new(8, 0).unwrap(), TimeOfDay::new(18, 0).unwrap(), Zone::Utc));
    let hours = Hours { window, upload: Some(1_000_000), download: None };
    let store = s3_store(Some(Bandwidth::new(vec![hours], clock.clone()))).await;
    store.create().await.unwrap();
    let started = Instant::now();
    let put = store.put("k", noise(8_000_000, 1), PutOptions::default());
    let later = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        clock.advance(Duration::from_secs(60));
    };
    tokio::join!(put, later).0.unwrap();
    let took = started.elapsed().as_secs_f64();
    assert!((1.0..3.0).contains(&took), "{took} s, where the limit of the hour alone would take 8");
}
