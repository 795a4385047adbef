//! A cluster under a policy, by the program itself: backup, restore, drill.

use super::cluster::Cluster;
use crate::{postgres::Server, support::agent::Agent};

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
    // Production archives, and loads a library that the drill must do without.
    let mut cluster = Cluster::new(Server::Eighteen, &["autovacuum=off", "archive_mode=on", "summarize_wal=on"]);
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
        "CREATE TABLE moved TABLESPACE fast AS SELECT generate_series(1, 1000) AS id; CREATE INDEX by_id ON moved (id)",
    );
    cluster.stop(true);
    cluster.start();
    let probe = "[[drill.probe]]\nsource = \"db\"\nquery = \"SELECT count(*) FROM moved\"\nexpect = \"1000\"\n";
    let agent = agent(&cluster, probe);
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
            && drilled.stdout.contains("pages with wrong checksums"),
        "{drilled:?}"
    );
}
