//! A site with Object Lock on a real server: what a thief with the right to delete does to it, and how everything comes back.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use farshore::{
    clock::{Clock, FixedClock},
    repository::LockTerm,
    stores::{LockMode, PutOptions, S3Config, S3Store, SharedStore, Store, StoreError},
};

use crate::{
    s3,
    support::{
        agent::{Agent, tree},
        faulty_store::FaultyStore,
        recovery::{Recovery, noise, objects},
        server,
    },
};

const BUCKET: &str = "farshore-locks";

fn config(prefix: &str, identity: &str) -> S3Config {
    S3Config { access_key: Some(server(identity)), ..s3::config(BUCKET, prefix) }
}

/// An agent with the writer's credentials, whose site is locked.
fn agent(prefix: &str, days: u32) -> Agent {
    let mut agent = Agent::with_everything();
    for (variable, value) in [
        ("S3_SECRET", server("FARSHORE_TEST_S3_SECRET_KEY")),
        ("AWS_ACCESS_KEY_ID", server("FARSHORE_TEST_S3_WRITER_KEY")),
        ("AWS_SECRET_ACCESS_KEY", server("FARSHORE_TEST_S3_SECRET_KEY")),
        ("AWS_ENDPOINT_URL", server("FARSHORE_TEST_S3_ENDPOINT")),
        ("AWS_REGION", "us-east-1".to_owned()),
    ] {
        agent.set(variable, value);
    }
    let site = format!(
        "[[site]]\nname = \"far\"\nlock = {{ mode = \"compliance\", days = {days} }}\nstore = {{ kind = \"s3\", bucket = \"{BUCKET}\", \
         prefix = \"{prefix}\", endpoint = \"{}\", access_key = \"{}\", secret_key = {{ env = \"S3_SECRET\" }} }}\n",
        server("FARSHORE_TEST_S3_ENDPOINT"),
        server("FARSHORE_TEST_S3_WRITER_KEY"),
    );
    agent.write_policy_with(&agent.all_sources(), &site, &agent.drill_table());
    agent
}

async fn make_bucket() {
    S3Store::connect(config("", "FARSHORE_TEST_S3_ACCESS_KEY")).await.unwrap().create_locking().await.unwrap();
}

async fn keys(store: &S3Store) -> BTreeSet<String> {
    let page = store.list("", None, 1000).await.unwrap();
    assert!(!page.more);
    page.objects.into_iter().map(|object| object.key).filter(|key| !key.starts_with("probe/")).collect()
}

#[test]
fn a_thief_hides_a_locked_repository_and_everything_comes_back() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(make_bucket());
    let prefix = s3::fresh_prefix();
    let agent = agent(&prefix, 30);
    let made = agent.run(["init", "policy.toml"]).succeeds();
    assert!(made.stdout.contains("locks (compliance): kept; deleting and shortening are refused"), "{}", made.stdout);
    assert!(made.stdout.contains("s3:PutObjectRetention") && !made.stdout.contains("Bypass"), "{}", made.stdout);
    agent.backup();
    let before = runtime.block_on(async {
        let admin = S3Store::connect(config(&prefix, "FARSHORE_TEST_S3_ACCESS_KEY")).await.unwrap();
        let before = keys(&admin).await;
        for kind in ["repository.json", "keys/catalogue", "keys/data", "packs/", "indexes/", "points/"] {
            assert!(before.iter().any(|key| key.starts_with(kind)), "no {kind} in {before:?}");
        }
        // The server refuses every deletion, whoever asks, and hides what it is told to hide.
        for identity in ["FARSHORE_TEST_S3_WRITER_KEY", "FARSHORE_TEST_S3_PRUNER_KEY", "FARSHORE_TEST_S3_ACCESS_KEY"] {
            let thief = S3Store::connect(config(&prefix, identity)).await.unwrap();
            for key in &before {
                let refused = thief.delete_versions(key).await.unwrap_err();
                let least = Utc::now() + TimeDelta::days(30);
                assert!(matches!(refused, StoreError::Locked { until, .. } if until > least), "{key}: {refused}");
            }
        }
        let thief = S3Store::connect(config(&prefix, "FARSHORE_TEST_S3_WRITER_KEY")).await.unwrap();
        for (number, key) in before.iter().enumerate() {
            if number % 2 == 0 {
                thief.put(key, Bytes::from_static(b"false"), PutOptions::default()).await.unwrap();
            }
            thief.delete(key).await.unwrap();
        }
        assert!(keys(&admin).await.is_empty());
        before
    });
    let target = agent.text("restored");
    let arguments = ["restore", "policy.toml", "latest", "--source", "config", "--to", target.as_str()];
    agent.operator(arguments).fails(6, &["--first-versions"]);
    agent.operator(arguments.into_iter().chain(["--first-versions"])).succeeds();
    let restored: Vec<_> = tree(&agent.path("restored")).into_values().collect();
    assert_eq!(restored, tree(&agent.path("data")).into_values().collect::<Vec<_>>());
    // With nothing but the site and an identity.
    let address = format!("s3://{BUCKET}/{prefix}");
    let listed = agent.operator(["points", "--site", &address, "--first-versions", "--json"]).succeeds();
    assert_eq!(listed.json().as_array().unwrap().len(), 1, "{before:?}");
    agent.operator(["verify", "policy.toml", "--read-data", "--first-versions"]).succeeds();
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_on_a_real_server_are_extended_by_generation() {
    make_bucket().await;
    let store = Arc::new(S3Store::connect(config(&s3::fresh_prefix(), "FARSHORE_TEST_S3_WRITER_KEY")).await.unwrap());
    let silent = FaultyStore::over(store.clone());
    silent.hide_time();
    let site: SharedStore = silent;
    let mut recovery = Recovery::new(true);
    recovery.clock = FixedClock::shared(DateTime::from_timestamp(Utc::now().timestamp(), 0).unwrap());
    recovery.lock = Some(LockTerm { mode: LockMode::Compliance, days: 2 });
    recovery.init(&site).await;
    recovery.put("object", noise(100_000, 1)).await;
    let cache = recovery.fresh_cache();
    recovery.backup(site.clone(), &cache).await.unwrap();
    let until = async |store: &S3Store, key: &str| store.lock_of(key).await.unwrap().unwrap().until;
    let first = keys(&store).await;
    let mut before = Vec::new();
    for key in &first {
        before.push(until(&store, key).await);
    }
    recovery.clock.advance(Duration::from_secs(9 * 24 * 3600));
    recovery.backup(site.clone(), &cache).await.unwrap();
    for (key, before) in first.iter().zip(&before) {
        assert_eq!(until(&store, key).await, *before, "{key} was touched too early");
    }
    recovery.clock.advance(Duration::from_secs(2 * 24 * 3600));
    recovery.backup(site.clone(), &cache).await.unwrap();
    let least = recovery.clock.now() + TimeDelta::days(11);
    for (key, before) in first.iter().zip(&before) {
        let now = until(&store, key).await;
        if key.starts_with("points/") {
            assert_eq!(now, *before, "a point is locked for its own days");
        } else {
            assert!(now > least, "{key}: {now}");
        }
    }
    let restored = recovery.restore(site, &recovery.fresh_cache(), "latest").await.unwrap();
    assert!(restored == objects(recovery.source.as_ref()).await);
}
