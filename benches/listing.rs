//! Lists a bucket of the S3 server that `testbed/with-servers` started, or a directory, page after page, and does nothing else: what an
//! unchanged bucket's backup, a prune with nothing to do and a verification are measured against by `benches/compare`.
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on says why by panicking")]

use std::sync::Arc;

use farshore::stores::{FilesystemStore, S3Config, S3Store, SharedStore};

fn main() {
    // `cargo bench` without a bucket: nothing to measure here.
    let (bucket, directory) = (std::env::var("FARSHORE_BENCH_BUCKET"), std::env::var("FARSHORE_BENCH_DIRECTORY"));
    if bucket.is_err() && directory.is_err() {
        return;
    }
    let setting =
        |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run this through testbed/with-servers"));
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        if let Ok(directory) = directory {
            return list(FilesystemStore::new(directory.into())).await;
        }
        let store = S3Store::connect(S3Config {
            bucket: bucket.unwrap(),
            endpoint: Some(setting("FARSHORE_TEST_S3_ENDPOINT")),
            path_style: true,
            access_key: Some(setting("FARSHORE_TEST_S3_ACCESS_KEY")),
            secret_key: Some(setting("FARSHORE_TEST_S3_SECRET_KEY").into()),
            ..S3Config::default()
        })
        .await
        .unwrap();
        list(Arc::new(store)).await;
    });
}

async fn list(store: SharedStore) {
    let (mut count, mut last) = (0, None);
    loop {
        let page = store.list("", last.as_deref(), 1000).await.unwrap();
        count += page.objects.len();
        last = page.objects.last().map(|object| object.key.clone());
        if !page.more {
            break;
        }
    }
    println!("{count} objects");
}
