//! A store that has so much to do: calls take their time, and what is too much is refused.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use farshore::stores::{
    Download, GetOptions, ObjectAttributes, ObjectStat, Page, PutOptions, SharedStore, Store, StoreError, UploadedPart,
};
use tokio::time::Instant;

/// What it takes.
#[derive(Debug, Clone, Copy)]
pub struct Capacity {
    /// Calls under way at once.
    pub at_once: usize,
    /// Calls that begin within one second.
    pub per_second: usize,
    /// How long each takes.
    pub latency: Duration,
}

/// What one second of the test saw.
#[derive(Debug, Clone, Copy, Default)]
pub struct Second {
    pub done: usize,
    pub refused: usize,
    pub most_at_once: usize,
}

/// Another store with a capacity.
#[derive(Debug)]
pub struct BusyStore {
    inner: SharedStore,
    capacity: Mutex<Capacity>,
    under_way: AtomicUsize,
    started: Instant,
    seconds: Mutex<Vec<Second>>,
}

impl BusyStore {
    pub fn over(inner: SharedStore, capacity: Capacity) -> Self {
        Self {
            inner,
            capacity: Mutex::new(capacity),
            under_way: AtomicUsize::new(0),
            started: Instant::now(),
            seconds: Mutex::default(),
        }
    }

    /// From now on it takes that.
    pub fn set(&self, capacity: Capacity) {
        *self.capacity.lock().unwrap() = capacity;
    }

    /// All seconds so far.
    pub fn seconds(&self) -> Vec<Second> {
        self.seconds.lock().unwrap().clone()
    }

    fn note<T>(&self, note: impl FnOnce(&mut Second) -> T) -> T {
        let second = self.started.elapsed().as_secs() as usize;
        let mut seconds = self.seconds.lock().unwrap();
        let needed = seconds.len().max(second + 1);
        seconds.resize(needed, Second::default());
        note(&mut seconds[second])
    }

    async fn take<T>(&self, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        let capacity = *self.capacity.lock().unwrap();
        let at_once = self.under_way.fetch_add(1, Ordering::SeqCst) + 1;
        let leave = Leave(&self.under_way);
        let is_taken = self.note(|second| {
            let is_taken = at_once <= capacity.at_once && second.done < capacity.per_second;
            second.most_at_once = second.most_at_once.max(at_once);
            *if is_taken { &mut second.done } else { &mut second.refused } += 1;
            is_taken
        });
        tokio::time::sleep(capacity.latency).await;
        drop(leave);
        if !is_taken {
            return Err(StoreError::Throttled { place: "busy".to_owned(), detail: "SlowDown".to_owned(), after: None });
        }
        call.await
    }
}

/// A call is over when it is answered or given up.
struct Leave<'a>(&'a AtomicUsize);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl Store for BusyStore {
    fn describe(&self) -> String {
        self.inner.describe()
    }
    async fn put(&self, key: &str, body: Bytes, options: PutOptions) -> Result<ObjectStat, StoreError> {
        self.take(self.inner.put(key, body, options)).await
    }
    async fn get(&self, key: &str, options: GetOptions) -> Result<Download, StoreError> {
        self.take(self.inner.get(key, options)).await
    }
    async fn stat(&self, key: &str) -> Result<ObjectStat, StoreError> {
        self.take(self.inner.stat(key)).await
    }
    async fn list(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> Result<Page, StoreError> {
        self.take(self.inner.list(prefix, start_after, limit)).await
    }
    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.take(self.inner.delete(key)).await
    }
    async fn begin_upload(&self, key: &str, attributes: ObjectAttributes) -> Result<String, StoreError> {
        self.take(self.inner.begin_upload(key, attributes)).await
    }
    async fn upload_part(&self, key: &str, upload: &str, number: u32, body: Bytes) -> Result<UploadedPart, StoreError> {
        self.take(self.inner.upload_part(key, upload, number, body)).await
    }
    async fn complete_upload(
        &self,
        key: &str,
        upload: &str,
        parts: &[UploadedPart],
        if_absent: bool,
    ) -> Result<ObjectStat, StoreError> {
        self.take(self.inner.complete_upload(key, upload, parts, if_absent)).await
    }
    async fn abort_upload(&self, key: &str, upload: &str) -> Result<(), StoreError> {
        self.take(self.inner.abort_upload(key, upload)).await
    }
    async fn time(&self) -> Result<chrono::DateTime<chrono::Utc>, StoreError> {
        self.take(self.inner.time()).await
    }
    async fn create(&self) -> Result<(), StoreError> {
        self.take(self.inner.create()).await
    }
}
