//! `kill -9` of a backup at random moments: the server keeps nothing of it, no point is listed that is not whole, and the next one is made
//! as if nothing had been.

use std::{
    process::Stdio,
    thread::sleep,
    time::{Duration, Instant},
};

use rand::RngExt;

use super::{
    cluster::{Cluster, ROLE},
    drill::{agent, reading_by},
    in_a_row::{chance, different, full},
};
use crate::{postgres::Server, support::soak};

const PATIENCE: Duration = Duration::from_secs(30);
/// What a server says when a session ends that had begun a backup and did not end it.
const ABORTED: &str = "aborting backup due to backend exiting before pg_backup_stop was called";

fn aborted(cluster: &Cluster) -> usize {
    cluster.log().matches(ABORTED).count()
}

fn leaves_nothing(server: Server, read_by: &str) {
    let mut random = chance();
    let is_summarised = server.summarises();
    let settings: &[&str] = if is_summarised { &["autovacuum=off", "summarize_wal=on"] } else { &["autovacuum=off"] };
    let mut cluster = Cluster::new(server, settings);
    cluster.psql("postgres", "CREATE DATABASE app");
    cluster.make_role("app");
    cluster.psql(
        "app",
        "CREATE TABLE rows AS SELECT n AS id, repeat(md5(n::text), 15) AS words FROM generate_series(1, 40000) n; VACUUM",
    );
    let agent = agent(&cluster, "");
    reading_by(&agent, read_by);
    agent.init();
    agent.backup();
    let change = |number: u64| {
        cluster.psql("app", &format!("UPDATE rows SET words = reverse(words) WHERE id % 20 = {}; CHECKPOINT", number % 20));
    };
    // One that is spared, and as the others are, says how long the moments are to choose from.
    change(19);
    let began = Instant::now();
    agent.backup();
    let whole = began.elapsed();
    let (mut points, mut killed) = (agent.points(), 0);
    let times = soak(10);
    for number in 0..times {
        change(number);
        let mut child = agent.command(["backup", "policy.toml"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // One moment of each tenth.
        sleep(whole.mul_f64((number % 10) as f64 / 10.0 + random.random_range(0.0..0.1)));
        child.kill().unwrap();
        let is_killed = !child.wait().unwrap().success();
        killed += usize::from(is_killed);
        let (since, sessions) = (Instant::now(), format!("SELECT count(*) FROM pg_stat_activity WHERE usename = '{ROLE}'"));
        while cluster.psql("postgres", &sessions) != "0" {
            assert!(since.elapsed() < PATIENCE, "sessions outlive the agent: {}", cluster.psql("postgres", &sessions));
            sleep(Duration::from_millis(20));
        }
        assert_eq!(cluster.psql("postgres", "SELECT count(*) FROM pg_replication_slots"), "0", "time {number}");
        let now = agent.points();
        assert!(now.starts_with(&points) && now.len() <= points.len() + 1, "time {number}: {points:?}, {now:?}");
        assert!(is_killed || now.len() > points.len(), "time {number}: a backup that ended well has made a point");
        points = now;
    }
    println!("{killed} of {times} were killed, {} of them in a backup, in a whole one of {whole:?}", aborted(&cluster));
    assert!(killed >= 5 && aborted(&cluster) >= 2, "the moments are badly chosen: {killed}, {} in a backup", aborted(&cluster));
    // All that is listed is whole, with every byte.
    let report = agent.operator(["verify", "policy.toml", "--read-data", "--json"]).succeeds().json();
    assert_eq!(report[0]["points_checked"], points.len(), "{report:#}");

    change(7);
    let report = agent.backup();
    let note = report["sources"][0]["note"].as_str().unwrap();
    assert_eq!(note.starts_with("incremental on the backup that began at"), is_summarised, "{note}");
    assert_eq!(agent.points().len(), points.len() + 1);
    let restore = || {
        let _ = std::fs::remove_dir_all(agent.path("restored"));
        agent.operator(["restore", "policy.toml", "latest", "--source", "db", "--to", &agent.text("restored")]).succeeds();
    };
    restore();
    let (exchange, _) = full(&cluster);
    let mut wrong = different(&agent.path("restored"), &exchange);
    if !wrong.is_empty() {
        // Hint bits of what the captures themselves ask for are set once, and then no more.
        agent.backup();
        restore();
        wrong = different(&agent.path("restored"), &exchange);
    }
    assert_eq!(wrong, Vec::<String>::new());
    let rows = "SELECT count(*), sum(hashtext(t::text)) FROM rows AS t";
    let expected = cluster.psql("app", rows);
    cluster.stop(true);
    let mut back = Cluster::unstarted(server, &["autovacuum=off"]);
    back.elsewhere(agent.path("restored"));
    back.start();
    assert_eq!(back.psql("app", rows), expected);
    back.amcheck();
    back.check_checksums();
}

#[test]
fn a_backup_of_15_over_sql_that_is_killed_leaves_nothing_behind_anywhere() {
    leaves_nothing(Server::Fifteen, "sql");
}

#[test]
fn a_backup_of_18_that_is_killed_leaves_nothing_behind_anywhere() {
    leaves_nothing(Server::Eighteen, "files");
}
