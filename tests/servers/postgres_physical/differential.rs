//! A quiet cluster with something of everything, captured once for several tests, and held against what pg_basebackup takes of it.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use farshore::sources::postgres::physical::{PhysicalTarget, PhysicalTargetOptions};
use serde_json::Value;
use tokio::sync::OnceCell;

use super::cluster::{Cluster, directory};
use crate::{
    postgres::{Server, run},
    support::database_exchange::Exchange,
};

/// What lies below a directory, tablespaces among it: bytes, or nothing for a directory.
type Tree = BTreeMap<String, Option<Vec<u8>>>;

/// A captured cluster that is gone.
pub struct Quiet {
    pub exchange: Arc<Exchange>,
    pub facts: Value,
    reference: Tree,
}

/// Names beside PostgreSQL's own, below the data directory; all belong into a backup.
const KEPT: [&str; 6] = [
    "backup_label.old",
    "postmaster.pid.old",
    "notes.d/t3_16384",
    "notes.d/postmaster.pid",
    "notes.d/it's.conf",
    "notes.d/.hidden",
];
/// And these do not.
const LEFT: [&str; 7] = [
    "base/pgsql_tmp/pgsql_tmp42.0",
    "base/1/t3_16384",
    "base/1/t3_16384_fsm.1",
    "base/1/pg_internal.init.4711",
    "pg_replslot/rest",
    "postgresql.auto.conf.tmp",
    "tablespace_map",
];
/// What the two tools differ in: what each writes itself, and what moves on while they run.
const DIFFERENT: [&str; 6] =
    ["backup_label", "backup_manifest", "global/pg_control", "postgresql.auto.conf", "recovery.signal", "tablespace_map"];

/// The capture of a server's version.
pub async fn quiet(server: Server) -> &'static Quiet {
    static FOURTEEN: OnceCell<Quiet> = OnceCell::const_new();
    static FIFTEEN: OnceCell<Quiet> = OnceCell::const_new();
    static SIXTEEN: OnceCell<Quiet> = OnceCell::const_new();
    static SEVENTEEN: OnceCell<Quiet> = OnceCell::const_new();
    static EIGHTEEN: OnceCell<Quiet> = OnceCell::const_new();
    let cell = match server {
        Server::Fourteen => &FOURTEEN,
        Server::Fifteen => &FIFTEEN,
        Server::Sixteen => &SIXTEEN,
        Server::Seventeen => &SEVENTEEN,
        Server::Eighteen => &EIGHTEEN,
    };
    cell.get_or_init(|| make(server)).await
}

async fn make(server: Server) -> Quiet {
    let cluster = Cluster::new(server, &["autovacuum=off"]);
    let fast = cluster.make("fast");
    cluster.psql(
        "postgres",
        &format!("CREATE TABLESPACE fast LOCATION '{}'; CREATE DATABASE app; CREATE DATABASE far TABLESPACE fast", fast.display()),
    );
    cluster.make_role("app");
    cluster.psql(
        "app",
        "CREATE TABLE plain (id int PRIMARY KEY, words text); \
         INSERT INTO plain SELECT n, repeat(md5(n::text), 30) FROM generate_series(1, 3000) n; \
         CREATE TABLE moved (id int) TABLESPACE fast; INSERT INTO moved SELECT generate_series(1, 1000); \
         CREATE UNLOGGED TABLE unlogged (id serial PRIMARY KEY); INSERT INTO unlogged SELECT generate_series(1, 5000); \
         CREATE UNLOGGED TABLE unlogged_moved (id int) TABLESPACE fast; INSERT INTO unlogged_moved SELECT 1; \
         VACUUM FREEZE",
    );
    for name in ["notes.d", "base/pgsql_tmp"] {
        if !cluster.data().join(name).exists() {
            cluster.make(&format!("data/{name}"));
        }
    }
    for name in KEPT.into_iter().chain(LEFT) {
        cluster.write(&format!("data/{name}"), name.as_bytes());
    }
    // Of a tablespace, only this version's directory is the cluster's.
    std::fs::create_dir_all(fast.join("PG_9.6_201608131/5")).unwrap();
    cluster.psql("postgres", "CHECKPOINT");
    let reference = cluster.make("reference");
    let mut basebackup = cluster.program("pg_basebackup");
    basebackup.arg("-D").arg(&reference).args(["-X", "none", "-c", "fast", "--no-sync", "-T"]);
    basebackup.arg(format!("{}={}", fast.display(), cluster.path("reference-fast").display()));
    run(basebackup);
    let reference = tree(&reference);
    let exchange = Arc::new(Exchange::default());
    let captured = exchange.capture(&cluster.source("app"), 2).await.unwrap();
    Quiet { exchange, facts: captured.facts, reference }
}

fn tree(directory: &Path) -> Tree {
    let mut all = Tree::new();
    let mut open = vec![directory.to_owned()];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(directory).unwrap().to_str().unwrap().to_owned();
            // Links are followed.
            if path.is_dir() {
                open.push(path);
                all.insert(name, None);
            } else {
                all.insert(name, Some(std::fs::read(&path).unwrap()));
            }
        }
    }
    all.retain(|name, _| !DIFFERENT.contains(&name.as_str()) && !name.starts_with("pg_wal/"));
    all
}

/// Restores it into `data` below a directory, its tablespace into `fast` there.
pub fn target(quiet: &Quiet, directory: &Path) -> PhysicalTarget {
    assert_eq!(quiet.facts["tablespaces"][0]["name"], "fast");
    let tablespaces = vec![("fast".to_owned(), directory.join("fast"))];
    let options = PhysicalTargetOptions { tablespaces, ..PhysicalTargetOptions::default() };
    PhysicalTarget::new(directory.join("data"), options)
}

pub(super) async fn compare(server: Server) {
    let quiet = quiet(server).await;
    let place = directory();
    quiet.exchange.rebuild(&target(quiet, place.path()), &quiet.facts, false).await.unwrap();
    let restored = tree(&place.path().join("data"));
    let all = restored.keys().chain(quiet.reference.keys());
    // pg_basebackup leaves files of the server's names out in every directory, whosever they are.
    let all = all.filter(|name| *name != "notes.d/postmaster.pid");
    let different: Vec<_> = all.filter(|name| restored.get(*name) != quiet.reference.get(*name)).collect();
    let missing = |tree: &Tree| different.iter().filter(|name| !tree.contains_key(**name)).collect::<Vec<_>>();
    assert!(different.is_empty(), "{different:?}; missing {:?}; more {:?}", missing(&restored), missing(&quiet.reference));
    assert!(restored.len() > 900, "{}", restored.len());
    for name in KEPT {
        assert_eq!(restored[name].as_deref(), Some(name.as_bytes()));
    }
    for name in LEFT {
        assert!(!restored.contains_key(name), "{name}");
    }
    assert!(restored.keys().any(|name| name.starts_with("pg_tblspc/") && name.ends_with("PG_VERSION")));
    assert_eq!(quiet.facts["vanished"], 0);
    assert_eq!(quiet.facts["pages_damaged"], 0);
    assert!(quiet.facts["pages_checked"].as_u64().unwrap() > 2000, "{}", quiet.facts);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_file_is_the_same_as_pg_basebackup_takes_from_15() {
    compare(Server::Fifteen).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_file_is_the_same_as_pg_basebackup_takes_from_17() {
    compare(Server::Seventeen).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_file_is_the_same_as_pg_basebackup_takes_from_18() {
    compare(Server::Eighteen).await;
}
