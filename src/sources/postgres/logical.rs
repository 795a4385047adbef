//! Capture by method `logical`.

use std::{
    path::PathBuf,
    process::Stdio,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::future::try_join_all;
use serde::Serialize;
use tokio::io::AsyncReadExt;

use super::{
    PostgresConfig,
    capture_order::InOrder,
    catalog::{self, USER_SCHEMA},
    connect::Session,
    copy_out::copy_out,
    examine,
    facts::{Catalogue, Named, PostgresFacts},
    failure::Side,
    large_objects::{self, BatchAttributes},
    pooler,
    programs::{self, Program},
    quote::literal,
    roles,
    tables::{self, Segment, Table},
};
use crate::{
    clock::{Moment, SharedClock},
    progress::{Finding, SharedObserver},
    sources::{Capture, CaptureContext, Captured, ConsistencyTime, Cut, Entry, Examination, Sink, SourceError},
};

/// How to capture.
#[derive(Debug, Clone)]
pub struct LogicalOptions {
    /// Where `pg_dump` is; without it PATH and the distributions' directories are searched.
    pub bin_directory: Option<PathBuf>,
    /// Tables larger than this are read in parallel segments of about this many bytes.
    pub segment_bytes: u64,
    /// How long to wait for a table that somebody has locked exclusively.
    pub lock_timeout: Duration,
}

impl Default for LogicalOptions {
    fn default() -> Self {
        Self { bin_directory: None, segment_bytes: 64 << 20, lock_timeout: Duration::from_secs(300) }
    }
}

/// Captures one database over ordinary SQL connections: as many as the context's parallelism, one that holds the snapshot, and one
/// of `pg_dump`.
#[derive(Debug)]
pub struct PostgresLogical {
    config: PostgresConfig,
    options: LogicalOptions,
}

impl PostgresLogical {
    /// Captures the database that `config` names. Nothing is contacted yet.
    pub fn new(config: PostgresConfig, options: LogicalOptions) -> Self {
        Self { config, options }
    }
}

/// The oldest server that is captured.
const OLDEST: u32 = 130_000;
/// TID range scans are there from this version on; before it a segment would read the whole table.
const SPLITS_FROM: u32 = 140_000;
/// How often locking is tried again because a table appeared or vanished meanwhile.
const LOCK_ATTEMPTS: u32 = 10;

/// Where things go.
#[derive(Clone, Copy)]
struct Outlet<'a> {
    sink: &'a dyn Sink,
    observer: &'a SharedObserver,
}

/// The transaction that everything is read in.
struct Snapshot {
    leader: Session,
    name: String,
    at: ConsistencyTime,
    version: u32,
    tables: Vec<Table>,
}

#[async_trait]
impl Capture for PostgresLogical {
    fn kind(&self) -> &'static str {
        "postgres"
    }

    fn describe(&self) -> String {
        self.config.describe()
    }

    async fn capture(&self, context: CaptureContext<'_>) -> Result<Captured, SourceError> {
        let outlet = Outlet { sink: context.sink, observer: &context.observer };
        let name = format!("postgres {}", self.config.database());
        context.observer.phase(&format!("{name}: snapshot"), None);
        let snapshot = self.take_snapshot(&context.clock).await?;
        let program = programs::find("pg_dump", self.options.bin_directory.as_deref(), snapshot.version / 10_000).await?;
        let (roles, role_passwords) = roles::capture(&snapshot.leader).await?;
        let catalogue = self.catalogue(&snapshot).await?;
        let mut facts = describe(&snapshot, &program, role_passwords).await?;

        let segments = tables::split(&snapshot.tables, self.options.segment_bytes, snapshot.version >= SPLITS_FROM);
        let sessions = self.workers(&snapshot, context.parallelism).await?;

        write_json(outlet.sink, "catalog.json", "catalog", &catalogue).await?;
        context.observer.phase(&format!("{name}: large objects"), None);
        facts.large_objects = capture_large_objects(&snapshot.leader, &sessions, outlet).await?;
        write_json(outlet.sink, "roles.json", "roles", &roles).await?;

        let total: u64 = snapshot.tables.iter().map(|table| table.bytes).sum();
        context.observer.phase(&format!("{name}: schema and data"), Some(total));
        // The schema is the first in order, and read while the tables are: by the first worker, before its first table, so that
        // no more contents are open at once than the context allows.
        let order = InOrder::into(outlet.sink);
        let data = Data::of(&snapshot.tables, &segments, &order, outlet);
        let schema = self.capture_schema(&program, &snapshot, &order, outlet);
        data.capture(&sessions, schema).await?;
        facts.rows = data.rows.load(Ordering::Relaxed);
        facts.table_bytes = data.bytes.load(Ordering::Relaxed);

        // Only a transaction that still stands at its end showed one snapshot all the time.
        for session in sessions {
            session.execute("ending the snapshot", "COMMIT").await?;
            session.close().await;
        }
        snapshot.leader.execute("ending the snapshot", "COMMIT").await?;
        snapshot.leader.close().await;
        let facts = serde_json::to_value(&facts)
            .map_err(|error| SourceError::Malformed { subject: self.config.describe(), detail: error.to_string() })?;
        Ok(Captured { facts, consistent_at: Some(snapshot.at) })
    }

    async fn examine(&self, context: &Examination) -> Vec<Finding> {
        examine::logical(&self.config, &self.options, context).await
    }
}

impl PostgresLogical {
    /// Connects, checks, locks, and exports the snapshot.
    async fn take_snapshot(&self, clock: &SharedClock) -> Result<Snapshot, SourceError> {
        let leader = self.config.connect(Side::Source).await?;
        pooler::refuse(&self.config, &leader).await?;
        leader.settle(self.options.lock_timeout).await?;
        let version = leader.version().await?;
        if version < OLDEST {
            return Err(SourceError::Unfit {
                subject: self.config.describe(),
                detail: format!(
                    "the server is version {}; 13 or newer is needed: use pg_dump of its own version",
                    version / 10_000
                ),
            });
        }
        let role: String = leader.one("asking for the role", "SELECT current_user::text", &[]).await?;
        for attempt in 1.. {
            let before = tables::list(&leader).await?;
            tables::check_readable(&before, &catalog::sequence_list(&leader).await?, &role)?;
            large_objects::check_readable(&leader, &role).await?;
            leader.execute("beginning the snapshot", "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY").await?;
            // Locks come before the snapshot, which is taken by the first query: otherwise a TRUNCATE or a rewriting ALTER TABLE
            // between the two would show an emptied table as if it had been so.
            let locked = lock(&leader, &before).await;
            if let Err(error) = locked {
                leader.execute("starting over", "ROLLBACK").await?;
                let vanished = tables::list(&leader).await?.len() != before.len() || is_missing(&error);
                if attempt < LOCK_ATTEMPTS && vanished {
                    continue;
                }
                return Err(error);
            }
            // The first query takes the snapshot.
            let from = Moment::now(clock);
            let at = leader.now("exporting the snapshot").await?;
            let at = ConsistencyTime { at, from, until: Moment::now(clock) };
            let name = leader.one("exporting the snapshot", "SELECT pg_export_snapshot()", &[]).await?;
            let now = tables::list(&leader).await?;
            let same = |a: &Table, b: &Table| a.oid == b.oid && a.columns == b.columns;
            if now.len() == before.len() && now.iter().zip(&before).all(|(a, b)| same(a, b)) || attempt == LOCK_ATTEMPTS {
                // On a database whose tables come and go all the time: lock what is new now, as pg_dump would.
                lock(&leader, &now).await?;
                return Ok(Snapshot { leader, name, at, version, tables: now });
            }
            leader.execute("starting over", "ROLLBACK").await?;
        }
        unreachable!("the last attempt returns")
    }

    async fn catalogue(&self, snapshot: &Snapshot) -> Result<Catalogue, SourceError> {
        let list: Vec<(String, String)> =
            catalog::sequence_list(&snapshot.leader).await?.into_iter().map(|row| (row.schema, row.name)).collect();
        Ok(Catalogue {
            sequences: catalog::sequence_positions(&snapshot.leader, &list).await?,
            materialized_views: catalog::materialized_views(&snapshot.leader).await?,
        })
    }

    /// Sessions that see the same snapshot.
    async fn workers(&self, snapshot: &Snapshot, wanted: usize) -> Result<Vec<Session>, SourceError> {
        let open = |_| async {
            let session = self.config.connect(Side::Source).await?;
            session.settle(self.options.lock_timeout).await?;
            let sql =
                format!("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY; SET TRANSACTION SNAPSHOT {}", literal(&snapshot.name));
            session.execute("joining the snapshot", &sql).await?;
            Ok::<_, SourceError>(session)
        };
        try_join_all((0..wanted.max(1)).map(open)).await
    }

    async fn capture_schema(
        &self,
        program: &Program,
        snapshot: &Snapshot,
        order: &InOrder<'_>,
        outlet: Outlet<'_>,
    ) -> Result<(), SourceError> {
        let mut prepared = programs::prepare(program, &self.config, "")?;
        prepared
            .command
            .args(["--format=custom", "--compress=0", "--schema-only", "--quote-all-identifiers", "--no-password"])
            .arg(format!("--snapshot={}", snapshot.name))
            .arg(format!("--lock-wait-timeout={}", self.options.lock_timeout.as_millis()))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = prepared.command.spawn().map_err(|error| programs::cannot_start(program, &error))?;
        let stderr = child.stderr.take();
        let mut stdout = child.stdout.take().ok_or_else(|| programs::cannot_start(program, &std::io::Error::other("no output")))?;
        let mut writer = outlet.sink.content(Cut::ContentDefined, None).await?;
        let copy = async {
            let mut buffer = BytesMut::with_capacity(256 << 10);
            loop {
                let count = stdout.read_buf(&mut buffer).await.map_err(SourceError::io("pg_dump's output"))?;
                if buffer.len() >= 128 << 10 || count == 0 && !buffer.is_empty() {
                    outlet.observer.bytes(buffer.len() as u64);
                    writer.write(buffer.split().freeze()).await?;
                    buffer.reserve(256 << 10);
                }
                if count == 0 {
                    return Ok::<_, SourceError>(());
                }
            }
        };
        let (copied, said) = tokio::join!(copy, programs::tail(stderr));
        copied?;
        programs::judge(program, child.wait().await, &said)?;
        let mut entry = Entry::new("schema.dump", "schema");
        entry.content = Some(writer.finish().await?);
        Ok(order.settled(0, Some(entry)).await?)
    }
}

async fn lock(session: &Session, tables: &[Table]) -> Result<(), SourceError> {
    let names: Vec<String> = tables.iter().filter(|table| table.kind != "f").map(Table::qualified).collect();
    for batch in names.chunks(500) {
        session
            .execute(
                "locking the tables against changes of their definition",
                &format!("LOCK TABLE ONLY {} IN ACCESS SHARE MODE", batch.join(", ONLY ")),
            )
            .await?;
    }
    Ok(())
}

fn is_missing(error: &SourceError) -> bool {
    matches!(error, SourceError::Unfit { detail, .. } if detail.contains("SQLSTATE 42P01") || detail.contains("SQLSTATE 3F000"))
}

async fn describe(snapshot: &Snapshot, program: &Program, role_passwords: bool) -> Result<PostgresFacts, SourceError> {
    let session = &snapshot.leader;
    let listed = |wanted: &dyn Fn(&Table) -> bool| {
        Named::of(
            snapshot.tables.iter().filter(|table| wanted(table)).map(|table| format!("{}.{}", table.schema, table.name)).collect(),
        )
    };
    let named = |sql: &'static str| async move {
        Ok::<_, SourceError>(Named::of(catalog::names(session, "describing the database", sql).await?))
    };
    let tablespaces = format!(
        "SELECT DISTINCT t.spcname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_tablespace t ON t.oid = c.reltablespace WHERE {USER_SCHEMA}"
    );
    let readable: bool = session.one("describing the database", "SELECT has_column_privilege('pg_subscription', 'subdbid', 'SELECT') AND has_column_privilege('pg_subscription', 'subname', 'SELECT')", &[]).await?;
    let subscriptions = if readable {
        named("SELECT s.subname::text FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid WHERE d.datname = current_database()").await?
    } else {
        Named::default()
    };
    Ok(PostgresFacts {
        method: "logical".to_owned(),
        server_version_num: snapshot.version,
        pg_dump_major: program.major,
        database: catalog::database(session).await?,
        settings: catalog::settings(session).await?,
        extensions: catalog::extensions(session).await?,
        collations: catalog::collations(session).await?,
        objects: catalog::object_counts(session).await?,
        tables: snapshot.tables.iter().filter(|table| table.has_rows()).count() as u64,
        rows: 0,
        table_bytes: 0,
        large_objects: 0,
        unlogged_tables: listed(&|table| table.unlogged),
        foreign_tables: listed(&|table| table.kind == "f"),
        publications: named("SELECT pubname::text FROM pg_publication").await?,
        subscriptions,
        tablespaces: Named::of(catalog::names(session, "describing the database", &tablespaces).await?),
        role_passwords,
    })
}

async fn write_json<T: Serialize>(sink: &dyn Sink, path: &str, kind: &str, value: &T) -> Result<(), SourceError> {
    let bytes = serde_json::to_vec(value)
        .map_err(|error| SourceError::Malformed { subject: path.to_owned(), detail: error.to_string() })?;
    let mut writer = sink.content(Cut::ContentDefined, Some(bytes.len() as u64)).await?;
    let mut rest = Bytes::from(bytes);
    while !rest.is_empty() {
        writer.write(rest.split_to(rest.len().min(512 << 10))).await?;
    }
    let mut entry = Entry::new(path, kind);
    entry.content = Some(writer.finish().await?);
    Ok(sink.entry(entry).await?)
}

/// Captures all large objects: as many batches at once as there are sessions, entries in order. Returns how many there are.
async fn capture_large_objects(leader: &Session, sessions: &[Session], outlet: Outlet<'_>) -> Result<u64, SourceError> {
    let (mut after, mut number, mut total) = (0, 0, 0);
    loop {
        let mut round = Vec::new();
        for session in sessions {
            let headers = large_objects::batch(leader, after).await?;
            let Some(last) = headers.last() else { break };
            after = last.oid;
            round.push(capture_batch(session, number, headers, outlet));
            number += 1;
        }
        if round.is_empty() {
            return Ok(total);
        }
        for (entry, count) in try_join_all(round).await? {
            outlet.sink.entry(entry).await?;
            outlet.observer.items(count);
            total += count;
        }
    }
}

async fn capture_batch(
    session: &Session,
    number: u64,
    headers: Vec<large_objects::Header>,
    outlet: Outlet<'_>,
) -> Result<(Entry, u64), SourceError> {
    let mut writer = outlet.sink.content(Cut::ContentDefined, None).await?;
    large_objects::capture(session, &headers, &mut *writer, |bytes| outlet.observer.bytes(bytes)).await?;
    let mut entry = Entry::new(large_objects::path(number), "large-objects");
    let count = headers.len() as u64;
    let attributes = BatchAttributes {
        first: headers.first().map_or(0, |header| header.oid),
        last: headers.last().map_or(0, |header| header.oid),
        count,
    };
    entry.set_attributes(&attributes)?;
    entry.content = Some(writer.finish().await?);
    Ok((entry, count))
}

/// The reading of all segments.
struct Data<'a> {
    tables: &'a [Table],
    segments: &'a [Segment],
    order: &'a InOrder<'a>,
    outlet: Outlet<'a>,
    next: AtomicUsize,
    rows: AtomicU64,
    bytes: AtomicU64,
}

impl<'a> Data<'a> {
    fn of(tables: &'a [Table], segments: &'a [Segment], order: &'a InOrder<'a>, outlet: Outlet<'a>) -> Self {
        Self { tables, segments, order, outlet, next: AtomicUsize::new(0), rows: AtomicU64::new(0), bytes: AtomicU64::new(0) }
    }

    /// Each session takes the biggest segment that is left, so that none works alone on a big one at the end.
    async fn capture(
        &self,
        sessions: &[Session],
        schema: impl Future<Output = Result<(), SourceError>>,
    ) -> Result<(), SourceError> {
        let mut queue: Vec<usize> = (0..self.segments.len()).collect();
        queue.sort_by_key(|index| std::cmp::Reverse(self.segments[*index].bytes));
        let Some((first, others)) = sessions.split_first() else { unreachable!("there is always a session") };
        let first = async {
            schema.await?;
            self.work(first, &queue).await
        };
        tokio::try_join!(first, try_join_all(others.iter().map(|session| self.work(session, &queue))))?;
        Ok(())
    }

    async fn work(&self, session: &Session, queue: &[usize]) -> Result<(), SourceError> {
        while let Some(index) = queue.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            let segment = &self.segments[*index];
            let table = &self.tables[segment.table];
            let doing = format!("reading {}", table.qualified());
            let mut writer = self.outlet.sink.content(Cut::ContentDefined, Some(segment.bytes)).await?;
            let count = |bytes| self.outlet.observer.bytes(bytes);
            let (rows, bytes) = copy_out(session, &doing, &segment.copy_statement(table), &mut *writer, count).await?;
            self.rows.fetch_add(rows, Ordering::Relaxed);
            self.bytes.fetch_add(bytes, Ordering::Relaxed);
            let mut entry = Entry::new(tables::path(table, segment.number), "table");
            entry.set_attributes(&segment.attributes(table, rows))?;
            entry.content = Some(writer.finish().await?);
            self.outlet.observer.items(1);
            // The schema stands before the tables.
            self.order.settled(index + 1, Some(entry)).await?;
        }
        Ok(())
    }
}
