//! A sink and an origin in memory, so that sources can be tested without a repository.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use farshore::{
    clock::SystemClock,
    progress::{SharedObserver, Tally},
    sources::{
        Capture, CaptureContext, Captured, Content, ContentWriter, Cut, Entry, ExchangeError, Origin, Piece, Rebuild,
        RebuildContext, Rebuilt, Sink, SourceError,
    },
};
use futures_util::{StreamExt, stream, stream::BoxStream};

type Contents = Arc<Mutex<HashMap<u64, Vec<Bytes>>>>;

/// Keeps entries and bytes.
#[derive(Default)]
pub struct Exchange {
    contents: Contents,
    entries: Mutex<Vec<Entry>>,
    next: AtomicU64,
    open: Arc<AtomicU64>,
    most_open: AtomicU64,
    /// When set, reading any content of an entry with this path fails after its first piece.
    pub broken: Mutex<Option<Vec<u8>>>,
    delay: Duration,
    /// Entries and facts of the snapshot to build on.
    earlier: Option<(Vec<Entry>, serde_json::Value)>,
}

struct Writer {
    contents: Contents,
    open: Arc<AtomicU64>,
    number: u64,
    size: u64,
    pieces: Vec<Bytes>,
    /// What it is written over, and how long its pieces are.
    earlier: Option<(Bytes, u64)>,
}

#[async_trait]
impl ContentWriter for Writer {
    async fn write(&mut self, bytes: Bytes) -> Result<(), ExchangeError> {
        self.size += bytes.len() as u64;
        self.pieces.push(bytes);
        Ok(())
    }

    async fn keep(&mut self, bytes: u64) -> Result<(), ExchangeError> {
        let (earlier, piece) = self.earlier.as_ref().unwrap();
        let (from, to) = (usize::try_from(self.size).unwrap(), usize::try_from(self.size + bytes).unwrap());
        let is_cut = |at: usize| (at as u64).is_multiple_of(*piece);
        assert!(bytes > 0 && is_cut(from) && (is_cut(to) || to == earlier.len()), "{from}..{to} of {}", earlier.len());
        self.pieces.push(earlier.slice(from..to));
        self.size += bytes;
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<Content, ExchangeError> {
        self.contents.lock().unwrap().insert(self.number, std::mem::take(&mut self.pieces));
        Ok(Content { size: self.size, reference: self.number.to_be_bytes().to_vec() })
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl Sink for Exchange {
    async fn content(&self, _cut: Cut, _size: Option<u64>) -> Result<Box<dyn ContentWriter>, ExchangeError> {
        Ok(Box::new(self.writer(None).await))
    }

    async fn content_over(
        &self,
        earlier: &Content,
        piece_bytes: u32,
        _size: Option<u64>,
    ) -> Result<Option<Box<dyn ContentWriter>>, ExchangeError> {
        let bytes = self.pieces(earlier).concat().into();
        Ok(Some(Box::new(self.writer(Some((bytes, u64::from(piece_bytes)))).await)))
    }

    async fn entry(&self, entry: Entry) -> Result<(), ExchangeError> {
        let mut entries = self.entries.lock().unwrap();
        if let Some(last) = entries.last() {
            assert!(last.path < entry.path, "{} came after {}", entry.display_path(), last.display_path());
        }
        entries.push(entry);
        Ok(())
    }
}

impl Exchange {
    async fn writer(&self, earlier: Option<(Bytes, u64)>) -> Writer {
        let now = self.open.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_open.fetch_max(now, Ordering::SeqCst);
        tokio::time::sleep(self.delay).await;
        let number = self.next.fetch_add(1, Ordering::SeqCst);
        let (contents, open) = (self.contents.clone(), self.open.clone());
        Writer { contents, open, number, size: 0, pieces: Vec::new(), earlier }
    }
}

#[async_trait]
impl Origin for Exchange {
    fn entries(&self) -> BoxStream<'_, Result<Entry, ExchangeError>> {
        stream::iter(self.all_entries().into_iter().map(Ok)).boxed()
    }

    fn read(&self, content: &Content) -> BoxStream<'static, Result<Bytes, ExchangeError>> {
        let pieces = self.pieces(content);
        let breaks = self.breaks(content);
        if breaks {
            let first: Vec<_> = pieces.into_iter().take(1).map(Ok).collect();
            return stream::iter(first).chain(stream::iter([Err(gone())])).boxed();
        }
        stream::iter(pieces.into_iter().map(Ok)).boxed()
    }

    fn deliver(&self, wanted: Vec<Content>) -> BoxStream<'static, Result<Piece, ExchangeError>> {
        let mut all = Vec::new();
        for (index, content) in wanted.iter().enumerate() {
            let mut offset = 0;
            for bytes in self.pieces(content) {
                let length = bytes.len() as u64;
                all.push(Ok(Piece { index, offset, bytes }));
                offset += length;
                if self.breaks(content) {
                    all.push(Err(gone()));
                    return stream::iter(all).boxed();
                }
            }
        }
        stream::iter(all).boxed()
    }
}

fn gone() -> ExchangeError {
    ExchangeError::from(Box::<dyn std::error::Error + Send + Sync>::from("the site is gone"))
}

impl Exchange {
    fn breaks(&self, content: &Content) -> bool {
        let Some(broken) = self.broken.lock().unwrap().clone() else { return false };
        self.all_entries().iter().any(|entry| entry.path == broken && entry.content.as_ref() == Some(content))
    }

    /// One in which opening a content takes so long: a slow site keeps a capture going while others write.
    pub fn slow(delay: Duration) -> Self {
        Self { delay, ..Self::default() }
    }

    /// One that builds on the snapshot in this one, whose facts these are.
    pub fn following(&self, facts: &serde_json::Value) -> Self {
        let following = self.copy();
        following.entries.lock().unwrap().clear();
        Self { earlier: Some((self.all_entries(), facts.clone())), ..following }
    }

    /// The same, in which opening a content takes so long.
    pub fn slower(self, delay: Duration) -> Self {
        Self { delay, ..self }
    }

    /// Contents that are finished.
    pub fn finished(&self) -> usize {
        self.contents.lock().unwrap().len()
    }

    pub fn all_entries(&self) -> Vec<Entry> {
        self.entries.lock().unwrap().clone()
    }

    /// Another with the same entries and contents.
    pub fn copy(&self) -> Self {
        let contents = Arc::new(Mutex::new(self.contents.lock().unwrap().clone()));
        let next = AtomicU64::new(self.next.load(Ordering::SeqCst));
        Self { contents, entries: Mutex::new(self.all_entries()), next, ..Self::default() }
    }

    /// Other bytes for the entry with this path.
    pub fn replace(&self, path: &str, bytes: Vec<u8>) {
        let number = self.next.fetch_add(1, Ordering::SeqCst);
        let mut entries = self.entries.lock().unwrap();
        let entry = entries.iter_mut().find(|entry| entry.path == path.as_bytes()).unwrap();
        entry.content = Some(Content { size: bytes.len() as u64, reference: number.to_be_bytes().to_vec() });
        self.contents.lock().unwrap().insert(number, vec![bytes.into()]);
    }

    fn pieces(&self, content: &Content) -> Vec<Bytes> {
        let number = u64::from_be_bytes(content.reference.as_slice().try_into().unwrap());
        self.contents.lock().unwrap()[&number].clone()
    }

    /// The bytes of the entry with this path.
    pub fn bytes(&self, path: &str) -> Vec<u8> {
        let entry = self.all_entries().into_iter().find(|entry| entry.path == path.as_bytes());
        let entry = entry.unwrap_or_else(|| panic!("there is no entry {path}"));
        self.pieces(&entry.content.unwrap()).concat()
    }

    /// The bytes of all entries whose paths begin so, by the rest of their paths.
    pub fn files(&self, prefix: &str) -> BTreeMap<String, Vec<u8>> {
        let named = |entry: Entry| {
            let name = entry.display_path().strip_prefix(prefix)?.to_owned();
            Some((name, self.pieces(&entry.content?).concat()))
        };
        self.all_entries().into_iter().filter_map(named).collect()
    }

    /// Captures into itself; checks that no more contents were open at once than allowed.
    pub async fn capture(&self, source: &dyn Capture, parallelism: usize) -> Result<Captured, SourceError> {
        self.capture_watched(source, parallelism, Tally::alone()).await
    }

    /// The same, with somebody who is told of problems.
    pub async fn capture_watched(
        &self,
        source: &dyn Capture,
        parallelism: usize,
        observer: SharedObserver,
    ) -> Result<Captured, SourceError> {
        let earlier = self.earlier.as_ref().map(|(entries, _)| stream::iter(entries.iter().cloned().map(Ok)).boxed());
        let context = CaptureContext {
            sink: self,
            earlier,
            earlier_facts: self.earlier.as_ref().map(|(_, facts)| facts.clone()),
            observer,
            clock: SystemClock::shared(),
            parallelism,
            consistent_at: None,
            shard: None,
        };
        let captured = source.capture(context).await?;
        let most = self.most_open.load(Ordering::SeqCst);
        assert!(most <= parallelism as u64, "{most} contents were open at once");
        Ok(captured)
    }

    /// Rebuilds from itself; also returns the problems that did not stop it.
    pub async fn rebuild(
        self: &Arc<Self>,
        target: &dyn Rebuild,
        facts: &serde_json::Value,
        into_existing: bool,
    ) -> Result<(Rebuilt, Vec<farshore::progress::Problem>), SourceError> {
        let observer = Tally::alone();
        let context = RebuildContext {
            origin: self.clone(),
            facts,
            observer: observer.clone(),
            clock: SystemClock::shared(),
            parallelism: 2,
            into_existing,
            partial: false,
        };
        let rebuilt = target.rebuild(context).await?;
        Ok((rebuilt, observer.problems()))
    }
}
