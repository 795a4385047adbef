//! A capture while everything happens that may.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use farshore::{
    progress::CheckOutcome,
    sources::{
        Rebuild,
        postgres::physical::{PhysicalScratch, PhysicalTarget, PhysicalTargetOptions, ReadBy, Recovery},
    },
};
use serde_json::Value;

use super::{
    cluster::{Cluster, directory},
    tablespaces::state,
};
use crate::{
    postgres::{Server, run},
    support::database_exchange::Exchange,
};

/// What goes on beside the transfers, in turn.
const COMMOTION: [&str; 13] = [
    // First: a capture begins when all has happened once.
    "DROP TABLE IF EXISTS copied; CREATE TABLE copied (id int); COPY copied FROM PROGRAM 'seq 1 1000000'",
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

/// Until it is told to stop, makes tablespaces with a table in each, most of which it drops again; a second apart from one that stays.
fn makes_tablespaces(cluster: &Cluster, stop: &AtomicBool) {
    let brief = cluster.make("brief");
    for number in 0..60 {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let stays = cluster.make(&format!("stays_{number}"));
        cluster.psql(
            "postgres",
            &format!(
                "CREATE TABLESPACE stays_{number} LOCATION '{}'; CREATE TABLE rows_{number} TABLESPACE stays_{number} AS SELECT generate_series(1, 500) AS id; \
                 CREATE INDEX ON rows_{number} (id) TABLESPACE stays_{number}",
                stays.display()
            ),
        );
        for _ in 0..5 {
            cluster.psql(
                "postgres",
                &format!(
                    "CREATE TABLESPACE brief LOCATION '{}'; CREATE TABLE briefly TABLESPACE brief AS SELECT generate_series(1, 500) AS id; \
                     DROP TABLE briefly; DROP TABLESPACE brief",
                    brief.display()
                ),
            );
        }
        std::thread::sleep(Duration::from_millis(300));
    }
}

/// What a snapshot's facts say of these tablespaces.
fn names(facts: &Value, which: &str) -> Vec<String> {
    facts[which].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect()
}

pub(super) async fn survives(server: Server, read_by: ReadBy) {
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
    let source = cluster.source_read_by("postgres", read_by);
    let captured = std::thread::scope(|scope| {
        let commotion = scope.spawn(|| {
            for sql in COMMOTION.iter().cycle() {
                if stop.load(Ordering::SeqCst) {
                    break;
                }
                // 14 knows no other strategy, and not the word.
                let sql = if server.number() < 15 { sql.replace("STRATEGY file_copy ", "") } else { (*sql).to_owned() };
                let mut psql = cluster.psql_command("postgres", &sql);
                let output = psql.output().unwrap();
                assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
                turns.fetch_add(1, Ordering::SeqCst);
            }
        });
        scope.spawn(|| makes_tablespaces(&cluster, &stop));
        // Through it once, so that there are things to be changed.
        while turns.load(Ordering::SeqCst) < COMMOTION.len() as u32 && !stop.load(Ordering::SeqCst) && !commotion.is_finished() {
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
    let (before, made) = (names(&captured.facts, "tablespaces"), names(&captured.facts, "made_tablespaces"));
    println!("{} tablespaces there, {} made meanwhile; facts {}", before.len(), made.len(), captured.facts["tablespaces_in_log"]);
    assert!(before.contains(&"fast".to_owned()) && !made.is_empty(), "{before:?}, {made:?}");
    assert!(captured.facts["tablespaces_in_log"].as_u64().unwrap() > 2 * made.len() as u64, "{}", captured.facts);
    cluster.psql("postgres", "CREATE TABLE afterwards (); ALTER SYSTEM SET autovacuum = off; SELECT pg_reload_conf(); CHECKPOINT");

    // The primary goes on running, and nothing of what it has elsewhere is touched.
    let elsewhere: Vec<_> =
        [&before[..], &made[..], &["brief".to_owned()]].concat().iter().map(|name| cluster.path(name)).collect();
    let elsewhere: Vec<_> = elsewhere.iter().map(std::path::PathBuf::as_path).filter(|path| path.exists()).collect();
    let untouched = state(&elsewhere);
    let mut restored = Cluster::unstarted(server, &[]);
    // Of those that were made meanwhile one gets a place of its own.
    let placed: Vec<&String> = before.iter().chain(made.iter().find(|name| name.starts_with("stays"))).collect();
    let tablespaces = placed.iter().map(|name| (name.to_string(), restored.path(name))).collect();
    let target = PhysicalTarget::new(restored.data(), PhysicalTargetOptions { tablespaces, ..PhysicalTargetOptions::default() });
    let plan = target.inspect(&captured.facts, false).await.unwrap();
    let (rebuilt, _) = exchange.rebuild(&target, &captured.facts, false).await.unwrap();
    restored.start();
    for name in made.iter().filter(|name| !placed.contains(name)) {
        assert!(plan.contains(&format!("tablespace {name}, made during the backup")), "{plan}");
        assert!(
            rebuilt.checks.iter().any(|check| check.name.contains(&format!("tablespace {name}, made"))),
            "{:?}",
            rebuilt.checks
        );
    }
    let sums = restored.psql("postgres", SUMS);
    let sums: Vec<&str> = sums.split('|').collect();
    assert!(sums.iter().all(|sum| *sum == sums[0]), "{sums:?}");
    assert!(restored.psql("postgres", "SELECT count(*) > 10 FROM pgbench_history") == "t");
    assert_eq!(restored.psql("postgres", "SELECT to_regclass('afterwards') IS NULL, count(*) = max(id) FROM kept"), "t|t");
    let locations = "SELECT spcname, pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname !~ '^pg_'";
    let own = restored.path("").display().to_string();
    for line in restored.psql("postgres", locations).lines() {
        let (name, location) = line.split_once('|').unwrap();
        assert!(location.starts_with(&own) || location.starts_with("pg_tblspc/"), "{line}");
        // The one that comes and goes may be any of several.
        let is_placed = placed.iter().any(|placed| *placed == name);
        assert!(name == "brief" || is_placed == location.starts_with(&own), "{line}");
    }
    // All of a COPY, or nothing.
    let is_there = restored.psql("postgres", "SELECT to_regclass('copied') IS NOT NULL") == "t";
    let copied = if is_there {
        restored.psql("postgres", "SELECT count(*), coalesce(sum(id::int8), 0) FROM copied")
    } else {
        "0|0".to_owned()
    };
    assert!(["0|0", "1000000|500000500000"].contains(&copied.as_str()), "{copied}");
    let tables = restored.psql("postgres", "SELECT relname FROM pg_class WHERE relname ~ '^rows_[0-9]+$'");
    assert!(tables.lines().count() >= made.len() - 1, "{tables}");
    for table in tables.lines() {
        assert_eq!(
            restored.psql("postgres", &format!("SELECT count(*) FROM {table}; CREATE TABLE more_{table} (LIKE {table})")),
            "500"
        );
    }
    restored.amcheck();
    restored.check_checksums();
    drop(restored);

    // A drill has all of them beside its data.
    let place = directory();
    let (scratch, _) = PhysicalScratch::make(place.path(), Some(server.bin()), &captured.facts, Recovery::default()).unwrap();
    let (drilled, _) = exchange.rebuild(&scratch, &captured.facts, false).await.unwrap();
    assert!(drilled.checks.iter().all(|check| check.outcome != CheckOutcome::Failed), "{:#?}", drilled.checks);
    drop(scratch);
    assert_eq!(state(&elsewhere), untouched, "the primary's directories");
    assert_eq!(cluster.psql("postgres", "SELECT to_regclass('afterwards') IS NULL"), "f");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_capture_of_15_under_load_is_consistent() {
    survives(Server::Fifteen, ReadBy::Sql).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_capture_of_15_from_its_data_directory_under_load_is_consistent() {
    survives(Server::Fifteen, ReadBy::Files).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_capture_of_17_under_load_is_consistent() {
    survives(Server::Seventeen, ReadBy::Sql).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_capture_of_18_under_load_is_consistent() {
    survives(Server::Eighteen, ReadBy::Files).await;
}
