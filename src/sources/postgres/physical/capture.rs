//! From a running server into a sink.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::try_join_all;

use super::{
    CONFIG, CONTROL, DATA, LABEL, MAP, WAL,
    checking::PageCheck,
    facts::{METHOD, PhysicalFacts, TablespaceFacts},
    label::Lsn,
    listing::{Item, Listing, list},
    read::{ROW_BYTES, Reading, Wanted},
    select::Relation,
    server::{Begun, Server, Slot, Stopped, check_control},
    wal::{Layout, Segment},
};
use crate::{
    progress::{Problem, SharedObserver},
    sources::{
        Capture, CaptureContext, Captured, ContentWriter, Cut, Entry, Sink, SourceError,
        postgres::{PostgresConfig, capture_order::InOrder, connect::Session, failure::Side, pooler},
    },
};

/// How to capture.
#[derive(Debug, Clone, Copy)]
pub struct PhysicalOptions {
    /// How long to wait for a lock; there are none, so this only bounds the catalogue's.
    pub lock_timeout: Duration,
}

impl Default for PhysicalOptions {
    fn default() -> Self {
        Self { lock_timeout: Duration::from_secs(60) }
    }
}

/// Captures a whole cluster through any of its databases, over as many connections as the context's parallelism, and two more.
#[derive(Debug)]
pub struct PostgresPhysical {
    config: PostgresConfig,
    options: PhysicalOptions,
}

/// Relations change in place, a page here and a page there: cut at fixed places, an unchanged piece is known again.
const CUT: Cut = Cut::Fixed(128 << 10);
/// Files up to this size are read several in one statement. Bytes.
const SMALL_FILE_BYTES: u64 = 1 << 20;
/// Bounds of such a statement.
const BATCH_FILES: usize = 128;
const BATCH_BYTES: u64 = 8 << 20;
/// How often a `pg_control` is read until it is whole: the server writes it in one go, a reader may still see half of it.
const CONTROL_ATTEMPTS: u32 = 10;
/// Damaged pages that are named; the others are counted.
const PAGES_NAMED: usize = 16;
/// Settings that a server which replays the log must have, at least as large.
const SETTINGS: [&str; 7] = [
    "max_connections",
    "max_locks_per_transaction",
    "max_prepared_transactions",
    "max_wal_senders",
    "max_worker_processes",
    "shared_preload_libraries",
    "wal_level",
];

impl PostgresPhysical {
    /// Captures the cluster that holds the database which `config` names. Nothing is contacted yet.
    pub fn new(config: PostgresConfig, options: PhysicalOptions) -> Self {
        Self { config, options }
    }

    async fn session(&self) -> Result<Session, SourceError> {
        let session = self.config.connect(Side::Source).await?;
        session.settle(self.options.lock_timeout).await?;
        Ok(session)
    }
}

/// What is counted while files are read.
#[derive(Debug, Default)]
struct Counts {
    files: AtomicU64,
    bytes: AtomicU64,
    vanished: AtomicU64,
    pages: AtomicU64,
    damaged: Mutex<Vec<(String, u32)>>,
}

/// What all readers share.
struct Data<'a> {
    server: &'a Server,
    start: Lsn,
    items: &'a [Item],
    batches: Vec<Vec<usize>>,
    next: AtomicUsize,
    order: &'a InOrder<'a>,
    sink: &'a dyn Sink,
    observer: &'a SharedObserver,
    counts: Counts,
}

#[async_trait]
impl Capture for PostgresPhysical {
    fn kind(&self) -> &'static str {
        "postgres"
    }

    fn describe(&self) -> String {
        self.config.describe()
    }

    async fn capture(&self, context: CaptureContext<'_>) -> Result<Captured, SourceError> {
        let (sink, observer) = (context.sink, &context.observer);
        observer.phase("postgres cluster: checkpoint", None);
        let leader = self.session().await?;
        pooler::refuse(&self.config, &leader).await?;
        let server = Server::look(&leader).await?;
        let (databases, superuser, settings) = describe(&leader).await?;
        // Before the backup begins: what comes after it is in the log that the slot holds.
        let slot = Slot::reserve(&self.config, format!("farshore_{:016x}", rand::random::<u64>())).await?;
        let (begun, start) = Begun::begin(leader, server.version).await?;
        let sessions = try_join_all((0..context.parallelism.max(1)).map(|_| self.session())).await?;
        let work = self.work(&server, begun, start, &sessions, sink, observer);
        let (listing, stopped, wal, counts) = tokio::select! {
            done = work => done?,
            lost = slot.keep() => return Err(lost),
        };
        // The log is here; that the slot lived shows that none of it can have been missed.
        slot.touch().await?;
        slot.release().await?;
        for session in sessions {
            session.close().await;
        }
        let damaged = counts.damaged.into_inner().unwrap_or_else(PoisonError::into_inner);
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let facts = PhysicalFacts {
            method: METHOD.to_owned(),
            server_version_num: server.version,
            system_identifier: server.layout.system.to_string(),
            timeline: stopped.label.timeline,
            start_lsn: stopped.label.start.to_string(),
            stop_lsn: stopped.end.to_string(),
            from_standby: stopped.label.from_standby,
            wal_segment_bytes: server.layout.segment_bytes,
            wal_segments: wal,
            page_bytes: server.page_bytes,
            checksums: server.checksums,
            pages_checked: read(&counts.pages),
            pages_damaged: damaged.len() as u64,
            data_directory: server.data_directory.clone(),
            data_directory_mode: format!("{:o}", server.mode),
            tablespaces: server
                .tablespaces
                .iter()
                .map(|(name, (oid, location))| TablespaceFacts { oid: *oid, name: name.clone(), location: location.clone() })
                .collect(),
            databases,
            database: self.config.database().to_owned(),
            superuser,
            settings,
            unlogged_relations: listing.unlogged,
            read_by: "sql".to_owned(),
            files: read(&counts.files),
            directories: listing.items.iter().filter(|item| item.is_directory).count() as u64,
            bytes: read(&counts.bytes),
            vanished: read(&counts.vanished),
        };
        let facts = serde_json::to_value(&facts)
            .map_err(|error| SourceError::Malformed { subject: self.config.describe(), detail: error.to_string() })?;
        Ok(Captured { facts, consistent_at: Some(stopped.at) })
    }
}

impl PostgresPhysical {
    /// Everything between the beginning of the backup and the last segment of its log.
    async fn work(
        &self,
        server: &Server,
        begun: Begun,
        start: Lsn,
        sessions: &[Session],
        sink: &dyn Sink,
        observer: &SharedObserver,
    ) -> Result<(Listing, Stopped, u64, Counts), SourceError> {
        let Some(first) = sessions.first() else { unreachable!("there is always a session") };
        let listing = list(first, server).await?;
        let total = listing.items.iter().filter(|item| !item.is_directory).map(|item| item.bytes).sum();
        observer.phase("postgres cluster: data", Some(total));
        let outside = capture_outside(first, server, sink, observer).await?;
        let order = InOrder::into(sink);
        let data = Data {
            server,
            start,
            items: &listing.items,
            batches: batches(&listing.items),
            next: AtomicUsize::new(0),
            order: &order,
            sink,
            observer,
            counts: Counts::default(),
        };
        for (position, item) in listing.items.iter().enumerate().filter(|(_, item)| item.is_directory) {
            data.entry(position, Some(data.describe(item, "directory"))).await?;
        }
        // Its place is elsewhere: it is read last.
        if let Some(position) = listing.items.iter().position(|item| item.path == "global/pg_control") {
            data.entry(position, None).await?;
        }
        try_join_all(sessions.iter().map(|session| data.read(session))).await?;
        data.look_again_at_damaged_pages(first).await?;
        let counts = data.counts;
        counts.files.fetch_add(outside, Ordering::Relaxed);
        let control = read_control(first, server, sink).await?;
        observer.phase("postgres cluster: log", None);
        let stopped = begun.stop().await?;
        if stopped.label.start != start {
            return Err(SourceError::Unfit {
                subject: self.config.describe(),
                detail: format!(
                    "the backup began at {start}, and its label says {}: another backup came between; try again",
                    stopped.label.start
                ),
            });
        }
        sink.entry(text(sink, LABEL, &stopped.label_text).await?).await?;
        if !stopped.map.is_empty() {
            sink.entry(text(sink, MAP, &stopped.map).await?).await?;
        }
        sink.entry(control).await?;
        let wal = capture_log(first, server, &stopped, sink, observer).await?;
        Ok((listing, stopped, wal, counts))
    }
}

/// Names of databases, of the bootstrap superuser, and settings.
async fn describe(session: &Session) -> Result<(Vec<String>, String, BTreeMap<String, String>), SourceError> {
    let doing = "describing the cluster";
    let sql = "SELECT datname::text FROM pg_catalog.pg_database WHERE datallowconn ORDER BY datname";
    let rows = session.client.query(sql, &[]).await.map_err(|error| session.failed(doing, &error))?;
    let superuser = session.one(doing, "SELECT rolname::text FROM pg_catalog.pg_roles WHERE oid = 10", &[]).await?;
    let mut settings = BTreeMap::new();
    for name in SETTINGS {
        settings.insert(name.to_owned(), session.one(doing, "SELECT current_setting($1)", &[&name]).await?);
    }
    Ok((rows.iter().map(|row| row.get(0)).collect(), superuser, settings))
}

/// Large files alone, the largest first; small ones together.
fn batches(items: &[Item]) -> Vec<Vec<usize>> {
    let files = items.iter().enumerate().filter(|(_, item)| !item.is_directory && item.path != "global/pg_control");
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

impl Data<'_> {
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
    async fn read(&self, session: &Session) -> Result<(), SourceError> {
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
            .map(|relation| PageCheck::new(relation.segment, self.server.page_bytes, self.start));
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
            let damaged = check.damaged().into_iter().map(|block| (file.item.path.clone(), block));
            self.counts.damaged.lock().unwrap_or_else(PoisonError::into_inner).extend(damaged);
        }
        self.counts.files.fetch_add(1, Ordering::Relaxed);
        self.counts.bytes.fetch_add(file.written, Ordering::Relaxed);
        let mut entry = self.describe(file.item, "file");
        entry.content = Some(file.writer.finish().await?);
        self.entry(file.position, Some(entry)).await
    }

    /// A page may have been read while it was written: then it is whole now.
    async fn look_again_at_damaged_pages(&self, session: &Session) -> Result<(), SourceError> {
        let suspects = std::mem::take(&mut *self.counts.damaged.lock().unwrap_or_else(PoisonError::into_inner));
        let mut damaged = Vec::new();
        for (path, block) in suspects {
            let segment = Relation::of(&path).map_or(0, |relation| relation.segment);
            let check = PageCheck::new(segment, self.server.page_bytes, self.start);
            let offset = i64::from(check.offset_of(block));
            let sql = "SELECT pg_catalog.pg_read_binary_file($1, $2, $3, true)";
            let page: Option<Vec<u8>> =
                session.one("reading a page again", sql, &[&path, &offset, &i64::from(self.server.page_bytes)]).await?;
            if page.is_some_and(|page| check.is_damaged(&page, block)) {
                damaged.push((path, block));
            }
        }
        for (path, block) in damaged.iter().take(PAGES_NAMED) {
            let message = format!(
                "block {block}: its checksum is wrong at the source, and is so in this point; find the relation by its file number ({path}), restore it from an older point or from a standby, and see to the server's disks and memory"
            );
            self.observer.problem(Problem::new(path.clone(), message));
        }
        if damaged.len() > PAGES_NAMED {
            let message = format!("{} more pages have wrong checksums", damaged.len() - PAGES_NAMED);
            self.observer.problem(Problem::new("the cluster", message));
        }
        *self.counts.damaged.lock().unwrap_or_else(PoisonError::into_inner) = damaged;
        Ok(())
    }
}

/// An entry with a text as its content.
async fn text(sink: &dyn Sink, path: &str, text: &str) -> Result<Entry, SourceError> {
    content(sink, path, "label", Bytes::copy_from_slice(text.as_bytes())).await
}

async fn content(sink: &dyn Sink, path: &str, kind: &str, bytes: Bytes) -> Result<Entry, SourceError> {
    let mut writer = sink.content(Cut::ContentDefined, Some(bytes.len() as u64)).await?;
    writer.write(bytes).await?;
    let mut entry = Entry::new(path, kind);
    entry.content = Some(writer.finish().await?);
    Ok(entry)
}

/// Reads `global/pg_control` until it is whole.
async fn read_control(session: &Session, server: &Server, sink: &dyn Sink) -> Result<Entry, SourceError> {
    let sql = "SELECT pg_catalog.pg_read_binary_file('global/pg_control', 0, 8192, false)";
    for _ in 0..CONTROL_ATTEMPTS {
        let bytes: Vec<u8> = session.one("reading global/pg_control", sql, &[]).await?;
        if check_control(server, &bytes).is_some() {
            return content(sink, CONTROL, "control", bytes.into()).await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Err(SourceError::Unfit {
        subject: "global/pg_control".to_owned(),
        detail: "was never whole, or is another cluster's: see the server's log; a version of PostgreSQL that this program does not know may also be the reason".to_owned(),
    })
}

/// Configuration files that lie elsewhere, as on Debian; returns how many were captured.
async fn capture_outside(
    session: &Session,
    server: &Server,
    sink: &dyn Sink,
    observer: &SharedObserver,
) -> Result<u64, SourceError> {
    let sql = "SELECT DISTINCT path FROM (SELECT setting FROM pg_catalog.pg_settings WHERE name IN ('config_file', 'hba_file', 'ident_file') \
               UNION SELECT sourcefile FROM pg_catalog.pg_settings WHERE sourcefile IS NOT NULL) AS s(path) \
               WHERE path <> '' AND NOT starts_with(path, $1) ORDER BY path COLLATE \"C\"";
    let doing = "looking for configuration outside of the data directory";
    let inside = format!("{}/", server.data_directory.trim_end_matches('/'));
    let rows = session.client.query(sql, &[&inside]).await.map_err(|error| session.failed(doing, &error))?;
    let mut captured = 0;
    for row in rows {
        let path: String = row.get(0);
        let sql = "SELECT pg_catalog.pg_read_binary_file($1, 0, 16777216, true)";
        match session.client.query_one(sql, &[&path]).await {
            Ok(row) => {
                let Some(bytes) = row.get::<_, Option<Vec<u8>>>(0) else { continue };
                let entry = content(sink, &format!("{CONFIG}{}", path.trim_start_matches('/')), "config", bytes.into()).await?;
                sink.entry(entry).await?;
                captured += 1;
            }
            Err(error) if error.as_db_error().is_some() => observer.problem(Problem::new(
                path,
                "lies outside of the data directory, where this role may not read, and is not in this point: GRANT pg_read_server_files to the role, or add the file to a source of kind \"files\"",
            )),
            Err(error) => return Err(session.failed(doing, &error)),
        }
    }
    Ok(captured)
}

/// The log from the beginning of the backup to its end, and the histories of timelines; returns how many segments there are.
async fn capture_log(
    session: &Session,
    server: &Server,
    stopped: &Stopped,
    sink: &dyn Sink,
    observer: &SharedObserver,
) -> Result<u64, SourceError> {
    let layout = server.layout;
    let doing = "listing the log";
    let rows = session.client.query("SELECT pg_catalog.pg_ls_dir('pg_wal', true, false)", &[]).await;
    let names: Vec<String> = rows.map_err(|error| session.failed(doing, &error))?.iter().map(|row| row.get(0)).collect();
    let mut there: HashMap<u64, Segment> = HashMap::new();
    for segment in names.iter().filter_map(|name| layout.parse(name)) {
        let latest = there.entry(segment.number).or_insert(segment);
        *latest = (*latest).max(segment);
    }
    let mut wanted: Vec<(String, Option<Segment>)> = names
        .into_iter()
        .filter(|name| name.len() == 16 && name.ends_with(".history") && name[..8].bytes().all(|byte| byte.is_ascii_hexdigit()))
        .map(|name| (name, None))
        .collect();
    let (first, last) = (layout.segment_of(stopped.label.start), layout.segment_before(stopped.end));
    for number in first..=last {
        let segment = there.get(&number).filter(|segment| segment.timeline >= stopped.label.timeline);
        let segment =
            *segment.ok_or_else(|| missing(session, &layout.name(Segment { number, timeline: stopped.label.timeline })))?;
        wanted.push((layout.name(segment), Some(segment)));
    }
    wanted.sort();
    for (name, segment) in &wanted {
        let entry = capture_log_file(session, layout, name, *segment, stopped, sink, observer).await?;
        sink.entry(entry).await?;
        observer.items(1);
    }
    Ok(last + 1 - first)
}

fn missing(session: &Session, name: &str) -> SourceError {
    SourceError::Unfit {
        subject: session.subject.clone(),
        detail: format!(
            "segment {name} of the log, which the backup needs, is not there although a slot held it: see what removes files from pg_wal, and try again"
        ),
    }
}

async fn capture_log_file(
    session: &Session,
    layout: Layout,
    name: &str,
    segment: Option<Segment>,
    stopped: &Stopped,
    sink: &dyn Sink,
    observer: &SharedObserver,
) -> Result<Entry, SourceError> {
    let bytes = if segment.is_some() { layout.segment_bytes } else { ROW_BYTES };
    let mut reading = Reading::begin(session, &[Wanted { path: format!("pg_wal/{name}"), bytes }]).await?;
    let mut writer = sink.content(Cut::ContentDefined, segment.map(|_| bytes)).await?;
    let mut check = segment.map(|segment| layout.check(segment, 1, stopped.end));
    let wrong = |detail: String| SourceError::Unfit {
        subject: format!("pg_wal/{name}"),
        detail: format!("{detail}: the log that the backup needs is not there; see the server's log, and try again"),
    };
    while let Some(row) = reading.next().await? {
        if !row.is_there {
            return Err(missing(session, name));
        }
        while let Some(bytes) = reading.bytes().await? {
            if let Some(check) = &mut check {
                check.feed(&bytes).map_err(wrong)?;
            }
            observer.bytes(bytes.len() as u64);
            writer.write(bytes).await?;
        }
    }
    if let Some(check) = check {
        check.finish().map_err(wrong)?;
    }
    let mut entry = Entry::new(format!("{WAL}{name}"), "wal");
    entry.content = Some(writer.finish().await?);
    Ok(entry)
}
