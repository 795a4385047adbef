//! A locked site on Azure as an operator has it, over a server that does what Microsoft's documents say (`tests/support/fake_azure`): no
//! real one was reached.

use std::fs;

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use farshore::stores::{Holds, Lock, LockMode, ObjectAttributes, PutOptions, Store, StoreError};
use serde_json::json;

use crate::support::{
    agent::{Agent, noise, tree},
    fake_azure::{ACCOUNT, CONTAINER, FakeAzure, KEY, Rules},
};

fn site(fake: &FakeAzure, lock: &str) -> String {
    format!(
        "[[site]]\nname = \"far\"\nlock = {lock}\nstore = {{ kind = \"azure\", account = \"{ACCOUNT}\", container = \"{CONTAINER}\", prefix = \"p\", \
         endpoint = \"{}\", account_key = {{ env = \"SITE_KEY\" }} }}\n",
        fake.endpoint()
    )
}

fn agent(fake: &FakeAzure, lock: &str) -> Agent {
    let mut agent = Agent::with_everything();
    agent.set("SITE_KEY", KEY);
    agent.set("AZURE_STORAGE_KEY", KEY);
    agent.set("AZURE_STORAGE_SERVICE_ENDPOINT", fake.endpoint());
    let retention = "[retention]\nkeep_within = \"7d\"\nkeep_verified = 1\ngrace = \"2h\"\n";
    agent.write_policy_with(&agent.all_sources(), &site(fake, lock), &format!("{}{retention}", agent.drill_table()));
    agent
}

const LOCK: &str = "{ mode = \"compliance\", days = 7 }";

/// Names of what is there, probes apart.
fn names(fake: &FakeAzure) -> Vec<String> {
    fake.versions().into_iter().filter(|(name, ..)| !name.starts_with("p/probe/")).map(|(name, ..)| name).collect()
}

#[test]
fn what_is_to_be_pruned_stays_until_its_lock_ends_and_goes_whole_then() {
    let fake = FakeAzure::today(Rules::default());
    let agent = agent(&fake, LOCK);
    let made = agent.run(["init", "policy.toml", "--create"]).succeeds();
    for words in [
        "locks (compliance): kept; deleting and shortening are refused",
        "writer (Azure role definition)",
        "blobs/immutableStorage/runAsSuperUser/action",
    ] {
        assert!(made.stdout.contains(words), "{words}: {}", made.stdout);
    }
    fs::write(agent.path("data/only-in-the-first"), noise(71, 300_000)).unwrap();
    agent.backup();
    fake.age("p/", TimeDelta::days(40));
    fs::remove_file(agent.path("data/only-in-the-first")).unwrap();
    fs::write(agent.path("data/only-in-the-second"), noise(72, 200_000)).unwrap();
    agent.backup();
    let everything = names(&fake);

    let prune = || agent.run(["prune", "policy.toml", "--json"]).succeeds().json()[0].clone();
    assert_eq!(prune()["points_doomed"], 1);
    fake.age("p/doomed/", TimeDelta::hours(3));
    let denied = prune();
    assert_eq!((&denied["points_deleted"], &denied["problems"]), (&json!(0), &json!([])), "{denied:#}");
    assert!(denied["locked"].as_u64().unwrap() > 0 && denied["locked_until"].is_string(), "{denied:#}");
    let said = agent.run(["prune", "policy.toml"]).succeeds().stdout;
    assert!(said.contains("later: ") && said.contains(" that a lock of the site holds"), "{said}");
    assert!(everything.iter().all(|name| names(&fake).contains(name)));
    assert!(
        fake.versions().iter().all(|(_, versions, current)| *versions == 1 && *current),
        "nothing was hidden: {:?}",
        fake.versions()
    );

    // What was found locked is not tried again before its time; the machine's clock knows nothing of what happens here.
    fake.end_policies();
    agent.delete_cache();
    let deleted = prune();
    assert_eq!(
        (&deleted["points_deleted"], &deleted["locked"], &deleted["problems"]),
        (&json!(1), &json!(0), &json!([])),
        "{deleted:#}"
    );
    let left = names(&fake);
    let gone: Vec<_> = everything.iter().filter(|name| !left.contains(name)).collect();
    assert!(
        gone.iter().any(|name| name.starts_with("p/points/")) && gone.iter().any(|name| name.starts_with("p/packs/")),
        "{gone:?}"
    );
    assert!(fake.versions().iter().all(|(_, versions, current)| *versions == 1 && *current), "no version is left over");
    agent.operator(["restore", "policy.toml", "latest", "--source", "config", "--to", &agent.text("late")]).succeeds();
    agent.operator(["verify", "policy.toml", "--read-data"]).succeeds();
}

#[test]
fn a_thief_hides_a_locked_repository_and_everything_comes_back() {
    for deleting_hides in [false, true] {
        let fake = FakeAzure::today(Rules { deleting_hides, ..Rules::default() });
        let agent = agent(&fake, LOCK);
        agent.init();
        agent.backup();
        tokio::runtime::Runtime::new().unwrap().block_on(async {
            let thief = fake.store("p").await;
            for name in names(&fake) {
                let key = name.strip_prefix("p/").unwrap();
                assert!(matches!(thief.delete_versions(key).await.unwrap_err(), StoreError::Locked { .. }), "{name}");
                assert_eq!(thief.delete(key).await.is_ok(), deleting_hides, "{name}");
                thief.put(key, Bytes::from_static(b"false"), PutOptions::default()).await.unwrap();
            }
        });
        let target = agent.text("restored");
        let arguments = ["restore", "policy.toml", "latest", "--source", "config", "--to", target.as_str()];
        let blind = agent.operator(arguments);
        assert_ne!(blind.code, 0, "{}", blind.stdout);
        agent.operator(arguments.into_iter().chain(["--first-versions"])).succeeds();
        let restored: Vec<_> = tree(&agent.path("restored")).into_values().collect();
        assert_eq!(restored, tree(&agent.path("data")).into_values().collect::<Vec<_>>());
        // With nothing but the site and an identity.
        let address = format!("azure://{ACCOUNT}/{CONTAINER}/p");
        let listed = agent.operator(["points", "--site", &address, "--first-versions", "--json"]).succeeds();
        assert_eq!(listed.json().as_array().unwrap().len(), 1);
        agent.operator(["verify", "policy.toml", "--read-data", "--first-versions"]).succeeds();
    }
}

#[test]
fn a_container_that_cannot_lock_is_refused_with_what_to_enable() {
    let fake = FakeAzure::today(Rules { supports_policies: false, claims_support: false, ..Rules::default() });
    let agent = agent(&fake, LOCK);
    agent.run(["init", "policy.toml", "--create"]).fails(
        1,
        &[
            "container farshore of the account fakeaccount",
            "az storage container-rm create",
            "--enable-vlw true",
            "run `farshore init` again",
        ],
    );
    assert_eq!(names(&fake), [] as [&str; 0]);
}

#[test]
fn governance_is_refused_by_the_policy_with_the_reason() {
    let fake = FakeAzure::today(Rules::default());
    let agent = agent(&fake, "{ mode = \"governance\", days = 7 }");
    agent.run(["init", "policy.toml"]).fails(3, &["site[far].lock.mode", "may remove it, too", "make it \"compliance\""]);
    assert_eq!(fake.asked(), [] as [&str; 0]);
}

#[test]
fn what_held_the_objects_of_a_source_is_put_back_by_a_restore_that_is_told_to() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let fake = FakeAzure::today(Rules::default());
    let mut agent = Agent::with_everything();
    for (variable, value) in [("SITE_KEY", KEY), ("AZURE_STORAGE_KEY", KEY), ("AZURE_STORAGE_SERVICE_ENDPOINT", fake.endpoint())] {
        agent.set(variable, value);
    }
    let source = format!(
        "[[source]]\nname = \"attachments\"\nkind = \"bucket\"\nlocks = true\nstore = {{ kind = \"azure\", account = \"{ACCOUNT}\", \
         container = \"{CONTAINER}\", prefix = \"src\", endpoint = \"{}\", account_key = {{ env = \"SITE_KEY\" }} }}\n",
        fake.endpoint()
    );
    agent.write_policy(&format!("{}{source}", agent.files_source()));
    let until = DateTime::from_timestamp(Utc::now().timestamp() + 24 * 3600, 0).unwrap();
    let locked = Holds { lock: Some(Lock { mode: LockMode::Compliance, until }), legal_hold: true };
    runtime.block_on(async {
        let store = fake.store("src").await;
        for (key, holds) in [("free", Holds::default()), ("locked", locked)] {
            let options = PutOptions { attributes: ObjectAttributes::default().held_by(holds), ..PutOptions::default() };
            store.put(key, Bytes::from_static(b"bytes"), options).await.unwrap();
        }
    });
    agent.init();
    let examined = agent.run(["doctor", "policy.toml"]).succeeds().stdout;
    assert!(examined.contains("locks: may be seen"), "{examined}");
    agent.backup();
    let restore = |to: &str, more: &[&str]| {
        let words = ["restore", "policy.toml", "latest", "--source", "attachments", "--to", to];
        agent.operator(words.into_iter().chain(more.iter().copied()))
    };
    let address = |prefix: &str| format!("azure://{ACCOUNT}/{CONTAINER}/{prefix}");
    let of = |prefix: &str| {
        runtime.block_on(async {
            let store = fake.store(prefix).await;
            [store.holds("free", None, None).await.unwrap(), store.holds("locked", None, None).await.unwrap()]
        })
    };
    let governance = Holds { lock: Some(Lock { mode: LockMode::Governance, until }), ..locked };
    for (prefix, more, expected) in [
        ("plain", &[][..], Holds::default()),
        ("as-it-was", &["--locks"][..], locked),
        ("liftable", &["--locks=governance"][..], governance),
    ] {
        let planned = restore(&address(prefix), &[more, &["--dry-run"]].concat()).succeeds().stdout;
        assert!(planned.contains("(at the backup 1 objects with a lock, 1 with a legal hold)"), "{planned}");
        let said = restore(&address(prefix), more).succeeds().stdout;
        assert_eq!(said.contains("locked or held at their source"), more.is_empty(), "{said}");
        assert_eq!(said.contains("a lock in the target"), !more.is_empty(), "{said}");
        assert_eq!(of(prefix), [Holds::default(), expected], "{prefix}");
    }
    restore(&agent.text("target"), &["--locks"]).fails(9, &["objects cannot be locked there", "restore without --locks"]);
    assert!(!agent.path("target").exists());
    restore(&agent.text("target"), &[]).succeeds();
    let of_files = ["restore", "policy.toml", "latest", "--source", "config", "--to", "elsewhere", "--locks"];
    agent.operator(of_files).fails(2, &["--locks is for a source of kind bucket"]);
}
