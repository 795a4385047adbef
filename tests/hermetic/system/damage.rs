//! Each kind of stored object is hurt in each way: what is said, with which exit code, and that no wrong byte is ever restored.

use std::{fs, path::PathBuf};

use serde_json::Value;

use crate::support::agent::{Agent, noise, tree};

#[derive(Debug, Clone, Copy, PartialEq)]
enum Harm {
    Truncated,
    Altered,
    Missing,
    OtherFormat,
}

const HARMS: [Harm; 3] = [Harm::Truncated, Harm::Altered, Harm::Missing];

impl Harm {
    fn to(self, path: &PathBuf) {
        let mut bytes = fs::read(path).unwrap();
        match self {
            Self::Missing => return fs::remove_file(path).unwrap(),
            Self::Truncated => bytes.truncate(bytes.len() / 2),
            Self::Altered => {
                // Near the end lies what is sealed in every kind of object, and the trailer of none.
                let at = bytes.len() - 100;
                bytes[at] ^= 1;
            }
            Self::OtherFormat => bytes[8] = 2,
        }
        fs::write(path, bytes).unwrap();
    }
}

/// Two points: what only the second needs lies in objects of its own.
struct Repository {
    agent: Agent,
    first: String,
    second: String,
    /// Objects that came with the second point.
    added: Vec<String>,
}

impl Repository {
    fn new() -> Self {
        let agent = Agent::new("");
        fs::write(agent.path("data/a"), noise(1, 300_000)).unwrap();
        agent.write_policy(&agent.files_source());
        agent.init();
        agent.backup();
        let before = agent.stored("");
        fs::write(agent.path("data/b"), noise(2, 300_000)).unwrap();
        agent.backup();
        let added = agent.stored("").into_iter().filter(|key| !before.contains(key)).collect();
        let [first, second] = <[String; 2]>::try_from(agent.points()).unwrap();
        // Another machine looks: nothing is known from before.
        agent.delete_cache();
        Self { agent, first, second, added }
    }

    /// The object of the second point under a prefix; of packs the one that holds data, which is the larger.
    fn object(&self, prefix: &str) -> (String, PathBuf) {
        let place = |key: &str| self.agent.path("site").join(key);
        let size = |key: &str| fs::metadata(place(key)).unwrap().len();
        let key = self.added.iter().filter(|key| key.starts_with(prefix)).max_by_key(|key| size(key)).unwrap();
        (key.clone(), place(key))
    }

    /// As errors name the entry that only the second point has.
    fn second_path(&self) -> String {
        format!("source config, {}/b: ", self.agent.text("data").trim_start_matches('/'))
    }

    fn restore(&self, point: &str) -> crate::support::agent::Outcome {
        let _ = fs::remove_dir_all(self.agent.path("target"));
        self.agent.operator(["restore", "policy.toml", point, "--source", "config", "--to", "target"])
    }

    /// The first point is listed, restores in full, and verification finds it sound and the second one hurt by `key`.
    fn assert_only_the_second_is_hurt(&self, key: &str, case: &str) {
        let listed: Value = self.agent.run(["points", "policy.toml", "--json"]).json();
        let healthy = listed.as_array().unwrap().iter().find(|point| point["id"] == *self.first).unwrap();
        assert!(healthy.get("unreadable").is_none(), "{case}");
        let verified = self.agent.operator(["verify", "policy.toml", "--read-data", "--json"]).ends_with(8).json()[0].clone();
        let damage = verified["damage"].as_array().unwrap();
        assert!(damage.iter().any(|one| one.to_string().contains(key)), "{case}: {verified}");
        assert!(damage.iter().any(|one| one["points"].to_string().contains(&self.second)), "{case}: {verified}");
        assert!(!damage.iter().any(|one| one["points"].to_string().contains(&self.first)), "{case}: {verified}");
        self.restore(&self.first).succeeds();
        let restored = tree(&self.agent.path(&format!("target{}", self.agent.text("data"))));
        assert_eq!(restored.into_iter().collect::<Vec<_>>(), [("a".to_owned(), noise(1, 300_000))], "{case}");
    }

    /// What a restore of the second point left is a part of the truth.
    fn assert_nothing_wrong_was_written(&self, case: &str) {
        let truth = tree(&self.agent.path("data"));
        for (name, bytes) in tree(&self.agent.path(&format!("target{}", self.agent.text("data")))) {
            assert!(truth.get(&name) == Some(&bytes), "{case}: {name} is not what it was");
        }
    }
}

#[test]
fn a_hurt_pack_is_named_and_hurts_no_other_point() {
    for harm in HARMS.into_iter().chain([Harm::OtherFormat]) {
        let repository = Repository::new();
        let (key, path) = repository.object("packs/");
        harm.to(&path);
        let case = format!("{harm:?} {key}");
        // The header of a pack is not read on the way to a chunk, whose own tag says enough.
        let harmless = harm == Harm::OtherFormat || harm == Harm::Altered;
        let outcome = repository.restore(&repository.second);
        if outcome.code == 0 {
            assert!(harmless, "{case}");
            assert_eq!(
                tree(&repository.agent.path(&format!("target{}", repository.agent.text("data")))),
                tree(&repository.agent.path("data"))
            );
        } else {
            outcome.fails(8, &[&key, &repository.second_path(), "`farshore repair`", "--path", "another point or site"]);
            repository.assert_nothing_wrong_was_written(&case);
        }
        repository.assert_only_the_second_is_hurt(&key, &case);
    }
}

#[test]
fn a_flipped_bit_in_the_data_is_never_restored() {
    let repository = Repository::new();
    let (key, path) = repository.object("packs/");
    let mut bytes = fs::read(&path).unwrap();
    bytes[150_000] ^= 4;
    fs::write(&path, bytes).unwrap();
    repository.restore(&repository.second).fails(8, &[&key, "the authentication tag does not match", "another point"]);
    repository.assert_nothing_wrong_was_written("a flipped bit");
    let point = format!("{}:config{}/b", repository.second, repository.agent.text("data"));
    repository.agent.operator(["cat", "policy.toml", &point]).fails(8, &[&key, &repository.second_path(), "`farshore repair`"]);
    repository.assert_only_the_second_is_hurt(&key, "a flipped bit");
}

#[test]
fn a_restore_that_meets_damage_names_the_very_entry_whatever_the_kind_of_the_source() {
    let agent = Agent::with_everything();
    agent.init();
    agent.backup();
    let place = |key: &String| agent.path("site").join(key);
    let size = |key: &String| fs::metadata(place(key)).unwrap().len();
    let key = agent.stored("packs").into_iter().max_by_key(size).unwrap();
    let whole = fs::read(place(&key)).unwrap();
    let mut named = Vec::new();
    for at in (1_000..whole.len() - 1_000).step_by(whole.len() / 6) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        fs::write(place(&key), bytes).unwrap();
        // An independent look at the same site says what is hurt; nobody remembers it.
        agent.operator(["verify", "policy.toml", "--read-data"]).ends_with(8);
        let lines = agent.operator(["repair", "policy.toml", "--dry-run", "--json"]).ends_with(8).json_lines();
        let hurt: Vec<_> = lines.iter().filter(|line| line["path"].is_string()).collect();
        let [hurt] = hurt.as_slice() else { panic!("{hurt:?}") };
        let (source, path) = (hurt["source"].as_str().unwrap(), hurt["path"].as_str().unwrap());
        fs::remove_dir_all(agent.path("site/damaged")).unwrap();
        agent.delete_cache();
        let _ = fs::remove_dir_all(agent.path("target"));
        let said = format!("source {source}, {path}: ");
        let restore = ["restore", "policy.toml", "latest", "--source", source, "--to", "target"];
        agent.operator(restore).fails(8, &[&said, &key, "`farshore repair`", "--path", "another point or site"]);
        named.push(source.to_owned());
    }
    named.dedup();
    assert!(named.len() >= 2, "only {named:?} was hurt: choose other places");
}

#[test]
fn a_verification_does_not_say_that_one_should_verify() {
    for prefix in ["packs/", "indexes/"] {
        for harm in [Harm::Missing, Harm::Altered] {
            let repository = Repository::new();
            harm.to(&repository.object(prefix).1);
            for words in [&["verify", "policy.toml"][..], &["verify", "policy.toml", "--read-data"]] {
                let outcome = repository.agent.operator(words.iter().copied());
                assert!(!outcome.stdout.contains("farshore verify"), "{prefix} {harm:?}: {}", outcome.stdout);
            }
        }
    }
}

#[test]
fn a_hurt_index_is_passed_over() {
    for harm in HARMS.into_iter().chain([Harm::OtherFormat]) {
        let repository = Repository::new();
        let (key, path) = repository.object("indexes/");
        harm.to(&path);
        repository.restore(&repository.second).fails(8, &["is in no index", "`farshore repair`", "--path"]);
        assert!(tree(&repository.agent.path("target")).is_empty());
        let named = if harm == Harm::Missing { &repository.second } else { &key };
        repository.assert_only_the_second_is_hurt(named, &format!("{harm:?} {key}"));
        // The next backup stores what can no longer be found, and makes a whole point.
        let code = repository.agent.run(["backup", "policy.toml"]).code;
        assert!(code == 0 || code == 4, "{code}");
        repository.restore("latest").succeeds();
    }
}

#[test]
fn a_hurt_index_is_found_though_the_cache_knows_its_contents() {
    let repository = Repository::new();
    repository.agent.operator(["verify", "policy.toml", "--read-data"]).succeeds();
    let (key, path) = repository.object("indexes/");
    Harm::Altered.to(&path);
    let verified = repository.agent.operator(["verify", "policy.toml", "--read-data", "--json"]).ends_with(8).json()[0].clone();
    assert!(verified["damage"][0]["object"] == *key, "{verified}");
}

#[test]
fn a_hurt_point_is_listed_as_such() {
    for harm in [Harm::Truncated, Harm::Altered, Harm::OtherFormat] {
        let repository = Repository::new();
        let (key, path) = repository.object("points/");
        harm.to(&path);
        let listed = repository.agent.run(["points", "policy.toml", "--json"]).ends_with(8).json();
        let hurt = listed.as_array().unwrap().iter().find(|point| point["id"] == *repository.second).unwrap();
        assert!(hurt["unreadable"].as_str().unwrap().contains(&key), "{listed}");
        repository.restore(&repository.second).fails(8, &[&key]);
        assert!(!repository.agent.path("target").exists());
        repository.assert_only_the_second_is_hurt(&key, &format!("{harm:?} {key}"));
        repository.agent.run(["backup", "policy.toml"]).ends_with(4);
        repository.restore("latest").succeeds();
    }
}

#[test]
fn a_point_that_is_gone_is_not_listed_and_the_others_are_whole() {
    let repository = Repository::new();
    fs::remove_file(repository.object("points/").1).unwrap();
    assert_eq!(repository.agent.points(), std::slice::from_ref(&repository.first));
    repository.restore(&repository.second).fails(2, &["no recovery point has this id"]);
    repository.restore("latest").succeeds();
    repository.agent.operator(["verify", "policy.toml", "--read-data"]).succeeds();
}

#[test]
fn a_hurt_data_key_is_named_and_hurts_only_its_own_point() {
    for harm in HARMS {
        let repository = Repository::new();
        let (key, path) = repository.object("keys/data-");
        harm.to(&path);
        let step = "put the object back from another copy of the site";
        repository.restore(&repository.second).fails(8, &[&key, step]);
        assert!(tree(&repository.agent.path("target")).is_empty(), "{harm:?}");
        repository.assert_only_the_second_is_hurt(&key, &format!("{harm:?} {key}"));
    }
}

#[test]
fn a_hurt_catalogue_key_is_named() {
    for harm in HARMS {
        let repository = Repository::new();
        let key = repository.agent.stored("keys").into_iter().find(|key| key.starts_with("keys/catalogue-")).unwrap();
        harm.to(&repository.agent.path("site").join(&key));
        repository.agent.run(["points", "policy.toml"]).fails(8, &[&key, "another copy of the site"]);
        repository.agent.run(["backup", "policy.toml"]).fails(8, &[&key]);
    }
}

#[test]
fn a_repository_of_another_format_is_refused() {
    let repository = Repository::new();
    let path = repository.agent.path("site/repository.json");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("\"format\": 1", "\"format\": 2")).unwrap();
    for words in [["points", "policy.toml"], ["backup", "policy.toml"], ["drill", "policy.toml"], ["verify", "policy.toml"]] {
        repository.agent.operator(words).fails(8, &["repository.json", "has format 2", "the farshore version that wrote it"]);
    }
    fs::write(&path, &text[..text.len() / 2]).unwrap();
    repository.agent.run(["points", "policy.toml"]).fails(8, &["repository.json", "damaged"]);
    fs::write(&path, text.replace("\"farshore\"", "\"nearshore\"")).unwrap();
    repository.agent.run(["points", "policy.toml"]).fails(8, &["nearshore"]);
}

#[test]
fn a_hurt_catalogue_pack_does_not_stop_the_next_backup() {
    for harm in HARMS {
        let repository = Repository::new();
        let packs = repository.added.iter().filter(|key| key.starts_with("packs/"));
        let size = |key: &&String| fs::metadata(repository.agent.path("site").join(key)).unwrap().len();
        let key = packs.min_by_key(size).unwrap();
        harm.to(&repository.agent.path("site").join(key));
        repository.restore(&repository.second).fails(8, &[key]);
        let report = repository.agent.run(["backup", "policy.toml", "--json"]).ends_with(4).json();
        assert!(report.to_string().contains("read again"), "{report}");
        repository.restore("latest").succeeds();
        assert_eq!(
            tree(&repository.agent.path(&format!("target{}", repository.agent.text("data")))),
            tree(&repository.agent.path("data"))
        );
        // Also for whoever has no cache: the newer index says where the chunk is now.
        repository.agent.delete_cache();
        repository.restore("latest").succeeds();
    }
}

#[test]
fn a_drill_of_a_hurt_point_fails_and_leaves_evidence() {
    let repository = Repository::new();
    let (key, path) = repository.object("packs/");
    fs::remove_file(path).unwrap();
    let report = repository.agent.operator(["drill", "policy.toml", "--json"]).ends_with(10).json();
    assert!(report["failure"].as_str().unwrap().contains(&key), "{report}");
    assert_eq!(repository.agent.stored("evidence").len(), 1);
    assert!(fs::read_dir(repository.agent.path("drill")).unwrap().next().is_none());
}

#[test]
fn hurt_evidence_hides_nothing() {
    let repository = Repository::new();
    repository.agent.operator(["drill", "policy.toml"]).succeeds();
    let evidence = repository.agent.stored("evidence").remove(0);
    Harm::Altered.to(&repository.agent.path("site").join(evidence));
    let listed = repository.agent.run(["points", "policy.toml", "--json"]).succeeds().json();
    assert!(listed.as_array().unwrap().len() == 2 && listed[1]["verified"].is_null(), "{listed}");
    repository.agent.operator(["drill", "policy.toml"]).succeeds();
}
