//! Backups that are stopped, fail, or run side by side.

use std::{
    fs,
    process::{Child, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::support::agent::{Agent, Outcome};

/// Waits for something that must come.
fn await_that(what: &str, mut happened: impl FnMut() -> bool) {
    let started = Instant::now();
    while !happened() {
        assert!(started.elapsed() < Duration::from_secs(20), "{what} did not happen");
        sleep(Duration::from_millis(20));
    }
}

/// A `[[source]]` table of a command that prints something, and whose child, which it notes, hangs.
fn slow_source(agent: &Agent) -> String {
    let script = format!("echo some output; sleep 60 & echo $! > {}; wait", agent.text("running"));
    format!("[[source]]\nname = \"slow\"\nkind = \"command\"\ncapture = [\"sh\", \"-c\", \"{script}\"]\n")
}

fn begun(agent: &Agent) -> Child {
    let child = agent.command(["backup", "policy.toml"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    await_that("the slow command", || fs::read_to_string(agent.path("running")).is_ok_and(|text| text.ends_with('\n')));
    child
}

#[test]
fn a_signal_stops_a_backup_without_a_point_and_the_next_one_works() {
    for (signal, name, code) in [(Signal::TERM, "SIGTERM", 143), (Signal::INT, "SIGINT", 130)] {
        let agent = Agent::with_everything();
        agent.write_policy(&format!("{}\n{}", agent.all_sources(), slow_source(&agent)));
        agent.init();
        let child = begun(&agent);
        let started = Instant::now();
        kill_process(Pid::from_child(&child), signal).unwrap();
        let outcome = Outcome::from(child.wait_with_output().unwrap()).fails(code, &[name, "nothing half-done counts as done"]);
        assert!(started.elapsed() < Duration::from_secs(9), "it stops soon, not when patience ends");
        assert!(outcome.stdout.is_empty());
        let program = fs::read_to_string(agent.path("running")).unwrap().trim().parse().ok().and_then(Pid::from_raw).unwrap();
        await_that("the end of what the captured program started", || test_kill_process(program).is_err());
        assert!(agent.points().is_empty());
        agent.write_policy(&agent.all_sources());
        agent.backup();
        agent.operator(["verify", "policy.toml", "--read-data"]).succeeds();
    }
}

#[test]
fn a_time_limit_ends_a_backup_that_hangs() {
    let agent = Agent::with_everything();
    agent.write_policy(&slow_source(&agent));
    agent.init();
    agent.run(["backup", "policy.toml", "--time-limit", "1s"]).fails(1, &["took longer than 1s", "no point was made"]);
    assert!(agent.points().is_empty());
}

#[test]
fn two_backups_at_once_both_succeed() {
    let agent = Agent::with_everything();
    agent.init();
    agent.backup();
    fs::write(agent.path("data/new"), "new in both").unwrap();
    let start = || agent.command(["backup", "policy.toml"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let both = [start(), start()];
    for child in both {
        Outcome::from(child.wait_with_output().unwrap()).succeeds();
    }
    assert_eq!(agent.points().len(), 3);
    let verified = agent.operator(["verify", "policy.toml", "--read-data", "--json"]).succeeds().json()[0].clone();
    assert_eq!(verified["points_checked"], 3);
}

#[test]
fn a_source_that_fails_makes_no_point() {
    let agent = Agent::with_everything();
    agent.init();
    for (source, said) in [
        (
            "kind = \"command\"\ncapture = [\"sh\", \"-c\", \"echo half; echo no cluster here >&2; exit 3\"]",
            ["source broken", "exit status: 3", "no cluster here"],
        ),
        ("kind = \"command\"\ncapture = [\"no-such-program\"]", ["source broken", "no-such-program", "check that it is installed"]),
        (
            "kind = \"command\"\ntimeout = \"1s\"\ncapture = [\"sleep\", \"30\"]",
            ["source broken", "ran longer than 1s", "raise `timeout`"],
        ),
        ("kind = \"files\"\npaths = [\"/no/such/directory\"]", ["source broken", "/no/such/directory", "policy"]),
        (
            "kind = \"bucket\"\nstore = { kind = \"filesystem\", path = \"/no/such/bucket\" }",
            ["source broken", "/no/such/bucket", "check the name in the policy"],
        ),
    ] {
        agent.write_policy(&format!("{}\n[[source]]\nname = \"broken\"\n{source}\n", agent.files_source()));
        agent.run(["backup", "policy.toml"]).fails(5, &said);
        assert!(agent.points().is_empty(), "{source}");
    }
}

#[test]
fn what_could_not_be_read_is_named_and_changes_the_exit_code() {
    let agent = Agent::new("");
    let missing = agent.text("missing");
    fs::write(agent.path("data/there"), "there").unwrap();
    agent.write_policy(&agent.files_source().replace("\"]\n", &format!("\", \"{missing}\"]\n")));
    agent.init();
    let report = agent.run(["backup", "policy.toml", "--json"]).ends_with(4).json();
    assert!(report[0]["sources"][0]["problems"].to_string().contains(&missing), "{report}");
    assert_eq!(agent.points().len(), 1);
}
