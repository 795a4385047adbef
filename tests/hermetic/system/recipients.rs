//! Recipients come and go, as the operator types it.

use std::{fs, path::Path};

use serde_json::Value;

use crate::support::agent::{Agent, Outcome, noise, tree};

fn backed_up() -> Agent {
    let agent = Agent::new("");
    fs::write(agent.path("data/a"), noise(1, 300_000)).unwrap();
    agent.write_policy(&agent.files_source());
    agent.init();
    agent.backup();
    agent
}

fn public(agent: &Agent, file: &str) -> String {
    agent.run(["key", "public", file]).succeeds().stdout.trim().to_owned()
}

/// Restores the newest point with one identity alone, without policy and without what others left in the cache.
fn restore(agent: &Agent, identity: &str) -> Outcome {
    let _ = fs::remove_dir_all(agent.path("target"));
    agent.delete_cache();
    let site = agent.text("site");
    agent.run(["restore", "--site", &site, "--identity", identity, "latest", "--source", "config", "--to", "target"])
}

fn assert_restores(agent: &Agent, identity: &str) {
    restore(agent, identity).succeeds();
    assert_eq!(tree(&agent.path(&format!("target{}", agent.text("data")))), tree(&agent.path("data")), "{identity}");
}

fn policy_with(agent: &Agent, recipients: &[&str]) {
    let text = fs::read_to_string(agent.path("policy.toml")).unwrap();
    let (head, rest) = text.split_once("recipients = [").unwrap();
    let (_, tail) = rest.split_once(']').unwrap();
    let list = recipients.iter().map(|key| format!("\"{key}\"")).collect::<Vec<_>>().join(", ");
    fs::write(agent.path("policy.toml"), format!("{head}recipients = [{list}]{tail}")).unwrap();
}

fn site(agent: &Agent) -> Vec<(String, Vec<u8>)> {
    tree(&agent.path("site")).into_iter().collect()
}

#[test]
fn a_recipient_comes_and_another_goes() {
    let agent = backed_up();
    let (operator, escrow) = (public(&agent, "operator.txt"), public(&agent, "escrow.txt"));
    let newcomer = agent.generate_key("newcomer.txt");
    restore(&agent, "newcomer.txt").fails(7, &["none of the identities at hand opens this key"]);

    // Looked at first: nothing changes.
    let before = site(&agent);
    let add = ["key", "add-recipient", "policy.toml", &newcomer, "--name", "second escrow"];
    let plan = agent.operator(add.into_iter().chain(["--dry-run", "--json"])).succeeds().json();
    assert_eq!((&plan[0]["added"][0], &plan[0]["data_keys_to_wrap"]), (&Value::from(newcomer.as_str()), &Value::from(1)));
    assert_eq!(site(&agent), before);
    // The agent's key is not enough.
    agent.run(add.into_iter().chain(["--identity", "agent.key"])).fails(7, &["none of the identities", "nothing was written"]);
    agent.run(add).fails(7, &["none of the identities", "nothing was written"]);
    assert_eq!(site(&agent), before);
    let done = agent.operator(add).succeeds();
    assert!(done.stdout.contains("say it in the policy, too") && done.stdout.contains(&newcomer), "{}", done.stdout);
    let again = agent.operator(add).succeeds();
    assert!(again.stdout.contains("Nothing to do"), "{}", again.stdout);
    for identity in ["operator.txt", "escrow.txt", "newcomer.txt"] {
        assert_restores(&agent, identity);
        agent.run(["key", "check", "policy.toml", "--identity", identity]).succeeds();
    }

    // The policy must say the same, and the refusal says what to type.
    agent.run(["backup", "policy.toml"]).fails(7, &[&newcomer, "farshore key rotate policy.toml --identity FILE"]);
    policy_with(&agent, &[&operator, &escrow, &newcomer]);
    fs::write(agent.path("data/b"), noise(2, 200_000)).unwrap();
    let report = agent.backup();
    assert!(
        report["chunks_known"].as_u64().unwrap() > 0 || report["sources"][0]["items_unchanged"].as_u64().unwrap() > 0,
        "{report}"
    );
    for identity in ["operator.txt", "escrow.txt", "newcomer.txt"] {
        assert_restores(&agent, identity);
    }
    let listed = agent.run(["key", "list", "policy.toml", "--json"]).succeeds().json();
    let named = listed["holders"].as_array().unwrap().iter().find(|holder| holder["key"] == *newcomer).unwrap();
    assert_eq!((&named["name"], &named["data_keys"]), (&Value::from("second escrow"), &Value::from(2)));

    // An operator leaves.
    let packs: Vec<_> = site(&agent).into_iter().filter(|(key, _)| key.starts_with("packs/")).collect();
    let done = agent.run(["key", "remove-recipient", "policy.toml", &operator, "--identity", "escrow.txt"]).succeeds();
    assert!(done.stdout.contains("for ever"), "what cannot be taken back is said: {}", done.stdout);
    policy_with(&agent, &[&escrow, &newcomer]);
    fs::write(agent.path("data/c"), noise(3, 200_000)).unwrap();
    agent.backup();
    restore(&agent, "operator.txt").fails(7, &["none of the identities at hand opens this key"]);
    agent.run(["key", "check", "policy.toml", "--identity", "operator.txt"]).fails(7, &["none of the identities"]);
    for identity in ["escrow.txt", "newcomer.txt"] {
        assert_restores(&agent, identity);
    }
    let now = site(&agent);
    assert!(packs.iter().all(|pack| now.contains(pack)), "data were touched");
    let listed = agent.run(["key", "list", "policy.toml"]).succeeds().stdout;
    assert!(!listed.contains(&operator) && listed.contains("second escrow") && listed.contains("(agent)"), "{listed}");
    agent.run(["verify", "policy.toml", "--read-data", "--identity", "newcomer.txt"]).succeeds();
    let drilled = agent.run(["drill", "policy.toml", "--identity", "newcomer.txt", "--json"]).succeeds().json();
    let check = drilled["checks"].as_array().unwrap().iter().find(|check| check["name"].to_string().contains("keys open"));
    assert_eq!(check.unwrap()["actual"], "3 of 3 data keys open");
}

#[test]
fn the_policy_alone_says_who_the_recipients_are_and_rotate_makes_it_so() {
    let agent = backed_up();
    let (operator, newcomer) = (public(&agent, "operator.txt"), agent.generate_key("newcomer.txt"));
    policy_with(&agent, &[&newcomer, &operator]);
    agent.run(["backup", "policy.toml"]).fails(7, &["farshore key rotate policy.toml --identity FILE"]);
    agent.operator(["key", "rotate", "policy.toml"]).succeeds();
    agent.backup();
    assert_restores(&agent, "newcomer.txt");
    restore(&agent, "escrow.txt").fails(7, &["keys/catalogue-"]);
    // The agent changes: its old key opens nothing that is wrapped, the new one works.
    fs::rename(agent.path("agent.key"), agent.path("old.key")).unwrap();
    agent.generate_key("agent.key");
    agent.run(["backup", "policy.toml"]).fails(7, &["keys/catalogue-"]);
    agent.operator(["key", "rotate", "policy.toml"]).succeeds();
    agent.backup();
    agent.run(["points", "policy.toml", "--identity", "old.key"]).fails(7, &["keys/catalogue-"]);
    // Where its key cannot be read, it is who it was.
    fs::rename(agent.path("agent.key"), agent.path("elsewhere.key")).unwrap();
    agent.operator(["key", "rotate", "policy.toml", "--anew"]).succeeds();
    fs::rename(agent.path("elsewhere.key"), agent.path("agent.key")).unwrap();
    agent.backup();
    agent.operator(["key", "rotate", "policy.toml", "--no-agent"]).succeeds();
    agent.run(["points", "policy.toml"]).fails(7, &["keys/catalogue-"]);
}

#[test]
fn what_makes_no_sense_is_refused_before_anything_is_written() {
    let agent = backed_up();
    let (operator, escrow) = (public(&agent, "operator.txt"), public(&agent, "escrow.txt"));
    let before = site(&agent);
    agent.operator(["key", "add-recipient", "policy.toml", "age1nonsense"]).fails(7, &["age1nonsense", "not an age public key"]);
    policy_with(&agent, &[&operator]);
    agent.operator(["key", "remove-recipient", "policy.toml", &operator]).fails(7, &["nobody would be left who can restore"]);
    policy_with(&agent, &[&operator, &escrow]);
    // A key that was mistyped goes on opening everything: that nothing is left to do would be a lie.
    for stranger in [agent.generate_key("stranger.txt"), public(&agent, "agent.key")] {
        let remove = ["key", "remove-recipient", "policy.toml", stranger.as_str()];
        agent.operator(remove).fails(2, &[&format!("{stranger} is no recipient"), &operator, &escrow]);
        agent.operator(remove.into_iter().chain(["--dry-run"])).fails(2, &["is no recipient"]);
    }
    agent.operator(["key", "rotate", "policy.toml", "--agent", "age1nonsense"]).fails(7, &["age1nonsense"]);
    assert_eq!(site(&agent), before);
    // One is enough, and is warned of. The policy may say so before or afterwards.
    policy_with(&agent, &[&operator]);
    let remove = ["key", "remove-recipient", "policy.toml", escrow.as_str()];
    let done = agent.operator(remove).succeeds().stdout;
    assert!(done.contains("one recipient only") && done.contains(&format!("removed        {escrow}")), "{done}");
    agent.operator(remove).fails(2, &["is no recipient", &operator]);
    policy_with(&agent, &[&operator, &escrow]);
    agent.operator(remove).succeeds();
}

#[test]
fn the_golden_repository_takes_another_recipient_and_keeps_its_agent() {
    let agent = Agent::new("");
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1");
    for (key, bytes) in tree(&golden.join("site")) {
        let path = agent.path("site").join(key);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    for (from, to) in [("identity", "operator.txt"), ("agent", "agent.key")] {
        fs::copy(golden.join(from), agent.path(to)).unwrap();
    }
    let (operator, newcomer) = (public(&agent, "operator.txt"), public(&agent, "escrow.txt"));
    agent.write_policy(&agent.files_source());
    policy_with(&agent, &[&operator, &newcomer]);
    let site = agent.text("site");
    fs::rename(agent.path("agent.key"), agent.path("elsewhere.key")).unwrap();
    // Its file does not say who the agent is.
    agent.operator(["key", "rotate", "policy.toml"]).fails(7, &["--agent", "--no-agent"]);
    let agents = public(&agent, "elsewhere.key");
    agent.operator(["key", "rotate", "policy.toml", "--agent", &agents]).succeeds();
    for identity in ["operator.txt", "escrow.txt"] {
        agent.run(["key", "check", "--site", &site, "--identity", identity]).succeeds();
        agent.run(["verify", "--site", &site, "--read-data", "--identity", identity]).succeeds();
    }
    agent.run(["points", "--site", &site, "--identity", "elsewhere.key"]).succeeds();
}
