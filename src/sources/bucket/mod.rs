//! Source `bucket`: the objects of any store.
//!
//! Promises:
//! * An object is read only if it is new or its size, ETag or version is another than in the newest point; what has not changed
//!   costs one comparison. Objects are read under the ETag that was listed, so an entry never mixes two versions.
//! * An object that changed after it was listed is read once more as it is now (`reread` in the facts); one that vanished or
//!   could not be read is a problem, named.
//! * What held an object (a lock, a legal hold) is recorded as far as a read shows it, and with [`BucketOptions::locks`] asked for; it is put
//!   on objects of a target only where somebody says so ([`RestoredLocks`]).
//! * Rebuilding restores headers, user metadata, storage class and tags; keys stay below the target store's prefix, because the
//!   store is handed relative keys and nothing else.
//!
//! * A bucket that keeps versions is read as of the databases' consistency time T ([`CaptureContext::consistent_at`]), whatever was
//!   uploaded, overwritten or deleted since.
//!
//! Assumes: the listing begins after T; `operations` sees to the order. Where no versions are kept, what was deleted between T and the
//! listing cannot be seen in it: `gone` in the facts counts what the newest point had and the listing no longer shows, and
//! `modified_after_consistency` what was written after T.
//!
//! Leaves out on purpose: the history of objects, bucket settings (lifecycle, policies, encryption).
//!
//! [`CaptureContext::consistent_at`]: super::CaptureContext::consistent_at

mod archived;
mod as_of;
mod capture;
mod cuts;
mod existing;
mod listing;
mod locks;
mod pages;
mod ranges;
mod read;
mod reading;
mod rebuild;
mod restored_locks;
mod shape;
mod shards;
mod transfer;

use serde::{Deserialize, Serialize};
use serde_bytes::ByteArray;

pub use capture::{BucketOptions, BucketSource};
pub use rebuild::BucketTarget;
pub use restored_locks::RestoredLocks;
pub use shards::merged_facts;

use crate::stores::{ObjectAttributes, StoreError};

/// Kind of a bucket's entries.
pub const OBJECT: &str = "object";

/// What an entry of kind `object` keeps beside its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketAttributes {
    /// The ETag under which it was read.
    pub etag: String,
    /// Its version id, on a versioned bucket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// BLAKE3 (unkeyed) of its bytes: tells whether an object of a target is the same where ETags cannot be compared.
    pub blake3: ByteArray<32>,
    /// Headers, user metadata and tags, and what held it.
    pub object: ObjectAttributes,
}

/// The part of [`BucketAttributes`] that decides whether an object is unchanged, borrowed: this is read once per object and day.
#[derive(Debug, Deserialize)]
struct Fingerprint<'a> {
    etag: &'a str,
    #[serde(default)]
    version: Option<&'a str>,
}

/// Whether an error is about one object, so that the others can go on; the rest would meet every object alike.
fn concerns_one_object(error: &StoreError) -> bool {
    match error {
        StoreError::NotFound { .. }
        | StoreError::AlreadyExists { .. }
        | StoreError::Changed { .. }
        | StoreError::InvalidRange { .. }
        | StoreError::Denied { .. }
        | StoreError::Encrypted { .. }
        | StoreError::Archived { .. }
        | StoreError::Locked { .. }
        | StoreError::Corrupt { .. }
        | StoreError::Unsupported { .. }
        | StoreError::Other { .. } => true,
        StoreError::NoSuchPlace { .. }
        | StoreError::Unauthenticated { .. }
        | StoreError::Full { .. }
        | StoreError::Throttled { .. }
        | StoreError::Unavailable { .. } => false,
    }
}
