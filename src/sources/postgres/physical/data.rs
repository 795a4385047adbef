//! Reading what lies in the data directory, by several sessions at once.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use bytes::Bytes;
use futures_util::future::try_join_all;

use super::{
    CONTROL_FILE, DATA,
    checking::PageCheck,
    label::Lsn,
    listing::Item,
    read::{ROW_BYTES, Reading, Wanted},
    select::Relation,
    server::Server,
};
use crate::{
    progress::{Problem, SharedObserver},
    sources::{
        ContentWriter, Cut, Entry, Sink, SourceError,
        postgres::{capture_order::InOrder, connect::Session},
    },
};

/// Relations change in place, a page here and a page there: cut at fixed places, an unchanged piece is known again.
const CUT: Cut = Cut::Fixed(128 << 10);
/// Files up to this size are read several in one statement. Bytes.
const SMALL_FILE_BYTES: u64 = 1 << 20;
/// Bounds of such a statement.
const BATCH_FILES: usize = 128;
const BATCH_BYTES: u64 = 8 << 20;
/// Damaged pages that are named; the others are counted.
const PAGES_NAMED: u64 = 16;

/// What is counted while files are read.
#[derive(Debug, Default)]
struct Counts {
    files: AtomicU64,
    bytes: AtomicU64,
    vanished: AtomicU64,
    pages: AtomicU64,
    suspects: Mutex<Vec<(String, u32)>>,
}

/// What was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataRead {
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files that were gone when they were to be read.
    pub vanished: u64,
    /// Pages whose checksum was looked at.
    pub pages: u64,
    /// Pages whose checksum is wrong, and was so twice.
    pub damaged: u64,
}

/// What all readers share.
pub struct Data<'a> {
    server: &'a Server,
    start: Lsn,
    items: &'a [Item],
    batches: Vec<Vec<usize>>,
    next: AtomicUsize,
    order: InOrder<'a>,
    sink: &'a dyn Sink,
    observer: &'a SharedObserver,
    counts: Counts,
}

/// Large files alone, the largest first; small ones together.
fn batches(items: &[Item]) -> Vec<Vec<usize>> {
    let files = items.iter().enumerate().filter(|(_, item)| !item.is_directory && item.path != CONTROL_FILE);
    let (small, mut large): (Vec<_>, Vec<_>) = files.partition(|(_, item)| item.bytes <= SMALL_FILE_BYTES);
    large.sort_by_key(|(_, item)| std::cmp::Reverse(item.bytes));
    let mut all: Vec<Vec<usize>> = large.into_iter().map(|(position, _)| vec![position]).collect();
    let (mut batch, mut bytes) = (Vec::new(), 0);
    for (position, item) in small {
        if batch.len() == BATCH_FILES || bytes + item.bytes > BATCH_BYTES {
            all.push(std::mem::take(&mut batch));
            bytes = 0;
        }
        batch.push(position);
        bytes += item.bytes;
    }
    all.extend((!batch.is_empty()).then_some(batch));
    all
}

/// A file whose bytes are coming.
struct Open<'a> {
    position: usize,
    item: &'a Item,
    writer: Box<dyn ContentWriter>,
    written: u64,
    check: Option<PageCheck>,
    is_gone: bool,
}

impl<'a> Data<'a> {
    /// Of what was listed, for a backup that began at `start`.
    pub fn new(server: &'a Server, start: Lsn, items: &'a [Item], sink: &'a dyn Sink, observer: &'a SharedObserver) -> Self {
        let (batches, order) = (batches(items), InOrder::into(sink));
        Self { server, start, items, batches, next: AtomicUsize::new(0), order, sink, observer, counts: Counts::default() }
    }

    /// Reads all of it into the sink, but for `global/pg_control`, which comes last and elsewhere. `sessions` is not empty.
    ///
    /// # Errors
    /// The server's and the sink's. Pages with wrong checksums are told to the observer and are none.
    pub async fn read(self, sessions: &[Session]) -> Result<DataRead, SourceError> {
        for (position, item) in self.items.iter().enumerate() {
            if item.is_directory {
                self.entry(position, Some(self.describe(item, "directory"))).await?;
            } else if item.path == CONTROL_FILE {
                self.entry(position, None).await?;
            }
        }
        try_join_all(sessions.iter().map(|session| self.read_batches(session))).await?;
        let damaged = match sessions.first() {
            Some(first) => self.look_again_at_suspects(first).await?,
            None => 0,
        };
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let Counts { files, bytes, vanished, pages, .. } = &self.counts;
        Ok(DataRead { files: read(files), bytes: read(bytes), vanished: read(vanished), pages: read(pages), damaged })
    }

    fn describe(&self, item: &Item, kind: &str) -> Entry {
        let mut entry = Entry::new(format!("{DATA}{}", item.path), kind);
        entry.modified = item.modified;
        entry
    }

    async fn entry(&self, position: usize, entry: Option<Entry>) -> Result<(), SourceError> {
        if entry.is_some() {
            self.observer.items(1);
        }
        Ok(self.order.settled(position, entry).await?)
    }

    /// Reads one batch after the other until none is left.
    async fn read_batches(&self, session: &Session) -> Result<(), SourceError> {
        while let Some(batch) = self.batches.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            self.read_batch(session, batch).await?;
        }
        Ok(())
    }

    async fn read_batch(&self, session: &Session, batch: &[usize]) -> Result<(), SourceError> {
        let wanted = |position: &usize| {
            let item = &self.items[*position];
            // A relation that grows does so in the log as well; anything else may have grown since it was listed.
            let more = if Relation::of(&item.path).is_some() { 0 } else { ROW_BYTES };
            Wanted { path: item.path.clone(), bytes: item.bytes + more }
        };
        let mut reading = Reading::begin(session, &batch.iter().map(wanted).collect::<Vec<_>>()).await?;
        let mut open: Option<Open<'_>> = None;
        while let Some(row) = reading.next().await? {
            let position = batch[row.file];
            if open.as_ref().is_none_or(|file| file.position != position) {
                self.close(open.take()).await?;
                open = Some(self.open(position).await?);
            }
            let Some(file) = &mut open else { continue };
            file.is_gone |= !row.is_there && file.written == 0;
            while let Some(bytes) = reading.bytes().await? {
                // A row that was short before this one: the file was cut off meanwhile and has grown again. Replay mends what lies there.
                while file.written < row.offset {
                    let gap = usize::try_from((row.offset - file.written).min(ROW_BYTES)).unwrap_or(0);
                    self.write(file, Bytes::from(vec![0; gap])).await?;
                }
                self.write(file, bytes).await?;
            }
        }
        self.close(open).await
    }

    async fn open(&self, position: usize) -> Result<Open<'_>, SourceError> {
        let item = &self.items[position];
        let check = Relation::of(&item.path)
            .filter(|_| self.server.checksums)
            .map(|relation| PageCheck::new(relation.segment, self.server.page_bytes));
        let writer = self.sink.content(CUT, Some(item.bytes)).await?;
        Ok(Open { position, item, writer, written: 0, check, is_gone: false })
    }

    async fn write(&self, file: &mut Open<'_>, bytes: Bytes) -> Result<(), SourceError> {
        file.written += bytes.len() as u64;
        self.observer.bytes(bytes.len() as u64);
        file.check = match file.check.take() {
            Some(check) => Some(check.feed(bytes.clone()).await?),
            None => None,
        };
        Ok(file.writer.write(bytes).await?)
    }

    async fn close(&self, file: Option<Open<'_>>) -> Result<(), SourceError> {
        let Some(file) = file else { return Ok(()) };
        if file.is_gone && file.written == 0 {
            self.counts.vanished.fetch_add(1, Ordering::Relaxed);
            return self.entry(file.position, None).await;
        }
        if let Some(check) = file.check {
            self.counts.pages.fetch_add(check.pages(), Ordering::Relaxed);
            let damaged = check.suspects().into_iter().map(|block| (file.item.path.clone(), block));
            self.suspects().extend(damaged);
        }
        self.counts.files.fetch_add(1, Ordering::Relaxed);
        self.counts.bytes.fetch_add(file.written, Ordering::Relaxed);
        let mut entry = self.describe(file.item, "file");
        entry.content = Some(file.writer.finish().await?);
        self.entry(file.position, Some(entry)).await
    }

    fn suspects(&self) -> MutexGuard<'_, Vec<(String, u32)>> {
        self.counts.suspects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A page may have been read while it was written: then it is whole now, or its last change lies in the log. Returns how many are not.
    async fn look_again_at_suspects(&self, session: &Session) -> Result<u64, SourceError> {
        let suspects = std::mem::take(&mut *self.suspects());
        let mut damaged = 0;
        for (path, block) in suspects {
            let segment = Relation::of(&path).map_or(0, |relation| relation.segment);
            let check = PageCheck::new(segment, self.server.page_bytes);
            let offset = i64::from(check.offset_of(block));
            let sql = "SELECT pg_catalog.pg_read_binary_file($1, $2, $3, true)";
            let page: Option<Vec<u8>> =
                session.one("reading a page again", sql, &[&path, &offset, &i64::from(self.server.page_bytes)]).await?;
            // As far as the log goes now that the page was read.
            let end: String = session.one("asking for the end of the log", END_OF_LOG, &[]).await?;
            let since = self.start.0..=Lsn::parse(&end).map_or(u64::MAX, |end| end.0);
            if !page.is_some_and(|page| check.is_damaged(&page, block, &since)) {
                continue;
            }
            damaged += 1;
            if damaged <= PAGES_NAMED {
                let relation = name(session, &path).await;
                let message = format!(
                    "block {block} of {relation}: its checksum is wrong at the source, and is so in this point; restore the relation from an older point or a standby, or rebuild it if it is an index, and see to the server's disks and memory"
                );
                self.observer.problem(Problem::new(path, message));
            }
        }
        if damaged > PAGES_NAMED {
            let message = format!("{} more pages have wrong checksums", damaged - PAGES_NAMED);
            self.observer.problem(Problem::new("the cluster", message));
        }
        Ok(damaged)
    }
}

/// Where the log ends, on a primary and on a standby.
const END_OF_LOG: &str = "SELECT (CASE WHEN pg_catalog.pg_is_in_recovery() \
                          THEN GREATEST(pg_catalog.pg_last_wal_receive_lsn(), pg_catalog.pg_last_wal_replay_lsn()) \
                          ELSE pg_catalog.pg_current_wal_insert_lsn() END)::text";

/// What a file's relation is called, as far as one session can tell: names are known in its own database only.
async fn name(session: &Session, path: &str) -> String {
    let Some((directory, file)) = path.rsplit_once('/') else { return path.to_owned() };
    let number = file.split(['_', '.']).next().unwrap_or(file);
    let database = directory.rsplit('/').next().filter(|_| directory != "global").unwrap_or("0");
    let sql = "SELECT CASE WHEN d.oid IS NULL AND $2 <> '0' THEN 'a dropped database' \
               WHEN d.datname = current_database() OR $2 = '0' THEN coalesce(( \
                   SELECT CASE c.relkind WHEN 'i' THEN 'index ' WHEN 't' THEN 'TOAST table ' ELSE 'relation ' END || c.oid::regclass::text \
                   FROM pg_catalog.pg_class AS c WHERE pg_catalog.pg_relation_filenode(c.oid)::text = $1 LIMIT 1), 'a relation that is gone') \
               ELSE 'the relation with file number ' || $1 || ' in database ' || d.datname END \
               FROM (SELECT 1) AS one LEFT JOIN pg_catalog.pg_database AS d ON d.oid::text = $2";
    let found: Result<String, _> = session.one("naming a relation", sql, &[&number, &database]).await;
    found.unwrap_or_else(|_| format!("the relation with file number {number}"))
}
