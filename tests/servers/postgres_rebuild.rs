//! What a rebuild refuses, and what it leaves behind.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{os::unix::fs::PermissionsExt, path::Path, sync::Arc};

use farshore::{
    clock::SystemClock,
    progress::Tally,
    sources::{
        Rebuild, RebuildContext, SourceError,
        postgres::{PostgresConfig, PostgresTarget, ScratchCluster, TargetOptions, probe, sorted_keys},
    },
};
use futures_util::TryStreamExt;

use crate::{
    postgres::{Database, Server},
    support::database_exchange::Exchange,
};

async fn captured(database: &Database) -> (Arc<Exchange>, serde_json::Value) {
    let exchange = Arc::new(Exchange::default());
    let captured = exchange.capture(&database.source(), 2).await.unwrap();
    (exchange, captured.facts)
}

fn scratch_directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir_in("/tmp").unwrap();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    directory
}

async fn scratch(directory: &Path) -> ScratchCluster {
    ScratchCluster::start(directory, Some(&Server::Fifteen.bin()), 15).await.unwrap()
}

fn target_on(cluster: &ScratchCluster, database: &str) -> PostgresTarget {
    let options = TargetOptions { bin_directory: Some(Server::Fifteen.bin()), ..TargetOptions::default() };
    PostgresTarget::new(PostgresConfig::parse(&cluster.url(database), None).unwrap(), options)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_holds_something_is_refused_and_kept_under_another_name_when_asked_for() {
    let original = Server::Fifteen.database();
    original.psql("CREATE TABLE t AS SELECT n FROM generate_series(1, 10) n");
    let (exchange, facts) = captured(&original).await;
    let target = Server::Fifteen.database();
    target.psql("CREATE TABLE precious AS SELECT 'kept' AS state");
    let error = exchange.rebuild(&target.target(), &facts, false).await.unwrap_err();
    assert!(matches!(error, SourceError::UnfitTarget { .. }), "{error:?}");
    assert!(error.to_string().contains("1 tables") && error.to_string().contains("--into-existing"), "{error}");
    assert_eq!(target.psql("SELECT state FROM precious"), "kept");

    let (rebuilt, _) = exchange.rebuild(&target.target(), &facts, true).await.unwrap();
    assert_eq!(target.psql("SELECT count(*) FROM t"), "10");
    let note = rebuilt.checks.iter().find(|check| check.name.contains("earlier database")).unwrap();
    let kept = note.actual.split('"').nth(1).unwrap().to_owned();
    let kept = Database { server: target.server, name: kept };
    assert_eq!(kept.psql("SELECT state FROM precious"), "kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_somebody_is_connected_to_is_refused_before_the_work() {
    let original = Server::Fifteen.database();
    let (exchange, facts) = captured(&original).await;
    let target = Server::Fifteen.database();
    let (server, name) = (target.server, target.name.clone());
    let busy = std::thread::spawn(move || server.psql(&name, "SELECT pg_sleep(2)"));
    let connected = format!("SELECT count(*) FROM pg_stat_activity WHERE datname = '{}' AND query LIKE '%sleep(2)'", target.name);
    while target.server.psql("postgres", &connected) == "0" {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let error = exchange.rebuild(&target.target(), &facts, false).await.unwrap_err();
    assert!(error.to_string().contains("1 sessions are connected"), "{error}");
    busy.join().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_target_is_replaced() {
    let original = Server::Fifteen.database();
    original.psql("CREATE TABLE t AS SELECT 1 AS n");
    let (exchange, facts) = captured(&original).await;
    let target = Server::Fifteen.database();
    exchange.rebuild(&target.target(), &facts, false).await.unwrap();
    assert_eq!(target.psql("SELECT n FROM t"), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_that_fails_midway_leaves_no_database() {
    let original = Server::Fifteen.database();
    original.psql("CREATE TABLE first AS SELECT n FROM generate_series(1, 10) n; CREATE TABLE second AS SELECT repeat('x', 1000) FROM generate_series(1, 3000)");
    original.psql(&format!("CREATE SUBSCRIPTION holds CONNECTION 'host=nowhere.invalid dbname={}' PUBLICATION p WITH (connect = false, slot_name = NONE)", original.name));
    let (exchange, facts) = captured(&original).await;
    let directory = scratch_directory();
    let cluster = scratch(&directory.path().join("c")).await;
    *exchange.broken.lock().unwrap() = Some(b"tables/public/second/000000".to_vec());
    let error = exchange.rebuild(&target_on(&cluster, "app"), &facts, false).await.unwrap_err();
    assert!(matches!(error, SourceError::Exchange(_)), "{error:?}");
    let server = PostgresConfig::parse(&cluster.url("postgres"), None).unwrap();
    let left = "SELECT string_agg(datname, ' ' ORDER BY datname) FROM pg_database";
    assert_eq!(probe(&server, left).await.unwrap(), "postgres template0 template1");
    // And nothing of the failure stands in the way of the next try.
    *exchange.broken.lock().unwrap() = None;
    exchange.rebuild(&target_on(&cluster, "app"), &facts, false).await.unwrap();
    assert_eq!(probe(&server, left).await.unwrap(), "app postgres template0 template1");
    original.psql("ALTER SUBSCRIPTION holds DISABLE");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scratch_cluster_loads_no_library_that_a_database_of_it_asks_for() {
    let original = Server::Fifteen.database();
    original.psql(&format!("ALTER DATABASE {} SET session_preload_libraries = 'auto_explain'", original.name));
    let (exchange, facts) = captured(&original).await;
    let directory = scratch_directory();
    let cluster = scratch(&directory.path().join("c")).await;
    exchange.rebuild(&target_on(&cluster, "app"), &facts, false).await.unwrap();
    let app = PostgresConfig::parse(&cluster.url("app"), None).unwrap();
    let asks = "SELECT setconfig::text FROM pg_db_role_setting WHERE setdatabase <> 0";
    assert_eq!(probe(&app, asks).await.unwrap(), "{session_preload_libraries=auto_explain}");
    let loaded =
        "SELECT current_setting('session_preload_libraries') || count(*) FROM pg_settings WHERE name LIKE 'auto_explain.%'";
    assert_eq!(probe(&app, loaded).await.unwrap(), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_rebuild_leaves_no_database() {
    let original = Server::Fifteen.database();
    original.psql("CREATE TABLE t AS SELECT repeat('x', 1000) FROM generate_series(1, 30000); CREATE INDEX ON t (repeat)");
    let (exchange, facts) = captured(&original).await;
    let directory = scratch_directory();
    let cluster = scratch(&directory.path().join("c")).await;
    let server = PostgresConfig::parse(&cluster.url("postgres"), None).unwrap();
    let target = target_on(&cluster, "app");
    let building = "SELECT count(*) FROM pg_database WHERE datname LIKE 'farshore_restoring%'";
    let count = async |wanted: &str| {
        for _ in 0..600 {
            if probe(&server, building).await.unwrap() == wanted {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        panic!("there never were {wanted} databases being built");
    };
    tokio::select! {
        done = exchange.rebuild(&target, &facts, false) => panic!("it was to be cancelled, and ended: {done:?}"),
        () = count("1") => {}
    }
    count("0").await;
    assert_eq!(probe(&server, "SELECT count(*) FROM pg_database WHERE datname = 'app'").await.unwrap(), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_older_than_the_captured_server_is_refused() {
    let original = Server::Eighteen.database();
    let (exchange, facts) = captured(&original).await;
    let target = Server::Fifteen.absent_database();
    let error = exchange.rebuild(&target.target(), &facts, false).await.unwrap_err();
    assert!(error.to_string().contains("the server is version 15, older than the 18"), "{error}");
    assert!(!target.server.database_exists(&target.name));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_extension_that_the_target_lacks_is_named_before_anything_is_done() {
    let original = Server::Fifteen.database();
    let (_, mut facts) = captured(&original).await;
    facts["extensions"].as_array_mut().unwrap().push(serde_json::json!({ "name": "postgis_nowhere", "version": "1" }));
    let error = Server::Fifteen.absent_database().target().inspect(&facts, false).await.unwrap_err();
    assert!(error.to_string().contains("install the packages of postgis_nowhere"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_of_a_database_is_refused_with_the_way_to_get_it() {
    let original = Server::Fifteen.database();
    let (exchange, facts) = captured(&original).await;
    let context = RebuildContext {
        origin: exchange,
        facts: &facts,
        observer: Tally::alone(),
        clock: SystemClock::shared(),
        parallelism: 1,
        into_existing: false,
        partial: true,
    };
    let error = Server::Fifteen.absent_database().target().rebuild(context).await.unwrap_err();
    assert!(error.to_string().contains("pg_dump --table"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_yield_one_value_and_cannot_write() {
    let database = Server::Fifteen.database();
    database.psql("CREATE TABLE t AS SELECT n FROM generate_series(1, 3) n");
    let config = database.config();
    assert_eq!(probe(&config, "SELECT count(*) > 0 FROM t").await.unwrap(), "t");
    assert_eq!(probe(&config, "SELECT NULL").await.unwrap(), "");
    assert!(probe(&config, "SELECT n FROM t").await.unwrap_err().to_string().contains("3 rows"));
    assert!(probe(&config, "DELETE FROM t RETURNING 1").await.unwrap_err().to_string().contains("read-only"));
    assert_eq!(database.psql("SELECT count(*) FROM t"), "3");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_come_distinct_in_byte_order_and_without_nulls() {
    let database = Server::Fifteen.database();
    database.psql("CREATE TABLE files (path text); INSERT INTO files VALUES ('b'), ('a'), (NULL), ('B'), ('ä'), ('a'), ('a/b')");
    let keys: Vec<String> = sorted_keys(&database.config(), "SELECT path FROM files -- all;").try_collect().await.unwrap();
    assert_eq!(keys, ["B", "a", "a/b", "b", "ä"]);
    let error = sorted_keys(&database.config(), "SELECT nothing FROM files").try_collect::<Vec<_>>().await.unwrap_err();
    assert!(error.to_string().contains("nothing"), "{error}");
    // Many keys, of which only the first is wanted: the rest is not waited for.
    let mut many = sorted_keys(&database.config(), "SELECT n FROM generate_series(1, 1000000) n");
    assert_eq!(many.try_next().await.unwrap().unwrap(), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scratch_cluster_is_private_and_leaves_nothing_behind() {
    let directory = scratch_directory();
    let place = directory.path().join("cluster");
    let cluster = scratch(&place).await;
    let config = PostgresConfig::parse(&cluster.url("postgres"), None).unwrap();
    for (setting, value) in [("listen_addresses", ""), ("archive_mode", "off"), ("fsync", "on"), ("shared_preload_libraries", "")] {
        assert_eq!(probe(&config, &format!("SHOW {setting}")).await.unwrap(), value, "{setting}");
    }
    assert_eq!(std::fs::metadata(&place).unwrap().permissions().mode() & 0o777, 0o700);
    let pid = std::fs::read_to_string(place.join("data/postmaster.pid")).unwrap().lines().next().unwrap().to_owned();
    assert!(Path::new("/proc").join(&pid).exists());
    drop(cluster);
    assert!(!place.exists() && !Path::new("/proc").join(&pid).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scratch_cluster_replaces_what_a_crash_left_and_nothing_else() {
    let directory = scratch_directory();
    let place = directory.path().join("cluster");
    let crashed = scratch(&place).await;
    let pid = std::fs::read_to_string(place.join("data/postmaster.pid")).unwrap().lines().next().unwrap().to_owned();
    // As if killed: nobody tidies up, and the server goes on.
    std::mem::forget(crashed);
    let cluster = scratch(&place).await;
    let config = PostgresConfig::parse(&cluster.url("postgres"), None).unwrap();
    assert_eq!(probe(&config, "SELECT 1").await.unwrap(), "1");
    let now = std::fs::read_to_string(place.join("data/postmaster.pid")).unwrap();
    assert!(!now.starts_with(&format!("{pid}\n")), "it is another server");
    drop(cluster);

    std::fs::create_dir(&place).unwrap();
    std::fs::write(place.join("thesis.txt"), "years of work").unwrap();
    let error = ScratchCluster::start(&place, Some(&Server::Fifteen.bin()), 15).await.unwrap_err();
    assert!(matches!(error, SourceError::UnfitTarget { .. }), "{error:?}");
    assert_eq!(std::fs::read_to_string(place.join("thesis.txt")).unwrap(), "years of work");
}
