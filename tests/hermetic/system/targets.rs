//! Restore targets and sites that are not fit: in use, or full.

use std::{fs, process::Command};

use crate::support::agent::{Agent, Outcome, files, noise, tree};

fn backed_up() -> Agent {
    let agent = Agent::with_everything();
    agent.init();
    agent.backup();
    agent
}

fn restore(agent: &Agent, source: &str, more: &[&str]) -> Outcome {
    agent.operator(["restore", "policy.toml", "latest", "--json", "--source", source, "--to", "target"].iter().chain(more).copied())
}

#[test]
fn a_target_in_use_is_refused_and_left_as_it_is() {
    let agent = backed_up();
    fs::create_dir(agent.path("target")).unwrap();
    fs::write(agent.path("target/mine"), "precious").unwrap();
    for source in ["config", "attachments"] {
        restore(&agent, source, &[]).fails(9, &["target", "--into-existing"]);
    }
    let output = agent.operator(["restore", "policy.toml", "latest", "--source", "cluster", "--to", "target/mine"]);
    output.fails(9, &["target/mine", "--into-existing"]);
    let found = tree(&agent.path("target"));
    assert_eq!(found.into_iter().collect::<Vec<_>>(), [("mine".to_owned(), b"precious".to_vec())]);
}

#[test]
fn into_existing_keeps_what_matches_and_mends_what_differs() {
    let agent = backed_up();
    restore(&agent, "attachments", &[]).succeeds();
    fs::write(agent.path("target/2026/03.png"), "damaged").unwrap();
    fs::remove_file(agent.path("target/2026/04.png")).unwrap();
    fs::write(agent.path("target/2026/strange.png"), "not ours").unwrap();
    let report = restore(&agent, "attachments", &["--into-existing"]).succeeds().json();
    assert_eq!((report["sources"][0]["items"].as_u64(), report["sources"][0]["items_kept"].as_u64()), (Some(2), Some(18)));
    let mut expected = tree(&agent.path("objects"));
    expected.insert("2026/strange.png".to_owned(), b"not ours".to_vec());
    assert_eq!(tree(&agent.path("target")), expected);
}

#[test]
fn into_existing_keeps_files_that_match() {
    let agent = backed_up();
    restore(&agent, "config", &[]).succeeds();
    let conf = format!("target{}/app.conf", agent.text("data"));
    fs::write(agent.path(&conf), "listen = 1\n").unwrap();
    let report = restore(&agent, "config", &["--into-existing"]).succeeds().json();
    assert!(report["sources"][0]["bytes"].as_u64().unwrap() < 1000, "the large file was there: {report}");
    assert_eq!(fs::read_to_string(agent.path(&conf)).unwrap(), "listen = 8065\n");
}

#[test]
fn a_path_restores_what_lies_below_it_and_nothing_else() {
    let agent = backed_up();
    restore(&agent, "attachments", &["--path", "2026/07.png"]).succeeds();
    let found: Vec<_> = files(&agent.path("target")).into_iter().collect();
    assert_eq!(found, ["2026/07.png"]);
    fs::remove_dir_all(agent.path("target")).unwrap();
    let below = format!("{}/sub", agent.text("data").trim_start_matches('/'));
    restore(&agent, "config", &["--path", &below]).succeeds();
    let restored = tree(&agent.path(&format!("target{}", agent.text("data"))));
    assert_eq!(restored.into_keys().collect::<Vec<_>>(), ["sub/blob"]);
}

#[test]
fn a_path_that_holds_nothing_is_an_error_and_not_an_empty_success() {
    let agent = backed_up();
    restore(&agent, "attachments", &["--path", "2027"]).fails(2, &["2027", "farshore ls"]);
}

/// Runs the program where no file may grow beyond `kilobytes`. Works for root and for everybody else, as a full disk would not.
fn limited(agent: &Agent, kilobytes: u32, words: &str) -> Outcome {
    let script = format!("trap '' XFSZ; ulimit -f {}; exec '{}' {words}", kilobytes * 2, env!("CARGO_BIN_EXE_farshore"));
    let mut command = Command::new("/bin/dash");
    command.args(["-c", &script]);
    agent.dress(&mut command);
    command.output().unwrap().into()
}

fn large() -> Agent {
    let agent = Agent::new("");
    fs::write(agent.path("data/small"), "small").unwrap();
    fs::write(agent.path("data/video"), noise(7, 9 << 20)).unwrap();
    fs::copy(agent.path("data/video"), agent.path("objects/video")).unwrap();
    fs::copy(agent.path("data/video"), agent.path("state.yaml")).unwrap();
    agent.write_policy(&agent.all_sources());
    agent.init();
    agent
}

#[test]
fn a_site_without_room_gets_no_point_and_recovers() {
    let agent = large();
    let error = limited(&agent, 6 << 10, "backup policy.toml").fails(6, &["no space left", &agent.text("site")]);
    assert!(error.stdout.is_empty());
    assert!(agent.points().is_empty());
    agent.backup();
    agent.operator(["verify", "policy.toml", "--read-data"]).succeeds();
}

#[test]
fn a_target_without_room_holds_nothing_that_looks_whole() {
    let agent = large();
    agent.backup();
    for (source, file) in [("config", format!("target{}/video", agent.text("data"))), ("attachments", "target/video".to_owned())] {
        let words = format!("restore policy.toml latest --source {source} --to target --identity operator.txt");
        limited(&agent, 6 << 10, &words).fails(9, &["target"]);
        assert!(!agent.path(&file).exists(), "{file}");
        // With room again the same command completes the work.
        agent.run(words.split(' ').chain(["--into-existing"])).succeeds();
        assert_eq!(fs::read(agent.path(&file)).unwrap(), noise(7, 9 << 20));
        fs::remove_dir_all(agent.path("target")).unwrap();
    }
    limited(&agent, 6 << 10, "restore policy.toml latest --source cluster --to output --identity operator.txt")
        .fails(9, &["output"]);
    assert!(!agent.path("output").exists());
    let left: Vec<_> = fs::read_dir(agent.path("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().starts_with(".farshore-")), "{left:?}");
}
