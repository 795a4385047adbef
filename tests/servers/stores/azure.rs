//! The Azure store: the contract against Azurite with a key and with a shared access signature, and what is true of Azure alone.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use farshore::stores::{
    AzureConfig, AzureCredential, AzureStore, Deadlines, GetOptions, Lock, LockMode, PutOptions, Store, StoreError, WireConfig,
    read_all,
};

use crate::support::{
    fault_proxy::{Direction, Fault, FaultProxy},
    server,
    store_contract::Fresh,
};

fn config() -> AzureConfig {
    AzureConfig {
        account: server("FARSHORE_TEST_AZURE_ACCOUNT"),
        container: "farshore-contract".to_owned(),
        prefix: format!("run-{:032x}", rand::random::<u128>()),
        endpoint: Some(server("FARSHORE_TEST_AZURE_ENDPOINT")),
        credential: AzureCredential::AccountKey(server("FARSHORE_TEST_AZURE_KEY").into()),
        ..AzureConfig::default()
    }
}

async fn connect(config: AzureConfig) -> AzureStore {
    AzureStore::connect(config).await.unwrap()
}

async fn fresh() -> Fresh {
    let store = connect(config()).await;
    store.create().await.unwrap();
    Fresh { can_hold: azure_can_hold, ..Fresh::new(Arc::new(store)) }
}

async fn fresh_with_signature() -> Fresh {
    let store =
        connect(AzureConfig { credential: AzureCredential::Sas(server("FARSHORE_TEST_AZURE_SAS").into()), ..config() }).await;
    store.create().await.unwrap();
    Fresh { can_hold: azure_can_hold, ..Fresh::new(Arc::new(store)) }
}

/// What the store refuses, because Azure would hold it under another name or not at all; names with the prefix over 1,024 characters;
/// and characters that XML cannot hold: Azure lists them escaped, Azurite answers 500 to the whole listing.
fn azure_can_hold(key: &str) -> bool {
    let xml = key.chars().all(|character| character >= ' ' || matches!(character, '\t' | '\n'));
    xml && !key.contains('\\') && !key.split('/').any(|segment| segment.ends_with('.')) && key.chars().count() < 980
}

mod contract {
    crate::store_contract!(super::fresh);
}

mod contract_with_signature {
    crate::store_contract!(super::fresh_with_signature);
}

#[tokio::test]
async fn a_connection_string_opens_what_a_key_opens() {
    let key = config();
    let text = format!(
        "DefaultEndpointsProtocol=http;AccountName={};AccountKey={};BlobEndpoint={};",
        key.account,
        server("FARSHORE_TEST_AZURE_KEY"),
        server("FARSHORE_TEST_AZURE_ENDPOINT")
    );
    let string = AzureConfig { endpoint: None, credential: AzureCredential::ConnectionString(text.into()), ..key.clone() };
    let (key, string) = (connect(key).await, connect(string).await);
    string.create().await.unwrap();
    string.put("k", Bytes::from_static(b"x"), PutOptions::default()).await.unwrap();
    assert_eq!(read_all(&key, "k", GetOptions::default(), 10).await.unwrap(), "x");
}

#[tokio::test]
async fn a_missing_container_is_named_and_can_be_made() {
    let container = format!("farshore-{:016x}", rand::random::<u64>());
    let store = connect(AzureConfig { container, prefix: String::new(), ..config() }).await;
    for error in [
        store.list("", None, 1).await.unwrap_err(),
        store.get("k", GetOptions::default()).await.map(|_| ()).unwrap_err(),
        store.stat("k").await.unwrap_err(),
        store.put("k", Bytes::new(), PutOptions::default()).await.unwrap_err(),
    ] {
        assert!(matches!(error, StoreError::NoSuchPlace { .. }), "{error}");
    }
    store.create().await.unwrap();
    store.create().await.unwrap();
    store.put("k", Bytes::from_static(b"x"), PutOptions::default()).await.unwrap();
    assert_eq!(store.list("", None, 10).await.unwrap().objects.len(), 1, "an empty prefix is the whole container");
    let skew = chrono::Utc::now() - store.time().await.unwrap();
    assert!(skew.num_minutes().abs() < 5, "{skew}");
}

#[tokio::test]
async fn wrong_credentials_are_refused_and_never_repeated() {
    let key = |key: &str| AzureConfig { credential: AzureCredential::AccountKey(key.into()), ..config() };
    let sas = |sas: String| AzureConfig { credential: AzureCredential::Sas(sas.into()), ..config() };
    let forged = server("FARSHORE_TEST_AZURE_SAS").replace("sig=", "sig=aHVzaC1odXNo");
    for config in [key("aHVzaC1odXNo"), sas(forged)] {
        let store = connect(config).await;
        for error in [
            store.stat("k").await.unwrap_err(),
            store.put("k", Bytes::new(), PutOptions::default()).await.unwrap_err(),
            store.list("", None, 1).await.unwrap_err(),
        ] {
            // To a forged signature Azurite answers AuthorizationFailure, where Azure answers AuthenticationFailed.
            assert!(matches!(error, StoreError::Unauthenticated { .. } | StoreError::Denied { .. }), "{error:?}");
            let shown = format!("{error} {error:?} {store:?} {}", store.describe());
            assert!(!shown.contains("aHVzaC1odXNo") && !shown.contains("sig="), "{shown}");
        }
    }
    let error = AzureStore::connect(key("no base64!")).await.unwrap_err().to_string();
    assert!(error.contains("no Base64") && !error.contains("no base64!"), "{error}");
}

#[tokio::test]
async fn a_signature_for_reading_reads_and_is_denied_to_write() {
    let config = config();
    let writer = connect(config.clone()).await;
    writer.create().await.unwrap();
    writer.put("k", Bytes::from_static(b"x"), PutOptions::default()).await.unwrap();
    let sas = AzureCredential::Sas(format!("?{}", server("FARSHORE_TEST_AZURE_READ_SAS")).into());
    let reader = connect(AzureConfig { credential: sas, ..config }).await;
    assert_eq!(read_all(&reader, "k", GetOptions::default(), 10).await.unwrap(), "x");
    assert_eq!(reader.list("", None, 10).await.unwrap().objects.len(), 1);
    for error in
        [reader.put("k", Bytes::new(), PutOptions::default()).await.map(|_| ()).unwrap_err(), reader.delete("k").await.unwrap_err()]
    {
        assert!(matches!(error, StoreError::Denied { .. }), "{error:?}");
        assert!(!error.to_string().contains("sig"), "{error}");
    }
}

#[tokio::test]
async fn names_and_tags_that_azure_does_not_know_come_back() {
    let store = fresh().await.store;
    let mut options = PutOptions::default();
    options.attributes.metadata = [("last-modified-by".to_owned(), "A".to_owned()), ("7.of-9".to_owned(), "ü".to_owned())].into();
    options.attributes.tags = [("e@mail".to_owned(), "a@b, c".to_owned())].into();
    options.attributes.storage_class = Some("STANDARD_IA".to_owned());
    let wanted = options.attributes.clone();
    store.put("k", Bytes::from_static(b"x"), options).await.unwrap();
    let back = store.get("k", GetOptions { attributes: true, ..GetOptions::default() }).await.unwrap();
    assert_eq!((back.attributes.metadata, back.attributes.tags), (wanted.metadata, wanted.tags));
    assert_eq!(store.stat("k").await.unwrap().storage_class.as_deref(), Some("Cool"));
    assert_eq!(store.list("", None, 1).await.unwrap().objects[0].storage_class.as_deref(), Some("Cool"));
}

#[tokio::test]
async fn keys_that_azure_would_rename_are_refused_before_anything_is_sent() {
    let store = fresh().await.store;
    for key in ["..", "a/../b", "a\\b", "a.", "a./b"] {
        let error = store.put(key, Bytes::new(), PutOptions::default()).await.unwrap_err();
        assert!(error.to_string().contains("Azure cannot hold this key"), "{error}");
        store.begin_upload(key, Default::default()).await.unwrap_err();
    }
    store.stat("a/../b").await.unwrap_err();
    assert!(store.list("", None, 10).await.unwrap().objects.is_empty());
}

/// Azurite knows neither versions nor policies, and takes a blob with a policy as if it did. What locks are on Azure is tried against a server
/// of the tests' own (`tests/hermetic/stores/azure_locks.rs`).
#[tokio::test]
async fn a_server_that_takes_locks_for_nothing_is_found_out_in_every_way() {
    let store = fresh().await.store;
    let support = store.lock_support().await.unwrap();
    assert!(!support.versioned && !support.object_lock, "{support:?}");
    assert!(support.remedy.unwrap().contains("The container farshore-contract of the account"));
    let lock = Lock { mode: LockMode::Compliance, until: chrono::Utc::now() + chrono::TimeDelta::hours(1) };
    let options = PutOptions { lock: Some(lock), ..PutOptions::default() };
    store.put("k", Bytes::from_static(b"x"), options).await.unwrap();
    assert_eq!(store.lock_of("k").await.unwrap(), None);
    let refused = store.extend_lock("k", lock).await.unwrap_err();
    assert!(matches!(refused, StoreError::Unsupported { .. }), "{refused}");
    store.set_lock("k", lock).await.unwrap_err();
    store.delete_versions("k").await.unwrap();
    assert!(matches!(store.stat("k").await.unwrap_err(), StoreError::NotFound { .. }));
    // The container is there; what it lacks, the probe of `init` tells.
    store.create_locking().await.unwrap();
}

#[tokio::test]
async fn a_listing_from_any_key_goes_on_where_it_should_whoever_asks_first() {
    let config = config();
    let store = connect(config.clone()).await;
    store.create().await.unwrap();
    let keys: Vec<String> = (0..25).map(|number| format!("k{number:02}")).collect();
    for key in &keys {
        store.put(key, Bytes::new(), PutOptions::default()).await.unwrap();
    }
    // Another store has seen no page: from the middle, backwards, and twice.
    let other = connect(config).await;
    for start in [20, 3, 11, 3, 24] {
        for limit in [1, 4, 100] {
            let page = other.list("", Some(&keys[start]), limit).await.unwrap();
            let listed: Vec<_> = page.objects.iter().map(|object| object.key.clone()).collect();
            let expected: Vec<_> = keys[start + 1..].iter().take(limit).cloned().collect();
            assert_eq!(listed, expected, "after {start}, {limit} of them");
        }
    }
}

/// A store that reaches the server through a proxy.
async fn through_proxy() -> (FaultProxy, AzureStore) {
    let endpoint = url::Url::parse(&server("FARSHORE_TEST_AZURE_ENDPOINT")).unwrap();
    let target: SocketAddr = format!("127.0.0.1:{}", endpoint.port().unwrap()).parse().unwrap();
    let proxy = FaultProxy::start(target).await.unwrap();
    let deadlines = Deadlines { stall: Duration::from_secs(1), answer: Duration::from_secs(4), ..Deadlines::default() };
    let wire = WireConfig { deadlines, ..WireConfig::default() };
    let endpoint = Some(format!("http://{}{}", proxy.address(), endpoint.path()));
    let store = connect(AzureConfig { endpoint, wire, ..config() }).await;
    store.create().await.unwrap();
    (proxy, store)
}

#[tokio::test]
async fn what_breaks_on_the_way_is_unavailable_and_passes() {
    let (proxy, store) = through_proxy().await;
    store.put("k", crate::support::store_contract::noise(1 << 20, 1), PutOptions::default()).await.unwrap();
    for fault in [
        Fault::Refuse,
        Fault::Reset { direction: Direction::FromTarget, after_bytes: 0 },
        Fault::Reset { direction: Direction::FromTarget, after_bytes: 100_000 },
        Fault::Truncate { direction: Direction::FromTarget, after_bytes: 100_000 },
    ] {
        proxy.set(fault).await;
        let read = tokio::time::timeout(Duration::from_secs(20), read_all(&store, "k", GetOptions::default(), 2 << 20)).await;
        let error = read.unwrap().unwrap_err();
        assert!(matches!(error, StoreError::Unavailable { .. }) && error.is_transient(), "{fault:?}: {error:?}");
        proxy.set(Fault::Pass).await;
        assert_eq!(store.stat("k").await.unwrap().size, 1 << 20);
    }
}

#[tokio::test]
async fn a_server_that_never_answers_and_a_body_that_stalls_end_by_themselves() {
    let (proxy, store) = through_proxy().await;
    // More than sockets on the way hold: else all of it may have come before the fault does.
    store.put("k", crate::support::store_contract::noise(32 << 20, 1), PutOptions::default()).await.unwrap();
    let mut body = store.get("k", GetOptions::default()).await.unwrap().body;
    proxy.set(Fault::Stall { direction: Direction::FromTarget, after_bytes: 0 }).await;
    let stalled = async {
        use futures_util::StreamExt;
        loop {
            match body.next().await {
                Some(Ok(_)) => {}
                Some(Err(error)) => return error,
                None => panic!("the body ended as if it were whole"),
            }
        }
    };
    let both = async { tokio::join!(stalled, store.stat("k")) };
    let (stalled, silent) = tokio::time::timeout(Duration::from_secs(20), both).await.unwrap();
    for (error, words) in [(stalled, "no byte came"), (silent.unwrap_err(), "no answer within")] {
        assert!(matches!(error, StoreError::Unavailable { .. }) && error.to_string().contains(words), "{error}");
    }
}
