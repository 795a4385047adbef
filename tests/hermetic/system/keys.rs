//! Who can open what, and what is said to those who cannot.

use std::{
    fs::{self, File, Permissions},
    os::unix::fs::{MetadataExt, PermissionsExt},
};

use crate::support::agent::{Agent, Outcome};

fn backed_up() -> Agent {
    let agent = Agent::with_everything();
    agent.init();
    agent.backup();
    agent
}

const RESTORE: [&str; 7] = ["restore", "policy.toml", "latest", "--source", "config", "--to", "target"];

#[test]
fn the_agents_own_key_lists_but_opens_no_data() {
    let agent = backed_up();
    agent.run(["ls", "policy.toml", "latest"]).succeeds();
    let said = ["keys/data-", "none of the identities at hand opens this key", "--identity FILE"];
    let refused = agent.run(["cat", "policy.toml", "latest:cluster/output"]).fails(7, &said);
    assert!(refused.stdout.is_empty());
    agent.run(RESTORE).fails(7, &said);
    assert!(!agent.path("target").exists(), "nothing is written before the keys are known to open");
    agent.run(["verify", "policy.toml"]).succeeds();
    agent.run(["verify", "policy.toml", "--read-data"]).fails(7, &said);
    let points = agent.run(["points", "policy.toml", "--json"]).succeeds().json();
    assert!(points[0]["verified"].is_null(), "a point whose data nobody opened is not verified");
    let site = agent.text("site");
    agent
        .run(["restore", "--site", &site, "latest", "--source", "config", "--to", "target", "--identity", "agent.key"])
        .fails(7, &said);
}

#[test]
fn strangers_and_nobody_are_refused() {
    let agent = backed_up();
    agent.generate_key("stranger.txt");
    let site = agent.text("site");
    let restore = ["restore", "--site", &site, "latest", "--source", "config", "--to", "target"];
    for words in [&["points", "--site", &site][..], &restore, &["drill", "--site", &site], &["verify", "--site", &site]] {
        agent.run(words.iter().copied()).fails(7, &["keys/catalogue-", "no identity is at hand", "--identity FILE"]);
        let stranger = words.iter().copied().chain(["--identity", "stranger.txt"]);
        agent.run(stranger).fails(7, &["keys/catalogue-", "none of the identities at hand opens this key"]);
    }
    assert!(!agent.path("target").exists());
    agent.run(RESTORE.into_iter().chain(["--identity", "stranger.txt"])).fails(7, &["--identity FILE"]);
}

#[test]
fn a_backup_to_other_recipients_than_the_keys_are_wrapped_for_is_refused_with_the_command_that_mends_it() {
    let agent = backed_up();
    let newcomer = agent.generate_key("newcomer.txt");
    let text = fs::read_to_string(agent.path("policy.toml")).unwrap();
    let (head, tail) = text.split_once("recipients = [").unwrap();
    fs::write(agent.path("policy.toml"), format!("{head}recipients = [\"{newcomer}\", {tail}")).unwrap();
    let before = agent.stored("");
    agent
        .run(["backup", "policy.toml"])
        .fails(7, &["other recipients", &newcomer, "farshore key rotate policy.toml --identity FILE"]);
    assert_eq!(agent.stored(""), before, "nothing was written");
    fs::write(agent.path("policy.toml"), text).unwrap();
    agent.run(["backup", "policy.toml"]).succeeds();
}

#[test]
fn either_recipient_can_restore_and_needs_no_key_of_the_agents() {
    let agent = backed_up();
    fs::remove_file(agent.path("agent.key")).unwrap();
    agent.run(RESTORE.into_iter().chain(["--identity", "escrow.txt"])).succeeds();
    agent.operator(["drill", "policy.toml"]).succeeds();
    agent.run(["backup", "policy.toml"]).fails(3, &["agent.key", "cannot be read"]);
}

#[test]
fn an_identity_that_is_none_is_refused_without_repeating_it() {
    let mut agent = backed_up();
    let whole = fs::read_to_string(agent.path("operator.txt")).unwrap();
    let secret = whole.lines().last().unwrap().to_owned();
    for (text, said) in [
        (whole.replace(&secret, &secret[..secret.len() - 1]), "line 3 is no age secret key"),
        ("hunter2\n".to_owned(), "line 1 is no age secret key"),
        ("# only a comment\n".to_owned(), "holds no age secret key"),
        (String::new(), "holds no age secret key"),
    ] {
        fs::write(agent.path("bad.txt"), &text).unwrap();
        let refused = agent.run(RESTORE.into_iter().chain(["--identity", "bad.txt"])).fails(7, &["bad.txt", said]);
        assert!(!refused.stderr.contains("hunter2") && !refused.stderr.contains("AGE-SECRET-KEY-1Q"), "{}", refused.stderr);
    }
    agent
        .run(RESTORE.into_iter().chain(["--identity", "absent.txt"]))
        .fails(7, &["absent.txt", "cannot be read", "--identity FILE"]);
    agent.set("FARSHORE_IDENTITY_FILE", agent.text("absent.txt"));
    agent.run(["points", "policy.toml"]).fails(7, &["absent.txt"]);
}

#[test]
fn an_empty_secret_is_a_missing_one() {
    let mut agent = Agent::with_everything();
    fs::create_dir(agent.path("credentials")).unwrap();
    agent.set("CREDENTIALS_DIRECTORY", agent.text("credentials"));
    let policy = fs::read_to_string(agent.path("policy.toml")).unwrap();
    let key_file = format!("{{ file = \"{}\" }}", agent.text("agent.key"));
    for blank in ["\n", "", " \t\n"] {
        fs::write(agent.path("blank"), blank).unwrap();
        fs::write(agent.path("credentials/agent-key"), blank).unwrap();
        agent.set("BLANK", blank);
        for reference in [&format!("file = \"{}\"", agent.text("blank")), "env = \"BLANK\"", "credential = \"agent-key\""] {
            fs::write(agent.path("policy.toml"), policy.replace(&key_file, &format!("{{ {reference} }}"))).unwrap();
            let name = reference.rsplit('"').nth(1).unwrap();
            agent.run(["init", "policy.toml"]).fails(3, &[name, "the secret is missing", "put the secret in"]);
        }
    }
    agent.set("PASSWORD", "");
    let environment = "environment = { TOKEN = { env = \"PASSWORD\" } }";
    fs::write(agent.path("policy.toml"), policy.replace("timeout = \"1m\"", environment)).unwrap();
    agent.init();
    agent.run(["backup", "policy.toml"]).fails(3, &["PASSWORD", "the secret is missing"]);
    assert!(agent.points().is_empty());
}

#[test]
fn an_identity_is_never_overwritten() {
    let agent = Agent::with_everything();
    let before = fs::read(agent.path("operator.txt")).unwrap();
    agent.run(["key", "generate", "--output", "operator.txt"]).fails(1, &["operator.txt", "choose a file that does not exist"]);
    assert_eq!(fs::read(agent.path("operator.txt")).unwrap(), before);
    let public = agent.run(["key", "public", "operator.txt", "--json"]).succeeds().json();
    assert!(fs::read_to_string(agent.path("policy.toml")).unwrap().contains(public["public_key"].as_str().unwrap()));
}

#[test]
fn a_secret_file_that_is_open_to_others_is_warned_of_once_and_used() {
    let mut agent = backed_up();
    let chmod = |file: &str, mode| fs::set_permissions(agent.path(file), Permissions::from_mode(mode)).unwrap();
    let warnings = |said: &str, file: &str| {
        let words = format!("chmod 600 {}", agent.text(file));
        said.lines().filter(|line| line.contains(&words) && line.contains("open to others")).count()
    };
    let operator = agent.text("operator.txt");
    let restore = || agent.run(RESTORE.into_iter().chain(["--into-existing", "--identity", &operator])).succeeds().stderr;
    assert!(!restore().contains("chmod") && !agent.run(["backup", "policy.toml"]).succeeds().stderr.contains("chmod"));
    for mode in [0o644, 0o660, 0o602] {
        chmod("operator.txt", mode);
        let said = restore();
        assert!(warnings(&said, "operator.txt") == 1 && said.contains(&format!("(mode {mode:04o})")), "{said}");
    }
    // What is root's may be readable by a group: the runbook's server and agent share a key so.
    let is_roots = fs::metadata(agent.path("operator.txt")).unwrap().uid() == 0;
    chmod("operator.txt", 0o640);
    assert_eq!(warnings(&restore(), "operator.txt"), usize::from(!is_roots));
    chmod("agent.key", 0o644);
    for words in [&["points", "policy.toml"][..], &["backup", "policy.toml"], &["prune", "policy.toml", "--dry-run", "--json"]] {
        let outcome = agent.run(words.iter().copied()).succeeds();
        assert!(warnings(&outcome.stderr, "agent.key") == 1 && !outcome.stdout.contains("chmod"), "{}", outcome.stderr);
    }
    // For machines as every other warning.
    let lines = agent.run(["points", "policy.toml", "--json", "--log-format", "json"]).succeeds().stderr;
    let line: serde_json::Value = serde_json::from_str(lines.lines().find(|line| line.contains("chmod 600")).unwrap()).unwrap();
    assert_eq!(line["level"], "WARN");
    // A pipe, or what systemd hands over, has no mode that says anything.
    let mut piped = agent.command(RESTORE.into_iter().chain(["--into-existing", "--identity", "/dev/fd/0"]));
    let piped = Outcome::from(piped.stdin(File::open(&operator).unwrap()).output().unwrap()).succeeds();
    assert_eq!((warnings(&piped.stderr, "operator.txt"), piped.stderr.matches("chmod").count()), (0, 0), "{}", piped.stderr);
    fs::create_dir(agent.path("credentials")).unwrap();
    fs::copy(&operator, agent.path("credentials/identity")).unwrap();
    agent.set("CREDENTIALS_DIRECTORY", agent.text("credentials"));
    let said = agent.run(RESTORE.into_iter().chain(["--into-existing"])).succeeds().stderr;
    assert!(!said.contains("chmod"), "{said}");
}
