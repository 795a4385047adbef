//! Where sources meet the repository: their origin is a reader; their sink is in `backup`.

use bytes::Bytes;
use futures_util::{
    StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};

use crate::{
    repository::{ChunkList, EntryRecord, Reader, RepositoryError, Snapshot},
    sources::{Content, Entry, ExchangeError, Origin, Piece},
};

pub(super) fn exchange(error: RepositoryError) -> ExchangeError {
    ExchangeError(Box::new(error))
}

fn into_entry(record: EntryRecord) -> Entry {
    let modified = record.modified_at();
    let content = record.content.map(|list| Content { size: record.size.unwrap_or(0), reference: list.encode() });
    Entry { path: record.path, kind: record.kind, modified, content, attributes: record.attributes }
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
