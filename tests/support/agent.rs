//! An operator's machine in a temporary directory: keys, a policy, sources, a site, and the built program run on them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;
use tempfile::TempDir;

/// One machine. Everything lies below one temporary directory, which goes away with it.
pub struct Agent {
    root: TempDir,
    /// Public keys of operations and of escrow.
    recipients: [String; 2],
    environment: BTreeMap<String, String>,
    /// The network namespace that it is in, where it is in one of its own.
    namespace: Option<String>,
}

/// How a command ended.
#[derive(Debug)]
pub struct Outcome {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Agent {
    /// A machine with keys and a policy of these `[[source]]` tables, whose site is the directory `site`.
    pub fn new(sources: &str) -> Self {
        let mut agent =
            Self { root: TempDir::new().unwrap(), recipients: Default::default(), environment: BTreeMap::new(), namespace: None };
        for directory in ["home", "data", "objects", "drill"] {
            fs::create_dir(agent.path(directory)).unwrap();
        }
        agent.recipients = ["operator.txt", "escrow.txt"].map(|file| agent.generate_key(file));
        agent.generate_key("agent.key");
        agent.write_policy(sources);
        agent
    }

    /// The same with a source of each kind that needs no server, and something in each.
    pub fn with_everything() -> Self {
        let agent = Self::new("");
        fs::create_dir(agent.path("data/sub")).unwrap();
        fs::write(agent.path("data/app.conf"), "listen = 8065\n").unwrap();
        fs::write(agent.path("data/sub/blob"), noise(1, 400_000)).unwrap();
        fs::create_dir(agent.path("objects/2026")).unwrap();
        for number in 0..20_u64 {
            fs::write(agent.path(&format!("objects/2026/{number:02}.png")), noise(100 + number, 20_000)).unwrap();
        }
        fs::write(agent.path("state.yaml"), "kind: ConfigMap\n".repeat(100)).unwrap();
        agent.write_policy(&agent.all_sources());
        agent
    }

    /// `[[source]]` tables: files, a bucket, a command.
    pub fn all_sources(&self) -> String {
        let (data, objects, state) = (self.text("data"), self.text("objects"), self.text("state.yaml"));
        format!(
            "[[source]]\nname = \"config\"\nkind = \"files\"\npaths = [\"{data}\"]\n\n\
             [[source]]\nname = \"attachments\"\nkind = \"bucket\"\nstore = {{ kind = \"filesystem\", path = \"{objects}\" }}\n\n\
             [[source]]\nname = \"cluster\"\nkind = \"command\"\ncapture = [\"cat\", \"{state}\"]\ntimeout = \"1m\"\n"
        )
    }

    /// A `[[source]]` table of the directory `data` alone.
    pub fn files_source(&self) -> String {
        format!("[[source]]\nname = \"config\"\nkind = \"files\"\npaths = [\"{}\"]\n", self.text("data"))
    }

    /// Writes `policy.toml` anew, with the filesystem site.
    pub fn write_policy(&self, sources: &str) {
        let site = format!("[[site]]\nname = \"far\"\nstore = {{ kind = \"filesystem\", path = \"{}\" }}\n", self.text("site"));
        self.write_policy_with(sources, &site, &self.drill_table());
    }

    pub fn drill_table(&self) -> String {
        format!("[drill]\ndirectory = \"{}\"\n", self.text("drill"))
    }

    /// Writes `policy.toml` anew from its parts: `[[source]]` tables, `[[site]]` tables, the rest.
    pub fn write_policy_with(&self, sources: &str, sites: &str, rest: &str) {
        let [operator, escrow] = &self.recipients;
        let agent = self.text("agent.key");
        let text = format!(
            "name = \"sys\"\n\n{sources}\n{sites}\n[encryption]\nrecipients = [\"{operator}\", \"{escrow}\"]\n\
             agent = {{ file = \"{agent}\" }}\n\n{rest}"
        );
        fs::write(self.path("policy.toml"), text).unwrap();
    }

    /// Makes an identity file; returns its public key.
    pub fn generate_key(&self, file: &str) -> String {
        let output = self.text(file);
        self.run(["key", "generate", "--output", &output]).succeeds().stdout.trim().to_owned()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    pub fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// Every later command runs in this network namespace.
    pub fn move_to(&mut self, namespace: &str) {
        self.namespace = Some(namespace.to_owned());
    }

    /// A variable of every later command.
    pub fn set(&mut self, variable: &str, value: impl Into<String>) {
        self.environment.insert(variable.to_owned(), value.into());
    }

    /// The program, with an environment of this machine's own. Nothing of the caller's but PATH gets in.
    pub fn command<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Command {
        let program = env!("CARGO_BIN_EXE_farshore");
        let mut command = match &self.namespace {
            Some(namespace) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace, program]);
                command
            }
            None => Command::new(program),
        };
        command.args(arguments);
        self.dress(&mut command);
        command
    }

    /// Gives another command this machine's environment.
    pub fn dress(&self, command: &mut Command) {
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("LC_ALL", "C.UTF-8");
        command.env("HOME", self.path("home")).env("USER", "operator").envs(&self.environment).current_dir(self.root.path());
    }

    /// Runs a command to its end.
    pub fn run<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Outcome {
        self.command(arguments).output().unwrap().into()
    }

    /// Runs a command with the operator's identity at hand.
    pub fn operator<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Outcome {
        self.command(arguments).arg("--identity").arg(self.path("operator.txt")).output().unwrap().into()
    }

    /// `init`, which must succeed.
    pub fn init(&self) {
        self.run(["init", "policy.toml", "--create"]).succeeds();
    }

    /// A backup, which must succeed; its report.
    pub fn backup(&self) -> Value {
        self.run(["backup", "policy.toml", "--json"]).succeeds().json()[0].clone()
    }

    /// Ids of the points that are listed, oldest first.
    pub fn points(&self) -> Vec<String> {
        let listed = self.run(["points", "policy.toml", "--json"]).json();
        listed.as_array().unwrap().iter().map(|point| point["id"].as_str().unwrap().to_owned()).collect()
    }

    /// Forgets the local indexes.
    pub fn delete_cache(&self) {
        let _ = fs::remove_dir_all(self.path("home/.cache"));
    }

    /// Keys of everything under a prefix of the site, sorted.
    pub fn stored(&self, prefix: &str) -> Vec<String> {
        let site = self.path("site");
        let relative = |path: &PathBuf| path.strip_prefix(&site).unwrap().to_str().unwrap().to_owned();
        files(&site.join(prefix)).iter().map(|path| relative(&site.join(prefix).join(path))).collect()
    }
}

impl From<Output> for Outcome {
    fn from(output: Output) -> Self {
        use std::os::unix::process::ExitStatusExt;
        let code = output.status.code().or_else(|| output.status.signal().map(|signal| 128 + signal));
        Self {
            code: code.unwrap(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Outcome {
    /// # Panics
    /// If the exit code is another.
    #[track_caller]
    pub fn ends_with(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }

    #[track_caller]
    pub fn succeeds(self) -> Self {
        self.ends_with(0)
    }

    /// Failed with this code, and said each of these on standard error, in one message that the operator can read.
    #[track_caller]
    pub fn fails(self, code: i32, said: &[&str]) -> Self {
        let outcome = self.ends_with(code);
        for words in said {
            assert!(outcome.stderr.contains(words), "nothing about {words:?} in: {}", outcome.stderr);
        }
        let errors =
            outcome.stderr.lines().filter(|line| line.starts_with("farshore: ") || line.starts_with("{\"error\":")).count();
        assert_eq!(errors, 1, "one error, not {errors}: {}", outcome.stderr);
        assert!(!outcome.stderr.contains("panicked"), "{}", outcome.stderr);
        outcome
    }

    /// Standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {}\n{}", self.stdout, self.stderr))
    }

    /// Standard output as one JSON value a line.
    #[track_caller]
    pub fn json_lines(&self) -> Vec<Value> {
        self.stdout.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
    }
}

/// Bytes that do not compress; the same for the same seed.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    use rand::{Rng, SeedableRng};
    let mut bytes = vec![0; length];
    rand::rngs::SmallRng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes
}

/// Every file below a directory that nobody changes, by path relative to it.
pub fn tree(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let read = |name: String| (name.clone(), fs::read(directory.join(name)).unwrap());
    files(directory).into_iter().map(read).collect()
}

/// The paths of all files below a directory, relative to it; others may be at work there.
pub fn files(directory: &Path) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    let mut open = vec![directory.to_owned()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(&next).into_iter().flatten().flatten() {
            let path = entry.path();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) || path.is_dir() {
                open.push(path);
            } else {
                all.insert(path.strip_prefix(directory).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    all
}
