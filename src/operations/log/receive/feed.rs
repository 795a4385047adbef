//! What the sites take from: what the server streams, the one session with it, and the last few segments as far as they are known.

use std::{
    ops::Range,
    sync::{Arc, MutexGuard, PoisonError},
};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use tokio::sync::{Mutex, Notify, watch};

use super::kept::Kept;
use crate::sources::{
    SourceError,
    postgres::physical::{Follower, Layout, Lineage, Lsn, Segment, SegmentCheck},
};

/// Bytes of segments that are kept, so that several sites, and parts and the whole, take one read; two segments at least.
const KEPT_BYTES: u64 = 64 << 20;
/// The header of a segment, without which nobody can tell its parts. Bytes.
pub(super) const LEAST_PART_BYTES: u64 = 40;
/// Of what is read over the session while the log is streamed, for a site that is behind.
const BESIDE_BYTES: u64 = 32 << 20;

/// How the server's log stands, for the sites to go by.
#[derive(Debug, Clone)]
pub(super) struct View {
    pub(super) layout: Layout,
    /// As far as the log is on the server's disk, and has come where it is streamed.
    pub(super) end: Lsn,
    /// When the server was asked, and how far its log was then, in this order.
    pub(super) looks: Vec<(DateTime<Utc>, Lsn)>,
    pub(super) lineage: Arc<Lineage>,
    /// By name.
    pub(super) histories: Arc<Vec<(String, Bytes)>>,
    /// The first segment to begin with.
    pub(super) first: u64,
    /// The first segment that the slot holds; what is before may go at any time.
    pub(super) held: u64,
    /// Commits wait for the sites: what is new is stored at once.
    pub(super) is_awaited: bool,
    /// There will be no other: whoever has stored this much ends.
    pub(super) is_last: bool,
}

impl View {
    /// Whether the log has more than this segment, and what has come of the next one can be told to be its.
    pub(super) fn goes_on_after(&self, number: u64) -> bool {
        self.end.0 > (number + 1) * self.layout.segment_bytes + LEAST_PART_BYTES
    }

    /// The last moment of which it is known that all that was committed until then lies before the end; nothing while the stream is behind all looks.
    pub(super) fn ended_at(&self) -> Option<DateTime<Utc>> {
        known_at(&self.looks, self.end)
    }
}

/// The last look at which the log went no further than `end`.
pub(super) fn known_at(looks: &[(DateTime<Utc>, Lsn)], end: Lsn) -> Option<DateTime<Utc>> {
    looks.iter().rev().find(|(_, at)| *at <= end).map(|(asked_at, _)| *asked_at)
}

/// A segment as far as it was read.
struct Open {
    segment: Segment,
    bytes: Vec<u8>,
    check: SegmentCheck,
}

#[derive(Default)]
pub(super) struct Line {
    /// Nothing while there is no connection.
    pub(super) follower: Option<Follower>,
    /// The one used last at the end.
    open: Vec<Open>,
}

/// What a read brought.
pub(super) enum Read {
    Bytes(Bytes),
    /// The server does not have the segment, or not any more.
    Gone(String),
    /// There is no connection now; it is being seen to.
    Away,
}

pub(super) struct Feed {
    pub(super) line: Mutex<Line>,
    pub(super) view: watch::Sender<Option<View>>,
    /// What is streamed.
    pub(super) kept: std::sync::Mutex<Kept>,
    /// A site has stored something.
    pub(super) stored: Notify,
}

impl Feed {
    pub(super) fn new() -> Self {
        Self { line: Mutex::default(), view: watch::Sender::new(None), kept: std::sync::Mutex::default(), stored: Notify::new() }
    }

    pub(super) fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// So many segments may be kept of what is streamed.
    pub(super) fn most_kept(&self, layout: Layout) -> usize {
        segments(KEPT_BYTES, layout)
    }

    /// Reads these bytes of a segment, all of which must be on the server's disk.
    pub(super) async fn read(&self, layout: Layout, segment: Segment, from: u64, to: u64) -> Read {
        let (streamed, most_bytes) = {
            let kept = self.kept();
            (kept.read(segment, from, to), if kept.end().is_some() { BESIDE_BYTES } else { KEPT_BYTES })
        };
        if let Some(bytes) = streamed {
            return Read::Bytes(bytes);
        }
        let mut line = self.line.lock().await;
        match line.read(layout, segment, from..to, segments(most_bytes, layout)).await {
            Ok(read) => read,
            // Rows may still be on their way: the next statement begins on a new connection.
            Err(error) => {
                line.follower = None;
                match error {
                    SourceError::Unfit { subject, detail } => Read::Gone(format!("{subject}: {detail}")),
                    _ => Read::Away,
                }
            }
        }
    }

    /// A whole segment, if it is kept of what is streamed.
    pub(super) fn streamed(&self, layout: Layout, segment: Segment) -> Option<Bytes> {
        self.kept().read(segment, 0, layout.segment_bytes)
    }
}

fn segments(bytes: u64, layout: Layout) -> usize {
    usize::try_from(bytes / layout.segment_bytes).unwrap_or(2).max(2)
}

impl Line {
    async fn read(&mut self, layout: Layout, segment: Segment, range: Range<u64>, most: usize) -> Result<Read, SourceError> {
        let Range { start: from, end: to } = range;
        let mut open = match self.open.iter().position(|open| open.segment == segment) {
            Some(at) => self.open.remove(at),
            // All that is read is on the server's disk, so that every page must be right.
            None => Open { segment, bytes: Vec::new(), check: layout.check(segment, 1, Lsn(u64::MAX)) },
        };
        if (open.bytes.len() as u64) < to {
            let Some(follower) = &self.follower else { return Ok(Read::Away) };
            let name = layout.name(segment);
            // One that failed is not kept: it is read anew from its beginning.
            if !follower.read(&name, &mut open.bytes, &mut open.check, to).await? {
                return Ok(Read::Gone(format!("pg_wal/{name} is not there")));
            }
        }
        let range = usize::try_from(from).unwrap_or(usize::MAX)..usize::try_from(to).unwrap_or(usize::MAX);
        let bytes = Bytes::copy_from_slice(&open.bytes[range]);
        while self.open.len() >= most {
            self.open.remove(0);
        }
        self.open.push(open);
        Ok(Read::Bytes(bytes))
    }

    /// Forgets what was read: another server may have other bytes.
    pub(super) fn forget(&mut self) {
        self.open.clear();
    }
}
