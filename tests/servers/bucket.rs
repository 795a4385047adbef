//! Source `bucket` against a real S3 server: from one prefix into another.

use std::sync::Arc;

use bytes::Bytes;
use farshore::{
    sources::{
        Rebuild,
        bucket::{BucketOptions, BucketSource, BucketTarget},
    },
    stores::{GetOptions, ObjectAttributes, PutOptions, S3Store, SharedStore, read_all},
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
