//! A wrapper that decides how many requests a store has under way: `window.rs` from how they go, `gate.rs` lets them begin.
//!
//! Assumes that whoever holds leave goes on without others: a body that is read, or a call that was begun, is polled to its end, on a task of its own where
//! who wants it may turn to something else that needs leave of the same store. There may be leave for one only.

mod gate;
mod window;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::{StreamExt, stream};

use super::{
    Availability, Download, GetOptions, Holds, Lock, LockSupport, ObjectAttributes, ObjectStat, Page, PutOptions, Retrieval,
    SharedStore, Store, StoreError, UploadedPart, VersionCursor, VersionPage, Versioning,
    bandwidth::{Bandwidth, Direction},
};
use gate::{Gate, Pass};

/// No store has more requests under way, whatever is configured.
pub const MOST_REQUESTS: usize = 1024;

/// Lets requests through in order, as many at once as pays, and never more than a number given. When the server asks to slow down, all
/// calls of the store do, and recover together. A get counts until its body has been read or dropped, because until then it holds a
/// connection and memory.
#[derive(Debug)]
pub struct Limit {
    inner: SharedStore,
    gate: Arc<Gate>,
    bandwidth: Option<Arc<Bandwidth>>,
}

impl Limit {
    /// At most `max_in_flight` requests to `inner` at once; 0 counts as 1.
    pub fn over(inner: SharedStore, max_in_flight: usize) -> Arc<Self> {
        Self::over_line(inner, max_in_flight, None)
    }

    /// The same, with bodies held to a bandwidth: for a store that does not see to that itself on its way to a server. What is put waits until
    /// all of it may have gone; what is got comes piece by piece.
    pub fn over_line(inner: SharedStore, max_in_flight: usize, bandwidth: Option<Arc<Bandwidth>>) -> Arc<Self> {
        Arc::new(Self { inner, gate: Gate::new(max_in_flight.clamp(1, MOST_REQUESTS)), bandwidth })
    }

    async fn line(&self, direction: Direction, bytes: usize) {
        if let Some(bandwidth) = &self.bandwidth {
            bandwidth.pass(direction, bytes).await;
        }
    }
}

#[async_trait]
impl Store for Limit {
    fn describe(&self) -> String {
        self.inner.describe()
    }

    fn requests(&self) -> usize {
        self.gate.most()
    }

    async fn put(&self, key: &str, body: Bytes, options: PutOptions) -> Result<ObjectStat, StoreError> {
        let mut pass = self.gate.enter().await;
        pass.bytes(body.len());
        self.line(Direction::Up, body.len()).await;
        let answer = self.inner.put(key, body, options).await;
        pass.note(answer.as_ref().err());
        answer
    }

    async fn get(&self, key: &str, options: GetOptions) -> Result<Download, StoreError> {
        let pass = self.gate.enter().await;
        let opened = self.inner.get(key, options).await;
        let Download { stat, attributes, body } = opened.map_err(|error| noted(&pass, error))?;
        // The pass goes with the body's end or its error, even if the stream itself is kept.
        let held = stream::unfold(Some((body, pass, self.bandwidth.clone())), async |state| {
            let (mut body, mut pass, line) = state?;
            match body.next().await {
                Some(Ok(piece)) => {
                    pass.bytes(piece.len());
                    if let Some(line) = &line {
                        line.pass(Direction::Down, piece.len()).await;
                    }
                    Some((Ok(piece), Some((body, pass, line))))
                }
                Some(Err(error)) => Some((Err(error), None)),
                None => {
                    pass.note(None);
                    None
                }
            }
        });
        Ok(Download { stat, attributes, body: held.boxed() })
    }

    async fn stat(&self, key: &str) -> Result<ObjectStat, StoreError> {
        let pass = self.gate.enter().await;
        let answer = self.inner.stat(key).await;
        pass.note(answer.as_ref().err());
        answer
    }

    fn seeks(&self) -> bool {
        self.inner.seeks()
    }

    async fn list(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> Result<Page, StoreError> {
        let pass = self.gate.enter().await;
        let answer = self.inner.list(prefix, start_after, limit).await;
        pass.note(answer.as_ref().err());
        answer
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        let pass = self.gate.enter().await;
        let answer = self.inner.delete(key).await;
        pass.note(answer.as_ref().err());
        answer
    }

    async fn begin_upload(&self, key: &str, attributes: ObjectAttributes) -> Result<String, StoreError> {
        let pass = self.gate.enter().await;
        let answer = self.inner.begin_upload(key, attributes).await;
        pass.note(answer.as_ref().err());
        answer
    }

    async fn upload_part(&self, key: &str, upload: &str, number: u32, body: Bytes) -> Result<UploadedPart, StoreError> {
        let mut pass = self.gate.enter().await;
        pass.bytes(body.len());
        self.line(Direction::Up, body.len()).await;
        let answer = self.inner.upload_part(key, upload, number, body).await;
        pass.note(answer.as_ref().err());
        answer
    }

    async fn complete_upload(
        &self,
        key: &str,
        upload: &str,
        parts: &[UploadedPart],
        if_absent: bool,
    ) -> Result<ObjectStat, StoreError> {
        let pass = self.gate.enter().await;
        let answer = self.inner.complete_upload(key, upload, parts, if_absent).await;
        pass.note(answer.as_ref().err());
        answer
    }

    async fn abort_upload(&self, key: &str, upload: &str) -> Result<(), StoreError> {
        let pass = self.gate.enter().await;
        let answer = self.inner.abort_upload(key, upload).await;
        pass.note(answer.as_ref().err());
        answer
    }

    async fn time(&self) -> Result<DateTime<Utc>, StoreError> {
        let pass = self.gate.enter().await;
        let answer = self.inner.time().await;
        pass.note(answer.as_ref().err());
        answer
    }

    async fn create(&self) -> Result<(), StoreError> {
        let pass = self.gate.enter().await;
        let answer = self.inner.create().await;
        pass.note(answer.as_ref().err());
        answer
    }

    async fn create_locking(&self) -> Result<(), StoreError> {
        let pass = self.gate.enter().await;
        let answer = self.inner.create_locking().await;
        pass.note(answer.as_ref().err());
        answer
    }

    async fn lock_support(&self) -> Result<LockSupport, StoreError> {
        let pass = self.gate.enter().await;
        let answer = self.inner.lock_support().await;
        pass.note(answer.as_ref().err());
        answer
    }

    async fn lock_of(&self, key: &str) -> Result<Option<Lock>, StoreError> {
        let pass = self.gate.enter().await;
        let answer = self.inner.lock_of(key).await;
        pass.note(answer.as_ref().err());
        answer
    }

    async fn holds(&self, key: &str, version: Option<&str>, shown: Option<Holds>) -> Result<Holds, StoreError> {
        let pass = self.gate.enter().await;
        let answer = self.inner.holds(key, version, shown).await;
        pass.note(answer.as_ref().err());
        answer
    }

    async fn set_lock(&self, key: &str, lock: Lock) -> Result<(), StoreError> {
        let pass = self.gate.enter().await;
        let answer = self.inner.set_lock(key, lock).await;
        pass.note(answer.as_ref().err());
        answer
    }

    async fn extend_lock(&self, key: &str, lock: Lock) -> Result<Lock, StoreError> {
        let pass = self.gate.enter().await;
        let answer = self.inner.extend_lock(key, lock).await;
        pass.note(answer.as_ref().err());
        answer
    }

    async fn availability(&self, key: &str, version: Option<&str>) -> Result<Availability, StoreError> {
        let pass = self.gate.enter().await;
        let answer = self.inner.availability(key, version).await;
        pass.note(answer.as_ref().err());
        answer
    }

    async fn bring_back(&self, key: &str, version: Option<&str>, how: Retrieval) -> Result<Availability, StoreError> {
        let pass = self.gate.enter().await;
        let answer = self.inner.bring_back(key, version, how).await;
        pass.note(answer.as_ref().err());
        answer
    }

    async fn versioning(&self) -> Result<Versioning, StoreError> {
        let pass = self.gate.enter().await;
        let answer = self.inner.versioning().await;
        pass.note(answer.as_ref().err());
        answer
    }

    async fn list_versions(&self, prefix: &str, from: Option<&VersionCursor>, limit: usize) -> Result<VersionPage, StoreError> {
        let pass = self.gate.enter().await;
        let answer = self.inner.list_versions(prefix, from, limit).await;
        pass.note(answer.as_ref().err());
        answer
    }

    async fn delete_versions(&self, key: &str) -> Result<(), StoreError> {
        let pass = self.gate.enter().await;
        let answer = self.inner.delete_versions(key).await;
        pass.note(answer.as_ref().err());
        answer
    }
}

/// An error, of which note was taken.
fn noted(pass: &Pass, error: StoreError) -> StoreError {
    pass.note(Some(&error));
    error
}
