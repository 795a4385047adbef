//! Several sites, and copies between them, as an operator sees them.

use std::{collections::BTreeSet, fs};

use serde_json::json;

use crate::support::agent::{Agent, Outcome, files};

/// A machine whose policy has the sites `far` and `vault`; the second keeps points longer, for one reader of its own.
fn with_two_sites() -> Agent {
    let agent = Agent::with_everything();
    let auditor = agent.generate_key("auditor.txt");
    let sites = format!(
        "[[site]]\nname = \"far\"\nstore = {{ kind = \"filesystem\", path = \"{}\" }}\n\n\
         [[site]]\nname = \"vault\"\nstore = {{ kind = \"filesystem\", path = \"{}\" }}\n\
         retention = {{ keep_last = 1, keep_within = \"1s\", keep_verified = 1 }}\nrecipients = [\"{auditor}\"]\n",
        agent.text("site"),
        agent.text("vault"),
    );
    agent.write_policy_with(&agent.all_sources(), &sites, &agent.drill_table());
    agent.run(["init", "policy.toml", "--create"]).succeeds();
    agent
}

fn ids(agent: &Agent, site: &str) -> Vec<String> {
    let points = agent.run(["points", "policy.toml", "--site", site, "--json"]).json();
    points.as_array().unwrap().iter().map(|point| point["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_backup_goes_to_both_sites_each_with_its_own_readers_and_retention() {
    let agent = with_two_sites();
    let reports = agent.run(["backup", "policy.toml", "--json"]).succeeds().json();
    assert_eq!((reports.as_array().unwrap().len(), &reports[0]["point_id"]), (2, &reports[1]["point_id"]));
    assert_eq!((&reports[0]["encryption"], &reports[1]["encryption"]), (&json!("2 recipients"), &json!("1 recipient")));
    let read = |site: &str, identity: &str| {
        let (site, identity) = (agent.text(site), agent.text(identity));
        agent.run(["cat", "--site", &site, "--identity", &identity, "latest:cluster/output"]).code
    };
    assert_eq!((read("site", "operator.txt"), read("vault", "auditor.txt")), (0, 0));
    assert_eq!((read("site", "auditor.txt"), read("vault", "operator.txt")), (7, 7), "each opens its own site alone");
    agent.run(["backup", "policy.toml"]).succeeds();
    let reasons = |site: &str| agent.run(["points", "policy.toml", "--site", site, "--retention", "--json"]).json().to_string();
    assert!(
        reasons("vault").contains("the last one")
            && !reasons("far").contains("the last one")
            && reasons("far").contains("within 30"),
        "{}",
        reasons("vault")
    );
}

#[test]
fn a_site_that_is_down_decides_the_exit_code_and_the_point_says_where_it_is_missing() {
    let agent = with_two_sites();
    fs::rename(agent.path("vault"), agent.path("away")).unwrap();
    let outcome = agent.run(["backup", "policy.toml"]);
    assert_eq!(outcome.code, 6, "{}", outcome.stderr);
    assert!(
        outcome.stdout.contains("NOT AT         vault") && outcome.stderr.contains("no such bucket, container or directory"),
        "{outcome:?}"
    );
    assert!(agent.run(["points", "policy.toml", "--site", "far"]).succeeds().stdout.contains("not at vault"));
    assert!(agent.run(["show", "policy.toml", "latest"]).succeeds().stdout.contains("not at         vault"));
    fs::rename(agent.path("away"), agent.path("vault")).unwrap();
    agent.run(["backup", "policy.toml"]).succeeds();
    assert_eq!((ids(&agent, "far").len(), ids(&agent, "vault").len()), (2, 1));
    // The night that was missed, too.
    let identity = agent.text("operator.txt");
    let words = ["copy", "policy.toml", "--all", "--from", "far", "--to", "vault", "--identity", &identity];
    let planned = agent.run([&words[..], &["--dry-run"]].concat()).succeeds().stdout;
    // Both may be of one second, and so the older one may build on the other.
    let there = ids(&agent, "vault");
    let listed = |id: &String| planned.lines().any(|line| line.trim_start().starts_with(id.as_str()));
    assert!(ids(&agent, "far").iter().all(|id| listed(id) != there.contains(id)), "{planned}");
    agent.run(words).succeeds();
    let all = |site: &str| ids(&agent, site).into_iter().collect::<BTreeSet<_>>();
    assert_eq!(all("far"), all("vault"));
    assert!(!agent.run(["points", "policy.toml", "--site", "vault"]).stdout.contains("not at"), "there it is not missing");
    let again = ["copy", "policy.toml", "latest", "--from", "far", "--to", "vault", "--identity", &identity];
    assert!(agent.run(again).succeeds().stdout.contains("is there already"));
    let auditor = agent.text("auditor.txt");
    let (vault, target) = (agent.text("vault"), agent.text("restored"));
    let first = ids(&agent, "vault").remove(0);
    agent.run(["restore", "--site", &vault, "--identity", &auditor, &first, "--source", "attachments", "--to", &target]).succeeds();
    assert_eq!(fs::read(agent.path("restored/2026/07.png")).unwrap(), fs::read(agent.path("objects/2026/07.png")).unwrap());
}

#[test]
fn what_makes_no_sense_of_a_copy_is_refused() {
    let agent = with_two_sites();
    agent.run(["backup", "policy.toml", "--site", "far"]).succeeds();
    let identity = agent.text("operator.txt");
    let copy = |words: &[&str]| agent.run([&["copy", "policy.toml", "--identity", &identity], words].concat());
    copy(&["latest", "--from", "far", "--to", "far"]).fails(2, &["the same place"]);
    copy(&["latest", "--from", "far", "--to", "elsewhere"]).fails(2, &["has no site \"elsewhere\""]);
    copy(&["ffff", "--from", "far", "--to", "vault"]).fails(2, &["`farshore points` lists them"]);
    agent.run(["copy", "policy.toml", "latest", "--from", "far", "--to", "vault"]).fails(7, &["keys/data-"]);
    assert_eq!(copy(&["--from", "far", "--to", "vault"]).code, 2, "no point is named");
    assert!(ids(&agent, "vault").is_empty());
}

#[test]
fn a_verification_goes_to_every_site_and_one_that_is_down_does_not_keep_the_others_from_it() {
    let agent = with_two_sites();
    agent.run(["backup", "policy.toml"]).succeeds();
    let both = format!("{}:{}", agent.text("operator.txt"), agent.text("auditor.txt"));
    let verify = |words: &[&str]| {
        let mut command = agent.command(["verify", "policy.toml"]);
        command.args(words).env("FARSHORE_IDENTITY_FILE", &both);
        Outcome::from(command.output().unwrap())
    };
    for turn in [1, 2] {
        let reports = verify(&["--read-data=1/2", "--json"]).succeeds().json();
        let parts: Vec<_> = reports.as_array().unwrap().iter().map(|report| (&report["site"], &report["part"]["number"])).collect();
        assert_eq!(parts, [(&json!(agent.text("site")), &json!(turn)), (&json!(agent.text("vault")), &json!(turn))]);
    }
    let alone = verify(&["--site", "vault", "--json"]).succeeds().json();
    assert_eq!((alone.as_array().unwrap().len(), &alone[0]["site"]), (1, &json!(agent.text("vault"))));
    // The reader of one site reads that one, and the other says why it was not.
    let outcome = agent.operator(["verify", "policy.toml", "--read-data"]).fails(7, &["vault", "--identity FILE"]);
    assert!(outcome.stdout.contains("no damage found") && outcome.stdout.lines().count() < 8, "{}", outcome.stdout);
    fs::rename(agent.path("site"), agent.path("away")).unwrap();
    let outcome = verify(&["--json"]).fails(6, &["no such bucket, container or directory"]);
    assert_eq!(outcome.json()[0]["site"], agent.text("vault"));
    // Damage is worse than a site that is down, whichever comes first.
    let pack = files(&agent.path("vault/packs")).into_iter().next().unwrap();
    fs::remove_file(agent.path("vault/packs").join(pack)).unwrap();
    assert!(verify(&[]).fails(8, &["no such bucket"]).stdout.contains("damaged or missing object"));
    fs::rename(agent.path("away"), agent.path("site")).unwrap();
    assert_eq!(verify(&["--json"]).ends_with(8).json().as_array().unwrap().len(), 2);
}

#[test]
fn a_recovery_sheet_names_every_site_and_what_its_identity_opens_there() {
    let agent = with_two_sites();
    agent.run(["backup", "policy.toml"]).succeeds();
    let sheet = |identity: &str, output: &str, code: i32| {
        let outcome = agent.run(["key", "sheet", "policy.toml", "--identity", identity, "--output", output]).ends_with(code);
        (fs::read_to_string(agent.path(output)).unwrap(), outcome.stderr)
    };
    let (site, vault) = (agent.text("site"), agent.text("vault"));
    let (text, _) = sheet("auditor.txt", "of-auditor", 0);
    assert!(text.contains(&format!("  far: {site}\n    has other readers")), "{text}");
    assert!(text.contains(&format!("  vault: {vault}\n    repository ")) && text.contains("tried: opens the catalogue"), "{text}");
    assert!(text.contains(&format!("farshore points --site {vault} ")) && !text.contains("If that site is gone"), "{text}");
    let policy = fs::read_to_string(agent.path("policy.toml")).unwrap();
    let (head, tail) = policy.split_once("recipients = [\"").unwrap();
    let (_, rest) = tail.split_once('\n').unwrap();
    fs::write(agent.path("policy.toml"), format!("{head}{rest}")).unwrap();
    agent.run(["key", "rotate", "policy.toml", "--site", "vault", "--identity", "auditor.txt"]).succeeds();
    let (text, _) = sheet("operator.txt", "of-both", 0);
    assert!(text.matches("tried: opens the catalogue").count() == 2 && text.contains("If that site is gone"), "{text}");
    fs::rename(agent.path("site"), agent.path("away")).unwrap();
    let (text, said) = sheet("operator.txt", "of-one", 6);
    assert!(text.contains(&format!("  far: {site}\n    NOT TRIED: ")) && said.contains("no such bucket"), "{text}");
    assert!(text.contains(&format!("farshore points --site {vault} ")), "{text}");
    fs::rename(agent.path("vault"), agent.path("away-too")).unwrap();
    let outcome = agent.run(["key", "sheet", "policy.toml", "--identity", "operator.txt", "--output", "none"]);
    assert!(outcome.code == 6 && !agent.path("none").exists(), "{outcome:?}");
}

#[test]
fn init_makes_what_is_missing_and_says_of_every_site_what_became_of_it() {
    let agent = with_two_sites();
    let repository = |site: &str| fs::read(agent.path(site).join("repository.json")).unwrap();
    let first = repository("site");
    fs::remove_dir_all(agent.path("vault")).unwrap();
    // The first is there already, which does not keep the second from being made.
    let outcome = agent.run(["init", "policy.toml", "--create", "--json"]).fails(6, &["here already", "--site NAME"]);
    let reports = outcome.json();
    assert_eq!((&reports[0]["state"], &reports[1]["state"]), (&json!("already_there"), &json!("made")));
    assert!(reports[1]["id"].is_string() && reports[0]["error"].is_string(), "{reports}");
    assert_eq!(repository("site"), first);
    repository("vault");
    // What was made is reported where a later one fails, too; and the worst decides.
    fs::remove_dir_all(agent.path("site")).unwrap();
    fs::remove_dir_all(agent.path("vault")).unwrap();
    fs::write(agent.path("vault"), "no directory").unwrap();
    let outcome = agent.run(["init", "policy.toml", "--create"]).fails(6, &[&agent.text("vault")]);
    assert!(outcome.stdout.contains("made at") && outcome.stdout.contains("No repository made at"), "{}", outcome.stdout);
    repository("site");
    fs::remove_file(agent.path("vault")).unwrap();
    let both = agent.run(["init", "policy.toml", "--create"]).ends_with(6).stdout;
    assert!(both.contains("already (site far)") && both.contains("(site vault)"), "{both}");
    let neither = agent.run(["init", "policy.toml"]).ends_with(6);
    assert_eq!((neither.stdout.matches("already (site").count(), neither.stderr.matches("here already").count()), (2, 2));
}
