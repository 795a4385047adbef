//! Tablespaces that the log makes: whoever replays it beside the living primary writes to none of that one's directories.

use std::{collections::BTreeMap, os::unix::fs::MetadataExt, path::Path, sync::Arc};

use farshore::sources::postgres::physical::{PhysicalTarget, PhysicalTargetOptions};

use super::{archive::Archive, cluster::Cluster};
use crate::{postgres::Server, support::database_exchange::Exchange};

/// What lies in directories: of each file its bytes, of each directory when anybody did anything to it, be it a `chmod` to what it was.
pub(super) fn state(directories: &[&Path]) -> BTreeMap<String, (i64, i64, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut waiting: Vec<_> = directories.iter().map(|directory| directory.to_path_buf()).collect();
    while let Some(path) = waiting.pop() {
        let metadata = std::fs::metadata(&path).unwrap();
        let bytes = if metadata.is_dir() {
            waiting.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            Vec::new()
        } else {
            std::fs::read(&path).unwrap()
        };
        found.insert(path.display().to_string(), (metadata.ctime(), metadata.ctime_nsec(), bytes));
    }
    found
}

const LOCATION: &str = "SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'late'";

/// A primary that archives, was backed up, and made tablespaces afterwards; it goes on running.
fn alive(archive: &Archive, server: Server) -> Cluster {
    let primary = archive.primary(server);
    primary.make_role("postgres");
    primary.psql("postgres", "CREATE TABLE markers (id int)");
    archive.follows(&format!("{}\"\nbin_directory = \"{}", primary.role_url("postgres"), server.bin().display()));
    let drill = format!("[drill]\ndirectory = \"{}\"\n", archive.text("drill"));
    let probe = "[[drill.probe]]\nsource = \"db\"\nquery = \"SELECT count(*) FROM late_rows\"\nexpect = \"1000\"\n";
    let policy = std::fs::read_to_string(archive.path("policy.toml")).unwrap();
    std::fs::write(archive.path("policy.toml"), format!("{policy}\n{drill}{probe}")).unwrap();
    let made = archive.farshore(&["backup", &archive.text("policy.toml")]);
    assert!(made.status.success(), "{made:?}");
    for name in ["late", "gone"] {
        let place = primary.make(name);
        primary.psql("postgres", &format!("CREATE TABLESPACE {name} LOCATION '{}'", place.display()));
    }
    primary.psql(
        "postgres",
        "CREATE TABLE late_rows TABLESPACE late AS SELECT generate_series(1, 1000) AS id; CREATE INDEX ON late_rows (id) TABLESPACE late; \
         DROP TABLESPACE gone; INSERT INTO markers VALUES (1); CHECKPOINT",
    );
    archive.settles(&primary);
    primary
}

fn restored(archive: &Archive, server: Server, name: &str) -> Cluster {
    let (policy, to, identity) = (archive.text("policy.toml"), archive.text(name), archive.text("operator.txt"));
    let words = ["restore", &policy, "latest", "--source", "db", "--to", &to, "--to-latest", "--identity", &identity];
    let output = archive.farshore(&words);
    assert!(output.status.success(), "{output:?}");
    let mut cluster = Cluster::unstarted(server, &[]);
    cluster.elsewhere(archive.path(name));
    cluster
}

async fn stays_untouched(server: Server) {
    let archive = Archive::new("limit = \"256MiB\"");
    let primary = alive(&archive, server);
    let (late, gone) = (primary.path("late"), primary.path("gone"));
    let before = state(&[&late, &gone]);
    let mut cluster = restored(&archive, server, "beside");
    cluster.start();
    assert_eq!(cluster.psql("postgres", "SELECT count(*) FROM late_rows"), "1000");
    assert_eq!(cluster.psql("postgres", "SELECT count(*) FROM markers"), "1");
    let oid = cluster.psql("postgres", "SELECT oid FROM pg_tablespace WHERE spcname = 'late'");
    assert_eq!(cluster.psql("postgres", LOCATION), format!("pg_tblspc/{oid}"));
    assert_eq!(cluster.psql("postgres", "SELECT count(*) FROM pg_tablespace WHERE spcname = 'gone'"), "0");
    cluster.psql(
        "postgres",
        "INSERT INTO late_rows SELECT generate_series(1001, 1100); CREATE TABLE more (id int) TABLESPACE late; CHECKPOINT",
    );
    cluster.amcheck();
    assert_eq!(state(&[&late, &gone]), before, "the primary's directories");

    // Killed, it comes back; and it can be backed up and restored like any other.
    cluster.stop(false);
    cluster.start();
    let exchange = Arc::new(Exchange::default());
    let captured = exchange.capture(&cluster.source("postgres"), 2).await.unwrap();
    assert_eq!(captured.facts["tablespaces"].as_array().unwrap().len(), 0, "it lies in the data directory: {}", captured.facts);
    let mut copy = Cluster::unstarted(server, &[]);
    exchange.rebuild(&PhysicalTarget::new(copy.data(), PhysicalTargetOptions::default()), &captured.facts, false).await.unwrap();
    copy.start();
    assert_eq!(copy.psql("postgres", "SELECT count(*) FROM late_rows"), "1100");
    drop(copy);
    // It moves out, as the runbook says.
    cluster.psql(
        "postgres",
        "ALTER TABLE late_rows SET TABLESPACE pg_default; DROP TABLE more; ALTER INDEX late_rows_id_idx SET TABLESPACE pg_default; DROP TABLESPACE late",
    );
    assert_eq!(cluster.psql("postgres", "SELECT count(*) FROM late_rows"), "1100");
    drop(cluster);

    let drilled = archive.farshore(&["drill", &archive.text("policy.toml"), "--identity", &archive.text("operator.txt")]);
    assert!(drilled.status.success(), "{drilled:?}");
    assert_eq!(state(&[&late, &gone]), before, "the primary's directories");

    // What the log would do by itself: this is what must never happen.
    let mut cluster = restored(&archive, server, "reaching");
    let conf = archive.path("reaching/postgresql.auto.conf");
    let settings = std::fs::read_to_string(&conf).unwrap();
    assert_eq!(settings.matches(" ''--tablespaces-in-place''").count(), 1, "{settings}");
    std::fs::write(&conf, settings.replace(" ''--tablespaces-in-place''", "")).unwrap();
    cluster.start();
    assert_eq!(cluster.psql("postgres", LOCATION), late.to_str().unwrap());
    assert_ne!(state(&[&late, &gone]), before, "without it this test would see nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_15_recovered_beside_the_living_primary_keeps_what_its_log_makes_in_its_own_directory() {
    stays_untouched(Server::Fifteen).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_17_recovered_beside_the_living_primary_keeps_what_its_log_makes_in_its_own_directory() {
    stays_untouched(Server::Seventeen).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_18_recovered_beside_the_living_primary_keeps_what_its_log_makes_in_its_own_directory() {
    stays_untouched(Server::Eighteen).await;
}
