//! Lists a bucket of the S3 server that `testbed/with-servers` started, page after page, and does nothing else: what an
//! unchanged bucket's backup is measured against by `benches/compare`.
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on says why by panicking")]

use farshore::stores::{S3Config, S3Store, Store};

fn main() {
    // `cargo bench` without a bucket: nothing to measure here.
    let Some(bucket) = std::env::var("FARSHORE_BENCH_BUCKET").ok() else { return };
    let setting =
        |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run this through testbed/with-servers"));
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let store = S3Store::connect(S3Config {
            bucket,
            endpoint: Some(setting("FARSHORE_TEST_S3_ENDPOINT")),
            path_style: true,
            access_key: Some(setting("FARSHORE_TEST_S3_ACCESS_KEY")),
            secret_key: Some(setting("FARSHORE_TEST_S3_SECRET_KEY").into()),
            ..S3Config::default()
        })
        .await
        .unwrap();
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
    });
}
