//! The log, received from a standby, for two sites of which one is away for a while; and what is said when its slot is gone, held too much,
//! or was lost.

use std::{fs, time::Duration};

use super::{
    archive::Archive,
    cluster::Cluster,
    receive::{Receiver, STREAMS, TABLE, recovered, restored_from, slot},
};
use crate::{postgres::Server, support::agent::files};

/// A primary, and the standby that is followed.
struct Pair {
    primary: Cluster,
    standby: Cluster,
}

impl Pair {
    fn new() -> Self {
        let primary = Cluster::new(Server::Fifteen, &["wal_keep_size=0", "autovacuum=off"]);
        primary.make_role("postgres");
        primary.psql("postgres", TABLE);
        let standby = Cluster::unstarted(Server::Fifteen, &["hot_standby=on", "archive_mode=off", "wal_keep_size=0"]);
        let mut basebackup = primary.program("pg_basebackup");
        basebackup.arg("-D").arg(standby.data()).args(["-c", "fast", "--no-sync", "-X", "stream", "-R"]);
        crate::postgres::run(basebackup);
        Self { primary, standby: standby.started() }
    }

    /// Writes so many segments; the standby has them when this returns.
    fn writes(&self, segments: u32) {
        for _ in 0..segments {
            self.primary.psql("postgres", "INSERT INTO markers (at) VALUES (clock_timestamp()); SELECT pg_switch_wal()");
        }
        let at = self.primary.psql("postgres", "SELECT pg_current_wal_flush_lsn()");
        self.waits(&format!("SELECT pg_last_wal_replay_lsn() >= '{at}'"));
    }

    fn waits(&self, sql: &str) {
        for _ in 0..600 {
            if self.standby.psql("postgres", sql) == "t" {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("{sql}: {}", self.standby.log());
    }

    /// The standby lets go of what it need not keep.
    fn checkpoint(&self) {
        self.primary.psql("postgres", "CHECKPOINT");
        let at = self.primary.psql("postgres", "SELECT pg_current_wal_flush_lsn()");
        self.waits(&format!("SELECT pg_last_wal_replay_lsn() >= '{at}'"));
        self.standby.psql("postgres", "CHECKPOINT");
    }

    /// Drops the slot, also where somebody streams from it, who may be back at once.
    fn drops_slot(&self) {
        let sql = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active_pid IS NOT NULL; SELECT pg_sleep(0.1); \
                   SELECT pg_drop_replication_slot('farshore_log')";
        let tries = (0..50).any(|_| self.standby.psql_command("postgres", sql).output().unwrap().status.success());
        assert!(tries, "{}", self.standby.log());
    }

    /// Whether the slot holds nothing but the segment in progress.
    fn is_caught_up(&self) -> bool {
        let slot = slot(&self.standby);
        let sql = format!("SELECT div('{slot}'::pg_lsn - '0/0', 16777216) >= div(pg_current_wal_flush_lsn() - '0/0', 16777216)");
        !slot.is_empty() && self.primary.psql("postgres", &sql) == "t"
    }
}

/// Whole segments at a site.
pub fn segments(archive: &Archive, site: &str) -> Vec<String> {
    let mut names: Vec<String> = files(&archive.path(site).join("wal"))
        .into_iter()
        .map(|key| key.rsplit('/').next().unwrap().to_owned())
        .filter(|name| name.len() == 24)
        .collect();
    names.sort();
    names
}

#[test]
fn a_standby_that_streams_is_followed_for_sites_that_go_their_own_pace_and_whatever_becomes_of_its_slot_is_told() {
    is_followed("auto");
}

#[test]
fn a_standby_that_is_read_over_sql_is_followed_for_sites_that_go_their_own_pace_and_whatever_becomes_of_its_slot_is_told() {
    is_followed("sql");
}

fn is_followed(by: &str) {
    let archive = Archive::new(&format!("limit = \"64MiB\", hold = \"64MiB\", receive_by = \"{by}\""));
    archive.gets_site("near");
    let pair = Pair::new();
    archive.follows(&pair.standby.role_url("postgres"));
    // Somebody made it, and nobody has used it: it holds nothing.
    pair.standby.psql("postgres", "SELECT pg_create_physical_replication_slot('farshore_log')");
    let receiver = Receiver::start(&archive);
    receiver.waits_until("the slot holds something", || !slot(&pair.standby).is_empty());
    let mut copy = restored_from(&archive, &pair.primary);
    pair.writes(1);
    receiver.waits_until("it keeps up", || pair.is_caught_up());
    assert_eq!(receiver.log().contains(STREAMS), by == "auto", "{}", receiver.log());

    // One site is away: the other one gets everything, and the slot waits.
    let held = slot(&pair.standby);
    fs::rename(archive.path("near"), archive.path("away")).unwrap();
    let last = segments(&archive, "site").len() + 2;
    pair.writes(2);
    receiver.waits_until("the other site has all", || segments(&archive, "site").len() >= last);
    receiver.waits_until("it says so", || receiver.log().contains("does not take the log"));
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(slot(&pair.standby), held, "one site does not have what comes after it");
    fs::rename(archive.path("away"), archive.path("near")).unwrap();
    receiver.waits_until("the one that was away catches up", || pair.is_caught_up());
    assert_eq!(segments(&archive, "near"), segments(&archive, "site"));

    // Somebody drops the slot.
    pair.drops_slot();
    receiver.waits_until("it is made anew", || !slot(&pair.standby).is_empty());
    assert!(receiver.log().contains("somebody dropped it; it is made"), "{}", receiver.log());
    pair.writes(1);
    receiver.waits_until("it keeps up", || pair.is_caught_up());
    receiver.stop();

    // Nobody receives, and the slot holds more than it may: that is caught up with.
    pair.writes(7);
    pair.checkpoint();
    let receiver = Receiver::start(&archive);
    receiver.waits_until("it catches up", || pair.is_caught_up());
    let log = receiver.log();
    assert!(log.contains("more than `hold` (64.0 MiB) allows: nobody received it. It is caught up with now"), "{log}");
    assert!(!log.contains("has a gap"), "{log}");
    receiver.stop();
    let made: u64 = pair.primary.psql("postgres", "SELECT count(*) FROM markers").parse().unwrap();
    assert_eq!(recovered(&mut copy).0, made, "{log}");

    // Nobody receives, and somebody drops the slot: there is a gap, and the log goes on behind it.
    let before = segments(&archive, "site").pop().unwrap();
    pair.standby.psql("postgres", "SELECT pg_drop_replication_slot('farshore_log')");
    pair.writes(3);
    pair.checkpoint();
    pair.writes(1);
    let receiver = Receiver::start(&archive);
    let said = format!("the archive has a gap: the site has nothing between {before} and ");
    receiver.waits_until("it says so of both", || receiver.log().matches(&said).count() == 2);
    receiver.waits_until("it goes on", || pair.is_caught_up());
    receiver.stop();
    assert!(segments(&archive, "near").pop().unwrap() > before);

    // Nobody receives, and the server gives the slot up.
    let before = segments(&archive, "near").pop().unwrap();
    pair.standby.psql("postgres", "ALTER SYSTEM SET max_slot_wal_keep_size = '16MB'; SELECT pg_reload_conf()");
    pair.writes(4);
    pair.checkpoint();
    pair.waits("SELECT wal_status = 'lost' FROM pg_replication_slots WHERE slot_name = 'farshore_log'");
    let mut receiver = Receiver::start(&archive);
    let ended = receiver.process.wait().unwrap();
    let log = receiver.log();
    assert_eq!(ended.code(), Some(5), "{log}");
    for words in [
        "has given up the slot (max_slot_wal_keep_size",
        &format!("site far has the log to {before}, site near has the log to {before}; the server is in 0000000100"),
        "make a backup now",
    ] {
        assert!(log.contains(words), "{words}: {log}");
    }
    pair.standby.psql("postgres", "ALTER SYSTEM RESET max_slot_wal_keep_size; SELECT pg_reload_conf()");
    let receiver = Receiver::start(&archive);
    receiver.waits_until("it goes on behind the gap", || pair.is_caught_up());
    let said = format!("the site has nothing between {before} and ");
    receiver.waits_until("it says so of both", || receiver.log().matches(&said).count() == 2);
    receiver.stop();

    // What one site has lost comes from the other, as far as points need it.
    let policy = archive.text("policy.toml");
    let backed = archive.farshore(&["backup", &policy]);
    assert!(backed.status.success(), "{backed:?}");
    let receiver = Receiver::start(&archive);
    pair.writes(2);
    receiver.waits_until("it keeps up", || pair.is_caught_up());
    receiver.stop();
    fs::remove_dir_all(archive.path("near/wal")).unwrap();
    let identity = archive.text("operator.txt");
    let copies = |more: &[&str]| {
        let fixed = ["copy", "--wal", "--from", "far", "--to", "near", "--identity", &identity, &policy];
        let copied = archive.farshore(&[&fixed, more].concat());
        assert!(copied.status.success(), "{copied:?}");
        String::from_utf8(copied.stdout).unwrap()
    };
    let planned = copies(&["--dry-run"]);
    assert!(planned.contains("log of cluster ") && segments(&archive, "near").is_empty(), "{planned}");
    copies(&["--all"]);
    let (near, far) = (segments(&archive, "near"), segments(&archive, "site"));
    assert!(near.len() >= 2 && far.ends_with(&near) && !near.contains(&before), "{near:?} of {far:?}");
    let (last, to) = (near.last().unwrap(), archive.text("fetched"));
    let system = pair.primary.psql("postgres", "SELECT system_identifier FROM pg_control_system()");
    let got = archive.farshore(&[
        "wal",
        "get",
        "--no-prefetch",
        "--site",
        "near",
        "--system",
        &system,
        "--identity",
        &identity,
        &policy,
        last,
        &to,
    ]);
    assert!(got.status.success(), "{got:?}");
    assert_eq!(fs::read(&to).unwrap().len(), 16 << 20);
    let again = copies(&["--all"]);
    assert!(again.contains(": 0 files (0 B)"), "{again}");
}
