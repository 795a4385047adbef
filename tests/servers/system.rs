//! The program from the outside on real servers: a database, a bucket, files and a command into an S3 site, and back.

use bytes::Bytes;
use farshore::stores::{PutOptions, S3Store, Store, read_all};

use crate::{
    postgres::{Database, Server},
    s3,
    support::{
        agent::{Agent, files, noise, tree},
        server,
    },
};

/// Objects of the application; a row of `fileinfo` names each.
const OBJECTS: usize = 60;

/// An application (database and bucket) and an agent that protects it.
pub struct Protected {
    pub agent: Agent,
    pub database: Database,
    /// Prefix of everything this test has in the bucket `farshore-system`.
    prefix: String,
    runtime: tokio::runtime::Runtime,
}

impl Protected {
    pub fn new(on: Server) -> Self {
        let mut agent = Agent::with_everything();
        for (variable, value) in [
            ("S3_SECRET", server("FARSHORE_TEST_S3_SECRET_KEY")),
            ("AWS_ACCESS_KEY_ID", server("FARSHORE_TEST_S3_ACCESS_KEY")),
            ("AWS_SECRET_ACCESS_KEY", server("FARSHORE_TEST_S3_SECRET_KEY")),
            ("AWS_ENDPOINT_URL", server("FARSHORE_TEST_S3_ENDPOINT")),
            ("AWS_REGION", "us-east-1".to_owned()),
        ] {
            agent.set(variable, value);
        }
        // Scratch clusters run as another user when the tests run as root.
        use std::os::unix::fs::PermissionsExt;
        for directory in ["", "drill"] {
            std::fs::set_permissions(agent.path(directory), std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let database = on.database();
        database.psql(&format!(
            "CREATE TABLE fileinfo (id int PRIMARY KEY, path text NOT NULL); \
             INSERT INTO fileinfo SELECT n, 'files/' || n FROM generate_series(1, {OBJECTS}) n; \
             CREATE TABLE posts (id bigserial, message text); \
             INSERT INTO posts (message) SELECT repeat(md5(n::text), 20) FROM generate_series(1, 3000) n"
        ));
        let prefix = s3::fresh_prefix();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let protected = Self { agent, database, prefix, runtime };
        let primary = protected.store("primary");
        protected.runtime.block_on(async {
            primary.create().await.unwrap();
            for number in 1..=OBJECTS {
                let body = noise(number as u64, 10_000);
                primary.put(&format!("files/{number}"), Bytes::from(body), PutOptions::default()).await.unwrap();
            }
        });
        protected.write_policy(&protected.store_table("site"));
        protected
    }

    /// A part of this test's share of the bucket.
    pub fn store(&self, part: &str) -> S3Store {
        let config = s3::config("farshore-system", &format!("{}/{part}", self.prefix));
        self.runtime.block_on(S3Store::connect(config)).unwrap()
    }

    pub fn address(&self, part: &str) -> String {
        format!("s3://farshore-system/{}/{part}", self.prefix)
    }

    /// The `store` of a policy.
    pub fn store_table(&self, part: &str) -> String {
        format!(
            "{{ kind = \"s3\", bucket = \"farshore-system\", prefix = \"{}/{part}\", endpoint = \"{}\", path_style = true, \
             access_key = \"{}\", secret_key = {{ env = \"S3_SECRET\" }} }}",
            self.prefix,
            server("FARSHORE_TEST_S3_ENDPOINT"),
            server("FARSHORE_TEST_S3_ACCESS_KEY")
        )
    }

    /// The `[[source]]` table of the database.
    pub fn database_source(&self, url: &str, more: &str) -> String {
        let bin = self.database.server.bin();
        format!(
            "[[source]]\nname = \"db\"\nkind = \"postgres\"\nmethod = \"logical\"\nurl = \"{url}\"\nbin_directory = \"{}\"\n{more}\n",
            bin.display()
        )
    }

    pub fn url(&self) -> String {
        self.database.server.url(&self.database.name)
    }

    fn write_policy(&self, site: &str) {
        let state = self.agent.text("state.yaml");
        let sources = format!(
            "{}\n[[source]]\nname = \"attachments\"\nkind = \"bucket\"\nstore = {}\n\n{}\n\
             [[source]]\nname = \"cluster\"\nkind = \"command\"\ncapture = [\"cat\", \"{state}\"]\n",
            self.database_source(&self.url(), ""),
            self.store_table("primary"),
            self.agent.files_source(),
        );
        self.write_policy_of(&sources, site);
    }

    /// Writes the policy with other sources.
    pub fn write_policy_of(&self, sources: &str, site: &str) {
        let checks = if sources.contains("attachments") {
            "[[cross_check]]\nsource = \"db\"\nquery = \"SELECT path FROM fileinfo\"\nobjects = \"attachments\"\n\n"
        } else {
            ""
        };
        let sites = format!("[[site]]\nname = \"far\"\nstore = {site}\n");
        let rest = format!("[objectives]\nrpo = \"26h\"\nrto = \"1h\"\n\n{checks}{}", self.agent.drill_table());
        self.agent.write_policy_with(sources, &sites, &rest);
    }

    fn delete_object(&self, key: &str) {
        let primary = self.store("primary");
        self.runtime.block_on(primary.delete(key)).unwrap();
    }

    fn object(&self, part: &str, key: &str) -> Bytes {
        let store = self.store(part);
        self.runtime.block_on(read_all(&store, key, Default::default(), 1 << 20)).unwrap()
    }
}

#[test]
fn everything_comes_back_from_the_site_alone_and_rows_match_objects() {
    let protected = Protected::new(Server::Fifteen);
    let agent = &protected.agent;
    agent.init();
    let report = agent.backup();
    assert_eq!(report["sources"].as_array().unwrap().len(), 4);
    let dump = dumped(&protected.database);
    // The region is gone: database, bucket, policy, cache, the agent's key.
    protected.database.psql("DROP TABLE fileinfo, posts");
    for number in 1..=OBJECTS {
        protected.delete_object(&format!("files/{number}"));
    }
    for file in ["policy.toml", "agent.key"] {
        std::fs::remove_file(agent.path(file)).unwrap();
    }
    let data = tree(&agent.path("data"));
    std::fs::remove_dir_all(agent.path("data")).unwrap();
    agent.delete_cache();

    let site = protected.address("site");
    let points = agent.operator(["points", "--site", &site, "--json"]).succeeds().json();
    assert_eq!(points[0]["id"], report["point_id"]);
    let fresh = protected.database.server.absent_database();
    let (database, bucket) = (fresh.server.url(&fresh.name), protected.address("restored"));
    let bin = fresh.server.bin();
    let typed = database.replacen('@', ":se%40cret@", 1);
    let refused = agent.operator(["restore", "--site", &site, "latest", "--source", "db", "--to", &typed]);
    assert!(refused.code == 2 && refused.stderr.contains("PGPASSWORD") && !refused.stderr.contains("cret"), "{refused:?}");
    let restored = agent.operator([
        "restore",
        "--site",
        &site,
        "latest",
        "--json",
        "--bin-directory",
        bin.to_str().unwrap(),
        "--source",
        "db",
        "--to",
        &database,
        "--source",
        "attachments",
        "--to",
        &bucket,
        "--source",
        "config",
        "--to",
        "restored",
    ]);
    assert_eq!(restored.succeeds().json()["sources"].as_array().unwrap().len(), 3);
    assert_eq!(dumped(&fresh), dump);
    assert_eq!(protected.object("restored", "files/7"), noise(7, 10_000));
    assert_eq!(tree(&agent.path(&format!("restored{}", agent.text("data")))), data);

    let drilled = agent.operator(["drill", "--site", &site, "--json"]).succeeds().json();
    assert_eq!(drilled["verdict"], "passed");
    let checks = drilled["checks"].to_string();
    assert!(checks.contains(&format!("{OBJECTS} keys, 0 missing")), "{checks}");
    assert!(drilled["rto"]["measured_seconds"].as_f64().unwrap() > 0.0);
    agent.operator(["verify", "--site", &site, "--read-data"]).succeeds();
    assert_no_scratch(agent);
}

/// The database as text, without the lines that are random in each dump.
fn dumped(database: &Database) -> String {
    let text = database.server.pg_dump(&database.name, &[]);
    text.lines().filter(|line| !line.starts_with("\\restrict") && !line.starts_with("\\unrestrict")).collect::<Vec<_>>().join("\n")
}

/// A drill leaves neither a directory nor a server.
fn assert_no_scratch(agent: &Agent) {
    assert!(std::fs::read_dir(agent.path("drill")).unwrap().next().is_none(), "{:?}", files(&agent.path("drill")));
    assert_eq!(scratch_servers(agent), Vec::<String>::new());
}

/// Command lines of processes that name a directory below the drill's.
fn scratch_servers(agent: &Agent) -> Vec<String> {
    let below = format!("{}/", agent.text("drill"));
    let all = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let command = std::fs::read(entry.ok()?.path().join("cmdline")).ok()?;
        Some(String::from_utf8_lossy(&command).replace('\0', " "))
    });
    all.filter(|line| line.contains(&below) && !line.contains("farshore drill")).collect()
}

#[test]
fn a_row_without_its_object_fails_the_drill_with_evidence() {
    let protected = Protected::new(Server::Eighteen);
    let agent = &protected.agent;
    agent.init();
    protected.delete_object("files/17");
    agent.backup();
    let drilled = agent.operator(["drill", "policy.toml", "--json"]).ends_with(10).json();
    assert_eq!(drilled["verdict"], "failed");
    assert!(drilled["checks"].to_string().contains("1 missing: files/17"), "{drilled}");
    let text = agent.operator(["drill", "policy.toml"]).ends_with(10).stdout;
    assert!(text.contains("files/17") && text.contains("Evidence: s3://"), "{text}");
    let site = protected.store("site");
    let evidence = protected.runtime.block_on(site.list("evidence/", None, 10)).unwrap().objects;
    assert_eq!(evidence.len(), 2, "a failed drill leaves evidence, too");
    let points = agent.run(["points", "policy.toml", "--json"]).succeeds().json();
    assert!(points[0]["verified"].is_null());
    assert_no_scratch(agent);
}

#[test]
fn a_drill_that_is_terminated_leaves_no_server_and_no_directory() {
    use rustix::process::{Pid, Signal, kill_process};
    use std::process::Stdio;
    let protected = Protected::new(Server::Fifteen);
    let agent = &protected.agent;
    agent.init();
    agent.backup();
    // While the cluster is being made, while it starts, and while it is in use.
    for moment in ["initdb", "postgres -D", "postgres: "] {
        let mut command = agent.command(["drill", "policy.toml", "--identity", "operator.txt"]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let started = std::time::Instant::now();
        let at_it = || match moment {
            // Its own processes do not name the directory; a server that has them takes connections.
            "postgres: " => files(&agent.path("drill")).iter().any(|name| name.ends_with("postmaster.pid")),
            program => scratch_servers(agent).iter().any(|line| line.contains(program)),
        };
        while !at_it() {
            assert!(started.elapsed().as_secs() < 30 && child.try_wait().unwrap().is_none(), "{moment} was not seen");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(143), "{moment}");
        assert_no_scratch(agent);
    }
    agent.operator(["drill", "policy.toml"]).succeeds();
}
