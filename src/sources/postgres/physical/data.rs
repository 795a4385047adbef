//! Reading what lies in the data directory, by several sessions at once.

use std::{
    ops::Range,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use futures_util::future::try_join_all;

use super::{
    CONTROL_FILE, DATA,
    changes::{Changes, PIECE_BYTES, Plan, SMALL_FILE_BYTES},
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
        Content, ContentWriter, Cut, Entry, Sink, SourceError,
        earlier::Earlier,
        postgres::{capture_order::InOrder, connect::Session},
    },
};

/// Relations change in place, a page here and a page there: cut at fixed places, an unchanged piece is known again.
const CUT: Cut = Cut::Fixed(PIECE_BYTES);
/// Bounds of a statement that reads several files.
const BATCH_FILES: usize = 128;
const BATCH_BYTES: u64 = 8 << 20;
/// Damaged pages that are named; the others are counted.
const PAGES_NAMED: u64 = 16;

/// What is counted while files are read.
#[derive(Debug, Default)]
struct Counts {
    files: AtomicU64,
    unchanged: AtomicU64,
    bytes: AtomicU64,
    kept_bytes: AtomicU64,
    vanished: AtomicU64,
    pages: AtomicU64,
    suspects: Mutex<Vec<(String, u32)>>,
}

/// What was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataRead {
    /// Files.
    pub files: u64,
    /// Those of them that had not changed, and were not read.
    pub unchanged: u64,
    /// Bytes of all of them.
    pub bytes: u64,
    /// Those of them that an earlier snapshot had, and that were not read.
    pub kept_bytes: u64,
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
    /// What is to be read of each of them.
    plans: Vec<Plan>,
    batches: Vec<Vec<usize>>,
    next: AtomicUsize,
    order: InOrder<'a>,
    sink: &'a dyn Sink,
    observer: &'a SharedObserver,
    counts: Counts,
}

/// What is to be read of each file, by what changed since the earlier snapshot that has these entries.
async fn plan(items: &[Item], changes: Option<&Changes>, mut earlier: Earlier<'_>) -> Result<Vec<Plan>, SourceError> {
    let mut plans = Vec::with_capacity(items.len());
    for item in items {
        let plan = match changes {
            Some(changes) if Relation::of(&item.path).is_some() => {
                changes.plan(item, earlier.find(format!("{DATA}{}", item.path).as_bytes()).await?)
            }
            _ => Plan::Whole,
        };
        plans.push(plan);
    }
    Ok(plans)
}

/// Large files alone, the largest first; small ones together. Without what is not read at all.
fn batches(items: &[Item], plans: &[Plan]) -> Vec<Vec<usize>> {
    let is_read =
        |position: usize, item: &Item| !item.is_directory && item.path != CONTROL_FILE && !matches!(plans[position], Plan::Kept(_));
    let files = items.iter().enumerate().filter(|(position, item)| is_read(*position, item));
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
    /// What is read of it; all else is in the earlier content that it is written over. Nothing where all is read.
    parts: Option<Vec<Range<u64>>>,
    check: Option<PageCheck>,
    is_gone: bool,
}

impl Open<'_> {
    /// From where it has come to: the end of what the earlier content has there; nothing where that is not taken.
    fn kept_until(&self) -> Option<u64> {
        let parts = self.parts.as_ref()?;
        match parts.iter().find(|part| part.end > self.written) {
            Some(part) if part.start <= self.written => None,
            Some(part) => Some(part.start),
            None => Some(self.item.bytes).filter(|end| *end > self.written),
        }
    }

    /// As far as the earlier content has to be taken even if nothing more is read.
    fn last_kept(&self) -> u64 {
        match self.parts.as_deref() {
            None => 0,
            Some([.., last]) if last.end >= self.item.bytes => last.start,
            Some(_) => self.item.bytes,
        }
    }
}

/// What the readers work on.
pub struct Task<'a> {
    /// The server.
    pub server: &'a Server,
    /// Where the backup began.
    pub start: Lsn,
    /// What was listed.
    pub items: &'a [Item],
    /// What changed since an earlier snapshot; nothing if that is not known.
    pub changes: Option<&'a Changes>,
    /// That snapshot's entries.
    pub earlier: Earlier<'a>,
    /// Where it goes.
    pub sink: &'a dyn Sink,
    /// Told of progress and problems.
    pub observer: &'a SharedObserver,
}

impl<'a> Data<'a> {
    /// Decides what is to be read.
    ///
    /// # Errors
    /// Those of reading the earlier entries.
    pub async fn new(task: Task<'a>) -> Result<Self, SourceError> {
        let Task { server, start, items, changes, earlier, sink, observer } = task;
        let plans = plan(items, changes, earlier).await?;
        let (batches, order) = (batches(items, &plans), InOrder::into(sink));
        Ok(Self {
            server,
            start,
            items,
            plans,
            batches,
            next: AtomicUsize::new(0),
            order,
            sink,
            observer,
            counts: Counts::default(),
        })
    }

    /// Reads all of it into the sink, but for `global/pg_control`, which comes last and elsewhere. `sessions` is not empty.
    ///
    /// # Errors
    /// The server's and the sink's. Pages with wrong checksums are told to the observer and are none.
    pub async fn read(self, sessions: &[Session]) -> Result<DataRead, SourceError> {
        for (position, (item, plan)) in self.items.iter().zip(&self.plans).enumerate() {
            if let Plan::Kept(content) = plan {
                let mut entry = self.describe(item, "file");
                entry.content = Some(content.clone());
                self.counts.unchanged.fetch_add(1, Ordering::Relaxed);
                self.counts.kept_bytes.fetch_add(content.size, Ordering::Relaxed);
                self.observer.bytes(content.size);
                self.settle(position, entry, content.size).await?;
            } else if item.is_directory {
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
        let Counts { files, unchanged, bytes, kept_bytes, vanished, pages, .. } = &self.counts;
        Ok(DataRead {
            files: read(files),
            unchanged: read(unchanged),
            bytes: read(bytes),
            kept_bytes: read(kept_bytes),
            vanished: read(vanished),
            pages: read(pages),
            damaged,
        })
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
        let mut open: Option<Open<'_>> = None;
        // A file of which parts are read comes alone.
        if let [position] = batch
            && let Plan::Parts(content, parts) = &self.plans[*position]
        {
            open = Some(self.open_over(*position, content, parts).await?);
        }
        let wanted = match open.as_ref().and_then(|file| Some((file, file.parts.as_ref()?))) {
            Some((file, parts)) => {
                let part =
                    |part: &Range<u64>| Wanted { path: file.item.path.clone(), offset: part.start, bytes: part.end - part.start };
                parts.iter().map(|range| (file.position, part(range))).collect()
            }
            None => batch.iter().map(|position| (*position, self.whole(*position))).collect::<Vec<_>>(),
        };
        let (positions, wanted): (Vec<usize>, Vec<Wanted>) = wanted.into_iter().unzip();
        if wanted.is_empty() {
            return self.close(open).await;
        }
        let mut reading = Reading::begin(session, self.server.direct.as_ref(), &wanted).await?;
        while let Some(row) = reading.next().await? {
            let position = positions[row.wanted];
            if open.as_ref().is_none_or(|file| file.position != position) {
                self.close(open.take()).await?;
                open = Some(self.open(position).await?);
            }
            let Some(file) = &mut open else { continue };
            file.is_gone |= !row.is_there && file.written == 0;
            while let Some(bytes) = reading.bytes().await? {
                self.reach(file, row.offset).await?;
                self.write(file, bytes).await?;
            }
        }
        self.close(open).await
    }

    fn whole(&self, position: usize) -> Wanted {
        let item = &self.items[position];
        // A relation that grows does so in the log as well; anything else may have grown since it was listed.
        let more = if Relation::of(&item.path).is_some() { 0 } else { ROW_BYTES };
        Wanted { path: item.path.clone(), offset: 0, bytes: item.bytes + more }
    }

    async fn open(&self, position: usize) -> Result<Open<'_>, SourceError> {
        let item = &self.items[position];
        let check = Relation::of(&item.path)
            .filter(|_| self.server.checksums)
            .map(|relation| PageCheck::new(relation.segment, self.server.page_bytes));
        let writer = self.sink.content(CUT, Some(item.bytes)).await?;
        Ok(Open { position, item, writer, written: 0, parts: None, check, is_gone: false })
    }

    /// To be written over an earlier content, or anew where its pieces are others than ours.
    async fn open_over(&self, position: usize, content: &Content, parts: &[Range<u64>]) -> Result<Open<'_>, SourceError> {
        let item = &self.items[position];
        match self.sink.content_over(content, PIECE_BYTES, Some(item.bytes)).await? {
            Some(writer) => {
                let relation = Relation::of(&item.path).filter(|_| self.server.checksums);
                let check = relation.map(|relation| PageCheck::new(relation.segment, self.server.page_bytes));
                Ok(Open { position, item, writer, written: 0, parts: Some(parts.to_vec()), check, is_gone: false })
            }
            None => self.open(position).await,
        }
    }

    /// Takes what lies before `offset` from the earlier content, as far as it is there.
    async fn reach(&self, file: &mut Open<'_>, offset: u64) -> Result<(), SourceError> {
        while file.written < offset {
            if let Some(end) = file.kept_until() {
                let bytes = end.min(offset) - file.written;
                file.writer.keep(bytes).await?;
                file.written += bytes;
                self.counts.kept_bytes.fetch_add(bytes, Ordering::Relaxed);
                self.observer.bytes(bytes);
                if let Some(check) = &mut file.check {
                    check.pass_over(bytes);
                }
                continue;
            }
            // A row that was short before this one: the file was cut off meanwhile and has grown again. Replay mends what lies there.
            let end = file.parts.iter().flatten().find(|part| part.end > file.written).map_or(offset, |part| part.end.min(offset));
            let gap = usize::try_from((end - file.written).min(ROW_BYTES)).unwrap_or(0);
            self.write(file, Bytes::from(vec![0; gap])).await?;
        }
        Ok(())
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
        let Some(mut file) = file else { return Ok(()) };
        if file.is_gone && file.written == 0 {
            self.counts.vanished.fetch_add(1, Ordering::Relaxed);
            return self.entry(file.position, None).await;
        }
        let last_kept = file.last_kept();
        self.reach(&mut file, last_kept).await?;
        if let Some(check) = file.check {
            self.counts.pages.fetch_add(check.pages(), Ordering::Relaxed);
            let damaged = check.suspects().into_iter().map(|block| (file.item.path.clone(), block));
            self.suspects().extend(damaged);
        }
        let mut entry = self.describe(file.item, "file");
        entry.content = Some(file.writer.finish().await?);
        self.settle(file.position, entry, file.written).await
    }

    /// A file is here, with so many bytes.
    async fn settle(&self, position: usize, entry: Entry, bytes: u64) -> Result<(), SourceError> {
        self.counts.files.fetch_add(1, Ordering::Relaxed);
        self.counts.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.entry(position, Some(entry)).await
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
