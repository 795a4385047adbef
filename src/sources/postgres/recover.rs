//! What stands around the rows: definitions before and after, sequences, materialized views, statistics.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicUsize, Ordering},
};

use futures_util::{TryStreamExt, future::try_join_all};
use tempfile::{NamedTempFile, TempPath};
use tokio::io::AsyncWriteExt;

use super::{
    PostgresConfig,
    connect::Session,
    facts::{MaterializedView, Sequence},
    load::{self, TableSegment},
    programs::{self, Program},
    quote::{literal, qualified},
};
use crate::sources::{Content, Origin, SourceError};

/// Writes the schema dump to a private temporary file: `pg_restore` needs one for parallel jobs, and reads it twice.
pub(super) async fn schema_file(origin: &dyn Origin, content: &Content) -> Result<TempPath, SourceError> {
    let fail = || SourceError::io("the temporary file for the schema dump");
    let (file, path) = NamedTempFile::with_prefix("farshore-schema-").map_err(fail())?.into_parts();
    let mut file = tokio::fs::File::from_std(file);
    let mut stream = origin.read(content);
    while let Some(bytes) = stream.try_next().await? {
        file.write_all(&bytes).await.map_err(fail())?;
    }
    file.flush().await.map_err(fail())?;
    Ok(path)
}

/// `pg_restore` of the definitions.
pub(super) struct Restore<'a> {
    pub(super) program: &'a Program,
    pub(super) config: &'a PostgresConfig,
    pub(super) dump: &'a TempPath,
    pub(super) jobs: usize,
    pub(super) subscriptions: bool,
    pub(super) tablespaces: bool,
}

/// Building indexes is faster with more than the usual 64 MB, in each of `jobs` sessions; parameters of the command line
/// would only hold for one of them.
const SESSION_OPTIONS: &str = "-c synchronous_commit=off -c maintenance_work_mem=256MB -c statement_timeout=0 -c lock_timeout=0";

impl Restore<'_> {
    /// Runs one section, `pre-data` or `post-data`, and stops at the first error.
    pub(super) async fn run(&self, section: &str) -> Result<(), SourceError> {
        let mut prepared = programs::prepare(self.program, self.config, SESSION_OPTIONS)?;
        let database = self.config.database();
        prepared.command.args(["--exit-on-error", "--no-password", "--dbname", database]).arg(format!("--section={section}"));
        if !self.subscriptions {
            prepared.command.arg("--no-subscriptions");
        }
        if !self.tablespaces {
            prepared.command.arg("--no-tablespaces");
        }
        // Definitions depend on each other too much for parallel work to pay before the data are there.
        if section == "post-data" && self.jobs > 1 {
            prepared.command.arg(format!("--jobs={}", self.jobs));
        }
        prepared.command.arg(self.dump.as_os_str());
        prepared.run(self.program).await
    }
}

/// Puts every sequence where it was.
pub(super) async fn set_sequences(session: &Session, sequences: &[Sequence]) -> Result<(), SourceError> {
    for batch in sequences.chunks(200) {
        let set = |sequence: &Sequence| {
            let name = literal(&qualified(&sequence.schema, &sequence.name));
            format!("SELECT setval({name}::regclass, {}, {})", sequence.last_value, sequence.is_called)
        };
        session.execute("setting the sequences", &batch.iter().map(set).collect::<Vec<_>>().join("; ")).await?;
    }
    Ok(())
}

/// Refreshes the materialized views that were populated, each after those it reads. One that reads another through a function
/// (which the catalogue does not know) fails at first, and is tried again after the others.
pub(super) async fn refresh(session: &Session, views: &[MaterializedView], isolated: bool) -> Result<(), SourceError> {
    // Event triggers stand already, and must not see this. Only a superuser may say so; for others they will have to bear it.
    let _ = session.execute("switching event triggers off", "SET session_replication_role = replica").await;
    let wanted = |view: &&MaterializedView| (view.populated || view.needed) && !(isolated && view.foreign);
    let mut left: Vec<&MaterializedView> = views.iter().filter(wanted).collect();
    while !left.is_empty() {
        let mut failed = Vec::new();
        let mut last = None;
        for view in &left {
            let name = qualified(&view.schema, &view.name);
            let sql = format!("REFRESH MATERIALIZED VIEW {name}");
            if let Err(error) = session.execute(&format!("refreshing {name}"), &sql).await {
                failed.push(*view);
                last = Some(error);
            }
        }
        if let Some(error) = last
            && failed.len() == left.len()
        {
            return Err(error);
        }
        left = failed;
    }
    for view in views.iter().filter(|view| view.needed && !view.populated) {
        let name = qualified(&view.schema, &view.name);
        session.execute("emptying a materialized view again", &format!("REFRESH MATERIALIZED VIEW {name} WITH NO DATA")).await?;
    }
    Ok(())
}

/// `ANALYZE`, table by table in parallel, biggest first; then once for everything else (partitioned parents, materialized views).
pub(super) async fn analyze(config: &PostgresConfig, segments: &[TableSegment], parallelism: usize) -> Result<(), SourceError> {
    let sessions = load::sessions(config, parallelism).await?;
    let mut queue: Vec<&TableSegment> = segments.iter().collect();
    queue.sort_by_key(|segment| std::cmp::Reverse(segment.content.size));
    let mut seen = BTreeSet::new();
    let queue: Vec<String> = queue
        .iter()
        .map(|segment| qualified(&segment.attributes.schema, &segment.attributes.table))
        .filter(|name| seen.insert(name.clone()))
        .collect();
    let next = AtomicUsize::new(0);
    let work = |session| {
        let (queue, next) = (&queue, &next);
        async move {
            let session: &Session = session;
            while let Some(name) = queue.get(next.fetch_add(1, Ordering::Relaxed)) {
                session.execute(&format!("analyzing {name}"), &format!("ANALYZE {name}")).await?;
            }
            Ok::<_, SourceError>(())
        }
    };
    try_join_all(sessions.iter().map(work)).await?;
    let others = "SELECT format('ANALYZE %I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                  WHERE c.relkind = 'p' AND NOT c.relispartition OR c.relkind = 'm' AND c.relispopulated";
    for statement in super::catalog::names(&sessions[0], "listing what is left to analyze", others).await? {
        sessions[0].execute("analyzing", &statement).await?;
    }
    load::close(sessions).await;
    Ok(())
}
