//! A store over an S3 bucket, or any server that speaks its protocol: `config.rs` and `transport.rs` say how it is reached, `read.rs`,
//! `write.rs` and `versions.rs` what is asked, `values.rs` how values travel, `error.rs` what the answers mean,
//! `permissions.rs` what an identity must be allowed, `encryption.rs` how the server encrypts, `tags.rs` when tags are asked for,
//! `archive.rs` how objects are brought back from an archive, `holds.rs` what holds an object.
//!
//! Promises beside those of the room:
//! * Every upload carries the SHA-256 of its bytes in a signed header, for the server to verify; the body is not signed as well, which would hash
//!   it twice. What is sealed ([`PutOptions::sealed`]) carries its CRC-32C, where the connection is private and the server takes it.
//! * Every request ends (the room `wire`).
//! * A body that ends before its stated length is an error; a whole object's stored checksum is verified where the server sends one, but
//!   for what the reader authenticates ([`GetOptions::sealed`]).
//! * `Content-Encoding` is kept as a value and never acted on.
//!
//! Assumes that prefixes are directories: with prefix `p`, keys live under `p/`. An object `p/` itself is none of the store's.
//!
//! Reads the newest version of an object, or where [`S3Config::first_versions`] says so the one that was stored first;
//! and any version that [`GetOptions::version`] names.
//!
//! Leaves out on purpose: retries (the `retry` wrapper decides).

mod archive;
mod config;
mod encryption;
mod error;
mod holds;
mod permissions;
mod read;
mod tags;
mod transport;
mod values;
mod versions;
mod write;

use std::{
    fmt,
    sync::{Arc, Mutex, atomic::AtomicBool},
};

use async_trait::async_trait;
use aws_sdk_s3::{
    Client,
    config::{
        ConfigBag, Intercept, RuntimeComponents, http::HttpResponse, interceptors::BeforeDeserializationInterceptorContextRef,
    },
    error::{BoxError, ProvideErrorMetadata, SdkError},
    types::RequestPayer,
};
use bytes::Bytes;
use chrono::{DateTime, Utc};

use super::{
    Availability, Download, GetOptions, Holds, Lock, LockSupport, ObjectAttributes, ObjectStat, Page, PutOptions, Retrieval, Store,
    StoreError, UploadedPart, VersionCursor, VersionPage, Versioning,
    bounds::{check_key, object_place},
};
use crate::clock::{SharedClock, SystemClock};

pub use config::S3Config;
pub use encryption::S3Encryption;
pub use permissions::{S3Place, S3Source, s3_permissions, s3_source_permissions};

/// A store over an S3 bucket.
pub struct S3Store {
    client: Client,
    bucket: String,
    /// Empty, or ends with a slash.
    prefix: String,
    region: String,
    place: String,
    /// See [`S3Config::first_versions`].
    first_versions: bool,
    /// See [`S3Config::encryption`].
    encryption: Option<S3Encryption>,
    /// Sent with every request that takes it; see [`S3Config::requester_pays`].
    payer: Option<RequestPayer>,
    /// Whether what is sealed may have a CRC-32C: where nobody on the way can change bytes and the checksum with them, until the server takes none.
    takes_crc32c: AtomicBool,
    tag_counts: tags::TagCounts,
    told_holds: holds::ToldHolds,
    clock: SharedClock,
}

impl S3Store {
    /// Finds credentials and region; nothing is asked of the bucket yet.
    ///
    /// # Errors
    /// [`StoreError::Unauthenticated`] if no credentials can be found, or half a pair was given.
    pub async fn connect(config: S3Config) -> Result<Self, StoreError> {
        let (client, region) = config.client().await?;
        let prefix = config.prefix.trim_matches('/');
        Ok(Self {
            client,
            region,
            place: config.place(),
            prefix: if prefix.is_empty() { String::new() } else { format!("{prefix}/") },
            takes_crc32c: AtomicBool::new(config.is_private()),
            first_versions: config.first_versions,
            encryption: config.encryption,
            payer: config.requester_pays.then_some(RequestPayer::Requester),
            tag_counts: tags::TagCounts::default(),
            told_holds: holds::ToldHolds::default(),
            bucket: config.bucket,
            clock: SystemClock::shared(),
        })
    }

    /// The whole key within the bucket.
    fn whole(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    fn object_place(&self, key: &str) -> String {
        object_place(&self.place, key)
    }

    fn error<E>(&self, key: &str, action: &'static str, error: &SdkError<E, HttpResponse>) -> StoreError
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let place = self.object_place(key);
        match error::store_error(place, action, error) {
            StoreError::NoSuchPlace { .. } => StoreError::NoSuchPlace { place: self.place.clone() },
            meaning => meaning,
        }
    }

    fn corrupt(&self, key: &str, detail: impl Into<String>) -> StoreError {
        StoreError::Corrupt { place: self.object_place(key), detail: detail.into() }
    }

    fn other(&self, key: &str, action: &'static str, detail: String) -> StoreError {
        StoreError::Other { place: self.object_place(key), action, detail }
    }

    fn response_date(&self) -> ResponseDate {
        ResponseDate { found: Arc::default(), clock: self.clock.clone() }
    }
}

impl fmt::Debug for S3Store {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "S3Store({})", self.place)
    }
}

/// Reads the `Date` of a response: a put's answer names no time otherwise, and times that decide deletion are the site's.
#[derive(Debug, Clone)]
struct ResponseDate {
    found: Arc<Mutex<Option<DateTime<Utc>>>>,
    clock: SharedClock,
}

impl ResponseDate {
    /// The server's time of the answer; this machine's if the server sent none.
    fn get(&self) -> DateTime<Utc> {
        self.stated().unwrap_or_else(|| self.clock.now())
    }

    /// The server's time of the answer, if it sent one.
    fn stated(&self) -> Option<DateTime<Utc>> {
        *self.found.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Intercept for ResponseDate {
    fn name(&self) -> &'static str {
        "ResponseDate"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let date = context.response().headers().get("date").and_then(|date| DateTime::parse_from_rfc2822(date).ok());
        *self.found.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = date.map(|date| date.to_utc());
        Ok(())
    }
}

#[async_trait]
impl Store for S3Store {
    fn describe(&self) -> String {
        self.place.clone()
    }

    async fn put(&self, key: &str, body: Bytes, options: PutOptions) -> Result<ObjectStat, StoreError> {
        check_key(&self.place, key, "put")?;
        self.put_object(key, body, options).await
    }

    async fn get(&self, key: &str, options: GetOptions) -> Result<Download, StoreError> {
        check_key(&self.place, key, "get")?;
        self.get_object(key, options).await
    }

    async fn stat(&self, key: &str) -> Result<ObjectStat, StoreError> {
        check_key(&self.place, key, "stat")?;
        self.head_object(key).await
    }

    fn seeks(&self) -> bool {
        true
    }

    async fn list(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> Result<Page, StoreError> {
        if self.first_versions {
            return self.list_first_versions(prefix, start_after, limit).await;
        }
        self.list_objects(prefix, start_after, limit).await
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        check_key(&self.place, key, "delete")?;
        self.delete_object(key).await
    }

    async fn begin_upload(&self, key: &str, attributes: ObjectAttributes) -> Result<String, StoreError> {
        check_key(&self.place, key, "begin an upload")?;
        self.create_multipart(key, attributes).await
    }

    async fn upload_part(&self, key: &str, upload: &str, number: u32, body: Bytes) -> Result<UploadedPart, StoreError> {
        self.put_part(key, upload, number, body).await
    }

    async fn complete_upload(
        &self,
        key: &str,
        upload: &str,
        parts: &[UploadedPart],
        if_absent: bool,
    ) -> Result<ObjectStat, StoreError> {
        self.complete_multipart(key, upload, parts, if_absent).await
    }

    async fn abort_upload(&self, key: &str, upload: &str) -> Result<(), StoreError> {
        self.abort_multipart(key, upload).await
    }

    async fn time(&self) -> Result<DateTime<Utc>, StoreError> {
        self.server_time().await
    }

    async fn create(&self) -> Result<(), StoreError> {
        self.create_bucket(false).await
    }

    async fn create_locking(&self) -> Result<(), StoreError> {
        self.create_bucket(true).await
    }

    async fn lock_support(&self) -> Result<LockSupport, StoreError> {
        self.ask_lock_support().await
    }

    async fn lock_of(&self, key: &str) -> Result<Option<Lock>, StoreError> {
        check_key(&self.place, key, "read the lock of")?;
        self.read_lock(key).await
    }

    async fn holds(&self, key: &str, version: Option<&str>, shown: Option<Holds>) -> Result<Holds, StoreError> {
        check_key(&self.place, key, "read the lock of")?;
        self.read_holds(key, version, shown).await
    }

    async fn set_lock(&self, key: &str, lock: Lock) -> Result<(), StoreError> {
        check_key(&self.place, key, "lock")?;
        let version = self.first_version(key).await?;
        self.put_retention(key, &version, lock).await
    }

    async fn extend_lock(&self, key: &str, lock: Lock) -> Result<Lock, StoreError> {
        check_key(&self.place, key, "extend the lock of")?;
        self.lengthen_lock(key, lock).await
    }

    async fn availability(&self, key: &str, version: Option<&str>) -> Result<Availability, StoreError> {
        check_key(&self.place, key, "stat")?;
        self.ask_availability(key, version).await
    }

    async fn bring_back(&self, key: &str, version: Option<&str>, how: Retrieval) -> Result<Availability, StoreError> {
        check_key(&self.place, key, "bring back")?;
        self.ask_for(key, version, how).await
    }

    async fn versioning(&self) -> Result<Versioning, StoreError> {
        self.ask_versioning().await
    }

    async fn list_versions(&self, prefix: &str, from: Option<&VersionCursor>, limit: usize) -> Result<VersionPage, StoreError> {
        self.page_of_versions(prefix, from, limit).await
    }

    async fn delete_versions(&self, key: &str) -> Result<(), StoreError> {
        check_key(&self.place, key, "delete")?;
        self.delete_all_versions(key).await
    }
}
