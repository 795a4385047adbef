//! One snapshot of a point, entry by entry.
//!
//! Its entries are walked in step with those of the snapshot before it that both sites have: where the chunk list has not changed at the
//! source, the target's list of the same path holds the same bytes and is taken over, and nothing is read. Everything else is read,
//! with its tags and keyed hashes checked, cut as its kind of source is always cut, and sealed for the target.
//!
//! Memory: a batch of entries, never a list of all of them.

use std::sync::Arc;

use futures_util::{
    StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};

use crate::{
    progress::{Observer, Problem, Tally},
    repository::{ChunkList, Cutting, EntryRecord, Reader, RepositoryError, Snapshot, Writer},
    sources::{
        OBJECT_PART_BYTES,
        postgres::physical::{PIECE_BYTES, facts::is_physical},
    },
};

/// Entries of a batch at most: small contents among them are read pack by pack.
const BATCH_ENTRIES: usize = 1024;
/// Bytes of their lists, paths and attributes at most.
const BATCH_BYTES: usize = 4 << 20;
/// Small contents on their way at once.
const PIECES: usize = 32;

/// What it takes to copy one snapshot.
pub(super) struct SnapshotCopy<'a> {
    pub(super) snapshot: &'a Snapshot,
    /// The same source in an earlier point that both sites have: at the source, at the target.
    pub(super) base: Option<(Snapshot, Snapshot)>,
    pub(super) here: &'a Reader,
    pub(super) there: &'a Reader,
    pub(super) writer: &'a Writer,
    pub(super) tally: &'a Arc<Tally>,
    pub(super) parallelism: usize,
}

/// What was done.
#[derive(Debug, Default)]
pub(super) struct Figures {
    pub(super) adopted: u64,
    pub(super) bytes_read: u64,
}

/// The entries of one snapshot, to be asked for in ascending order of path.
struct Cursor {
    entries: BoxStream<'static, Result<EntryRecord, RepositoryError>>,
    head: Option<EntryRecord>,
}

impl Cursor {
    fn new(reader: &Reader, snapshot: &Snapshot) -> Self {
        Self { entries: reader.entries(snapshot), head: None }
    }

    async fn find(&mut self, path: &[u8]) -> Result<Option<EntryRecord>, RepositoryError> {
        loop {
            if self.head.is_none() {
                self.head = self.entries.try_next().await?;
            }
            match &self.head {
                Some(head) if head.path.as_slice() < path => self.head = None,
                Some(head) if head.path.as_slice() == path => return Ok(self.head.take()),
                _ => return Ok(None),
            }
        }
    }
}

/// The two earlier snapshots, walked in step.
struct Base<'a> {
    here: Cursor,
    there: Cursor,
    reader: &'a Reader,
    writer: &'a Writer,
}

impl Base<'_> {
    /// The target's list of the bytes of `record`, where the target surely has them.
    async fn list(&mut self, record: &EntryRecord) -> Result<Option<ChunkList>, RepositoryError> {
        let (here, there) = (self.here.find(&record.path).await?, self.there.find(&record.path).await?);
        let (Some(here), Some(there)) = (here, there) else { return Ok(None) };
        // The two are of one backup: what only their writers know of an entry must be the same, or one of them is not what it says.
        let same = here.content == record.content
            && (&here.kind, here.size, here.modified, &here.attributes)
                == (&there.kind, there.size, there.modified, &there.attributes);
        match there.content {
            Some(list) if same && here.size == record.size && self.writer.has(self.reader, &list).await? => Ok(Some(list)),
            _ => Ok(None),
        }
    }
}

impl SnapshotCopy<'_> {
    /// Copies it; returns it as it is at the target.
    pub(super) async fn run(self) -> Result<(Snapshot, Figures), RepositoryError> {
        let mut figures = Figures::default();
        let mut base = self.base.as_ref().map(|(here, there)| Base {
            here: Cursor::new(self.here, here),
            there: Cursor::new(self.there, there),
            reader: self.there,
            writer: self.writer,
        });
        let out = self.writer.entries();
        let mut entries = self.here.entries(self.snapshot);
        let (mut batch, mut open, mut bytes): (Vec<EntryRecord>, Vec<usize>, usize) = (Vec::new(), Vec::new(), 0);
        loop {
            let next = entries.try_next().await?;
            let is_last = next.is_none();
            if let Some(mut record) = next {
                bytes += size_of::<EntryRecord>() + record.path.len() + record.attributes.len();
                if let Some(list) = record.content.as_ref().filter(|list| !list.is_empty()) {
                    bytes += list.refs.len();
                    match self.known(&mut base, &record).await? {
                        Some(known) => {
                            figures.adopted += 1;
                            self.tally.bytes(record.size.unwrap_or(0));
                            record.content = Some(known);
                        }
                        None => open.push(batch.len()),
                    }
                } else if record.content.is_some() && record.size != Some(0) {
                    return Err(self.missized(&record, 0));
                }
                self.tally.items(1);
                batch.push(record);
            }
            if is_last || batch.len() == BATCH_ENTRIES || bytes >= BATCH_BYTES {
                figures.bytes_read += self.contents(&mut batch, &open).await?;
                for record in &batch {
                    out.push(record).await?;
                }
                batch.clear();
                open.clear();
                bytes = 0;
            }
            if is_last {
                break;
            }
        }
        let (entries, entry_count, content_bytes) = out.finish().await?;
        if (entry_count, content_bytes) != (self.snapshot.entry_count, self.snapshot.content_bytes) {
            return Err(RepositoryError::Damaged {
                place: format!("source {}", self.snapshot.source),
                detail: format!(
                    "its list has {entry_count} entries and {content_bytes} bytes, the point says {} and {}",
                    self.snapshot.entry_count, self.snapshot.content_bytes
                ),
            });
        }
        Ok((Snapshot { entries, ..self.snapshot.clone() }, figures))
    }

    /// What the target has of it already. A flaw in the earlier lists costs time, not the copy; but it is said.
    async fn known(&self, base: &mut Option<Base<'_>>, record: &EntryRecord) -> Result<Option<ChunkList>, RepositoryError> {
        let Some(both) = base else { return Ok(None) };
        match both.list(record).await {
            Err(error) if error.is_damage() => {
                let message = format!("the earlier point's list cannot be read to its end; what follows is read: {error}");
                self.tally.problem(Problem::new(self.snapshot.source.clone(), message));
                *base = None;
                Ok(None)
            }
            done => done,
        }
    }

    /// Where this kind of source is always cut: see its capture.
    fn cutting(&self, record: &EntryRecord) -> Cutting {
        match self.snapshot.kind.as_str() {
            "bucket" => Cutting::Fixed(OBJECT_PART_BYTES),
            // The next backup keeps pieces of it, if it finds them cut as it cuts them itself.
            "postgres" if record.kind == "file" && is_physical(&self.snapshot.facts) => Cutting::Fixed(PIECE_BYTES),
            _ => Cutting::ContentDefined,
        }
    }

    fn named(&self, record: &EntryRecord, error: RepositoryError) -> RepositoryError {
        if !error.is_damage() {
            return error;
        }
        let path = String::from_utf8_lossy(&record.path);
        RepositoryError::Damaged { place: format!("source {}, {path}", self.snapshot.source), detail: error.to_string() }
    }

    /// Copies the contents of the entries with these numbers, and puts the target's lists in place of the source's. Returns the
    /// plain bytes.
    async fn contents(&self, batch: &mut [EntryRecord], open: &[usize]) -> Result<u64, RepositoryError> {
        let list = |number: usize| batch[number].content.clone().unwrap_or_default();
        let (small, large): (Vec<usize>, Vec<usize>) =
            open.iter().partition(|number| batch[**number].content.as_ref().is_some_and(|list| list.level == 0 && list.len() == 1));
        let mut done: Vec<(usize, ChunkList)> = Vec::with_capacity(open.len());
        let records: &[EntryRecord] = batch;
        let mut pieces = self
            .here
            .deliver(small.iter().map(|number| list(*number)).collect())
            .map_err(RepositoryError::from)
            .map_ok(|piece| {
                let number = small[piece.index];
                async move { Ok((number, self.write(&records[number], stream::iter([Ok(piece.bytes)]).boxed()).await?)) }
            })
            .try_buffer_unordered(PIECES);
        loop {
            match pieces.try_next().await {
                Ok(Some(copied)) => done.push(copied),
                Ok(None) => break,
                Err(error) => {
                    drop(pieces);
                    return Err(self.whose(records, &small, error).await);
                }
            }
        }
        drop(pieces);
        let mut contents = stream::iter(large)
            .map(|number| async move {
                let list = records[number].content.clone().unwrap_or_default();
                let bytes = self.here.read(&list);
                Ok::<_, RepositoryError>((number, self.write(&records[number], bytes).await?))
            })
            .buffer_unordered(self.parallelism.max(1));
        while let Some(copied) = contents.try_next().await? {
            done.push(copied);
        }
        drop(contents);
        if done.len() != open.len() {
            return Err(RepositoryError::Damaged {
                place: format!("source {}", self.snapshot.source),
                detail: format!("{} of {} contents came", done.len(), open.len()),
            });
        }
        let mut bytes = 0;
        for (number, list) in done {
            bytes += batch[number].size.unwrap_or(0);
            batch[number].content = Some(list);
        }
        Ok(bytes)
    }

    /// Finds out which entry an error of reading many at once belongs to, by reading them one by one up to there.
    async fn whose(&self, records: &[EntryRecord], numbers: &[usize], error: RepositoryError) -> RepositoryError {
        if !error.is_damage() {
            return error;
        }
        for number in numbers {
            let record = &records[*number];
            let mut bytes = self.here.read(&record.content.clone().unwrap_or_default());
            loop {
                match bytes.try_next().await {
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(error) => return self.named(record, error),
                }
            }
        }
        error
    }

    /// The bytes of one entry into the target.
    async fn write(
        &self,
        record: &EntryRecord,
        mut bytes: BoxStream<'_, Result<bytes::Bytes, RepositoryError>>,
    ) -> Result<ChunkList, RepositoryError> {
        let mut content = self.writer.content(self.cutting(record), record.size);
        while let Some(piece) = bytes.try_next().await.map_err(|error| self.named(record, error))? {
            self.tally.bytes(piece.len() as u64);
            content.write(piece).await?;
        }
        let (list, size) = content.finish().await?;
        if record.size != Some(size) {
            return Err(self.missized(record, size));
        }
        Ok(list)
    }

    fn missized(&self, record: &EntryRecord, size: u64) -> RepositoryError {
        let said = record.size.map_or_else(|| "nothing".to_owned(), |said| said.to_string());
        RepositoryError::Damaged {
            place: format!("source {}, {}", self.snapshot.source, String::from_utf8_lossy(&record.path)),
            detail: format!("has {size} bytes, its entry says {said}"),
        }
    }
}
