//! The log, as the server streams it, while connections are cut, servers are restarted and promoted, and sites do not keep up.

use std::{fs, time::Duration};

use super::{
    archive::Archive,
    cluster::Cluster,
    receive::{Load, Receiver, STREAMS, TABLE, prepared, recovered, restored_from, slot},
    receive_gaps::segments,
    receive_stream::known,
};
use crate::postgres::Server;

#[test]
fn a_stream_that_is_cut_and_a_server_that_is_restarted_leave_nothing_out() {
    let archive = Archive::new("limit = \"64MiB\"");
    let mut primary = Cluster::new(Server::Fifteen, &["wal_keep_size=0", "checkpoint_timeout=30s"]);
    prepared(&primary, &archive);
    let receiver = Receiver::start(&archive);
    receiver.waits_until("it streams", || known(&primary, "state") == "streaming");
    let mut copy = restored_from(&archive, &primary);
    let load = Load::start(&primary, 6000);
    for _ in 0..4 {
        std::thread::sleep(Duration::from_millis(1500));
        let pid = known(&primary, "pid");
        primary.psql("postgres", "SELECT pg_terminate_backend(pid) FROM pg_stat_replication");
        receiver.waits_until("it streams again", || known(&primary, "state") == "streaming" && known(&primary, "pid") != pid);
    }
    drop(load);
    for is_fast in [true, false] {
        primary.stop(is_fast);
        primary.start();
        primary.psql("postgres", "SELECT setval('markers_id_seq', (SELECT max(id) FROM markers))");
        let load = Load::start(&primary, 6000);
        receiver.waits_until("it streams again", || known(&primary, "state") == "streaming");
        std::thread::sleep(Duration::from_secs(2));
        load.ends(&primary);
    }
    let made: u64 = primary.psql("postgres", "SELECT count(*) FROM markers").parse().unwrap();
    let log = receiver.log();
    receiver.stop();
    assert!(!log.contains("has a gap") && !log.contains("ERROR"), "{log}");
    drop(primary);
    assert_eq!(recovered(&mut copy).0, made, "{log}");
}

#[test]
fn a_server_is_answered_while_no_site_takes_its_log_and_gets_rid_of_all_of_it_in_the_end() {
    let archive = Archive::new("limit = \"64MiB\"");
    let settings = ["wal_keep_size=0", "max_wal_size=2GB", "autovacuum=off", "wal_sender_timeout=3s"];
    let primary = Cluster::new(Server::Eighteen, &settings);
    prepared(&primary, &archive);
    let receiver = Receiver::start(&archive);
    receiver.waits_until("it streams", || known(&primary, "state") == "streaming");
    let mut copy = restored_from(&archive, &primary);
    let pid = known(&primary, "pid");
    fs::rename(archive.path("site"), archive.path("away")).unwrap();
    // More than is kept: what follows waits at the server.
    primary.psql("postgres", "ALTER TABLE markers ALTER filler SET STORAGE EXTERNAL");
    primary.psql(
        "postgres",
        "INSERT INTO markers (at, filler) SELECT clock_timestamp(), (SELECT string_agg(md5(n::text || g), '') FROM generate_series(1, 30000) AS n) FROM generate_series(1, 150) AS g",
    );
    receiver.waits_until("it says so", || receiver.log().contains("does not take the log"));
    std::thread::sleep(Duration::from_secs(9));
    let sent: u64 = known(&primary, "pg_current_wal_flush_lsn() - write_lsn").parse().unwrap();
    assert!(sent > 32 << 20, "no more is taken than is kept: {sent} bytes wait");
    assert_eq!(known(&primary, "pid"), pid, "it was answered: {}", receiver.log());
    fs::rename(archive.path("away"), archive.path("site")).unwrap();
    receiver.waits_until("all is stored", || known(&primary, "flush_lsn = pg_current_wal_flush_lsn()") == "t");
    assert_eq!(known(&primary, "pid"), pid, "it was the same stream: {}", receiver.log());
    let made: u64 = primary.psql("postgres", "SELECT count(*) FROM markers").parse().unwrap();
    receiver.stop();
    drop(primary);
    assert_eq!(recovered(&mut copy).0, made);
}

#[test]
fn a_site_that_is_away_does_not_hold_up_the_other_and_reads_over_sql_what_is_not_kept() {
    let archive = Archive::new("limit = \"64MiB\"");
    archive.gets_site("near");
    let primary = Cluster::new(Server::Seventeen, &["wal_keep_size=0", "max_wal_size=2GB", "autovacuum=off"]);
    prepared(&primary, &archive);
    let receiver = Receiver::start(&archive);
    receiver.waits_until("it streams", || known(&primary, "state") == "streaming");
    fs::rename(archive.path("near"), archive.path("away")).unwrap();
    for _ in 0..9 {
        primary.psql("postgres", "INSERT INTO markers (at) VALUES (clock_timestamp()); SELECT pg_switch_wal()");
    }
    let whole = |site: &str| segments(&archive, site).len();
    receiver.waits_until("the other site has all", || whole("site") >= 9);
    assert_eq!(known(&primary, "coalesce(flush_lsn, '0/0') < write_lsn"), "t");
    fs::rename(archive.path("away"), archive.path("near")).unwrap();
    receiver.waits_until("all is stored", || known(&primary, "flush_lsn = pg_current_wal_flush_lsn()") == "t");
    assert_eq!(whole("near"), whole("site"));
    receiver.stop();
}

#[test]
fn a_standby_that_streams_and_is_promoted_is_followed_over_its_timelines_and_so_are_timelines_that_were_left_before() {
    let archive = Archive::new("limit = \"64MiB\"");
    let mut primary = Cluster::new(Server::Fifteen, &["wal_keep_size=1GB"]);
    primary.make_role("postgres");
    primary.psql("postgres", TABLE);
    let standby = Cluster::unstarted(Server::Fifteen, &["hot_standby=on", "archive_mode=off", "wal_keep_size=1GB"]);
    let mut basebackup = primary.program("pg_basebackup");
    basebackup.arg("-D").arg(standby.data()).args(["-c", "fast", "--no-sync", "-X", "stream", "-R"]);
    crate::postgres::run(basebackup);
    let standby = standby.started();
    archive.follows(&standby.role_url("postgres"));
    let receiver = Receiver::start(&archive);
    receiver.waits_until("it streams", || known(&standby, "state") == "streaming");
    let mut copy = restored_from(&archive, &primary);
    let load = Load::start(&primary, 6000);
    std::thread::sleep(Duration::from_secs(4));
    primary.stop(false);
    drop(load);
    standby.psql("postgres", "SELECT pg_promote()");
    standby.psql("postgres", "SELECT setval('markers_id_seq', (SELECT max(id) FROM markers))");
    let load = Load::start(&standby, 6000);
    receiver.waits_until("it goes on", || receiver.log().contains("the log goes on there"));
    receiver.waits_until("it streams on", || known(&standby, "state") == "streaming");
    std::thread::sleep(Duration::from_secs(3));
    load.ends(&standby);
    standby.psql("postgres", "SELECT pg_switch_wal()");
    let is_stored = |receiver: &Receiver<'_>| {
        receiver.waits_until("all is stored", || known(&standby, "flush_lsn = pg_current_wal_flush_lsn()") == "t");
    };
    is_stored(&receiver);
    let made: u64 = standby.psql("postgres", "SELECT count(*) FROM markers").parse().unwrap();
    let log = receiver.log();
    receiver.stop();
    assert!(!log.contains("ERROR") && !log.contains("WARN"), "{log}");

    // Another site begins at the beginning: the server streams the timeline that it left, and then its own.
    archive.gets_site("near");
    standby.psql("postgres", "SELECT pg_drop_replication_slot('farshore_log')");
    let receiver = Receiver::start(&archive);
    receiver.waits_until("it streams", || receiver.log().matches(STREAMS).count() == 2);
    is_stored(&receiver);
    let (near, far) = (segments(&archive, "near"), segments(&archive, "site"));
    for timeline in ["00000001", "00000002"] {
        assert!(near.iter().any(|name| name.starts_with(timeline)), "{timeline}: {near:?}");
    }
    assert!(far.ends_with(&near) || near.ends_with(&far), "{near:?} {far:?}");
    assert!(!slot(&standby).is_empty());
    let log = receiver.log();
    receiver.stop();
    assert!(!log.contains("WARN"), "{log}");
    drop(standby);
    copy.start();
    assert_eq!(copy.psql("postgres", "SELECT count(*) FROM markers"), made.to_string(), "{log}");
}
