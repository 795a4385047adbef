//! Identities behind a passphrase, and the sheet for the safe.

use std::{
    fs,
    io::{Read, Write},
    os::unix::fs::PermissionsExt,
    process::{Command, Stdio},
};

use clap::Parser;

use crate::support::agent::{Agent, tree};

const PHRASE: &str = "correct horse battery staple";

/// A machine whose escrow identity is wrapped with [`PHRASE`], and a point.
fn wrapped() -> Agent {
    let mut agent = Agent::new("");
    fs::write(agent.path("phrase"), format!("{PHRASE}\n")).unwrap();
    agent.set("FARSHORE_PASSPHRASE_FILE", agent.text("phrase"));
    let made = agent.run(["key", "generate", "--passphrase", "--output", "wrapped.txt"]).succeeds();
    let public = made.stdout.trim().to_owned();
    let file = fs::read_to_string(agent.path("wrapped.txt")).unwrap();
    assert!(file.starts_with("-----BEGIN AGE ENCRYPTED FILE-----") && !file.contains("SECRET"), "{file}");
    assert_eq!(fs::metadata(agent.path("wrapped.txt")).unwrap().permissions().mode() & 0o777, 0o600);
    fs::write(agent.path("data/a"), "a row\n").unwrap();
    agent.write_policy(&agent.files_source());
    let text = fs::read_to_string(agent.path("policy.toml")).unwrap();
    fs::write(agent.path("policy.toml"), text.replace("recipients = [", &format!("recipients = [\"{public}\", "))).unwrap();
    agent.init();
    agent.backup();
    agent
}

fn restore_words(identity: &str) -> [&str; 9] {
    ["restore", "policy.toml", "latest", "--source", "config", "--to", "target", "--identity", identity]
}

#[test]
fn a_wrapped_identity_restores_with_its_passphrase_from_a_file_a_variable_or_a_credential() {
    let mut agent = wrapped();
    let restored = |agent: &Agent| {
        agent.run(restore_words("wrapped.txt")).succeeds();
        assert_eq!(tree(&agent.path("target")).values().collect::<Vec<_>>(), [b"a row\n"]);
        fs::remove_dir_all(agent.path("target")).unwrap();
    };
    restored(&agent);
    fs::write(agent.path("phrase"), "wrong\n").unwrap();
    let refused = agent.run(restore_words("wrapped.txt")).fails(7, &["wrapped.txt", "the passphrase does not open this identity"]);
    assert!(!refused.stderr.contains("wrong\n"), "{}", refused.stderr);
    fs::write(agent.path("phrase"), "\n").unwrap();
    agent.run(restore_words("wrapped.txt")).fails(3, &["phrase", "the passphrase is missing"]);
    agent.set("FARSHORE_PASSPHRASE_FILE", "");
    agent.set("FARSHORE_PASSPHRASE", PHRASE);
    restored(&agent);
    agent.set("FARSHORE_PASSPHRASE", "");
    fs::create_dir(agent.path("credentials")).unwrap();
    fs::write(agent.path("credentials/identity-passphrase"), PHRASE).unwrap();
    agent.set("CREDENTIALS_DIRECTORY", agent.text("credentials"));
    restored(&agent);
    // An agent types nothing.
    let text = fs::read_to_string(agent.path("policy.toml")).unwrap();
    fs::write(agent.path("policy.toml"), text.replace("agent.key", "wrapped.txt")).unwrap();
    agent.run(["backup", "policy.toml"]).fails(7, &["wrapped.txt", "an agent needs a key without one"]);
}

/// The program on a terminal of its own: `script` makes one, and `setsid` takes away ours.
fn on_a_terminal(agent: &Agent, words: &str) -> std::process::Child {
    let mut command = Command::new("script");
    agent.dress(&mut command);
    command.env_remove("FARSHORE_PASSPHRASE_FILE");
    let line = format!("'{}' {words}", env!("CARGO_BIN_EXE_farshore"));
    command.args(["-q", "-e", "-c", &line, "/dev/null"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
}

/// Waits for each question, types each answer; what the terminal showed, and the exit code.
fn converse(agent: &Agent, words: &str, answers: &[(&str, &str)]) -> (String, i32) {
    let mut child = on_a_terminal(agent, words);
    let (mut keyboard, mut screen) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut shown = String::new();
    let mut byte = [0];
    for (question, answer) in answers {
        while !shown.ends_with(question) {
            assert_eq!(screen.read(&mut byte).unwrap(), 1, "no {question:?}, only: {shown}");
            shown.push(char::from(byte[0]));
        }
        keyboard.write_all(answer.as_bytes()).unwrap();
    }
    screen.read_to_string(&mut shown).unwrap();
    (shown, child.wait().unwrap().code().unwrap())
}

#[test]
fn a_passphrase_is_asked_for_on_the_terminal_and_not_shown() {
    let agent = wrapped();
    let typed = format!("{PHRASE}\n");
    let (shown, code) = converse(&agent, "key public wrapped.txt", &[("Passphrase of wrapped.txt: ", typed.as_str())]);
    assert!(code == 0 && shown.contains("age1") && !shown.contains("horse"), "{code}: {shown}");
    let words = "key generate --passphrase --output typed.txt";
    let (shown, code) = converse(&agent, words, &[("New passphrase: ", "one\n"), ("again: ", "other\n")]);
    assert!(code == 1 && shown.contains("not the same") && !agent.path("typed.txt").exists(), "{code}: {shown}");
    let (shown, code) = converse(&agent, words, &[("New passphrase: ", "wrong\u{15}oneä\u{7f}\n"), ("again: ", "one\n")]);
    assert!(code == 0 && agent.path("typed.txt").exists(), "{code}: {shown}");
    let (shown, code) = converse(&agent, "key public typed.txt", &[("typed.txt: ", "\u{3}")]);
    assert!(code == 1 && shown.contains("no passphrase was given"), "{code}: {shown}");
}

#[test]
fn without_a_terminal_it_is_said_where_a_passphrase_may_lie() {
    let mut agent = wrapped();
    agent.set("FARSHORE_PASSPHRASE_FILE", "");
    let mut command = Command::new("setsid");
    agent.dress(&mut command);
    command.args(["-w", env!("CARGO_BIN_EXE_farshore"), "key", "public", "wrapped.txt"]);
    let output = command.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(3) && said.contains("FARSHORE_PASSPHRASE_FILE"), "{:?}: {said}", output.status);
}

/// What the QR code on a sheet holds: each character is two modules, one above the other.
fn decoded(sheet: &str) -> String {
    let blocks = [' ', '▀', '▄', '█'];
    let lines: Vec<Vec<char>> = sheet
        .lines()
        .filter(|line| line.chars().any(|letter| letter != ' ') && line.chars().all(|letter| blocks.contains(&letter)))
        .map(|line| line.chars().collect())
        .collect();
    let dark = |x: usize, y: usize| {
        let letter = lines.get(y / 2).and_then(|line| line.get(x)).copied().unwrap_or(' ');
        letter == '█' || letter == if y.is_multiple_of(2) { '▀' } else { '▄' }
    };
    let width = lines.iter().map(Vec::len).max().unwrap();
    let all: Vec<(usize, usize)> =
        (0..lines.len() * 2).flat_map(|y| (0..width).map(move |x| (x, y))).filter(|(x, y)| dark(*x, *y)).collect();
    let (left, top) = (all.iter().map(|at| at.0).min().unwrap(), all.iter().map(|at| at.1).min().unwrap());
    let size = all.iter().map(|at| at.0).max().unwrap() - left + 1;
    let grid = rqrr::SimpleGrid::from_func(size, |x, y| dark(x + left, y + top));
    rqrr::Grid::new(grid).decode().unwrap().1
}

#[test]
fn a_recovery_sheet_brings_the_data_back_from_its_text_and_from_its_code() {
    let agent = wrapped();
    for (identity, secret) in [("operator.txt", "AGE-SECRET-KEY-1"), ("wrapped.txt", "-----BEGIN AGE ENCRYPTED FILE-----")] {
        let output = format!("sheet-of-{identity}");
        let said = agent.run(["key", "sheet", "policy.toml", "--identity", identity, "--output", &output]).succeeds().stdout;
        assert!(said.contains("shred -u"), "{said}");
        assert_eq!(fs::metadata(agent.path(&output)).unwrap().permissions().mode() & 0o777, 0o600);
        let sheet = fs::read_to_string(agent.path(&output)).unwrap();
        let repository = fs::read_to_string(agent.path("site/repository.json")).unwrap();
        let repository: serde_json::Value = serde_json::from_str(&repository).unwrap();
        for words in [repository["id"].as_str().unwrap(), &agent.text("site"), "opens the catalogue and the 1 data key of", secret]
        {
            assert!(sheet.contains(words), "{words} is not on it: {sheet}");
        }
        assert_eq!(sheet.contains("AND its passphrase"), identity == "wrapped.txt");
        // Scanned into a file, it restores.
        fs::write(agent.path("scanned.txt"), decoded(&sheet)).unwrap();
        agent.run(restore_words("scanned.txt")).succeeds();
        fs::remove_dir_all(agent.path("target")).unwrap();
        // Typed off the text, too, and by the very commands that stand there.
        let from = sheet.find(secret).unwrap();
        let end = sheet[from..].find("\n\n").unwrap();
        fs::write(agent.path("typed.txt"), &sheet[from..from + end]).unwrap();
        let commands: Vec<_> = sheet.lines().map(str::trim).filter(|line| line.starts_with("farshore ")).collect();
        assert_eq!(commands.len(), 2, "{sheet}");
        for command in commands {
            farshore::cli::Cli::try_parse_from(command.split_whitespace()).unwrap();
            let command = command.replace("/dev/shm/key.txt", "typed.txt").replace("/DIRECTORY", "target");
            agent.run(command.split_whitespace().skip(1)).succeeds();
        }
        assert_eq!(tree(&agent.path("target")).values().collect::<Vec<_>>(), [b"a row\n"]);
        fs::remove_dir_all(agent.path("target")).unwrap();
    }
    // Nothing is overwritten, and no sheet is made of what opens nothing.
    let sheet = |identity, output| agent.run(["key", "sheet", "policy.toml", "--identity", identity, "--output", output]);
    sheet("operator.txt", "sheet-of-operator.txt").fails(1, &["choose a file that does not exist"]);
    sheet("agent.key", "sheet-of-agent").fails(7, &["none of the identities at hand opens this key"]);
    agent.run(["key", "sheet", "policy.toml", "--output", "sheet-of-nobody"]).fails(2, &["a sheet is of one identity"]);
    assert!(!agent.path("sheet-of-agent").exists() && !agent.path("sheet-of-nobody").exists());
}
