//! The log, copied from one site to another with other readers.

use chrono::{DateTime, Utc};
use farshore::{
    operations::OperationError,
    report::ExitCode,
    repository::{LogKey, LogName, LogWriter, Repository},
    stores::{MemoryStore, PutOptions, SharedStore},
};

use super::{
    SYSTEM,
    faults::{assert_comes_back, begun, log_name, opened, put, writer},
    name,
    prune::{archived, fill, point},
    segment,
};
use crate::support::{
    faulty_store::{Call, Fault, FaultyStore},
    recovery::{Recovery, objects},
    sites::{Far, fresh_reader},
};

/// A site with a point that begins in the sixth of ten segments, and one for other readers that has nothing.
async fn two() -> (Recovery, Far, Far) {
    let (recovery, store) = begun(true).await;
    fill(&recovery, &store).await;
    point(&recovery, &store, 1, 6).await;
    let part = LogName::part(SYSTEM, &name(1, 11), &(0..4096)).unwrap();
    let needless = LogName::part(SYSTEM, &name(1, 10), &(0..4096)).unwrap();
    let whole = writer(&recovery, store.clone(), &LogKey::default()).await;
    for (name, number) in [(part, 11), (needless, 10)] {
        whole.put_ended(&name, segment(number)[..4096].to_vec().into(), Some(ended())).await.unwrap();
    }
    let (identities, recipients) = fresh_reader();
    let target: SharedStore = MemoryStore::new("copy");
    Repository::init(&target, &recovery.shared_clock(), &recipients).await.unwrap();
    let from = recovery.far("from", store);
    (recovery, from, Far { name: "to", store: target, recipients, identities })
}

/// When the log ended where the parts do.
fn ended() -> DateTime<Utc> {
    DateTime::from_timestamp(1_764_154_800, 250_000_000).unwrap()
}

/// What belongs at the target.
fn wanted() -> Vec<String> {
    let mut names: Vec<String> = (6..=10).map(|number| name(1, number)).collect();
    names.push(format!("{}.part-00000000-00001000", name(1, 11)));
    names.push("00000002.history".to_owned());
    names
}

/// Stores a segment at the target, for its readers.
async fn put_at(recovery: &Recovery, to: &Far, number: u64, bytes: Vec<u8>) {
    let repository = opened(recovery, &to.identities, to.store.clone()).await;
    let writer = LogWriter::new(repository, to.recipients.clone(), LogKey::default(), 1).unwrap();
    writer.put(&log_name(&name(1, number)), bytes.into()).await.unwrap();
}

async fn log_keys(store: &SharedStore) -> usize {
    objects(store.as_ref()).await.into_keys().filter(|key| key.starts_with("keys/log-")).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_from_the_oldest_point_on_is_copied_for_the_readers_of_the_target_and_once() {
    let (recovery, from, to) = two().await;
    let report = recovery.copy(&from, &to, None, &recovery.fresh_cache()).await.unwrap();
    assert_eq!((report.points.len(), report.exit_code()), (1, ExitCode::Success), "{report:?}");
    let [log] = report.log.as_slice() else { panic!("{report:?}") };
    assert_eq!((log.files, log.present, log.bytes), (7, 0, 5 * (1 << 20) + 4096 + 8), "{log:?}");
    assert_eq!((log.first.as_deref(), log.last.as_deref()), (Some(&*name(1, 6)), Some(&*name(1, 10))));
    assert_eq!(archived(&to.store).await, wanted());
    let target = opened(&recovery, &to.identities, to.store.clone()).await;
    let (part, whole) = (LogName::part(SYSTEM, &name(1, 11), &(0..4096)).unwrap(), log_name(&name(1, 10)));
    assert_eq!(target.log_head(&part).await.unwrap().unwrap().ended_at, Some(ended()), "a copy is not younger");
    assert_eq!(target.log_head(&whole).await.unwrap().unwrap().ended_at, None);
    for number in 6..=10 {
        assert_comes_back(&recovery, &to.identities, &to.store, number, "the target's reader").await;
    }
    let verified = recovery.verify_with(&to.identities, to.store.clone(), &recovery.fresh_cache()).await.unwrap();
    assert_eq!(verified.damage, []);

    // Again: nothing is written, not even a key; what came meanwhile is.
    let before = objects(to.store.as_ref()).await.len();
    let again = recovery.copy(&from, &to, None, &recovery.fresh_cache()).await.unwrap();
    assert_eq!((again.log[0].files, again.log[0].bytes, again.log[0].present), (0, 0, 7));
    assert_eq!((objects(to.store.as_ref()).await.len(), log_keys(&to.store).await), (before, 1));
    put(&writer(&recovery, from.store.clone(), &LogKey::default()).await, 11).await.unwrap();
    let again = recovery.copy(&from, &to, None, &recovery.fresh_cache()).await.unwrap();
    // The part that was copied is of a segment that is whole now.
    assert_eq!((again.log[0].files, again.log[0].present), (1, 6));
    assert_comes_back(&recovery, &to.identities, &to.store, 11, "what came meanwhile").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_fails_anywhere_leaves_no_hole_and_the_next_one_goes_on() {
    let (recovery, from, to) = two().await;
    let puts = async |at: u64, fault: Fault| {
        let target: SharedStore = MemoryStore::new("copy");
        for (key, body) in objects(to.store.as_ref()).await {
            target.put(&key, body, PutOptions::default()).await.unwrap();
        }
        let faulty = FaultyStore::over(target.clone());
        faulty.queue_after(at, Call::Put, fault);
        let through = Far { store: faulty.clone(), ..to.clone() };
        let first = recovery.copy(&from, &through, None, &recovery.fresh_cache()).await;
        let there = archived(&target).await;
        let segments: Vec<&String> = there.iter().filter(|name| name.len() == 24).collect();
        assert!(segments.iter().enumerate().all(|(at, found)| **found == name(1, 6 + at as u64)), "{fault:?} at {at}: {there:?}");
        let to = Far { store: target.clone(), ..to.clone() };
        let report = recovery.copy(&from, &to, None, &recovery.fresh_cache()).await.unwrap();
        assert_eq!(archived(&target).await, wanted(), "{fault:?} at {at}");
        assert_eq!(report.log[0].files + report.log[0].present, 7);
        assert_eq!(report.log[0].present, there.len() as u64, "what was there is kept");
        for number in 6..=10 {
            assert_comes_back(&recovery, &to.identities, &target, number, "after a fault").await;
        }
        first.is_err()
    };
    let mut failed = 0;
    for fault in [Fault::RefusedBefore, Fault::AnswerLost] {
        for at in 0..16 {
            failed += u32::from(puts(at, fault).await);
        }
    }
    assert!(failed >= 20, "{failed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_file_under_a_name_is_an_error_and_nothing_is_mixed_with_it() {
    let (recovery, from, to) = two().await;
    put_at(&recovery, &to, 8, super::segment_of(SYSTEM, 1, 8, 5)).await;
    let error = recovery.copy(&from, &to, None, &recovery.fresh_cache()).await.unwrap_err();
    assert!(matches!(&error, OperationError::Refused { subject, .. } if subject.ends_with(&name(1, 8))), "{error}");
    assert!(error.to_string().contains("another file of this name with other bytes is there"), "{error}");
    assert_eq!(archived(&to.store).await, [name(1, 8)]);
    // The very same file is kept.
    to.store.delete(&log_name(&name(1, 8)).to_string()).await.unwrap();
    put_at(&recovery, &to, 8, segment(8)).await;
    let report = recovery.copy(&from, &to, None, &recovery.fresh_cache()).await.unwrap();
    assert_eq!((report.log[0].files, report.log[0].present), (6, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_damaged_at_the_source_is_named_and_the_others_are_copied() {
    let (recovery, from, to) = two().await;
    let key = log_name(&name(1, 8)).to_string();
    let mut body = objects(from.store.as_ref()).await.remove(&key).unwrap().to_vec();
    let last = body.len() - 1;
    body[last] ^= 1;
    from.store.delete(&key).await.unwrap();
    from.store.put(&key, body.into(), PutOptions::default()).await.unwrap();
    let report = recovery.copy(&from, &to, None, &recovery.fresh_cache()).await.unwrap();
    assert_eq!((report.log[0].files, report.exit_code()), (6, ExitCode::Damaged));
    assert!(report.damaged[0].subject == key && report.damaged[0].message.contains("was not copied"), "{report:?}");
    // An identity that opens nothing copies nothing of it.
    let (recovery, mut from, to) = two().await;
    recovery.copy(&from, &to, None, &recovery.fresh_cache()).await.unwrap();
    put(&writer(&recovery, from.store.clone(), &LogKey::default()).await, 11).await.unwrap();
    from.identities = recovery.agent.clone();
    let error = recovery.copy(&from, &to, None, &recovery.fresh_cache()).await.unwrap_err();
    assert!(error.to_string().contains("keys/log-"), "{error}");
}
