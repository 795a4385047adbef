//! A site whose packs a rule moved to the archive tier, over a server that does what Microsoft's documents say (`tests/support/fake_azure`): no
//! real one was reached.

use std::fs;

use serde_json::Value;

use crate::support::{
    agent::{Agent, Outcome, noise, tree},
    fake_azure::{ACCOUNT, CONTAINER, FakeAzure, KEY, Rules},
};

fn agent(fake: &FakeAzure, lock: &str) -> Agent {
    let mut agent = Agent::with_everything();
    agent.set("SITE_KEY", KEY);
    let site = format!(
        "[[site]]\nname = \"far\"\n{lock}store = {{ kind = \"azure\", account = \"{ACCOUNT}\", container = \"{CONTAINER}\", prefix = \"p\", \
         endpoint = \"{}\", account_key = {{ env = \"SITE_KEY\" }} }}\n",
        fake.endpoint()
    );
    agent.write_policy_with(&agent.all_sources(), &site, &agent.drill_table());
    agent.init();
    agent
}

/// Two backups: what the second one found new is objects, in a pack of their own.
fn back_up_twice(agent: &Agent) {
    agent.backup();
    fs::create_dir(agent.path("objects/2027")).unwrap();
    for number in 0..4 {
        fs::write(agent.path(&format!("objects/2027/{number}.png")), noise(200 + number, 100_000)).unwrap();
    }
    agent.backup();
}

/// Restores the directory from the newest point.
fn restore(agent: &Agent, target: &str, more: &[&str]) -> Outcome {
    let to = agent.text(target);
    agent.operator(["restore", "policy.toml", "latest", "--source", "config", "--to", &to].into_iter().chain(more.iter().copied()))
}

/// Requests that move a blob between tiers.
fn moves(fake: &FakeAzure) -> usize {
    fake.asked().iter().filter(|asked| asked.starts_with("PUT ") && asked.contains("comp=tier")).count()
}

#[test]
fn packs_in_the_archive_are_brought_back_when_somebody_says_so_and_never_otherwise() {
    for lock in ["", "lock = { mode = \"compliance\", days = 30 }\n"] {
        let fake = FakeAzure::today(Rules::default());
        let agent = agent(&fake, lock);
        back_up_twice(&agent);
        fake.archive("p/packs/");
        // The lists lie there, too: what the data is, nobody can tell.
        let plan = restore(&agent, "planned", &["--dry-run", "--json"]).succeeds().json();
        let archive = &plan[0]["in_archive"];
        let packs = fake.versions().iter().filter(|(name, ..)| name.starts_with("p/packs/")).count();
        assert_eq!(
            (&archive["packs"], &archive["coming"], &archive["is_most"]),
            (&packs.into(), &0.into(), &true.into()),
            "{plan}"
        );
        assert_eq!(archive["standard_seconds"], 15 * 3600);
        let said = restore(&agent, "planned", &["--dry-run"]).succeeds().stdout;
        assert!(said.contains("lie in an archive") && said.contains("30 h, with `--rehydrate=high` 2 h"), "{said}");
        restore(&agent, "refused", &[]).fails(1, &["lie in an archive", "Nothing was written", "--rehydrate"]);
        assert!(!agent.path("refused").exists());
        assert_eq!(moves(&fake), 0, "nobody said yes");

        let report = restore(&agent, "brought", &["--rehydrate=high", "--json"]).succeeds().json();
        assert_eq!(tree(&agent.path("brought").join(agent.text("data").trim_start_matches('/'))), tree(&agent.path("data")));
        let phases = report["phases"].as_array().unwrap();
        let retrieval = phases.iter().find(|phase| phase["name"] == "retrieval").expect("the time is told");
        assert!(retrieval["seconds"].as_f64().unwrap() > 0.5, "{retrieval}");
        assert!(fake.priorities().iter().all(|priority| priority == "High"));
        // What the objects of the bucket are in, and nothing else needs, was left where it is.
        assert!(moves(&fake) < packs, "{} of {packs}", moves(&fake));
        let again = moves(&fake);
        restore(&agent, "again", &["--rehydrate"]).succeeds();
        assert_eq!(moves(&fake), again, "what is there is not asked for");
        restore(&agent, "without", &[]).succeeds();
    }
}

#[test]
fn only_the_data_that_is_needed_and_archived_is_told_once_the_lists_can_be_read() {
    let fake = FakeAzure::today(Rules::default());
    let agent = agent(&fake, "");
    back_up_twice(&agent);
    fake.archive("p/packs/");
    restore(&agent, "brought", &["--rehydrate"]).succeeds();
    assert!(fake.priorities().iter().all(|priority| priority == "Standard"));
    // A bucket's objects are still there; a directory's packs are not.
    let plan = |source: &str| -> Value {
        let to = agent.text("planned");
        let words = ["restore", "policy.toml", "latest", "--source", source, "--to", &to, "--dry-run", "--json"];
        agent.operator(words).succeeds().json()[0]["in_archive"].clone()
    };
    assert_eq!(plan("config"), Value::Null);
    let attachments = plan("attachments");
    assert_eq!((&attachments["is_most"], &attachments["coming"]), (&false.into(), &0.into()), "{attachments}");
    assert!(attachments["bytes"].as_u64().unwrap() >= 400_000, "{attachments}");
    // Only what lies below a path counts.
    let to = agent.text("planned");
    let words = ["restore", "policy.toml", "latest", "--source", "attachments", "--to", &to, "--path", "2027"];
    let said = agent.operator(words).fails(1, &["lie in an archive"]).stderr;
    assert!(said.contains(" 1 packs of 4"), "{said}");
    let words = ["restore", "policy.toml", "latest", "--source", "attachments", "--to", &to, "--path", "2026"];
    agent.operator(words).succeeds();
    // A verification reads what can be read, and says what it could not.
    let verified = agent.operator(["verify", "policy.toml", "--read-data"]).ends_with(4).stdout;
    assert!(verified.contains("1 packs of 4") && verified.contains("lie in an archive and were not read"), "{verified}");
    agent.run(["prune", "policy.toml"]).succeeds();
}

#[test]
fn backup_drill_prune_and_verification_meet_an_archive_without_harm() {
    let fake = FakeAzure::today(Rules::default());
    let agent = agent(&fake, "");
    agent.backup();
    fake.archive("p/packs/");
    fs::write(agent.path("data/new"), noise(9, 100_000)).unwrap();
    // The newest point's list cannot be read: everything is read again, and nothing is stored again that is stored.
    let report = agent.backup();
    let stored = report["bytes_stored"].as_u64().unwrap_or_else(|| panic!("{report}"));
    assert!((100_000..400_000).contains(&stored), "{stored}");
    let drilled = agent.operator(["drill", "policy.toml"]).ends_with(10);
    assert!(drilled.stdout.contains("lie in an archive") && drilled.stdout.contains("--rehydrate"), "{}", drilled.stdout);
    let verified = agent.operator(["verify", "policy.toml", "--read-data"]);
    assert!(verified.code != 0 && verified.stderr.contains("archived, so that it cannot be read now"), "{verified:?}");
    // Nobody can tell what the points need, so that nothing goes.
    let stored = || fake.versions().into_iter().filter(|(name, ..)| !name.starts_with("p/evidence/")).collect::<Vec<_>>();
    let before = stored();
    let pruned = agent.run(["prune", "policy.toml"]);
    assert!(pruned.code != 0 && pruned.stderr.contains("archived, so that it cannot be read now"), "{pruned:?}");
    assert_eq!(stored(), before);
    assert_eq!(moves(&fake), 0);
}
