//! An index of an unlogged table that is built while a backup is made, and done meanwhile or after it.

use std::{
    path::{Path, PathBuf},
    process::Child,
    sync::Arc,
    time::Duration,
};

use farshore::{
    progress::CheckOutcome,
    sources::postgres::physical::{PhysicalTarget, PhysicalTargetOptions, Recovery, RecoveryTarget, Start},
};

use super::{
    cluster::{Cluster, copied_from, directory, give, stop_on},
    failures::{SLOW, disturbed_into},
};
use crate::{
    postgres::{Server, run},
    support::database_exchange::Exchange,
};

const SETUP: &str = "CREATE UNLOGGED TABLE hot (id int); INSERT INTO hot VALUES (1); CREATE TABLE kept (id int)";
/// An index over this waits, when it has its file and not yet its init fork, until there is a file `go` in the data directory.
const WAITS: &str = "CREATE FUNCTION waits(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS \
    'BEGIN WHILE pg_stat_file(''go'', true) IS NULL LOOP PERFORM pg_sleep(0.01); END LOOP; RETURN $1; END'";

/// A cluster with such an index, which has its file, in a tablespace in this directory if there is one.
struct Building {
    cluster: Cluster,
    archive: PathBuf,
    build: Child,
}

impl Building {
    fn begin(server: Server, tablespace: Option<&Path>) -> Self {
        let cluster = Cluster::new(server, &["archive_mode=on"]);
        let archive = cluster.archives_by_copying();
        cluster.leaves_its_socket();
        cluster.psql("postgres", "CREATE DATABASE app");
        cluster.make_role("app");
        let mut setup = cluster.psql_command("app", SETUP);
        setup.args(["-c", WAITS]);
        run(setup);
        let place = tablespace.map_or("", |directory| {
            cluster.psql("postgres", &format!("CREATE TABLESPACE fast LOCATION '{}'", directory.display()));
            "TABLESPACE fast"
        });
        let mut build = cluster.psql_command("app", &format!("CREATE INDEX slow ON hot (waits(id)) {place}")).spawn().unwrap();
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'CREATE INDEX slow%' AND wait_event = 'PgSleep'";
        while cluster.psql("postgres", waits) != "1" {
            assert!(build.try_wait().unwrap().is_none());
            std::thread::sleep(Duration::from_millis(10));
        }
        Self { cluster, archive, build }
    }

    /// With a row that only the archive has.
    fn stop(&mut self) {
        self.cluster.psql("app", "INSERT INTO kept VALUES (7)");
        self.cluster.stop(true);
    }

    fn recovery(&self) -> Recovery {
        Recovery { target: RecoveryTarget::Latest, fetch: Some(copied_from(&self.archive, "")), ..Recovery::default() }
    }
}

/// Lets it be built. Returns its file.
fn finished(cluster: &Cluster, build: &mut Child) -> String {
    cluster.write("data/go", b"");
    assert!(build.wait().unwrap().success());
    cluster.psql("app", "SELECT pg_relation_filepath('slow')")
}

/// The tables that are there, of which one is not logged.
const ROWS: &str = "SELECT (SELECT count(*) FROM hot), (SELECT max(id) FROM kept)";

async fn is_recovered(server: Server) {
    let mut building = Building::begin(server, None);
    let exchange = Arc::<Exchange>::default();
    let facts = exchange.capture(&building.cluster.source("app"), 2).await.unwrap().facts;
    let index = finished(&building.cluster, &mut building.build);
    // Else this would be a test of nothing.
    let captured = exchange.files("data/");
    assert!(captured.contains_key(&index) && !captured.contains_key(&format!("{index}_init")), "{:?}", captured.keys());
    building.stop();

    let recovery = building.recovery();
    let restore = async |data: &std::path::Path, start: Option<Start>| {
        let options = PhysicalTargetOptions { recovery: recovery.clone(), start, ..PhysicalTargetOptions::default() };
        exchange.rebuild(&PhysicalTarget::new(data, options), &facts, false).await.unwrap().0
    };

    // By hand: the server ends once, and comes up when it is started again.
    let mut by_hand = Cluster::unstarted(server, &["archive_mode=off"]);
    restore(&by_hand.data(), None).await;
    assert!(!by_hand.try_start());
    assert!(by_hand.log().contains(&format!("could not create file \"{index}\": File exists")), "{}", by_hand.log());
    by_hand.start();
    assert_eq!(by_hand.psql("app", ROWS), "0|7");
    drop(by_hand);

    // By the program, which starts it again itself; then it runs where the one that was captured did.
    let place = directory();
    let data = place.path().join("data");
    let rebuilt = restore(&data, Some(Start { bin_directory: Some(server.bin().to_owned()) })).await;
    let failed: Vec<_> = rebuilt.checks.iter().filter(|check| check.outcome == CheckOutcome::Failed).collect();
    assert!(failed.is_empty(), "{failed:?}");
    assert!(rebuilt.checks.iter().any(|check| check.name == "server started"), "{:?}", rebuilt.checks);
    let rows = building.cluster.psql("app", ROWS);
    stop_on(&data, server);
    assert_eq!(rows, "0|7");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_15_with_an_index_that_is_built_over_the_end_of_the_backup_is_recovered() {
    is_recovered(Server::Fifteen).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_18_with_an_index_that_is_built_over_the_end_of_the_backup_is_recovered() {
    is_recovered(Server::Eighteen).await;
}

/// Where the index is done while the backup runs, its log says so, and the file is not restored.
async fn comes_up_at_once(server: Server) {
    let place = directory();
    let fast = place.path().join("fast");
    std::fs::create_dir(&fast).unwrap();
    give(&fast);
    let mut building = Building::begin(server, Some(&fast));
    let exchange = Arc::new(Exchange::slow(SLOW));
    let mut index = String::new();
    let captured = {
        let (build, cluster) = (&mut building.build, &building.cluster);
        disturbed_into(&exchange, cluster, "app", || index = finished(cluster, build)).await.unwrap()
    };
    let captured_files = exchange.files("data/");
    assert!(captured_files.contains_key(&index), "{:?}", captured_files.keys());
    assert_eq!(captured.facts["unlogged_meanwhile"], serde_json::json!([index]));
    assert_eq!(captured.facts["unlogged_relations"], 2, "the table and its index");
    building.stop();

    let mut restored = Cluster::unstarted(server, &["archive_mode=off"]);
    let there = place.path().join("there");
    let options = PhysicalTargetOptions {
        recovery: building.recovery(),
        tablespaces: vec![("fast".to_owned(), there.clone())],
        ..PhysicalTargetOptions::default()
    };
    exchange.rebuild(&PhysicalTarget::new(restored.data(), options), &captured.facts, false).await.unwrap();
    assert!(!restored.data().join(&index).exists());
    restored.start();
    assert_eq!(restored.psql("app", ROWS), "0|7");
    assert!(restored.data().join(&index).exists(), "as it is when it is empty");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_15_with_an_index_that_is_built_within_the_backup_comes_up_at_once() {
    comes_up_at_once(Server::Fifteen).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_18_with_an_index_that_is_built_within_the_backup_comes_up_at_once() {
    comes_up_at_once(Server::Eighteen).await;
}
