//! `doctor` on a cluster of which everything is wrong: what is found, what mends it, and that it is found to be mended.

use std::{os::unix::fs::symlink, path::PathBuf, process::Command};

use chrono::{TimeDelta, Utc};
use farshore::{
    clock::{FixedClock, SharedClock, SystemClock},
    progress::{
        CheckOutcome::{self, Failed, Note, Passed},
        Finding,
    },
    sources::{
        Capture, Examination,
        postgres::{
            PostgresConfig,
            physical::{LogOptions, PhysicalOptions, PostgresPhysical, ReadBy},
        },
    },
};

use super::cluster::{Cluster, ROLE, as_postgres};
use crate::postgres::{Server, run};

async fn examine(url: &str, options: PhysicalOptions, clock: SharedClock) -> Vec<Finding> {
    let source = PostgresPhysical::new(PostgresConfig::parse(url, None).unwrap(), options);
    source.examine(&Examination { clock, scratch_drills: true }).await
}

/// What was found under this name, with what mends it.
#[track_caller]
fn told<'a>(findings: &'a [Finding], name: &str) -> (CheckOutcome, String, &'a str) {
    let mut found = findings.iter().filter(|finding| finding.name == name);
    let (finding, others) = (found.next().unwrap_or_else(|| panic!("{name} in {findings:#?}")), found.count());
    assert_eq!(others, 0, "{name} in {findings:#?}");
    (finding.outcome, finding.found.clone(), finding.mend.as_deref().unwrap_or_default())
}

/// A setting as it is at first, and as it is mended.
struct Setting(&'static str, &'static str, &'static str);

/// A finding, what is said of it, and of what mends it.
struct Row(&'static str, CheckOutcome, &'static str, &'static str);

const SETTINGS: [Setting; 5] = [
    Setting("wal_level", "minimal", "replica"),
    Setting("max_wal_senders", "0", "5"),
    Setting("max_replication_slots", "0", "5"),
    Setting("max_slot_wal_keep_size", "64MB", "-1"),
    Setting("full_page_writes", "off", "on"),
];

const ROWS: [Row; 11] = [
    Row("server", Failed, "wal_level is minimal: set it to replica, and restart the server", ""),
    Row("replication slots", Failed, "none is free", "max_replication_slots"),
    Row("log kept for a slot", Note, "64MB", "max_slot_wal_keep_size"),
    Row("full_page_writes", Note, "off", "full_page_writes = on"),
    Row("page checksums", Note, "off", "pg_checksums --enable"),
    Row("configuration", Note, "pg_hba.conf for one", "GRANT pg_read_server_files"),
    Row("reading", Failed, "read_by = \"files\", and", "user who may read its data directory"),
    Row("drills", Note, "no scratch server can be started here", "install"),
    Row("pg_amcheck", Note, "no index", "contrib"),
    Row("pg_visibility", Note, "do not look at visibility maps", "contrib"),
    Row("pg_ctl", Note, "`restore --start` cannot", "bin_directory"),
];
/// From 17 on.
const SUMMARIES: [(Setting, Row); 1] =
    [(Setting("summarize_wal", "off", "on"), Row("summarize_wal", Note, "off", "SET summarize_wal = on"))];
/// From 18 on.
const SLOTS: [(Setting, Row); 1] =
    [(Setting("idle_replication_slot_timeout", "30s", "0"), Row("idle_replication_slot_timeout", Failed, "30 s", "or to 0"))];

/// Checksums are switched while the server is stopped.
fn checksums(cluster: &Cluster, way: &str) {
    let mut command = as_postgres(cluster.server.bin().join("pg_checksums"));
    command.arg(way).arg("-D").arg(cluster.path("data"));
    run(command);
}

/// A copy of the data directory.
fn copied(cluster: &Cluster, to: &str) {
    let mut copy = Command::new("cp");
    copy.arg("-a").arg(cluster.path("data")).arg(cluster.path(to));
    run(copy);
}

pub(super) async fn is_found_and_mended(server: Server) {
    let mut cluster = Cluster::new(server, &["autovacuum=off"]);
    cluster.psql("postgres", &format!("CREATE ROLE {ROLE} LOGIN"));
    cluster.stop(true);
    checksums(&cluster, "--disable");
    cluster.make("etc");
    std::fs::rename(cluster.path("data/pg_hba.conf"), cluster.path("etc/pg_hba.conf")).unwrap();
    let hba = format!("hba_file={}", cluster.path("etc/pg_hba.conf").display());
    cluster.set(hba);
    copied(&cluster, "another");
    // The server's directory is found by a name under which there is a copy of it as soon as it runs.
    symlink(cluster.path("data"), cluster.path("named")).unwrap();
    cluster.elsewhere(cluster.path("named"));
    let newer = SUMMARIES.iter().filter(|_| server.number() >= 17).chain(SLOTS.iter().filter(|_| server.number() >= 18));
    let (settings, rows): (Vec<&Setting>, Vec<&Row>) = newer.map(|(setting, row)| (setting, row)).unzip();
    let settings: Vec<&Setting> = SETTINGS.iter().chain(settings).collect();
    let rows: Vec<&Row> = ROWS.iter().chain(rows).collect();
    settings.iter().for_each(|Setting(name, wrong, _)| cluster.set(format!("{name}={wrong}")));
    cluster.start();
    let names = |to: &str| {
        std::fs::remove_file(cluster.path("named")).unwrap();
        symlink(cluster.path(to), cluster.path("named")).unwrap();
    };
    names("another");
    let none = cluster.make("bin");
    let url = cluster.role_url("postgres");
    let with = |bin: PathBuf| PhysicalOptions { bin_directory: Some(bin), read_by: ReadBy::Files, ..PhysicalOptions::default() };
    let late: SharedClock = FixedClock::shared(Utc::now() - TimeDelta::seconds(90));

    let findings = examine(&url, with(none.clone()), late.clone()).await;
    let (outcome, said, _) = told(&findings, "rights");
    assert_eq!(outcome, Failed, "{findings:#?}");
    // What needs no rights to be seen is said at the same time.
    assert_eq!(told(&findings, "wal_level").0, Failed);
    assert_eq!(told(&findings, "replication slots").0, Failed);
    cluster.psql("postgres", said.split_once("run: ").unwrap().1);

    let findings = examine(&url, with(none), late).await;
    assert_eq!(told(&findings, "rights").0, Passed, "{findings:#?}");
    for Row(name, outcome, words, mend) in &rows {
        let (found, said, mends) = told(&findings, name);
        assert!(found == *outcome && said.contains(words) && mends.contains(mend), "{name}: {found:?}, {said}, {mends}");
    }
    let (outcome, said, mends) = told(&findings, "clock");
    assert!(
        outcome == Note && (said.contains("by 90 s") || said.contains("by 91 s")) && mends.contains("chrony"),
        "{said}: {mends}"
    );

    // As it is said.
    names("data");
    cluster.psql("postgres", &format!("GRANT pg_read_server_files TO {ROLE}"));
    cluster.stop(true);
    checksums(&cluster, "--enable");
    settings.iter().for_each(|Setting(name, _, right)| cluster.set(format!("{name}={right}")));
    cluster.start();
    let findings = examine(&url, with(server.bin()), SystemClock::shared()).await;
    for name in rows.iter().map(|Row(name, ..)| *name).chain(["rights", "clock", "pooler", "connection"]) {
        let (outcome, said, mends) = told(&findings, name);
        assert!(outcome == Passed && mends.is_empty(), "{name}: {outcome:?}, {said}, {mends}");
    }
    assert!(!findings.iter().any(|finding| finding.outcome == Failed), "{findings:#?}");
    let (_, said, _) = told(&findings, "reading");
    assert!(said.contains("from the data directory itself"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_15_of_which_everything_is_wrong_is_told_what_mends_it_and_is_found_mended() {
    is_found_and_mended(Server::Fifteen).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_17_of_which_everything_is_wrong_is_told_what_mends_it_and_is_found_mended() {
    is_found_and_mended(Server::Seventeen).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_18_of_which_everything_is_wrong_is_told_what_mends_it_and_is_found_mended() {
    is_found_and_mended(Server::Eighteen).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_after_which_a_server_gives_up_what_backups_need_is_told() {
    let server = Server::Eighteen;
    let cluster = Cluster::new(server, &["summarize_wal=on", "wal_summary_keep_time=12h", "idle_replication_slot_timeout=1h"]);
    cluster.make_role("postgres");
    let log =
        LogOptions { slot: "receives".to_owned(), hold_bytes: 1 << 30, most_file_bytes: 128 << 20, is_wanted: true, stream: None };
    let options = PhysicalOptions { bin_directory: Some(server.bin()), log, ..PhysicalOptions::default() };
    let look = async || examine(&cluster.role_url("postgres"), options.clone(), SystemClock::shared()).await;
    let findings = look().await;
    let (outcome, said, mends) = told(&findings, "wal_summary_keep_time");
    assert!(outcome == Note && said.starts_with("12 hours") && mends.contains("10d"), "{said}: {mends}");
    let (outcome, said, _) = told(&findings, "idle_replication_slot_timeout");
    assert!(outcome == Passed && said.starts_with("3600 s"), "{said}");
    cluster.psql("postgres", "SELECT pg_create_physical_replication_slot('receives', true)");
    let findings = look().await;
    let (outcome, said, mends) = told(&findings, "idle_replication_slot_timeout");
    assert!(outcome == Note && said.contains("gives receives up") && mends.contains("= 0"), "{said}: {mends}");
}

/// The files of a server whose data directory is here, and is not its own: as a standby's at the same path.
#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_at_the_servers_path_that_is_another_servers_is_not_taken_for_its_own() {
    let mut cluster = Cluster::new(Server::Eighteen, &[]);
    cluster.make_role("postgres");
    cluster.psql("postgres", "CHECKPOINT");
    copied(&cluster, "copy");
    cluster.stop(true);
    symlink(cluster.path("data"), cluster.path("named")).unwrap();
    cluster.elsewhere(cluster.path("named"));
    cluster.start();
    let reading = async || {
        let findings = examine(&cluster.role_url("postgres"), PhysicalOptions::default(), SystemClock::shared()).await;
        told(&findings, "reading").1
    };
    assert!(reading().await.contains("from the data directory itself"));
    std::fs::remove_file(cluster.path("named")).unwrap();
    symlink(cluster.path("copy"), cluster.path("named")).unwrap();
    let said = reading().await;
    assert!(said.starts_with("over SQL, since") && said.contains("is not the server's on this machine"), "{said}");
}
