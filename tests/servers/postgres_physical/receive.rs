//! The log, received as it is written, and what of it there is when the region is gone.

use std::{
    fs,
    io::Write,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use rustix::process::{Pid, Signal, kill_process};

use super::{
    archive::{Archive, base},
    cluster::Cluster,
};
use crate::{
    postgres::Server,
    support::{agent::files, soak},
};

/// What a quiet machine loses is about four seconds; a busy one of a test may be late.
const MOST_LOST: Duration = Duration::from_secs(15);
const PATIENCE: Duration = Duration::from_secs(120);
/// What is said once the server streams.
pub(super) const STREAMS: &str = "the server streams its log";

/// `wal receive`, killed when it goes out of scope.
pub(super) struct Receiver<'a> {
    archive: &'a Archive,
    pub(super) process: Child,
}

impl<'a> Receiver<'a> {
    pub(super) fn start(archive: &'a Archive) -> Self {
        let log = fs::OpenOptions::new().append(true).create(true).open(archive.path("receive.log")).unwrap();
        let mut command = archive.command(&["wal", "receive", &archive.text("policy.toml")]);
        let process = command.stdout(Stdio::null()).stderr(log).spawn().unwrap();
        Self { archive, process }
    }

    pub(super) fn log(&self) -> String {
        fs::read_to_string(self.archive.path("receive.log")).unwrap()
    }

    /// Ends it as systemd does; it stores what is there.
    pub(super) fn stop(mut self) {
        kill_process(Pid::from_child(&self.process), Signal::TERM).unwrap();
        let ended = self.process.wait().unwrap();
        assert!(ended.success(), "{ended}: {}", self.log());
    }

    pub(super) fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    #[track_caller]
    pub(super) fn waits_until(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        let began = Instant::now();
        while !is_so() {
            assert!(began.elapsed() < PATIENCE, "{what}: {}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Receiver<'_> {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What the server calls its session.
const LOAD: &str = "load";

/// Commits that know when they were made, some 80 a second, until the server is gone.
pub(super) struct Load(Child);

impl Load {
    pub(super) fn start(primary: &Cluster, filler: u32) -> Self {
        let mut psql = primary.psql_command("postgres", "");
        let mut child =
            psql.env("PGAPPNAME", LOAD).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        std::thread::spawn(move || {
            for _ in 0..20_000 {
                let statement = format!(
                    "INSERT INTO markers (at, filler) SELECT clock_timestamp(), string_agg(md5(random()::text), '') FROM generate_series(1, {filler});\n\
                     SELECT pg_sleep(0.01);\n"
                );
                if input.write_all(statement.as_bytes()).is_err() {
                    break;
                }
            }
        });
        Self(child)
    }

    /// Ends it at a server that lives, which may yet commit what it was doing when the client went.
    pub(super) fn ends(self, server: &Cluster) {
        drop(self);
        let began = Instant::now();
        let left = format!("SELECT count(*) FROM pg_stat_activity WHERE application_name = '{LOAD}'");
        while server.psql("postgres", &left) != "0" {
            assert!(began.elapsed() < PATIENCE, "{}", server.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(super) const TABLE: &str = "CREATE TABLE markers (id serial PRIMARY KEY, at timestamptz, filler text)";

pub(super) fn prepared(primary: &Cluster, archive: &Archive) {
    primary.make_role("postgres");
    primary.psql("postgres", TABLE);
    archive.follows(&primary.role_url("postgres"));
}

/// A recovery of `copy` from the site alone: how many markers there are, after what there may be no hole; and when the last was made,
/// microseconds since 1970.
pub(super) fn recovered(copy: &mut Cluster) -> (u64, i64) {
    copy.start();
    let answer = copy.psql(
        "postgres",
        "SELECT count(*), coalesce(max(id), 0), coalesce((extract(epoch FROM max(at)) * 1000000)::int8, 0) FROM markers",
    );
    let numbers: Vec<i64> = answer.split('|').map(|number| number.parse().unwrap()).collect();
    assert_eq!(numbers[0], numbers[1], "a marker in between is missing");
    (numbers[0].try_into().unwrap(), numbers[2])
}

pub(super) fn restored_from(archive: &Archive, primary: &Cluster) -> Cluster {
    base(primary, &[&archive.restore_command(), "archive_mode=off", "hot_standby=off"])
}

pub(super) fn slot(primary: &Cluster) -> String {
    primary.psql("postgres", "SELECT restart_lsn FROM pg_replication_slots WHERE slot_name = 'farshore_log'")
}

pub(super) fn parts(archive: &Archive) -> Vec<String> {
    files(&archive.path("site/wal")).into_iter().filter(|key| key.contains(".part-")).collect()
}

/// The whole region goes at once, under load.
fn loses_seconds(server: Server, filler: u32, by: &str) {
    let archive = Archive::new(&format!("limit = \"64MiB\", receive_by = \"{by}\""));
    let mut primary = Cluster::new(server, &["wal_keep_size=0"]);
    prepared(&primary, &archive);
    let receiver = Receiver::start(&archive);
    receiver.waits_until("the slot is made", || !slot(&primary).is_empty());
    let mut copy = restored_from(&archive, &primary);
    let load = Load::start(&primary, filler);
    std::thread::sleep(Duration::from_secs(20));
    receiver.waits_until("parts come", || !parts(&archive).is_empty());
    assert_eq!(receiver.log().contains(STREAMS), by == "auto", "{}", receiver.log());
    let last: i64 = primary.psql("postgres", "SELECT (extract(epoch FROM max(at)) * 1000000)::int8 FROM markers").parse().unwrap();
    receiver.kill();
    primary.stop(false);
    drop(load);
    let (count, newest) = recovered(&mut copy);
    let lost = Duration::from_micros(u64::try_from(last - newest).unwrap_or(0));
    println!(
        "RPO {:.1} s: {count} markers are there; {} segments, {} parts",
        lost.as_secs_f64(),
        archive.segments().len(),
        parts(&archive).len()
    );
    assert!(count > 100 && lost < MOST_LOST, "{count} markers, lost {lost:?}");
}

#[test]
fn of_a_15_under_light_load_that_is_lost_with_its_region_seconds_are_missing() {
    loses_seconds(Server::Fifteen, 3, "auto");
}

#[test]
fn of_an_18_under_load_that_is_lost_with_its_region_seconds_are_missing() {
    loses_seconds(Server::Eighteen, 6000, "auto");
}

#[test]
fn of_a_17_under_load_whose_log_is_read_over_sql_seconds_are_missing() {
    loses_seconds(Server::Seventeen, 6000, "sql");
}

#[test]
fn a_receiver_that_is_killed_again_and_again_beside_archive_command_leaves_nothing_out() {
    let archive = Archive::new("limit = \"256MiB\"");
    let primary = archive.primary(Server::Eighteen);
    prepared(&primary, &archive);
    let seed = std::env::var("FARSHORE_TEST_SEED").map_or(1, |seed| seed.parse().unwrap());
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let receiver = Receiver::start(&archive);
    receiver.waits_until("the slot is made", || !slot(&primary).is_empty());
    receiver.kill();
    let mut copy = restored_from(&archive, &primary);
    let load = Load::start(&primary, 6000);
    for _ in 0..soak(6) {
        let receiver = Receiver::start(&archive);
        std::thread::sleep(Duration::from_millis(random.random_range(500..6000)));
        receiver.kill();
    }
    let receiver = Receiver::start(&archive);
    std::thread::sleep(Duration::from_secs(2));
    load.ends(&primary);
    let made: u64 = primary.psql("postgres", "SELECT count(*) FROM markers").parse().unwrap();
    let log = receiver.log();
    receiver.stop();
    assert!(!log.contains("other bytes"), "{log}");
    assert_eq!(primary.psql("postgres", "SELECT failed_count FROM pg_stat_archiver"), "0", "{}", primary.log());
    drop(primary);
    assert_eq!(recovered(&mut copy).0, made, "seed {seed}: {log}");
    let status = archive.farshore(&["wal", "status", &archive.text("policy.toml")]);
    assert!(String::from_utf8_lossy(&status.stdout).contains("of segments that were still being written"), "{status:?}");
}

#[test]
fn a_site_that_is_away_gets_everything_later_and_beyond_what_may_be_held_the_slot_is_dropped() {
    let archive = Archive::new("limit = \"64MiB\", hold = \"256MiB\"");
    let primary = Cluster::new(Server::Eighteen, &["wal_keep_size=0", "max_wal_size=2GB", "autovacuum=off"]);
    prepared(&primary, &archive);
    let mut receiver = Receiver::start(&archive);
    receiver.waits_until("the slot is made", || !slot(&primary).is_empty());
    let mut copy = restored_from(&archive, &primary);
    let fill = |megabytes: u32| {
        let sql = format!(
            "INSERT INTO markers (at, filler) SELECT clock_timestamp(), (SELECT string_agg(md5(n::text || g), '') FROM generate_series(1, 30000) AS n) FROM generate_series(1, {megabytes}) AS g"
        );
        primary.psql("postgres", "ALTER TABLE markers ALTER filler SET STORAGE EXTERNAL");
        primary.psql("postgres", &sql);
    };
    let is_caught_up = || {
        let current = primary.psql("postgres", "SELECT pg_walfile_name(pg_current_wal_flush_lsn())");
        primary.psql("postgres", "SELECT pg_walfile_name(restart_lsn) FROM pg_replication_slots WHERE slot_name = 'farshore_log'")
            == current
    };
    fill(20);
    receiver.waits_until("it keeps up", is_caught_up);
    let before = slot(&primary);
    fs::rename(archive.path("site"), archive.path("away")).unwrap();
    fill(150);
    receiver.waits_until("it says so", || receiver.log().contains("does not take the log"));
    assert_eq!(slot(&primary), before, "nobody has what comes after it");
    let size = |from: &str| {
        primary.psql("postgres", &format!("SELECT (pg_current_wal_flush_lsn() - '{from}')::int8")).parse::<f64>().unwrap() / 1e6
    };
    let megabytes = size(&before);
    fs::rename(archive.path("away"), archive.path("site")).unwrap();
    receiver.waits_until("it tries again", || receiver.log().contains("takes the log again"));
    let began = Instant::now();
    receiver.waits_until("it catches up", is_caught_up);
    let seconds = began.elapsed().as_secs_f64();
    println!("caught up with {megabytes:.0} MB in {seconds:.1} s: {:.0} MB/s", megabytes / seconds);
    let made: u64 = primary.psql("postgres", "SELECT count(*) FROM markers").parse().unwrap();
    // What is part of a segment comes within the next seconds.
    let end = primary.psql("postgres", "SELECT pg_current_wal_flush_lsn()");
    receiver.waits_until("its last part is there", || {
        let offset =
            primary.psql("postgres", &format!("SELECT upper(lpad(to_hex(('{end}'::pg_lsn - '0/0')::int8 % 16777216), 8, '0'))"));
        parts(&archive).iter().any(|key| key.rsplit('-').next().unwrap() >= offset.as_str())
    });
    fs::rename(archive.path("site"), archive.path("away")).unwrap();
    fill(300);
    std::thread::sleep(Duration::from_secs(3));
    assert!(!slot(&primary).is_empty(), "since its last checkpoint the server keeps the log anyway: {}", receiver.log());
    primary.psql("postgres", "CHECKPOINT");
    receiver.waits_until("it ends", || slot(&primary).is_empty());
    let ended = receiver.process.wait().unwrap();
    let log = receiver.log();
    assert_eq!(ended.code(), Some(5), "{log}");
    for words in ["more than `hold` (256.0 MiB) allows", "was dropped", "site far has all before 0000000100", "make a backup now"] {
        assert!(log.contains(words), "{words}: {log}");
    }
    fs::rename(archive.path("away"), archive.path("site")).unwrap();
    assert!(recovered(&mut copy).0 >= made);
    // Started anew it goes on, behind the gap, with a slot of its own.
    primary.psql("postgres", "CHECKPOINT");
    let receiver = Receiver::start(&archive);
    receiver.waits_until("the slot is made anew", || !slot(&primary).is_empty());
    receiver.waits_until("it keeps up", is_caught_up);
    receiver.stop();
}

#[test]
fn a_standby_that_is_promoted_is_followed_on_its_timeline() {
    let archive = Archive::new("limit = \"64MiB\"");
    let mut primary = Cluster::new(Server::Fifteen, &["wal_keep_size=0"]);
    primary.make_role("postgres");
    primary.psql("postgres", TABLE);
    let standby = Cluster::unstarted(Server::Fifteen, &["hot_standby=on", "archive_mode=off"]);
    let mut basebackup = primary.program("pg_basebackup");
    basebackup.arg("-D").arg(standby.data()).args(["-c", "fast", "--no-sync", "-X", "stream", "-R"]);
    crate::postgres::run(basebackup);
    let standby = standby.started();
    // In turn, as libpq has it.
    let (first, second) = (primary.role_url("postgres"), standby.path(""));
    archive.follows(&format!("{first},{}", second.display().to_string().trim_end_matches('/')));
    let receiver = Receiver::start(&archive);
    receiver.waits_until("the slot is made", || !slot(&primary).is_empty());
    let mut copy = restored_from(&archive, &primary);
    let load = Load::start(&primary, 3000);
    std::thread::sleep(Duration::from_secs(6));
    primary.stop(false);
    drop(load);
    standby.psql("postgres", "SELECT pg_promote()");
    receiver.waits_until("it goes on", || !slot(&standby).is_empty());
    let before: u64 = standby.psql("postgres", "SELECT count(*) FROM markers").parse().unwrap();
    let load = Load::start(&standby, 3000);
    std::thread::sleep(Duration::from_secs(6));
    load.ends(&standby);
    standby.psql("postgres", "SELECT setval('markers_id_seq', (SELECT max(id) FROM markers))");
    let made: u64 = standby.psql("postgres", "SELECT count(*) FROM markers").parse().unwrap();
    let log = receiver.log();
    receiver.stop();
    assert!(made > before, "{made}");
    let keys: Vec<String> = files(&archive.path("site/wal")).into_iter().collect();
    for wanted in ["/00000001/", "/00000002/00000002.history", "/00000002/000000020000"] {
        assert!(keys.iter().any(|key| format!("/{key}").contains(wanted)), "{wanted}: {keys:?}\n{log}");
    }
    drop(standby);
    copy.start();
    assert_eq!(copy.psql("postgres", "SELECT count(*) FROM markers"), made.to_string(), "{log}");
    assert_eq!(copy.psql("postgres", "SELECT timeline_id FROM pg_control_checkpoint()"), "3");
}
