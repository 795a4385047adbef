//! The S3 server of the tests, as a store is told of it.

use farshore::stores::S3Config;

use crate::support::server;

/// A bucket of the server, with the keys of whoever may do everything.
pub fn config(bucket: &str, prefix: &str) -> S3Config {
    S3Config {
        bucket: bucket.to_owned(),
        prefix: prefix.to_owned(),
        endpoint: Some(server("FARSHORE_TEST_S3_ENDPOINT")),
        path_style: true,
        access_key: Some(server("FARSHORE_TEST_S3_ACCESS_KEY")),
        secret_key: Some(server("FARSHORE_TEST_S3_SECRET_KEY").into()),
        ..S3Config::default()
    }
}

/// A part of a bucket that nobody else has: a bucket of its own takes volumes, of which the server has few.
pub fn fresh_prefix() -> String {
    format!("run-{:032x}", rand::random::<u128>())
}
