//! An index of an unlogged table that is built while a backup is made, and done after it.

use std::{sync::Arc, time::Duration};

use farshore::{
    progress::CheckOutcome,
    sources::postgres::physical::{PhysicalTarget, PhysicalTargetOptions, Recovery, RecoveryTarget, Start},
};

use super::cluster::{Cluster, copied_from, directory, stop_on};
use crate::{
    postgres::{Server, run},
    support::database_exchange::Exchange,
};

const SETUP: &str = "CREATE UNLOGGED TABLE hot (id int); INSERT INTO hot VALUES (1); CREATE TABLE kept (id int)";
/// An index over this waits, when it has its file and not yet its init fork, until there is a file `go` in the data directory.
const WAITS: &str = "CREATE FUNCTION waits(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS \
    'BEGIN WHILE pg_stat_file(''go'', true) IS NULL LOOP PERFORM pg_sleep(0.01); END LOOP; RETURN $1; END'";

async fn is_recovered(server: Server) {
    let mut cluster = Cluster::new(server, &["archive_mode=on"]);
    let archive = cluster.archives_by_copying();
    cluster.leaves_its_socket();
    cluster.psql("postgres", "CREATE DATABASE app");
    cluster.make_role("app");
    let mut setup = cluster.psql_command("app", SETUP);
    setup.args(["-c", WAITS]);
    run(setup);
    let mut building = cluster.psql_command("app", "CREATE INDEX slow ON hot (waits(id))").spawn().unwrap();
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'CREATE INDEX slow%' AND wait_event = 'PgSleep'";
    while cluster.psql("postgres", waits) != "1" {
        assert!(building.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(10));
    }

    let exchange = Arc::<Exchange>::default();
    let facts = exchange.capture(&cluster.source("app"), 2).await.unwrap().facts;
    cluster.write("data/go", b"");
    assert!(building.wait().unwrap().success());
    let index = cluster.psql("app", "SELECT pg_relation_filepath('slow')");
    // Else this would be a test of nothing.
    let captured = exchange.files("data/");
    assert!(captured.contains_key(&index) && !captured.contains_key(&format!("{index}_init")), "{:?}", captured.keys());
    cluster.psql("app", "INSERT INTO kept VALUES (7)");
    cluster.stop(true);

    let fetch = Some(copied_from(&archive, ""));
    let recovery = Recovery { target: RecoveryTarget::Latest, fetch, ..Recovery::default() };
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
    assert_eq!(by_hand.psql("app", "SELECT (SELECT count(*) FROM hot), (SELECT max(id) FROM kept)"), "0|7");
    drop(by_hand);

    // By the program, which starts it again itself; then it runs where the one that was captured did.
    let place = directory();
    let data = place.path().join("data");
    let rebuilt = restore(&data, Some(Start { bin_directory: Some(server.bin().to_owned()) })).await;
    let failed: Vec<_> = rebuilt.checks.iter().filter(|check| check.outcome == CheckOutcome::Failed).collect();
    assert!(failed.is_empty(), "{failed:?}");
    assert!(rebuilt.checks.iter().any(|check| check.name == "server started"), "{:?}", rebuilt.checks);
    let rows = cluster.psql("app", "SELECT (SELECT count(*) FROM hot), (SELECT max(id) FROM kept)");
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
