//! Fills an initialised repository in a directory with many points in little time, for `benches/compare prune` and `benches/compare
//! entries`: what months of backups would have left.
//!
//! `FARSHORE_BENCH_FILL="DIRECTORY KEY RECIPIENT AGENT POINTS ENTRIES CHANGED EACH"`: so many points of a bucket with so many objects of
//! some hundred bytes, of which so many are others in each point; with a pack for so many of them, or as few packs as can be with 0.
//! Nothing is measured here.
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on says why by panicking")]

use std::{collections::BTreeMap, path::Path, sync::Arc};

use bytes::Bytes;
use chrono::{TimeDelta, Utc};
use farshore::{
    clock::SystemClock,
    repository::{
        Agent, Budget, ChunkList, Cutting, EntryRecord, Expected, Identities, Point, Recipients, Repository, Snapshot, Workers,
        Writer,
    },
    sources::bucket::BucketAttributes,
    stores::{FilesystemStore, ObjectAttributes, SharedStore},
};
use secrecy::SecretString;
use serde_bytes::ByteArray;

/// What an object holds: its own bytes, no two alike.
fn content(number: usize, generation: usize) -> Bytes {
    let line = format!("object {number} as it was on day {generation}\n");
    line.repeat(3 + number % 13).into()
}

/// What a bucket source notes of an object beside its bytes.
fn attributes(body: &[u8]) -> Vec<u8> {
    let blake3 = blake3::hash(body);
    let object = ObjectAttributes::default();
    let etag = blake3.to_hex()[..32].to_owned();
    rmp_serde::to_vec_named(&BucketAttributes { etag, version: None, blake3: ByteArray::new(*blake3.as_bytes()), object }).unwrap()
}

fn main() {
    // `cargo bench` without being asked: nothing to measure here.
    let Ok(said) = std::env::var("FARSHORE_BENCH_FILL") else { return };
    let words: Vec<&str> = said.split_whitespace().collect();
    let [directory, key, recipient, agent, points, entries, changed, each] = words.as_slice() else {
        panic!("{said:?}: see the head")
    };
    let number = |word: &str| word.parse::<usize>().unwrap();
    let (points, entries, changed, each) = (number(points), number(entries), number(changed), number(each));
    let identities = Identities::parse(key, &SecretString::from(std::fs::read_to_string(key).unwrap())).unwrap();
    let recipients = Recipients::parse(&[(*recipient).to_owned()], &[(*agent).to_owned()]).unwrap();
    let store: SharedStore = FilesystemStore::new(Path::new(directory).to_owned());
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let cache = tempfile::tempdir().unwrap();
        let workers = Workers::start(2, 1).unwrap();
        let repository =
            Repository::open(store, SystemClock::shared(), &identities, Expected::Encrypted, cache.path()).await.unwrap();
        let mut held: Vec<(ChunkList, u64, Vec<u8>)> = vec![(ChunkList::default(), 0, Vec::new()); entries];
        for day in 0..points {
            let writer = Writer::begin(&repository, &recipients, Arc::clone(&workers), Budget::new(256 << 20)).await.unwrap();
            // The first day everything, then a run of objects that moves on, and some here and there.
            let others: Vec<usize> = if day == 0 {
                (0..entries).collect()
            } else {
                let mut chosen: Vec<usize> = (0..changed)
                    .map(|nth| if nth % 2 == 0 { (day * changed + nth) % entries } else { (nth * 7919 + day * 104_729) % entries })
                    .collect();
                chosen.sort_unstable();
                chosen.dedup();
                chosen
            };
            for (nth, number) in others.into_iter().enumerate() {
                if each > 0 && nth % each == 0 {
                    writer.flush().await.unwrap();
                }
                let body = content(number, day);
                let attributes = attributes(&body);
                let mut stream = writer.content(Cutting::ContentDefined, Some(body.len() as u64));
                stream.write(body).await.unwrap();
                let (list, size) = stream.finish().await.unwrap();
                held[number] = (list, size, attributes);
            }
            let stream = writer.entries();
            for (number, (list, size, attributes)) in held.iter().enumerate() {
                let record = EntryRecord {
                    path: format!("{:04}/{:03}", number / 1000, number % 1000).into_bytes(),
                    kind: "object".to_owned(),
                    size: Some(*size),
                    content: Some(list.clone()),
                    attributes: attributes.clone(),
                    ..EntryRecord::default()
                };
                stream.push(&record).await.unwrap();
            }
            let (list, entry_count, content_bytes) = stream.finish().await.unwrap();
            let at = Utc::now() - TimeDelta::days((points - day) as i64);
            let snapshot = Snapshot {
                source: "objects".to_owned(),
                kind: "bucket".to_owned(),
                description: "made by a benchmark".to_owned(),
                consistent_at: Some(at),
                entries: list,
                entry_count,
                content_bytes,
                facts: serde_json::json!({}),
                problems: Vec::new(),
                measures: None,
            };
            let point = Point {
                id: Repository::fresh_point_id(),
                policy: "bench".to_owned(),
                region: None,
                consistent_at: at,
                started_at: at,
                finished_at: at,
                agent: Agent { version: "0".to_owned(), host: "bench".to_owned() },
                policy_text: String::new(),
                encryption: repository.file().encryption.clone(),
                snapshots: vec![snapshot],
                anomalies: Vec::new(),
                missing_at: Vec::new(),
                more: BTreeMap::new(),
            };
            writer.commit(&repository, &point, &std::sync::atomic::AtomicBool::new(false)).await.unwrap();
        }
    });
}
