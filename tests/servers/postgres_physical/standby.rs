//! From a standby.

use std::sync::Arc;

use farshore::sources::postgres::physical::{PhysicalTarget, PhysicalTargetOptions};

use super::cluster::Cluster;
use crate::{
    postgres::{Server, run},
    support::database_exchange::Exchange,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_is_captured_and_one_that_is_promoted_meanwhile_is_not() {
    let server = Server::Fifteen;
    let primary = Cluster::new(server, &["autovacuum=off"]);
    primary.make_role("postgres");
    primary.psql("postgres", "CREATE TABLE rows AS SELECT generate_series(1, 1000) AS id");
    let mut standby = Cluster::unstarted(server, &["hot_standby=on"]);
    let mut basebackup = primary.program("pg_basebackup");
    basebackup.arg("-D").arg(standby.data()).args(["-c", "fast", "--no-sync", "-R"]);
    run(basebackup);
    standby.start();
    primary.psql("postgres", "INSERT INTO rows SELECT generate_series(1001, 2000); CHECKPOINT");
    let at = primary.psql("postgres", "SELECT pg_current_wal_lsn()");
    for _ in 0..200 {
        if standby.psql("postgres", &format!("SELECT pg_last_wal_replay_lsn() >= '{at}'")) == "t" {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let exchange = Arc::new(Exchange::default());
    let captured = exchange.capture(&standby.source("postgres"), 2).await.unwrap();
    assert_eq!(captured.facts["from_standby"], true);
    let mut restored = Cluster::unstarted(server, &[]);
    let target = PhysicalTarget::new(restored.data(), PhysicalTargetOptions::default());
    exchange.rebuild(&target, &captured.facts, false).await.unwrap();
    restored.start();
    assert_eq!(restored.psql("postgres", "SELECT count(*), pg_is_in_recovery() FROM rows"), "2000|f");
    restored.amcheck();
    let promoted = super::failures::disturbed(&standby, || {
        standby.psql("postgres", "SELECT pg_promote()");
    });
    let error = promoted.await.unwrap_err();
    assert!(error.to_string().contains("promoted"), "{error}");
}
