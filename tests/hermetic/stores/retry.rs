//! The retry wrapper: the contract, and each fault it is there for.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use farshore::{
    clock::SystemClock,
    stores::{
        FilesystemStore, GetOptions, MemoryStore, ObjectAttributes, PutOptions, Retry, RetryPolicy, SharedStore, Store, StoreError,
        Versioning, read_all,
    },
};
use futures_util::TryStreamExt;

use crate::support::{
    faulty_store::{Call, Fault, FaultyStore},
    store_contract::{Fresh, noise},
};

fn quick() -> RetryPolicy {
    RetryPolicy { first_pause: Duration::from_micros(10), longest_pause: Duration::from_micros(50), ..RetryPolicy::default() }
}

fn over(inner: SharedStore) -> Arc<Retry> {
    Retry::over(inner, quick(), SystemClock::shared())
}

async fn fresh() -> Fresh {
    Fresh::new(over(MemoryStore::new("test")))
}

mod contract {
    crate::store_contract!(super::fresh);
}

/// A store behind faults behind the wrapper.
fn stack() -> (Arc<MemoryStore>, Arc<FaultyStore>, Arc<Retry>) {
    let memory = MemoryStore::new("test");
    let faulty = FaultyStore::over(memory.clone());
    (memory, faulty.clone(), over(faulty))
}

fn once() -> PutOptions {
    PutOptions { if_absent: true, ..PutOptions::default() }
}

#[tokio::test]
async fn every_call_survives_what_passes() {
    let (_, faulty, store) = stack();
    let passing = [Fault::RefusedBefore, Fault::Throttled, Fault::AnswerLost];
    for call in [
        Call::Put,
        Call::Get,
        Call::Stat,
        Call::List,
        Call::Delete,
        Call::BeginUpload,
        Call::UploadPart,
        Call::CompleteUpload,
        Call::AbortUpload,
        Call::Create,
    ] {
        faulty.queue(call, passing);
    }
    store.create().await.unwrap();
    store.put("k", Bytes::from_static(b"x"), PutOptions::default()).await.unwrap();
    assert_eq!(store.stat("k").await.unwrap().size, 1);
    assert_eq!(store.list("", None, 10).await.unwrap().objects.len(), 1);
    assert_eq!(read_all(&*store, "k", GetOptions::default(), 10).await.unwrap(), "x");
    let upload = store.begin_upload("u", ObjectAttributes::default()).await.unwrap();
    let part = store.upload_part("u", &upload, 1, Bytes::from_static(b"y")).await.unwrap();
    store.complete_upload("u", &upload, &[part], true).await.unwrap();
    store.abort_upload("u", &upload).await.unwrap();
    store.delete("k").await.unwrap();
    assert_eq!(faulty.calls(Call::Put), 4);
    assert_eq!(faulty.calls(Call::Delete), 4);
}

#[tokio::test]
async fn an_if_absent_put_whose_answer_was_lost_counts_as_done() {
    let (memory, faulty, store) = stack();
    for body in [Bytes::new(), noise(100_000, 1)] {
        faulty.queue(Call::Put, [Fault::AnswerLost]);
        let key = format!("k{}", body.len());
        let stat = store.put(&key, body.clone(), once()).await.unwrap();
        assert_eq!(stat, memory.stat(&key).await.unwrap());
    }
}

#[tokio::test]
async fn where_the_store_keeps_no_checksum_the_object_is_read_back() {
    let directory = tempfile::tempdir().unwrap();
    let files = FilesystemStore::new(directory.path().to_owned());
    let faulty = FaultyStore::over(files.clone());
    let store = over(faulty.clone());
    faulty.queue(Call::Put, [Fault::AnswerLost]);
    // Reading back meets faults too.
    faulty.queue(Call::Get, [Fault::RefusedBefore, Fault::BodyBreaks(1_500_000)]);
    store.put("k", noise(3 << 20, 1), once()).await.unwrap();
    assert_eq!(faulty.calls(Call::Get), 3);

    faulty.queue(Call::Put, [Fault::RefusedBefore]);
    let error = store.put("k", noise(3 << 20, 2), once()).await.unwrap_err();
    assert!(matches!(error, StoreError::AlreadyExists { .. }), "same size, other bytes: {error}");
}

#[tokio::test]
async fn a_race_that_was_lost_is_lost_even_after_a_failed_attempt() {
    let (memory, faulty, store) = stack();
    memory.put("k", Bytes::from_static(b"theirs"), PutOptions::default()).await.unwrap();
    for body in ["ours is longer", "ours!!"] {
        faulty.queue(Call::Put, [Fault::RefusedBefore]);
        let error = store.put("k", Bytes::from_static(body.as_bytes()), once()).await.unwrap_err();
        assert!(matches!(error, StoreError::AlreadyExists { .. }), "{error}");
    }
    assert_eq!(read_all(&*memory, "k", GetOptions::default(), 10).await.unwrap(), "theirs");
}

#[tokio::test]
async fn a_first_attempt_that_finds_the_object_is_not_explained_away() {
    let (memory, faulty, store) = stack();
    memory.put("k", Bytes::from_static(b"same"), PutOptions::default()).await.unwrap();
    let error = store.put("k", Bytes::from_static(b"same"), once()).await.unwrap_err();
    assert!(matches!(error, StoreError::AlreadyExists { .. }), "{error}");
    assert_eq!(faulty.calls(Call::Stat), 0);
}

#[tokio::test]
async fn a_completion_whose_answer_was_lost_counts_as_done_and_anothers_object_does_not() {
    for if_absent in [false, true] {
        let (memory, faulty, store) = stack();
        let upload = store.begin_upload("k", ObjectAttributes::default()).await.unwrap();
        let parts = [
            store.upload_part("k", &upload, 1, noise(5 << 20, 1)).await.unwrap(),
            store.upload_part("k", &upload, 2, noise(99, 2)).await.unwrap(),
        ];
        faulty.queue(Call::CompleteUpload, [Fault::AnswerLost]);
        let stat = store.complete_upload("k", &upload, &parts, if_absent).await.unwrap();
        assert_eq!(stat, memory.stat("k").await.unwrap());

        let upload = store.begin_upload("other", ObjectAttributes::default()).await.unwrap();
        let part = store.upload_part("other", &upload, 1, noise(99, 3)).await.unwrap();
        memory.put("other", noise(99, 4), PutOptions::default()).await.unwrap();
        memory.abort_upload("other", &upload).await.unwrap();
        faulty.queue(Call::CompleteUpload, [Fault::RefusedBefore]);
        let error = store.complete_upload("other", &upload, &[part], if_absent).await.unwrap_err();
        assert!(matches!(error, StoreError::NotFound { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_body_that_breaks_goes_on_where_it_broke() {
    let (memory, faulty, store) = stack();
    let bytes = noise(1 << 20, 1);
    memory.put("k", bytes.clone(), PutOptions::default()).await.unwrap();
    let breaks =
        [Fault::BodyBreaks(0), Fault::BodyBreaks(300_000), Fault::RefusedBefore, Fault::BodyEndsEarly(1), Fault::BodyBreaks(9)];
    for range in [None, Some(0..1 << 20), Some(10_000..900_001), Some(5..u64::MAX)] {
        faulty.queue(Call::Get, breaks);
        let before = faulty.calls(Call::Get);
        let options = GetOptions { range: range.clone(), ..GetOptions::default() };
        let read = read_all(&*store, "k", options, 1 << 30).await.unwrap();
        let range = range.unwrap_or(0..u64::MAX);
        let (start, end) = (usize::try_from(range.start).unwrap(), usize::try_from(range.end.min(1 << 20)).unwrap());
        assert!(read == bytes[start..end], "{range:?}");
        assert_eq!(faulty.calls(Call::Get) - before, 6);
    }
}

#[tokio::test]
async fn a_body_never_goes_on_with_another_object() {
    let (memory, faulty, store) = stack();
    memory.put("k", noise(1 << 20, 1), PutOptions::default()).await.unwrap();
    faulty.queue(Call::Get, [Fault::BodyBreaks(300_000)]);
    let download = store.get("k", GetOptions::default()).await.unwrap();
    memory.put("k", noise(1 << 20, 2), PutOptions::default()).await.unwrap();
    let result: Result<Vec<Bytes>, _> = download.body.try_collect().await;
    assert!(matches!(result, Err(StoreError::Changed { .. })));
}

#[tokio::test]
async fn a_version_that_is_asked_for_goes_on_as_the_same_version() {
    let (memory, faulty, store) = stack();
    memory.keep_versions();
    let bytes = noise(1 << 20, 1);
    memory.put("k", bytes.clone(), PutOptions::default()).await.unwrap();
    memory.put("k", noise(1 << 20, 2), PutOptions::default()).await.unwrap();
    memory.delete("k").await.unwrap();
    // Asking for versions passes over what passes, too.
    faulty.queue(Call::List, [Fault::RefusedBefore, Fault::Throttled, Fault::RefusedBefore]);
    assert_eq!(store.versioning().await.unwrap(), Versioning::Enabled);
    faulty.queue(Call::List, [Fault::AnswerLost]);
    let versions = store.list_versions("", None, 10).await.unwrap().versions;
    let version = versions.last().unwrap().stat.version.clone();
    faulty.queue(Call::Get, [Fault::BodyBreaks(300_000), Fault::RefusedBefore, Fault::BodyBreaks(9)]);
    let options = GetOptions { version, ..GetOptions::default() };
    assert!(read_all(&*store, "k", options, 1 << 30).await.unwrap() == bytes);
    assert_eq!(faulty.calls(Call::Get), 4);
}

#[tokio::test]
async fn what_is_final_is_not_tried_again_and_damage_only_a_few_times() {
    let (_, faulty, store) = stack();
    store.stat("missing").await.unwrap_err();
    assert_eq!(faulty.calls(Call::Stat), 1);
    faulty.queue(Call::Stat, [Fault::Corrupt; 9]);
    let error = store.stat("k").await.unwrap_err();
    assert!(error.to_string().contains("tried 3 times"), "{error}");
    assert_eq!(faulty.calls(Call::Stat), 4);
    faulty.queue(Call::List, [Fault::Throttled; 99]);
    store.list("", None, 1).await.unwrap_err();
    assert_eq!(faulty.calls(Call::List), u64::from(RetryPolicy::default().attempts));
}

#[tokio::test]
async fn dropping_a_call_ends_it_in_its_pause() {
    let (_, faulty, _) = stack();
    let slow = RetryPolicy {
        first_pause: Duration::from_secs(3600),
        longest_pause: Duration::from_secs(3600),
        first_contact: Duration::from_secs(36_000),
        ..quick()
    };
    let store = Retry::over(faulty.clone(), RetryPolicy { deadline: Duration::from_secs(36_000), ..slow }, SystemClock::shared());
    faulty.queue(Call::Stat, [Fault::RefusedBefore; 99]);
    let waited = tokio::time::timeout(Duration::from_millis(50), store.stat("k")).await;
    assert!(waited.is_err(), "it is still in its pause");
    assert_eq!(faulty.calls(Call::Stat), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_every_third_call_failing_nothing_is_lost_doubled_or_altered() {
    for seed in 0..20 {
        let memory = MemoryStore::new("test");
        let faulty = FaultyStore::seeded(memory.clone(), seed, 0.33);
        let policy = RetryPolicy { attempts: 40, ..quick() };
        let store: SharedStore = Retry::over(faulty, policy, SystemClock::shared());
        let mut model = std::collections::BTreeMap::new();
        for step in 0..60_u64 {
            let key = format!("k{}", step % 7);
            let body = noise(usize::try_from(step * 977).unwrap(), seed * 1000 + step);
            match step % 4 {
                0 | 1 => match store.put(&key, body.clone(), once()).await {
                    Ok(_) => assert!(model.insert(key, body).is_none(), "seed {seed}, step {step}: won against what was there"),
                    Err(StoreError::AlreadyExists { .. }) => assert!(model.contains_key(&key), "seed {seed}, step {step}"),
                    Err(error) => panic!("seed {seed}, step {step}: {error}"),
                },
                2 => {
                    for (key, body) in &model {
                        let read = read_all(&*store, key, GetOptions::default(), 1 << 30).await.unwrap();
                        assert!(read == body, "seed {seed}, step {step}: {key} reads otherwise");
                    }
                }
                _ => {
                    store.delete(&key).await.unwrap();
                    model.remove(&key);
                }
            }
        }
        let listed: Vec<_> = store.list("", None, 100).await.unwrap().objects.into_iter().map(|object| object.key).collect();
        assert_eq!(listed, model.keys().cloned().collect::<Vec<_>>(), "seed {seed}");
    }
}
