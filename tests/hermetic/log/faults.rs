//! Storing and fetching on sites that fail.

use std::sync::Arc;

use bytes::Bytes;
use farshore::{
    repository::{Identities, LogAnswer, LogKey, LogName, LogPut, LogReader, LogWriter, Repository, RepositoryError},
    stores::{SharedStore, StoreError},
};

use super::{SYSTEM, name, segment};
use crate::support::{
    faulty_store::{Call, Fault, FaultyStore},
    recovery::{Objects, Recovery, objects, patient},
};

pub(crate) fn log_name(file: &str) -> LogName {
    LogName::new(SYSTEM, file).unwrap()
}

pub(crate) async fn opened(recovery: &Recovery, identities: &Identities, store: SharedStore) -> Arc<Repository> {
    Arc::new(recovery.open_with(identities, store, &recovery.fresh_cache()).await.unwrap())
}

/// A writer with the agent's key.
pub(crate) async fn writer(recovery: &Recovery, store: SharedStore, key: &LogKey) -> LogWriter {
    let repository = opened(recovery, &recovery.agent, store).await;
    LogWriter::new(repository, recovery.recipients.clone(), key.clone(), 1).unwrap()
}

pub(crate) async fn put(writer: &LogWriter, number: u64) -> Result<LogPut, RepositoryError> {
    writer.put(&log_name(&name(1, number)), segment(number).into()).await
}

pub(crate) async fn assert_comes_back(recovery: &Recovery, identities: &Identities, store: &SharedStore, number: u64, what: &str) {
    let reader = LogReader::new(opened(recovery, identities, store.clone()).await);
    let answer = reader.fetch(&log_name(&name(1, number))).await.unwrap_or_else(|error| panic!("{what}: {error}"));
    assert!(answer == LogAnswer::File(segment(number)), "{what}");
}

pub(crate) async fn begun(encrypted: bool) -> (Recovery, SharedStore) {
    let recovery = Recovery::new(encrypted);
    let store: SharedStore = recovery.site_of(&Objects::new()).await;
    recovery.init(&store).await;
    (recovery, store)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn encrypted_or_not_a_file_is_stored_once_and_told_from_another() {
    for encrypted in [true, false] {
        let (recovery, store) = begun(encrypted).await;
        let writer = writer(&recovery, store.clone(), &LogKey::default()).await;
        assert_eq!(put(&writer, 1).await.unwrap(), LogPut::Stored);
        let before = objects(store.as_ref()).await;
        assert_eq!(put(&writer, 1).await.unwrap(), LogPut::There);
        let mut other = segment(1);
        other[5000] ^= 1;
        let LogPut::Other { place } = writer.put(&log_name(&name(1, 1)), other.into()).await.unwrap() else { panic!() };
        assert!(place.ends_with(&name(1, 1)), "{place}");
        assert!(writer.put(&log_name(&name(1, 1)), Bytes::new()).await.unwrap() != LogPut::There);
        assert!(objects(store.as_ref()).await == before, "nothing is written over");
        assert_comes_back(&recovery, &recovery.identities, &store, 1, "encrypted").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sealed_first_and_stored_then_is_stored_as_what_is_put() {
    for encrypted in [true, false] {
        let (recovery, store) = begun(encrypted).await;
        let writer = writer(&recovery, store.clone(), &LogKey::default()).await;
        let sealed = async |bytes: Vec<u8>| writer.seal(&log_name(&name(1, 1)), bytes.into(), None).await.unwrap();
        let (first, second) = (sealed(segment(1)).await, sealed(segment(1)).await);
        let there = objects(store.as_ref()).await;
        let count = |start: &str| there.keys().filter(|key| key.starts_with(start)).count();
        assert_eq!((count("keys/log-"), count("wal/")), (1, 0), "the key comes before what is sealed under it");
        assert_eq!(writer.put_sealed(first).await.unwrap(), LogPut::Stored);
        assert_eq!(writer.put_sealed(second).await.unwrap(), LogPut::There);
        assert!(matches!(writer.put_sealed(sealed(segment(2)).await).await.unwrap(), LogPut::Other { .. }));
        assert_comes_back(&recovery, &recovery.identities, &store, 1, "sealed first").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_that_store_the_same_file_at_once_one_does_and_the_others_find_it() {
    let (recovery, store) = begun(true).await;
    let writer = writer(&recovery, store.clone(), &LogKey::default()).await;
    let outcomes = futures_util::future::join_all((0..8).map(|_| put(&writer, 1))).await;
    let stored = outcomes.iter().filter(|outcome| *outcome.as_ref().unwrap() == LogPut::Stored).count();
    assert_eq!((stored, outcomes.len()), (1, 8), "{outcomes:?}");
    assert!(outcomes.into_iter().all(|outcome| matches!(outcome.unwrap(), LogPut::Stored | LogPut::There)));
    let keys = objects(store.as_ref()).await.into_keys().filter(|key| key.starts_with("keys/log-")).count();
    assert_eq!(keys, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_fault_makes_a_success_of_what_is_not_stored_or_an_absence_of_what_is() {
    for fault in [
        Fault::RefusedBefore,
        Fault::AnswerLost,
        Fault::Throttled,
        Fault::Corrupt,
        Fault::Denied,
        Fault::BodyBreaks(10),
        Fault::BodyEndsEarly(10),
    ] {
        for call in [Call::Put, Call::Get, Call::List] {
            for number in 0..4 {
                for with_retries in [false, true] {
                    let what = format!("{fault:?} at {call:?} {number}, retries: {with_retries}");
                    let (recovery, store) = begun(true).await;
                    let faulty = FaultyStore::over(store.clone());
                    let site: SharedStore = if with_retries { patient(faulty.clone()) } else { faulty.clone() };
                    let writer = writer(&recovery, site.clone(), &LogKey::default()).await;
                    faulty.queue_after(number, call, fault);
                    let first = put(&writer, 1).await;
                    let is_there = objects(store.as_ref()).await.keys().any(|key| key.ends_with(&name(1, 1)));
                    match &first {
                        Ok(done) => assert!(is_there && !matches!(done, LogPut::Other { .. }), "{what}"),
                        Err(_) => assert!(!with_retries || fault == Fault::Denied, "{what}: {first:?}"),
                    }
                    let again = put(&writer, 1).await;
                    if first.is_err() {
                        put(&writer, 1).await.unwrap_or_else(|error| panic!("{what}: {error}, after {again:?}"));
                    }
                    assert_comes_back(&recovery, &recovery.identities, &store, 1, &what).await;
                    // And the way back.
                    let faulty = FaultyStore::over(store.clone());
                    let site: SharedStore = if with_retries { patient(faulty.clone()) } else { faulty.clone() };
                    let reader = LogReader::new(opened(&recovery, &recovery.identities, site).await);
                    faulty.queue_after(number, call, fault);
                    match reader.fetch(&log_name(&name(1, 1))).await {
                        Ok(answer) => assert!(answer == LogAnswer::File(segment(1)), "{what}"),
                        Err(error) => assert!(!with_retries || fault == Fault::Denied, "{what}: {error}"),
                    }
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn absence_takes_a_listing_that_answers() {
    let (recovery, store) = begun(true).await;
    let writer = writer(&recovery, store.clone(), &LogKey::default()).await;
    for number in [1, 3] {
        put(&writer, number).await.unwrap();
    }
    for fault in [Fault::RefusedBefore, Fault::Throttled, Fault::Denied] {
        for (call, calls) in [(Call::Get, 1), (Call::List, 2)] {
            for number in 0..calls {
                let faulty = FaultyStore::over(store.clone());
                let reader = LogReader::new(opened(&recovery, &recovery.identities, faulty.clone()).await);
                faulty.queue_after(number, call, fault);
                let outcome = reader.fetch(&log_name(&name(1, 4))).await;
                assert!(outcome.is_err(), "{fault:?} at {call:?} {number}: {outcome:?}");
            }
        }
    }
    let reader = LogReader::new(opened(&recovery, &recovery.identities, store.clone()).await);
    assert_eq!(reader.fetch(&log_name(&name(1, 4))).await.unwrap(), LogAnswer::Absent);
    assert_eq!(reader.fetch(&log_name(&name(1, 2))).await.unwrap(), LogAnswer::Gap { next: log_name(&name(1, 3)) });
    assert_eq!(reader.fetch(&log_name(&name(2, 2))).await.unwrap(), LogAnswer::Absent);
    // It came between the two looks.
    let faulty = FaultyStore::over(store.clone());
    let reader = LogReader::new(opened(&recovery, &recovery.identities, faulty.clone()).await);
    faulty.queue(Call::Get, [Fault::Gone]);
    assert!(reader.fetch(&log_name(&name(1, 3))).await.unwrap() == LogAnswer::File(segment(3)));
    // The site says that it is not there, and lists it.
    faulty.queue(Call::Get, [Fault::Gone, Fault::Gone]);
    let error = reader.fetch(&log_name(&name(1, 3))).await.unwrap_err();
    assert!(error.is_damage(), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_read_under_a_name_is_never_taken_for_the_same_file() {
    let (recovery, store) = begun(true).await;
    let writer = writer(&recovery, store.clone(), &LogKey::default()).await;
    put(&writer, 1).await.unwrap();
    let key = log_name(&name(1, 1)).to_string();
    let whole = objects(store.as_ref()).await.remove(&key).unwrap();
    for broken in [Bytes::new(), whole.slice(..40), whole.slice(..100), Bytes::from(vec![0; 500])] {
        store.delete(&key).await.unwrap();
        store.put(&key, broken, farshore::stores::PutOptions::default()).await.unwrap();
        let error = put(&writer, 1).await.unwrap_err();
        assert!(matches!(error, RepositoryError::Damaged { .. }), "{error:?}");
    }
    // Nothing there after all: it had been deleted in between.
    store.delete(&key).await.unwrap();
    assert_eq!(put(&writer, 1).await.unwrap(), LogPut::Stored);
    assert!(matches!(store.stat("wal/none").await, Err(StoreError::NotFound { .. })));
}
