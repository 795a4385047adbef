//! How objects at a site, or in a bucket, are read and written.
//!
//! Promises, and the contract suite (`tests/…/store_contract`) holds every store and every wrapper to them:
//! * A key is any non-empty UTF-8 string of at most 1,024 bytes, byte-ordered in listings; `a//b`, a trailing `/`, `..` and
//!   control characters are ordinary keys. They are relative to the store's prefix.
//! * A put is atomic: readers see all of it or nothing. With [`PutOptions::if_absent`] exactly one of several racers wins and
//!   the others get [`StoreError::AlreadyExists`] — where the store honours it, which `repository::probe` finds out.
//! * Listing pages are sorted by key bytes and start strictly after the key given.
//! * Deleting what is not there succeeds. On a versioned bucket [`Store::delete`] hides (or, where a lock forbids that too, is
//!   refused with [`StoreError::Locked`]), and [`Store::delete_versions`] removes.
//! * A lock, once answered for, is neither shortened nor weakened by any call of this trait; what it holds is not deleted:
//!   [`StoreError::Locked`], which passes with time, is told from [`StoreError::Denied`], which does not.
//! * Errors say what the caller can do ([`StoreError::is_transient`]); retry is decided in one place, the `retry` wrapper; the
//!   SDKs' own retries are off.
//!
//! Leaves out on purpose: mutual exclusion, renames, directories.

mod archive;
mod azure;
mod bandwidth;
mod bounds;
pub mod direct;
mod error;
mod filesystem;
mod header_values;
mod limit;
mod location;
mod lock;
mod memory;
mod retry;
mod role;
mod s3;
mod tiers;
mod versions;
mod wire;

use std::{collections::BTreeMap, fmt::Debug, ops::Range, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::stream::BoxStream;
use serde::{Deserialize, Serialize};

pub use archive::{Archive, Availability, Retrieval, RetrievalPriority, is_archive, may_be_archived};
pub use azure::{AzureConfig, AzureCredential, AzureStore, azure_permissions};
pub use bandwidth::{Bandwidth, Direction, Hours, TimeOfDay, Zone};
pub use error::StoreError;
pub use filesystem::FilesystemStore;
pub use limit::{Limit, MOST_REQUESTS};
pub use location::{Location, LocationError};
pub use lock::{Holds, Lock, LockMode, LockSupport};
pub use memory::MemoryStore;
pub use retry::{Retry, RetryPolicy};
pub use role::Role;
pub use s3::{S3Config, S3Encryption, S3Place, S3Source, S3Store, s3_permissions, s3_source_permissions};
pub use versions::{NULL_VERSION, ObjectVersion, VersionCursor, VersionPage, Versioning};
pub use wire::{Deadlines, WireConfig};

/// What travels with an object beside its bytes. Everything is optional; an empty value is left out of requests.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectAttributes {
    /// `Content-Type`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// `Cache-Control`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_control: Option<String>,
    /// `Content-Disposition`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_disposition: Option<String>,
    /// `Content-Encoding`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_encoding: Option<String>,
    /// `Content-Language`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_language: Option<String>,
    /// Storage class or access tier, by the provider's own name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_class: Option<String>,
    /// User metadata (`x-amz-meta-*`), names in lower case.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// Object tags.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    /// What the server had encrypted it with, by the provider's own word, where that takes a key other than the server's own (`aws:kms`).
    /// Only ever read: what is written is encrypted as its store is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<String>,
    /// The key of that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption_key: Option<String>,
    /// The lock on it, where it has not ended: read with the object, as far as the server tells this identity, and written where it is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock: Option<Lock>,
    /// Whether a legal hold is on it: likewise.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub legal_hold: bool,
}

/// What a store says of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectStat {
    /// Key relative to the store's prefix.
    pub key: String,
    /// Size in bytes.
    pub size: u64,
    /// The site's time of last modification.
    pub modified: DateTime<Utc>,
    /// Opaque tag that changes whenever the bytes do (S3: the ETag without quotes; filesystem: size, mtime and inode).
    pub etag: String,
    /// Version id, on a versioned bucket.
    pub version: Option<String>,
    /// SHA-256 of the bytes as the store itself keeps it, where it does. Never in a listing.
    pub sha256: Option<[u8; 32]>,
    /// Storage class as listed, where the store has such a thing.
    pub storage_class: Option<String>,
}

/// An object being read.
pub struct Download {
    /// Of the whole object, whatever range was asked for.
    pub stat: ObjectStat,
    /// Headers and user metadata. Tags are in it only when asked for by [`GetOptions::attributes`].
    pub attributes: ObjectAttributes,
    /// The bytes asked for, in order; a short read is an error of the stream, never a silent end.
    pub body: BoxStream<'static, Result<Bytes, StoreError>>,
}

/// How to get an object.
#[derive(Debug, Clone, Default)]
pub struct GetOptions {
    /// Only these bytes; the end may lie beyond the object (a start beyond it is [`StoreError::InvalidRange`]).
    pub range: Option<Range<u64>>,
    /// Refuse with [`StoreError::Changed`] if the object's etag is another.
    pub if_match: Option<String>,
    /// Fetch tags too (one more request on S3).
    pub attributes: bool,
    /// This version, by its id as [`Store::list_versions`] shows it, and not the present one. A store that cannot refuses with
    /// [`StoreError::Unsupported`].
    pub version: Option<String>,
    /// The bytes are sealed, and the reader verifies that himself: a checksum that the store keeps of them is not computed again.
    pub sealed: bool,
}

impl GetOptions {
    /// The whole object, which is sealed.
    pub fn sealed() -> Self {
        Self { sealed: true, ..Self::default() }
    }
}

/// How to put an object.
#[derive(Debug, Clone, Default)]
pub struct PutOptions {
    /// Refuse with [`StoreError::AlreadyExists`] if there is an object of that key.
    pub if_absent: bool,
    /// SHA-256 of the body, when the caller has it already: sent so that the server verifies it. Without it the store computes
    /// and sends a checksum of its own choice.
    pub sha256: Option<[u8; 32]>,
    /// The bytes are sealed, and whoever reads them verifies that: the checksum of the store's own choice need only show what went wrong on the
    /// way, and may be the one that costs least.
    pub sealed: bool,
    /// Headers, metadata, tags.
    pub attributes: ObjectAttributes,
    /// Locked from the moment it exists, whatever the attributes say. A store that cannot lock refuses with [`StoreError::Unsupported`]; a server that
    /// cannot may answer 200 and do nothing, which `repository::probe` finds out.
    pub lock: Option<Lock>,
}

/// One page of a listing.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// Sorted by key bytes.
    pub objects: Vec<ObjectStat>,
    /// Whether there is more after the last object.
    pub more: bool,
}

/// A part of a multipart upload, as [`Store::complete_upload`] wants it back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadedPart {
    /// 1-based.
    pub number: u32,
    /// What the server answered for it.
    pub etag: String,
    /// SHA-256 of the part.
    pub sha256: [u8; 32],
}

/// The mechanism by which objects at a site or in a bucket are read and written. See the room's promises above.
#[async_trait]
pub trait Store: Debug + Send + Sync {
    /// How an operator would write the place down, for instance `s3://bucket/prefix`; never holds a secret.
    fn describe(&self) -> String;

    /// How many requests a caller who has enough to do should have ready at once: wrappers let through what pays. 1 where nothing decides.
    fn requests(&self) -> usize {
        1
    }

    /// Writes an object in one request; at most [`MAX_SINGLE_PUT_BYTES`]. Returns what was stored (size, etag, version, modified).
    async fn put(&self, key: &str, body: Bytes, options: PutOptions) -> Result<ObjectStat, StoreError>;

    /// Opens an object for reading.
    async fn get(&self, key: &str, options: GetOptions) -> Result<Download, StoreError>;

    /// What the store says of an object, with its stored checksum where it keeps one.
    async fn stat(&self, key: &str) -> Result<ObjectStat, StoreError>;

    /// At most `limit` objects whose keys begin with `prefix` and lie strictly after `start_after` in byte order.
    async fn list(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> Result<Page, StoreError>;

    /// Whether listing from any key, there or not, costs no more than the page that it gives: then several parts of the keys can be
    /// listed at once.
    fn seeks(&self) -> bool {
        false
    }

    /// Removes an object; succeeds if there is none.
    async fn delete(&self, key: &str) -> Result<(), StoreError>;

    /// Begins a multipart upload and returns its id. Nothing is visible under `key` until it is completed.
    async fn begin_upload(&self, key: &str, attributes: ObjectAttributes) -> Result<String, StoreError>;

    /// Uploads one part (5 MiB to 5 GiB except for the last one), in any order, each once.
    async fn upload_part(&self, key: &str, upload: &str, number: u32, body: Bytes) -> Result<UploadedPart, StoreError>;

    /// Joins the parts (sorted by number) into the object.
    async fn complete_upload(
        &self,
        key: &str,
        upload: &str,
        parts: &[UploadedPart],
        if_absent: bool,
    ) -> Result<ObjectStat, StoreError>;

    /// Drops an upload and what was stored for it; succeeds if it is gone already.
    async fn abort_upload(&self, key: &str, upload: &str) -> Result<(), StoreError>;

    /// What the site's own clock shows: times that decide deletion are the site's.
    async fn time(&self) -> Result<DateTime<Utc>, StoreError> {
        Err(StoreError::Unsupported { place: self.describe(), what: "telling its time" })
    }

    /// Makes the bucket, container or directory if it is missing (`init --create`).
    async fn create(&self) -> Result<(), StoreError>;

    /// Like [`Store::create`], and so that objects can be locked. A bucket that is there is left as it is.
    async fn create_locking(&self) -> Result<(), StoreError> {
        Err(no_locks(self.describe()))
    }

    /// Whether objects can be locked here.
    async fn lock_support(&self) -> Result<LockSupport, StoreError> {
        Ok(LockSupport::default())
    }

    /// What locks the version of an object that was stored first; `None` for a lock that ended as for none at all.
    async fn lock_of(&self, key: &str) -> Result<Option<Lock>, StoreError> {
        self.stat(key).await.map(|_| None)
    }

    /// What holds the present version of an object, or that version of it. `shown` is what a read of the very same has just shown
    /// ([`ObjectAttributes::holds`]): then only what the server may have kept to itself is asked for. That this identity may not know is
    /// [`StoreError::Denied`] and never "nothing"; where nothing can be locked it is [`StoreError::Unsupported`].
    async fn holds(&self, _key: &str, _version: Option<&str>, _shown: Option<Holds>) -> Result<Holds, StoreError> {
        Err(no_locks(self.describe()))
    }

    /// Gives the version of an object that was stored first exactly this lock. The store itself refuses what would shorten or
    /// weaken one; [`Store::extend_lock`] is what does not ask for that.
    async fn set_lock(&self, _key: &str, _lock: Lock) -> Result<(), StoreError> {
        Err(no_locks(self.describe()))
    }

    /// Locks the version of an object that was stored first at least so firmly and so long, and returns what holds it then. Never shortens, and
    /// never weakens. Denied with [`StoreError::Denied`], impossible with [`StoreError::Unsupported`].
    async fn extend_lock(&self, _key: &str, _lock: Lock) -> Result<Lock, StoreError> {
        Err(no_locks(self.describe()))
    }

    /// Whether an object, or that version of it, can be read now or lies in an archive.
    async fn availability(&self, key: &str, _version: Option<&str>) -> Result<Availability, StoreError> {
        self.stat(key).await.map(|_| Availability::Readable)
    }

    /// Asks for an object, or that version of it, where it lies in an archive and was not asked for. It is there when [`Store::availability`] says
    /// so, hours later. Costs money, by object and by byte.
    async fn bring_back(&self, key: &str, version: Option<&str>, _how: Retrieval) -> Result<Availability, StoreError> {
        self.availability(key, version).await
    }

    /// Whether the store keeps what is overwritten or deleted, so that [`Store::list_versions`] shows it.
    async fn versioning(&self) -> Result<Versioning, StoreError> {
        Err(no_versions(self.describe()))
    }

    /// Versions of the objects whose keys begin with `prefix`, and delete markers over them, from where `from` says: about `limit`
    /// at a time, sorted by key bytes. The versions of one key are listed newest first, and so are its markers; which of the two came
    /// first only their times tell. A page may end between the versions of a key.
    async fn list_versions(&self, _prefix: &str, _from: Option<&VersionCursor>, _limit: usize) -> Result<VersionPage, StoreError> {
        Err(no_versions(self.describe()))
    }

    /// Removes every version of an object and every delete marker over them, so that its bytes are gone; [`StoreError::Locked`]
    /// if a lock holds one of them. Without versions: [`Store::delete`].
    async fn delete_versions(&self, key: &str) -> Result<(), StoreError> {
        self.delete(key).await
    }
}

/// Why a store that has no locks refuses.
fn no_locks(place: String) -> StoreError {
    StoreError::Unsupported { place, what: "locking objects" }
}

/// Why a store that does not tell versions apart refuses.
fn no_versions(place: String) -> StoreError {
    StoreError::Unsupported { place, what: "listing or reading versions of objects" }
}

/// A store that can be shared.
pub type SharedStore = Arc<dyn Store>;

/// Largest body of one [`Store::put`], bytes. Larger objects go by multipart. (S3's own limit is 5 GiB.)
pub const MAX_SINGLE_PUT_BYTES: u64 = 256 << 20;

/// Longest key, in bytes (S3's limit).
pub const MAX_KEY_BYTES: usize = 1024;

/// Bytes as they came, piece by piece.
#[derive(Debug, Clone, Default)]
pub struct Pieces(Vec<Bytes>);

impl Pieces {
    /// All of them together.
    pub fn bytes(&self) -> u64 {
        self.0.iter().map(|piece| piece.len() as u64).sum()
    }

    /// A range, which must lie within: where it lies in one piece, that; else joined in `buffer`, whose contents are replaced.
    pub fn joined<'a>(&'a self, range: Range<u64>, buffer: &'a mut Vec<u8>) -> &'a [u8] {
        buffer.clear();
        let mut start = 0;
        for piece in &self.0 {
            let end = start + piece.len() as u64;
            let (from, to) = (range.start.max(start), range.end.min(end));
            if from < to {
                // Both lie within the piece, whose length is a usize.
                let part = &piece[(from - start) as usize..(to - start) as usize];
                if to - from == range.end - range.start {
                    return part;
                }
                buffer.extend_from_slice(part);
            }
            start = end;
        }
        buffer
    }
}

/// Reads an object, or a range of it, as it comes: nothing is copied. Refuses more than `limit` bytes.
///
/// # Errors
/// Those of [`read_all`].
pub async fn read_pieces(store: &dyn Store, key: &str, options: GetOptions, limit: u64) -> Result<Pieces, StoreError> {
    let mut pieces = Pieces::default();
    read_each(store, key, options, limit, |piece, _| pieces.0.push(piece)).await?;
    Ok(pieces)
}

/// Reads an object, or a range of it, whole into memory, refusing more than `limit` bytes.
///
/// # Errors
/// Those of the store; [`StoreError::Corrupt`] if there are more than `limit` bytes.
pub async fn read_all(store: &dyn Store, key: &str, options: GetOptions, limit: u64) -> Result<Bytes, StoreError> {
    let (mut only, mut all) = (None, Vec::new());
    let each = |piece: Bytes, size: u64| {
        if only.is_none() && all.is_empty() {
            // Small objects come in one piece, which is handed on as it is.
            only = Some(piece);
            return;
        }
        if let Some(first) = only.take() {
            all.reserve_exact(usize::try_from(size.min(limit)).unwrap_or(0));
            all.extend_from_slice(&first);
        }
        all.extend_from_slice(&piece);
    };
    read_each(store, key, options, limit, each).await?;
    Ok(only.unwrap_or_else(|| all.into()))
}

/// Like [`read_all`], into a buffer that the caller brings and whose contents are replaced.
///
/// # Errors
/// Those of [`read_all`].
pub async fn read_into(store: &dyn Store, key: &str, options: GetOptions, limit: u64, all: &mut Vec<u8>) -> Result<(), StoreError> {
    all.clear();
    read_each(store, key, options, limit, |piece, _| all.extend_from_slice(&piece)).await
}

async fn read_each(
    store: &dyn Store,
    key: &str,
    options: GetOptions,
    limit: u64,
    mut each: impl FnMut(Bytes, u64) + Send,
) -> Result<(), StoreError> {
    use futures_util::StreamExt;
    let mut bytes = 0;
    let range = options.range.clone();
    let mut download = store.get(key, options).await?;
    let size = range.map_or(download.stat.size, |range| range.end.saturating_sub(range.start));
    while let Some(piece) = download.body.next().await {
        let piece = piece?;
        bytes += piece.len() as u64;
        if bytes > limit {
            return Err(StoreError::Corrupt {
                place: format!("{}/{key}", store.describe()),
                detail: format!("more than the {limit} bytes that this kind of object may have"),
            });
        }
        each(piece, size);
    }
    Ok(())
}
