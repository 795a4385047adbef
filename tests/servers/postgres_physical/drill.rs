//! A cluster under a policy, by the program itself: backup, restore, drill.

use clap::Parser;

use super::cluster::Cluster;
use crate::{
    postgres::{Server, run},
    support::agent::Agent,
};

/// An agent whose policy captures the cluster.
pub fn agent(cluster: &Cluster, more: &str) -> Agent {
    let agent = Agent::new("");
    // Scratch clusters run as another user when the tests run as root.
    use std::os::unix::fs::PermissionsExt;
    for directory in ["", "drill"] {
        std::fs::set_permissions(agent.path(directory), std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let source = format!(
        "[[source]]\nname = \"db\"\nkind = \"postgres\"\nmethod = \"physical\"\nurl = \"{}\"\nbin_directory = \"{}\"\n",
        cluster.role_url("app"),
        cluster.server.bin().display()
    );
    let site = format!("[[site]]\nname = \"far\"\nstore = {{ kind = \"filesystem\", path = \"{}\" }}\n", agent.text("site"));
    agent.write_policy_with(&source, &site, &format!("{}\n{more}", agent.drill_table()));
    agent
}

/// Libraries that are loaded by settings of the database and the role, settings that one of them has, and processes of logical replication.
const APART: &str = "SELECT concat_ws('|', current_setting('session_preload_libraries'), current_setting('local_preload_libraries'), \
                     (SELECT count(*) FROM pg_settings WHERE name LIKE 'auto_explain.%'), \
                     (SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'logical replication%'))";

/// From now on the agent reads the cluster's files this way: `sql`, `files`.
pub fn reading_by(agent: &Agent, read_by: &str) {
    let policy = std::fs::read_to_string(agent.path("policy.toml")).unwrap();
    let lines = policy.lines().filter(|line| !line.starts_with("read_by = "));
    let with = |line: &str| match line.starts_with("method = ") {
        true => format!("{line}\nread_by = \"{read_by}\"\n"),
        false => format!("{line}\n"),
    };
    std::fs::write(agent.path("policy.toml"), lines.map(with).collect::<String>()).unwrap();
}

#[test]
fn a_cluster_is_backed_up_restored_and_drilled_apart_from_production() {
    // Production archives, loads libraries that the drill must do without, and is to follow another server.
    let settings = ["autovacuum=off", "archive_mode=on", "summarize_wal=on", "max_logical_replication_workers=0"];
    let mut cluster = Cluster::new(Server::Eighteen, &settings);
    let archive = cluster.make("archive");
    let command = format!("cp %p {}/%f", archive.display());
    let fast = cluster.make("fast");
    cluster.psql(
        "postgres",
        &format!(
            "ALTER SYSTEM SET archive_command = '{command}'; ALTER SYSTEM SET shared_preload_libraries = 'auto_explain'; \
             CREATE TABLESPACE fast LOCATION '{}'; CREATE DATABASE app",
            fast.display()
        ),
    );
    cluster.make_role("app");
    cluster.psql(
        "app",
        "CREATE TABLE moved TABLESPACE fast AS SELECT generate_series(1, 1000) AS id; CREATE INDEX by_id ON moved (id); \
         CREATE SUBSCRIPTION far CONNECTION 'host=/nowhere dbname=app' PUBLICATION all_tables WITH (connect = false); \
         ALTER SUBSCRIPTION far ENABLE; ALTER DATABASE app SET session_preload_libraries = 'auto_explain'",
    );
    cluster.stop(true);
    cluster.start();
    assert_eq!(cluster.psql("app", APART), "auto_explain||13|0", "what the drill is kept from");
    let probe =
        |query: &str, expect: &str| format!("[[drill.probe]]\nsource = \"db\"\nquery = \"{query}\"\nexpect = \"{expect}\"\n");
    let agent = agent(&cluster, &(probe("SELECT count(*) FROM moved", "1000") + &probe(APART, "||0|0")));
    agent.init();
    agent.backup();
    // What is drilled is a point that has most of its files from the one before.
    cluster.psql(
        "app",
        "VACUUM moved; UPDATE moved SET id = id WHERE id < 10; CREATE TABLE late AS SELECT generate_series(1, 5000) AS id",
    );
    let report = agent.backup();
    let source = &report["sources"][0];
    assert!(source["note"].as_str().unwrap().starts_with("incremental on the backup that began at"), "{source}");
    assert!(source["items_unchanged"].as_u64().unwrap() > 500, "{source}");
    let said = agent.run(["backup", "policy.toml"]).succeeds();
    assert!(said.stdout.contains("db: incremental on"), "{said:?}");
    let shown = agent.operator(["show", "policy.toml", "latest", "--json"]).succeeds();
    assert!(shown.stdout.contains("\"physical\""), "{}", shown.stdout);
    let before = super::cluster::listing(&archive);
    let in_fast = super::cluster::listing(&fast);

    let drilled = agent.run(["drill", "policy.toml", "--identity", "operator.txt", "--json"]).succeeds().json();
    let text = drilled.to_string();
    for words in [
        "log replayed",
        "pg_amcheck",
        "checksums of all pages on disk",
        "pages are right",
        "visibility maps",
        "SELECT count(*) FROM moved",
        "no network",
        "archive_mode=off",
    ] {
        assert!(text.contains(words), "{words} in {text}");
    }
    assert_eq!(super::cluster::listing(&archive), before, "nothing of the drill's was archived");
    assert_eq!(super::cluster::listing(&fast), in_fast);
    assert_eq!(std::fs::read_dir(agent.path("drill")).unwrap().count(), 0, "the drill cleans up");

    // By hand: without a place for the tablespace it says so, and with one it is all there.
    let to = |name: &str| agent.text(name);
    let refused = agent.operator(["restore", "policy.toml", "latest", "--source", "db", "--to", &to("restored/data")]);
    assert_ne!(refused.code, 0);
    assert!(refused.stderr.contains("--tablespace fast="), "{}", refused.stderr);
    let tablespace = format!("fast={}", to("restored/fast"));
    let restore = ["restore", "policy.toml", "latest", "--source", "db", "--to", &to("restored/data"), "--tablespace", &tablespace];
    agent.operator(restore).succeeds();
    assert!(agent.path("restored/data/backup_label").exists() && agent.path("restored/fast").read_dir().unwrap().count() == 1);
    let refused = agent.operator(["restore", "policy.toml", "latest", "--source", "db", "--to", "postgres://x@y/z"]);
    assert!(refused.stderr.contains("a directory"), "{}", refused.stderr);
    agent.run(["key", "sheet", "policy.toml", "--identity", "operator.txt", "--output", "sheet.txt"]).succeeds();
    let sheet = std::fs::read_to_string(agent.path("sheet.txt")).unwrap();
    assert!(sheet.contains("1. A machine that you trust, PostgreSQL 18, with"), "{sheet}");
    let command = sheet.lines().find(|line| line.trim().starts_with("farshore restore ")).unwrap();
    let words = "latest --source db --to /var/lib/postgresql/18/main --tablespace fast=/DIRECTORY --to-latest --start";
    assert!(command.ends_with(words), "{command}");
    farshore::cli::Cli::try_parse_from(command.split_whitespace()).unwrap();

    // A page that is damaged at the source and was not written to is not read: the point has it as it was when it was sound.
    let path = cluster.psql("app", "SELECT pg_relation_filepath('moved')");
    cluster.stop(true);
    cluster.damage(&path, 2, 8000);
    cluster.start();
    agent.backup();
    agent.run(["drill", "policy.toml", "--point", "latest", "--identity", "operator.txt"]).succeeds();
    // Read as a whole, it is found: the backup says so, and a drill of it fails.
    cluster.set("summarize_wal=off".to_owned());
    cluster.stop(true);
    cluster.start();
    let damaged = agent.run(["backup", "policy.toml"]);
    assert_ne!(damaged.code, 0);
    assert!(
        damaged.stderr.contains("block 2 of relation public.moved") || damaged.stdout.contains("block 2 of relation public.moved"),
        "{damaged:?}"
    );
    let drilled = agent.run(["drill", "policy.toml", "--point", "latest", "--identity", "operator.txt"]);
    assert_ne!(drilled.code, 0);
    assert!(
        drilled.stdout.contains("pg_amcheck")
            && drilled.stdout.contains("block 2 of pg_tblspc/")
            && drilled.stdout.contains("invalid page")
            && drilled.stdout.contains("pages with wrong checksums")
            && drilled.stdout.contains("counting the rows of public.moved"),
        "{drilled:?}"
    );
}

#[test]
fn a_drill_is_let_in_by_a_superuser_who_may_log_in_and_ends_with_the_reason_where_there_is_none() {
    let cluster = Cluster::new(Server::Fifteen, &["autovacuum=off"]);
    cluster.psql("postgres", "CREATE DATABASE app");
    cluster.make_role("app");
    let agent = agent(&cluster, "[[drill.probe]]\nsource = \"db\"\nquery = \"SELECT current_user\"\nexpect = \"another\"\n");
    agent.init();
    cluster.psql("app", "CREATE ROLE another LOGIN SUPERUSER; ALTER ROLE postgres NOLOGIN");
    agent.backup();
    agent.run(["drill", "policy.toml", "--identity", "operator.txt"]).succeeds();

    let url = cluster.url("app").replace("postgres://postgres@", "postgres://another@");
    let mut nobody = std::process::Command::new(cluster.server.bin().join("psql"));
    nobody.args(["-XAtq", "-d", &url, "-c", "ALTER ROLE another NOLOGIN"]);
    run(nobody);
    agent.backup();
    let drilled = agent.run(["drill", "policy.toml", "--identity", "operator.txt", "--json"]).ends_with(10).json();
    let said = drilled["failure"].as_str().unwrap();
    for words in ["role \"postgres\" is not permitted to log in", "lets nobody in", "must exist and be allowed to log in"] {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert_eq!(std::fs::read_dir(agent.path("drill")).unwrap().count(), 0, "the drill cleans up");
}
