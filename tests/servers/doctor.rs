//! `farshore doctor` on real servers: what it says to be missing is missing, and what it says mends it does.

use crate::{
    postgres::{Database, Server},
    support::agent::{Agent, Outcome},
};

/// A machine whose policy has one database, and the role as which it is captured.
struct Examined {
    agent: Agent,
    database: Database,
    role: String,
}

impl Examined {
    fn new(on: Server, method: &str) -> Self {
        let (agent, database, role) = (Agent::new(""), on.database(), on.fresh_name("doctor"));
        database.psql(&format!("CREATE ROLE {role} LOGIN"));
        agent.write_policy(&format!(
            "[[source]]\nname = \"db\"\nkind = \"postgres\"\nmethod = \"{method}\"\nurl = \"{}\"\nbin_directory = \"{}\"\n",
            on.url_as(&role, &database.name),
            on.bin().display()
        ));
        agent.init();
        Self { agent, database, role }
    }

    fn doctor(&self) -> Outcome {
        self.agent.run(["doctor", "policy.toml", "--json", "--read-only"])
    }

    /// What fails, and what mends it.
    fn failures(&self) -> Vec<(String, String)> {
        let report = self.doctor().json();
        let findings = report["examined"][0]["findings"].as_array().unwrap().clone();
        let failed = findings.into_iter().filter(|finding| finding["outcome"] == "failed");
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        failed.map(|finding| (text(&finding["name"]), format!("{} {}", text(&finding["found"]), text(&finding["mend"])))).collect()
    }
}

impl Drop for Examined {
    fn drop(&mut self) {
        self.database.psql(&format!("DROP OWNED BY {0}; DROP ROLE {0}", self.role));
    }
}

#[test]
fn a_role_that_cannot_read_every_row_is_told_what_it_lacks_and_then_has_it() {
    let examined = Examined::new(Server::Fifteen, "logical");
    examined
        .database
        .psql("CREATE TABLE closed (id serial); CREATE TABLE rows (id int); ALTER TABLE rows ENABLE ROW LEVEL SECURITY");
    let failures = examined.failures();
    let names: Vec<&str> = failures.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["rights", "row security"], "{failures:?}");
    assert!(failures[0].1.contains("3 tables and sequences cannot be read, public.closed for one"), "{failures:?}");
    for (_, said) in &failures {
        let statement = said.split_once("as a superuser: ").unwrap().1;
        examined.database.psql(statement);
    }
    assert_eq!(examined.failures(), []);
    let report = examined.doctor().succeeds().json();
    let said = report["examined"][0]["findings"].to_string();
    for words in ["PostgreSQL 15.", "not needed on this machine", "pg_dump", "none that shares sessions", "primary"] {
        assert!(said.contains(words), "nothing of {words:?} in {said}");
    }
    examined.agent.backup();
}

#[test]
fn a_role_that_may_not_copy_the_cluster_is_told_what_it_lacks_and_then_has_it() {
    for server in [Server::Fifteen, Server::Eighteen] {
        let examined = Examined::new(server, "physical");
        let failures = examined.failures();
        let names: Vec<&str> = failures.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["rights"], "{failures:?}");
        let (_, statements) = failures[0].1.split_once("run: ").unwrap();
        assert!(statements.contains("pg_backup_stop") && statements.contains("REPLICATION"), "{statements}");
        examined.database.psql(statements);
        assert_eq!(examined.failures(), []);
        let said = examined.doctor().succeeds().json()["examined"][0]["findings"].to_string();
        for words in ["system identifier", "replication slots", "full_page_writes", "page checksums", "/postgres (version"] {
            assert!(said.contains(words), "nothing of {words:?} in {said}");
        }
    }
}

#[test]
fn a_cluster_whose_log_is_wanted_and_not_archived_is_told_until_somebody_receives_it() {
    for server in [Server::Fifteen, Server::Eighteen] {
        let examined = Examined::new(server, "physical");
        examined.database.psql(&format!("GRANT pg_monitor TO {}", examined.role));
        let outcome = |name: &str| {
            let findings = examined.doctor().json()["examined"][0]["findings"].clone();
            let found = findings.as_array().unwrap().iter().find(|finding| finding["name"] == name).cloned().unwrap_or_default();
            format!("{}: {}", found["outcome"].as_str().unwrap_or_default(), found["found"].as_str().unwrap_or_default())
        };
        let unwanted = outcome("log archive");
        assert!(unwanted.starts_with("note: archive_mode = off, and there is no slot farshore_"), "{unwanted}");
        let slot = server.fresh_name("doctor_log");
        let policy = examined.agent.path("policy.toml");
        let text = std::fs::read_to_string(&policy).unwrap();
        let wanted = text.replace("method = \"physical\"\n", &format!("method = \"physical\"\nwal = {{ slot = \"{slot}\" }}\n"));
        std::fs::write(&policy, wanted).unwrap();
        let missing = outcome("log archive");
        assert!(missing.starts_with(&format!("failed: archive_mode = off, and there is no slot {slot}")), "{missing}");
        examined.database.psql(&format!("SELECT pg_create_physical_replication_slot('{slot}')"));
        let (received, held) = (outcome("log archive"), outcome("log slot"));
        examined.database.psql(&format!("SELECT pg_drop_replication_slot('{slot}')"));
        assert_eq!(received, format!("passed: received over the slot {slot}"));
        assert_eq!(held, format!("passed: {slot} may hold 10240 MiB"));
    }
}

#[test]
fn a_server_that_is_not_there_is_said_and_the_rest_is_examined_all_the_same() {
    let agent = Agent::new("");
    agent.write_policy(
        "[[source]]\nname = \"db\"\nkind = \"postgres\"\nurl = \"postgres://app@127.0.0.1:1/app?connect_timeout=2\"\n",
    );
    agent.init();
    let report = agent.run(["doctor", "policy.toml", "--json"]).ends_with(10).json();
    let findings = &report["examined"][0]["findings"];
    assert_eq!((&findings[0]["name"], &findings[0]["outcome"]), (&"connection".into(), &"failed".into()), "{report:#}");
    assert_eq!(report["examined"][1]["subject"], "site far");
}
