//! What a role must be allowed, and what it need not.

use std::sync::Arc;

use farshore::{progress::Tally, sources::SourceError};

use super::cluster::{Cluster, ROLE};
use crate::{postgres::Server, support::database_exchange::Exchange};

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_lacks_rights_is_refused_with_statements_that_are_enough() {
    let cluster = Cluster::new(Server::Eighteen, &[]);
    cluster.psql("postgres", &format!("CREATE ROLE {ROLE} LOGIN"));
    let exchange = Exchange::default();
    let error = exchange.capture(&cluster.source("postgres"), 2).await.unwrap_err();
    assert!(matches!(error, SourceError::Denied { .. }), "{error:?}");
    assert!(exchange.all_entries().is_empty());
    let said = error.to_string();
    let statements = said.split_once("run: ").unwrap().1;
    for wanted in ["REPLICATION", "GRANT pg_monitor", "pg_ls_dir", "pg_stat_file", "pg_read_binary_file", "pg_backup_start"] {
        assert!(statements.contains(wanted), "{wanted} in {statements}");
    }
    cluster.psql("postgres", statements);
    Exchange::default().capture(&cluster.source("postgres"), 2).await.unwrap();
    let slots = cluster.psql("postgres", "SELECT count(*) FROM pg_replication_slots");
    assert_eq!(slots, "0", "the slot goes away with the backup");
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
