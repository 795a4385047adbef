//! Reading one object: under the ETag that was listed, or the very version.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use serde_bytes::ByteArray;
use tokio_util::task::AbortOnDropHandle;

use super::{BucketAttributes, OBJECT, archived::ArchivedObject, concerns_one_object};
use crate::{
    progress::SharedObserver,
    sources::{Cut, Entry, OBJECT_PART_BYTES, Sink, SourceError},
    stores::{Download, GetOptions, NULL_VERSION, ObjectAttributes, ObjectStat, SharedStore, StoreError},
};

/// Bytes above which hashing leaves the async threads: BLAKE3 takes some ten microseconds for this many.
const HASHED_IN_PLACE_BYTES: usize = 64 << 10;

/// Bytes collected before a large object's next write.
const PIECE_BYTES: usize = 1 << 20;

/// Attempts at an object whose transfer breaks off; each request was already retried by the store's own wrapper.
const MOST_ATTEMPTS: u32 = 3;

/// What became of a listed object.
pub(super) enum Outcome {
    /// It is as it was in the newest point, and was not read.
    Unchanged { entry: Entry },
    /// It was read; `reread` if it had changed since it was listed.
    Read { entry: Entry, reread: bool, versioned: bool },
    /// It is no longer there.
    Vanished { key: String },
    /// It cannot be read, the others can.
    Unreadable { key: String, error: StoreError },
    /// It lies in an archive tier.
    Archived(ArchivedObject),
}

impl Outcome {
    fn unreadable(stat: ObjectStat, error: StoreError) -> Self {
        match error {
            StoreError::Archived { next, .. } => {
                let ObjectStat { key, version, size, .. } = stat;
                Self::Archived(ArchivedObject { key, version, size, next, error, asked: None })
            }
            error => Self::Unreadable { key: stat.key, error },
        }
    }
}

/// How versions are read, while they may be.
#[derive(Debug, Default)]
pub(super) struct ByVersion {
    /// This identity may read what is there now, and no version by its id.
    denied: AtomicBool,
    /// Objects that were read as they are now, although a version was wanted.
    as_present: AtomicU64,
}

impl ByVersion {
    /// Objects that were read as they are now for want of a right.
    pub(super) fn denied(&self) -> u64 {
        if self.denied.load(Ordering::Relaxed) { self.as_present.load(Ordering::Relaxed) } else { 0 }
    }
}

/// Reads a listed object into the sink, with `versions` the version that is listed; an error is one that ends the capture.
pub(super) async fn read_object(
    store: &SharedStore,
    listed: ObjectStat,
    versions: Option<&ByVersion>,
    sink: &dyn Sink,
    observer: &SharedObserver,
) -> Result<Outcome, SourceError> {
    let mut stat = listed;
    let mut reread = false;
    let mut attempts = 1;
    let mut refused = false;
    loop {
        let by_id = versions.filter(|versions| !reread && !refused && !versions.denied.load(Ordering::Relaxed));
        let version = stat.version.clone().filter(|_| by_id.is_some());
        let error = match read_once(store, &stat, version.clone(), sink, observer).await {
            Ok((entry, versioned)) => {
                if let Some(versions) = versions.filter(|_| version.is_none()) {
                    versions.denied.fetch_or(refused, Ordering::Relaxed);
                    versions.as_present.fetch_add(1, Ordering::Relaxed);
                }
                return Ok(Outcome::Read { entry, reread, versioned });
            }
            Err(SourceError::Store(error)) => error,
            Err(other) => return Err(other),
        };
        match error {
            // What is there now can perhaps be read; if that cannot either, it is not the version.
            StoreError::Denied { .. } if version.is_some() => refused = true,
            StoreError::NotFound { .. } if version.is_none() => return Ok(Outcome::Vanished { key: stat.key }),
            // A version may have been removed for good since it was listed; what is there now is better than nothing.
            StoreError::NotFound { .. } | StoreError::Changed { .. } | StoreError::InvalidRange { .. } if !reread => {
                reread = true;
                match store.stat(&stat.key).await {
                    Ok(newer) => stat = newer,
                    Err(StoreError::NotFound { .. }) => return Ok(Outcome::Vanished { key: stat.key }),
                    Err(error) if concerns_one_object(&error) => return Ok(Outcome::unreadable(stat, error)),
                    Err(error) => return Err(error.into()),
                }
            }
            error if error.is_transient() && attempts < MOST_ATTEMPTS => attempts += 1,
            error if concerns_one_object(&error) => return Ok(Outcome::unreadable(stat, error)),
            error => return Err(error.into()),
        }
    }
}

async fn read_once(
    store: &SharedStore,
    stat: &ObjectStat,
    version: Option<String>,
    sink: &dyn Sink,
    observer: &SharedObserver,
) -> Result<(Entry, bool), SourceError> {
    let mut writer = sink.content(Cut::Fixed(OBJECT_PART_BYTES), Some(stat.size)).await?;
    // A version with an id of its own never changes; the one without is overwritten.
    let may_change = version.as_deref().is_none_or(|id| id == NULL_VERSION);
    let if_match = Some(stat.etag.clone()).filter(|etag| may_change && !etag.is_empty());
    let options = GetOptions { if_match, attributes: true, version: version.clone(), ..GetOptions::default() };
    let (read, attributes, digest) = if stat.size <= u64::from(OBJECT_PART_BYTES) {
        // On a task of its own, so that several objects are received and decrypted on all cores.
        let (store, key) = (store.clone(), stat.key.clone());
        let (read, attributes, body, digest) = on_its_own(async move { receive(&store, &key, options).await }).await?;
        if !body.is_empty() {
            observer.bytes(body.len() as u64);
            writer.write(body).await?;
        }
        (read, attributes, digest)
    } else {
        let Download { stat: read, attributes, body } = store.get(&stat.key, options).await?;
        let mut hasher = Hasher::default();
        let mut body = std::pin::pin!(body);
        let mut total = 0;
        let mut collected = BytesMut::new();
        loop {
            let piece = body.next().await.transpose()?;
            let ended = piece.is_none();
            if let Some(piece) = piece {
                total += piece.len() as u64;
                collected.extend_from_slice(&piece);
            }
            if collected.len() >= PIECE_BYTES || (ended && !collected.is_empty()) {
                let piece = collected.split().freeze();
                observer.bytes(piece.len() as u64);
                hasher.update(piece.clone()).await?;
                writer.write(piece).await?;
            }
            if ended {
                break;
            }
        }
        whole(store, &read, total)?;
        (read, attributes, hasher.finish())
    };
    let mut entry = Entry::new(stat.key.as_bytes(), OBJECT);
    entry.modified = Some(read.modified);
    entry.content = Some(writer.finish().await?);
    let mut object = attributes;
    if object.storage_class.is_none() {
        object.storage_class = stat.storage_class.clone();
    }
    let version = read.version.or(version);
    let versioned = version.is_some();
    // The listed ETag, when the answer to the read has none of its own: the next listing is compared with this one.
    let etag = if read.etag.is_empty() { stat.etag.clone() } else { read.etag };
    entry.set_attributes(&BucketAttributes { etag, version, blake3: ByteArray::new(digest), object })?;
    Ok((entry, versioned))
}

/// A small object whole, with the BLAKE3 of its bytes.
async fn receive(
    store: &SharedStore,
    key: &str,
    options: GetOptions,
) -> Result<(ObjectStat, ObjectAttributes, Bytes, [u8; 32]), SourceError> {
    let Download { stat, attributes, mut body } = store.get(key, options).await?;
    let mut first = Bytes::new();
    let mut collected = BytesMut::new();
    while let Some(piece) = body.next().await {
        let piece = piece?;
        if first.is_empty() {
            // Most objects come in one piece, which then needs no copy.
            first = piece;
            continue;
        }
        if collected.is_empty() {
            collected.reserve(usize::try_from(stat.size).unwrap_or(0).min(OBJECT_PART_BYTES as usize));
            collected.extend_from_slice(&first);
        }
        collected.extend_from_slice(&piece);
        if collected.len() as u64 > stat.size {
            break;
        }
    }
    let bytes = if collected.is_empty() { first } else { collected.freeze() };
    whole(store, &stat, bytes.len() as u64)?;
    let mut hasher = Hasher::default();
    hasher.update(bytes.clone()).await?;
    Ok((stat, attributes, bytes, hasher.finish()))
}

fn whole(store: &SharedStore, stat: &ObjectStat, read: u64) -> Result<(), StoreError> {
    if read == stat.size {
        return Ok(());
    }
    Err(StoreError::Corrupt {
        place: format!("{}/{}", store.describe(), stat.key),
        detail: format!("{read} bytes came of an object of {}", stat.size),
    })
}

/// BLAKE3 over pieces, off the async threads when they are large.
#[derive(Default)]
pub(super) struct Hasher {
    state: blake3::Hasher,
}

impl Hasher {
    pub(super) async fn update(&mut self, piece: Bytes) -> Result<(), SourceError> {
        if piece.len() <= HASHED_IN_PLACE_BYTES {
            self.state.update(&piece);
            return Ok(());
        }
        let mut state = std::mem::take(&mut self.state);
        self.state = tokio::task::spawn_blocking(move || {
            state.update(&piece);
            state
        })
        .await
        .map_err(lost)?;
        Ok(())
    }

    pub(super) fn finish(self) -> [u8; 32] {
        *self.state.finalize().as_bytes()
    }
}

/// Work on a task of its own, which ends with whoever waits for it. What holds leave for a request of a store belongs on one wherever its waiter may
/// turn to something else that waits for such leave.
pub(super) async fn on_its_own<T: Send + 'static>(
    work: impl Future<Output = Result<T, SourceError>> + Send + 'static,
) -> Result<T, SourceError> {
    AbortOnDropHandle::new(tokio::spawn(work)).await.unwrap_or_else(|error| Err(lost(error)))
}

/// A task that ended without its result: the runtime is going down.
fn lost(error: tokio::task::JoinError) -> SourceError {
    SourceError::io("a task of this program")(std::io::Error::other(error))
}
