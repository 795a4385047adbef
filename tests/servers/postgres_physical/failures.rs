//! What goes wrong in the middle of a capture. There is a reason, and no snapshot.

use std::time::Duration;

use farshore::{
    progress::Tally,
    sources::{Captured, SourceError},
};

use super::cluster::Cluster;
use crate::{postgres::Server, support::database_exchange::Exchange};

/// As long as it takes to open each content of some thousand: slow enough for something to happen in between.
pub const SLOW: Duration = Duration::from_millis(1);

/// Captures, and does something as soon as entries come.
pub async fn disturbed(cluster: &Cluster, disturb: impl FnOnce()) -> Result<Captured, SourceError> {
    disturbed_into(&Exchange::slow(SLOW), cluster, "postgres", disturb).await
}

/// The same into an exchange that is slow enough for it, of a cluster that is known by this database.
pub async fn disturbed_into(
    exchange: &Exchange,
    cluster: &Cluster,
    database: &str,
    disturb: impl FnOnce(),
) -> Result<Captured, SourceError> {
    let source = cluster.source(database);
    let disturbing = async {
        while exchange.all_entries().len() < 50 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokio::task::block_in_place(disturb);
    };
    tokio::join!(exchange.capture(&source, 2), disturbing).0
}

/// Over SQL on 15 and 17, from the data directory on 18.
pub(super) async fn fails_with_the_reason(server: Server) {
    let mut cluster = Cluster::new(server, &["autovacuum=off"]);
    cluster.make_role("postgres");
    disturbed(&cluster, || {}).await.unwrap();

    let slot = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE temporary";
    let error = disturbed(&cluster, || assert_eq!(cluster.psql("postgres", slot), "t")).await.unwrap_err();
    assert!(error.to_string().contains("looking after the replication slot"), "{error}");

    let backup = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE query ~ 'pg_(backup_start|start_backup)' AND pid <> pg_backend_pid()";
    let error = disturbed(&cluster, || assert_eq!(cluster.psql("postgres", backup), "1")).await.unwrap_err();
    assert!(error.to_string().contains("ending the backup"), "{error}");

    let first = "SELECT pg_walfile_name(redo_lsn) FROM pg_control_checkpoint()";
    let remove = || {
        let name = cluster.psql("postgres", first);
        // What is replayed must go beyond the segment that the server still has open.
        cluster.psql("postgres", "CREATE TABLE more AS SELECT generate_series(1, 1000); SELECT pg_switch_wal()");
        std::fs::remove_file(cluster.data().join("pg_wal").join(name)).unwrap();
    };
    let error = disturbed(&cluster, remove).await.unwrap_err();
    assert!(error.to_string().contains("segment 0") && error.to_string().contains("is not there"), "{error}");

    let exchange = Exchange::slow(SLOW);
    let source = cluster.source("postgres");
    let restart = async {
        while exchange.all_entries().len() < 50 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokio::task::block_in_place(|| {
            cluster.stop(true);
            cluster.start();
        });
    };
    let error = tokio::join!(exchange.capture(&source, 2), restart).0.unwrap_err();
    assert!(matches!(error, SourceError::Unreachable { .. }), "{error:?}");
    assert!(!exchange.all_entries().iter().any(|entry| entry.kind == "control"), "what came is no snapshot");
    assert_eq!(cluster.psql("postgres", "SELECT count(*) FROM pg_replication_slots"), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_capture_of_15_that_lost_what_it_needs_fails_with_the_reason() {
    fails_with_the_reason(Server::Fifteen).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_capture_of_17_that_lost_what_it_needs_fails_with_the_reason() {
    fails_with_the_reason(Server::Seventeen).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_capture_of_18_that_lost_what_it_needs_fails_with_the_reason() {
    fails_with_the_reason(Server::Eighteen).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_page_is_named_with_its_relation_and_block() {
    let mut cluster = Cluster::new(Server::Eighteen, &["autovacuum=off"]);
    cluster.make_role("postgres");
    cluster.psql("postgres", "CREATE DATABASE other");
    for database in ["postgres", "other"] {
        cluster.psql(database, "CREATE TABLE rows AS SELECT repeat(md5(n::text), 20) FROM generate_series(1, 500) n");
    }
    let path = |database| cluster.psql(database, "SELECT pg_relation_filepath('rows')");
    let (here, there) = (path("postgres"), path("other"));
    cluster.stop(true);
    cluster.damage(&here, 7, 8000);
    // Its LSN: the page seems to be of the far future.
    cluster.damage(&here, 9, 0);
    cluster.damage(&there, 3, 8000);
    cluster.start();
    let (exchange, observer) = (Exchange::default(), Tally::alone());
    let captured = exchange.capture_watched(&cluster.source("postgres"), 2, observer.clone()).await.unwrap();
    let problems = observer.problems();
    let mut said: Vec<String> = problems.iter().map(|problem| format!("{problem:?}")).collect();
    said.sort();
    assert_eq!(said.len(), 3, "{said:?}");
    let named = |words: &[&str]| said.iter().any(|said| words.iter().all(|word| said.contains(word)));
    assert!(named(&[here.as_str(), "block 7 of relation public.rows"]), "{said:?}");
    assert!(named(&[here.as_str(), "block 9 of relation public.rows"]), "{said:?}");
    assert!(named(&[there.as_str(), "block 3 of the relation with file number", "database other"]), "{said:?}");
    assert_eq!(captured.facts["pages_damaged"], 3);
}
