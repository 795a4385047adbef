//! A restore whose disk runs full while its data are written.

use std::{
    fs,
    path::PathBuf,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use super::{
    cluster::{Cluster, give},
    drill::agent,
    full_disk::Disk,
    in_a_row::{different, full},
};
use crate::postgres::Server;

/// Shares of what a restore takes for which there is room: among the first files it ends, among the last, and in the log.
const ROOM: [f64; 3] = [0.05, 0.6, 0.93];

/// Whether all threads of a process stand still.
fn is_held(process: &Child) -> bool {
    let tasks = fs::read_dir(format!("/proc/{}/task", process.id())).unwrap().flatten();
    let state = |at: PathBuf| fs::read_to_string(at.join("stat")).unwrap_or_default();
    tasks.map(|task| state(task.path())).all(|stat| stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with(['T', 't'])))
}

#[test]
fn a_restore_whose_disk_runs_full_cannot_be_started_and_goes_on_when_there_is_room() {
    let server = Server::Eighteen;
    let cluster = Cluster::new(server, &["autovacuum=off"]);
    cluster.psql("postgres", "CREATE DATABASE app");
    cluster.make_role("app");
    // What does not compress takes its time.
    cluster.psql(
        "app",
        "CREATE TABLE rows AS SELECT n AS id, string_agg(md5(n::text || m::text), '') AS words \
         FROM generate_series(1, 20000) n, generate_series(1, 40) m GROUP BY n; VACUUM",
    );
    let agent = agent(&cluster, "");
    agent.init();
    agent.backup();

    let disk = Disk::new(agent.path("disk"), 768);
    give(&disk.0);
    let (data, empty) = (disk.0.join("data"), disk.free_bytes());
    let to = data.display().to_string();
    let words = |more: &'static [&'static str]| {
        ["restore", "policy.toml", "latest", "--source", "db", "--to", &to]
            .into_iter()
            .chain(more.iter().copied())
            .collect::<Vec<_>>()
    };
    agent.operator(words(&[])).succeeds();
    let taken = empty - disk.free_bytes();
    let is_whole = || different(&data, &full(&cluster).0);
    if !is_whole().is_empty() {
        // Hint bits of what the captures themselves ask for are set once, and then no more.
        agent.backup();
        agent.operator(words(&["--delta"])).succeeds();
    }
    fs::remove_dir_all(&data).unwrap();

    for (turn, share) in ROOM.into_iter().enumerate() {
        let mut command = agent.command(words(if turn == 0 { &[] } else { &["--delta"] }));
        command.env("FARSHORE_IDENTITY_FILE", agent.text("operator.txt")).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut restoring = command.spawn().unwrap();
        let (id, began) = (Pid::from_child(&restoring), Instant::now());
        let (before, wanted) = (empty - disk.free_bytes(), (taken as f64 * share) as u64);
        while empty - disk.free_bytes() <= before + (1 << 20) {
            assert!(restoring.try_wait().unwrap().is_none(), "turn {turn}: it ended before it began");
            assert!(began.elapsed() < Duration::from_secs(60), "turn {turn}");
        }
        kill_process(id, Signal::STOP).unwrap();
        while !is_held(&restoring) {}
        // Its own look at the room there is lies behind it.
        let ballast = disk.fill_but(wanted.saturating_sub(empty - disk.free_bytes()));
        kill_process(id, Signal::CONT).unwrap();
        let output = restoring.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(9), "turn {turn}: {said}");
        assert!(said.contains("No space left on device"), "turn {turn}: {said}");
        assert!(!said.contains("panicked"), "turn {turn}: {said}");
        assert!(!data.join("global/pg_control").exists(), "turn {turn}: a server would start from it");
        assert!(data.join("farshore-restore").exists(), "turn {turn}: nobody knows what this is");
        fs::remove_file(ballast).unwrap();
    }
    agent.operator(words(&["--delta"])).succeeds();
    assert_eq!(is_whole(), Vec::<String>::new());
    let rows = "SELECT count(*), sum(hashtext(t::text)) FROM rows AS t";
    let mut back = Cluster::unstarted(server, &["archive_mode=off", "autovacuum=off"]);
    back.elsewhere(data);
    back.start();
    assert_eq!(back.psql("app", rows), cluster.psql("app", rows));
    back.amcheck();
    back.check_checksums();
}
