//! Room for a restore whose parts lie on several disks.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use farshore::sources::{
    SourceError,
    postgres::physical::{PhysicalTarget, PhysicalTargetOptions},
};
use serde_json::Value;

use super::{
    cluster::{Cluster, directory},
    full_disk::{Disk, taken},
};
use crate::{
    postgres::Server,
    support::{agent::files, database_exchange::Exchange},
};

/// Files that are made beside those of the point take no more.
const SLACK: u64 = 1 << 20;
const MIB: u64 = 1 << 20;

struct Captured {
    exchange: Arc<Exchange>,
    facts: Value,
}

impl Captured {
    async fn restore(&self, data: &Path, fast: &Path, into_existing: bool) -> Result<(), SourceError> {
        let tablespaces = vec![("fast".to_owned(), fast.to_owned())];
        let options = PhysicalTargetOptions { tablespaces, ..PhysicalTargetOptions::default() };
        self.exchange.rebuild(&PhysicalTarget::new(data, options), &self.facts, into_existing).await.map(|_| ())
    }

    /// What a restore is refused for that has too little room, before it writes anything.
    async fn refusal(&self, data: &Path, fast: &Path) -> String {
        let refused = self.restore(data, fast, false).await;
        let Err(SourceError::UnfitTarget { subject, detail }) = refused else { panic!("{refused:?}") };
        assert!(!data.exists() && !fast.exists(), "{detail}");
        format!("{subject}: {detail}")
    }
}

/// A cluster most of which lies in a tablespace.
async fn captured() -> (Cluster, Captured) {
    let cluster = Cluster::new(Server::Eighteen, &["autovacuum=off"]);
    let fast = cluster.make("fast");
    cluster.psql("postgres", &format!("CREATE TABLESPACE fast LOCATION '{}'", fast.display()));
    cluster.make_role("postgres");
    cluster.psql(
        "postgres",
        "CREATE TABLE moved TABLESPACE fast AS SELECT n AS id, repeat(md5(n::text), 30) AS words FROM generate_series(1, 80000) n; CHECKPOINT",
    );
    let exchange = Arc::new(Exchange::default());
    let facts = exchange.capture(&cluster.source("postgres"), 2).await.unwrap().facts;
    (cluster, Captured { exchange, facts })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_disk_must_have_room_for_what_lands_on_it_and_no_more() {
    let (_cluster, captured) = captured().await;
    let place = directory();
    let (one, two) = (Disk::new(place.path().join("one"), 400), Disk::new(place.path().join("two"), 400));
    let at = |disk: &Disk, name: &str| -> PathBuf { disk.0.join(name) };
    // With room for everything everywhere: what each part takes.
    captured.restore(&at(&one, "data"), &at(&two, "fast"), false).await.unwrap();
    let log = taken(&at(&one, "data/pg_wal"));
    let tablespace = taken(&at(&two, "fast"));
    let data = taken(&at(&one, "data")) - log;
    assert!(log >= 6 * MIB && tablespace > log + 16 * SLACK, "{data}, {log}, {tablespace}");
    std::fs::remove_dir_all(at(&one, "data")).unwrap();
    std::fs::remove_dir_all(at(&two, "fast")).unwrap();

    // Each has room for its own, and neither for all.
    let ballast = [one.fill_but(data + log + SLACK), two.fill_but(tablespace + SLACK)];
    captured.restore(&at(&one, "data"), &at(&two, "fast"), false).await.unwrap();
    // What is there needs no room a second time.
    assert!(one.free_bytes() < 4 * MIB && two.free_bytes() < 4 * MIB, "{}, {}", one.free_bytes(), two.free_bytes());
    captured.restore(&at(&one, "data"), &at(&two, "fast"), true).await.unwrap();
    // What is missing does.
    let largest =
        files(&at(&two, "fast")).into_iter().max_by_key(|name| std::fs::metadata(at(&two, "fast").join(name)).unwrap().len());
    std::fs::remove_file(at(&two, "fast").join(largest.unwrap())).unwrap();
    two.settles();
    let more = at(&two, "more");
    std::fs::File::create(&more).unwrap();
    let file = std::fs::File::options().write(true).open(&more).unwrap();
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, two.free_bytes() - MIB).unwrap();
    let Err(error) = captured.restore(&at(&one, "data"), &at(&two, "fast"), true).await else { panic!("it fits") };
    assert!(error.to_string().contains("are needed on this file system (tablespace fast "), "{error}");
    assert!(at(&one, "data/global/pg_control").exists() && !at(&one, "data/farshore-restore").exists(), "nothing was changed");
    drop(file);
    for file in [more, ballast[0].clone(), ballast[1].clone()] {
        std::fs::remove_file(file).unwrap();
    }
    std::fs::remove_dir_all(at(&one, "data")).unwrap();
    std::fs::remove_dir_all(at(&two, "fast")).unwrap();

    // The tablespace's own disk is too small; then the data directory's, which the log lies on as well.
    let ballast = two.fill_but(tablespace - 4 * MIB);
    let said = captured.refusal(&at(&one, "data"), &at(&two, "fast")).await;
    assert!(said.starts_with(&at(&two, "fast").display().to_string()) && said.contains("(tablespace fast "), "{said}");
    std::fs::remove_file(ballast).unwrap();
    let ballast = one.fill_but(data + log - 4 * MIB);
    let said = captured.refusal(&at(&one, "data"), &at(&two, "fast")).await;
    assert!(said.contains("(data directory ") && said.contains(", log ") && !said.contains("tablespace"), "{said}");
    std::fs::remove_file(ballast).unwrap();
    // All of it on one.
    let _ballast = one.fill_but(data + log + tablespace - 4 * MIB);
    let said = captured.refusal(&at(&one, "data"), &at(&one, "fast")).await;
    assert!(said.contains(", log ") && said.contains(", tablespace fast "), "{said}");
}
