//! S3 and Azure over connections that stall, break and swallow: every call ends in time, and goes on over a new connection.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use farshore::{
    clock::SystemClock,
    stores::{
        AzureConfig, AzureCredential, AzureStore, Deadlines, GetOptions, PutOptions, Retry, RetryPolicy, S3Config, S3Store,
        SharedStore, StoreError, WireConfig, read_all,
    },
};

use crate::{
    s3,
    support::{
        fault_proxy::{Direction, Fault, FaultProxy},
        server,
    },
};

/// Far more than the sockets on the way hold, so that a stall is felt. Bytes.
const LARGE: usize = 16 << 20;

/// Short enough for a test, long enough for a server that is busy with others.
fn short() -> WireConfig {
    let deadlines = Deadlines {
        connect: Duration::from_millis(300),
        stall: Duration::from_millis(500),
        answer: Duration::from_secs(3),
        least_bytes_per_second: 4 << 20,
    };
    WireConfig { deadlines, ..WireConfig::default() }
}

fn quickly() -> RetryPolicy {
    RetryPolicy { first_pause: Duration::from_millis(5), ..RetryPolicy::default() }
}

/// A server behind a proxy, and a store that reaches it so.
struct Broken {
    proxy: FaultProxy,
    bare: SharedStore,
    store: SharedStore,
}

impl Broken {
    async fn all() -> [Self; 2] {
        [Self::s3().await, Self::azure().await]
    }

    async fn s3() -> Self {
        let plain = s3::config("farshore-contract", &s3::fresh_prefix());
        let proxy = FaultProxy::start(address(plain.endpoint.as_deref().unwrap())).await.unwrap();
        let endpoint = Some(format!("http://{}", proxy.address()));
        let store = S3Store::connect(S3Config { endpoint, wire: short(), ..plain }).await.unwrap();
        Self::over(proxy, Arc::new(store)).await
    }

    async fn azure() -> Self {
        let endpoint = server("FARSHORE_TEST_AZURE_ENDPOINT");
        let proxy = FaultProxy::start(address(&endpoint)).await.unwrap();
        let account = server("FARSHORE_TEST_AZURE_ACCOUNT");
        let config = AzureConfig {
            container: "farshore-contract".to_owned(),
            prefix: s3::fresh_prefix(),
            endpoint: Some(format!("http://{}/{account}", proxy.address())),
            account,
            credential: AzureCredential::AccountKey(server("FARSHORE_TEST_AZURE_KEY").into()),
            wire: short(),
            ..AzureConfig::default()
        };
        Self::over(proxy, Arc::new(AzureStore::connect(config).await.unwrap())).await
    }

    async fn over(proxy: FaultProxy, bare: SharedStore) -> Self {
        bare.create().await.unwrap();
        let store = Retry::over(bare.clone(), quickly(), SystemClock::shared());
        Self { proxy, bare, store }
    }

    async fn put(&self, key: &str, body: Bytes) {
        self.store.put(key, body, PutOptions::default()).await.unwrap();
    }

    async fn get(&self, key: &str) -> Bytes {
        read_all(self.store.as_ref(), key, GetOptions::default(), 1 << 30).await.unwrap()
    }
}

fn address(endpoint: &str) -> SocketAddr {
    let rest = endpoint.strip_prefix("http://").unwrap();
    rest.split('/').next().unwrap().parse().unwrap()
}

fn body(bytes: usize) -> Bytes {
    let mut state = 1_u64;
    let next = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    (0..bytes).map(next).collect::<Vec<_>>().into()
}

/// How long it took.
async fn timed<T>(work: impl Future<Output = T>) -> (T, Duration) {
    let started = Instant::now();
    (work.await, started.elapsed())
}

#[tokio::test]
async fn an_upload_that_stalls_is_dropped_and_made_again_over_a_new_connection() {
    let body = body(LARGE);
    for broken in Broken::all().await {
        let before = broken.proxy.accepted();
        broken.proxy.set_once(Fault::Stall { direction: Direction::ToTarget, after_bytes: 1 << 20 }).await;
        let ((), took) = timed(broken.put("k", body.clone())).await;
        assert!(took >= Duration::from_millis(500) && took < Duration::from_secs(10), "{:?}: {took:?}", broken.store);
        assert!(broken.proxy.accepted() > before, "nothing was sent over a new connection");
        assert!(broken.get("k").await == body);
    }
}

#[tokio::test]
async fn a_stalled_upload_says_how_far_it_came() {
    for broken in Broken::all().await {
        broken.proxy.set(Fault::Stall { direction: Direction::ToTarget, after_bytes: 1 << 20 }).await;
        let put = broken.bare.put("k", Bytes::from(vec![1; LARGE]), PutOptions::default());
        let (failed, took) = timed(put).await;
        let error = failed.unwrap_err();
        assert!(matches!(error, StoreError::Unavailable { .. }) && error.is_transient(), "{error}");
        assert!(error.to_string().contains("no byte could be sent for 0.5 s, after "), "{error}");
        assert!(took < Duration::from_secs(5), "{took:?}");
    }
}

#[tokio::test]
async fn a_part_of_an_upload_that_stalls_is_sent_again() {
    let (first, last) = (body(LARGE), body(1000));
    for broken in Broken::all().await {
        let upload = broken.store.begin_upload("k", Default::default()).await.unwrap();
        broken.proxy.set_once(Fault::Stall { direction: Direction::ToTarget, after_bytes: 3 << 20 }).await;
        let mut parts = Vec::new();
        for (number, part) in [(1, &first), (2, &last)] {
            parts.push(broken.store.upload_part("k", &upload, number, part.clone()).await.unwrap());
        }
        broken.proxy.set_once(Fault::Reset { direction: Direction::FromTarget, after_bytes: 0 }).await;
        let stored = broken.store.complete_upload("k", &upload, &parts, true).await.unwrap();
        assert_eq!(stored.size, (LARGE + 1000) as u64);
        assert!(broken.get("k").await == [&first[..], &last[..]].concat());
    }
}

#[tokio::test]
async fn a_body_that_stalls_goes_on_where_it_stood_still() {
    let body = body(LARGE);
    for broken in Broken::all().await {
        broken.put("k", body.clone()).await;
        for fault in [
            Fault::Stall { direction: Direction::FromTarget, after_bytes: 5 << 20 },
            Fault::Truncate { direction: Direction::FromTarget, after_bytes: 5 << 20 },
            Fault::Reset { direction: Direction::FromTarget, after_bytes: 5 << 20 },
        ] {
            broken.proxy.set_once(fault).await;
            let (read, took) = timed(broken.get("k")).await;
            assert!(read == body, "{fault:?}");
            assert!(took < Duration::from_secs(8), "{fault:?}: {took:?}");
        }
    }
}

#[tokio::test]
async fn an_answer_that_does_not_begin_or_is_lost_is_asked_for_again() {
    for broken in Broken::all().await {
        broken.put("k", Bytes::from_static(b"x")).await;
        for fault in [
            Fault::Stall { direction: Direction::FromTarget, after_bytes: 0 },
            Fault::Reset { direction: Direction::FromTarget, after_bytes: 0 },
            Fault::Reset { direction: Direction::FromTarget, after_bytes: 20 },
            Fault::Truncate { direction: Direction::FromTarget, after_bytes: 20 },
        ] {
            broken.proxy.set_once(fault).await;
            let (listed, took) = timed(broken.store.list("", None, 10)).await;
            assert_eq!(listed.unwrap().objects.len(), 1, "{fault:?}");
            assert!(took < Duration::from_secs(8), "{fault:?}: {took:?}");
            broken.proxy.set_once(fault).await;
            let written = broken.store.put("once", Bytes::from_static(b"y"), PutOptions { if_absent: true, ..Default::default() });
            written.await.unwrap_or_else(|error| panic!("{fault:?}: {error}"));
            broken.proxy.set_once(fault).await;
            broken.store.delete("once").await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_listing_that_stalls_within_its_answer_is_asked_for_again() {
    for broken in Broken::all().await {
        let keys = (0..40).map(|number| format!("a-long-name-that-makes-the-listing-longer-{number:03}"));
        futures_util::future::join_all(keys.map(async |key| broken.put(&key, Bytes::new()).await)).await;
        broken.proxy.set_once(Fault::Stall { direction: Direction::FromTarget, after_bytes: 4000 }).await;
        let (page, took) = timed(broken.store.list("", None, 100)).await;
        assert_eq!(page.unwrap().objects.len(), 40);
        assert!(took >= Duration::from_millis(500) && took < Duration::from_secs(5), "{took:?}");
    }
}

#[tokio::test]
async fn a_server_that_nobody_can_be_connected_to_is_unavailable_within_the_time_for_that() {
    for broken in Broken::all().await {
        broken.proxy.set(Fault::Blackhole).await;
        let (stat, took) = timed(broken.bare.stat("k")).await;
        let (fresh, fresh_took) = timed(broken.bare.stat("k")).await;
        for (error, took) in [(stat.unwrap_err(), took), (fresh.unwrap_err(), fresh_took)] {
            assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
            assert!(took < Duration::from_secs(5), "{took:?}");
        }
        broken.proxy.set(Fault::Pass).await;
        let error = broken.store.stat("k").await.unwrap_err();
        assert!(matches!(error, StoreError::NotFound { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_slow_reader_is_not_taken_for_a_stalled_server() {
    use futures_util::StreamExt;
    let body = body(LARGE);
    for broken in Broken::all().await {
        broken.put("k", body.clone()).await;
        let mut pieces = broken.bare.get("k", GetOptions::default()).await.unwrap().body;
        let mut read = pieces.next().await.unwrap().unwrap().len();
        tokio::time::sleep(Duration::from_secs(1)).await;
        while let Some(piece) = pieces.next().await {
            read += piece.unwrap().len();
        }
        assert_eq!(read, LARGE);
    }
}

#[tokio::test]
async fn a_body_that_trickles_ends_at_the_least_speed() {
    for broken in Broken::all().await {
        broken.put("k", body(LARGE)).await;
        // 16 KiB each 100 ms are never a stall, and far below 4 MiB a second.
        broken.proxy.set(Fault::Delay(Duration::from_millis(100))).await;
        let (read, took) = timed(read_all(broken.bare.as_ref(), "k", GetOptions::default(), 1 << 30)).await;
        let error = read.unwrap_err();
        assert!(error.to_string().contains("which is too slow"), "{error}");
        assert!(took < Duration::from_secs(6), "{took:?}");
    }
}
