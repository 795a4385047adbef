//! A store over a container of Azure Blob Storage: `config.rs` says how it is reached and who asks, `sign.rs` and `transport.rs` are what the
//! SDK's pipeline lacks, `request.rs` is one request, `read.rs`, `listing.rs`, `write.rs`, `versions.rs` and `immutability.rs` what is asked,
//! `values.rs` and `xml.rs` how values travel, `error.rs` what the answers mean, `permissions.rs` what an identity must be allowed,
//! `archive.rs` how blobs are brought back from the archive tier.
//!
//! Promises beside those of the room:
//! * Every upload carries the CRC-64 of its bytes, which the server verifies; a SHA-256 that the caller states is verified before.
//! * Every request ends (the room `wire`).
//! * A body that ends before its stated length is an error.
//! * `Content-Encoding` is kept as a value and never acted on.
//! * No error, no log and no address shows a key or a signature.
//! * A lock is a locked time-based policy on the version that was stored first, put together with it. A deletion that it refuses hides nothing.
//!
//! Large objects go as blocks. What an upload stored before it was aborted cannot be deleted: Azure drops it within a week, or when the blob
//! is written. Keys that Azure would store under another name are refused.
//!
//! Reads the current version of a blob, or where [`AzureConfig::first_versions`] says so the one that was stored first.
//!
//! Assumes that prefixes are directories: with prefix `p`, keys live under `p/`.
//!
//! No server that can be had for tests keeps versions or policies: Azurite ignores the headers and answers 501. So versions and locks were
//! tried against a server of the tests' own (`tests/support/fake_azure`), which does what Microsoft's documents say, and not against Azure.
//! `farshore init` tries them out at each new site, and each backup reads a lock back, before anything relies on them.
//!
//! Leaves out on purpose: retries (the `retry` wrapper decides); unlocked policies and legal holds at a site (see `immutability.rs`);
//! containers' own policies; soft delete, which keeps deleted versions for as long as the account says.

mod archive;
mod config;
mod error;
mod immutability;
mod listing;
mod permissions;
mod read;
mod request;
mod sign;
mod transport;
mod values;
mod versions;
mod write;
mod xml;

use std::{
    collections::HashMap,
    fmt,
    sync::{Mutex, MutexGuard},
};

use async_trait::async_trait;
use azure_core::http::Pipeline;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use secrecy::SecretString;

use super::{
    Availability, Download, GetOptions, Holds, Lock, LockSupport, ObjectAttributes, ObjectStat, Page, PutOptions, Retrieval, Store,
    StoreError, UploadedPart,
    bounds::{check_key, object_place},
};
use crate::clock::{SharedClock, SystemClock};
use listing::Markers;

pub use config::{AzureConfig, AzureCredential};
pub use permissions::azure_permissions;

/// A store over a container.
pub struct AzureStore {
    pipeline: Pipeline,
    account: String,
    container: String,
    container_url: String,
    /// Goes into the query of each request.
    sas: Option<SecretString>,
    /// Empty, or ends with a slash.
    prefix: String,
    place: String,
    /// See [`AzureConfig::first_versions`].
    first_versions: bool,
    clock: SharedClock,
    markers: Markers,
    /// Attributes of the uploads under way.
    uploads: Mutex<HashMap<String, ObjectAttributes>>,
}

impl AzureStore {
    /// Finds credentials; nothing is asked of the container yet.
    ///
    /// # Errors
    /// [`StoreError::Unauthenticated`] if no credentials can be found, or they cannot be read.
    pub async fn connect(config: AzureConfig) -> Result<Self, StoreError> {
        let clock = SystemClock::shared();
        let (pipeline, container_url, sas) = config.connect(&clock).await?;
        let prefix = config.prefix.trim_matches('/');
        Ok(Self {
            pipeline,
            container_url,
            sas,
            prefix: if prefix.is_empty() { String::new() } else { format!("{prefix}/") },
            place: config.place(),
            first_versions: config.first_versions,
            account: config.account,
            container: config.container,
            clock,
            markers: Markers::default(),
            uploads: Mutex::default(),
        })
    }

    /// The whole name within the container.
    fn whole(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    fn object_place(&self, key: &str) -> String {
        object_place(&self.place, key)
    }

    fn corrupt(&self, key: &str, detail: impl Into<String>) -> StoreError {
        StoreError::Corrupt { place: self.object_place(key), detail: detail.into() }
    }

    fn uploads(&self) -> MutexGuard<'_, HashMap<String, ObjectAttributes>> {
        // Each change is a single insertion or removal.
        self.uploads.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Refuses a key that cannot be asked for: in a URL it would be another one.
    fn check(&self, key: &str, action: &'static str) -> Result<(), StoreError> {
        check_key(&self.place, key, action)?;
        if key.split('/').any(|segment| matches!(segment, "." | "..")) {
            let detail = "Azure cannot hold this key (a URL cannot hold a segment . or ..); give the object another key".to_owned();
            return Err(StoreError::Other { place: self.object_place(key), action, detail });
        }
        Ok(())
    }
}

impl fmt::Debug for AzureStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "AzureStore({})", self.place)
    }
}

#[async_trait]
impl Store for AzureStore {
    fn describe(&self) -> String {
        self.place.clone()
    }

    async fn put(&self, key: &str, body: Bytes, options: PutOptions) -> Result<ObjectStat, StoreError> {
        self.check(key, "put")?;
        self.put_blob(key, body, options).await
    }

    async fn get(&self, key: &str, options: GetOptions) -> Result<Download, StoreError> {
        self.check(key, "get")?;
        self.get_blob(key, options).await
    }

    async fn stat(&self, key: &str) -> Result<ObjectStat, StoreError> {
        self.check(key, "stat")?;
        self.head_blob(key).await
    }

    async fn list(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> Result<Page, StoreError> {
        self.list_blobs(prefix, start_after, limit).await
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.check(key, "delete")?;
        self.delete_version(key, None).await
    }

    async fn begin_upload(&self, key: &str, attributes: ObjectAttributes) -> Result<String, StoreError> {
        self.check(key, "begin an upload")?;
        self.begin_blocks(key, attributes)
    }

    async fn upload_part(&self, key: &str, upload: &str, number: u32, body: Bytes) -> Result<UploadedPart, StoreError> {
        self.put_block(key, upload, number, body).await
    }

    async fn complete_upload(
        &self,
        key: &str,
        upload: &str,
        parts: &[UploadedPart],
        if_absent: bool,
    ) -> Result<ObjectStat, StoreError> {
        self.commit_blocks(key, upload, parts, if_absent).await
    }

    async fn abort_upload(&self, _key: &str, upload: &str) -> Result<(), StoreError> {
        self.uploads().remove(upload);
        Ok(())
    }

    async fn time(&self) -> Result<DateTime<Utc>, StoreError> {
        self.server_time().await
    }

    async fn create(&self) -> Result<(), StoreError> {
        self.create_container().await
    }

    async fn create_locking(&self) -> Result<(), StoreError> {
        self.expect_locking_container().await
    }

    async fn lock_support(&self) -> Result<LockSupport, StoreError> {
        self.ask_lock_support().await
    }

    async fn lock_of(&self, key: &str) -> Result<Option<Lock>, StoreError> {
        self.check(key, "read the lock of")?;
        Ok(self.first_version(key).await?.lock)
    }

    async fn holds(&self, key: &str, version: Option<&str>, shown: Option<Holds>) -> Result<Holds, StoreError> {
        self.check(key, "read the lock of")?;
        match shown {
            Some(shown) => Ok(shown),
            None => self.holds_of_version(key, version).await,
        }
    }

    async fn set_lock(&self, key: &str, lock: Lock) -> Result<(), StoreError> {
        self.check(key, "lock")?;
        self.put_lock(key, lock).await
    }

    async fn extend_lock(&self, key: &str, lock: Lock) -> Result<Lock, StoreError> {
        self.check(key, "extend the lock of")?;
        self.lengthen_lock(key, lock).await
    }

    async fn availability(&self, key: &str, version: Option<&str>) -> Result<Availability, StoreError> {
        self.check(key, "stat")?;
        self.ask_availability(key, version).await
    }

    async fn bring_back(&self, key: &str, version: Option<&str>, how: Retrieval) -> Result<Availability, StoreError> {
        self.check(key, "bring back")?;
        self.ask_for(key, version, how).await
    }

    async fn delete_versions(&self, key: &str) -> Result<(), StoreError> {
        self.check(key, "delete")?;
        self.delete_all_versions(key).await
    }
}
