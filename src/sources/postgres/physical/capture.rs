//! From a running server into a sink.

use std::{
    collections::{BTreeMap, HashSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::{join_all, try_join_all};

use super::{
    CONTROL, LABEL, MAP,
    archiving::LogOptions,
    data::{Data, DataRead, Task},
    direct::{Direct, KnownBy},
    examine::physical,
    facts::{METHOD, PhysicalFacts, TablespaceFacts},
    incremental::{Basis, End, may_build_on},
    label::Lsn,
    listing::{Listing, list},
    log::capture_log,
    outside::capture_outside,
    records::Followed,
    select::locator,
    server::{Begun, Server, Slot, Stopped, check_control, tablespaces},
    tablespace::Made,
    unlogged::in_the_way,
    wal::Segment,
};
use crate::{
    clock::SharedClock,
    progress::{Finding, SharedObserver},
    sources::{
        Capture, CaptureContext, Captured, Cut, Entry, Examination, Sink, SourceError,
        earlier::Earlier,
        postgres::{PostgresConfig, connect::Session, failure::Side, pooler},
    },
};

/// How to capture.
#[derive(Debug, Clone)]
pub struct PhysicalOptions {
    /// Where PostgreSQL's programs are, which a drill needs; without it PATH and the distributions' directories are searched.
    pub bin_directory: Option<PathBuf>,
    /// How long to wait for a lock; there are none, so this only bounds the catalogue's.
    pub lock_timeout: Duration,
    /// How the server's files are read.
    pub read_by: ReadBy,
    /// How the log between captures is archived: a capture does without, an examination looks at it.
    pub log: LogOptions,
}

/// How the server's files are read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ReadBy {
    /// From its data directory where this machine has it and it may be read, else over SQL.
    #[default]
    Auto,
    /// Over SQL.
    Sql,
    /// From its data directory.
    Files,
}

impl Default for PhysicalOptions {
    fn default() -> Self {
        Self { bin_directory: None, lock_timeout: Duration::from_secs(60), read_by: ReadBy::Auto, log: LogOptions::default() }
    }
}

/// Captures a whole cluster through any of its databases, over as many connections as the context's parallelism, and two more.
#[derive(Debug)]
pub struct PostgresPhysical {
    config: PostgresConfig,
    options: PhysicalOptions,
}

/// How often a `pg_control` is read until it is whole: the server writes it in one go, a reader may still see half of it.
const CONTROL_ATTEMPTS: u32 = 10;
/// Settings that a server which replays the log must have, at least as large; and those that say what it loads. Not every version has all.
const SETTINGS: [&str; 12] = [
    "config_file",
    "dynamic_library_path",
    "extension_control_path",
    "local_preload_libraries",
    "max_connections",
    "max_locks_per_transaction",
    "max_prepared_transactions",
    "max_wal_senders",
    "max_worker_processes",
    "session_preload_libraries",
    "shared_preload_libraries",
    "wal_level",
];

impl PostgresPhysical {
    /// Captures the cluster that holds the database which `config` names. Nothing is contacted yet.
    pub fn new(config: PostgresConfig, options: PhysicalOptions) -> Self {
        Self { config, options }
    }

    fn not_at_hand(&self, why: &str) -> SourceError {
        SourceError::Unfit {
            subject: self.config.describe(),
            detail: format!("the policy wants the server's files read from its data directory (read_by = \"files\"), and {why}"),
        }
    }

    async fn session(&self) -> Result<Session, SourceError> {
        let session = self.config.connect(Side::Source).await?;
        session.settle(self.options.lock_timeout).await?;
        Ok(session)
    }
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
        let CaptureContext { sink, earlier, earlier_facts, observer, clock, parallelism, .. } = context;
        let observer = &observer;
        observer.phase("postgres cluster: checkpoint", None);
        let leader = self.session().await?;
        pooler::refuse(&self.config, &leader).await?;
        let mut server = Server::look(&leader).await?;
        let (databases, superuser, settings) = describe(&leader).await?;
        // Before the backup begins: what comes after it is in the log that the slot holds.
        let slot = Slot::reserve(&self.config, format!("farshore_{:016x}", rand::random::<u64>())).await?;
        let mut earlier = Earlier::new(earlier);
        let beginning = async {
            let sessions = try_join_all((0..parallelism.max(1)).map(|_| self.session()));
            // While the server makes its checkpoint.
            let looked_ahead =
                async { if may_build_on(&server, earlier_facts.as_ref()) { earlier.look_ahead().await } else { Ok(()) } };
            tokio::try_join!(Begun::begin(leader, server.version), sessions, looked_ahead)
        };
        let ((begun, start), sessions, ()) = tokio::select! {
            begun = beginning => begun?,
            lost = slot.keep() => return Err(lost),
        };
        // Now and not before: one that was made in between is in the backup's own map.
        let Some(first) = sessions.first() else { unreachable!("there is always a session") };
        server.tablespaces = tablespaces(first).await?;
        let sql_because = match self.options.read_by {
            ReadBy::Sql => Some("the policy says so".to_owned()),
            ReadBy::Auto | ReadBy::Files => match Direct::open(&server, KnownBy::Slot(slot.name().to_owned())).await {
                Ok(direct) => {
                    server.direct = Some(Arc::new(direct));
                    None
                }
                Err(why) if self.options.read_by == ReadBy::Files => return Err(self.not_at_hand(&why)),
                Err(why) => Some(why),
            },
        };
        let task = Work { server: &server, sessions: &sessions, sink, observer, earlier, earlier_facts, clock: &clock };
        let Done { listing, stopped, end, wal, followed, data, basis } = tokio::select! {
            done = self.work(begun, start, task) => done?,
            lost = slot.keep() => return Err(lost),
        };
        // The log is here; that the slot lived shows that none of it can have been missed.
        slot.touch().await?;
        slot.release().await?;
        let made_tablespaces = made(first, &server, &followed.made).await?;
        join_all(sessions.into_iter().map(Session::close)).await;
        let since = basis.since.as_ref().ok().map(|since| since.start.clone());
        let (read_by, way) = match sql_because {
            None => ("files", "from the data directory itself".to_owned()),
            Some(why) => ("sql", format!("over SQL, since {why}")),
        };
        let mut reading = match &basis.since {
            Ok(since) => format!("incremental on the backup that began at {}; read {way}", since.start),
            Err(why) => format!("everything was read: {why}; {way}"),
        };
        for one in &made_tablespaces {
            reading += &format!("; tablespace {} was made meanwhile, and a restore keeps it in the data directory", one.name);
        }
        let unlogged_meanwhile = in_the_way(&listing, &followed.init_forks);
        let relations: HashSet<_> = unlogged_meanwhile.iter().filter_map(|path| locator(path)).collect();
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
            pages_checked: data.pages,
            pages_damaged: data.damaged,
            data_directory: server.data_directory.clone(),
            data_directory_mode: format!("{:o}", server.mode),
            tablespaces: server
                .tablespaces
                .iter()
                .map(|(name, (oid, location))| TablespaceFacts { oid: *oid, name: name.clone(), location: location.clone() })
                .collect(),
            made_tablespaces,
            tablespaces_in_log: Some(followed.naming),
            databases,
            database: self.config.database().to_owned(),
            superuser,
            settings,
            unlogged_relations: listing.unlogged + relations.len() as u64,
            unlogged_meanwhile,
            read_by: read_by.to_owned(),
            reading,
            built_on: since,
            mark: basis.mark,
            end: Some(end),
            files: data.files,
            unchanged_files: data.unchanged,
            directories: listing.items.iter().filter(|item| item.is_directory).count() as u64,
            bytes: data.bytes,
            read_bytes: data.bytes - data.kept_bytes + wal * server.layout.segment_bytes,
            kept_bytes: data.kept_bytes,
            vanished: data.vanished,
        };
        let facts = serde_json::to_value(&facts)
            .map_err(|error| SourceError::Malformed { subject: self.config.describe(), detail: error.to_string() })?;
        Ok(Captured { facts, consistent_at: Some(stopped.at) })
    }

    async fn examine(&self, context: &Examination) -> Vec<Finding> {
        physical(&self.config, &self.options, context).await
    }
}

/// What there is to work with.
struct Work<'a> {
    server: &'a Server,
    sessions: &'a [Session],
    sink: &'a dyn Sink,
    observer: &'a SharedObserver,
    earlier: Earlier<'a>,
    earlier_facts: Option<serde_json::Value>,
    clock: &'a SharedClock,
}

/// What came of it.
struct Done {
    listing: Listing,
    stopped: Stopped,
    end: End,
    wal: u64,
    followed: Followed,
    data: DataRead,
    basis: Basis,
}

impl PostgresPhysical {
    /// Everything between the beginning of the backup and the last segment of its log.
    async fn work(&self, begun: Begun, start: Lsn, work: Work<'_>) -> Result<Done, SourceError> {
        let Work { server, sessions, sink, observer, earlier, earlier_facts, clock } = work;
        let Some(first) = sessions.first() else { unreachable!("there is always a session") };
        observer.phase("postgres cluster: what changed", None);
        let basis = Basis::look(first, server, start, earlier_facts.as_ref()).await?;
        // What is there now: what is made or grows later is in the log.
        let listing = list(first, server).await?;
        let total = listing.items.iter().filter(|item| !item.is_directory).map(|item| item.bytes).sum();
        observer.phase("postgres cluster: data", Some(total));
        let outside = capture_outside(first, server, sink, observer).await?;
        let changes = basis.since.as_ref().ok().map(|since| &since.changes);
        let data = Data::new(Task { server, start, items: &listing.items, changes, earlier, sink, observer }).await?;
        let mut data = data.read(sessions).await?;
        data.files += outside;
        let control = read_control(first, server, sink).await?;
        sink.lull();
        observer.phase("postgres cluster: log", None);
        let stopped = begun.stop(clock).await?;
        if stopped.label.start != start || stopped.label.timeline != basis.timeline {
            return Err(SourceError::Unfit {
                subject: self.config.describe(),
                detail: format!(
                    "the backup began at {start} on timeline {}, and its label says {} on timeline {}: another backup came between; try again",
                    basis.timeline, stopped.label.start, stopped.label.timeline
                ),
            });
        }
        sink.entry(text(sink, LABEL, &stopped.label_text).await?).await?;
        if !stopped.map.is_empty() {
            sink.entry(text(sink, MAP, &stopped.map).await?).await?;
        }
        sink.entry(control).await?;
        let (wal, followed) = capture_log(first, server, &stopped, sink, observer).await?;
        sink.lull();
        let last = Segment { number: server.layout.segment_before(stopped.end), timeline: stopped.label.timeline };
        let end = End::look(first, server.layout, last, stopped.end).await?;
        Ok(Done { listing, stopped, end, wal, followed, data, basis })
    }
}

/// Of the tablespaces that the log makes, those that stay and were not there yet when the others were listed. One that is gone by now is
/// named by its OID.
async fn made(session: &Session, server: &Server, made: &[Made]) -> Result<Vec<TablespaceFacts>, SourceError> {
    let is_new = |made: &&Made| {
        !made.is_dropped && !made.directory.is_empty() && !server.tablespaces.iter().any(|(_, (oid, _))| *oid == made.oid)
    };
    let stay: Vec<&Made> = made.iter().filter(is_new).collect();
    let oids: Vec<u32> = stay.iter().map(|made| made.oid).collect();
    let sql = "SELECT oid, spcname::text FROM pg_catalog.pg_tablespace WHERE oid = ANY($1)";
    let rows = session.client.query(sql, &[&oids]).await;
    let rows = rows.map_err(|error| session.failed("listing tablespaces that were made meanwhile", &error))?;
    let names: BTreeMap<u32, String> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let facts = |made: &Made| TablespaceFacts {
        oid: made.oid,
        name: names.get(&made.oid).cloned().unwrap_or_else(|| made.oid.to_string()),
        location: made.directory.clone(),
    };
    Ok(stay.into_iter().map(facts).collect())
}

/// Names of databases, of the superuser by whom a restored server is reached, and settings.
async fn describe(session: &Session) -> Result<(Vec<String>, String, BTreeMap<String, String>), SourceError> {
    let doing = "describing the cluster";
    let sql = "SELECT datname::text FROM pg_catalog.pg_database WHERE datallowconn ORDER BY datname";
    let rows = session.client.query(sql, &[]).await.map_err(|error| session.failed(doing, &error))?;
    // The one that every cluster has, unless only another may log in.
    let sql = "SELECT rolname::text FROM pg_catalog.pg_roles WHERE oid = 10 OR rolsuper AND rolcanlogin ORDER BY rolcanlogin DESC, oid LIMIT 1";
    let superuser = session.one(doing, sql, &[]).await?;
    let sql =
        "SELECT name, value FROM unnest($1::text[]) AS n(name), current_setting(name, true) AS s(value) WHERE value IS NOT NULL";
    let settings = session.client.query(sql, &[&SETTINGS.as_slice()]).await.map_err(|error| session.failed(doing, &error))?;
    let settings = settings.iter().map(|row| (row.get(0), row.get(1))).collect();
    Ok((rows.iter().map(|row| row.get(0)).collect(), superuser, settings))
}

/// An entry with a text as its content.
async fn text(sink: &dyn Sink, path: &str, text: &str) -> Result<Entry, SourceError> {
    content(sink, path, "label", Bytes::copy_from_slice(text.as_bytes())).await
}

/// An entry with these bytes as its content.
///
/// # Errors
/// The sink's.
pub async fn content(sink: &dyn Sink, path: &str, kind: &str, bytes: Bytes) -> Result<Entry, SourceError> {
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
