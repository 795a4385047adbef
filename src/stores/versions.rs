//! What a store says of the versions that it keeps.

use super::ObjectStat;

/// Whether what is overwritten or deleted is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Versioning {
    /// All of it.
    Enabled,
    /// It was, and what was kept then is still there; what is written now overwrites.
    Suspended {
        /// The command that mends it.
        remedy: String,
    },
    /// None of it.
    Off {
        /// The command that mends it.
        remedy: String,
    },
}

/// Version id of what was stored while a bucket kept no versions.
pub const NULL_VERSION: &str = "null";

/// A version of an object, or a delete marker over it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectVersion {
    /// The version; of a marker key, time and id count, and its size is 0. Always with an id.
    pub stat: ObjectStat,
    /// It is a delete marker.
    pub marker: bool,
    /// It is what a reader who names no version meets.
    pub latest: bool,
}

/// Where a listing of versions goes on: opaque to everybody but the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionCursor {
    pub(super) key: String,
    pub(super) version: Option<String>,
}

impl VersionCursor {
    /// Goes on after all versions of this key, whether there are any or not.
    pub fn after(key: &str) -> Self {
        Self { key: key.to_owned(), version: None }
    }
}

/// One page of a listing of versions.
#[derive(Debug, Clone, Default)]
pub struct VersionPage {
    /// Sorted by key bytes.
    pub versions: Vec<ObjectVersion>,
    /// Where it goes on; nothing at the end.
    pub next: Option<VersionCursor>,
}
