//! The log, as the server streams it: the same bytes, known to the server, and what becomes of it where it is not let through.

use std::{fs, time::Instant};

use super::{
    archive::Archive,
    cluster::Cluster,
    receive::{Load, Receiver, STREAMS, parts, prepared, recovered, restored_from, slot},
};
use crate::postgres::Server;

const WAL: &str = "limit = \"64MiB\"";

/// A value of the receiver's row in `pg_stat_replication`; nothing while there is none.
pub(super) fn known(server: &Cluster, what: &str) -> String {
    let sql = format!("SELECT {what} FROM pg_stat_replication WHERE application_name = 'farshore wal receive farshore_log'");
    server.psql("postgres", &sql)
}

/// Writes some 40 MB, and ends the segment.
fn fills(primary: &Cluster, round: u32) {
    primary.psql(
        "postgres",
        &format!(
            "INSERT INTO markers (at, filler) SELECT clock_timestamp(), repeat(md5(n::text || '{round}'), 12) FROM generate_series(1, 80000) AS n; \
             SELECT pg_switch_wal()"
        ),
    );
}

/// What `wal get` gives of each whole segment at the site is what the server has; so many there are.
fn compared(archive: &Archive, primary: &Cluster) -> usize {
    let system = primary.psql("postgres", "SELECT system_identifier FROM pg_control_system()");
    let segments = archive.segments();
    for (name, _) in &segments {
        let (identity, policy, to) = (archive.text("operator.txt"), archive.text("policy.toml"), archive.text("fetched"));
        let fixed = ["wal", "get", "--no-prefetch", "--site", "far", "--system", &system, "--identity", &identity];
        let got = archive.farshore(&[&fixed[..], &[&policy, name, &to]].concat());
        assert!(got.status.success(), "{name}: {got:?}");
        assert!(fs::read(&to).unwrap() == fs::read(primary.data().join("pg_wal").join(name)).unwrap(), "{name}");
        fs::remove_file(&to).unwrap();
    }
    segments.len()
}

pub(super) fn streams(server: Server) {
    let archive = Archive::new(&format!("{WAL}, receive_by = \"stream\""));
    let primary = Cluster::new(server, &["wal_keep_size=1GB", "max_wal_size=2GB", "autovacuum=off"]);
    prepared(&primary, &archive);
    let receiver = Receiver::start(&archive);
    receiver.waits_until("it streams", || known(&primary, "state") == "streaming");
    assert!(receiver.log().contains(STREAMS), "{}", receiver.log());
    (1..=3).for_each(|round| fills(&primary, round));
    // What the server knows to be stored is what the site has: all of it in the end, parts among it, and that is as far as the slot has let go.
    receiver
        .waits_until("the server knows that all is stored", || known(&primary, "flush_lsn = pg_current_wal_flush_lsn()") == "t");
    assert_eq!(known(&primary, "flush_lsn = (SELECT restart_lsn FROM pg_replication_slots) AND replay_lsn IS NULL"), "t");
    assert!(compared(&archive, &primary) >= 6, "{:?}", archive.segments());

    // A site that is away: the log comes, and is not stored.
    let before = known(&primary, "flush_lsn");
    fs::rename(archive.path("site"), archive.path("away")).unwrap();
    primary.psql("postgres", "INSERT INTO markers (at) VALUES (clock_timestamp())");
    receiver.waits_until("it comes", || known(&primary, "write_lsn = pg_current_wal_flush_lsn()") == "t");
    receiver.waits_until("it says so", || receiver.log().contains("does not take the log"));
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert_eq!(
        (known(&primary, "flush_lsn"), slot(&primary)),
        (before.clone(), before),
        "the site does not have what comes after it"
    );
    fs::rename(archive.path("away"), archive.path("site")).unwrap();
    receiver
        .waits_until("the server knows that all is stored", || known(&primary, "flush_lsn = pg_current_wal_flush_lsn()") == "t");

    // Stopped under load, the site has what the server is told.
    let load = Load::start(&primary, 3000);
    std::thread::sleep(std::time::Duration::from_secs(3));
    load.ends(&primary);
    let written = primary.psql("postgres", "SELECT pg_current_wal_flush_lsn()");
    receiver.stop();
    assert_eq!(primary.psql("postgres", &format!("SELECT restart_lsn >= '{written}' FROM pg_replication_slots")), "t");
    assert_eq!(known(&primary, "count(*)"), "0");
    compared(&archive, &primary);
}

#[test]
fn what_a_15_streams_is_at_the_site_byte_for_byte_and_the_server_knows_how_far() {
    streams(Server::Fifteen);
}

#[test]
fn what_a_17_streams_is_at_the_site_byte_for_byte_and_the_server_knows_how_far() {
    streams(Server::Seventeen);
}

#[test]
fn what_an_18_streams_is_at_the_site_byte_for_byte_and_the_server_knows_how_far() {
    streams(Server::Eighteen);
}

#[test]
fn where_no_replication_connection_is_let_through_the_log_is_read_over_sql_or_it_fails_and_what_mends_it_is_told() {
    let archive = Archive::new(WAL);
    let primary = Cluster::new(Server::Eighteen, &["autovacuum=off"]);
    prepared(&primary, &archive);
    primary.psql("postgres", "ALTER ROLE farshore PASSWORD 'se:cr\\et'");
    let lets = |lines: &str| {
        primary.write("data/pg_hba.conf", lines.as_bytes());
        primary.psql("postgres", "SELECT pg_reload_conf()");
    };
    let line = "`local replication farshore peer`";
    lets("local all all trust\n");
    let receiver = Receiver::start(&archive);
    receiver.waits_until("parts come", || !parts(&archive).is_empty());
    primary.psql("postgres", "INSERT INTO markers (at) VALUES (clock_timestamp()); SELECT pg_switch_wal()");
    receiver.waits_until("segments come", || !archive.segments().is_empty());
    std::thread::sleep(std::time::Duration::from_secs(3));
    let log = receiver.log();
    assert_eq!(log.matches("the log is not streamed, and it is read over SQL instead").count(), 1, "{log}");
    assert!(log.contains(line) && log.contains("no pg_hba.conf entry for replication connection"), "{log}");
    let doctor = archive.farshore(&["doctor", &archive.text("policy.toml")]);
    let found = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(found.contains("replication connection: not let through") && found.contains(line), "{found}");
    receiver.stop();
    primary.psql("postgres", "SELECT pg_drop_replication_slot('farshore_log')");

    // Where it must be, it fails, and leaves no slot that nobody would move.
    let policy = fs::read_to_string(archive.path("policy.toml")).unwrap();
    let with = |more: &str| fs::write(archive.path("policy.toml"), policy.replace(WAL, &format!("{WAL}, {more}"))).unwrap();
    with("receive_by = \"stream\"");
    let ended = archive.farshore(&["wal", "receive", &archive.text("policy.toml")]);
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(ended.status.code() == Some(5) && said.contains(line), "{ended:?}");
    assert_eq!(slot(&primary), "");
    let doctor = archive.farshore(&["doctor", &archive.text("policy.toml")]);
    assert!(!doctor.status.success() && String::from_utf8_lossy(&doctor.stdout).contains(line), "{doctor:?}");

    // A password over the unix socket: missing, wrong, and right.
    lets("local all all trust\nlocal replication farshore scram-sha-256\n");
    let ends_with = |words: &str| {
        let ended = archive.farshore(&["wal", "receive", &archive.text("policy.toml")]);
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(
            !ended.status.success() && said.contains(words) && !said.contains("cr\\et") && !said.contains("guessed"),
            "{ended:?}"
        );
    };
    ends_with("set the policy's `password`");
    fs::write(archive.path("password"), "guessed").unwrap();
    let policy = fs::read_to_string(archive.path("policy.toml")).unwrap();
    let password = format!("method = \"physical\"\npassword = {{ file = \"{}\" }}", archive.text("password"));
    fs::write(archive.path("policy.toml"), policy.replace("method = \"physical\"", &password)).unwrap();
    ends_with("is wrong or missing");
    fs::write(archive.path("password"), "se:cr\\et").unwrap();
    let receiver = Receiver::start(&archive);
    receiver.waits_until("it streams", || known(&primary, "state") == "streaming");
    let doctor = archive.farshore(&["doctor", &archive.text("policy.toml")]);
    assert!(String::from_utf8_lossy(&doctor.stdout).contains("replication connection: let through"), "{doctor:?}");
    receiver.stop();
}

#[test]
fn a_commit_that_waits_for_the_receiver_waits_no_longer_than_its_part_takes_and_is_at_the_site() {
    let archive = Archive::new(WAL);
    let mut primary = Cluster::new(Server::Seventeen, &["autovacuum=off"]);
    prepared(&primary, &archive);
    let receiver = Receiver::start(&archive);
    receiver.waits_until("it streams", || known(&primary, "state") == "streaming");
    let mut copy = restored_from(&archive, &primary);
    primary.psql(
        "postgres",
        "ALTER SYSTEM SET synchronous_standby_names = '\"farshore wal receive farshore_log\"'; SELECT pg_reload_conf()",
    );
    receiver.waits_until("it is waited for", || known(&primary, "sync_state") == "sync");
    primary.psql("postgres", "INSERT INTO markers (at) VALUES (clock_timestamp())");
    std::thread::sleep(std::time::Duration::from_secs(2));
    let began = Instant::now();
    for _ in 0..20 {
        primary.psql("postgres", "INSERT INTO markers (at) VALUES (clock_timestamp())");
    }
    let each = began.elapsed() / 20;
    println!("a commit takes {} ms", each.as_millis());
    assert!(each.as_millis() < 1500, "{each:?}: {}", receiver.log());
    assert!(receiver.log().contains("has commits wait until every site has them"), "{}", receiver.log());
    // Everything is lost the moment after.
    receiver.kill();
    primary.stop(false);
    assert_eq!(recovered(&mut copy).0, 21);
}
