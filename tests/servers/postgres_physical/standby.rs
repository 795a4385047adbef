//! From a standby.

use std::sync::Arc;

use farshore::{
    clock::SystemClock,
    progress::CheckOutcome,
    sources::{
        Capture, Examination, SourceError,
        postgres::physical::{PhysicalTarget, PhysicalTargetOptions},
    },
};

use super::{cluster::Cluster, failures::disturbed};
use crate::{
    postgres::{Server, run},
    support::database_exchange::Exchange,
};

/// A primary and its standby.
struct Pair {
    primary: Cluster,
    standby: Cluster,
}

fn eventually(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..400 {
        if holds() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(25));
    }
    panic!("{what} in ten seconds");
}

/// Some versions quote the names of settings, and some do not.
fn without_quotes(error: &SourceError) -> String {
    error.to_string().replace('"', "")
}

impl Pair {
    fn new(server: Server) -> Self {
        let primary = Cluster::new(server, &["autovacuum=off"]);
        primary.make_role("postgres");
        primary.psql("postgres", "CREATE TABLE rows AS SELECT generate_series(1, 1000) AS id");
        let mut standby = Cluster::unstarted(server, &["hot_standby=on"]);
        let mut basebackup = primary.program("pg_basebackup");
        basebackup.arg("-D").arg(standby.data()).args(["-c", "fast", "--no-sync", "-R"]);
        run(basebackup);
        // The testbed's newer servers find an older libpq on the machine, which does not know all the words that pg_basebackup writes.
        let conninfo = format!("primary_conninfo = 'host={} user=postgres'", primary.path("").display());
        let settings = std::fs::read_to_string(standby.data().join("postgresql.auto.conf")).unwrap();
        standby.write("data/postgresql.auto.conf", format!("{settings}\n{conninfo}\n").as_bytes());
        standby.start();
        Self { primary, standby }
    }

    /// The standby has replayed all that the primary wrote.
    fn catches_up(&self) {
        let at = self.primary.psql("postgres", "SELECT pg_current_wal_lsn()");
        eventually("replays", || self.standby.psql("postgres", &format!("SELECT pg_last_wal_replay_lsn() >= '{at}'")) == "t");
    }

    /// Both have a checkpoint at which the primary wrote whole pages, or did not.
    fn full_page_writes(&self, value: &str) {
        self.primary.psql("postgres", &format!("ALTER SYSTEM SET full_page_writes = {value}; SELECT pg_reload_conf()"));
        let is_so = |cluster: &Cluster| {
            cluster.psql("postgres", "CHECKPOINT");
            cluster.psql("postgres", "SELECT CASE WHEN full_page_writes THEN 'on' ELSE 'off' END FROM pg_control_checkpoint()")
                == value
        };
        eventually("checkpoint", || is_so(&self.primary));
        eventually("restartpoint", || is_so(&self.standby));
        self.catches_up();
    }

    /// Why a capture of the standby fails.
    async fn refused(&self) -> String {
        let exchange = Exchange::default();
        let error = exchange.capture(&self.standby.source("postgres"), 2).await.unwrap_err();
        let entries = exchange.all_entries();
        assert!(!entries.iter().any(|entry| ["control", "label"].contains(&entry.kind.as_str())), "what came is no snapshot");
        eventually("no slot is left", || self.standby.psql("postgres", "SELECT count(*) FROM pg_replication_slots") == "0");
        without_quotes(&error)
    }

    /// What an examination says of one thing.
    async fn found(&self, name: &str) -> Option<(CheckOutcome, String)> {
        let context = Examination { clock: SystemClock::shared(), scratch_drills: false };
        let findings = self.standby.source("postgres").examine(&context).await;
        let found = findings.iter().find(|finding| finding.name == name);
        found.map(|finding| (finding.outcome, format!("{}: {}", finding.found, finding.mend.clone().unwrap_or_default())))
    }
}

pub(super) async fn is_captured(server: Server) {
    let pair = Pair::new(server);
    let Pair { primary, standby } = &pair;
    primary.psql("postgres", "INSERT INTO rows SELECT generate_series(1001, 2000); CHECKPOINT");
    pair.catches_up();
    let exchange = Arc::new(Exchange::default());
    let captured = exchange.capture(&standby.source("postgres"), 2).await.unwrap();
    assert_eq!(captured.facts["from_standby"], true);
    let mut restored = Cluster::unstarted(server, &[]);
    let target = PhysicalTarget::new(restored.data(), PhysicalTargetOptions::default());
    exchange.rebuild(&target, &captured.facts, false).await.unwrap();
    restored.start();
    assert_eq!(restored.psql("postgres", "SELECT count(*), pg_is_in_recovery() FROM rows"), "2000|f");
    restored.amcheck();

    assert_eq!(pair.found("standby").await.unwrap().0, CheckOutcome::Passed);
    assert_eq!(pair.found("full_page_writes").await.unwrap(), (CheckOutcome::Passed, "on at the primary: ".to_owned()));
    match pair.found("summarize_wal").await {
        None => assert!(server.number() < 17),
        Some((outcome, said)) => assert!(outcome == CheckOutcome::Note && said.contains("of no use on a standby"), "{said}"),
    }

    // Pages that are read while they are written could not be mended.
    pair.full_page_writes("off");
    let said = pair.refused().await;
    assert!(said.contains("full_page_writes=off was replayed since last restartpoint"), "{said}");
    assert!(said.contains("Enable full_page_writes and run CHECKPOINT on the primary"), "{said}");
    let (outcome, said) = pair.found("full_page_writes").await.unwrap();
    assert!(outcome == CheckOutcome::Failed && said.contains("ALTER SYSTEM SET full_page_writes = on"), "{said}");
    pair.full_page_writes("on");
    Exchange::default().capture(&standby.source("postgres"), 2).await.unwrap();
    let error = disturbed(standby, || pair.full_page_writes("off")).await.unwrap_err();
    let error = without_quotes(&error);
    assert!(error.contains("full_page_writes=off was replayed during online backup"), "{error}");

    pair.full_page_writes("on");
    let promoted = disturbed(standby, || {
        standby.psql("postgres", "SELECT pg_promote()");
    });
    let error = promoted.await.unwrap_err();
    assert!(error.to_string().contains("promoted"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_of_15_is_captured_and_one_that_lacks_whole_pages_or_is_promoted_meanwhile_is_not() {
    is_captured(Server::Fifteen).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_of_17_is_captured_and_one_that_lacks_whole_pages_or_is_promoted_meanwhile_is_not() {
    is_captured(Server::Seventeen).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_of_18_is_captured_and_one_that_lacks_whole_pages_or_is_promoted_meanwhile_is_not() {
    is_captured(Server::Eighteen).await;
}
