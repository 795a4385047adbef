//! The whole way there and back, and the bad day on which only the site and an identity are left.

use std::fs;

use crate::support::agent::{Agent, files, tree};

/// Restores every source of the newest point into directories below `to`, and holds them against the originals.
fn restore_and_compare(agent: &Agent, place: &[&str], to: &str) {
    let (config, objects, cluster) =
        (agent.text(&format!("{to}/config")), agent.text(&format!("{to}/objects")), agent.text(&format!("{to}/state.yaml")));
    fs::create_dir(agent.path(to)).unwrap();
    let mut words = vec!["restore"];
    words.extend(place);
    words.extend(["latest", "--json", "--source", "config", "--to", &config, "--source", "attachments", "--to", &objects]);
    words.extend(["--source", "cluster", "--to", &cluster]);
    let report = agent.operator(words).succeeds().json();
    assert_eq!(report["sources"].as_array().unwrap().len(), 3);
    assert!(!report["phases"].as_array().unwrap().is_empty());
    let restored = agent.path(&format!("{to}/config{}", agent.text("data")));
    assert_eq!(tree(&restored), tree(&agent.path("data")));
    assert_eq!(tree(&agent.path(&format!("{to}/objects"))), tree(&agent.path("objects")));
    assert_eq!(fs::read(&cluster).unwrap(), fs::read(agent.path("state.yaml")).unwrap());
}

#[test]
fn a_backup_comes_back_verifies_and_drills() {
    let agent = Agent::with_everything();
    let made = agent.run(["init", "policy.toml", "--create", "--json"]).succeeds().json();
    assert_eq!(made[0]["writes"], "exclusive");
    let report = agent.backup();
    assert_eq!(report["encryption"], "2 recipients");
    let id = report["point_id"].as_str().unwrap();

    let points = agent.run(["points", "policy.toml", "--json"]).succeeds().json();
    assert_eq!(points[0]["id"], id);
    assert!(points[0]["verified"].is_null());
    let shown = agent.run(["show", "policy.toml", &id[..6], "--json"]).succeeds().json();
    assert_eq!(shown["snapshots"].as_array().unwrap().len(), 3);
    let listed = agent.run(["ls", "policy.toml", "latest:attachments", "--json"]).succeeds().json_lines();
    assert_eq!(listed.len(), 20);
    let object = agent.operator(["cat", "policy.toml", "latest:cluster/output"]).succeeds();
    assert_eq!(object.stdout, fs::read_to_string(agent.path("state.yaml")).unwrap());

    restore_and_compare(&agent, &["policy.toml"], "restored");
    let verified = agent.operator(["verify", "policy.toml", "--read-data", "--json"]).succeeds().json()[0].clone();
    assert_eq!((verified["points_checked"].as_u64(), verified["damage"].as_array().unwrap().len()), (Some(1), 0));
    let drilled = agent.operator(["drill", "policy.toml", "--json"]).succeeds().json();
    assert_eq!(drilled["verdict"], "passed");
    assert!(fs::read_dir(agent.path("drill")).unwrap().next().is_none(), "a drill leaves nothing in its directory");
    let points = agent.run(["points", "policy.toml", "--json"]).succeeds().json();
    assert!(points[0]["verified"].is_string(), "{points}");
    assert_eq!(agent.stored("evidence").len(), 2);
}

#[test]
fn text_reports_say_what_was_done_and_where() {
    let agent = Agent::with_everything();
    let site = agent.text("site");
    let made = agent.run(["init", "policy.toml", "--create"]).succeeds();
    assert!(made.stdout.contains(&site) && made.stdout.contains("site far"), "{}", made.stdout);
    assert!(agent.run(["points", "policy.toml"]).succeeds().stdout.contains("farshore backup"), "the next step");
    let backed_up = agent.run(["backup", "policy.toml"]).succeeds().stdout;
    for word in ["Recovery point", &site, "config", "attachments", "cluster", "2 recipients"] {
        assert!(backed_up.contains(word), "{word} in {backed_up}");
    }
    let drilled = agent.operator(["drill", "policy.toml"]).succeeds().stdout;
    assert!(drilled.contains("Evidence: ") && drilled.contains("RTO"), "{drilled}");
}

#[test]
fn what_has_not_changed_is_neither_read_nor_stored_again() {
    let agent = Agent::with_everything();
    agent.init();
    let first = agent.backup();
    assert!(first["bytes_stored"].as_u64().unwrap() > 800_000, "{first}");
    let second = agent.backup();
    assert!(second["bytes_stored"].as_u64().unwrap() < 20_000, "{second}");
    for source in second["sources"].as_array().unwrap() {
        if source["name"] != "cluster" {
            assert_eq!(source["bytes_read"], 0, "{source}");
        }
    }
    // The same for an agent that has lost its cache, since that is rebuilt from the site.
    agent.delete_cache();
    assert!(agent.backup()["bytes_stored"].as_u64().unwrap() < 20_000);
}

#[test]
fn diff_names_what_changed_and_its_lines_are_json_for_machines() {
    let agent = Agent::with_everything();
    agent.init();
    agent.backup();
    fs::write(agent.path("objects/2026/00.png"), "changed").unwrap();
    fs::remove_file(agent.path("objects/2026/01.png")).unwrap();
    fs::write(agent.path("objects/2026/new.png"), "new").unwrap();
    agent.write_policy(&format!(
        "{}\n[[source]]\nname = \"more\"\nkind = \"command\"\ncapture = [\"uname\"]\n",
        agent.all_sources()
    ));
    agent.backup();
    let [before, after] = <[String; 2]>::try_from(agent.points()).unwrap();
    let lines = agent.run(["diff", "policy.toml", &before, &after, "--json"]).succeeds().json_lines();
    let changes: Vec<_> = lines
        .iter()
        .filter(|line| line["source"] == "attachments")
        .map(|line| format!("{} {}", line["difference"]["change"], line["difference"]["path"]).replace('"', ""))
        .collect();
    assert_eq!(changes, ["changed 2026/00.png", "removed 2026/01.png", "added 2026/new.png"]);
    assert!(lines.iter().any(|line| line["source"] == "more" && line["change"] == "added"), "{lines:?}");
}

#[test]
fn a_dry_run_changes_nothing() {
    let agent = Agent::with_everything();
    agent.run(["init", "policy.toml", "--create", "--dry-run"]).succeeds();
    assert!(!agent.path("site").exists());
    agent.init();
    let before = agent.stored("");
    let planned = agent.run(["backup", "policy.toml", "--dry-run", "--json"]).succeeds().json();
    assert_eq!(planned["sources"].as_array().unwrap().len(), 3);
    assert_eq!(agent.stored(""), before);
    agent.backup();
    let (before, target) = (agent.stored(""), agent.text("target"));
    let restore = ["restore", "policy.toml", "latest", "--source", "config", "--to", &target, "--dry-run", "--json"];
    assert_eq!(agent.operator(restore).succeeds().json()[0]["source"], "config");
    let bucket = ["restore", "policy.toml", "latest", "--source", "attachments", "--to", &target, "--dry-run"];
    agent.operator(bucket).succeeds();
    assert!(!agent.path("target").exists());
    assert_eq!(agent.stored(""), before);
}

#[test]
fn site_and_identity_are_enough_on_another_machine() {
    let mut agent = Agent::with_everything();
    agent.init();
    let id = agent.backup()["point_id"].as_str().unwrap().to_owned();
    // Another machine: no policy, no agent key, no cache, another home.
    for file in ["policy.toml", "agent.key", "escrow.txt"] {
        fs::remove_file(agent.path(file)).unwrap();
    }
    agent.delete_cache();
    fs::create_dir(agent.path("elsewhere")).unwrap();
    agent.set("HOME", agent.text("elsewhere"));
    let site = agent.text("site");
    let points = agent.operator(["points", "--site", &site, "--json"]).succeeds().json();
    assert_eq!((points.as_array().unwrap().len(), points[0]["id"].as_str()), (1, Some(id.as_str())));
    restore_and_compare(&agent, &["--site", &site], "restored");
    let drilled = agent.operator(["drill", "--site", &site, "--json"]).succeeds().json();
    assert_eq!((drilled["verdict"].as_str(), drilled["policy"].as_str()), (Some("passed"), Some("sys")));
    agent.operator(["verify", "--site", &site, "--read-data"]).succeeds();
}

#[test]
fn a_cache_of_rubbish_is_rebuilt() {
    let agent = Agent::with_everything();
    agent.init();
    agent.backup();
    let caches = agent.path("home/.cache/farshore");
    for name in &files(&caches) {
        fs::write(caches.join(name), "rubbish").unwrap();
    }
    assert!(agent.backup()["bytes_stored"].as_u64().unwrap() < 20_000);
    restore_and_compare(&agent, &["policy.toml"], "restored");
}
