//! A wrapper that bounds how many requests a store has at once.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::{StreamExt, stream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    Download, GetOptions, Lock, LockSupport, ObjectAttributes, ObjectStat, Page, PutOptions, SharedStore, Store, StoreError,
    UploadedPart, VersionCursor, VersionPage, Versioning,
};

/// Lets at most so many requests through at once; the others wait in order. A get counts until its body has been read or dropped,
/// because until then it holds a connection and memory: whoever holds bodies and waits for more must hold fewer than the limit.
#[derive(Debug)]
pub struct Limit {
    inner: SharedStore,
    permits: Arc<Semaphore>,
}

impl Limit {
    /// At most `max_in_flight` requests to `inner` at once; 0 counts as 1.
    pub fn over(inner: SharedStore, max_in_flight: usize) -> Arc<Self> {
        let permits = max_in_flight.clamp(1, Semaphore::MAX_PERMITS);
        Arc::new(Self { inner, permits: Arc::new(Semaphore::new(permits)) })
    }

    async fn permit(&self) -> OwnedSemaphorePermit {
        self.permits.clone().acquire_owned().await.expect("the semaphore is never closed")
    }
}

#[async_trait]
impl Store for Limit {
    fn describe(&self) -> String {
        self.inner.describe()
    }

    async fn put(&self, key: &str, body: Bytes, options: PutOptions) -> Result<ObjectStat, StoreError> {
        let _permit = self.permit().await;
        self.inner.put(key, body, options).await
    }

    async fn get(&self, key: &str, options: GetOptions) -> Result<Download, StoreError> {
        let permit = self.permit().await;
        let Download { stat, attributes, body } = self.inner.get(key, options).await?;
        // The permit goes with the body's end, even if the stream itself is kept.
        let held = stream::unfold(Some((body, permit)), async |state| {
            let (mut body, permit) = state?;
            let piece = body.next().await?;
            Some((piece, Some((body, permit))))
        });
        Ok(Download { stat, attributes, body: held.boxed() })
    }

    async fn stat(&self, key: &str) -> Result<ObjectStat, StoreError> {
        let _permit = self.permit().await;
        self.inner.stat(key).await
    }

    fn seeks(&self) -> bool {
        self.inner.seeks()
    }

    async fn list(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> Result<Page, StoreError> {
        let _permit = self.permit().await;
        self.inner.list(prefix, start_after, limit).await
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        let _permit = self.permit().await;
        self.inner.delete(key).await
    }

    async fn begin_upload(&self, key: &str, attributes: ObjectAttributes) -> Result<String, StoreError> {
        let _permit = self.permit().await;
        self.inner.begin_upload(key, attributes).await
    }

    async fn upload_part(&self, key: &str, upload: &str, number: u32, body: Bytes) -> Result<UploadedPart, StoreError> {
        let _permit = self.permit().await;
        self.inner.upload_part(key, upload, number, body).await
    }

    async fn complete_upload(
        &self,
        key: &str,
        upload: &str,
        parts: &[UploadedPart],
        if_absent: bool,
    ) -> Result<ObjectStat, StoreError> {
        let _permit = self.permit().await;
        self.inner.complete_upload(key, upload, parts, if_absent).await
    }

    async fn abort_upload(&self, key: &str, upload: &str) -> Result<(), StoreError> {
        let _permit = self.permit().await;
        self.inner.abort_upload(key, upload).await
    }

    async fn time(&self) -> Result<DateTime<Utc>, StoreError> {
        let _permit = self.permit().await;
        self.inner.time().await
    }

    async fn create(&self) -> Result<(), StoreError> {
        let _permit = self.permit().await;
        self.inner.create().await
    }

    async fn create_locking(&self) -> Result<(), StoreError> {
        let _permit = self.permit().await;
        self.inner.create_locking().await
    }

    async fn lock_support(&self) -> Result<LockSupport, StoreError> {
        let _permit = self.permit().await;
        self.inner.lock_support().await
    }

    async fn lock_of(&self, key: &str) -> Result<Option<Lock>, StoreError> {
        let _permit = self.permit().await;
        self.inner.lock_of(key).await
    }

    async fn set_lock(&self, key: &str, lock: Lock) -> Result<(), StoreError> {
        let _permit = self.permit().await;
        self.inner.set_lock(key, lock).await
    }

    async fn extend_lock(&self, key: &str, lock: Lock) -> Result<Lock, StoreError> {
        let _permit = self.permit().await;
        self.inner.extend_lock(key, lock).await
    }

    async fn versioning(&self) -> Result<Versioning, StoreError> {
        let _permit = self.permit().await;
        self.inner.versioning().await
    }

    async fn list_versions(&self, prefix: &str, from: Option<&VersionCursor>, limit: usize) -> Result<VersionPage, StoreError> {
        let _permit = self.permit().await;
        self.inner.list_versions(prefix, from, limit).await
    }

    async fn delete_versions(&self, key: &str) -> Result<(), StoreError> {
        let _permit = self.permit().await;
        self.inner.delete_versions(key).await
    }
}
