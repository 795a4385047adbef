//! Where sources meet the repository: their sink is a writer, their origin a reader.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{
    StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};

use super::density::{Density, Sampler};
use crate::{
    progress::{Problem, SharedObserver},
    repository::{ChunkList, ContentStream, Cutting, EntryRecord, EntryStream, Reader, RepositoryError, Snapshot, Writer},
    sources::{Content, ContentWriter, Cut, Entry, ExchangeError, Origin, Piece, Sink},
};

fn exchange(error: RepositoryError) -> ExchangeError {
    ExchangeError(Box::new(error))
}

fn into_record(entry: Entry) -> Result<EntryRecord, RepositoryError> {
    let size = entry.content.as_ref().map(|content| content.size);
    let content = entry.content.map(|content| ChunkList::decode(&content.reference)).transpose()?;
    Ok(EntryRecord {
        path: entry.path,
        kind: entry.kind,
        modified: entry.modified.map(|time| (time.timestamp(), time.timestamp_subsec_nanos())),
        size,
        content,
        attributes: entry.attributes,
    })
}

fn into_entry(record: EntryRecord) -> Entry {
    let modified = record.modified_at();
    let content = record.content.map(|list| Content { size: record.size.unwrap_or(0), reference: list.encode() });
    Entry { path: record.path, kind: record.kind, modified, content, attributes: record.attributes }
}

/// Takes one source's entries and bytes into the repository.
pub(super) struct Outlet<'a> {
    writer: &'a Writer,
    entries: EntryStream,
    density: Arc<Density>,
}

impl<'a> Outlet<'a> {
    /// For one snapshot.
    pub(super) fn new(writer: &'a Writer) -> Self {
        Self { writer, entries: writer.entries(), density: Arc::default() }
    }

    /// What is seen of the bytes as they pass.
    pub(super) fn density(&self) -> Arc<Density> {
        Arc::clone(&self.density)
    }

    /// The end: entry list, number of entries, plain bytes of their contents.
    pub(super) async fn finish(self) -> Result<(ChunkList, u64, u64), RepositoryError> {
        self.entries.finish().await
    }
}

#[async_trait]
impl Sink for Outlet<'_> {
    async fn content(&self, cut: Cut, size: Option<u64>) -> Result<Box<dyn ContentWriter>, ExchangeError> {
        let cutting = match cut {
            Cut::ContentDefined => Cutting::ContentDefined,
            Cut::Fixed(bytes) => Cutting::Fixed(bytes),
        };
        let stream = self.writer.content(cutting, size);
        Ok(Box::new(OneContent { stream, sampler: Sampler::default(), density: self.density() }))
    }

    async fn entry(&self, entry: Entry) -> Result<(), ExchangeError> {
        let record = into_record(entry).map_err(exchange)?;
        self.entries.push(&record).await.map_err(exchange)
    }
}

struct OneContent {
    stream: ContentStream,
    sampler: Sampler,
    density: Arc<Density>,
}

#[async_trait]
impl ContentWriter for OneContent {
    async fn write(&mut self, bytes: Bytes) -> Result<(), ExchangeError> {
        self.sampler.look(&bytes, &self.density);
        self.stream.write(bytes).await.map_err(exchange)
    }

    async fn finish(self: Box<Self>) -> Result<Content, ExchangeError> {
        let (list, size) = self.stream.finish().await.map_err(exchange)?;
        Ok(Content { size, reference: list.encode() })
    }
}

/// The entries of an earlier snapshot whose every chunk can be adopted; the others are read again by their source.
pub(super) fn adoptable<'a>(
    reader: &Reader,
    writer: &'a Writer,
    snapshot: &Snapshot,
    observer: SharedObserver,
) -> BoxStream<'a, Result<Entry, ExchangeError>> {
    let (entries, reader) = (reader.entries(snapshot), reader.clone());
    let source = snapshot.source.clone();
    stream::try_unfold(Some(entries), move |entries| {
        let (reader, observer, source) = (reader.clone(), Arc::clone(&observer), source.clone());
        async move {
            let Some(mut entries) = entries else { return Ok(None) };
            match next_adoptable(&mut entries, &reader, writer).await {
                Ok(entry) => Ok(entry.map(|entry| (entry, Some(entries)))),
                // Costs time, not the backup: what comes after is read from the source again.
                Err(error) if error.is_damage() => {
                    let message =
                        format!("the earlier point's list cannot be read to its end; what follows is read again: {error}");
                    observer.problem(Problem::new(source, message));
                    Ok(None)
                }
                Err(error) => Err(exchange(error)),
            }
        }
    })
    .boxed()
}

async fn next_adoptable(
    entries: &mut BoxStream<'static, Result<EntryRecord, RepositoryError>>,
    reader: &Reader,
    writer: &Writer,
) -> Result<Option<Entry>, RepositoryError> {
    while let Some(record) = entries.try_next().await? {
        let whole = match &record.content {
            Some(list) => writer.has(reader, list).await?,
            None => true,
        };
        if whole {
            return Ok(Some(into_entry(record)));
        }
    }
    Ok(None)
}

/// Gives one snapshot's entries and bytes out of the repository.
pub(super) struct Inlet {
    reader: Reader,
    snapshot: Snapshot,
    below: Option<Vec<u8>>,
}

impl Inlet {
    /// For one snapshot; only what is `below` a path, if one is given.
    pub(super) fn new(reader: Reader, snapshot: Snapshot, below: Option<Vec<u8>>) -> Self {
        Self { reader, snapshot, below }
    }
}

/// Whether `path` is `below`, or lies under it.
pub(super) fn lies_below(path: &[u8], below: &[u8]) -> bool {
    let below = below.strip_suffix(b"/").unwrap_or(below);
    path.strip_prefix(below).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

impl Origin for Inlet {
    fn entries(&self) -> BoxStream<'_, Result<Entry, ExchangeError>> {
        self.reader
            .entries(&self.snapshot)
            .try_filter(|record| std::future::ready(self.below.as_ref().is_none_or(|below| lies_below(&record.path, below))))
            .map_ok(into_entry)
            .map_err(exchange)
            .boxed()
    }

    fn read(&self, content: &Content) -> BoxStream<'static, Result<Bytes, ExchangeError>> {
        match ChunkList::decode(&content.reference) {
            Ok(list) => self.reader.read(&list).map_err(exchange).boxed(),
            Err(error) => stream::iter([Err(exchange(error))]).boxed(),
        }
    }

    fn deliver(&self, wanted: Vec<Content>) -> BoxStream<'static, Result<Piece, ExchangeError>> {
        let lists: Result<Vec<_>, _> = wanted.iter().map(|content| ChunkList::decode(&content.reference)).collect();
        match lists {
            Ok(lists) => self
                .reader
                .deliver(lists)
                .map_ok(|piece| Piece { index: piece.index, offset: piece.offset, bytes: piece.bytes })
                .map_err(exchange)
                .boxed(),
            Err(error) => stream::iter([Err(exchange(error))]).boxed(),
        }
    }
}
