//! Rebuilding a database on a target server.
//!
//! It is built under a name of its own (`farshore_restoring_…`), compared, and takes the target's name as the last step. An empty
//! database of that name is dropped for it; one that holds something needs `into_existing`, and is kept as `<name>_before_<time>`. So
//! whatever happens, the target's name never leads to half a database.
//!
//! Phases: `database transfer` (roles, definitions, rows, sequences, large objects), `database recovery` (indexes,
//! constraints, triggers, materialized views, the database's settings), `verification`, `cut-over` (renaming), and `statistics`
//! (`ANALYZE`): the last one runs while the database is in service already, so it does not count towards the RTO.

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use futures_util::TryStreamExt;
use serde::de::DeserializeOwned;

use super::{
    PostgresConfig, catalog, compare,
    connect::Session,
    database,
    facts::{Catalogue, PostgresFacts},
    failure::Side,
    load::{self, TableSegment},
    programs::{self, Program},
    quote::identifier,
    recover,
    roles::{self, Roles},
};
use crate::{
    progress::{PhaseTime, Problem},
    sources::{Content, Entry, Origin, Rebuild, RebuildContext, Rebuilt, SourceError},
};

/// How to rebuild.
#[derive(Debug, Clone, Default)]
pub struct TargetOptions {
    /// Where `pg_restore` is; without it PATH and the distributions' directories are searched.
    pub bin_directory: Option<PathBuf>,
    /// Keep what was built when it fails, under its temporary name, for looking into.
    pub keep_failed: bool,
    /// A drill: nothing may reach out to other servers, so subscriptions are left out, and materialized views over foreign
    /// tables stay unpopulated.
    pub isolated: bool,
}

/// A database on a target server.
#[derive(Debug)]
pub struct PostgresTarget {
    config: PostgresConfig,
    options: TargetOptions,
}

/// Beginning of the name under which a database is built.
const BUILD_PREFIX: &str = "farshore_restoring_";
/// How long to wait for locks on the target.
pub(super) const LOCK_TIMEOUT: Duration = Duration::from_secs(60);

/// What was found at the target.
struct Found {
    admin: Session,
    version: u32,
    superuser: bool,
    exists: bool,
    program: Program,
    line: String,
}

/// The snapshot's entries, sorted by what they are.
struct Contents {
    catalogue: Catalogue,
    roles: Roles,
    schema: Content,
    large_objects: Vec<Entry>,
    tables: Vec<TableSegment>,
}

impl PostgresTarget {
    /// Rebuilds into the database that `config` names (made if it is missing). Nothing is contacted yet.
    pub fn new(config: PostgresConfig, options: TargetOptions) -> Self {
        Self { config, options }
    }

    /// Drops the database, whoever is connected to it; succeeds if there is none. For scratch databases of drills.
    ///
    /// # Errors
    /// As the server says.
    pub async fn remove(&self) -> Result<(), SourceError> {
        let admin = self.admin().await?;
        let statement = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", identifier(self.config.database()));
        admin.execute("dropping a scratch database", &statement).await
    }

    fn unfit(&self, detail: impl Into<String>) -> SourceError {
        SourceError::UnfitTarget { subject: self.config.describe(), detail: detail.into() }
    }

    /// A connection to another database of the server, from which the target can be made and renamed.
    async fn admin(&self) -> Result<Session, SourceError> {
        let mut last = None;
        for name in ["postgres", "template1"].into_iter().filter(|name| *name != self.config.database()) {
            match self.config.with_database(name).connect(Side::Target).await {
                Ok(session) => {
                    session.settle(LOCK_TIMEOUT).await?;
                    return Ok(session);
                }
                Err(error) => last = last.or(Some(error)),
            }
        }
        Err(last.unwrap_or_else(|| {
            self.unfit("neither of the databases postgres and template1 can be connected to: allow one of them")
        }))
    }

    async fn look(&self, facts: &PostgresFacts, into_existing: bool) -> Result<Found, SourceError> {
        let name = self.config.database();
        if name.starts_with("template") || name.len() > 63 {
            return Err(self.unfit(format!("{name:?} cannot be the name of a restored database: choose another")));
        }
        let admin = self.admin().await?;
        let version = admin.version().await?;
        let (theirs, ours) = (facts.server_version_num / 10_000, version / 10_000);
        if ours < theirs {
            return Err(self.unfit(format!(
                "the server is version {ours}, older than the {theirs} that was captured: restore into {theirs} or newer"
            )));
        }
        let program = programs::find("pg_restore", self.options.bin_directory.as_deref(), ours.max(facts.pg_dump_major)).await?;
        let doing = "looking at the target";
        let row = admin
            .client
            .query_one("SELECT rolsuper, rolcreatedb, current_user::text FROM pg_roles WHERE rolname = current_user", &[])
            .await;
        let row = row.map_err(|error| admin.failed(doing, &error))?;
        let (superuser, may_create, role): (bool, bool, String) = (row.get(0), row.get(1), row.get(2));
        if !superuser && !may_create {
            let role = identifier(&role);
            return Err(SourceError::Denied {
                subject: self.config.describe(),
                detail: format!("making a database: run ALTER ROLE {role} CREATEDB"),
            });
        }
        let available: BTreeSet<String> =
            catalog::names(&admin, doing, "SELECT name::text FROM pg_available_extensions").await?.into_iter().collect();
        let missing: Vec<&str> =
            facts.extensions.iter().map(|extension| extension.name.as_str()).filter(|name| !available.contains(*name)).collect();
        if !missing.is_empty() {
            return Err(
                self.unfit(format!("extensions are missing on this server: install the packages of {}", missing.join(", ")))
            );
        }
        let exists: bool = admin.one(doing, "SELECT EXISTS (SELECT 1 FROM pg_database WHERE datname = $1)", &[&name]).await?;
        let holds = if exists { self.holdings().await? } else { String::new() };
        if !holds.is_empty() && !into_existing {
            return Err(self.unfit(format!(
                "the database holds {holds} already: name another one, or restore with --into-existing, which keeps it under another name"
            )));
        }
        // They would only be in the way at the very end, after hours maybe.
        let sessions = "SELECT count(*) FROM pg_stat_activity WHERE datname = $1 AND backend_type = 'client backend' AND application_name <> 'farshore'";
        let sessions: i64 = admin.one(doing, sessions, &[&name]).await?;
        if sessions > 0 {
            return Err(self.unfit(format!(
                "{sessions} sessions are connected to it, so that it cannot be replaced: stop the application, or end them with pg_terminate_backend"
            )));
        }
        let state = match (exists, holds.is_empty()) {
            (false, _) => "the database will be made".to_owned(),
            (true, true) => "the empty database will be replaced".to_owned(),
            (true, false) => format!("the database holds {holds} and will be kept under another name"),
        };
        let line = format!("PostgreSQL {ours}.{}; {state}; pg_restore {}", version % 10_000, program.major);
        Ok(Found { admin, version, superuser, exists, program, line })
    }

    /// What the existing database holds, in words; nothing if it is as good as new.
    async fn holdings(&self) -> Result<String, SourceError> {
        let session = self.config.connect(Side::Target).await?;
        session.settle(LOCK_TIMEOUT).await?;
        let mut counts = catalog::object_counts(&session).await?;
        session.close().await;
        // A new database has the schema `public` and the language plpgsql.
        for given in ["schemas", "extensions"] {
            counts.entry(given.to_owned()).and_modify(|count| *count = count.saturating_sub(1));
        }
        let held: Vec<String> =
            counts.iter().filter(|(_, count)| **count > 0).map(|(class, count)| format!("{count} {class}")).collect();
        Ok(held.into_iter().take(3).collect::<Vec<_>>().join(", "))
    }

    /// Everything up to the renaming.
    async fn build(
        &self,
        build: &PostgresConfig,
        found: &Found,
        facts: &PostgresFacts,
        contents: &Contents,
        context: &RebuildContext<'_>,
    ) -> Result<Rebuilt, SourceError> {
        let mut rebuilt = Rebuilt::default();
        let mut since = context.clock.monotonic();
        let mut ended = |rebuilt: &mut Rebuilt, name: &str| {
            let now = context.clock.monotonic();
            rebuilt.phases.push(PhaseTime { name: name.to_owned(), seconds: (now - since).as_secs_f64() });
            since = now;
        };
        let bytes = contents.tables.iter().map(|table| table.content.size).sum::<u64>()
            + contents.large_objects.iter().map(Entry::size).sum::<u64>();
        context.observer.phase("database transfer", Some(bytes));
        roles::rebuild(&found.admin, &contents.roles, &context.observer).await?;
        database::create(&found.admin, build.database(), &facts.database, found.version, &context.observer).await?;
        let dump = recover::schema_file(context.origin.as_ref(), &contents.schema).await?;
        let restore = recover::Restore {
            program: &found.program,
            config: build,
            dump: &dump,
            jobs: context.parallelism.max(1),
            subscriptions: found.superuser && !self.options.isolated,
            tablespaces: database::has_tablespaces(&found.admin, facts).await?,
        };
        if !restore.tablespaces && facts.tablespaces.count > 0 {
            let names = facts.tablespaces.first.join(", ");
            context
                .observer
                .problem(Problem::new(names, "not every tablespace is on this server: everything goes to the default one"));
        }
        if !restore.subscriptions && !self.options.isolated && facts.subscriptions.count > 0 {
            let names = facts.subscriptions.first.join(", ");
            context
                .observer
                .problem(Problem::new(names, "subscriptions were left out: only a superuser can make them; make them by hand"));
        }
        restore.run("pre-data").await?;
        let sessions = load::sessions(build, context.parallelism).await?;
        load::tables(&sessions, &contents.tables, context).await?;
        load::large_objects(&sessions, &contents.large_objects, context).await?;
        recover::set_sequences(&sessions[0], &contents.catalogue.sequences).await?;
        load::close(sessions).await;
        ended(&mut rebuilt, "database transfer");

        context.observer.phase("database recovery", None);
        restore.run("post-data").await?;
        let session = load::session(build).await?;
        recover::refresh(&session, &contents.catalogue.materialized_views, self.options.isolated).await?;
        session.close().await;
        ended(&mut rebuilt, "database recovery");

        context.observer.phase("verification", None);
        rebuilt.checks =
            compare::all(build, facts, &contents.catalogue, &contents.tables, self.options.isolated, context.parallelism).await?;
        database::finish(&found.admin, build.database(), facts, &context.observer).await?;
        ended(&mut rebuilt, "verification");
        rebuilt.items = contents.tables.len() as u64 + contents.large_objects.len() as u64;
        rebuilt.bytes = bytes;
        Ok(rebuilt)
    }

    /// Gives the finished database the target's name; returns under which name the earlier one is kept.
    async fn cut_over(&self, found: &Found, build: &str, now: DateTime<Utc>) -> Result<Option<String>, SourceError> {
        let target = self.config.database();
        let doing = "giving the restored database its name (nobody may be connected to either: end those sessions)";
        let rename = |from: &str, to: &str| format!("ALTER DATABASE {} RENAME TO {}", identifier(from), identifier(to));
        if !found.exists {
            found.admin.execute(doing, &rename(build, target)).await?;
            return Ok(None);
        }
        // Somebody may have filled it meanwhile: only what is empty now is dropped.
        if self.holdings().await?.is_empty() {
            found.admin.execute(doing, &format!("DROP DATABASE {}", identifier(target))).await?;
            found.admin.execute(doing, &rename(build, target)).await?;
            return Ok(None);
        }
        let suffix = format!("_before_{}", now.format("%Y%m%dT%H%M%SZ"));
        let mut kept: String = target.to_owned();
        // Names end at 63 bytes.
        while kept.len() + suffix.len() > 63 {
            kept.pop();
        }
        kept.push_str(&suffix);
        found.admin.execute(doing, &rename(target, &kept)).await?;
        if let Err(error) = found.admin.execute(doing, &rename(build, target)).await {
            found.admin.execute("giving the earlier database its name back", &rename(&kept, target)).await?;
            return Err(error);
        }
        Ok(Some(kept))
    }
}

#[async_trait]
impl Rebuild for PostgresTarget {
    fn describe(&self) -> String {
        self.config.describe()
    }

    async fn inspect(&self, facts: &serde_json::Value, into_existing: bool) -> Result<String, SourceError> {
        let found = self.look(&read_facts(facts)?, into_existing).await?;
        found.admin.close().await;
        Ok(found.line)
    }

    async fn rebuild(&self, context: RebuildContext<'_>) -> Result<Rebuilt, SourceError> {
        if context.partial {
            return Err(self.unfit(
                "a part of a database cannot be restored by itself: restore all of it into a database of another name, and copy what \
                 you need from there with pg_dump --table",
            ));
        }
        let facts = read_facts(context.facts)?;
        let found = self.look(&facts, context.into_existing).await?;
        let contents = sort_out(context.origin.as_ref()).await?;
        let build = self.config.with_database(&format!("{BUILD_PREFIX}{:016x}", rand::random::<u64>()));
        let mut unfinished = Unfinished { build: build.clone(), admin: self.config.clone(), armed: !self.options.keep_failed };
        let mut rebuilt = match self.build(&build, &found, &facts, &contents, &context).await {
            Ok(rebuilt) => rebuilt,
            Err(error) => return Err(unfinished.drop_now(&found.admin, error).await),
        };
        let since = context.clock.monotonic();
        context.observer.phase("cut-over", None);
        match self.cut_over(&found, build.database(), context.clock.now()).await {
            Ok(None) => {}
            Ok(Some(kept)) => {
                let text = format!("kept as {kept:?}: drop it when it is not needed any more");
                rebuilt.checks.push(crate::progress::Check::note(
                    format!("the earlier database {:?}", self.config.database()),
                    "",
                    text,
                ));
            }
            Err(error) => {
                // It is whole and compared; hours of work are not thrown away for want of a name.
                unfinished.armed = false;
                return Err(self.unfit(format!(
                    "the database was restored completely and is kept as {:?}, but could not take its name: {error}; then run ALTER DATABASE {} RENAME TO {}",
                    build.database(),
                    identifier(build.database()),
                    identifier(self.config.database())
                )));
            }
        }
        unfinished.armed = false;
        let served = context.clock.monotonic();
        rebuilt.phases.push(PhaseTime { name: "cut-over".to_owned(), seconds: (served - since).as_secs_f64() });

        context.observer.phase("statistics", None);
        if let Err(error) = recover::analyze(&self.config, &contents.tables, context.parallelism).await {
            context
                .observer
                .problem(Problem::new(self.config.describe(), format!("ANALYZE failed, so queries may be slow: run it: {error}")));
        }
        rebuilt
            .phases
            .push(PhaseTime { name: "statistics".to_owned(), seconds: (context.clock.monotonic() - served).as_secs_f64() });
        found.admin.close().await;
        Ok(rebuilt)
    }
}

fn read_facts(facts: &serde_json::Value) -> Result<PostgresFacts, SourceError> {
    serde_json::from_value(facts.clone())
        .map_err(|error| SourceError::Malformed { subject: "the snapshot's facts".to_owned(), detail: error.to_string() })
}

async fn sort_out(origin: &dyn Origin) -> Result<Contents, SourceError> {
    let (mut catalogue, mut roles, mut schema) = (None, None, None);
    let (mut large_objects, mut tables) = (Vec::new(), Vec::new());
    let mut entries = origin.entries();
    while let Some(entry) = entries.try_next().await? {
        let content = || {
            entry
                .content
                .clone()
                .ok_or_else(|| SourceError::Malformed { subject: entry.display_path(), detail: "it has no content".to_owned() })
        };
        match entry.kind.as_str() {
            "catalog" => catalogue = Some(read_json::<Catalogue>(origin, &entry.display_path(), &content()?).await?),
            "roles" => roles = Some(read_json::<Roles>(origin, &entry.display_path(), &content()?).await?),
            "schema" => schema = Some(content()?),
            "large-objects" => large_objects.push(entry),
            "table" => tables.push(TableSegment { attributes: entry.attributes()?, content: content()? }),
            other => {
                return Err(SourceError::Malformed {
                    subject: entry.display_path(),
                    detail: format!("an entry of the unknown kind {other:?}"),
                });
            }
        }
    }
    let missing =
        |what: &str| SourceError::Malformed { subject: what.to_owned(), detail: "the snapshot lacks this entry".to_owned() };
    Ok(Contents {
        catalogue: catalogue.ok_or_else(|| missing("catalog.json"))?,
        roles: roles.ok_or_else(|| missing("roles.json"))?,
        schema: schema.ok_or_else(|| missing("schema.dump"))?,
        large_objects,
        tables,
    })
}

/// Most that the catalogue of a database or its roles may have, bytes: a hundred thousand tables have some tens of megabytes.
const MAX_JSON_BYTES: usize = 256 << 20;

async fn read_json<T: DeserializeOwned>(origin: &dyn Origin, path: &str, content: &Content) -> Result<T, SourceError> {
    let malformed = |detail: String| SourceError::Malformed { subject: path.to_owned(), detail };
    let mut all = Vec::new();
    let mut stream = origin.read(content);
    while let Some(bytes) = stream.try_next().await? {
        if all.len() + bytes.len() > MAX_JSON_BYTES {
            return Err(malformed(format!("has more than {MAX_JSON_BYTES} bytes")));
        }
        all.extend_from_slice(&bytes);
    }
    serde_json::from_slice(&all).map_err(|error| malformed(error.to_string()))
}

/// Drops the half-built database: at once after an error, and in the background when the restore itself is dropped (cancelled).
struct Unfinished {
    build: PostgresConfig,
    admin: PostgresConfig,
    armed: bool,
}

impl Unfinished {
    async fn drop_now(&mut self, admin: &Session, error: SourceError) -> SourceError {
        if std::mem::take(&mut self.armed)
            && let Err(second) = database::discard(admin, &self.build).await
        {
            // The first error matters more; the name itself says that the database is not whole.
            tracing::warn!(database = self.build.database(), error = %second, "a half-built database was left behind: drop it");
        }
        error
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if !self.armed {
            return;
        }
        let (build, target) = (self.build.clone(), PostgresTarget::new(self.admin.clone(), TargetOptions::default()));
        runtime.spawn(async move {
            let dropped = async { database::discard(&target.admin().await?, &build).await }.await;
            if let Err(error) = dropped {
                tracing::warn!(%error, "a half-built database was left behind: drop it");
            }
        });
    }
}
