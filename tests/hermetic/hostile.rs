//! What a site or a stolen writer may try.

use std::{sync::Arc, time::Duration};

use farshore::{
    report::CheckOutcome,
    repository::{
        Budget, ChunkList, EntryRecord, Expected, Point, Reader, Recipients, Repository, RepositoryError, Snapshot, Workers,
        Writer, examine_store,
    },
    stores::{MemoryStore, SharedStore},
};
use futures_util::{StreamExt, TryStreamExt};

use crate::support::{
    recovery::{Recovery, noise, objects, store_of},
    staged_store::Staged,
};

#[tokio::test]
async fn a_site_cannot_pass_off_an_unencrypted_repository_for_an_encrypted_one() {
    let (open, closed) = (Recovery::new(false), Recovery::new(true));
    let (plain, sealed): (SharedStore, SharedStore) = (MemoryStore::new("plain"), MemoryStore::new("sealed"));
    open.init(&plain).await;
    closed.init(&sealed).await;
    let attempt = |store: SharedStore, recovery: &'static str, expected| {
        let recovery = if recovery == "open" { &open } else { &closed };
        let (clock, identities, cache) = (recovery.clock.clone(), recovery.identities.clone(), recovery.fresh_cache());
        async move { Repository::open(store, clock, &identities, expected, &cache).await.map(|_| ()) }
    };
    let refused = attempt(plain.clone(), "closed", Expected::Encrypted).await.unwrap_err();
    assert!(matches!(refused, RepositoryError::Key { .. }) && refused.to_string().contains("not encrypted"), "{refused}");
    let refused = attempt(sealed.clone(), "closed", Expected::Unencrypted).await.unwrap_err();
    assert!(refused.to_string().contains("is encrypted"), "{refused}");
    attempt(plain.clone(), "open", Expected::Unencrypted).await.unwrap();
    attempt(plain, "open", Expected::Unknown).await.unwrap();
    attempt(sealed.clone(), "closed", Expected::Encrypted).await.unwrap();
    // Nothing known, and an encrypted repository: the key is what is missing.
    let refused = attempt(sealed, "open", Expected::Unknown).await.unwrap_err();
    assert!(refused.to_string().contains("--identity"), "{refused}");
}

#[tokio::test]
async fn repository_json_cannot_be_changed_unnoticed() {
    let recovery = Recovery::new(true);
    let store: SharedStore = MemoryStore::new("site");
    recovery.init(&store).await;
    let all = objects(store.as_ref()).await;
    let text = String::from_utf8(all["repository.json"].to_vec()).unwrap();
    let id = text.split("\"id\": \"").nth(1).unwrap()[..32].to_owned();
    for (from, to) in [
        (id.as_str(), "00112233445566778899aabbccddeeff"),
        ("exclusive", "last-writer-wins"),
        ("\"product\"", "\"more\": 1, \"product\""),
        ("aes-256-gcm", "aes-256-xyz"),
    ] {
        assert!(text.contains(from), "{text}");
        let mut changed = all.clone();
        changed.insert("repository.json".to_owned(), text.replacen(from, to, 1).into());
        let refused = recovery.open(store_of(&changed).await, &recovery.fresh_cache()).await.unwrap_err();
        assert!(refused.to_string().contains("repository.json"), "{from}: {refused}");
    }
}

/// A repository with more entries than a reader's memory holds, each with some bytes.
async fn many_entries(recovery: &Recovery, store: &SharedStore) -> (Repository, Snapshot, Arc<Workers>) {
    recovery.init(store).await;
    let repository = recovery.open(store.clone(), &recovery.fresh_cache()).await.unwrap();
    let workers = Workers::start(2, 1).unwrap();
    let writer = Writer::begin(&repository, &recovery.recipients, Arc::clone(&workers), Budget::new(0)).await.unwrap();
    let entries = writer.entries();
    for number in 0..600 {
        let mut content = writer.content(farshore::repository::Cutting::Fixed(8 << 20), Some(100_000));
        content.write(noise(100_000, number).into()).await.unwrap();
        let (list, size) = content.finish().await.unwrap();
        let record = EntryRecord {
            path: format!("{number:05}").into_bytes(),
            kind: "object".to_owned(),
            size: Some(size),
            content: Some(list),
            attributes: noise(200_000, 1_000 + number),
            ..EntryRecord::default()
        };
        entries.push(&record).await.unwrap();
    }
    let (list, entry_count, content_bytes) = entries.finish().await.unwrap();
    writer.flush().await.unwrap();
    let snapshot = Snapshot {
        source: "b".to_owned(),
        kind: "bucket".to_owned(),
        description: String::new(),
        consistent_at: None,
        entries: list,
        entry_count,
        content_bytes,
        facts: serde_json::Value::Null,
        problems: Vec::new(),
        measures: None,
    };
    (repository, snapshot, workers)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_are_read_by_turns_do_not_wait_for_each_others_memory() {
    // 120 MB of entries and 60 MB of contents, and 32 MiB of memory for reading: a list read ahead holds all of it.
    let recovery = Recovery::new(true);
    let store: SharedStore = MemoryStore::new("site");
    let (repository, snapshot, workers) = many_entries(&recovery, &store).await;
    let reader = Reader::open(&repository, workers, Budget::new(0)).await.unwrap();
    let work = async {
        let mut entries = reader.entries(&snapshot);
        let mut again = reader.entries(&snapshot);
        let (mut batch, mut bytes) = (Vec::new(), 0_u64);
        while let Some(record) = entries.try_next().await.unwrap() {
            assert_eq!(again.try_next().await.unwrap().unwrap().path, record.path);
            batch.push(record.content.unwrap());
            if batch.len() == 200 {
                let mut pieces = reader.deliver(std::mem::take(&mut batch));
                while let Some(piece) = pieces.next().await {
                    bytes += piece.unwrap().bytes.len() as u64;
                }
            }
        }
        bytes
    };
    assert_eq!(tokio::time::timeout(Duration::from_secs(120), work).await.expect("the streams wait for each other"), 60_000_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chunk_lists_of_impossible_depth_or_length_are_refused_before_anything_is_read() {
    let recovery = Recovery::new(false);
    let store: SharedStore = MemoryStore::new("site");
    recovery.init(&store).await;
    let repository = recovery.open(store, &recovery.fresh_cache()).await.unwrap();
    let reader = recovery.reader(&repository).await.unwrap();
    for (level, length) in [(4, 36_u32), (255, 36), (1, u32::MAX)] {
        let one = [[7_u8; 32].as_slice(), length.to_le_bytes().as_slice()].concat();
        let list = ChunkList { level, refs: one };
        let refused = reader.flatten(&list).await.unwrap_err();
        assert!(matches!(refused, RepositoryError::Damaged { .. }), "level {level}: {refused}");
    }
    assert!(reader.flatten(&ChunkList { level: 0, refs: vec![0; 35] }).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_point_cannot_be_committed_under_a_name_that_is_no_point() {
    let recovery = Recovery::new(false);
    let store: SharedStore = MemoryStore::new("site");
    recovery.init(&store).await;
    let repository = recovery.open(store.clone(), &recovery.fresh_cache()).await.unwrap();
    let writer = Writer::begin(&repository, &Recipients::Nobody, Workers::start(1, 1).unwrap(), Budget::new(0)).await.unwrap();
    let now = farshore::clock::Clock::now(recovery.clock.as_ref());
    let point = Point {
        id: "not hexadecimal".to_owned(),
        policy: "p".to_owned(),
        region: None,
        consistent_at: now,
        started_at: now,
        finished_at: now,
        agent: farshore::repository::Agent::default(),
        policy_text: String::new(),
        encryption: "none".to_owned(),
        snapshots: Vec::new(),
        anomalies: Vec::new(),
        missing_at: Vec::new(),
        more: std::collections::BTreeMap::new(),
    };
    writer.commit(&repository, &point, &Default::default()).await.unwrap_err();
    assert!(objects(store.as_ref()).await.keys().all(|key| !key.starts_with("points/")), "nothing was written");
}

#[tokio::test]
async fn a_site_that_answers_if_absent_writes_and_does_not_honour_them_is_not_called_sound() {
    let mut overwriting = Staged::over(MemoryStore::new("site"));
    overwriting.overwrites = true;
    for (store, outcome) in [
        (Arc::new(overwriting) as SharedStore, CheckOutcome::Note),
        (MemoryStore::new("site") as SharedStore, CheckOutcome::Passed),
    ] {
        let findings = examine_store(&store, None).await.unwrap();
        let writes = findings.iter().find(|one| one.name == "if-absent writes").unwrap();
        assert_eq!((writes.outcome, writes.mend.is_some()), (outcome, outcome == CheckOutcome::Note), "{writes:?}");
    }
}
