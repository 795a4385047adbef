//! A server whose configuration lies outside of its data directory, as a distribution has it.

use std::fs;

use super::{
    cluster::{Cluster, ROLE, give},
    drill::agent,
};
use crate::postgres::Server;

const CONFIGURATION: [&str; 3] = ["postgresql.conf", "pg_hba.conf", "pg_ident.conf"];

fn is_recovered_and_left(server: Server) {
    let mut cluster = Cluster::new(server, &["autovacuum=off"]);
    let etc = cluster.make("etc");
    cluster.stop(true);
    for name in CONFIGURATION {
        let text = fs::read_to_string(cluster.data().join(name)).unwrap();
        fs::remove_file(cluster.data().join(name)).unwrap();
        let files = format!("hba_file = '{0}/pg_hba.conf'\nident_file = '{0}/pg_ident.conf'\nwork_mem = '7MB'\n", etc.display());
        cluster.write(&format!("etc/{name}"), (text + if name == "postgresql.conf" { &files } else { "" }).as_bytes());
    }
    let config_file = format!("config_file={}/postgresql.conf", etc.display());
    cluster.set(config_file.clone());
    cluster.start();
    cluster.psql("postgres", "CREATE DATABASE app");
    cluster.make_role("app");
    cluster
        .psql("app", &format!("GRANT pg_read_server_files TO {ROLE}; CREATE TABLE rows AS SELECT generate_series(1, 1000) AS id"));
    let agent = agent(&cluster, "");
    agent.init();
    agent.backup();

    let (to, bin) = (agent.text("restored/data"), server.bin().display().to_string());
    let words = ["restore", "policy.toml", "latest", "--source", "db", "--to", &to, "--bin-directory", &bin, "--start", "--json"];
    let report = agent.operator(words).succeeds().json();
    let checks = report["sources"][0]["checks"].as_array().unwrap();
    let check = |name: &str| checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("{name}: {report:#}"));
    let (reached, started) = (check("recovered to"), check("server started"));
    assert_eq!((&reached["outcome"], &started["outcome"]), (&"passed".into(), &"note".into()), "{report:#}");
    let said = started["actual"].as_str().unwrap();
    assert!(said.contains("recovered and stopped") && said.contains("captured-config"), "{said}");
    let data = agent.path("restored/data");
    assert!(!data.join("recovery.signal").exists() && !data.join("postmaster.pid").exists(), "it is recovered, and does not run");
    assert!(!data.join("postgresql.conf").exists(), "nothing is put where the distribution would not look");

    // The machine is gone; what was captured is put back as the report says, and the server starts as it always did.
    drop(cluster.psql("app", "CHECKPOINT"));
    cluster.stop(true);
    let captured = data.join("captured-config").join(etc.strip_prefix("/").unwrap());
    fs::remove_dir_all(&etc).unwrap();
    cluster.make("etc");
    for name in CONFIGURATION {
        fs::copy(captured.join(name), etc.join(name)).unwrap();
        give(&etc.join(name));
    }
    let mut back = Cluster::unstarted(server, &[&config_file]);
    back.elsewhere(data);
    back.start();
    assert_eq!(
        back.psql("app", "SELECT count(*), current_setting('work_mem'), current_setting('archive_mode') FROM rows"),
        "1000|7MB|off"
    );
    assert_eq!(back.psql("app", "SELECT current_setting('restore_command'), timeline_id FROM pg_control_checkpoint()"), "|2");
}

#[test]
fn a_15_whose_configuration_lies_elsewhere_is_recovered_and_starts_when_that_is_put_back() {
    is_recovered_and_left(Server::Fifteen);
}

#[test]
fn an_18_whose_configuration_lies_elsewhere_is_recovered_and_starts_when_that_is_put_back() {
    is_recovered_and_left(Server::Eighteen);
}
