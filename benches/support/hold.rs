//! A store that keeps packs as they come and hands them out without copying, so that only the pipeline is measured.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::Utc;
use farshore::stores::{
    Download, GetOptions, MemoryStore, ObjectAttributes, ObjectStat, Page, PutOptions, Store, StoreError, UploadedPart,
};
use futures_util::{StreamExt, stream};

/// Packs held here, everything else in an ordinary memory store.
#[derive(Debug)]
pub struct Hold {
    rest: Arc<MemoryStore>,
    packs: Mutex<BTreeMap<String, Bytes>>,
}

impl Default for Hold {
    fn default() -> Self {
        Self { rest: MemoryStore::new("bench"), packs: Mutex::default() }
    }
}

fn stat(key: &str, bytes: &Bytes) -> ObjectStat {
    let etag = bytes.len().to_string();
    ObjectStat {
        key: key.to_owned(),
        size: bytes.len() as u64,
        modified: Utc::now(),
        etag,
        version: None,
        sha256: None,
        storage_class: None,
    }
}

#[async_trait]
impl Store for Hold {
    fn describe(&self) -> String {
        "memory://bench".to_owned()
    }

    async fn put(&self, key: &str, body: Bytes, options: PutOptions) -> Result<ObjectStat, StoreError> {
        if !key.starts_with("packs/") {
            return self.rest.put(key, body, options).await;
        }
        let stat = stat(key, &body);
        self.packs.lock().unwrap().insert(key.to_owned(), body);
        Ok(stat)
    }

    async fn get(&self, key: &str, options: GetOptions) -> Result<Download, StoreError> {
        let Some(bytes) = self.packs.lock().unwrap().get(key).cloned() else { return self.rest.get(key, options).await };
        let part =
            options.range.map_or(bytes.clone(), |range| bytes.slice(range.start as usize..(range.end as usize).min(bytes.len())));
        Ok(Download { stat: stat(key, &bytes), attributes: ObjectAttributes::default(), body: stream::iter([Ok(part)]).boxed() })
    }

    async fn stat(&self, key: &str) -> Result<ObjectStat, StoreError> {
        self.rest.stat(key).await
    }

    async fn list(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> Result<Page, StoreError> {
        if prefix != "packs/" {
            return self.rest.list(prefix, start_after, limit).await;
        }
        let packs = self.packs.lock().unwrap();
        let objects: Vec<_> = packs
            .iter()
            .filter(|(key, _)| start_after.is_none_or(|start| key.as_str() > start))
            .take(limit)
            .map(|(key, bytes)| stat(key, bytes))
            .collect();
        Ok(Page { more: objects.len() == limit, objects })
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.rest.delete(key).await
    }

    async fn begin_upload(&self, key: &str, attributes: ObjectAttributes) -> Result<String, StoreError> {
        self.rest.begin_upload(key, attributes).await
    }

    async fn upload_part(&self, key: &str, upload: &str, number: u32, body: Bytes) -> Result<UploadedPart, StoreError> {
        self.rest.upload_part(key, upload, number, body).await
    }

    async fn complete_upload(
        &self,
        key: &str,
        upload: &str,
        parts: &[UploadedPart],
        if_absent: bool,
    ) -> Result<ObjectStat, StoreError> {
        self.rest.complete_upload(key, upload, parts, if_absent).await
    }

    async fn abort_upload(&self, key: &str, upload: &str) -> Result<(), StoreError> {
        self.rest.abort_upload(key, upload).await
    }

    async fn create(&self) -> Result<(), StoreError> {
        self.rest.create().await
    }
}
