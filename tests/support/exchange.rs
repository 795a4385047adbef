//! A sink and an origin in memory, standing in for the repository.

use std::{
    path::Path,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use farshore::{
    clock::{SharedClock, SystemClock},
    progress::{SharedObserver, Tally},
    sources::{
        Capture, CaptureContext, Captured, ConsistencyTime, Content, ContentWriter, Cut, Entry, ExchangeError, Origin, Piece,
        Rebuild, RebuildContext, Rebuilt, Sink, SourceError,
    },
};
use futures_util::{StreamExt, stream, stream::BoxStream};

/// Chunks of content that is cut where its bytes say so.
const CONTENT_DEFINED_BYTES: usize = 100_000;

/// Something a test does in the midst of a capture.
type Hook = Arc<Mutex<Option<Box<dyn FnOnce() + Send>>>>;

/// Keeps what a capture hands over, and checks its promises.
#[derive(Default)]
pub struct MemorySink {
    state: Arc<Mutex<State>>,
    at_content: Hook,
    at_write: Hook,
}

fn fire(hook: &Hook) {
    if let Some(act) = hook.lock().unwrap().take() {
        act();
    }
}

#[derive(Debug, Default)]
struct State {
    entries: Vec<Entry>,
    contents: Vec<Vec<Bytes>>,
    opened: usize,
}

impl MemorySink {
    pub fn entries(&self) -> Vec<Entry> {
        self.state.lock().unwrap().entries.clone()
    }

    /// Writers that were opened: one for each thing that was read.
    pub fn opened(&self) -> usize {
        self.state.lock().unwrap().opened
    }

    /// A sink for the next capture, which knows the contents of this one.
    pub fn following(&self) -> Self {
        let contents = self.state.lock().unwrap().contents.clone();
        Self { state: Arc::new(Mutex::new(State { contents, ..State::default() })), ..Self::default() }
    }

    /// Acts once, just before the first thing is opened to be read.
    pub fn before_first_read(&self, act: impl FnOnce() + Send + 'static) {
        *self.at_content.lock().unwrap() = Some(Box::new(act));
    }

    /// Acts once, when the first bytes come.
    pub fn at_first_write(&self, act: impl FnOnce() + Send + 'static) {
        *self.at_write.lock().unwrap() = Some(Box::new(act));
    }

    pub fn bytes(&self, entry: &Entry) -> Vec<u8> {
        let content = entry.content.as_ref().expect("the entry has content");
        self.state.lock().unwrap().contents[index(content)].concat()
    }

    pub fn origin(&self) -> Arc<MemoryOrigin> {
        let state = self.state.lock().unwrap();
        Arc::new(MemoryOrigin { entries: state.entries.clone(), contents: state.contents.clone(), breaks_after: None })
    }
}

fn index(content: &Content) -> usize {
    usize::from_le_bytes(content.reference.clone().try_into().expect("a reference of this sink"))
}

struct MemoryWriter {
    state: Arc<Mutex<State>>,
    chunk: usize,
    bytes: BytesMut,
    at_write: Hook,
}

#[async_trait]
impl Sink for MemorySink {
    async fn content(&self, cut: Cut, _size: Option<u64>) -> Result<Box<dyn ContentWriter>, ExchangeError> {
        fire(&self.at_content);
        self.state.lock().unwrap().opened += 1;
        let chunk = match cut {
            Cut::ContentDefined => CONTENT_DEFINED_BYTES,
            Cut::Fixed(bytes) => bytes as usize,
        };
        Ok(Box::new(MemoryWriter {
            state: Arc::clone(&self.state),
            chunk,
            bytes: BytesMut::new(),
            at_write: Arc::clone(&self.at_write),
        }))
    }

    async fn entry(&self, entry: Entry) -> Result<(), ExchangeError> {
        let mut state = self.state.lock().unwrap();
        if let Some(last) = state.entries.last() {
            assert!(last.path < entry.path, "{:?} comes after {:?}", entry.display_path(), last.display_path());
        }
        state.entries.push(entry);
        Ok(())
    }
}

#[async_trait]
impl ContentWriter for MemoryWriter {
    async fn write(&mut self, bytes: Bytes) -> Result<(), ExchangeError> {
        fire(&self.at_write);
        self.bytes.extend_from_slice(&bytes);
        Ok(())
    }

    async fn finish(self: Box<Self>) -> Result<Content, ExchangeError> {
        let whole = self.bytes.freeze();
        let chunks = whole.chunks(self.chunk).map(|chunk| whole.slice_ref(chunk)).collect();
        let mut state = self.state.lock().unwrap();
        state.contents.push(chunks);
        let reference = (state.contents.len() - 1).to_le_bytes().to_vec();
        Ok(Content { size: whole.len() as u64, reference })
    }
}

/// Hands back what a sink kept, in an order that helps nobody.
#[derive(Debug, Default)]
pub struct MemoryOrigin {
    pub entries: Vec<Entry>,
    contents: Vec<Vec<Bytes>>,
    /// Pieces after which a delivery breaks off.
    breaks_after: Option<usize>,
}

impl MemoryOrigin {
    /// The same, but each delivery breaks off after so many pieces.
    pub fn breaking_after(&self, pieces: usize) -> Arc<Self> {
        Arc::new(Self { entries: self.entries.clone(), contents: self.contents.clone(), breaks_after: Some(pieces) })
    }

    /// An origin of made-up entries, each with its bytes.
    pub fn of(entries: Vec<(Entry, &[u8])>) -> Arc<Self> {
        let mut origin = Self::default();
        for (mut entry, bytes) in entries {
            entry.content = Some(Content { size: bytes.len() as u64, reference: origin.contents.len().to_le_bytes().to_vec() });
            origin.contents.push(if bytes.is_empty() { Vec::new() } else { vec![Bytes::copy_from_slice(bytes)] });
            origin.entries.push(entry);
        }
        Arc::new(origin)
    }

    /// The same contents, some of the entries.
    pub fn only(&self, take: impl Fn(&Entry) -> bool) -> Arc<Self> {
        let entries = self.entries.iter().filter(|entry| take(entry)).cloned().collect();
        Arc::new(Self { entries, contents: self.contents.clone(), breaks_after: None })
    }
}

#[async_trait]
impl Origin for MemoryOrigin {
    fn entries(&self) -> BoxStream<'_, Result<Entry, ExchangeError>> {
        stream::iter(self.entries.iter().cloned().map(Ok)).boxed()
    }

    fn read(&self, content: &Content) -> BoxStream<'static, Result<Bytes, ExchangeError>> {
        stream::iter(self.contents[index(content)].clone().into_iter().map(Ok)).boxed()
    }

    fn deliver(&self, wanted: Vec<Content>) -> BoxStream<'static, Result<Piece, ExchangeError>> {
        let mut pieces = Vec::new();
        for (place, content) in wanted.iter().enumerate() {
            let mut offset = 0;
            for bytes in &self.contents[index(content)] {
                pieces.push(Piece { index: place, offset, bytes: bytes.clone() });
                offset += bytes.len() as u64;
            }
        }
        // Neither in order nor in reverse, and each time the same.
        pieces.sort_by_key(|piece| (piece.offset + piece.index as u64 * 7919).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let mut delivered: Vec<Result<Piece, ExchangeError>> = pieces.into_iter().map(Ok).collect();
        if let Some(pieces) = self.breaks_after {
            delivered.truncate(pieces);
            let error: Box<dyn std::error::Error + Send + Sync> = "the site went away".into();
            delivered.push(Err(error.into()));
        }
        stream::iter(delivered).boxed()
    }
}

/// A capture into a new sink, or on top of an earlier one.
pub struct Capturing {
    pub tally: Arc<Tally>,
    pub clock: SharedClock,
    pub sink: MemorySink,
    pub consistent_at: Option<ConsistencyTime>,
    earlier: Vec<Entry>,
}

impl Capturing {
    pub fn first() -> Self {
        Self {
            tally: Tally::alone(),
            clock: SystemClock::shared(),
            sink: MemorySink::default(),
            consistent_at: None,
            earlier: Vec::new(),
        }
    }

    pub fn after(earlier: &MemorySink) -> Self {
        Self::after_entries(earlier, earlier.entries())
    }

    /// On top of other entries than the earlier sink was given.
    pub fn after_entries(earlier: &MemorySink, entries: Vec<Entry>) -> Self {
        Self { sink: earlier.following(), earlier: entries, ..Self::first() }
    }

    pub async fn run(&self, source: &dyn Capture) -> Result<Captured, SourceError> {
        let context = CaptureContext {
            sink: &self.sink,
            earlier: Some(stream::iter(self.earlier.iter().cloned().map(Ok)).boxed()),
            earlier_facts: None,
            observer: Arc::clone(&self.tally) as SharedObserver,
            clock: Arc::clone(&self.clock),
            parallelism: 4,
            consistent_at: self.consistent_at,
            shard: None,
        };
        source.capture(context).await
    }

    /// The subjects and messages of the problems.
    pub fn problems(&self) -> Vec<String> {
        messages(&self.tally)
    }
}

fn messages(tally: &Tally) -> Vec<String> {
    tally.problems().into_iter().map(|problem| format!("{}: {}", problem.subject, problem.message)).collect()
}

/// A rebuild from an origin.
pub struct Rebuilding {
    pub tally: Arc<Tally>,
    pub into_existing: bool,
    pub partial: bool,
}

impl Rebuilding {
    pub fn anew() -> Self {
        Self { tally: Tally::alone(), into_existing: false, partial: false }
    }

    pub fn over() -> Self {
        Self { into_existing: true, ..Self::anew() }
    }

    pub async fn run(
        &self,
        target: &dyn Rebuild,
        origin: Arc<MemoryOrigin>,
        facts: &serde_json::Value,
    ) -> Result<Rebuilt, SourceError> {
        let context = RebuildContext {
            origin,
            facts,
            observer: Arc::clone(&self.tally) as SharedObserver,
            clock: SystemClock::shared(),
            parallelism: 4,
            into_existing: self.into_existing,
            partial: self.partial,
        };
        target.rebuild(context).await
    }

    pub fn problems(&self) -> Vec<String> {
        messages(&self.tally)
    }
}

/// Fails if a check did, and shows all of them.
pub fn assert_checks(rebuilt: &Rebuilt) {
    assert!(!rebuilt.checks.is_empty() && !rebuilt.checks.iter().any(farshore::progress::Check::failed), "{:#?}", rebuilt.checks);
}

/// Names in a directory, sorted.
pub fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
