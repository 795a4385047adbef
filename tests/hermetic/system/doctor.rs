//! `farshore doctor`: what is sound is said to be, what is not names what mends it, and the mending does.

use std::fs;

use serde_json::Value;

use crate::support::agent::{Agent, Outcome, tree};

/// Findings of a subject, by name: outcome, and everything that is said.
fn finding(report: &Value, subject: &str, name: &str) -> (String, String) {
    let examined = report["examined"].as_array().unwrap().iter().find(|one| one["subject"] == subject);
    let examined = examined.unwrap_or_else(|| panic!("nothing of {subject}: {report:#}"));
    let found = examined["findings"].as_array().unwrap().iter().find(|one| one["name"] == name);
    let found = found.unwrap_or_else(|| panic!("nothing of {name}: {examined:#}"));
    let text = |field: &str| found[field].as_str().unwrap_or_default();
    (text("outcome").to_owned(), format!("{}; {}", text("found"), text("mend")))
}

fn doctor(agent: &Agent, more: &[&str]) -> Outcome {
    agent.run(["doctor", "policy.toml", "--json"].into_iter().chain(more.iter().copied()))
}

#[test]
fn a_sound_machine_has_nothing_to_be_mended_and_is_left_as_it_was() {
    let agent = Agent::with_everything();
    agent.init();
    let report = doctor(&agent, &[]).succeeds().json();
    assert_eq!(finding(&report, "site far", "newest point").0, "note", "there is no point yet");
    agent.backup();
    let before = tree(&agent.path("site"));
    let report = doctor(&agent, &[]).succeeds().json();
    for (subject, name) in [
        ("source config", agent.text("data").as_str()),
        ("source attachments", "listing"),
        ("source attachments", "reading"),
        ("source cluster", "program"),
        ("site far", "repository"),
        ("site far", "recipients"),
        ("site far", "newest point"),
        ("site far", "clock"),
        ("site far", "if-absent writes"),
        ("site far", "upload checksums"),
        ("this machine", "memory"),
        ("this machine", "drill directory"),
    ] {
        assert_eq!(finding(&report, subject, name).0, "passed", "{subject} {name}: {report:#}");
    }
    assert_eq!(tree(&agent.path("site")), before, "nothing of the probe is left");
    let text = agent.run(["doctor", "policy.toml"]).succeeds().stdout;
    assert!(text.contains("site far (") && text.contains("0 to be mended"), "{text}");
}

#[test]
fn nothing_is_written_where_that_is_not_wanted() {
    let agent = Agent::with_everything();
    agent.init();
    let report = doctor(&agent, &["--read-only"]).succeeds().json();
    let findings =
        report["examined"].as_array().unwrap().iter().find(|one| one["subject"] == "site far").unwrap()["findings"].to_string();
    assert!(findings.contains("repository") && !findings.contains("writes"), "{findings}");
    // A site that cannot be written to, root or not: where files are made before they get their names, there is a file.
    fs::remove_dir_all(agent.path("site/.farshore")).unwrap();
    fs::write(agent.path("site/.farshore"), "in the way").unwrap();
    let report = doctor(&agent, &[]).ends_with(10).json();
    assert_eq!(finding(&report, "site far", "writing").0, "failed");
}

#[test]
fn everything_that_is_wrong_is_said_at_once_with_what_mends_it() {
    let agent = Agent::with_everything();
    let sources =
        agent.all_sources().replace(&agent.text("data"), &agent.text("nowhere")).replace("\"cat\"", "\"no-such-program\"");
    fs::write(agent.path("empty"), "").unwrap();
    let report = {
        agent.write_policy(&sources);
        doctor(&agent, &[]).ends_with(10).json()
    };
    let nowhere = agent.text("nowhere");
    for (subject, name, words) in [
        ("source config", nowhere.as_str(), "No such file"),
        ("source cluster", "program", "absolute path"),
        ("site far", "repository", "farshore init"),
    ] {
        let (outcome, said) = finding(&report, subject, name);
        assert!(outcome == "failed" && said.contains(words), "{subject} {name}: {said}");
    }
    // Somebody whom the repository does not know.
    agent.write_policy(&agent.all_sources());
    agent.init();
    let stranger = agent.generate_key("stranger.txt");
    let policy = fs::read_to_string(agent.path("policy.toml")).unwrap();
    fs::write(agent.path("policy.toml"), policy.replacen("recipients = [", &format!("recipients = [\"{stranger}\", "), 1)).unwrap();
    let report = doctor(&agent, &[]).ends_with(10).json();
    let (outcome, said) = finding(&report, "site far", "recipients");
    assert!(outcome == "failed" && said.contains("farshore key"), "{said}");
    // A drill that has no room is worth saying, and hinders no backup.
    let drill = format!("[drill]\ndirectory = \"{}/below\"\n", agent.text("empty"));
    let site = format!("[[site]]\nname = \"far\"\nstore = {{ kind = \"filesystem\", path = \"{}\" }}\n", agent.text("site"));
    agent.write_policy_with(&agent.all_sources(), &site, &drill);
    let report = doctor(&agent, &[]).succeeds().json();
    let (outcome, said) = finding(&report, "this machine", "drill directory");
    assert!(outcome == "note" && said.contains("[drill] directory"), "{said}");
    // Nor is a wrong key anything but said.
    fs::write(agent.path("agent.key"), fs::read(agent.path("stranger.txt")).unwrap()).unwrap();
    let outcome = doctor(&agent, &[]).ends_with(10);
    assert_eq!(finding(&outcome.json(), "site far", "repository").0, "failed");
    assert!(!outcome.stdout.contains("AGE-SECRET-KEY") && !outcome.stderr.contains("AGE-SECRET-KEY"));
}
