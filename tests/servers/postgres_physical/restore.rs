//! Into a data directory, and where not.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use farshore::sources::{
    SourceError,
    postgres::physical::{PhysicalTarget, PhysicalTargetOptions},
};

use super::{
    cluster::Cluster,
    differential::{quiet, target},
};
use crate::{postgres::Server, support::database_exchange::Exchange};

async fn starts(server: Server) {
    let quiet = quiet(server).await;
    let mut cluster = Cluster::unstarted(server, &[]);
    let (rebuilt, problems) = quiet.exchange.rebuild(&target(quiet, &cluster.path("")), &quiet.facts, false).await.unwrap();
    assert!(problems.is_empty(), "{problems:?}");
    let unlogged: Vec<_> = rebuilt.checks.iter().filter(|check| check.name == "unlogged relations").collect();
    // Two tables, a sequence and an index.
    assert!(matches!(unlogged.as_slice(), [check] if check.actual.starts_with("4 come back empty")), "{:?}", rebuilt.checks);
    for path in [cluster.data(), cluster.path("fast"), cluster.data().join("base")] {
        let found = std::fs::metadata(&path).unwrap();
        let around = std::fs::metadata(cluster.path("")).unwrap();
        assert_eq!((found.permissions().mode() & 0o777, found.uid()), (0o700, around.uid()), "{}", path.display());
    }
    let label = std::fs::read(cluster.data().join("backup_label")).unwrap();
    assert_eq!(label, quiet.exchange.bytes("label/backup_label"));
    cluster.start();
    let counted = "SELECT (SELECT count(*) FROM plain), (SELECT count(*) FROM moved), (SELECT count(*) FROM unlogged), \
                   (SELECT count(*) FROM unlogged_moved)";
    assert_eq!(cluster.psql("app", counted), "3000|1000|0|0");
    cluster.psql("far", "CREATE TABLE here (id int)");
    let location = cluster.psql("postgres", "SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'fast'");
    assert_eq!(location, cluster.path("fast").to_str().unwrap());
    // Its log never mixes with what the captured server goes on to write.
    assert_eq!(cluster.psql("postgres", "SELECT timeline_id FROM pg_control_checkpoint()"), "2");
    cluster.amcheck();
    cluster.check_checksums();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_15_starts_with_its_tablespace_elsewhere_and_unlogged_tables_empty() {
    starts(Server::Fifteen).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_18_starts_with_its_tablespace_elsewhere_and_unlogged_tables_empty() {
    starts(Server::Eighteen).await;
}

async fn refusal(target: PhysicalTarget, into_existing: bool) -> String {
    let quiet = quiet(Server::Fifteen).await;
    let error = quiet.exchange.rebuild(&target, &quiet.facts, into_existing).await.unwrap_err();
    assert!(matches!(error, SourceError::UnfitTarget { .. }), "{error:?}");
    error.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_use_is_not_written_to() {
    let place = super::cluster::directory();
    let data = place.path().join("data");
    let to = |tablespaces: &[(&str, std::path::PathBuf)]| {
        let tablespaces = tablespaces.iter().map(|(name, path)| (name.to_string(), path.clone())).collect();
        PhysicalTarget::new(&data, PhysicalTargetOptions { tablespaces, ..PhysicalTargetOptions::default() })
    };
    let fast = place.path().join("fast");
    let said = refusal(to(&[]), false).await;
    assert!(said.contains("--tablespace fast=DIRECTORY"), "a tablespace never goes where production has it by itself: {said}");
    let said = refusal(to(&[("slow", fast.clone())]), false).await;
    assert!(said.contains("no tablespace slow; it has fast"), "{said}");
    let said = refusal(to(&[("fast", "relative".into())]), false).await;
    assert!(said.contains("absolute"), "{said}");
    for inside in [data.clone(), data.join("base/fast"), place.path().to_owned()] {
        let said = refusal(to(&[("fast", inside)]), false).await;
        assert!(said.contains("not apart from"), "{said}");
    }
    std::fs::create_dir(&fast).unwrap();
    std::fs::write(fast.join("somebody's"), "file").unwrap();
    let said = refusal(to(&[("fast", fast.clone())]), false).await;
    assert!(said.contains("not empty"), "{said}");
    assert!(!data.exists(), "a refused restore writes nothing");
    assert_eq!(std::fs::read_dir(&fast).unwrap().count(), 1);
    // A running server's directory, another cluster's, anybody's.
    std::fs::create_dir(&data).unwrap();
    std::fs::write(data.join("postmaster.pid"), "1\n").unwrap();
    let said = refusal(to(&[("fast", place.path().join("other"))]), false).await;
    assert!(said.contains("not empty"), "{said}");
    assert_eq!(std::fs::read_dir(&data).unwrap().count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_was_cut_off_cannot_be_started() {
    let quiet = quiet(Server::Eighteen).await;
    // The log comes last of all that is read.
    let log = quiet.exchange.all_entries().into_iter().rfind(|entry| entry.kind == "wal").unwrap();
    let broken = std::sync::Arc::new(quiet.exchange.copy());
    *broken.broken.lock().unwrap() = Some(log.path);
    let mut cluster = Cluster::unstarted(Server::Eighteen, &[]);
    broken.rebuild(&target(quiet, &cluster.path("")), &quiet.facts, false).await.unwrap_err();
    assert!(cluster.data().join("base").exists() && cluster.data().join("PG_VERSION").exists());
    assert!(!cluster.data().join("global/pg_control").exists());
    assert!(!cluster.try_start());
    assert!(cluster.log().contains("pg_control"), "{}", cluster.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pg_control_that_is_torn_or_of_another_cluster_is_not_restored() {
    let quiet = quiet(Server::Eighteen).await;
    let sound = quiet.exchange.bytes("pg_control");
    for at in [0, 40, 280] {
        let place = super::cluster::directory();
        let mut torn = sound.clone();
        torn[at] ^= 1;
        let exchange = std::sync::Arc::new(quiet.exchange.copy());
        exchange.replace("pg_control", torn);
        let error = exchange.rebuild(&target(quiet, place.path()), &quiet.facts, false).await.unwrap_err();
        assert!(error.to_string().contains("damaged, or another cluster's"), "{error}");
        assert!(!place.path().join("data").exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_point_of_one_database_is_no_cluster() {
    let place = super::cluster::directory();
    let target = PhysicalTarget::new(place.path().join("data"), PhysicalTargetOptions::default());
    let facts = serde_json::json!({ "server_version_num": 150_000 });
    let error = std::sync::Arc::new(Exchange::default()).rebuild(&target, &facts, false).await.unwrap_err();
    assert!(error.to_string().contains("--to postgres://"), "{error}");
}
