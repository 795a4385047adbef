//! What a capture counts, and how it reads in the facts.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::sources::Entry;

/// Counts of one capture.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) entries: BTreeMap<&'static str, u64>,
    pub(super) bytes: u64,
    pub(super) unchanged: u64,
    pub(super) unchanged_bytes: u64,
    pub(super) read: u64,
    pub(super) read_bytes: u64,
    pub(super) changed: u64,
    pub(super) vanished: u64,
    pub(super) unreadable: u64,
    pub(super) sockets: u64,
}

impl Counts {
    /// Counts an entry that goes to the sink.
    pub(super) fn entry(&mut self, entry: &Entry) {
        if let Some(kind) = super::KINDS.iter().find(|kind| **kind == entry.kind) {
            *self.entries.entry(kind).or_default() += 1;
        }
        // A hard link's bytes are those of its first name.
        if entry.kind == super::FILE {
            self.bytes += entry.size();
        }
    }

    /// The facts kept in the point. Bytes are stored ones: holes do not count.
    pub(super) fn facts(&self, paths: &[String], gone: u64, seconds: f64) -> Value {
        json!({
            "paths": paths,
            "entries": self.entries,
            "bytes": self.bytes,
            "unchanged_files": self.unchanged,
            "unchanged_bytes": self.unchanged_bytes,
            "read_files": self.read,
            "read_bytes": self.read_bytes,
            "changed_while_read": self.changed,
            "vanished": self.vanished,
            "unreadable": self.unreadable,
            "sockets_skipped": self.sockets,
            "gone": gone,
            "seconds": seconds,
        })
    }
}
