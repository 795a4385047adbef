//! What the README and the runbook tell people to type: the tour runs as it stands there, and every other command line is one that
//! the program takes.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use clap::{CommandFactory, Parser, error::ErrorKind};
use farshore::{
    cli::Cli,
    policy::Policy,
    report::exit::{get_markdown_table, markdown_table},
};

fn document(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Fenced blocks as (what stands behind the backquotes, the lines between), without the indentation of the fence.
fn blocks(text: &str) -> Vec<(String, Vec<String>)> {
    let mut found = Vec::new();
    let mut open: Option<(usize, String, Vec<String>)> = None;
    for line in text.lines() {
        let indentation = line.len() - line.trim_start().len();
        match (line.trim_start().strip_prefix("```"), open.take()) {
            (Some(word), None) => open = Some((indentation, word.trim().to_owned(), Vec::new())),
            (Some(_), Some((_, word, lines))) => found.push((word, lines)),
            (None, Some((outer, word, mut lines))) => {
                lines.push(line.get(outer..).unwrap_or_default().to_owned());
                open = Some((outer, word, lines));
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block of code is not closed");
    found
}

fn readme_blocks(kind: &str) -> String {
    let chosen: Vec<String> =
        blocks(&document("README.md")).into_iter().filter(|(word, _)| word == kind).flat_map(|(_, lines)| lines).collect();
    assert!(!chosen.is_empty(), "README.md has no block marked {kind:?}");
    chosen.join("\n")
}

/// Runs a shell script in `directory` with the program on the PATH, and nothing else of this machine's settings for it.
fn shell(script: &str, directory: &Path) -> std::process::Output {
    let binary = PathBuf::from(env!("CARGO_BIN_EXE_farshore"));
    let programs = binary.parent().expect("it lies in a directory");
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").expect("a PATH"));
    Command::new("sh")
        .args(["-eu", "-c", script])
        .current_dir(directory)
        .env("PATH", path)
        .env("XDG_CACHE_HOME", directory.join("cache"))
        .env_remove("FARSHORE_IDENTITY_FILE")
        .env_remove("FARSHORE_CACHE_DIR")
        .env_remove("CACHE_DIRECTORY")
        .env_remove("CREDENTIALS_DIRECTORY")
        .output()
        .expect("sh runs")
}

#[test]
fn the_tour_runs_as_it_stands_in_the_readme_and_brings_everything_back() {
    let directory = tempfile::tempdir().unwrap();
    let output = shell(&readme_blocks("sh tour"), directory.path());
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}");

    assert!(!directory.path().join("primary").exists(), "the tour loses its primary");
    let back = |path: &str| {
        fs::read_to_string(directory.path().join("recovered").join(path)).unwrap_or_else(|error| panic!("{path}: {error}\n{said}"))
    };
    assert_eq!(back("attachments/2026/cat.png"), "a picture\n");
    assert_eq!(back("attachments/2026/letter-2.pdf"), "another letter\n");
    let config = walk(&directory.path().join("recovered/config"));
    let [config] = config.as_slice() else { panic!("one file of configuration, not {config:?}") };
    assert_eq!(fs::read_to_string(config).unwrap(), "url = \"https://chat.example.com\"\n");

    assert!(said.contains("Drill of chat passed"), "{said}");
    assert!(said.ends_with("another letter\n") || said.contains("\nanother letter\n"), "cat prints the bytes: {said}");
    assert!(said.matches("age1").count() >= 3, "each key's public half is printed: {said}");
}

fn walk(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display())) {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(walk(&path)) } else { found.push(path) }
    }
    found
}

#[test]
fn the_real_servers_of_the_readme_fit_into_the_policy_of_the_tour() {
    let tour = readme_blocks("sh tour");
    let (_, policy) = tour.split_once("<<TOML\n").expect("the tour writes a policy");
    let (policy, _) = policy.split_once("\nTOML\n").expect("the policy ends");
    // What the shell puts in.
    let policy = policy
        .replace("$PWD", "/srv/tour")
        .replace("$(farshore key public operator.txt)", "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p")
        .replace("$(farshore key public escrow.txt)", "age1lggyhqrw2nlhcxprm67z43rta597azn8gknawjehu9d9dl0jq3yqqvfafg");
    assert!(!policy.contains('$'), "{policy}");
    let whole = format!("{policy}\n{}", readme_blocks("toml"));
    let policy = Policy::parse(&whole, "README.md").unwrap_or_else(|errors| panic!("{errors}\n{whole}"));
    assert_eq!((policy.sources.len(), policy.sites.len(), policy.cross_checks.len()), (5, 2, 1));
}

/// A line without what says who runs it.
fn whoever_runs_it(line: &str) -> &str {
    let run = line.strip_prefix("sudo -u ").and_then(|rest| rest.split_once(' ')).map_or(line, |(_, command)| command.trim_start());
    if run.starts_with("/usr/bin/farshore ") { &run["/usr/bin/".len()..] } else { run }
}

/// Command lines of a document: those that stand alone in a block, and those that begin a quotation within a sentence, whoever runs them.
fn command_lines(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (_, lines) in blocks(text) {
        // A line that ends in a backslash goes on in the next.
        let joined = lines.join("\n").replace("\\\n", " ");
        let bare = joined.lines().map(|line| whoever_runs_it(line.trim()));
        found.extend(bare.filter(|line| line.starts_with("farshore ")).map(str::to_owned));
    }
    let mut fenced = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            let quoted = line.split('`').skip(1).step_by(2);
            found.extend(quoted.map(whoever_runs_it).filter_map(|word| {
                word.find("farshore ")
                    .filter(|at| *at == 0 || word[..*at].ends_with('('))
                    .map(|at| word[at..].trim_end_matches(')').to_owned())
            }));
        }
    }
    found
}

/// What the shell would make of a line: no comment, no quotes (none of the documents has a space within quotes).
fn words(line: &str) -> Vec<String> {
    let bare = line.split("  #").next().unwrap_or(line).split(" #").next().unwrap_or(line);
    bare.split_whitespace().map(|word| word.replace(['"', '\''], "")).collect()
}

/// Why the program would refuse a line, if it would. A sentence may name a command without all it needs; a block may not.
fn refusal(line: &str) -> Option<String> {
    match Cli::try_parse_from(words(line)) {
        Ok(_) => None,
        Err(error) => match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => None,
            ErrorKind::MissingRequiredArgument | ErrorKind::TooFewValues | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
                None
            }
            _ => Some(format!("{line}\n{error}")),
        },
    }
}

/// Documents that speak of today; a changelog and decisions may speak of other times.
const DOCUMENTS: [&str; 4] = ["README.md", "ARCHITECTURE.md", "docs/runbook.md", "docs/evidence.md"];

#[test]
fn every_command_line_in_the_documents_is_one_that_the_program_takes() {
    let mut count = 0;
    let mut refused = Vec::new();
    for path in DOCUMENTS {
        for line in command_lines(&document(path)) {
            count += 1;
            // The one place-holder for any command.
            refused.extend(refusal(&line.replace("farshore COMMAND", "farshore points")).map(|why| format!("{path}: {why}")));
        }
    }
    assert!(count > 40, "the documents were hardly read: {count} command lines");
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}

#[test]
fn a_command_or_flag_that_does_not_exist_is_seen() {
    let text = "`farshore preen POLICY` and\n```\nfarshore restore chat.toml latest --tow x   # wrong\nfarshore points chat.toml # fine\n```\n\
                `sudo -u farshore farshore look chat` and\n```\nsudo -u postgres /usr/bin/farshore wal state chat\nsudo -u postgres psql\n```\n";
    let found = command_lines(text);
    assert_eq!(found.len(), 5, "{found:?}");
    let refused: Vec<String> = found.iter().filter_map(|line| refusal(line)).collect();
    assert_eq!(refused.len(), 4, "{refused:?}");
}

#[test]
fn the_policy_of_the_runbook_archives_as_its_settings_say() {
    let runbook = document("docs/runbook.md");
    let policies: Vec<String> =
        blocks(&runbook).into_iter().filter(|(word, _)| word == "toml policy").map(|(_, lines)| lines.join("\n")).collect();
    let [text] = policies.as_slice() else { panic!("one whole policy, not {}", policies.len()) };
    let policy = Policy::parse(text, "docs/runbook.md").unwrap_or_else(|errors| panic!("{errors}\n{text}"));
    let set_up: Vec<String> =
        blocks(&runbook).into_iter().filter(|(word, _)| word == "sh setup").flat_map(|(_, lines)| lines).collect();
    let command = set_up.iter().find_map(|line| line.strip_prefix("ALTER SYSTEM SET archive_command = '")).expect("the setting");
    let command = whoever_runs_it(command.trim_end_matches("';"));
    assert_eq!(refusal(command), None);
    assert_eq!(words(command), ["farshore", "wal", "push", &policy.name, "%p"]);
    // Whatever the policy names is made, for those who need it: the server's group reads both keys, its user writes the spool.
    for name in ["db-agent.key", "db-site-secret"] {
        let path = format!("/etc/farshore/keys/{name}");
        assert!(text.contains(&format!("{{ file = \"{path}\" }}")), "the policy does not name {path}");
        let mentions = |words: &str| set_up.iter().any(|line| line.contains(words) && line.contains(&path));
        assert!(
            mentions("0640") && (mentions("root:postgres") || mentions("-o root -g postgres")),
            "{path} is open to the wrong people"
        );
    }
    let spool = "install -d -m 0700 -o postgres -g postgres /var/spool/farshore/db";
    assert!(text.contains("spool = \"/var/spool/farshore/db\"") && set_up.iter().any(|line| line == spool));
}

#[test]
fn the_readme_and_the_program_name_the_same_commands() {
    let readme = document("README.md");
    let help = Cli::command().render_help().to_string();
    let known: Vec<String> =
        Cli::command().get_subcommands().map(|command| command.get_name().to_owned()).filter(|name| name != "help").collect();
    for name in &known {
        assert!(help.contains(&format!("  {name} ")), "--help does not name {name}");
        assert!(readme.contains(&format!("| `farshore {name} ")), "the README's table of commands has no line for {name}");
    }
    for line in command_lines(&readme) {
        let name = line.split_whitespace().nth(1).unwrap_or_default();
        assert!(known.iter().any(|other| other == name), "the README names a command {name:?}, which --help does not: {line}");
    }
}

#[test]
fn the_readme_has_the_table_of_exit_codes() {
    let readme = document("README.md");
    let (_, rest) = readme.split_once("<!-- exit-codes:begin -->\n").expect("the marker");
    let (table, _) = rest.split_once("<!-- exit-codes:end -->").expect("the other marker");
    assert_eq!(table, markdown_table());
    let (_, rest) = readme.split_once("<!-- get-codes:begin -->\n").expect("the marker");
    let (table, _) = rest.split_once("<!-- get-codes:end -->").expect("the other marker");
    assert_eq!(table, get_markdown_table());
}
