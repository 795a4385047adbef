//! A capture while everything happens that may.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use farshore::sources::postgres::physical::{PhysicalTarget, PhysicalTargetOptions};

use super::cluster::Cluster;
use crate::{
    postgres::{Server, run},
    support::database_exchange::Exchange,
};

/// What goes on beside the transfers, in turn.
const COMMOTION: [&str; 12] = [
    "CREATE TABLE made AS SELECT n AS id, repeat('x', 200) AS words FROM generate_series(1, 3000) n; CREATE INDEX ON made (id)",
    "UPDATE made SET words = words || 'y' WHERE id % 3 = 0; VACUUM made",
    "INSERT INTO kept SELECT max(id) + 1 FROM kept; VACUUM FULL kept; REINDEX TABLE kept",
    "DELETE FROM made WHERE id > 100; VACUUM made",
    "ALTER TABLE made SET TABLESPACE fast; ALTER TABLE made SET UNLOGGED; ALTER TABLE made SET LOGGED",
    "TRUNCATE made; INSERT INTO made SELECT n, 'z' FROM generate_series(1, 100) n",
    "DROP TABLE made; CHECKPOINT",
    "CREATE DATABASE short TEMPLATE template0",
    "DROP DATABASE short",
    "CREATE DATABASE short TEMPLATE template0 STRATEGY file_copy TABLESPACE fast",
    "DROP DATABASE short; DROP TABLESPACE IF EXISTS gone",
    "VACUUM FULL pg_catalog.pg_class; CREATE TEMP TABLE mine AS SELECT 1; REINDEX INDEX kept_pkey; SELECT pg_switch_wal()",
];
/// Transfers conserve these.
const SUMS: &str = "SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(tbalance) FROM pgbench_tellers), \
                    (SELECT sum(bbalance) FROM pgbench_branches), (SELECT coalesce(sum(delta), 0) FROM pgbench_history)";

async fn survives(server: Server) {
    let cluster = Cluster::new(server, &["max_wal_size=2GB", "synchronous_commit=off"]);
    cluster.make_role("postgres");
    for name in ["fast", "gone"] {
        let place = cluster.make(name);
        cluster.psql("postgres", &format!("CREATE TABLESPACE {name} LOCATION '{}'", place.display()));
    }
    let mut prepare = cluster.program("pgbench");
    prepare.args(["-i", "-q", "-s", "2", "postgres"]);
    run(prepare);
    cluster.psql("postgres", "CREATE TABLE kept (id int PRIMARY KEY); INSERT INTO kept SELECT generate_series(1, 20000)");
    let mut transfers = cluster.program("pgbench");
    transfers
        .args(["-n", "-c", "2", "-T", "120", "postgres"])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null());
    let mut transfers = transfers.spawn().unwrap();
    let (stop, turns) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    // Slow enough for the commotion to go round.
    let exchange = Arc::new(Exchange::slow(Duration::from_millis(2)));
    let source = cluster.source("postgres");
    let captured = std::thread::scope(|scope| {
        scope.spawn(|| {
            for sql in COMMOTION.iter().cycle() {
                if stop.load(Ordering::SeqCst) {
                    break;
                }
                let mut psql = cluster.psql_command("postgres", sql);
                let output = psql.output().unwrap();
                assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
                turns.fetch_add(1, Ordering::SeqCst);
            }
        });
        // Through it once, so that there are things to be changed.
        while turns.load(Ordering::SeqCst) < COMMOTION.len() as u32 && !stop.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let captured = tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(exchange.capture(&source, 2)));
        stop.store(true, Ordering::SeqCst);
        captured
    })
    .unwrap();
    transfers.kill().unwrap();
    transfers.wait().unwrap();
    assert!(turns.load(Ordering::SeqCst) as usize > COMMOTION.len() + 3, "something happened during the capture");
    cluster.psql("postgres", "CREATE TABLE afterwards ()");
    drop(cluster);
    let mut restored = Cluster::unstarted(server, &[]);
    let tablespaces = vec![("fast".to_owned(), restored.path("fast")), ("gone".to_owned(), restored.path("gone"))];
    let tablespaces =
        tablespaces.into_iter().filter(|(name, _)| captured.facts["tablespaces"].to_string().contains(name)).collect();
    let target = PhysicalTarget::new(restored.data(), PhysicalTargetOptions { tablespaces, ..PhysicalTargetOptions::default() });
    exchange.rebuild(&target, &captured.facts, false).await.unwrap();
    restored.start();
    let sums = restored.psql("postgres", SUMS);
    let sums: Vec<&str> = sums.split('|').collect();
    assert!(sums.iter().all(|sum| *sum == sums[0]), "{sums:?}");
    assert!(restored.psql("postgres", "SELECT count(*) > 10 FROM pgbench_history") == "t");
    assert_eq!(restored.psql("postgres", "SELECT to_regclass('afterwards') IS NULL, count(*) = max(id) FROM kept"), "t|t");
    restored.amcheck();
    restored.check_checksums();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_capture_of_15_under_load_is_consistent() {
    survives(Server::Fifteen).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_capture_of_18_under_load_is_consistent() {
    survives(Server::Eighteen).await;
}
