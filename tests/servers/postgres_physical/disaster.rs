//! The primary is gone: by the program itself, from the site and an identity, to a chosen second and to the end of the archived log.

use std::{
    os::unix::fs::PermissionsExt,
    process::{Command, Output},
};

use serde_json::Value;

use super::{
    archive::{Archive, load},
    cluster::{Cluster, stop_on},
};
use crate::postgres::Server;

/// The operator, who may be root, with a key that nobody else can read; the server's user gets it from farshore alone.
pub(super) struct Operator<'a> {
    archive: &'a Archive,
    server: Server,
}

impl<'a> Operator<'a> {
    pub(super) fn new(archive: &'a Archive, server: Server) -> Self {
        std::fs::copy(archive.path("operator.txt"), archive.path("own.txt")).unwrap();
        std::fs::set_permissions(archive.path("own.txt"), PermissionsExt::from_mode(0o600)).unwrap();
        Self { archive, server }
    }

    pub(super) fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_farshore"));
        command.args(arguments).args(["--identity", &self.archive.text("own.txt")]);
        command.args(["--cache-dir", &self.archive.text("own-cache")]).env("LC_ALL", "C.UTF-8").output().unwrap()
    }

    pub(super) fn restore(&self, name: &str, more: &[&str]) -> Output {
        let (to, bin) = (self.archive.text(name), self.server.bin().display().to_string());
        let (site, policy) = (self.archive.text("site"), self.archive.text("policy.toml"));
        // By the policy, or on the bad day without.
        let from: &[&str] = if name == "now" { &[&policy, "latest", "--site", "far"] } else { &["latest", "--site", &site] };
        let words: &[&str] = &["--source", "db", "--to", &to, "--bin-directory", &bin];
        self.run(&[&["restore"], from, words, more].concat())
    }

    pub(super) fn restored(&self, name: &str, more: &[&str]) -> Value {
        let output = self.restore(name, &[more, &["--start", "--json"]].concat());
        assert!(output.status.success(), "{more:?}: {}\n{}", said(&output), String::from_utf8_lossy(&output.stdout));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    pub(super) fn stop(&self, name: &str) {
        stop_on(&self.archive.path(name), self.server);
    }
}

pub(super) fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub(super) fn check<'a>(report: &'a Value, name: &str) -> &'a Value {
    let checks = report["sources"][0]["checks"].as_array().unwrap();
    checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("{name} in {report:#}"))
}

/// A primary that archives. A server that is restored from its backup takes its socket.
pub(super) fn primary(archive: &Archive, server: Server) -> Cluster {
    let primary = archive.primary(server);
    primary.leaves_its_socket();
    primary.make_role("postgres");
    primary.psql("postgres", "CREATE TABLE load (id int, filler text); CREATE TABLE markers (id int)");
    primary
}

/// Places in the past of a primary that is gone, right after its second marker.
pub(super) struct Past {
    second: String,
    xid: String,
}

/// The name of the restore point there.
const RESTORE_POINT: &str = "after the second";

/// A primary that archives, was backed up, and went on; it is stopped.
pub(super) fn gone(archive: &Archive, server: Server) -> (Cluster, Past) {
    let mut primary = primary(archive, server);
    let policy = std::fs::read_to_string(archive.path("policy.toml")).unwrap();
    let bin = server.bin().display().to_string();
    let url = format!("{}\"\nbin_directory = \"{bin}", primary.role_url("postgres"));
    let drill = format!("[drill]\ndirectory = \"{}\"\n", archive.text("drill"));
    let probe = "[[drill.probe]]\nsource = \"db\"\nquery = \"SELECT count(*) FROM markers\"\nexpect = \"3\"\n";
    let policy = format!("{}\n{drill}{probe}", policy.replace("postgres://farshore@/postgres", &url));
    std::fs::write(archive.path("policy.toml"), policy).unwrap();
    let made = archive.farshore(&["backup", &archive.text("policy.toml")]);
    assert!(made.status.success(), "{}", said(&made));
    load(&primary, 1);
    load(&primary, 2);
    let second = primary.psql(
        "postgres",
        "SELECT pg_sleep(0.1), to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')",
    );
    let second = second.trim_start_matches('|').to_owned();
    let xid = primary.psql("postgres", "SELECT xmin FROM markers WHERE id = 2");
    primary.psql("postgres", &format!("SELECT pg_create_restore_point('{RESTORE_POINT}'); SELECT pg_sleep(0.1)"));
    load(&primary, 3);
    archive.settles(&primary);
    primary.stop(false);
    (primary, Past { second, xid })
}

pub(super) fn comes_back(server: Server) {
    let archive = Archive::new("limit = \"256MiB\"");
    let (primary, past) = gone(&archive, server);
    let operator = Operator::new(&archive, server);
    let plan = operator.restore("planned", &["--to-latest", "--dry-run"]);
    let text = String::from_utf8_lossy(&plan.stdout).into_owned();
    assert!(
        plan.status.success() && text.contains("the end of the archived log (the archive reaches 0000000100000000"),
        "{text}{}",
        said(&plan)
    );
    assert!(!archive.path("planned").exists(), "a dry run writes nothing");

    let report = operator.restored("then", &["--to-time", &past.second]);
    let reached = check(&report, "recovered to");
    assert_eq!(
        (&reached["outcome"], reached["actual"].as_str().unwrap().contains("timeline 2")),
        (&"passed".into(), true),
        "{reached}"
    );
    assert_eq!(check(&report, "server started")["outcome"], "passed", "{report:#}");
    let found = "SELECT count(*), current_setting('archive_mode'), current_setting('restore_command') FROM markers";
    assert_eq!(primary.psql("postgres", found), "2|off|");
    operator.stop("then");

    operator.restored("now", &["--to-latest"]);
    assert_eq!(primary.psql("postgres", found), "3|off|");
    assert_eq!(primary.psql("postgres", "SELECT count(*) FROM load"), "90000");
    operator.stop("now");
    // Another test's keys may lie there.
    let own = std::fs::read(archive.path("own.txt")).unwrap();
    let in_memory = std::fs::read_dir("/dev/shm").unwrap().flatten();
    let left = in_memory.filter(|entry| std::fs::read(entry.path().join("0")).is_ok_and(|key| key == own)).count();
    assert_eq!(left, 0, "a key was left in memory");

    let drilled = operator.run(&["drill", &archive.text("policy.toml"), "--json"]);
    let report = String::from_utf8_lossy(&drilled.stdout).into_owned();
    assert!(drilled.status.success() && report.contains("the end of the archived log"), "{report}{}", said(&drilled));

    let early = operator.restore("early", &["--to-time", "2020-01-01T00:00:00Z"]);
    assert!(!early.status.success() && said(&early).contains("before the end of this point's backup"), "{}", said(&early));
    let beyond = operator.restore("beyond", &["--to-lsn", "FF/0"]);
    assert!(!beyond.status.success() && said(&beyond).contains("lies beyond that"), "{}", said(&beyond));
    // A part of the log is lost: nobody finds out in the middle of a recovery.
    let segments = archive.segments();
    std::fs::remove_file(&segments[segments.len() - 2].1).unwrap();
    archive.ages();
    let cut = operator.restore("cut", &["--to-latest"]);
    assert!(!cut.status.success() && said(&cut).contains("has a gap"), "{}", said(&cut));
    assert!(["early", "beyond", "cut"].iter().all(|name| !archive.path(name).exists()), "what is refused writes nothing");
    let drilled = operator.run(&["drill", &archive.text("policy.toml")]);
    let text = String::from_utf8_lossy(&drilled.stdout).into_owned();
    assert!(!drilled.status.success() && text.contains("archived log of db"), "{text}{}", said(&drilled));
}

#[test]
fn a_17_comes_back_to_every_kind_of_target_that_can_be_typed() {
    let (archive, server) = (Archive::new("limit = \"256MiB\""), Server::Seventeen);
    let (primary, past) = gone(&archive, server);
    let operator = Operator::new(&archive, server);
    for (name, target, markers) in [
        ("xid", &["--to-xid", &past.xid][..], "2"),
        ("before-xid", &["--to-xid", &past.xid, "--exclusive"], "1"),
        ("name", &["--to-name", RESTORE_POINT], "2"),
        ("immediate", &["--to-immediate"], "0"),
    ] {
        let report = operator.restored(name, target);
        assert_eq!(check(&report, "recovered to")["outcome"], "passed", "{name}: {report:#}");
        assert_eq!(primary.psql("postgres", "SELECT count(*) FROM markers"), markers, "{name}");
        operator.stop(name);
    }

    // One that waits can be read before anybody decides, and becomes a primary when somebody has.
    let words = ["restore", &archive.text("policy.toml"), "latest", "--source", "db", "--to", &archive.text("paused")];
    let to = ["--to-xid", &past.xid, "--target-action", "pause", "--identity", &archive.text("operator.txt")];
    let restored = archive.farshore(&[&words[..], &to].concat());
    assert!(restored.status.success(), "{}", said(&restored));
    let mut waiting = Cluster::unstarted(server, &["hot_standby=on", "archive_mode=off"]);
    waiting.elsewhere(archive.path("paused"));
    assert!(waiting.try_start_waiting(), "{}", waiting.log());
    let waits_for = |sql: &str, wanted: &str| {
        let since = std::time::Instant::now();
        while waiting.psql("postgres", sql) != wanted {
            assert!(since.elapsed().as_secs() < 60, "{sql}: {}", waiting.log());
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    };
    // Until its recovery has ended there is no other answer than that it goes on.
    waits_for("SELECT pg_get_wal_replay_pause_state()", "paused");
    assert_eq!(waiting.psql("postgres", "SELECT count(*), pg_is_in_recovery() FROM markers"), "2|t");
    waiting.psql("postgres", "SELECT pg_wal_replay_resume()");
    waits_for("SELECT pg_is_in_recovery()", "f");
    assert_eq!(waiting.psql("postgres", "SELECT count(*) FROM markers"), "2");
}

#[test]
fn a_15_comes_back_at_a_chosen_second_and_at_the_end_of_its_log() {
    comes_back(Server::Fifteen);
}

#[test]
fn an_18_comes_back_at_a_chosen_second_and_at_the_end_of_its_log() {
    comes_back(Server::Eighteen);
}
