//! Pins, anomalies, verified points, and the plan of retention as an operator sees them.

use std::fs;

use serde_json::{Value, json};

use crate::support::agent::{Agent, noise};

fn with_points(count: usize) -> Agent {
    let agent = Agent::with_everything();
    agent.init();
    for _ in 0..count {
        agent.backup();
    }
    agent
}

/// The listed point with this id.
fn listed(agent: &Agent, id: &str) -> Value {
    let points = agent.run(["points", "policy.toml", "--json"]).json();
    points.as_array().unwrap().iter().find(|point| point["id"] == id).unwrap().clone()
}

#[test]
fn a_pin_is_made_shown_and_taken_back_with_the_agents_key_and_nothing_is_ever_overwritten() {
    let agent = with_points(2);
    let [first, second] = agent.points().try_into().unwrap();
    let words = ["pin", "policy.toml", &first, "--until", "2999-12-31", "--reason", "case 4711", "--json"];
    let said = agent.run(words).succeeds().json();
    assert_eq!((&said["point"], &said["pinned"], &said["until"]), (&json!(first), &json!(true), &json!("3000-01-01T00:00:00Z")));
    assert!(said["by"].as_str().unwrap().starts_with("operator@"), "{said}");

    let shown = listed(&agent, &first)["pinned"].clone();
    assert_eq!(
        (&shown["until"], &shown["reason"], &shown["by"]),
        (&json!("3000-01-01T00:00:00Z"), &json!("case 4711"), &said["by"])
    );
    assert_eq!(listed(&agent, &second)["pinned"], Value::Null);
    assert!(agent.run(["points", "policy.toml"]).succeeds().stdout.contains("pinned until 3000-01-01 00:00:00 UTC"));
    let text = agent.run(["show", "policy.toml", &first]).succeeds().stdout;
    assert!(text.contains("pinned         until 3000-01-01 00:00:00 UTC: case 4711 (by operator@"), "{text}");
    assert_eq!(agent.run(["show", "policy.toml", &first, "--json"]).json()["pinned"]["reason"], "case 4711");
    let plan = agent.run(["points", "policy.toml", "--retention", "--json"]).json();
    assert_eq!(plan[0]["reasons"][0], "pinned until 3000-01-01 00:00:00 UTC: case 4711");

    let pin = agent.stored(&format!("pins/{first}"));
    let before = fs::read(agent.path("site").join(&pin[0])).unwrap();
    agent.run(["unpin", "policy.toml", &first, "--reason", "the case is closed"]).succeeds();
    assert_eq!(listed(&agent, &first)["pinned"], Value::Null);
    assert_eq!(agent.stored(&format!("pins/{first}")).len(), 2, "a further record");
    assert_eq!(fs::read(agent.path("site").join(&pin[0])).unwrap(), before);

    // On the bad day, too: by an address alone.
    let site = agent.text("site");
    agent.operator(["pin", "--site", &site, "latest", "--until", "forever", "--reason", "evidence"]).succeeds();
    assert_eq!(listed(&agent, &second)["pinned"]["until"], Value::Null);
    assert!(agent.run(["points", "policy.toml"]).succeeds().stdout.contains("pinned for ever"));
}

#[test]
fn what_cannot_be_pinned_is_refused_and_nothing_is_written() {
    let agent = with_points(1);
    let refused = |words: &[&str], code, said: &[&str]| {
        agent.run([&["pin", "policy.toml"], words].concat()).fails(code, said);
    };
    refused(&["ffffffffffffffff", "--until", "forever", "--reason", "r"], 2, &["ffffffffffffffff", "`farshore points` lists them"]);
    refused(&["latest", "--until", "2020-01-01", "--reason", "r"], 1, &["a time that has passed", "--until"]);
    refused(&["latest", "--until", "forever", "--reason", " "], 1, &["--reason"]);
    for missing in [&["--until", "forever"][..], &["--reason", "r"], &["--until", "soon", "--reason", "r"]] {
        assert_eq!(agent.run([&["pin", "policy.toml", "latest"], missing].concat()).code, 2, "{missing:?}");
    }
    agent.run(["unpin", "policy.toml", "latest", "--reason", "r"]).fails(1, &["is not pinned", "farshore points"]);
    assert_eq!(agent.stored("pins"), [""; 0]);
}

#[test]
fn a_pin_that_was_damaged_or_put_under_another_point_still_holds_and_is_named_by_a_verification() {
    let agent = with_points(2);
    let [first, second] = agent.points().try_into().unwrap();
    agent.run(["pin", "policy.toml", &first, "--until", "1d", "--reason", "r"]).succeeds();
    agent.operator(["verify", "policy.toml", "--read-data"]).succeeds();
    let pin = agent.path("site").join(&agent.stored("pins")[0]);
    let elsewhere = agent.path("site/pins").join(&second).join(pin.file_name().unwrap());
    fs::create_dir(elsewhere.parent().unwrap()).unwrap();
    fs::copy(&pin, &elsewhere).unwrap();
    let mut bytes = fs::read(&pin).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&pin, bytes).unwrap();
    for id in [&first, &second] {
        let shown = listed(&agent, id)["pinned"].clone();
        assert!(shown["until"].is_null() && shown["reason"].as_str().unwrap().contains("cannot be read"), "{shown}");
    }
    let report = agent.run(["verify", "policy.toml", "--json"]).ends_with(8).json()[0].clone();
    let named: Vec<_> = report["damage"].as_array().unwrap().iter().map(|damage| damage["object"].as_str().unwrap()).collect();
    assert!(named.len() == 2 && named.iter().all(|object| object.starts_with("pins/")), "{named:?}");
}

#[test]
fn a_mass_deletion_and_a_jump_of_entropy_are_said_loudly_and_lasts_in_the_point() {
    let agent = Agent::with_everything();
    let texts: Vec<_> = (0..30).map(|number| agent.path(&format!("data/text-{number:02}"))).collect();
    for (number, path) in texts.iter().enumerate() {
        fs::write(path, format!("{number}: compressible words, and more of them\n").repeat(10_000)).unwrap();
    }
    for number in 0..100 {
        fs::write(agent.path(&format!("objects/{number:03}")), noise(number, 100)).unwrap();
    }
    agent.init();
    assert_eq!(agent.backup()["anomalies"], json!([]), "a first point is like no other");
    assert_eq!(agent.backup()["anomalies"], json!([]), "nothing changed");

    for (number, path) in texts.iter().enumerate() {
        fs::write(path, noise(1000 + number as u64, 420_000)).unwrap();
    }
    for number in 10..100 {
        fs::remove_file(agent.path(&format!("objects/{number:03}"))).unwrap();
    }
    let outcome = agent.run(["backup", "policy.toml", "--json"]).ends_with(4);
    let report = &outcome.json()[0];
    let kinds: Vec<_> = report["anomalies"].as_array().unwrap().iter().map(|one| (&one["source"], &one["kind"])).collect();
    assert_eq!(kinds, [(&json!("config"), &json!("entropy")), (&json!("attachments"), &json!("mass-deletion"))]);
    let message = report["anomalies"][1]["message"].as_str().unwrap();
    assert_eq!(message, "75 % of 120 objects of the point before are gone");
    assert!(report["problems"][1]["message"].as_str().unwrap().starts_with("ANOMALOUS: 75 % of 120 objects"), "{report}");

    let id = report["point_id"].as_str().unwrap();
    assert_eq!(listed(&agent, id)["anomalies"], report["anomalies"]);
    assert_eq!(listed(&agent, id)["problems"], 0, "the point itself is complete");
    let text = agent.run(["points", "policy.toml"]).succeeds().stdout;
    assert!(text.contains(&format!("ANOMALOUS {id}: attachments: 75 % of 120 objects")), "{text}");
    assert!(agent.run(["show", "policy.toml", id]).succeeds().stdout.contains("ANOMALOUS    config: "));
    let plan = agent.run(["points", "policy.toml", "--retention", "--json"]).json();
    assert_eq!((&plan[2]["condition"], &plan[1]["condition"]), (&json!("anomalous"), &json!("good")));
    assert_eq!(agent.backup()["anomalies"], json!([]), "the next one is like the one before it");
}

#[test]
fn the_plan_goes_by_the_time_of_the_site_and_by_what_is_verified_and_removes_nothing() {
    let agent = with_points(5);
    agent.operator(["verify", "policy.toml", "--read-data"]).succeeds();
    let keys = agent.stored("points");
    for (days, key) in [90, 60, 50, 40, 0].into_iter().zip(&keys) {
        let stored = std::time::SystemTime::now() - std::time::Duration::from_secs(days * 24 * 3600);
        fs::File::options().write(true).open(agent.path("site").join(key)).unwrap().set_modified(stored).unwrap();
    }
    let site = format!("[[site]]\nname = \"far\"\nstore = {{ kind = \"filesystem\", path = \"{}\" }}\n", agent.text("site"));
    let retention = "[retention]\nkeep_within = \"7d\"\nkeep_verified = 3\n";
    agent.write_policy_with(&agent.all_sources(), &site, &format!("{}{retention}", agent.drill_table()));
    let kept = |word: &str| -> Vec<bool> {
        let plan = agent.run(["points", word, "--retention", "--json"]).succeeds().json();
        plan.as_array().unwrap().iter().map(|decision| decision["keep"].as_bool().unwrap()).collect()
    };
    assert_eq!(kept("policy.toml"), [false, false, true, true, true]);
    let text = agent.run(["points", "policy.toml", "--retention"]).succeeds().stdout;
    assert!(text.contains("remove  older than 7 days, and no other rule keeps it"), "{text}");
    assert!(text.contains("keep    within 7 days; one of the 3 newest verified"), "{text}");
    assert!(text.contains("3 of 5 points are kept; this list removes nothing"), "{text}");
    assert_eq!(agent.stored("points"), keys);
    agent.operator(["points", "--site", &agent.text("site"), "--retention"]).fails(2, &["--retention needs a POLICY"]);
}

#[test]
fn a_point_that_a_later_verification_finds_hurt_is_not_verified_any_more() {
    let agent = with_points(1);
    let before = agent.stored("packs");
    fs::write(agent.path("data/only-in-the-second"), noise(77, 200_000)).unwrap();
    agent.backup();
    let [first, second] = agent.points().try_into().unwrap();
    agent.operator(["verify", "policy.toml", "--read-data"]).succeeds();
    let latest = |word: &str| agent.run(["show", "policy.toml", word, "--json"]).succeeds().json()["id"].clone();
    assert_eq!(latest("latest-verified"), second);

    let new = agent.stored("packs").into_iter().filter(|pack| !before.contains(pack));
    let largest = new.max_by_key(|pack| fs::metadata(agent.path("site").join(pack)).unwrap().len()).unwrap();
    let mut bytes = fs::read(agent.path("site").join(&largest)).unwrap();
    bytes[1000] ^= 1;
    fs::write(agent.path("site").join(&largest), bytes).unwrap();
    agent.operator(["verify", "policy.toml", "--read-data"]).ends_with(8);
    assert!(!listed(&agent, &first)["verified"].is_null());
    assert!(listed(&agent, &second)["verified"].is_null());
    assert_eq!(latest("latest-verified"), first);
}
