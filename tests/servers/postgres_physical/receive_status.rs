//! Whether nothing comes because the server is idle, or because nobody receives.

use farshore::{
    clock::SystemClock,
    repository::{Expected, Identities, LogKind, Repository},
    stores::FilesystemStore,
};
use secrecy::SecretString;
use serde_json::Value;

use super::{
    archive::Archive,
    cluster::Cluster,
    receive::{Receiver, TABLE, slot},
};
use crate::postgres::Server;

/// The exit code, what is printed for machines, and for people.
fn status(archive: &Archive) -> (Option<i32>, Value, String) {
    status_of(archive, "policy.toml")
}

fn status_of(archive: &Archive, policy: &str) -> (Option<i32>, Value, String) {
    let policy = archive.text(policy);
    let output = archive.farshore(&["wal", "status", &policy, "--json"]);
    let text = archive.farshore(&["wal", "status", &policy]);
    assert_eq!(text.status.code(), output.status.code(), "{text:?}, {output:?}");
    (output.status.code(), serde_json::from_slice(&output.stdout).unwrap(), String::from_utf8(text.stdout).unwrap())
}

/// The same with an objective that no archive keeps of which nothing new comes.
fn strict(archive: &Archive) -> (Option<i32>, Value, String) {
    let policy = std::fs::read_to_string(archive.path("policy.toml")).unwrap();
    std::fs::write(archive.path("strict.toml"), format!("{policy}\n[objectives]\nrpo = \"2s\"\n")).unwrap();
    status_of(archive, "strict.toml")
}

/// The last part was the end of the log when the server was asked, shortly before it was stored.
fn parts_say_when_they_ended(archive: &Archive) {
    let key = SecretString::from(std::fs::read_to_string(archive.path("agent.key")).unwrap());
    let identities = Identities::parse("agent.key", &key).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let looked = async {
        let (store, clock) = (FilesystemStore::new(archive.path("site")), SystemClock::shared());
        let cache = tempfile::tempdir().unwrap();
        let repository = Repository::open(store, clock, &identities, Expected::Encrypted, cache.path()).await.unwrap();
        // What came before the stream had caught up says nothing; the last one was the end.
        let files = repository.log_files(None).await.unwrap();
        let mut last = None;
        for part in files.iter().filter(|file| file.name.kind() == LogKind::Part) {
            let ended_at = repository.log_head(&part.name).await.unwrap().unwrap().ended_at;
            if let Some(ended_at) = ended_at {
                // A file system stamps files with the time of the last tick, some milliseconds ago.
                let (before, tick) = (part.stored_at - ended_at, chrono::TimeDelta::milliseconds(20));
                assert!((-tick..chrono::TimeDelta::seconds(30)).contains(&before), "{}: {before}", part.name);
            }
            last = last.max(Some((part.name.segment().map(str::to_owned), part.name.range().map(|range| range.end), ended_at)));
        }
        assert!(last.is_some_and(|(.., ended_at)| ended_at.is_some()));
    };
    runtime.block_on(looked);
}

fn is_told(server: Server, by: &str) {
    let archive = Archive::new(&format!("limit = \"64MiB\", receive_by = \"{by}\""));
    let mut primary = Cluster::new(server, &["wal_keep_size=0", "autovacuum=off"]);
    primary.make_role("postgres");
    primary.psql("postgres", TABLE);
    archive.follows(&primary.role_url("postgres"));
    let (code, found, text) = status(&archive);
    assert_eq!(code, Some(0), "nobody has ever received, and nothing waits for it: {text}");
    assert_eq!(found["server"]["receivers"], 0, "{found:#}");
    assert!(text.contains("nobody receives it"), "{text}");

    let receiver = Receiver::start(&archive);
    receiver.waits_until("the slot is made", || !slot(&primary).is_empty());
    primary.psql("postgres", "INSERT INTO markers (at) VALUES (clock_timestamp())");
    // A server that is idle writes nothing, once it has said so in its log.
    let behind = |found: &Value| found["sites"][0]["systems"][0]["behind_bytes"].as_u64();
    receiver.waits_until("the site has everything", || behind(&status(&archive).1) == Some(0));
    std::thread::sleep(std::time::Duration::from_secs(12));
    receiver.waits_until("the site has everything", || behind(&status(&archive).1) == Some(0));
    let (code, found, text) = status(&archive);
    assert_eq!((code, &found["server"]["receivers"]), (Some(0), &1.into()), "{found:#}");
    assert!(text.contains("it is received") && text.contains("and the server has no more"), "{text}");
    assert_eq!(found["server"]["end_lsn"], found["sites"][0]["systems"][0]["end_lsn"], "{found:#}");
    parts_say_when_they_ended(&archive);
    let (code, found, text) = strict(&archive);
    assert_eq!(
        (code, &found["sites"][0]["systems"][0]["rpo_seconds"]),
        (Some(0), &0.0.into()),
        "an idle server loses nothing: {text}"
    );
    receiver.stop();

    // It was stopped: at once, though there is nothing new yet, and then by how much.
    let (code, found, text) = status(&archive);
    assert_eq!((code, &found["server"]["receivers"]), (Some(4), &0.into()), "{found:#}");
    assert!(text.contains("nobody receives, and the slot farshore_log holds its log: start `farshore wal receive`"), "{text}");
    primary.psql(
        "postgres",
        "INSERT INTO markers (at, filler) SELECT clock_timestamp(), repeat(md5(n::text), 30) FROM generate_series(1, 500) AS n",
    );
    let (code, found, text) = status(&archive);
    assert!(code == Some(4) && behind(&found).is_some_and(|behind| behind > 500 * 900), "{found:#}");
    assert!(text.contains(" behind the server"), "{text}");
    let since = std::time::Instant::now();
    let alarms = "would be lost with the server now, and the objective is 2.0 s: see whether it archives";
    while !strict(&archive).2.contains(alarms) {
        assert!(since.elapsed().as_secs() < 30, "{}", strict(&archive).2);
    }

    // The server has given the slot up; nobody wants it any more; the server is not there.
    primary.psql("postgres", "ALTER SYSTEM SET max_slot_wal_keep_size = '16MB'; SELECT pg_reload_conf()");
    for _ in 0..4 {
        primary.psql("postgres", "INSERT INTO markers (at) VALUES (clock_timestamp()); SELECT pg_switch_wal()");
    }
    primary.psql("postgres", "CHECKPOINT");
    let (code, found, text) = status(&archive);
    assert_eq!((code, &found["server"]["is_lost"]), (Some(4), &true.into()), "{found:#}");
    assert!(text.contains("has given up the slot farshore_log"), "{text}");
    primary.psql("postgres", "SELECT pg_drop_replication_slot('farshore_log')");
    assert_eq!(status(&archive).0, Some(0));
    primary.stop(true);
    let (code, found, text) = status(&archive);
    assert_eq!(code, Some(0), "whoever looks at the site need not reach the server: {text}");
    assert!(found["server"]["unanswered"].is_string() && behind(&found).is_none(), "{found:#}");
    assert!(text.contains("was not asked, so that nobody knows whether it is idle"), "{text}");
    let (code, _, text) = strict(&archive);
    assert!(
        code == Some(4) && text.contains("the objective is 2.0 s (the server could not be asked whether it is idle)"),
        "{text}"
    );
}

#[test]
fn a_status_of_a_15_tells_an_idle_server_from_a_receiver_that_stopped() {
    is_told(Server::Fifteen, "sql");
}

#[test]
fn a_status_of_an_18_tells_an_idle_server_from_a_receiver_that_stopped() {
    is_told(Server::Eighteen, "stream");
}

#[test]
fn a_status_tells_of_a_server_that_cannot_archive() {
    let archive = Archive::new("limit = \"64MiB\"");
    let primary = Cluster::new(Server::Fifteen, &["archive_mode=on", "autovacuum=off"]);
    primary.make_role("postgres");
    archive.follows(&primary.role_url("postgres"));
    primary.psql("postgres", TABLE);
    let archives_with = |command: &str| {
        primary.psql("postgres", &format!("ALTER SYSTEM SET archive_command = '{command}'; SELECT pg_reload_conf()"));
        primary.psql("postgres", "INSERT INTO markers (at) VALUES (clock_timestamp()); SELECT pg_switch_wal()");
    };
    let becomes = |expected: i32| {
        let since = std::time::Instant::now();
        loop {
            let (code, found, text) = status(&archive);
            if code == Some(expected) {
                return (found, text);
            }
            assert!(since.elapsed().as_secs() < 60, "{text}");
            std::thread::sleep(std::time::Duration::from_millis(200));
        }
    };
    archives_with("false");
    let (found, text) = becomes(4);
    let failed = primary.psql("postgres", "SELECT last_failed_wal FROM pg_stat_archiver");
    assert_eq!(found["server"]["unarchived"], failed, "{found:#}");
    assert!(text.contains(&format!("it could not archive {failed}, and keeps it")), "{text}");
    archives_with("true");
    assert!(becomes(0).0["server"]["unarchived"].is_null());
}
