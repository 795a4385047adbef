//! What the operator types when something is damaged: verify, repair, backup, and it is whole again.

use std::fs;

use serde_json::Value;

use crate::support::agent::{Agent, noise, tree};

fn two_points() -> Agent {
    let agent = Agent::new("");
    fs::write(agent.path("data/a"), noise(1, 300_000)).unwrap();
    agent.write_policy(&agent.files_source());
    agent.init();
    agent.backup();
    fs::write(agent.path("data/b"), noise(2, 200_000)).unwrap();
    agent.backup();
    agent
}

#[test]
fn a_flipped_bit_is_found_named_and_mended_and_the_old_point_restores_byte_for_byte() {
    let agent = two_points();
    let [first, second] = <[String; 2]>::try_from(agent.points()).unwrap();
    let size = |key: &String| fs::metadata(agent.path("site").join(key)).unwrap().len();
    let key = agent.stored("packs").into_iter().max_by_key(size).unwrap();
    let mut bytes = fs::read(agent.path("site").join(&key)).unwrap();
    bytes[100_000] ^= 1;
    fs::write(agent.path("site").join(&key), bytes).unwrap();
    agent.operator(["verify", "policy.toml"]).succeeds();
    let found = agent.operator(["verify", "policy.toml", "--read-data", "--json"]).ends_with(8).json()[0].clone();
    assert_eq!(found["damage"][0]["object"], key);
    let before = agent.stored("");
    let lines = agent.operator(["repair", "policy.toml", "--dry-run", "--json"]).ends_with(8).json_lines();
    assert_eq!(agent.stored(""), before, "a dry run writes nothing");
    let (report, hurt) = lines.split_last().unwrap();
    let path = format!("{}/a", agent.text("data").trim_start_matches('/'));
    let named: Vec<(&Value, &Value)> = hurt.iter().map(|one| (&one["point"], &one["path"])).collect();
    assert_eq!(named, [(&Value::from(first.as_str()), &Value::from(path.as_str())), (&second.into(), &path.as_str().into())]);
    assert_eq!(report["points_hurt"].as_array().unwrap().len(), 2);
    // In words, and with the agent's key, which opens no data: the whole pack counts.
    let said = agent.run(["repair", "policy.toml"]).ends_with(8).stdout;
    for words in [&path, "0 points can be restored in full, 2 are hurt", "Next: back up", "--identity"] {
        assert!(said.contains(words), "nothing about {words}: {said}");
    }
    agent.backup();
    agent.operator(["restore", "policy.toml", &first, "--source", "config", "--to", "target"]).succeeds();
    let restored = tree(&agent.path(&format!("target{}", agent.text("data"))));
    assert_eq!(restored.into_iter().collect::<Vec<_>>(), [("a".to_owned(), noise(1, 300_000))]);
    let after = agent.operator(["verify", "policy.toml", "--read-data", "--json"]).succeeds().json()[0].clone();
    assert_eq!((&after["mended"][0]["object"], &after["damage"]), (&key.into(), &Value::Array(vec![])));
    agent.operator(["repair", "policy.toml"]).succeeds();
}

#[test]
fn a_third_each_night_makes_points_verified_and_other_words_for_a_share_are_refused() {
    let agent = two_points();
    for night in 1..=3 {
        let report = agent.operator(["verify", "policy.toml", "--read-data=1/3", "--json"]).succeeds().json()[0].clone();
        assert_eq!((&report["part"]["number"], &report["part"]["of"]), (&night.into(), &3.into()));
    }
    let listed = agent.run(["points", "policy.toml", "--json"]).succeeds().json();
    assert!(listed.as_array().unwrap().iter().all(|point| point["verified"].is_string()), "{listed}");
    for wrong in ["2/3", "1/0", "1/1001", "1/x", "0", "101", "0/0"] {
        let share = format!("--read-data={wrong}");
        let outcome = agent.operator(["verify", "policy.toml", share.as_str()]);
        assert_eq!(outcome.code, 2, "{wrong}: {}", outcome.stderr);
    }
}

#[test]
fn indexes_that_somebody_deleted_come_back_on_the_bad_day_with_nothing_but_the_site() {
    let agent = two_points();
    for key in agent.stored("indexes") {
        fs::remove_file(agent.path("site").join(key)).unwrap();
    }
    agent.delete_cache();
    agent.operator(["restore", "--site", "./site", "latest", "--source", "config", "--to", "target"]).ends_with(8);
    let report = agent.operator(["repair", "--site", "./site", "--json"]).succeeds().json_lines().pop().unwrap();
    assert_eq!((&report["packs_found"], &report["points_whole"]), (&4.into(), &2.into()));
    let _ = fs::remove_dir_all(agent.path("target"));
    agent.operator(["restore", "--site", "./site", "latest", "--source", "config", "--to", "target"]).succeeds();
    assert_eq!(tree(&agent.path(&format!("target{}", agent.text("data")))), tree(&agent.path("data")));
}
