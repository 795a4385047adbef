//! The server's summaries of its log: read as the server itself reads them, and not believed without need.

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use farshore::sources::{
    Captured,
    postgres::physical::summary::{Change, Locator, SummaryReader},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{
    cluster::Cluster,
    failures::{SLOW, disturbed_into},
    incremental::{differences, follow, restore, summarised},
};
use crate::{
    postgres::{Server, run},
    support::{database_exchange::Exchange, soak},
};

fn files(cluster: &Cluster) -> Vec<PathBuf> {
    let all = std::fs::read_dir(cluster.data().join("pg_wal/summaries")).unwrap().map(|entry| entry.unwrap().path());
    let mut all: Vec<_> = all.filter(|path| path.extension().is_some_and(|extension| extension == "summary")).collect();
    all.sort();
    all
}

/// A summary as this program reads it: tablespace, database, file number, fork, block, and whether that is a limit.
fn read(bytes: &[u8], random: &mut StdRng) -> BTreeSet<(u32, u32, u32, u32, u32, bool)> {
    let (mut reader, mut all, mut rest) = (SummaryReader::default(), BTreeSet::new(), bytes);
    let mut tell = |at: Locator, fork, change| {
        let (block, is_limit) = match change {
            Change::Limit(block) => (block, true),
            Change::Block(block) => (block, false),
        };
        all.insert((at.tablespace, at.database, at.number, fork, block, is_limit));
    };
    while !rest.is_empty() {
        let (piece, others) = rest.split_at(random.random_range(1..=rest.len()));
        reader.feed(piece, &mut tell).unwrap();
        rest = others;
    }
    reader.finish().unwrap();
    all
}

/// A workload of which every block, limit, fork and chunk is one that chance chose.
fn work(random: &mut StdRng) -> String {
    let table = format!("t{}", random.random_range(0..6));
    match random.random_range(0..8) {
        0 => format!("DROP TABLE IF EXISTS {table}; CREATE TABLE {table} (id int PRIMARY KEY, words text) TABLESPACE fast"),
        1 => format!("TRUNCATE {table}"),
        2 => format!("DELETE FROM {table} WHERE id > {}; VACUUM {table}", random.random_range(0..5000)),
        3 => format!("UPDATE {table} SET words = 'u' WHERE id % {} = 0", random.random_range(1..900)),
        4 => "DROP DATABASE IF EXISTS other; CREATE DATABASE other".to_owned(),
        5 => format!("ALTER TABLE {table} SET UNLOGGED; ALTER TABLE {table} SET LOGGED; CHECKPOINT"),
        _ => {
            let (from, count) = (random.random_range(0..1_000_000), random.random_range(1..20_000));
            format!(
                "INSERT INTO {table} SELECT n, repeat('w', {}) FROM generate_series({from}, {}) n ON CONFLICT DO NOTHING",
                random.random_range(1..400),
                from + count
            )
        }
    }
}

fn reads_as_the_server(server: Server) {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let cluster = summarised(server, &[]);
    for table in 0..6 {
        cluster.psql("app", &format!("CREATE TABLE t{table} (id int PRIMARY KEY, words text)"));
    }
    // Enough blocks for a chunk that is a bitmap.
    cluster.psql("app", "CREATE TABLE wide (words text STORAGE PLAIN); INSERT INTO wide SELECT repeat('x', 7900) FROM generate_series(1, 4500); CHECKPOINT");
    for _ in 0..soak(40) {
        cluster.psql("app", &work(&mut random));
    }
    cluster.psql("app", "CHECKPOINT; SELECT pg_sleep(1)");
    let (mut rows, mut limits, mut bitmaps) = (0, 0, 0);
    for path in files(&cluster) {
        let bytes = std::fs::read(&path).unwrap();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let lsn = |at: usize| format!("{}/{}", &name[at..at + 8], &name[at + 8..at + 16]);
        let sql = format!(
            "SELECT reltablespace, reldatabase, relfilenode, relforknumber, relblocknumber, is_limit_block \
             FROM pg_wal_summary_contents({}, '{}', '{}')",
            u32::from_str_radix(&name[..8], 16).unwrap(),
            lsn(8),
            lsn(24)
        );
        let row = |line: &str| {
            let mut words = line.split('|');
            let mut number = || words.next().unwrap().parse::<u32>().unwrap();
            let (tablespace, database, relation, fork, block) = (number(), number(), number(), number(), number());
            (tablespace, database, relation, fork, block, words.next() == Some("t"))
        };
        let theirs: BTreeSet<_> = cluster.psql("postgres", &sql).lines().map(row).collect();
        let ours = read(&bytes, &mut random);
        assert!(ours == theirs, "{}: {:?}", path.display(), ours.symmetric_difference(&theirs).collect::<Vec<_>>());
        rows += ours.len();
        limits += ours.iter().filter(|row| row.5).count();
        bitmaps += usize::from(ours.iter().filter(|row| row.3 == 0).count() > 4096);
    }
    println!("{rows} rows, {limits} of them limits, in {} files, {bitmaps} with bitmaps", files(&cluster).len());
    assert!(rows > 5000 && limits > 10 && bitmaps > 0);
}

#[test]
fn summaries_of_17_are_read_as_the_server_reads_them() {
    reads_as_the_server(Server::Seventeen);
}

#[test]
fn summaries_of_18_are_read_as_the_server_reads_them() {
    reads_as_the_server(Server::Eighteen);
}

fn reading(captured: &Captured) -> String {
    let facts = &captured.facts;
    assert_eq!(facts["built_on"].is_null(), facts["kept_bytes"] == 0, "{facts}");
    facts["reading"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_read_with_the_reason_when_a_summary_is_gone_or_not_whole() {
    let mut cluster = summarised(Server::Eighteen, &[]);
    cluster.psql("app", "CREATE TABLE rows AS SELECT n AS id, repeat('x', 500) AS words FROM generate_series(1, 20000) n; VACUUM");
    let first = follow(&cluster, None).await;
    assert!(reading(&first.1).contains("no earlier point"), "{}", reading(&first.1));
    let before = files(&cluster);
    for id in 1..4 {
        cluster.psql("app", &format!("UPDATE rows SET words = 'y' WHERE id = {id}; CHECKPOINT; SELECT pg_sleep(0.5)"));
    }
    let between: Vec<PathBuf> = files(&cluster).into_iter().filter(|path| !before.contains(path)).collect();
    assert!(between.len() >= 3, "{between:?}");
    let second = follow(&cluster, Some((&first.0, &first.1))).await;
    assert!(reading(&second.1).contains(first.1.facts["start_lsn"].as_str().unwrap()), "{}", reading(&second.1));

    let sound = std::fs::read(&between[1]).unwrap();
    let broken = |at: usize| {
        let mut broken = sound.clone();
        broken[at] ^= 1;
        broken
    };
    for (bytes, why) in [
        (broken(0), "not as a summary does"),
        (broken(8), "wrong checksum"),
        (broken(sound.len() - 1), "wrong checksum"),
        (sound[..sound.len() - 30].to_vec(), "ends too early"),
        (Vec::new(), "ends too early"),
        ([sound.clone(), vec![0]].concat(), "after its end"),
    ] {
        std::fs::write(&between[1], bytes).unwrap();
        let (_, captured) = follow(&cluster, Some((&first.0, &first.1))).await;
        assert!(reading(&captured).contains(why), "{why}: {}", reading(&captured));
    }
    std::fs::remove_file(&between[1]).unwrap();
    let (_, captured) = follow(&cluster, Some((&first.0, &first.1))).await;
    assert!(reading(&captured).contains("no summary of its log at"), "{}", reading(&captured));
    std::fs::write(&between[1], &sound).unwrap();

    // The summary that shows that both went through the same log.
    let mark = cluster.data().join("pg_wal/summaries").join(first.1.facts["mark"]["name"].as_str().unwrap());
    let sound = std::fs::read(&mark).unwrap();
    std::fs::write(&mark, [sound.clone(), vec![0]].concat()).unwrap();
    let (_, captured) = follow(&cluster, Some((&first.0, &first.1))).await;
    assert!(reading(&captured).contains("gone or another"), "{}", reading(&captured));
    std::fs::write(&mark, sound).unwrap();

    // Points that nothing can be built on.
    for (name, value, why) in [
        ("system_identifier", serde_json::json!("1"), "another cluster's"),
        ("server_version_num", serde_json::json!(170_000), "another major version"),
        ("page_bytes", serde_json::json!(4096), "another size"),
        ("checksums", serde_json::json!(false), "checksums"),
        ("from_standby", serde_json::json!(true), "standby"),
        ("pages_damaged", serde_json::json!(1), "damaged"),
        ("timeline", serde_json::json!(7), "never was"),
        ("mark", serde_json::Value::Null, "without summaries"),
        ("method", serde_json::json!("logical"), "none of a whole cluster"),
    ] {
        let mut other = first.1.clone();
        other.facts[name] = value;
        let (_, captured) = follow(&cluster, Some((&first.0, &other))).await;
        assert!(reading(&captured).contains(why), "{why}: {}", reading(&captured));
    }

    cluster.psql("postgres", "ALTER SYSTEM SET summarize_wal = off");
    cluster.stop(true);
    cluster.start();
    let (_, captured) = follow(&cluster, Some((&first.0, &first.1))).await;
    assert!(reading(&captured).contains("incremental"), "a setting on the command line outweighs it: {}", reading(&captured));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changed_while_the_earlier_capture_ran_is_read_again() {
    let cluster = summarised(Server::Eighteen, &[]);
    cluster.psql("app", "CREATE TABLE rows AS SELECT n AS id, repeat('x', 500) AS words FROM generate_series(1, 20000) n; VACUUM");
    let earlier = Exchange::slow(Duration::from_millis(3));
    let source = cluster.source("app");
    let change = async {
        // The largest file is read first, and alone.
        while earlier.finished() < 20 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        // The checkpoint ends a summary: what comes before the earlier one's end is in another than what comes after.
        tokio::task::block_in_place(|| cluster.psql("app", "UPDATE rows SET words = 'changed' WHERE id % 700 = 0; CHECKPOINT"));
    };
    let (captured, ()) = tokio::join!(earlier.capture(&source, 1), change);
    let captured = captured.unwrap();
    let path = format!("data/{}", cluster.psql("app", "SELECT pg_relation_filepath('rows')"));
    assert!(!earlier.bytes(&path).windows(7).any(|bytes| bytes == b"changed"), "it was read before it changed");
    let next = follow(&cluster, Some((&earlier, &captured))).await;
    assert!(reading(&next.1).contains("incremental"), "{}", reading(&next.1));
    let full = follow(&cluster, None).await;
    assert_eq!(differences(&next.0, &full.0), Vec::<String>::new());
}

/// Over SQL on 17, from the data directory on 18.
async fn gives_the_same_with_summaries_and_without(server: Server) {
    let mut cluster = Cluster::new(server, &["autovacuum=off"]);
    cluster.psql("postgres", "CREATE DATABASE app; ALTER SYSTEM SET summarize_wal = on");
    cluster.make_role("app");
    let fast = cluster.make("fast");
    cluster.psql(
        "postgres",
        &format!("CREATE TABLESPACE fast LOCATION '{}'; SELECT pg_reload_conf(); SELECT pg_sleep(1)", fast.display()),
    );
    cluster.psql("app", "CREATE TABLE rows AS SELECT n AS id, repeat('x', 500) AS words FROM generate_series(1, 20000) n; VACUUM");
    let first = follow(&cluster, None).await;
    assert_eq!(first.1.facts["read_by"], if matches!(server, Server::Seventeen) { "sql" } else { "files" });
    cluster.psql("app", "UPDATE rows SET words = 'y' WHERE id % 777 = 0; DELETE FROM rows WHERE id % 1000 = 0");
    follow(&cluster, None).await;
    let with = follow(&cluster, Some((&first.0, &first.1))).await;
    assert!(reading(&with.1).contains("incremental"), "{}", reading(&with.1));
    cluster.psql("postgres", "ALTER SYSTEM SET summarize_wal = off; SELECT pg_reload_conf(); SELECT pg_sleep(1)");
    let without = follow(&cluster, Some((&first.0, &first.1))).await;
    assert!(reading(&without.1).contains("set summarize_wal = on"), "{}", reading(&without.1));
    // Its own setting is in it.
    let different: Vec<_> = differences(&with.0, &without.0).into_iter().filter(|name| !name.contains("auto.conf")).collect();
    assert_eq!(different, Vec::<String>::new());
    let rows = "SELECT count(*), sum(hashtext(t::text)) FROM rows AS t";
    for (exchange, captured) in [&with, &without] {
        let mut restored = restore(server, exchange, captured).await;
        assert_eq!(restored.psql("app", rows), cluster.psql("app", rows));
        restored.amcheck();
        restored.check_checksums();
    }
    // What was made while nothing was summarised is a hole, and after it things go on.
    cluster.psql("app", "UPDATE rows SET words = 'z' WHERE id % 100 = 0; SELECT pg_switch_wal(); CHECKPOINT; CHECKPOINT");
    cluster.stop(true);
    cluster.start();
    let full = follow(&cluster, Some((&with.0, &with.1))).await;
    assert!(reading(&full.1).contains("everything was read"), "{}", reading(&full.1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_17_gives_the_same_restore_with_summaries_and_without() {
    gives_the_same_with_summaries_and_without(Server::Seventeen).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_18_gives_the_same_restore_with_summaries_and_without() {
    gives_the_same_with_summaries_and_without(Server::Eighteen).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_that_was_put_back_to_an_earlier_state_is_not_built_on() {
    let mut cluster = summarised(Server::Eighteen, &[]);
    let sql = "CREATE TABLE rows AS SELECT n AS id, repeat('x', 500) AS words FROM generate_series(1, 20000) n; VACUUM";
    cluster.psql("app", sql);
    let copy = |cluster: &Cluster, from: &str, to: &str| {
        let mut cp = std::process::Command::new("cp");
        cp.arg("-a").arg(cluster.path(from)).arg(cluster.path(to));
        run(cp);
    };
    let base = follow(&cluster, None).await;
    cluster.stop(true);
    copy(&cluster, "data", "kept");
    cluster.start();
    // A future that will not have been, and a point of it.
    cluster.psql("app", "UPDATE rows SET words = 'lost' WHERE id % 3 = 0; CHECKPOINT");
    let lost = follow(&cluster, Some((&base.0, &base.1))).await;
    cluster.stop(true);
    std::fs::remove_dir_all(cluster.data()).unwrap();
    copy(&cluster, "kept", "data");
    cluster.start();
    // As much log as before, and more: every place of the lost one is there again, summarised.
    for _ in 0..4 {
        cluster.psql("app", "CREATE TABLE IF NOT EXISTS other (words text); INSERT INTO other SELECT repeat('o', 1000) FROM generate_series(1, 20000); CHECKPOINT");
    }
    follow(&cluster, None).await;
    let next = follow(&cluster, Some((&lost.0, &lost.1))).await;
    assert!(reading(&next.1).contains("earlier state"), "{}", reading(&next.1));
    let full = follow(&cluster, None).await;
    assert_eq!(differences(&next.0, &full.0), Vec::<String>::new());
    // What both went through is still good to build on.
    let again = follow(&cluster, Some((&base.0, &base.1))).await;
    assert!(reading(&again.1).contains("incremental"), "{}", reading(&again.1));
    assert_eq!(differences(&again.0, &full.0), Vec::<String>::new());
    // Put back to what it was while the earlier backup still read: what that saw afterwards has never been.
    cluster.psql("app", "CHECKPOINT");
    let astride = Exchange::slow(SLOW);
    let during = || {
        std::fs::remove_dir_all(cluster.path("kept")).unwrap();
        copy(&cluster, "data", "kept");
        cluster.psql("app", "UPDATE rows SET words = 'never' WHERE id % 5 = 0; CHECKPOINT");
    };
    let lost = disturbed_into(&astride, &cluster, "app", during).await.unwrap();
    cluster.stop(false);
    std::fs::remove_dir_all(cluster.data()).unwrap();
    copy(&cluster, "kept", "data");
    cluster.start();
    cluster.psql("app", "INSERT INTO other SELECT repeat('p', 1000) FROM generate_series(1, 20000); CHECKPOINT");
    let next = follow(&cluster, Some((&astride, &lost))).await;
    assert!(
        reading(&next.1).contains("where the earlier point ended, is gone, and the server has recovered"),
        "{}",
        reading(&next.1)
    );
    let full = follow(&cluster, None).await;
    assert_eq!(differences(&next.0, &full.0), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_was_promoted_goes_on_from_a_point_of_the_old_primary() {
    let server = Server::Eighteen;
    let mut primary = summarised(server, &["wal_keep_size=1GB"]);
    primary.psql("app", "CREATE TABLE rows AS SELECT n AS id, repeat('x', 500) AS words FROM generate_series(1, 20000) n; VACUUM");
    // In words that a libpq of any version understands: this server may load another one's.
    let place = format!("primary_conninfo=host={} user=postgres", primary.path("").display());
    let mut standby = Cluster::unstarted(server, &["summarize_wal=on", "autovacuum=off", "hot_standby=on", &place]);
    let mut basebackup = primary.program("pg_basebackup");
    basebackup.arg("-D").arg(standby.data()).args(["-c", "fast", "--no-sync", "-R", "-T"]);
    basebackup.arg(format!("{}={}", primary.path("fast").display(), standby.path("fast").display()));
    run(basebackup);
    standby.start();
    let first = follow(&primary, None).await;
    primary.psql("app", "UPDATE rows SET words = 'primary' WHERE id % 500 = 0; CHECKPOINT");
    let behind = format!("SELECT pg_last_wal_replay_lsn() >= '{}'", primary.psql("postgres", "SELECT pg_current_wal_lsn()"));
    for _ in 0..200 {
        if standby.psql("postgres", &behind) == "t" {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert_eq!(standby.psql("postgres", &behind), "t", "{}", standby.log());
    let from_standby = follow(&standby, Some((&first.0, &first.1))).await;
    assert!(reading(&from_standby.1).contains("is a standby"), "{}", reading(&from_standby.1));
    standby.psql("postgres", "SELECT pg_promote()");
    standby.psql("app", "UPDATE rows SET words = 'promoted' WHERE id % 777 = 0; DELETE FROM rows WHERE id % 2000 = 1; CHECKPOINT");
    follow(&standby, None).await;
    let next = follow(&standby, Some((&first.0, &first.1))).await;
    assert_eq!((&next.1.facts["timeline"], &first.1.facts["timeline"]), (&2.into(), &1.into()));
    assert!(reading(&next.1).contains("incremental"), "{}", reading(&next.1));
    let full = follow(&standby, None).await;
    assert_eq!(differences(&next.0, &full.0), Vec::<String>::new());
    // A backup that still read from the old primary when the standby had left it.
    let mut straddling = first.1.clone();
    straddling.facts["stop_lsn"] = primary.psql("postgres", "SELECT pg_current_wal_lsn() + 1000000000").into();
    let apart = follow(&standby, Some((&first.0, &straddling))).await;
    assert!(reading(&apart.1).contains("of which this server has nothing after"), "{}", reading(&apart.1));
    // The old primary goes on by itself: what it is after the standby left it is none of the standby's.
    primary.psql("app", "UPDATE rows SET words = 'alone' WHERE id % 3 = 0; SELECT pg_switch_wal(); CHECKPOINT");
    let alone = follow(&primary, Some((&first.0, &first.1))).await;
    let beyond = follow(&standby, Some((&alone.0, &alone.1))).await;
    assert!(reading(&beyond.1).contains("everything was read"), "{}", reading(&beyond.1));
    primary.stop(false);
}
