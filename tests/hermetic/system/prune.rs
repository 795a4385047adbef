//! Pruning as an operator does it, on a site whose files can be made old.

use std::{
    fs,
    time::{Duration, SystemTime},
};

use serde_json::{Value, json};

use crate::support::agent::{Agent, noise, tree};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// An agent with two points, the first of them forty days old.
fn with_an_old_point() -> (Agent, [String; 2]) {
    let agent = Agent::with_everything();
    let site = format!("[[site]]\nname = \"far\"\nstore = {{ kind = \"filesystem\", path = \"{}\" }}\n", agent.text("site"));
    let retention = "[retention]\nkeep_within = \"7d\"\nkeep_verified = 1\ngrace = \"2h\"\n";
    agent.write_policy_with(&agent.all_sources(), &site, &format!("{}{retention}", agent.drill_table()));
    agent.init();
    fs::write(agent.path("data/only-in-the-first"), noise(71, 300_000)).unwrap();
    agent.backup();
    age(&agent, "", 40 * DAY);
    fs::remove_file(agent.path("data/only-in-the-first")).unwrap();
    fs::write(agent.path("data/only-in-the-second"), noise(72, 200_000)).unwrap();
    agent.backup();
    let points = agent.points().try_into().unwrap();
    (agent, points)
}

/// Makes everything under a prefix of the site older.
fn age(agent: &Agent, prefix: &str, by: Duration) {
    for key in agent.stored(prefix) {
        let file = fs::File::options().write(true).open(agent.path("site").join(&key)).unwrap();
        let stored = file.metadata().unwrap().modified().unwrap();
        file.set_modified(stored - by).unwrap();
    }
}

fn prune(agent: &Agent) -> Value {
    agent.run(["prune", "policy.toml", "--json"]).succeeds().json()[0].clone()
}

fn doomed(agent: &Agent, id: &str) -> Value {
    let points = agent.run(["points", "policy.toml", "--json"]).succeeds().json();
    points.as_array().unwrap().iter().find(|point| point["id"] == id).unwrap()["doomed"].clone()
}

#[test]
fn what_retention_does_not_keep_is_announced_doomed_and_after_its_grace_gone() {
    let (agent, [first, second]) = with_an_old_point();
    let everything = agent.stored("");
    let said = agent.run(["prune", "policy.toml", "--dry-run"]).succeeds().stdout;
    assert!(said.contains("would be pruned so; 1 of 2 points of sys stay"), "{said}");
    for (id, verdict, why) in [(&first, "remove", "older than 7 days"), (&second, "keep", "within 7 days")] {
        let line = said.lines().find(|line| line.contains(id.as_str())).unwrap();
        assert!(line.contains(verdict) && line.contains(why), "{line}");
    }
    assert_eq!(agent.stored(""), everything, "a dry run writes nothing");

    let dooming = prune(&agent);
    assert_eq!((&dooming["points_doomed"], &dooming["points_deleted"], &dooming["problems"]), (&json!(1), &json!(0), &json!([])));
    let goes = ["packs_doomed", "packs_emptied"].map(|what| dooming[what]["bytes"].as_u64().unwrap());
    assert!(goes[0] + goes[1] > 300_000, "{dooming:#}");
    assert!(agent.run(["points", "policy.toml"]).succeeds().stdout.contains("doomed, deleted after"));
    assert!(doomed(&agent, &first).is_string() && doomed(&agent, &second).is_null());
    assert_eq!(prune(&agent)["points_deleted"], 0, "not before its grace is over");
    agent.operator(["restore", "policy.toml", &first, "--source", "config", "--to", &agent.text("early")]).succeeds();

    age(&agent, "doomed", 3 * HOUR);
    let deleting = prune(&agent);
    assert_eq!((&deleting["points_deleted"], &deleting["problems"]), (&json!(1), &json!([])), "{deleting:#}");
    assert_eq!(agent.points(), [second]);
    let gone: Vec<_> = everything.iter().filter(|key| !agent.stored("").contains(key)).collect();
    assert!(gone.iter().any(|key| key.starts_with("points/")) && gone.iter().any(|key| key.starts_with("packs/")), "{gone:?}");
    agent.operator(["restore", "policy.toml", "latest", "--source", "config", "--to", &agent.text("late")]).succeeds();
    let restored: Vec<_> = tree(&agent.path("late")).into_values().collect();
    assert_eq!(restored, tree(&agent.path("data")).into_values().collect::<Vec<_>>());
    agent.operator(["verify", "policy.toml", "--read-data"]).succeeds();
    agent
        .run(["restore", "policy.toml", &first, "--source", "config", "--to", &agent.text("x")])
        .fails(2, &[&first, "farshore points"]);
}

#[test]
fn a_doomed_point_comes_back_within_its_grace_and_not_after_it() {
    let (agent, [first, second]) = with_an_old_point();
    let words = ["undelete", "policy.toml", &first, "--reason", "the auditor wants it"];
    agent.run(words).fails(1, &["is not doomed", "farshore pin"]);
    prune(&agent);
    let said = agent.run(words).succeeds().stdout;
    assert!(said.contains(&first) && said.contains("the auditor wants it"), "{said}");
    assert!(doomed(&agent, &first).is_null());
    assert!(agent.run(["points", "policy.toml"]).succeeds().stdout.contains("pinned until"));
    age(&agent, "doomed", 3 * HOUR);
    let after = prune(&agent);
    assert_eq!((&after["points_deleted"], after["packs_spared"].as_u64().unwrap() > 0), (&json!(0), true), "{after:#}");
    agent.operator(["restore", "policy.toml", &first, "--source", "config", "--to", &agent.text("back")]).succeeds();
    assert_eq!(tree(&agent.path("back")).into_values().filter(|bytes| *bytes == noise(71, 300_000)).count(), 1);
    assert_eq!(agent.points(), [first.clone(), second]);

    // The other way: the pin is taken back, which leaves the point a grace of its own; this time nobody asks before it is over.
    agent.run(["unpin", "policy.toml", &first, "--reason", "the auditor has it"]).succeeds();
    assert!(doomed(&agent, &first).is_null(), "what was decided before the pin does not count any more");
    let again = prune(&agent);
    assert_eq!((&again["points_doomed"], &again["points_deleted"]), (&json!(1), &json!(0)), "{again:#}");
    age(&agent, "pins", 3 * HOUR);
    age(&agent, "doomed", 3 * HOUR);
    agent.run(words).fails(1, &["its grace has ended", "farshore verify"]);
    assert!(agent.stored("pins").len() == 2, "nothing was written");
}

#[test]
fn a_prune_that_changes_nothing_only_lists_and_a_damaged_point_holds_everything() {
    let (agent, [first, _]) = with_an_old_point();
    prune(&agent);
    age(&agent, "", 3 * HOUR);
    prune(&agent);
    age(&agent, "", 3 * HOUR);
    while prune(&agent)["packs_doomed"]["objects"] != 0 {
        age(&agent, "", 3 * HOUR);
    }
    age(&agent, "", 3 * HOUR);
    prune(&agent);
    let again = prune(&agent);
    assert_eq!(again["unchanged"], true, "{again:#}");
    assert!(agent.run(["prune", "policy.toml"]).succeeds().stdout.contains("nothing has changed since the last prune"));

    let (agent, [_, second]) = with_an_old_point();
    let key = agent.stored("points").into_iter().find(|key| key.contains(&second)).unwrap();
    let path = agent.path("site").join(&key);
    let mut bytes = fs::read(&path).unwrap();
    bytes[200] ^= 1;
    fs::write(&path, bytes).unwrap();
    let packs = agent.stored("packs");
    for _ in 0..3 {
        let said = agent.run(["prune", "policy.toml", "--json"]).ends_with(4).json();
        assert!(said[0]["problems"][0]["subject"].as_str().unwrap().contains(&second), "{said:#}");
        age(&agent, "doomed", 3 * HOUR);
    }
    assert_eq!(agent.stored("packs"), packs, "nobody knows what it needs, so everything stays");
    assert!(!agent.points().contains(&first) || agent.points().len() == 2);
}

#[test]
fn a_damaged_point_that_is_given_up_by_its_id_goes_with_what_only_it_needs_and_is_named_until_then() {
    let (agent, [first, lost]) = with_an_old_point();
    let key = agent.stored("points").into_iter().find(|key| key.contains(&lost)).unwrap();
    let path = agent.path("site").join(&key);
    let mut bytes = fs::read(&path).unwrap();
    bytes[200] ^= 1;
    fs::write(&path, bytes).unwrap();
    fs::remove_file(agent.path("data/only-in-the-second")).unwrap();
    agent.run(["backup", "policy.toml"]).ends_with(4);
    age(&agent, "packs", 3 * HOUR);
    let give_up = |point: &str| agent.run(["give-up", "policy.toml", point, "--reason", "the disk is gone"]);
    give_up("latest").fails(2, &["by its id"]);
    give_up(&first).fails(1, &["is not lost", "farshore verify"]);
    assert_eq!(agent.stored("pins"), [""; 0]);
    let said = give_up(&lost[..6]).succeeds().stdout;
    assert!([lost.as_str(), "GIVEN UP: the disk is gone", "farshore unpin"].iter().all(|word| said.contains(word)), "{said}");
    assert!(agent.run(["points", "policy.toml"]).ends_with(8).stdout.contains("DAMAGED, GIVEN UP"));
    let said = agent.run(["prune", "policy.toml", "--dry-run"]).ends_with(4).stdout;
    let line = said.lines().find(|line| line.contains(&lost)).unwrap();
    assert!(line.contains("remove") && line.contains("given up: the disk is gone (operator@"), "{said}");

    let before = agent.stored("packs");
    let dooming = agent.run(["prune", "policy.toml", "--json"]).ends_with(4).json()[0].clone();
    assert_eq!((&dooming["points_doomed"], &dooming["points_deleted"]), (&json!(2), &json!(0)), "{dooming:#}");
    assert!(dooming["problems"][0]["subject"].as_str().unwrap().contains(&lost), "{dooming:#}");
    age(&agent, "pins", 3 * HOUR);
    age(&agent, "doomed", 3 * HOUR);
    // Known to be lost until it is gone, and gone by this one's end.
    let deleting = agent.run(["prune", "policy.toml", "--json"]).ends_with(4).json()[0].clone();
    assert_eq!(deleting["points_deleted"], 2, "{deleting:#}");
    for _ in 0..3 {
        age(&agent, "", 3 * HOUR);
        prune(&agent);
    }
    assert_eq!(agent.points().len(), 1);
    assert!(before.iter().any(|pack| !agent.stored("packs").contains(pack)), "its packs are still there");
    agent.operator(["verify", "policy.toml", "--read-data"]).succeeds();
    agent.operator(["restore", "policy.toml", "latest", "--source", "config", "--to", &agent.text("back")]).succeeds();
}

#[test]
fn what_is_wrong_is_said_before_anything_is_done() {
    let (agent, _) = with_an_old_point();
    let everything = agent.stored("");
    agent.run(["prune", "nowhere.toml"]).fails(3, &["nowhere.toml"]);
    agent.run(["prune", "policy.toml", "--site", "near"]).fails(2, &["near", "far"]);
    let text = fs::read_to_string(agent.path("policy.toml")).unwrap();
    fs::write(agent.path("wrong.toml"), text.replace("grace = \"2h\"", "grace = \"2m\"")).unwrap();
    agent.run(["prune", "wrong.toml"]).fails(3, &["retention.grace", "1h"]);
    fs::write(agent.path("long.toml"), format!("{text}\n[limits]\nbackup_time = \"3h\"\n")).unwrap();
    agent.run(["backup", "long.toml"]).fails(3, &["retention.grace", "limits.backup_time"]);
    fs::write(agent.path("bound.toml"), format!("{text}\n[limits]\nbackup_time = \"1h\"\n")).unwrap();
    agent.run(["backup", "bound.toml", "--time-limit", "90m"]).fails(2, &["--time-limit", "limits.backup_time"]);
    assert_eq!(agent.stored(""), everything);
    // A site whose clock is ahead of ours: what it stores is of the future.
    let future = SystemTime::now() + 2 * DAY;
    let later = agent.stored("points").pop().unwrap();
    fs::File::options().write(true).open(agent.path("site").join(later)).unwrap().set_modified(future).unwrap();
    let report = prune(&agent);
    assert!(report["points"][1]["keep"].as_bool().unwrap(), "a point of the future is kept: {report:#}");
}
