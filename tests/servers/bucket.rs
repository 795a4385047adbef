//! Source `bucket` against a real S3 server: from one prefix into another.

use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use farshore::{
    sources::{
        Rebuild,
        bucket::{BucketAttributes, BucketOptions, BucketSource, BucketTarget, RestoredLocks},
    },
    stores::{GetOptions, Holds, Lock, LockMode, ObjectAttributes, PutOptions, S3Store, SharedStore, Store, StoreError, read_all},
};

use crate::{
    s3,
    support::exchange::{Capturing, Rebuilding, assert_checks},
};

async fn prefix() -> SharedStore {
    let config = s3::config("farshore-bucket-source", &s3::fresh_prefix());
    let store: SharedStore = Arc::new(S3Store::connect(config).await.unwrap());
    store.create().await.unwrap();
    store
}

#[tokio::test]
async fn a_bucket_comes_back_into_another_prefix_and_what_is_unchanged_is_neither_read_nor_written() {
    let (primary, secondary) = (prefix().await, prefix().await);
    let attributes = ObjectAttributes {
        content_type: Some("image/png".into()),
        cache_control: Some("max-age=60".into()),
        metadata: [("owner".to_owned(), "mm".to_owned())].into(),
        tags: [("tier".to_owned(), "gold".to_owned())].into(),
        ..ObjectAttributes::default()
    };
    let large: Vec<u8> = (0..5_000_000u32).flat_map(u32::to_le_bytes).collect();
    let mut objects: Vec<(String, Bytes)> =
        (0..40).map(|number| (format!("2026/ünï çødé/{number:03}"), format!("object {number}").into())).collect();
    objects.push(("empty".to_owned(), Bytes::new()));
    objects.push(("large".to_owned(), large.into()));
    for (key, bytes) in &objects {
        let options = PutOptions { attributes: attributes.clone(), ..PutOptions::default() };
        primary.put(key, bytes.clone(), options).await.unwrap();
    }
    let source = BucketSource::new(Arc::clone(&primary), BucketOptions::default());
    let first = Capturing::first();
    let facts = first.run(&source).await.unwrap().facts;
    assert_eq!((&facts["objects"], first.problems().len()), (&objects.len().into(), 0));
    let second = Capturing::after(&first.sink);
    second.run(&source).await.unwrap();
    assert_eq!(second.sink.opened(), 0);
    assert_eq!(second.sink.entries(), first.sink.entries());

    let target = BucketTarget::new(Arc::clone(&secondary));
    target.inspect(&facts, false).await.unwrap();
    let rebuilt = Rebuilding::anew().run(&target, second.sink.origin(), &facts).await.unwrap();
    assert_checks(&rebuilt);
    for (key, bytes) in &objects {
        let options = GetOptions { attributes: true, ..GetOptions::default() };
        assert_eq!(read_all(&*secondary, key, options.clone(), u64::MAX).await.unwrap(), bytes, "{key}");
        let back = secondary.get(key, options).await.unwrap().attributes;
        assert_eq!((&back.content_type, &back.metadata), (&attributes.content_type, &attributes.metadata), "{key}");
        assert_eq!((&back.cache_control, &back.tags), (&attributes.cache_control, &attributes.tags), "{key}");
    }
    let again = Rebuilding::over().run(&target, second.sink.origin(), &facts).await.unwrap();
    assert_checks(&again);
    assert_eq!((again.items, again.items_kept), (0, objects.len() as u64));
}

#[tokio::test]
async fn what_holds_objects_is_recorded_and_comes_back_into_a_bucket_that_is_made_for_it() {
    let below = async |bucket: &str| S3Store::connect(s3::config(bucket, &s3::fresh_prefix())).await.unwrap();
    let primary = Arc::new(below("farshore-locks").await);
    let secondary = Arc::new(below("farshore-locks-restored").await);
    primary.create_locking().await.unwrap();
    let until = DateTime::from_timestamp(Utc::now().timestamp(), 0).unwrap() + TimeDelta::hours(1);
    let lock = |mode, until| Some(Lock { mode, until });
    let held = |lock, legal_hold| Holds { lock, legal_hold };
    let mut all = vec![
        ("compliance", held(lock(LockMode::Compliance, until), false)),
        ("free", held(None, false)),
        ("governance", held(lock(LockMode::Governance, until), false)),
        ("held", held(None, true)),
        ("large", held(lock(LockMode::Governance, until), true)),
    ];
    for (key, holds) in &all {
        let body = if *key == "large" { vec![7; 9 << 20].into() } else { Bytes::from_static(b"bytes") };
        let options = PutOptions { attributes: ObjectAttributes::default().held_by(*holds), ..PutOptions::default() };
        primary.put(key, body, options).await.unwrap();
    }
    let source = BucketSource::new(primary.clone(), BucketOptions { locks: true, ..BucketOptions::default() });
    let recorded = |capturing: &Capturing| {
        let entries = capturing.sink.entries().into_iter();
        entries.map(|entry| entry.attributes::<BucketAttributes>().unwrap().object.holds()).collect::<Vec<_>>()
    };
    let expected = |all: &[(&str, Holds)]| all.iter().map(|(_, holds)| *holds).collect::<Vec<_>>();
    let first = Capturing::first();
    let facts = first.run(&source).await.unwrap().facts;
    assert_eq!((recorded(&first), first.problems()), (expected(&all), Vec::new()));
    assert_eq!((&facts["locks_asked"], &facts["locked_objects"], &facts["held_objects"]), (&5.into(), &3.into(), &2.into()));
    // Longer than it was, without the object's being touched.
    all[2].1 = held(lock(LockMode::Governance, until + TimeDelta::hours(1)), false);
    primary.extend_lock("governance", all[2].1.lock.unwrap()).await.unwrap();
    let second = Capturing::after(&first.sink);
    let facts = second.run(&source).await.unwrap().facts;
    assert_eq!((recorded(&second), second.sink.opened(), second.problems()), (expected(&all), 0, Vec::new()));

    let target = BucketTarget::new(secondary.clone()).with_locks(RestoredLocks::AsRecorded);
    target.inspect(&facts, false).await.unwrap();
    assert_checks(&Rebuilding::anew().run(&target, second.sink.origin(), &facts).await.unwrap());
    for (key, holds) in &all {
        let shown = secondary.get(key, GetOptions::default()).await.unwrap().attributes.holds();
        assert_eq!((shown, secondary.holds(key, None, None).await.unwrap()), (*holds, *holds), "{key}");
        let deleted = secondary.delete_versions(key).await;
        match holds.lock {
            Some(_) => assert!(matches!(deleted, Err(StoreError::Locked { .. })), "{key}: {deleted:?}"),
            None => assert_eq!(deleted.is_err(), holds.legal_hold, "{key}: {deleted:?}"),
        }
    }
    let again = Rebuilding::over().run(&target, second.sink.origin(), &facts).await.unwrap();
    assert_eq!((again.items, again.items_kept), (1, 4), "what was deleted, and what is there");
    // Without Object Lock there, nothing is written.
    let plain = Arc::new(below("farshore-bucket-source").await);
    plain.create().await.unwrap();
    let target = BucketTarget::new(plain).with_locks(RestoredLocks::AsRecorded);
    let refused = target.inspect(&facts, false).await.unwrap_err().to_string();
    assert!(refused.contains("made with Object Lock"), "{refused}");
}
