//! Many incrementals in a row, each built on the one before, and each held against a full read of the same instant.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use farshore::sources::{
    Captured,
    postgres::physical::{PhysicalTarget, PhysicalTargetOptions},
};

use super::cluster::Cluster;
use crate::{
    postgres::Server,
    support::{database_exchange::Exchange, soak},
};

/// A database, and statements for it.
type Work = (&'static str, &'static str);

/// In turn: what happens while a capture runs, again and again until it is done, and what happens between it and the next.
const ROUNDS: [(&[Work], &[Work]); 6] = [
    (
        &[
            (
                "app",
                "UPDATE big SET words = reverse(words) WHERE id % 97 = 0; INSERT INTO big SELECT n, md5(n::text) FROM generate_series(100000, 102000) n",
            ),
            (
                "app",
                "UPDATE big SET words = words || '.' WHERE id % 911 = 3; SELECT nextval('counter') FROM generate_series(1, 50)",
            ),
            ("app", "DELETE FROM big WHERE id >= 100000; UPDATE big SET words = upper(words) WHERE id % 313 = 1; CHECKPOINT"),
        ],
        // Bits of the visibility map are cleared, which no summary says.
        &[(
            "app",
            "DELETE FROM big WHERE id % 4001 = 4000; UPDATE tail SET words = words WHERE id % 1000 = 1; SELECT nextval('counter')",
        )],
    ),
    (
        &[
            ("app", "UPDATE moved SET words = reverse(words) WHERE id % 50 = 0; VACUUM moved"),
            (
                "app",
                "CREATE INDEX by_words ON big (left(words, 8)); DROP INDEX by_words; UPDATE big SET words = 'w' WHERE id % 777 = 2",
            ),
        ],
        // Cut off, and grown again by pages of which some are empty and in no record of the log.
        &[(
            "app",
            "DELETE FROM tail WHERE id > 4000; VACUUM tail; DELETE FROM hollow WHERE id > 4000; VACUUM hollow; COPY hollow (id) FROM PROGRAM 'seq 50001 51201'; CHECKPOINT",
        )],
    ),
    (
        &[
            ("app", "ALTER TABLE flip SET UNLOGGED; INSERT INTO flip SELECT n, repeat('u', 300) FROM generate_series(1, 2000) n"),
            ("app", "UPDATE big SET words = lower(words) WHERE id % 501 = 5; SELECT pg_switch_wal()"),
        ],
        // The same database and the same files with other content, copied without a word of it in the log.
        &[
            ("twin_of", "UPDATE content SET words = reverse(words) WHERE id % 2 = 0; CHECKPOINT"),
            (
                "postgres",
                "DROP DATABASE twin; CREATE DATABASE twin OID = 20000 TEMPLATE twin_of STRATEGY file_copy; ALTER DATABASE twin_of SET TABLESPACE fast",
            ),
        ],
    ),
    (
        &[
            ("app", "ALTER TABLE flip SET LOGGED; VACUUM FULL moved; REINDEX TABLE big"),
            (
                "app",
                "INSERT INTO tail SELECT n, repeat('b', 400) FROM generate_series(60000, 64000) n; DROP TABLE IF EXISTS made; CREATE TABLE made AS SELECT * FROM big WHERE id % 3 = 0",
            ),
        ],
        &[
            ("twin", "UPDATE content SET words = 'own' WHERE id % 5 = 0"),
            ("postgres", "ALTER DATABASE twin_of SET TABLESPACE pg_default"),
            (
                "app",
                "TRUNCATE made; INSERT INTO made SELECT n, 'again' FROM generate_series(1, 60000) n; VACUUM big; UPDATE big SET words = 'x' WHERE id = 11; TRUNCATE hollow; INSERT INTO hollow SELECT generate_series(1, 20000); VACUUM hollow",
            ),
        ],
    ),
    (
        &[
            (
                "app",
                "ALTER TABLE moved SET TABLESPACE pg_default; UPDATE moved SET words = 'here'; ALTER TABLE moved SET TABLESPACE fast",
            ),
            (
                "app",
                "VACUUM FULL pg_catalog.pg_class; VACUUM FULL pg_catalog.pg_attribute; DELETE FROM big WHERE id % 1009 = 4; VACUUM FREEZE big",
            ),
        ],
        &[
            ("postgres", "DROP DATABASE twin; CREATE DATABASE twin OID = 20000 TEMPLATE twin_of STRATEGY wal_log"),
            (
                "app",
                "INSERT INTO flip SELECT n, repeat('f', 300) FROM generate_series(1, 9000) n; TRUNCATE flip; INSERT INTO flip SELECT n, repeat('g', 300) FROM generate_series(1, 9000) n",
            ),
        ],
    ),
    (
        &[(
            "app",
            "INSERT INTO big SELECT n, repeat(md5(n::text), 9) FROM generate_series(200000, 203000) n; DELETE FROM big WHERE id >= 200000; VACUUM big",
        )],
        // Nothing.
        &[],
    ),
];

const SETUP: &str = "CREATE TABLE big (id int PRIMARY KEY, words text) WITH (fillfactor = 90); \
    INSERT INTO big SELECT n, repeat(md5(n::text), 9) FROM generate_series(1, 30000) n; \
    CREATE TABLE tail (id int, words text DEFAULT repeat('t', 400)); INSERT INTO tail SELECT generate_series(1, 20000); \
    CREATE TABLE hollow (id int, words text DEFAULT repeat('h', 400)); INSERT INTO hollow SELECT generate_series(1, 20000); \
    CREATE TABLE moved (id int PRIMARY KEY, words text) TABLESPACE fast; \
    INSERT INTO moved SELECT n, repeat(md5(n::text), 9) FROM generate_series(1, 6000) n; \
    CREATE TABLE flip (id int, words text); INSERT INTO flip SELECT n, repeat('f', 300) FROM generate_series(1, 9000) n; \
    CREATE SEQUENCE counter; VACUUM";

/// What the rows of some tables come to.
fn digest(cluster: &Cluster) -> String {
    let tables = [("app", "big"), ("app", "tail"), ("app", "moved"), ("app", "flip"), ("twin", "content"), ("twin_of", "content")];
    let of = |(database, table): (&str, &str)| {
        cluster.psql(database, &format!("SELECT count(*), sum(hashtext(t::text)) FROM {table} AS t"))
    };
    tables.map(of).join("; ")
}

/// A cluster that keeps summaries, with a tablespace, and a role that captures.
pub fn summarised(server: Server, settings: &[&str]) -> Cluster {
    let settings: Vec<&str> = ["summarize_wal=on", "autovacuum=off", "max_wal_size=4GB"].iter().chain(settings).copied().collect();
    let cluster = Cluster::new(server, &settings);
    let fast = cluster.make("fast");
    cluster.psql("postgres", &format!("CREATE TABLESPACE fast LOCATION '{}'; CREATE DATABASE app", fast.display()));
    cluster.make_role("app");
    cluster
}

/// What a capture has of the data directory.
fn data(exchange: &Exchange) -> BTreeMap<String, Option<Vec<u8>>> {
    let entries = exchange.all_entries().into_iter().filter(|entry| entry.path.starts_with(b"data/"));
    let bytes = |path: &str| exchange.bytes(path);
    entries.map(|entry| (entry.display_path(), entry.content.is_some().then(|| bytes(&entry.display_path())))).collect()
}

/// Where the two differ, with the blocks.
pub fn differences(left: &Exchange, right: &Exchange) -> Vec<String> {
    let (left, right) = (data(left), data(right));
    let names = left.keys().chain(right.keys().filter(|name| !left.contains_key(*name)));
    let describe = |name: &String| match (left.get(name), right.get(name)) {
        (one, other) if one == other => None,
        (Some(Some(one)), Some(Some(other))) => {
            let blocks = one.chunks(8192).zip(other.chunks(8192)).enumerate().filter(|(_, (one, other))| one != other);
            let blocks: Vec<usize> = blocks.map(|(block, _)| block).collect();
            Some(format!("{name}: {} and {} bytes, blocks {blocks:?}", one.len(), other.len()))
        }
        (one, other) => Some(format!("{name}: there {}, there {}", one.is_some(), other.is_some())),
    };
    names.filter_map(describe).collect()
}

/// A capture that follows another one.
pub async fn follow(cluster: &Cluster, earlier: Option<(&Exchange, &Captured)>) -> (Arc<Exchange>, Captured) {
    let exchange = earlier.map_or_else(Exchange::default, |(exchange, captured)| exchange.following(&captured.facts));
    let captured = exchange.capture(&cluster.source("app"), 2).await.unwrap();
    (Arc::new(exchange), captured)
}

pub async fn restore(server: Server, exchange: &Arc<Exchange>, captured: &Captured) -> Cluster {
    let mut restored = Cluster::unstarted(server, &[]);
    let tablespaces = vec![("fast".to_owned(), restored.path("fast"))];
    let target = PhysicalTarget::new(restored.data(), PhysicalTargetOptions { tablespaces, ..PhysicalTargetOptions::default() });
    exchange.rebuild(&target, &captured.facts, false).await.unwrap();
    restored.start();
    restored
}

async fn in_a_row(server: Server) {
    // With room enough, files grow by many pages at once.
    let cluster = summarised(server, &["shared_buffers=256MB"]);
    cluster.psql("app", SETUP);
    cluster.psql("postgres", "CREATE DATABASE twin_of");
    let content = "CREATE TABLE content (id int, words text); INSERT INTO content SELECT n, repeat(md5(n::text), 5) FROM generate_series(1, 9000) n";
    cluster.psql("twin_of", content);
    cluster.psql("postgres", "CREATE DATABASE twin OID = 20000 TEMPLATE twin_of");
    let (mut last, mut captured) = follow(&cluster, None).await;
    assert_eq!(captured.facts["built_on"], serde_json::Value::Null, "{}", captured.facts);
    let rounds = soak(ROUNDS.len() as u64);
    for round in 0..rounds {
        let (meanwhile, between) = ROUNDS[usize::try_from(round).unwrap() % ROUNDS.len()];
        // One that runs while things change, and is never looked at but by the next.
        let exchange = last.following(&captured.facts).slower(Duration::from_millis(1));
        let source = cluster.source("app");
        let is_done = AtomicBool::new(false);
        let busy = std::thread::scope(|scope| {
            scope.spawn(|| {
                // Nothing that happens before the capture began.
                while exchange.all_entries().is_empty() && !is_done.load(Ordering::SeqCst) {
                    std::thread::sleep(Duration::from_millis(5));
                }
                while !is_done.load(Ordering::SeqCst) {
                    meanwhile.iter().for_each(|(database, sql)| drop(cluster.psql(database, sql)));
                }
            });
            let busy = tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(exchange.capture(&source, 2)));
            is_done.store(true, Ordering::SeqCst);
            busy.unwrap()
        });
        assert_eq!(busy.facts["built_on"], captured.facts["start_lsn"], "{}", busy.facts);
        for (database, sql) in between {
            cluster.psql(database, sql);
        }
        if round % ROUNDS.len() as u64 == 1 {
            let path = cluster.psql("app", "SELECT pg_relation_filepath('hollow')");
            let pages = std::fs::read(cluster.data().join(path)).unwrap();
            let empty = pages.chunks(8192).filter(|page| page.iter().all(|byte| *byte == 0)).count();
            assert!(empty > 2 * 16, "more than a piece is empty that was not before, and no record of the log says so: {empty}");
        }
        (last, captured) = follow(&cluster, Some((&exchange, &busy))).await;
        assert_eq!(captured.facts["built_on"], busy.facts["start_lsn"], "{}", captured.facts);
        let (full, whole) = follow(&cluster, None).await;
        let mut different = differences(&last, &full);
        if !different.is_empty() {
            // Hint bits of what the captures themselves ask for are set once, and then no more.
            (last, captured) = follow(&cluster, Some((&exchange, &busy))).await;
            different = differences(&last, &full);
        }
        assert!(different.is_empty(), "round {round} of PostgreSQL {}: {different:#?}", server.number());
        let figure = |facts: &serde_json::Value, name: &str| facts[name].as_u64().unwrap();
        assert_eq!(figure(&captured.facts, "bytes"), figure(&whole.facts, "bytes"));
        let least = if between.is_empty() { 75 } else { 25 };
        assert!(figure(&captured.facts, "kept_bytes") * 100 > figure(&whole.facts, "bytes") * least, "{}", captured.facts);
        if round + 1 == rounds || round % 10 == 5 {
            let mut restored = restore(server, &last, &captured).await;
            assert_eq!(digest(&restored), digest(&cluster), "round {round}");
            restored.amcheck();
            visibility(&restored);
            restored.check_checksums();
        }
    }
}

/// Nothing that the visibility map promises is untrue.
fn visibility(cluster: &Cluster) {
    for database in ["app", "twin"] {
        cluster.psql(database, "CREATE EXTENSION IF NOT EXISTS pg_visibility");
        let wrong = "SELECT count(*) FROM pg_class c, LATERAL (SELECT pg_check_visible(c.oid) UNION ALL SELECT pg_check_frozen(c.oid)) AS w \
                     WHERE c.relkind IN ('r', 't', 'm')";
        assert_eq!(cluster.psql(database, wrong), "0", "{database}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn incrementals_in_a_row_of_17_are_what_full_reads_are() {
    in_a_row(Server::Seventeen).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn incrementals_in_a_row_of_18_are_what_full_reads_are() {
    in_a_row(Server::Eighteen).await;
}

/// With `FARSHORE_SOAK` over the end of a segment of one gigabyte.
#[tokio::test(flavor = "multi_thread")]
async fn of_a_relation_that_grows_only_what_is_new_is_read() {
    let cluster = summarised(Server::Eighteen, &[]);
    let rows = if soak(1) > 1 { 132_000 } else { 1000 };
    let grow = |from: u32, to: u32| {
        cluster.psql(
            "app",
            &format!("INSERT INTO grown SELECT n, repeat('x', 7900) FROM generate_series({from}, {to}) n; CHECKPOINT"),
        );
    };
    cluster.psql("app", "CREATE TABLE grown (id int, words text STORAGE PLAIN)");
    grow(1, rows - 500);
    let first = follow(&cluster, None).await;
    grow(rows - 499, rows + 500);
    let second = follow(&cluster, Some((&first.0, &first.1))).await;
    let third = follow(&cluster, Some((&second.0, &second.1))).await;
    let full = follow(&cluster, None).await;
    assert_eq!(differences(&third.0, &full.0), Vec::<String>::new());
    let read = |captured: &Captured| captured.facts["bytes"].as_u64().unwrap() - captured.facts["kept_bytes"].as_u64().unwrap();
    println!("read: {} in full, {} after it grew, {} after nothing", read(&full.1), read(&second.1), read(&third.1));
    assert!(read(&second.1) > 1000 * 8192 && read(&second.1) < read(&third.1) + 1100 * 8192, "{}", second.1.facts);
    let path = cluster.psql("app", "SELECT pg_relation_filepath('grown')");
    assert_eq!(third.0.all_entries().iter().any(|entry| entry.display_path() == format!("data/{path}.1")), rows > 131_072 - 500);
}
