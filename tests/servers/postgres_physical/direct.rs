//! Files read where they lie, against the same files read over SQL.

use std::os::unix::fs::symlink;

use farshore::sources::{Captured, SourceError, postgres::physical::ReadBy};

use super::incremental::{differences, summarised};
use crate::{postgres::Server, support::database_exchange::Exchange};

async fn capture(cluster: &super::cluster::Cluster, read_by: ReadBy) -> Result<(Exchange, Captured), SourceError> {
    let exchange = Exchange::default();
    let captured = exchange.capture(&cluster.source_read_by("app", read_by), 2).await?;
    Ok((exchange, captured))
}

#[tokio::test(flavor = "multi_thread")]
async fn both_ways_give_the_same_and_what_only_the_server_may_read_it_is_asked_for() {
    let cluster = summarised(Server::Eighteen, &[]);
    cluster.psql(
        "app",
        "CREATE TABLE rows AS SELECT n AS id, repeat('x', 500) AS words FROM generate_series(1, 20000) n; \
         CREATE TABLE moved TABLESPACE fast AS SELECT * FROM rows; VACUUM; CHECKPOINT",
    );
    // A file of the server's that lies elsewhere, as a key or a configuration may.
    cluster.write("key", b"a key that lies elsewhere");
    symlink(cluster.path("key"), cluster.data().join("server.key")).unwrap();
    let (over_sql, sql) = capture(&cluster, ReadBy::Sql).await.unwrap();
    let (from_files, files) = capture(&cluster, ReadBy::Files).await.unwrap();
    assert_eq!(differences(&over_sql, &from_files), Vec::<String>::new());
    assert_eq!(from_files.bytes("data/server.key"), b"a key that lies elsewhere");
    for fact in ["files", "directories", "bytes", "pages_checked"] {
        assert_eq!(sql.facts[fact], files.facts[fact], "{fact}");
    }
    assert_eq!((sql.facts["read_by"].as_str(), files.facts["read_by"].as_str()), (Some("sql"), Some("files")));
    let (_, auto) = capture(&cluster, ReadBy::Auto).await.unwrap();
    assert_eq!(auto.facts["read_by"], "files", "the tests may read what the server may");

    // Whoever may write to the data directory gets no file of somebody else's: the agent may read it, the server may not.
    let secret = cluster.path("secret");
    std::fs::write(&secret, b"not the server's").unwrap();
    std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    symlink(&secret, cluster.data().join("base/1/99999")).unwrap();
    let refused = capture(&cluster, ReadBy::Files).await.map(|(_, captured)| captured.facts);
    let error = refused.unwrap_err().to_string();
    assert!(error.contains("ermission denied") && error.contains("base/1"), "{error}");
}
