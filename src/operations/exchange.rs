//! Where sources meet the repository: their origin is a reader; their sink is in `backup`.

use std::{
    fs::File,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use futures_util::{
    FutureExt, StreamExt, TryStreamExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};

use crate::{
    repository::{ChunkList, Differing, EntryRecord, Reader, RepositoryError, Snapshot, Undelivered},
    sources::{Content, Entry, ExchangeError, Origin, Part, Piece},
};

pub(super) fn exchange(error: RepositoryError) -> ExchangeError {
    ExchangeError(Box::new(error))
}

fn into_entry(record: EntryRecord) -> Entry {
    let modified = record.modified_at();
    let content = record.content.map(|list| Content { size: record.size.unwrap_or(0), reference: list.encode() });
    Entry { path: record.path, kind: record.kind, modified, content, attributes: record.attributes }
}

/// The reference of the first content that could not be read.
type FirstUnread = Arc<Mutex<Option<Vec<u8>>>>;

/// Gives one snapshot's entries and bytes out of the repository.
pub(super) struct Inlet {
    reader: Reader,
    snapshot: Snapshot,
    below: Option<Vec<u8>>,
    unread: FirstUnread,
}

impl Inlet {
    /// For one snapshot; only what is `below` a path, if one is given.
    pub(super) fn new(reader: Reader, snapshot: Snapshot, below: Option<Vec<u8>>) -> Self {
        Self { reader, snapshot, below, unread: Arc::default() }
    }

    /// An error of rebuilding, with the entry at which it happened: sources hand contents over and know no paths. Looks for it among
    /// the entries, and leaves the error as it is where that does not go well either.
    pub(super) async fn at_entry(&self, error: RepositoryError) -> RepositoryError {
        let unread = self.unread.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take();
        let mut path = None;
        if let Some(reference) = unread.filter(|_| error.is_damage()) {
            let mut entries = self.entries();
            while let Ok(Some(entry)) = entries.try_next().await {
                if entry.content.is_some_and(|content| content.reference == reference) {
                    path = Some(entry.path);
                    break;
                }
            }
        }
        error.at_entry(&self.snapshot.source, path.as_deref())
    }
}

/// Keeps in mind which content could not be read.
struct Unread {
    first: FirstUnread,
    wanted: Vec<Content>,
}

impl Unread {
    fn met(&self, undelivered: Undelivered) -> ExchangeError {
        if let Some(content) = undelivered.index.and_then(|index| self.wanted.get(index)) {
            let mut first = self.first.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            first.get_or_insert_with(|| content.reference.clone());
        }
        exchange(undelivered.error)
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
        let unread = Unread { first: Arc::clone(&self.unread), wanted: vec![content.clone()] };
        match ChunkList::decode(&content.reference) {
            Ok(list) => self.reader.read(&list).map_err(move |error| unread.met(Undelivered { index: Some(0), error })).boxed(),
            Err(error) => stream::iter([Err(unread.met(Undelivered { index: Some(0), error }))]).boxed(),
        }
    }

    fn deliver(&self, wanted: Vec<Content>) -> BoxStream<'static, Result<Piece, ExchangeError>> {
        let decode = |(index, content): (usize, &Content)| {
            ChunkList::decode(&content.reference).map_err(|error| Undelivered { index: Some(index), error })
        };
        let lists: Result<Vec<_>, _> = wanted.iter().enumerate().map(decode).collect();
        let unread = Unread { first: Arc::clone(&self.unread), wanted };
        match lists {
            Ok(lists) => self
                .reader
                .deliver(lists)
                .map_ok(|piece| Piece { index: piece.index, offset: piece.offset, bytes: piece.bytes })
                .map_err(move |undelivered| unread.met(undelivered))
                .boxed(),
            Err(undelivered) => stream::iter([Err(unread.met(undelivered))]).boxed(),
        }
    }

    fn differing(&self, content: &Content, file: Arc<File>) -> BoxFuture<'static, Result<Vec<Part>, ExchangeError>> {
        let (reader, list) = (self.reader.clone(), ChunkList::decode(&content.reference));
        let unread = Unread { first: Arc::clone(&self.unread), wanted: vec![content.clone()] };
        let part = |Differing { offset, bytes, list }| Part { offset, content: Content { size: bytes, reference: list.encode() } };
        async move {
            match async { reader.differing(&list?, file).await }.await {
                Ok(parts) => Ok(parts.into_iter().map(part).collect()),
                Err(error) => Err(unread.met(Undelivered { index: Some(0), error })),
            }
        }
        .boxed()
    }
}
