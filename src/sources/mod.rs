//! What is protected, and how each kind is captured and rebuilt.
//!
//! Each kind has two types: one that captures ([`Capture`]) and one that rebuilds ([`Rebuild`]). They know nothing of chunks,
//! packs or keys: bytes go into a [`Sink`] and come from an [`Origin`], which `operations` implements over the repository.
//!
//! Promises of every kind:
//! * Entries are handed over in strictly ascending byte order of their path; the path is unique within the snapshot.
//! * Memory does not grow with the number of entries or the size of one.
//! * What could not be read is reported to the observer as a problem, named, and never silently left out.
//! * Rebuilding never writes outside its target, refuses a target that is not empty unless told otherwise, and an error leaves
//!   nothing that looks whole and is not.
//! * No secret appears in an error, a fact or an entry.

pub mod bucket;
pub mod command;
mod earlier;
mod entry;
mod error;
pub mod files;
pub mod postgres;

use std::{fmt::Debug, fs::File, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::{FutureExt, future::BoxFuture, stream::BoxStream};

pub use entry::{Content, Entry};
pub use error::{ExchangeError, SourceError};

use crate::{
    clock::{Moment, SharedClock},
    progress::{Check, Finding, PhaseTime, SharedObserver},
};

/// How a stream of bytes is cut into chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Where the bytes themselves say so (FastCDC, 1 MiB on average): an insertion costs only its neighbourhood.
    ContentDefined,
    /// Every so many bytes: for what is changed in place, or always replaced whole (bucket objects: [`OBJECT_PART_BYTES`]).
    Fixed(u32),
}

/// Bucket objects up to this size are one chunk; larger ones are cut into parts of this size. Bytes.
pub const OBJECT_PART_BYTES: u32 = 8 << 20;

/// Where captured bytes and entries go.
#[async_trait]
pub trait Sink: Send + Sync {
    /// Opens a writer for the bytes of one entry. Many may be open at once (as many as [`CaptureContext::parallelism`]).
    /// `size` is a hint in bytes, where known: the memory limit then holds just that much.
    async fn content(&self, cut: Cut, size: Option<u64>) -> Result<Box<dyn ContentWriter>, ExchangeError>;

    /// Opens a writer over an earlier content, one that [`CaptureContext::earlier`] offered, for what is changed in place: it takes the
    /// bytes that are the same in the same place by [`ContentWriter::keep`]. Nothing if the earlier one was not cut every so many bytes
    /// (or cannot be told to have been): then everything has to be written.
    async fn content_over(
        &self,
        _earlier: &Content,
        _piece_bytes: u32,
        _size: Option<u64>,
    ) -> Result<Option<Box<dyn ContentWriter>>, ExchangeError> {
        Ok(None)
    }

    /// Bytes that a source may hold of contents it is about to write, or is writing, all together. What it writes takes as much room again, and
    /// entries need some beside.
    fn room(&self) -> u32 {
        32 << 20
    }

    /// The source has given what is large, and waits for its server: what is packed by now may be sent.
    fn lull(&self) {}

    /// Appends an entry; its path must be greater than the one before it.
    async fn entry(&self, entry: Entry) -> Result<(), ExchangeError>;
}

/// Takes the bytes of one entry, in order. Dropping it unfinished abandons them.
#[async_trait]
pub trait ContentWriter: Send {
    /// More bytes; waits when the pipeline is full. Pieces of any size; 64 KiB to 1 MiB is best.
    async fn write(&mut self, bytes: Bytes) -> Result<(), ExchangeError>;

    /// The next so many bytes are those that the earlier content has in the same place: whole pieces, up to its end. Only for
    /// writers of [`Sink::content_over`].
    async fn keep(&mut self, _bytes: u64) -> Result<(), ExchangeError> {
        Err(ExchangeError("a defect: there is no earlier content to keep".into()))
    }

    /// The end. What is returned goes into the entry.
    async fn finish(self: Box<Self>) -> Result<Content, ExchangeError>;
}

/// What a capture is given.
pub struct CaptureContext<'a> {
    /// Where bytes and entries go.
    pub sink: &'a dyn Sink,
    /// The entries of the same source in the newest point, sorted by path, for reusing what has not changed: an entry whose
    /// source says "unchanged" is handed to the sink again with its old [`Content`], without being read.
    pub earlier: Option<BoxStream<'a, Result<Entry, ExchangeError>>>,
    /// [`Captured::facts`] of the snapshot that has these entries. Nothing if they are not all of one snapshot: several sites may
    /// have different points.
    pub earlier_facts: Option<serde_json::Value>,
    /// Told of progress and problems.
    pub observer: SharedObserver,
    /// The time.
    pub clock: SharedClock,
    /// How many readers to run at once, at most.
    pub parallelism: usize,
    /// The recovery point's consistency time T so far: set by databases, which come first; buckets are listed after it.
    pub consistent_at: Option<ConsistencyTime>,
    /// Only this part of the entries; [`CaptureContext::earlier`] has those of the part alone.
    pub shard: Option<Shard>,
}

/// A part of a source's entries, for machines that share the work.
#[derive(Debug, Clone, Default)]
pub struct Shard {
    /// Not this path, and none before it.
    pub after: Option<Vec<u8>>,
    /// This path is the last, if it is there.
    pub until: Option<Vec<u8>>,
    /// What the source itself wants to be the same for all of them: [`ShardPlan::context`].
    pub context: serde_json::Value,
}

/// What a source needs to plan how machines share its work.
pub struct ShardPlanning<'a> {
    /// How many machines: at least one.
    pub shards: u32,
    /// Paths that part the earlier entries evenly, in ascending order: one fewer than there are shards, or none if there is nothing earlier.
    pub earlier_cuts: Vec<Vec<u8>>,
    /// See [`CaptureContext::consistent_at`].
    pub consistent_at: Option<ConsistencyTime>,
    /// The time.
    pub clock: &'a SharedClock,
}

/// How machines share a source's work.
#[derive(Debug, Clone, Default)]
pub struct ShardPlan {
    /// In ascending order: the first shard ends with the first of them, the last one begins after the last.
    pub cuts: Vec<Vec<u8>>,
    /// What each must know besides.
    pub context: serde_json::Value,
}

/// What a capture says when it is done.
#[derive(Debug, Clone)]
pub struct Captured {
    /// What rebuilding and checking need beside the entries (server version, LSN, counts …): a JSON object, kept in the point.
    pub facts: serde_json::Value,
    /// The instant this snapshot shows, where there is exactly one (a database's exported snapshot).
    pub consistent_at: Option<ConsistencyTime>,
}

/// The instant that a snapshot shows, by the clock of its own server and by this machine's. No two servers' clocks agree: this machine's
/// alone was read at the one and can be compared with the other's.
#[derive(Debug, Clone, Copy)]
pub struct ConsistencyTime {
    /// By the server's clock.
    pub at: DateTime<Utc>,
    /// It was not before this.
    pub from: Moment,
    /// It was not after this.
    pub until: Moment,
}

impl ConsistencyTime {
    /// Of several, one after the other: the earliest instant, from the beginning of the first to the end of the last.
    pub fn and_later(self, later: Self) -> Self {
        Self { at: self.at.min(later.at), from: self.from, until: later.until }
    }
}

/// One direction: from the thing protected into a sink.
#[async_trait]
pub trait Capture: Debug + Send + Sync {
    /// `postgres`, `bucket`, `files` or `command`.
    fn kind(&self) -> &'static str;

    /// What is captured, as an operator would write it down, without secrets.
    fn describe(&self) -> String;

    /// How several machines can share the work, each with a [`Shard`] of its own; nothing for a source that one machine captures as a
    /// whole.
    async fn plan_shards(&self, _planning: ShardPlanning<'_>) -> Result<Option<ShardPlan>, SourceError> {
        Ok(None)
    }

    /// Captures everything.
    async fn capture(&self, context: CaptureContext<'_>) -> Result<Captured, SourceError>;

    /// Looks at what a capture and a drill will need, and changes nothing: what is missing is named with what mends it.
    async fn examine(&self, _context: &Examination) -> Vec<Finding> {
        Vec::new()
    }
}

/// What an examination is given.
#[derive(Debug, Clone)]
pub struct Examination {
    /// The time.
    pub clock: SharedClock,
    /// Drills start a scratch server from this machine's own programs.
    pub scratch_drills: bool,
}

/// Where stored entries and bytes come from. Everything it yields was authenticated.
#[async_trait]
pub trait Origin: Send + Sync {
    /// All entries of the snapshot (or those the operator's `--path` selected), sorted by path.
    fn entries(&self) -> BoxStream<'_, Result<Entry, ExchangeError>>;

    /// The bytes of one content, in order, read ahead.
    fn read(&self, content: &Content) -> BoxStream<'static, Result<Bytes, ExchangeError>>;

    /// The bytes of many contents **in whatever order is fastest**: grouped by pack, many requests in flight. Hand over batches
    /// of some thousand entries or some hundred megabytes. Each piece is a whole chunk (so: a whole object or a whole part of
    /// [`OBJECT_PART_BYTES`] for a bucket); its memory counts against the limit until its `bytes` are dropped, so do not
    /// collect pieces. Contents of size 0 yield nothing.
    fn deliver(&self, wanted: Vec<Content>) -> BoxStream<'static, Result<Piece, ExchangeError>>;

    /// Which parts of a content differ from what a file holds, in order. An origin that cannot tell names all of it.
    fn differing(&self, content: &Content, _file: Arc<File>) -> BoxFuture<'static, Result<Vec<Part>, ExchangeError>> {
        let all = Part { offset: 0, content: content.clone() };
        async move { Ok(vec![all]) }.boxed()
    }
}

/// A part of a content, which can be asked for like any other.
#[derive(Debug, Clone)]
pub struct Part {
    /// Where it lies in the whole, in bytes.
    pub offset: u64,
    /// It.
    pub content: Content,
}

/// A piece of one of the contents that were asked for.
#[derive(Debug, Clone)]
pub struct Piece {
    /// Which of the wanted contents.
    pub index: usize,
    /// Where it lies in it, in bytes.
    pub offset: u64,
    /// The bytes.
    pub bytes: Bytes,
}

/// What a rebuild is given.
pub struct RebuildContext<'a> {
    /// Where entries and bytes come from.
    pub origin: Arc<dyn Origin>,
    /// [`Captured::facts`] of the snapshot.
    pub facts: &'a serde_json::Value,
    /// Told of progress and problems.
    pub observer: SharedObserver,
    /// The time.
    pub clock: SharedClock,
    /// How many writers to run at once, at most.
    pub parallelism: usize,
    /// The target may hold something already; what matches is kept, what differs is replaced, the rest is left alone (in the directory of a
    /// cluster it is removed).
    pub into_existing: bool,
    /// Only a part of the snapshot was asked for (`--path`): counts cannot be compared.
    pub partial: bool,
}

/// What a rebuild says when it is done.
#[derive(Debug, Clone, Default)]
pub struct Rebuilt {
    /// What was compared, expected against actual.
    pub checks: Vec<Check>,
    /// How long its phases took (`database transfer`, `database recovery`, `object transfer` …).
    pub phases: Vec<PhaseTime>,
    /// Entries written.
    pub items: u64,
    /// Entries that were there and matched already.
    pub items_kept: u64,
    /// Plain bytes written.
    pub bytes: u64,
    /// How far the log was replayed that goes beyond the point; nothing where none was.
    pub replayed: Option<Replayed>,
}

/// How far a server's log was replayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replayed {
    /// Where the last record ends.
    pub lsn: Option<postgres::physical::Lsn>,
    /// The last commit; nothing where there was none.
    pub last_commit: Option<DateTime<Utc>>,
    /// Whether it ended because there was no more.
    pub to_the_end: bool,
}

/// The other direction: from an origin into a target.
#[async_trait]
pub trait Rebuild: Debug + Send + Sync {
    /// The target, as an operator would write it down, without secrets.
    fn describe(&self) -> String;

    /// Looks at the target without changing it: reachable, allowed, empty (unless `into_existing`), new enough, room enough.
    /// Returns one line that says what was found, for the plan.
    async fn inspect(&self, facts: &serde_json::Value, into_existing: bool) -> Result<String, SourceError>;

    /// Rebuilds everything the origin yields.
    async fn rebuild(&self, context: RebuildContext<'_>) -> Result<Rebuilt, SourceError>;
}
