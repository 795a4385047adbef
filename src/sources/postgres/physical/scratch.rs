//! A restored cluster that is started, looked at, and gone again.

use std::{
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use async_trait::async_trait;

use super::{
    collations::Order,
    databases::Databases,
    facts::PhysicalFacts,
    handed::Handed,
    in_place::{KNOWN_FROM, SETTING},
    label::Lsn,
    recovery::Recovery,
    restored::{QUIET, checksums},
    start::Reached,
    target::{PhysicalTarget, PhysicalTargetOptions},
    unlogged::{is_in_the_way, with_init_fork},
};
use crate::{
    progress::{Check, CheckOutcome, PhaseTime},
    sources::{
        Rebuild, RebuildContext, Rebuilt, SourceError,
        postgres::{
            PostgresConfig,
            failure::Side,
            programs,
            scratch::{ScratchCluster, ScratchPlace},
        },
    },
};

/// Event triggers fire for whoever connects; from this version on they can be turned off.
const EVENT_TRIGGERS_FROM: u32 = 17;

/// Rebuilds a cluster in a scratch place, and serves it until this is dropped: without a network, archiving, preloaded libraries or
/// the captured configuration, tablespaces beside the data.
#[derive(Debug)]
pub struct PhysicalScratch {
    target: PhysicalTarget,
    recovery: Recovery,
    bin_directory: Option<PathBuf>,
    described: String,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    Waiting(ScratchPlace),
    Serving { _cluster: ScratchCluster },
    Gone,
}

impl PhysicalScratch {
    /// A scratch cluster at `directory`, for the snapshot with these facts, that replays its log so far; and how its database will be reached.
    ///
    /// # Errors
    /// [`SourceError::UnfitTarget`], [`SourceError::Malformed`].
    pub fn make(
        directory: &std::path::Path,
        bin_directory: Option<PathBuf>,
        facts: &serde_json::Value,
        recovery: Recovery,
    ) -> Result<(Self, PostgresConfig), SourceError> {
        let facts = PhysicalFacts::read(facts)?;
        let place = ScratchPlace::make(directory)?;
        let config = PostgresConfig::parse(&place.url(&facts.superuser, &facts.database), None)?;
        let beside = place.directory().join("tablespaces");
        let all = facts.tablespaces.iter().chain(&facts.made_tablespaces);
        let tablespaces = all.map(|one| (one.oid.to_string(), beside.join(one.oid.to_string()))).collect();
        let options = PhysicalTargetOptions { tablespaces, is_isolated: true, recovery: recovery.clone(), start: None };
        let target = PhysicalTarget::new(place.data(), options);
        let described = place.data().display().to_string();
        Ok((Self { target, recovery, bin_directory, described, state: Mutex::new(State::Waiting(place)) }, config))
    }

    fn take(&self) -> State {
        std::mem::replace(&mut *self.state.lock().unwrap_or_else(PoisonError::into_inner), State::Gone)
    }
}

#[async_trait]
impl Rebuild for PhysicalScratch {
    fn describe(&self) -> String {
        self.described.clone()
    }

    async fn inspect(&self, facts: &serde_json::Value, into_existing: bool) -> Result<String, SourceError> {
        self.target.inspect(facts, into_existing).await
    }

    async fn rebuild(&self, context: RebuildContext<'_>) -> Result<Rebuilt, SourceError> {
        let facts = PhysicalFacts::read(context.facts)?;
        let major = facts.major();
        let server = exactly("postgres", self.bin_directory.as_deref(), major).await?;
        let (clock, observer) = (context.clock.clone(), context.observer.clone());
        let mut rebuilt = self.target.rebuild(context).await?;
        let State::Waiting(place) = self.take() else {
            return Err(SourceError::UnfitTarget {
                subject: self.describe(),
                detail: "was rebuilt once already; start the drill again".to_owned(),
            });
        };
        observer.phase("database recovery", None);
        let began = clock.monotonic();
        let data = place.data().to_owned();
        let (cluster, config) = recover(place, &server, &facts, &self.recovery).await?;
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = State::Serving { _cluster: cluster };
        let recovered = clock.monotonic();
        observer.phase("verification", None);
        rebuilt.checks.push(reached(&config, &facts).await?);
        if self.recovery.fetch.is_some() {
            let reached = Reached::ask(&config).await?;
            rebuilt.checks.push(reached.check(&facts, &self.recovery));
            rebuilt.replayed = reached.replayed(&self.recovery);
        }
        // Before anything else reads the tables, and sets hint bits in them.
        rebuilt.checks.push(checksums(&config, &data, &facts).await?);
        let checked = amcheck(&config, server.path.parent(), major).await;
        let order = if checked.outcome == CheckOutcome::Passed { Order::Shown } else { Order::NotShown };
        rebuilt.checks.push(checked);
        let databases = Databases { config: &config, data: &data, facts: &facts, order, maps: true, observer: &observer };
        databases.look(&mut rebuilt.checks).await;
        let phase = |name: &str, seconds: std::time::Duration| PhaseTime { name: name.to_owned(), seconds: seconds.as_secs_f64() };
        rebuilt.phases.push(phase("database recovery", recovered.saturating_sub(began)));
        rebuilt.phases.push(phase("verification", clock.monotonic().saturating_sub(recovered)));
        Ok(rebuilt)
    }
}

/// Recovers the cluster whose data directory `place` has, apart from everything, with its user's copies of the keys for as long as that
/// takes. Returns it running, and how a superuser reaches it.
///
/// # Errors
/// [`SourceError::Program`] with the end of the server's log; [`SourceError::Io`].
pub(super) async fn recover(
    place: ScratchPlace,
    server: &programs::Program,
    facts: &PhysicalFacts,
    recovery: &Recovery,
) -> Result<(ScratchCluster, PostgresConfig), SourceError> {
    let mut settings = apart(&place, facts)?;
    let handed = recovery.fetch.as_ref().map(|fetch| Handed::to(fetch, place.owner())).transpose()?;
    settings.extend(handed.as_ref().map(Handed::setting));
    let database = if facts.databases.iter().any(|name| name == "postgres") { "postgres" } else { &facts.database };
    let config = PostgresConfig::parse(&place.url(&facts.superuser, database), None)?;
    let data = place.data().to_owned();
    let listed = tokio::task::spawn_blocking(move || {
        let before = with_init_fork(&data);
        move || {
            let is_in_the_way = is_in_the_way(&data, &before);
            if is_in_the_way {
                tracing::info!(
                    "a file of an unlogged relation was in the way of recovery: the server is started again, and removes it"
                );
            }
            is_in_the_way
        }
    });
    let again = listed.await.map_err(|error| SourceError::io("listing unlogged relations")(error.into()))?;
    let cluster = ScratchCluster::serve(place, &server.path, server.major, settings, &config, again).await?;
    Ok((cluster, config))
}

/// Settings of a server that recovers apart from everything, with files for them in `place`.
///
/// # Errors
/// [`SourceError::Io`].
fn apart(place: &ScratchPlace, facts: &PhysicalFacts) -> Result<Vec<String>, SourceError> {
    let nothing = place.write("postgresql.conf", "")?;
    let allow = place.write("pg_hba.conf", "local all all trust\n")?;
    let names = place.write("pg_ident.conf", "")?;
    let mut settings = vec![
        format!("config_file={}", nothing.display()),
        format!("hba_file={}", allow.display()),
        format!("ident_file={}", names.display()),
        "hot_standby=off".to_owned(),
        "autovacuum=off".to_owned(),
    ];
    if let Some(most) = facts.settings.get("max_prepared_transactions") {
        settings.push(format!("max_prepared_transactions={most}"));
    }
    if facts.server_version_num >= KNOWN_FROM {
        settings.push(format!("{SETTING}=on"));
    }
    if facts.major() >= EVENT_TRIGGERS_FROM {
        settings.push("event_triggers=off".to_owned());
    }
    Ok(settings)
}

/// A program of exactly this major version: data files are read by no other.
pub(super) async fn exactly(name: &str, directory: Option<&std::path::Path>, major: u32) -> Result<programs::Program, SourceError> {
    let found = programs::find(name, directory, major).await?;
    if found.major == major {
        return Ok(found);
    }
    Err(SourceError::Program {
        program: found.path.display().to_string(),
        detail: format!(
            "is version {}, and the files of version {major} need {name} {major}: install the package postgresql-{major} (or set bin_directory to where it is)",
            found.major
        ),
    })
}

/// Whether the log was replayed as far as the snapshot needs.
async fn reached(config: &PostgresConfig, facts: &PhysicalFacts) -> Result<Check, SourceError> {
    let session = config.connect(Side::Target).await?;
    let doing = "asking how far the log was replayed";
    let at: String = session.one(doing, "SELECT pg_catalog.pg_current_wal_insert_lsn()::text", &[]).await?;
    session.close().await;
    let is_enough = Lsn::parse(&at).zip(Lsn::parse(&facts.stop_lsn)).is_some_and(|(at, stop)| at >= stop);
    Ok(Check {
        name: "log replayed".to_owned(),
        expected: format!("to {} or beyond", facts.stop_lsn),
        actual: at,
        outcome: if is_enough { CheckOutcome::Passed } else { CheckOutcome::Failed },
    })
}

/// Tables and indexes held against each other, in every database.
async fn amcheck(config: &PostgresConfig, directory: Option<&std::path::Path>, major: u32) -> Check {
    let (name, expected) = ("pg_amcheck of all databases, every index entry looked for", "nothing damaged");
    let Ok(program) = exactly("pg_amcheck", directory, major).await else {
        return Check::note(name, expected, "not run: pg_amcheck is not installed beside the server");
    };
    let checked = async {
        let mut prepared = programs::prepare(&program, config, &format!("-c {QUIET}"))?;
        prepared.command.args(["--all", "--heapallindexed", "--install-missing", "--no-password", "--jobs=2"]);
        prepared.run(&program).await
    };
    match checked.await {
        Ok(()) => Check::equal(name, expected, expected),
        Err(error) => Check::equal(name, expected, error.to_string()),
    }
}
