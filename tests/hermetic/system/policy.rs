//! Policies that are wrong, and sites that are not what the policy says.

use std::fs;

use crate::support::agent::{Agent, tree};

#[test]
fn every_error_of_a_policy_is_told_at_once_with_its_line() {
    let agent = Agent::new("");
    let sources = format!("{0}\n{0}colour = \"blue\"\n", agent.files_source());
    agent.write_policy_with(&sources, "[[site]]\nname = \"far\"\nstore = { kind = \"floppy\" }\n", "");
    let text = fs::read_to_string(agent.path("policy.toml")).unwrap();
    let line = |wanted: &str| text.lines().position(|line| line.starts_with(wanted)).unwrap() + 1;
    let (colour, store) = (line("colour"), line("store"));
    let twice = text.lines().enumerate().filter(|(_, line)| *line == "name = \"config\"").nth(1).unwrap().0 + 1;
    for words in [["policy", "check", "policy.toml"], ["init", "--quiet", "policy.toml"], ["backup", "--quiet", "policy.toml"]] {
        let said = agent.run(words).ends_with(3).stderr;
        for (line, words) in [(colour, "colour"), (store, "floppy"), (twice, "config")] {
            let place = format!("policy.toml:{line}");
            assert!(said.lines().any(|told| told.contains(&place) && told.contains(words)), "{place} {words} in {said}");
        }
    }
    assert!(!agent.path("site").exists());
}

#[test]
fn a_sound_policy_is_said_to_be_one_in_numbers_that_read_well() {
    let agent = Agent::with_everything();
    let said = agent.run(["policy", "check", "policy.toml"]).succeeds().stdout;
    assert!(said.contains("policy sys, 3 sources, 1 site\n"), "{said}");
}

#[test]
fn a_policy_that_is_not_there_is_named() {
    let agent = Agent::new("");
    agent.run(["backup", "absent.toml"]).fails(3, &["absent.toml", "cannot be read"]);
    agent.run(["points", "nowhere"]).fails(3, &["nowhere", "/etc/farshore/policies"]);
}

#[test]
fn nonsense_on_the_command_line_is_a_usage_error() {
    let agent = Agent::with_everything();
    agent.init();
    agent.backup();
    agent.run(["restore", "policy.toml", "latest", "--to", "target"]).fails(2, &["config, attachments, cluster", "--source NAME"]);
    agent.run(["restore", "policy.toml", "latest", "--source", "nobody", "--to", "t"]).fails(2, &["nobody", "it has config"]);
    let database = "postgres://me@host/db";
    agent.run(["restore", "policy.toml", "latest", "--source", "config", "--to", database]).fails(2, &["config", "a directory"]);
    let typed = "postgres://me:se%40cret@host/db?password=secret";
    let refused =
        agent.run(["restore", "policy.toml", "latest", "--source", "config", "--to", typed]).fails(2, &["postgres://…@host/db?…"]);
    assert!(!refused.stderr.contains("cret"), "{}", refused.stderr);
    let tablespace = ["restore", "policy.toml", "latest", "--source", "config", "--to", "t", "--tablespace", "a=/b"];
    agent.run(tablespace).fails(2, &["--tablespace", "physical"]);
    agent.run(["points", "policy.toml", "--site", "mars"]).fails(2, &["mars", "it has far"]);
    agent.run(["show", "policy.toml", "ffffffffffffffff"]).fails(2, &["ffffffffffffffff", "`farshore points` lists them"]);
    agent.run(["restore", "policy.toml", "latest-verified", "--source", "config", "--to", "t"]).fails(2, &["farshore drill"]);
    agent.run(["cat", "policy.toml", "latest:config/absent"]).fails(2, &["config/absent", "`farshore ls` lists what is"]);
    agent.run(["cat", "policy.toml", "latest:nobody/x"]).fails(2, &["nobody", "it has config"]);
    agent.run(["points"]).fails(2, &["POLICY"]);
    assert_eq!(agent.run(["frobnicate"]).code, 2);
}

#[test]
fn a_site_that_is_not_there_or_holds_no_repository_is_told_apart() {
    let agent = Agent::with_everything();
    let site = agent.text("site");
    agent.run(["backup", "policy.toml"]).fails(6, &[&site, "farshore init"]);
    agent.run(["points", "policy.toml"]).fails(6, &[&site, "farshore init"]);
    assert!(!agent.path("site").exists(), "a backup makes no site: the disk may just not be mounted");
    fs::create_dir(agent.path("site")).unwrap();
    agent.run(["backup", "policy.toml"]).fails(6, &[&site, "there is no Farshore repository here", "farshore init"]);
    agent.operator(["points", "--site", &site]).fails(6, &[&site, "there is no Farshore repository here"]);
    agent.run(["points", "--site", "s4://mars"]).fails(2, &["s4://mars", "write a directory"]);
    fs::remove_dir(agent.path("site")).unwrap();
    fs::write(agent.path("site"), "a file").unwrap();
    agent.run(["backup", "policy.toml"]).fails(6, &[&site]);
}

#[test]
fn a_second_init_changes_nothing() {
    let agent = Agent::with_everything();
    agent.init();
    let before = tree(&agent.path("site"));
    agent.run(["init", "policy.toml", "--create"]).fails(6, &["there is a repository here already", "another prefix"]);
    assert_eq!(tree(&agent.path("site")), before);
}

#[test]
fn a_site_that_is_down_does_not_keep_the_others_without_their_point() {
    let agent = Agent::with_everything();
    let site =
        |name: &str| format!("[[site]]\nname = \"{name}\"\nstore = {{ kind = \"filesystem\", path = \"{}\" }}\n", agent.text(name));
    let sites = [site("site-a"), site("site-b")].concat();
    agent.write_policy_with(&agent.all_sources(), &sites, &agent.drill_table());
    agent.init();
    fs::rename(agent.path("site-a"), agent.path("unplugged")).unwrap();
    agent.run(["backup", "policy.toml"]).fails(6, &["site-a"]);
    let points = agent.run(["points", "policy.toml", "--site", "site-b", "--json"]).succeeds().json();
    assert_eq!(points.as_array().unwrap().len(), 1);
    assert!(!agent.path("site-a").exists());
}

#[test]
fn an_unencrypted_repository_says_so_everywhere_and_needs_no_identity() {
    let agent = Agent::with_everything();
    let text = fs::read_to_string(agent.path("policy.toml")).unwrap();
    let (head, tail) = text.split_once("[encryption]").unwrap();
    let rest = tail.split_once("[drill]").unwrap().1;
    fs::write(agent.path("policy.toml"), format!("encryption = \"none\"\n{head}\n[drill]{rest}")).unwrap();
    let said = |words: &[&str]| agent.run(words.iter().copied()).succeeds().stdout.to_lowercase();
    assert!(said(&["init", "policy.toml", "--create"]).contains("everybody who can read the site"));
    for words in [
        &["backup", "policy.toml"][..],
        &["points", "policy.toml"],
        &["restore", "policy.toml", "latest", "--source", "config", "--to", "target"],
        &["drill", "policy.toml"],
    ] {
        let text = said(words);
        assert!(text.contains("encryption") && text.contains("none"), "{words:?}: {text}");
    }
    agent.write_policy(&agent.all_sources());
    agent.run(["backup", "policy.toml"]).fails(7, &["not encrypted", "encryption = \"none\""]);
}

#[test]
fn the_policy_comes_back_from_a_point() {
    let agent = Agent::with_everything();
    agent.init();
    agent.backup();
    let site = agent.text("site");
    let text = fs::read_to_string(agent.path("policy.toml")).unwrap();
    let show = ["show", "--site", &site, "latest", "--policy"];
    assert_eq!(agent.operator(show).succeeds().stdout.trim_end(), text.trim_end());
    assert_eq!(agent.operator(show.into_iter().chain(["--json"])).succeeds().json()["policy_text"], text);
}

#[test]
fn of_several_policies_in_one_repository_none_has_the_latest_point() {
    let agent = Agent::with_everything();
    agent.init();
    agent.backup();
    let site = agent.text("site");
    let cat = |words: &[&str]| agent.operator(["cat"].iter().chain(words).copied());
    cat(&["--site", &site, "latest:cluster/output"]).succeeds();
    let text = fs::read_to_string(agent.path("policy.toml")).unwrap();
    fs::write(agent.path("other.toml"), text.replacen("name = \"sys\"", "name = \"other\"", 1)).unwrap();
    agent.run(["backup", "other.toml"]).succeeds();
    cat(&["--site", &site, "latest:cluster/output"])
        .fails(2, &["points of several policies lie here (other, sys)", "write the id"]);
    cat(&["other.toml", "latest:cluster/output"]).succeeds();
    let id = agent.points().pop().unwrap();
    cat(&["--site", &site, &format!("{id}:cluster/output")]).succeeds();
    // Verified is only one of them, until the other is as well.
    agent.operator(["drill", "policy.toml"]).succeeds();
    cat(&["--site", &site, "latest-verified:cluster/output"]).succeeds();
    agent.operator(["drill", "other.toml"]).succeeds();
    cat(&["--site", &site, "latest-verified:cluster/output"]).fails(2, &["(other, sys)"]);
}
