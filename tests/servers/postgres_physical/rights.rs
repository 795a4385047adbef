//! What a role must be allowed, and what it need not.

use std::{collections::BTreeSet, sync::Arc};

use farshore::{
    progress::Tally,
    sources::{
        Captured, SourceError,
        postgres::{
            PostgresConfig,
            physical::{Follower, Held, ReadBy, Segment},
        },
    },
};

use super::cluster::{Cluster, ROLE, role_of_runbook};
use crate::{postgres::Server, support::database_exchange::Exchange};

/// Every function is called over SQL: where the files are at hand few of them are.
async fn capture(cluster: &Cluster, exchange: &Exchange) -> Result<Captured, SourceError> {
    exchange.capture(&cluster.source_read_by("postgres", ReadBy::Sql), 2).await
}

/// The statements that a refusal says to be enough.
async fn refused(cluster: &Cluster) -> Vec<String> {
    let exchange = Exchange::default();
    let error = capture(cluster, &exchange).await.unwrap_err();
    assert!(matches!(error, SourceError::Denied { .. }), "{error:?}");
    assert!(exchange.all_entries().is_empty());
    let said = error.to_string();
    let (_, statements) = said.split_once("run: ").unwrap();
    statements.split(';').map(|one| one.trim().to_owned()).filter(|one| !one.is_empty()).collect()
}

/// Functions that a text grants.
fn functions(text: &str) -> BTreeSet<String> {
    let granted = text.split("ON FUNCTION").skip(1).flat_map(|rest| {
        let all = rest.split(" TO ").next().unwrap().replace("pg_catalog.", "");
        all.split_inclusive(')').map(|one| one.trim_matches([',', ' ']).to_owned()).collect::<Vec<_>>()
    });
    granted.filter(|one| one.contains('(')).collect()
}

fn cluster(server: Server) -> Cluster {
    let settings: &[&str] = if server.summarises() { &["summarize_wal=on"] } else { &[] };
    Cluster::new(server, settings)
}

pub(super) async fn is_refused_and_then_not(server: Server) {
    let cluster = cluster(server);
    cluster.psql("postgres", &format!("CREATE ROLE {ROLE} LOGIN"));
    let statements = refused(&cluster).await;
    let all = statements.join("; ");
    assert!(all.contains("REPLICATION") && all.contains("GRANT pg_monitor"), "{all}");
    assert_eq!(functions(&all), functions(&role_of_runbook(server)), "the runbook grants what is asked for");
    cluster.psql("postgres", &all);
    capture(&cluster, &Exchange::default()).await.unwrap();
    assert_eq!(cluster.psql("postgres", "SELECT count(*) FROM pg_replication_slots"), "0", "the slot goes away with the backup");

    // Each by itself: without it nothing is begun, and it is all that is said to be missing.
    for statement in &statements {
        let taken = match statement.strip_prefix("ALTER ROLE ") {
            Some(_) => format!("ALTER ROLE {ROLE} NOREPLICATION"),
            None => statement.replace("GRANT", "REVOKE").replace(" TO ", " FROM "),
        };
        cluster.psql("postgres", &taken);
        assert_eq!(refused(&cluster).await, [statement.as_str()], "{taken}");
        cluster.psql("postgres", statement);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_of_15_that_lacks_rights_is_refused_with_statements_that_are_enough() {
    is_refused_and_then_not(Server::Fifteen).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_of_17_that_lacks_rights_is_refused_with_statements_that_are_enough() {
    is_refused_and_then_not(Server::Seventeen).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_of_18_that_lacks_rights_is_refused_with_statements_that_are_enough() {
    is_refused_and_then_not(Server::Eighteen).await;
}

/// All that `wal receive` asks a server for.
async fn receives(cluster: &Cluster) {
    let config = PostgresConfig::parse(&cluster.role_url("postgres"), None).unwrap();
    let follower = Follower::connect(&config, "rights".to_owned()).await.unwrap();
    follower.hold().await.unwrap();
    let (stand, layout) = (follower.stand().await.unwrap(), follower.layout());
    assert!(matches!(follower.slot().await.unwrap().held, Held::From(_)));
    let segment = Segment { number: layout.segment_before(stand.end), timeline: stand.timeline };
    let name = layout.name(segment);
    let files = follower.files().await.unwrap();
    assert!(files.contains(&name), "{name}: {files:?}");
    follower.histories(&files).await.unwrap();
    let (mut bytes, mut check) = (Vec::new(), layout.check(segment, 1, stand.end));
    let to = stand.end.0 - segment.number * layout.segment_bytes;
    // A part by one statement, the rest by rows.
    for part in [to.min(8192), to] {
        assert!(follower.read(&name, &mut bytes, &mut check, part).await.unwrap(), "{name}");
    }
    assert_eq!(bytes.len() as u64, to);
    follower.advance(stand.end).await.unwrap();
    follower.drop_slot().await.unwrap();
    assert_eq!(follower.slot().await.unwrap().held, Held::Nothing);
}

pub(super) async fn what_the_runbook_grants_is_enough(server: Server) {
    let cluster = cluster(server);
    cluster.make_role("postgres");
    cluster
        .psql("postgres", "CREATE TABLE rows AS SELECT n AS id, repeat('x', 500) AS words FROM generate_series(1, 9000) n; VACUUM");
    let (first, observer) = (Exchange::default(), Tally::alone());
    let source = cluster.source_read_by("postgres", ReadBy::Sql);
    let captured = first.capture_watched(&source, 2, observer.clone()).await.unwrap();
    assert!(observer.problems().is_empty(), "{:?}", observer.problems());
    assert_eq!(captured.facts["read_by"], "sql");
    cluster.psql("postgres", "UPDATE rows SET words = 'y' WHERE id % 3000 = 0; CHECKPOINT");
    let next = capture(&cluster, &first.following(&captured.facts)).await.unwrap();
    let is_built_on = next.facts["built_on"] == captured.facts["start_lsn"];
    assert_eq!(is_built_on, server.summarises(), "summaries are read: {}", next.facts["reading"]);
    receives(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_runbook_grants_is_enough_on_15() {
    what_the_runbook_grants_is_enough(Server::Fifteen).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_runbook_grants_is_enough_on_17() {
    what_the_runbook_grants_is_enough(Server::Seventeen).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_runbook_grants_is_enough_on_18() {
    what_the_runbook_grants_is_enough(Server::Eighteen).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn configuration_outside_of_the_data_directory_is_captured_or_told_to_be_missing() {
    let mut cluster = Cluster::new(Server::Fifteen, &[]);
    cluster.make_role("postgres");
    cluster.stop(true);
    cluster.make("etc");
    for name in ["postgresql.conf", "pg_hba.conf"] {
        let text = std::fs::read_to_string(cluster.data().join(name)).unwrap();
        std::fs::remove_file(cluster.data().join(name)).unwrap();
        cluster.write(&format!("etc/{name}"), text.as_bytes());
    }
    cluster.write("etc/more.conf", b"work_mem = '5MB'\n");
    let main = format!("hba_file = '{0}/pg_hba.conf'\ninclude '{0}/more.conf'\n", cluster.path("etc").display());
    cluster.write("etc/postgresql.conf", main.as_bytes());
    cluster.set(format!("config_file={}", cluster_path(&cluster, "etc/postgresql.conf")));
    cluster.start();
    let names = |exchange: &Exchange| -> Vec<String> {
        let paths = exchange.all_entries().into_iter().map(|entry| entry.display_path());
        paths.filter(|path| path.starts_with("config/")).map(|path| path.rsplit('/').next().unwrap().to_owned()).collect()
    };
    let observer = Tally::alone();
    let exchange = Exchange::default();
    exchange.capture_watched(&cluster.source("postgres"), 1, observer.clone()).await.unwrap();
    assert!(names(&exchange).is_empty());
    let problems = observer.problems();
    assert_eq!(problems.len(), 3, "{problems:?}");
    assert!(format!("{problems:?}").contains("GRANT pg_read_server_files"), "{problems:?}");
    cluster.psql("postgres", &format!("GRANT pg_read_server_files TO {ROLE}"));
    let observer = Tally::alone();
    let exchange = Arc::new(Exchange::default());
    exchange.capture_watched(&cluster.source("postgres"), 1, observer.clone()).await.unwrap();
    assert_eq!(names(&exchange), ["more.conf", "pg_hba.conf", "postgresql.conf"]);
    assert!(observer.problems().is_empty(), "{:?}", observer.problems());
    let more = cluster_path(&cluster, "etc/more.conf");
    assert_eq!(exchange.bytes(&format!("config{more}")), b"work_mem = '5MB'\n");
}

fn cluster_path(cluster: &Cluster, name: &str) -> String {
    cluster.path(name).to_str().unwrap().to_owned()
}
