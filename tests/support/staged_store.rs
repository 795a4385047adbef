//! A store on which a test decides what happens: it breaks after so many writes, denies deletions, lets writers meet, holds a pack back.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use farshore::stores::{
    Download, GetOptions, Holds, Lock, LockSupport, ObjectAttributes, ObjectStat, Page, PutOptions, SharedStore, Store, StoreError,
    UploadedPart, VersionCursor, VersionPage, Versioning,
};
use tokio::sync::{Barrier, Notify};

/// A site that does as the test says.
#[derive(Debug)]
pub struct Staged {
    pub inner: SharedStore,
    /// Writes and deletes that are carried out before the connection breaks for good.
    pub writes_left: AtomicI64,
    pub denies_deletes: AtomicBool,
    /// Nobody may delete versions, as AWS has it for whoever may only delete objects.
    pub denies_versions: bool,
    /// Answers if-absent writes and does not honour them.
    pub overwrites: bool,
    /// Those who write a recipient set wait for one another, before and after.
    pub meeting: Option<Barrier>,
    /// The first pack waits: that it came, and that it may go on.
    pub pack_came: Notify,
    pub pack_may_go: Option<Notify>,
}

impl Staged {
    pub fn over(inner: SharedStore) -> Self {
        Self {
            inner,
            writes_left: AtomicI64::new(i64::MAX),
            denies_deletes: AtomicBool::new(false),
            denies_versions: false,
            overwrites: false,
            meeting: None,
            pack_came: Notify::new(),
            pack_may_go: None,
        }
    }

    pub fn written(&self) -> i64 {
        i64::MAX - self.writes_left.load(Ordering::SeqCst)
    }

    fn write(&self) -> Result<(), StoreError> {
        if self.writes_left.fetch_sub(1, Ordering::SeqCst) > 0 {
            return Ok(());
        }
        Err(StoreError::Unavailable { place: "staged".to_owned(), detail: "the connection broke".to_owned() })
    }
}

#[async_trait]
impl Store for Staged {
    fn describe(&self) -> String {
        self.inner.describe()
    }
    async fn put(&self, key: &str, body: Bytes, mut options: PutOptions) -> Result<ObjectStat, StoreError> {
        self.write()?;
        if let Some(may_go) = self.pack_may_go.as_ref().filter(|_| key.starts_with("packs/")) {
            self.pack_came.notify_one();
            may_go.notified().await;
            may_go.notify_one();
        }
        let meeting = self.meeting.as_ref().filter(|_| key.starts_with("recipients/"));
        if let Some(meeting) = meeting {
            meeting.wait().await;
        }
        options.if_absent &= !self.overwrites;
        let stored = self.inner.put(key, body, options).await;
        if let Some(meeting) = meeting {
            meeting.wait().await;
        }
        stored
    }
    async fn get(&self, key: &str, options: GetOptions) -> Result<Download, StoreError> {
        self.inner.get(key, options).await
    }
    async fn stat(&self, key: &str) -> Result<ObjectStat, StoreError> {
        self.inner.stat(key).await
    }
    async fn list(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> Result<Page, StoreError> {
        self.inner.list(prefix, start_after, limit).await
    }
    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        if self.denies_deletes.load(Ordering::SeqCst) {
            let (place, detail) = (key.to_owned(), "it is locked".to_owned());
            return Err(StoreError::Denied { place, action: "delete", detail });
        }
        self.write()?;
        self.inner.delete(key).await
    }
    async fn begin_upload(&self, key: &str, _: ObjectAttributes) -> Result<String, StoreError> {
        panic!("nothing here is large enough for a multipart upload, and {key} is")
    }
    async fn upload_part(&self, key: &str, _: &str, _: u32, _: Bytes) -> Result<UploadedPart, StoreError> {
        panic!("nothing here is large enough for a multipart upload, and {key} is")
    }
    async fn complete_upload(&self, key: &str, _: &str, _: &[UploadedPart], _: bool) -> Result<ObjectStat, StoreError> {
        panic!("nothing here is large enough for a multipart upload, and {key} is")
    }
    async fn abort_upload(&self, key: &str, _: &str) -> Result<(), StoreError> {
        panic!("nothing here is large enough for a multipart upload, and {key} is")
    }
    async fn time(&self) -> Result<DateTime<Utc>, StoreError> {
        self.inner.time().await
    }
    async fn create(&self) -> Result<(), StoreError> {
        Ok(())
    }
    async fn lock_support(&self) -> Result<LockSupport, StoreError> {
        self.inner.lock_support().await
    }
    async fn lock_of(&self, key: &str) -> Result<Option<Lock>, StoreError> {
        self.inner.lock_of(key).await
    }
    async fn holds(&self, key: &str, version: Option<&str>, shown: Option<Holds>) -> Result<Holds, StoreError> {
        self.inner.holds(key, version, shown).await
    }
    async fn extend_lock(&self, key: &str, lock: Lock) -> Result<Lock, StoreError> {
        self.write()?;
        self.inner.extend_lock(key, lock).await
    }
    async fn delete_versions(&self, key: &str) -> Result<(), StoreError> {
        if self.denies_versions {
            let (place, detail) = (key.to_owned(), "s3:DeleteObjectVersion is missing".to_owned());
            return Err(StoreError::Denied { place, action: "delete versions of", detail });
        }
        self.write()?;
        self.inner.delete_versions(key).await
    }
    async fn versioning(&self) -> Result<Versioning, StoreError> {
        self.inner.versioning().await
    }
    async fn list_versions(&self, prefix: &str, from: Option<&VersionCursor>, limit: usize) -> Result<VersionPage, StoreError> {
        self.inner.list_versions(prefix, from, limit).await
    }
}
