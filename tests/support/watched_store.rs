//! A store that notes which packs are read, whole or in part, and can make somebody wait for ever at one of them, as if he had been killed.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use farshore::{
    clock::FixedClock,
    stores::{
        Download, GetOptions, ObjectAttributes, ObjectStat, Page, PutOptions, SharedStore, Store, StoreError, UploadedPart,
        VersionCursor, VersionPage, Versioning,
    },
};

#[derive(Debug)]
pub struct WatchedStore {
    inner: SharedStore,
    clock: Arc<FixedClock>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    whole_reads: BTreeMap<String, u32>,
    part_reads: usize,
    listings: BTreeMap<String, u32>,
    /// So many whole packs are still handed out.
    left: Option<u32>,
}

impl WatchedStore {
    /// Whole packs take a minute of `clock` each.
    pub fn over(inner: SharedStore, clock: Arc<FixedClock>) -> Arc<Self> {
        Arc::new(Self { inner, clock, state: Mutex::default() })
    }

    /// After so many more whole packs, the next one never comes.
    pub fn stop_after(&self, packs: Option<u32>) {
        self.state.lock().unwrap().left = packs;
    }

    /// How often each pack was read whole since the last time this was asked.
    pub fn whole_reads(&self) -> BTreeMap<String, u32> {
        std::mem::take(&mut self.state.lock().unwrap().whole_reads)
    }

    /// How often a part of a pack was read since the last time this was asked.
    pub fn part_reads(&self) -> usize {
        std::mem::take(&mut self.state.lock().unwrap().part_reads)
    }

    /// How often each prefix was listed from its beginning since the last time this was asked.
    pub fn listings(&self) -> BTreeMap<String, u32> {
        std::mem::take(&mut self.state.lock().unwrap().listings)
    }
}

#[async_trait]
impl Store for WatchedStore {
    fn describe(&self) -> String {
        self.inner.describe()
    }

    async fn put(&self, key: &str, body: Bytes, options: PutOptions) -> Result<ObjectStat, StoreError> {
        self.inner.put(key, body, options).await
    }

    async fn get(&self, key: &str, options: GetOptions) -> Result<Download, StoreError> {
        if key.starts_with("packs/") && options.range.is_some() {
            self.state.lock().unwrap().part_reads += 1;
        }
        if key.starts_with("packs/") && options.range.is_none() {
            let left = {
                let mut state = self.state.lock().unwrap();
                let left = state.left;
                state.left = left.map(|left| left.saturating_sub(1));
                if left != Some(0) {
                    *state.whole_reads.entry(key.to_owned()).or_default() += 1;
                }
                left
            };
            if left == Some(0) {
                std::future::pending::<()>().await;
            }
            self.clock.advance(Duration::from_secs(60));
        }
        self.inner.get(key, options).await
    }

    async fn stat(&self, key: &str) -> Result<ObjectStat, StoreError> {
        self.inner.stat(key).await
    }

    async fn list(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> Result<Page, StoreError> {
        if start_after.is_none() {
            *self.state.lock().unwrap().listings.entry(prefix.to_owned()).or_default() += 1;
        }
        self.inner.list(prefix, start_after, limit).await
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.inner.delete(key).await
    }

    async fn begin_upload(&self, key: &str, attributes: ObjectAttributes) -> Result<String, StoreError> {
        self.inner.begin_upload(key, attributes).await
    }

    async fn upload_part(&self, key: &str, upload: &str, number: u32, body: Bytes) -> Result<UploadedPart, StoreError> {
        self.inner.upload_part(key, upload, number, body).await
    }

    async fn complete_upload(
        &self,
        key: &str,
        upload: &str,
        parts: &[UploadedPart],
        if_absent: bool,
    ) -> Result<ObjectStat, StoreError> {
        self.inner.complete_upload(key, upload, parts, if_absent).await
    }

    async fn abort_upload(&self, key: &str, upload: &str) -> Result<(), StoreError> {
        self.inner.abort_upload(key, upload).await
    }

    async fn create(&self) -> Result<(), StoreError> {
        self.inner.create().await
    }

    async fn versioning(&self) -> Result<Versioning, StoreError> {
        self.inner.versioning().await
    }

    async fn list_versions(&self, prefix: &str, from: Option<&VersionCursor>, limit: usize) -> Result<VersionPage, StoreError> {
        self.inner.list_versions(prefix, from, limit).await
    }
}
