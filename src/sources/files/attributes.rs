//! What an entry of this source keeps beside its bytes.

use chrono::{DateTime, Utc};
use rustix::fs::Stat;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

/// A file's time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Instant {
    /// Seconds since 1970, UTC; negative before.
    pub seconds: i64,
    /// Nanoseconds after them.
    pub nanoseconds: u32,
}

impl Instant {
    /// As a timestamp, where one can show it.
    pub(super) fn timestamp(self) -> Option<DateTime<Utc>> {
        DateTime::from_timestamp(self.seconds, self.nanoseconds)
    }
}

/// Owner, mode, times and the rest. Empty fields are not stored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileAttributes {
    /// Permission bits with set-user-id, set-group-id and sticky.
    pub mode: u32,
    /// Owner's number.
    pub uid: u32,
    /// Group's number.
    pub gid: u32,
    /// Owner's name, where the machine's own `/etc/passwd` has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Group's name, where the machine's own `/etc/group` has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Last change of the content.
    pub mtime: Instant,
    /// Last change of anything; tells whether a file must be read again, never restored.
    pub ctime: Instant,
    /// Inode number, for the same purpose.
    pub inode: u64,
    /// Whether the file had been at rest long enough, when it was read, for its times to show any later change.
    #[serde(default, skip_serializing_if = "is_false")]
    pub settled: bool,
    /// Number of names, if more than one.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub links: u64,
    /// Bytes from beginning to end, holes included.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub size: u64,
    /// A sparse file: where its stored bytes lie, as (offset, length), in order; the rest are holes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Vec<(u64, u64)>>,
    /// Where a symbolic link points; the entry path of the first name of a hard link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<ByteBuf>,
    /// Major and minor number of a device node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<(u32, u32)>,
    /// Extended attributes, name and value.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub xattrs: Vec<(ByteBuf, ByteBuf)>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands references over")]
fn is_false(value: &bool) -> bool {
    !*value
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands references over")]
fn is_zero(value: &u64) -> bool {
    *value == 0
}

/// The part of [`FileAttributes`] that decides whether a file must be read again.
#[derive(Debug, Deserialize)]
pub(super) struct Fingerprint {
    mtime: Instant,
    ctime: Instant,
    inode: u64,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    settled: bool,
}

impl Fingerprint {
    /// Whether `stat` shows the same file, and would show it if it had changed.
    pub(super) fn is_of(&self, stat: &Stat) -> bool {
        self.settled
            && self.size == size(stat)
            && self.mtime == mtime(stat)
            && self.ctime == ctime(stat)
            && self.inode == stat.st_ino
    }
}

/// Last change of the content.
pub(super) fn mtime(stat: &Stat) -> Instant {
    instant(stat.st_mtime, stat.st_mtime_nsec)
}

/// Last change of anything.
pub(super) fn ctime(stat: &Stat) -> Instant {
    instant(stat.st_ctime, stat.st_ctime_nsec)
}

/// Bytes from beginning to end.
pub(super) fn size(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(0)
}

// These types differ between architectures.
fn instant(seconds: impl TryInto<i64>, nanoseconds: impl TryInto<u32>) -> Instant {
    Instant { seconds: seconds.try_into().unwrap_or(0), nanoseconds: nanoseconds.try_into().unwrap_or(0) }
}
