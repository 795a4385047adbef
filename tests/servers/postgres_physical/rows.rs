//! What a drill counts in a recovered cluster.

use std::time::Duration;

use farshore::{
    clock::SystemClock,
    progress::{SharedObserver, Tally},
    sources::postgres::{
        PostgresConfig,
        physical::{Counted, RowCount},
    },
};
use serde_json::{Value, json};

use super::{cluster::Cluster, drill::agent};
use crate::postgres::Server;

/// Tables of every kind, and how many rows each has.
const TABLES: &str = "CREATE TABLE plain AS SELECT generate_series(1, 1000) AS id; CREATE TABLE emptied AS SELECT generate_series(1, 70) AS id; \
    CREATE TABLE \"Dropped one\" AS SELECT generate_series(1, 60) AS id; CREATE TABLE none (id int); \
    CREATE UNLOGGED TABLE unlogged AS SELECT generate_series(1, 500) AS id; CREATE TABLE parent AS SELECT generate_series(1, 5) AS id; \
    CREATE TABLE child () INHERITS (parent); INSERT INTO child VALUES (1), (2), (3); \
    CREATE TABLE parted (id int) PARTITION BY RANGE (id); CREATE TABLE parted_low PARTITION OF parted FOR VALUES FROM (0) TO (100); \
    CREATE TABLE parted_high PARTITION OF parted FOR VALUES FROM (100) TO (1000); INSERT INTO parted SELECT generate_series(1, 300); \
    CREATE MATERIALIZED VIEW viewed AS SELECT id FROM plain WHERE id <= 40; CREATE MATERIALIZED VIEW not_yet AS SELECT 1 WITH NO DATA; \
    CREATE VIEW seen AS SELECT id FROM plain";

fn counted_in<'a>(drilled: &'a Value, database: &str) -> &'a Value {
    let rows = drilled["sources"][0]["rows"].as_array().unwrap_or_else(|| panic!("{drilled:#}"));
    rows.iter().find(|rows| rows["database"] == database).unwrap_or(&Value::Null)
}

fn check<'a>(drilled: &'a Value, name: &str) -> &'a Value {
    let checks = drilled["sources"][0]["checks"].as_array().unwrap();
    let found = checks.iter().find(|check| check["name"].as_str().is_some_and(|known| known.starts_with(name)));
    found.unwrap_or_else(|| panic!("{name}: {checks:#?}"))
}

#[test]
fn a_drill_counts_the_rows_of_each_database_and_says_what_had_some_in_the_drill_before() {
    let cluster = Cluster::new(Server::Eighteen, &["autovacuum=off"]);
    cluster.psql("postgres", "CREATE DATABASE app; CREATE DATABASE other; CREATE DATABASE short");
    cluster.make_role("app");
    cluster.psql("app", TABLES);
    cluster.psql("other", "CREATE TABLE a AS SELECT generate_series(1, 12) AS id");
    cluster.psql("short", "CREATE TABLE a AS SELECT generate_series(1, 3) AS id");
    let agent = agent(&cluster, "");
    agent.init();
    agent.backup();
    let drill = ["drill", "policy.toml", "--identity", "operator.txt", "--json"];
    let first = agent.run(drill).succeeds().json();
    let table = |table: &str, rows: u64| json!({ "table": table, "rows": rows });
    assert_eq!(
        counted_in(&first, "app"),
        &json!({ "database": "app", "tables": 9, "rows": 1478, "uncounted": 0, "largest": [
            table("public.plain", 1000), table("public.parted_high", 201), table("public.parted_low", 99), table("public.emptied", 70),
            table("public.\"Dropped one\"", 60), table("public.viewed", 40), table("public.parent", 5), table("public.child", 3),
        ] })
    );
    assert_eq!(counted_in(&first, "other")["rows"], 12);
    let said = check(&first, "rows of database app");
    assert_eq!(said["outcome"], "passed");
    assert!(
        said["actual"].as_str().unwrap().starts_with("1,478 rows in 9 tables: public.plain 1,000, public.parted_high 201"),
        "{said}"
    );
    assert!(!first.to_string().contains("rows since"), "there is nothing to compare with");

    // What is emptied and dropped then is said.
    cluster.psql("app", "TRUNCATE emptied; DROP TABLE \"Dropped one\"; DELETE FROM plain WHERE id > 1");
    cluster.psql("other", "TRUNCATE a");
    cluster.psql("postgres", "DROP DATABASE short");
    agent.backup();
    let second = agent.run(drill).ends_with(4).json();
    assert_eq!(second["verdict"], "passed", "somebody may have meant it");
    let said = check(&second, "rows since the drill of ");
    assert_eq!(said["outcome"], "note");
    assert_eq!(
        said["actual"].as_str().unwrap().split("; ").collect::<std::collections::BTreeSet<_>>(),
        [
            "database other has no rows",
            "database short is gone, or lets nobody in",
            "public.\"Dropped one\" of database app is gone (had 60 rows)",
            "public.emptied of database app is empty (had 70 rows)",
        ]
        .into()
    );
    let problems: Vec<&str> = second["problems"].as_array().unwrap().iter().map(|one| one["subject"].as_str().unwrap()).collect();
    assert_eq!(
        (problems.len(), problems.contains(&"db: database other"), problems.contains(&"db: database short")),
        (2, true, true)
    );
    assert_eq!(counted_in(&second, "app")["largest"][0], table("public.parted_high", 201));
    // It is said once.
    let third = agent.run(drill).succeeds().json();
    let said = check(&third, "rows since the drill of ");
    assert_eq!(
        (&said["outcome"], &said["actual"]),
        (&json!("passed"), &json!("rows in each of the 6 largest tables of that drill"))
    );
}

async fn count(cluster: &Cluster, within: Duration) -> Vec<Counted> {
    let config = PostgresConfig::parse(&cluster.url("postgres"), None).unwrap();
    let (clock, observer): (_, SharedObserver) = (SystemClock::shared(), Tally::alone());
    RowCount { config: &config, within, clock: &clock, observer: &observer, earlier: &[] }.count().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counting_ends_in_time_with_the_largest_tables_left_and_named() {
    let cluster = Cluster::new(Server::Fifteen, &["autovacuum=off"]);
    cluster.psql("postgres", "CREATE DATABASE app");
    // More than are listed at once, and two that are larger.
    let many = "CREATE TABLE big AS SELECT generate_series(1, 20000) AS id; CREATE TABLE bigger AS SELECT generate_series(1, 40000) AS id; \
                SELECT 'CREATE TABLE t' || n || ' AS SELECT 1 AS id' FROM generate_series(1, 600) AS n \\gexec";
    let mut make = cluster.psql_command("app", "");
    make.stdin(std::process::Stdio::piped());
    let mut making = make.spawn().unwrap();
    std::io::Write::write_all(&mut making.stdin.take().unwrap(), many.as_bytes()).unwrap();
    assert!(making.wait().unwrap().success());
    let app = |all: Vec<Counted>| all.into_iter().find(|counted| counted.rows.database == "app").unwrap();

    let all = app(count(&cluster, Duration::from_secs(60)).await);
    assert_eq!((all.rows.tables, all.rows.rows, all.rows.uncounted), (602, 60_600, 0));
    assert_eq!((all.rows.largest.len(), all.rows.largest[0].table.as_str()), (50, "public.bigger"));

    // Held by somebody who will not be done, the second largest takes all the time there is.
    let mut holding = cluster.psql_command("app", "BEGIN; LOCK TABLE big; SELECT pg_sleep(60)").spawn().unwrap();
    while cluster.psql("app", "SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND granted") != "1" {
        std::thread::sleep(Duration::from_millis(10));
    }
    let some = app(count(&cluster, Duration::from_millis(4500)).await);
    holding.kill().unwrap();
    holding.wait().unwrap();
    assert_eq!((some.rows.tables, some.rows.rows, some.rows.uncounted), (600, 600, 2), "{some:?}");
    assert_eq!((some.late, some.largest_late.as_slice()), (2, &["public.big".to_owned(), "public.bigger".to_owned()][..]));
    assert!(some.is_listed && some.failed == 0);

    let none = app(count(&cluster, Duration::ZERO).await);
    assert_eq!((none.rows.tables, none.late, none.is_listed), (0, 602, true));
    assert_eq!(none.largest_late.last().unwrap(), "public.bigger");
}
