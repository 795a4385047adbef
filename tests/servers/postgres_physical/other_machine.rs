//! A restored cluster on a machine that is not as the captured one was: libraries, extensions and collations; and what no restore brings.

use std::{os::unix::fs::symlink, process::Command};

use farshore::report::ExitCode;
use serde_json::Value;

use super::{
    cluster::{Cluster, as_postgres},
    drill::agent,
};
use crate::{
    postgres::{Server, run},
    support::agent::{Agent, Outcome},
};

const LIBRARIES: &str = "libraries that the cluster loads";
const EXTENSIONS: &str = "extensions of all databases";
const COLLATIONS: &str = "versions of collations";
const UNLOGGED: &str = "unlogged tables";

fn drill(agent: &Agent) -> Outcome {
    agent.run(["drill", "policy.toml", "--identity", "operator.txt", "--json"])
}

fn restored(agent: &Agent, cluster: &Cluster, to: &str) -> Outcome {
    let (to, bin) = (agent.text(to), cluster.server.bin().display().to_string());
    agent.operator([
        "restore",
        "policy.toml",
        "latest",
        "--source",
        "db",
        "--to",
        &to,
        "--bin-directory",
        &bin,
        "--start",
        "--json",
    ])
}

/// The checks of the cluster.
fn checks(report: &Value) -> &Vec<Value> {
    report["sources"][0]["checks"].as_array().unwrap_or_else(|| panic!("{report:#}"))
}

/// Outcome and words of one of them.
fn check<'a>(report: &'a Value, name: &str) -> (&'a str, &'a str) {
    let found: Vec<_> = checks(report).iter().filter(|check| check["name"] == name).collect();
    assert_eq!(found.len(), 1, "{name}: {report:#}");
    (found[0]["outcome"].as_str().unwrap(), found[0]["actual"].as_str().unwrap())
}

fn failed(report: &Value) -> Vec<&str> {
    let failed = checks(report).iter().filter(|check| check["outcome"] == "failed");
    failed.map(|check| check["name"].as_str().unwrap()).collect()
}

fn lacks(server: Server) {
    let cluster = Cluster::new(server, &["autovacuum=off"]);
    cluster.psql("postgres", "CREATE DATABASE app; CREATE UNLOGGED TABLE fleeting AS SELECT 1 AS id");
    cluster.make_role("app");
    cluster.psql(
        "app",
        "CREATE TABLE rows AS SELECT generate_series(1, 1000) AS id; CREATE UNLOGGED TABLE \"too fleeting\" AS SELECT 1 AS id; \
         CREATE EXTENSION hstore; CREATE EXTENSION citext; \
         UPDATE pg_proc SET probin = '$libdir/left_behind' WHERE proname = 'hstore_version_diag'; \
         UPDATE pg_extension SET extname = 'left_behind' WHERE extname = 'citext'; \
         UPDATE pg_extension SET extversion = '0.9' WHERE extname = 'hstore'; \
         ALTER SYSTEM SET shared_preload_libraries = 'waits_for_a_start'; \
         ALTER DATABASE app SET session_preload_libraries = 'auto_explain'; CREATE TABLE fired (what text)",
    );
    let mut trigger = cluster.program("psql");
    trigger.args(["-XAtq", "-d", "app", "-c"]).arg(
        "CREATE FUNCTION fire() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO public.fired VALUES (tg_tag); END'; \
         CREATE EVENT TRIGGER fires ON ddl_command_end EXECUTE FUNCTION fire()",
    );
    run(trigger);
    cluster.psql("app", "ALTER ROLE postgres IN DATABASE app SET local_preload_libraries = 'nowhere'");
    let query = "SELECT count(*) || ', fired: ' || (SELECT count(*) FROM fired) FROM rows";
    let probe = &format!("[[drill.probe]]\nsource = \"db\"\nquery = \"{query}\"\nexpect = \"1000, fired: 0\"\n");
    let agent = agent(&cluster, probe);
    agent.init();
    agent.backup();

    // Though connecting would fail by the captured settings, the drill does all that it does, and fails by what is missing.
    let report = drill(&agent).ends_with(ExitCode::Failed.code().into()).json();
    assert_eq!(failed(&report), [LIBRARIES, EXTENSIONS], "{report:#}");
    assert_eq!(report["failure"], Value::Null, "{report:#}");
    assert!(report["checks"].to_string().contains("\"actual\":\"1000, fired: 0\""), "{report:#}");
    let file = cluster.data().join("postgresql.auto.conf").display().to_string();
    let library = |report: &Value| {
        let (_, said) = check(report, LIBRARIES);
        for missing in [
            "$libdir/left_behind (1 functions of database app, as public.hstore_version_diag)",
            "$libdir/plugins/nowhere (ALTER ROLE \"postgres\" IN DATABASE \"app\" SET local_preload_libraries)",
            &format!("waits_for_a_start (shared_preload_libraries in {file})"),
            "install the packages that have them in /",
        ] {
            assert!(said.contains(missing), "{missing}: {said}");
        }
        assert!(!said.contains("auto_explain") && !said.contains("plpgsql"), "they are there: {said}");
        let (_, said) = check(report, EXTENSIONS);
        assert!(said.contains("missing: left_behind 1.") && said.contains("hstore 0.9 of database app, 1."), "{said}");
        let (outcome, said) = check(report, UNLOGGED);
        assert_eq!(outcome, "note");
        let named = "public.\"too fleeting\" of database app; public.fleeting of database postgres came back empty";
        assert!(said.contains(named), "{said}");
        assert!(!checks(report).iter().any(|check| check["name"] == "unlogged relations"), "named, not only counted: {report:#}");
    };
    library(&report);
    assert_eq!(check(&report, COLLATIONS).0, "passed");

    // A server that is restored says the same, and what came of it.
    let report = restored(&agent, &cluster, "restored").ends_with(ExitCode::Failed.code().into()).json();
    assert_eq!(failed(&report), [LIBRARIES, EXTENSIONS, "server started"], "{report:#}");
    library(&report);
    let (_, said) = check(&report, "server started");
    assert!(said.contains("waits_for_a_start"), "{said}");
}

#[test]
fn what_a_machine_lacks_for_a_15_is_named_by_a_drill_and_by_a_restore() {
    lacks(Server::Fifteen);
}

#[test]
fn what_a_machine_lacks_for_a_17_is_named_by_a_drill_and_by_a_restore() {
    lacks(Server::Seventeen);
}

#[test]
fn what_a_machine_lacks_for_an_18_is_named_by_a_drill_and_by_a_restore() {
    lacks(Server::Eighteen);
}

/// A provider of which the server has versions: its clause for a database, and one of its collations.
fn provider(server: Server) -> (&'static str, &'static str) {
    match server {
        Server::Fourteen => panic!("its databases have no collation of their own provider"),
        Server::Fifteen | Server::Sixteen => ("LOCALE_PROVIDER icu ICU_LOCALE 'en'", "\"en-x-icu\""),
        Server::Seventeen | Server::Eighteen => ("LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8'", "pg_c_utf8"),
    }
}

fn sorts_otherwise(server: Server) {
    let (clause, collation) = provider(server);
    let mut cluster = Cluster::new(server, &["autovacuum=off"]);
    cluster.leaves_its_socket();
    cluster.psql("postgres", &format!("CREATE DATABASE app; CREATE DATABASE sorted TEMPLATE template0 {clause}"));
    cluster.make_role("app");
    cluster.psql(
        "app",
        &format!(
            "CREATE COLLATION app_order FROM {collation}; CREATE TABLE words (word text COLLATE app_order, plain text PRIMARY KEY); INSERT INTO words SELECT n, n FROM generate_series(1, 500) n; \
             CREATE INDEX by_word ON words (word); CREATE INDEX by_part ON words ((length(plain)), (plain > 'm' COLLATE app_order)); \
             CREATE TABLE parts (word text COLLATE app_order) PARTITION BY RANGE (word); \
             UPDATE pg_collation SET collversion = 'another' WHERE collname = 'app_order'"
        ),
    );
    // More than are named one by one.
    let tables: String = (0..12).map(|number| format!("CREATE TABLE t{number} (word text PRIMARY KEY);")).collect();
    cluster.psql("sorted", &tables);
    cluster.psql("sorted", "UPDATE pg_database SET datcollversion = 'another' WHERE datname = 'sorted'");
    let agent = agent(&cluster, "");
    agent.init();
    agent.backup();

    let told = |report: &Value| {
        let (_, said) = check(report, COLLATIONS);
        let problems = report["sources"][0]["problems"].as_array().unwrap().clone();
        assert_eq!(problems.len(), 2, "{report:#}");
        for words in [
            "2 indexes (public.by_part, public.by_word) and 1 partitioned tables (public.parts) of database app were built by collation public.app_order, of version another",
            "REINDEX INDEX public.by_part; REINDEX INDEX public.by_word; ALTER COLLATION public.app_order REFRESH VERSION; and load the partitioned tables anew",
            "12 indexes (public.t0_pkey, ",
            "of database sorted were built by the database's own collation, ",
            "REINDEX DATABASE \"sorted\"; ALTER DATABASE \"sorted\" REFRESH COLLATION VERSION",
        ] {
            assert!(said.contains(words), "{words}: {said}");
            let is_problem = problems.iter().any(|problem| problem["message"].as_str().unwrap().contains(words));
            assert!(is_problem, "{words}: {problems:?}");
        }
        assert!(!said.contains("words_pkey"), "sorted by the numbers of characters: {said}");
    };
    // pg_amcheck shows that all is in order all the same: the drill passes, with a problem for whoever reads it.
    let report = drill(&agent).ends_with(ExitCode::Problems.code().into()).json();
    told(&report);
    let (outcome, said) = check(&report, COLLATIONS);
    assert!(outcome == "note" && said.contains("in order here all the same"), "{said}");
    // Without it nobody knows.
    let policy = std::fs::read_to_string(agent.path("policy.toml")).unwrap();
    let bin = cluster.server.bin();
    std::fs::create_dir(agent.path("bin")).unwrap();
    symlink(bin.join("postgres"), agent.path("bin/postgres")).unwrap();
    std::fs::write(agent.path("policy.toml"), policy.replace(bin.to_str().unwrap(), &agent.text("bin"))).unwrap();
    let report = drill(&agent).ends_with(ExitCode::Failed.code().into()).json();
    assert_eq!(failed(&report), [COLLATIONS], "{report:#}");
    told(&report);

    // What a restore says is enough to mend it.
    cluster.stop(true);
    let report = restored(&agent, &cluster, "restored").ends_with(ExitCode::Problems.code().into()).json();
    told(&report);
    assert_eq!(check(&report, COLLATIONS).0, "note");
    let differ = "SELECT (SELECT count(*) FROM pg_collation WHERE collversion <> pg_collation_actual_version(oid)), \
                  (SELECT count(*) FROM pg_database WHERE datcollversion <> pg_database_collation_actual_version(oid))";
    assert_eq!([cluster.psql("app", differ), cluster.psql("sorted", differ)], ["1|1", "0|1"]);
    for problem in report["sources"][0]["problems"].as_array().unwrap() {
        let database = problem["subject"].as_str().unwrap().strip_prefix("database ").unwrap();
        let (_, statements) = problem["message"].as_str().unwrap().split_once("in that database: ").unwrap();
        for statement in statements.split("; ").filter(|statement| !statement.starts_with("and ")) {
            cluster.psql(database, statement);
        }
    }
    assert_eq!([cluster.psql("app", differ), cluster.psql("sorted", differ)], ["0|0", "0|0"]);
    let mut stop: Command = as_postgres(bin.join("pg_ctl"));
    stop.args(["stop", "--wait", "-m", "immediate", "-D"]).arg(agent.path("restored"));
    run(stop);
}

#[test]
fn indexes_of_a_15_that_another_version_of_a_collation_built_are_named_with_what_mends_them() {
    sorts_otherwise(Server::Fifteen);
}

#[test]
fn indexes_of_a_17_that_another_version_of_a_collation_built_are_named_with_what_mends_them() {
    sorts_otherwise(Server::Seventeen);
}

#[test]
fn indexes_of_an_18_that_another_version_of_a_collation_built_are_named_with_what_mends_them() {
    sorts_otherwise(Server::Eighteen);
}
