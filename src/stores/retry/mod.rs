//! A wrapper that makes failed calls again: the only place where that is decided.
//!
//! Promises:
//! * Only errors that [`StoreError::is_transient`] names are retried, with growing, jittered pauses, within [`RetryPolicy`].
//! * An if-absent write whose answer was lost is not mistaken for a race that was lost: if the object that is found has the very
//!   bytes, the write counts as done. (Two writers of the same bytes may then both be told that they won.)
//! * A body that breaks goes on where it broke, with the same object or not at all.
//! * A store that has never answered is given up soon: a wrong endpoint is told within seconds.
//! * Dropping the call ends it, pauses included.
//!
//! Assumes that every attempt ends by itself: the stores limit their requests.
//!
//! Leaves out on purpose: an upload begun twice because the first answer was lost. Its empty twin is never seen; the site's rule for
//! incomplete uploads removes it.

mod attempts;
mod body;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::StreamExt;
use sha2::{Digest, Sha256};
use tokio::task::spawn_blocking;

use super::{
    Availability, Download, GetOptions, Holds, Lock, LockSupport, ObjectAttributes, ObjectStat, Page, PutOptions, Retrieval,
    SharedStore, Store, StoreError, UploadedPart, VersionCursor, VersionPage, Versioning,
    bounds::{object_place, resolve_range, sha256},
};
use crate::clock::SharedClock;
use attempts::Attempts;
use body::Resuming;

pub use attempts::RetryPolicy;

/// A store whose failed calls are made again.
#[derive(Debug)]
pub struct Retry {
    inner: SharedStore,
    policy: RetryPolicy,
    clock: SharedClock,
    /// Whether any call was ever answered, if only by a refusal.
    answered: Arc<AtomicBool>,
    /// Sizes of the parts of the uploads under way, for recognising a completion whose answer was lost.
    part_sizes: Mutex<HashMap<String, BTreeMap<u32, u64>>>,
}

impl Retry {
    /// Calls of `inner`, repeated as `policy` says, on the monotonic time of `clock`.
    pub fn over(inner: SharedStore, policy: RetryPolicy, clock: SharedClock) -> Arc<Self> {
        Arc::new(Self { inner, policy, clock, answered: Arc::default(), part_sizes: Mutex::default() })
    }

    fn attempts(&self) -> Attempts {
        Attempts::new(self.policy.clone(), self.clock.clone(), Arc::clone(&self.answered))
    }

    /// Takes note of an answer, whatever it says.
    async fn noting<T>(&self, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        let done = call.await;
        if !matches!(done, Err(StoreError::Unavailable { .. })) {
            self.answered.store(true, Ordering::Relaxed);
        }
        done
    }

    fn part_sizes(&self) -> MutexGuard<'_, HashMap<String, BTreeMap<u32, u64>>> {
        // Each change is a single insertion or removal.
        self.part_sizes.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The object, if it has these bytes.
    async fn same_bytes(&self, key: &str, body: &Bytes, stated: Option<[u8; 32]>) -> Result<Option<ObjectStat>, StoreError> {
        let stat = self.stat(key).await?;
        if stat.size != body.len() as u64 {
            return Ok(None);
        }
        let same = match (stat.sha256, stated) {
            (Some(kept), Some(stated)) => kept == stated,
            (Some(kept), None) => kept == self.on_a_thread(key, body.clone(), |body| sha256(&body)).await?,
            (None, _) => self.reads_as(key, &stat, body).await?,
        };
        Ok(same.then_some(stat))
    }

    /// Compares an object with bytes in memory.
    async fn reads_as(&self, key: &str, stat: &ObjectStat, body: &Bytes) -> Result<bool, StoreError> {
        let options = GetOptions { if_match: Some(stat.etag.clone()), ..GetOptions::default() };
        let mut stored = self.get(key, options).await?.body;
        let mut left = &body[..];
        while let Some(piece) = stored.next().await {
            match left.strip_prefix(&piece?[..]) {
                Some(rest) => left = rest,
                None => return Ok(false),
            }
        }
        Ok(left.is_empty())
    }

    /// The object, if it is these parts joined.
    async fn same_parts(&self, key: &str, upload: &str, parts: &[UploadedPart]) -> Result<Option<ObjectStat>, StoreError> {
        let sizes: Option<Vec<u64>> = {
            let all = self.part_sizes();
            parts.iter().map(|part| all.get(upload)?.get(&part.number).copied()).collect()
        };
        let stat = self.stat(key).await?;
        let Some(sizes) = sizes.filter(|sizes| sizes.iter().sum::<u64>() == stat.size) else {
            return Ok(None);
        };
        let mut start = 0;
        for (part, size) in parts.iter().zip(sizes) {
            if size == 0 {
                continue;
            }
            let options =
                GetOptions { range: Some(start..start + size), if_match: Some(stat.etag.clone()), ..GetOptions::default() };
            let mut body = self.get(key, options).await?.body;
            let mut hash = Sha256::new();
            while let Some(piece) = body.next().await {
                let piece = piece?;
                hash = self.on_a_thread(key, (hash, piece), |(hash, piece)| hash.chain_update(&piece)).await?;
            }
            if part.sha256[..] != hash.finalize()[..] {
                return Ok(None);
            }
            start += size;
        }
        Ok(Some(stat))
    }

    /// Does CPU work away from the async threads.
    async fn on_a_thread<A: Send + 'static, B: Send + 'static>(
        &self,
        key: &str,
        input: A,
        work: impl FnOnce(A) -> B + Send + 'static,
    ) -> Result<B, StoreError> {
        spawn_blocking(move || work(input)).await.map_err(|error| StoreError::Other {
            place: object_place(&self.inner.describe(), key),
            action: "compare",
            detail: error.to_string(),
        })
    }
}

/// What a comparison says of a write that was refused with `refusal` after an earlier attempt may have been carried out.
fn settled(found: Result<Option<ObjectStat>, StoreError>, refusal: StoreError) -> Result<ObjectStat, StoreError> {
    match found {
        Ok(Some(stat)) => Ok(stat),
        Ok(None) | Err(StoreError::NotFound { .. } | StoreError::Changed { .. }) => Err(refusal),
        Err(error) => Err(error),
    }
}

#[async_trait]
impl Store for Retry {
    fn describe(&self) -> String {
        self.inner.describe()
    }

    fn requests(&self) -> usize {
        self.inner.requests()
    }

    async fn put(&self, key: &str, body: Bytes, options: PutOptions) -> Result<ObjectStat, StoreError> {
        let mut attempts = self.attempts();
        loop {
            match self.noting(self.inner.put(key, body.clone(), options.clone())).await {
                Err(refusal @ StoreError::AlreadyExists { .. }) if attempts.uncertain() => {
                    return settled(self.same_bytes(key, &body, options.sha256).await, refusal);
                }
                Err(error) => attempts.again(error).await?,
                done => return done,
            }
        }
    }

    async fn get(&self, key: &str, options: GetOptions) -> Result<Download, StoreError> {
        let mut attempts = self.attempts();
        let Download { stat, attributes, body } = loop {
            match self.noting(self.inner.get(key, options.clone())).await {
                Err(error) => attempts.again(error).await?,
                Ok(download) => break download,
            }
        };
        let place = self.inner.describe();
        let wanted = resolve_range(&place, key, options.range.as_ref(), stat.size)?;
        attempts.renew();
        let resuming = Resuming {
            store: self.inner.clone(),
            key: key.to_owned(),
            place: object_place(&place, key),
            etag: stat.etag.clone(),
            version: options.version,
            next: wanted.start,
            end: wanted.end,
            body,
            attempts,
        };
        Ok(Download { stat, attributes, body: resuming.stream() })
    }

    async fn stat(&self, key: &str) -> Result<ObjectStat, StoreError> {
        let mut attempts = self.attempts();
        loop {
            match self.noting(self.inner.stat(key)).await {
                Err(error) => attempts.again(error).await?,
                done => return done,
            }
        }
    }

    fn seeks(&self) -> bool {
        self.inner.seeks()
    }

    async fn list(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> Result<Page, StoreError> {
        let mut attempts = self.attempts();
        loop {
            match self.noting(self.inner.list(prefix, start_after, limit)).await {
                Err(error) => attempts.again(error).await?,
                done => return done,
            }
        }
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        let mut attempts = self.attempts();
        loop {
            match self.noting(self.inner.delete(key)).await {
                Err(StoreError::NotFound { .. }) if attempts.uncertain() => return Ok(()),
                Err(error) => attempts.again(error).await?,
                done => return done,
            }
        }
    }

    async fn begin_upload(&self, key: &str, attributes: ObjectAttributes) -> Result<String, StoreError> {
        let mut attempts = self.attempts();
        loop {
            match self.noting(self.inner.begin_upload(key, attributes.clone())).await {
                Err(error) => attempts.again(error).await?,
                done => return done,
            }
        }
    }

    async fn upload_part(&self, key: &str, upload: &str, number: u32, body: Bytes) -> Result<UploadedPart, StoreError> {
        let size = body.len() as u64;
        let mut attempts = self.attempts();
        loop {
            match self.noting(self.inner.upload_part(key, upload, number, body.clone())).await {
                Err(error) => attempts.again(error).await?,
                Ok(part) => {
                    self.part_sizes().entry(upload.to_owned()).or_default().insert(number, size);
                    return Ok(part);
                }
            }
        }
    }

    async fn complete_upload(
        &self,
        key: &str,
        upload: &str,
        parts: &[UploadedPart],
        if_absent: bool,
    ) -> Result<ObjectStat, StoreError> {
        let mut attempts = self.attempts();
        let done = loop {
            match self.noting(self.inner.complete_upload(key, upload, parts, if_absent)).await {
                // The upload is gone because it was completed, or the object is there because it was.
                Err(refusal @ (StoreError::AlreadyExists { .. } | StoreError::NotFound { .. })) if attempts.uncertain() => {
                    break settled(self.same_parts(key, upload, parts).await, refusal)?;
                }
                Err(error) => attempts.again(error).await?,
                Ok(done) => break done,
            }
        };
        self.part_sizes().remove(upload);
        Ok(done)
    }

    async fn abort_upload(&self, key: &str, upload: &str) -> Result<(), StoreError> {
        self.part_sizes().remove(upload);
        let mut attempts = self.attempts();
        loop {
            match self.noting(self.inner.abort_upload(key, upload)).await {
                Err(StoreError::NotFound { .. }) if attempts.uncertain() => return Ok(()),
                Err(error) => attempts.again(error).await?,
                done => return done,
            }
        }
    }

    async fn time(&self) -> Result<DateTime<Utc>, StoreError> {
        let mut attempts = self.attempts();
        loop {
            match self.noting(self.inner.time()).await {
                Err(error) => attempts.again(error).await?,
                done => return done,
            }
        }
    }

    async fn create(&self) -> Result<(), StoreError> {
        let mut attempts = self.attempts();
        loop {
            match self.noting(self.inner.create()).await {
                Err(error) => attempts.again(error).await?,
                done => return done,
            }
        }
    }

    async fn create_locking(&self) -> Result<(), StoreError> {
        let mut attempts = self.attempts();
        loop {
            match self.noting(self.inner.create_locking()).await {
                Err(error) => attempts.again(error).await?,
                done => return done,
            }
        }
    }

    async fn lock_support(&self) -> Result<LockSupport, StoreError> {
        let mut attempts = self.attempts();
        loop {
            match self.noting(self.inner.lock_support()).await {
                Err(error) => attempts.again(error).await?,
                done => return done,
            }
        }
    }

    async fn lock_of(&self, key: &str) -> Result<Option<Lock>, StoreError> {
        let mut attempts = self.attempts();
        loop {
            match self.noting(self.inner.lock_of(key)).await {
                Err(error) => attempts.again(error).await?,
                done => return done,
            }
        }
    }

    async fn holds(&self, key: &str, version: Option<&str>, shown: Option<Holds>) -> Result<Holds, StoreError> {
        let mut attempts = self.attempts();
        loop {
            match self.noting(self.inner.holds(key, version, shown)).await {
                Err(error) => attempts.again(error).await?,
                done => return done,
            }
        }
    }

    async fn set_lock(&self, key: &str, lock: Lock) -> Result<(), StoreError> {
        let mut attempts = self.attempts();
        loop {
            match self.noting(self.inner.set_lock(key, lock)).await {
                Err(error) => attempts.again(error).await?,
                done => return done,
            }
        }
    }

    async fn extend_lock(&self, key: &str, lock: Lock) -> Result<Lock, StoreError> {
        let mut attempts = self.attempts();
        loop {
            match self.noting(self.inner.extend_lock(key, lock)).await {
                Err(error) => attempts.again(error).await?,
                done => return done,
            }
        }
    }

    async fn availability(&self, key: &str, version: Option<&str>) -> Result<Availability, StoreError> {
        let mut attempts = self.attempts();
        loop {
            match self.noting(self.inner.availability(key, version)).await {
                Err(error) => attempts.again(error).await?,
                done => return done,
            }
        }
    }

    async fn bring_back(&self, key: &str, version: Option<&str>, how: Retrieval) -> Result<Availability, StoreError> {
        let mut attempts = self.attempts();
        loop {
            // Asked twice, it says that it is on its way.
            match self.noting(self.inner.bring_back(key, version, how)).await {
                Err(error) => attempts.again(error).await?,
                done => return done,
            }
        }
    }

    async fn versioning(&self) -> Result<Versioning, StoreError> {
        let mut attempts = self.attempts();
        loop {
            match self.noting(self.inner.versioning()).await {
                Err(error) => attempts.again(error).await?,
                done => return done,
            }
        }
    }

    async fn list_versions(&self, prefix: &str, from: Option<&VersionCursor>, limit: usize) -> Result<VersionPage, StoreError> {
        let mut attempts = self.attempts();
        loop {
            match self.noting(self.inner.list_versions(prefix, from, limit)).await {
                Err(error) => attempts.again(error).await?,
                done => return done,
            }
        }
    }

    async fn delete_versions(&self, key: &str) -> Result<(), StoreError> {
        let mut attempts = self.attempts();
        loop {
            match self.noting(self.inner.delete_versions(key)).await {
                Err(error) => attempts.again(error).await?,
                done => return done,
            }
        }
    }
}
