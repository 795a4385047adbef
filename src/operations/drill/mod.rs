//! Drill: the whole restore against isolated targets, checked, timed, and kept as evidence.
//!
//! It must not be able to touch production: databases come into a scratch cluster of its own (own directory and socket, no
//! network, no archiving) or under a name of its own on a server that the policy sets aside for it; objects and files into a
//! directory of its own. It works as on the bad day: from the site, with the identity, and with an empty local index.
//!
//! A drill that fails leaves evidence too, as soon as the catalogue could be opened (without it, nothing can be sealed).

mod application;
mod rows;
mod scratch;

use std::{path::PathBuf, sync::Arc, time::Duration};

use crate::{
    clock::SharedClock,
    policy::Policy,
    progress::{Observer, SharedObserver, Tally},
    report::{
        Agent, Check, DrillReport, DrilledPoint, EVIDENCE_SCHEMA_VERSION, Isolation, RestoredSource, RpoFigures, RtoFigures,
        TrendEntry, Verdict, rto_seconds,
    },
    repository::{Budget, Identities, Point, PointName, Reader, Repository, Workers},
    sources::postgres::{
        PostgresConfig,
        physical::{
            Fetch,
            facts::{PhysicalFacts, is_physical},
        },
    },
    stores::SharedStore,
};

use super::{
    OperationError, Phases, RestoreRequest,
    archived::lists_in_archive,
    history,
    keys::{check_point_keys, expected_of, open_point},
    restore::rebuild_all,
};

/// Earlier drills that a report repeats.
const TREND: usize = 30;

/// What a drill needs.
pub struct DrillRequest<'a> {
    /// The policy.
    pub policy: &'a Policy,
    /// The site.
    pub store: SharedStore,
    /// Keys of a reader.
    pub identities: &'a Identities,
    /// `latest`, an id, or the beginning of one.
    pub point: &'a str,
    /// Threads for CPU work.
    pub workers: Arc<Workers>,
    /// Told of progress and problems.
    pub observer: SharedObserver,
    /// The time.
    pub clock: SharedClock,
    /// Who we are.
    pub agent: Agent,
    /// Writers at once, per source.
    pub parallelism: usize,
    /// The server for scratch databases, where the policy names one (with its password); a scratch cluster otherwise.
    pub server: Option<PostgresConfig>,
    /// Where PostgreSQL's programs are, if not where they are usually.
    pub bin_directory: Option<PathBuf>,
    /// Opens a directory as a store, for restored objects.
    pub open_directory: fn(PathBuf) -> SharedStore,
    /// How a scratch server fetches the archived log of a cluster, of which the last says what there is.
    pub fetch: &'a (dyn Fn(&PhysicalFacts, String) -> Result<Fetch, String> + Sync),
}

impl std::fmt::Debug for DrillRequest<'_> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("DrillRequest").field("policy", &self.policy.name).field("point", &self.point).finish_non_exhaustive()
    }
}

/// What a drill left.
#[derive(Debug)]
pub struct Drilled {
    /// The report.
    pub report: DrillReport,
    /// Key of the evidence on the site.
    pub evidence: String,
}

/// What was done so far; kept apart from the errors, so that a failed drill has it too.
struct Progress {
    /// The moment of the supposed loss.
    started_at: chrono::DateTime<chrono::Utc>,
    phases: Phases,
    point: Option<DrilledPoint>,
    consistent_at: Vec<chrono::DateTime<chrono::Utc>>,
    /// Whether all of the point was restored, along the log where there is one.
    is_restored: bool,
    isolation: Vec<Isolation>,
    sources: Vec<RestoredSource>,
    checks: Vec<Check>,
    served: bool,
}

/// Drills.
///
/// # Errors
/// Only what keeps the evidence from being written: the site, the keys, the scratch directory. Everything else is in the report.
pub async fn drill(request: DrillRequest<'_>) -> Result<Drilled, OperationError> {
    let started_at = request.clock.now();
    let tally = Tally::over(Arc::clone(&request.observer));
    let observer: SharedObserver = tally.clone();
    let mut progress = Progress {
        phases: Phases::new(Arc::clone(&request.clock), Arc::clone(&observer)),
        started_at,
        point: None,
        consistent_at: Vec::new(),
        is_restored: false,
        isolation: Vec::new(),
        sources: Vec::new(),
        checks: Vec::new(),
        served: false,
    };
    let mut scratch = scratch::Scratch::make(&request.policy.drill.directory)?;
    let cache = scratch.path().join("cache");
    let expected = expected_of(&request.policy.encryption);
    let opened = Repository::open(request.store.clone(), Arc::clone(&request.clock), request.identities, expected, &cache);
    let repository = progress.phases.time("obtain keys", opened).await?;
    let outcome = run(&request, &repository, &mut scratch, &mut progress, &observer).await;
    let failure = outcome.err().map(|error| error.to_string());
    let Progress { started_at: _, mut phases, point, consistent_at, is_restored, isolation, sources, checks, served } = progress;
    let left_behind = phases.time("clean-up", scratch.clean_up()).await;
    for problem in left_behind {
        tally.problem(problem);
    }
    let phases = phases.finish();
    let objectives = request.policy.objectives;
    let seconds = |duration: Option<Duration>| duration.map(|duration| duration.as_secs_f64());
    let restored_to = consistent_at.first().map(|shown| match is_restored {
        true => RpoFigures::restored_to(*shown, sources.iter().map(|source| source.recovered_to), started_at, request.clock.now()),
        false => *shown,
    });
    let report = DrillReport {
        schema_version: EVIDENCE_SCHEMA_VERSION,
        agent: request.agent.clone(),
        started_at,
        finished_at: request.clock.now(),
        policy: request.policy.name.clone(),
        region: request.policy.region.clone(),
        site: request.store.describe(),
        rpo: point
            .as_ref()
            .and(restored_to)
            .map(|at| RpoFigures::measure(seconds(objectives.rpo), started_at, at, &consistent_at[1..])),
        rto: served.then(|| RtoFigures { objective_seconds: seconds(objectives.rto), measured_seconds: rto_seconds(&phases) }),
        point,
        isolation,
        sources,
        phases,
        checks,
        problems: tally.problems(),
        failure,
        verdict: Verdict::Failed,
        reasons: Vec::new(),
        trend: trend(&repository, &request.policy.name).await?,
        previous: history::newest_link(&repository).await?,
    }
    .judged();
    let evidence = history::keep_drill(&repository, &report).await?;
    Ok(Drilled { report, evidence })
}

async fn trend(repository: &Repository, policy: &str) -> Result<Vec<TrendEntry>, OperationError> {
    let (records, _) = history::records(repository).await?;
    let entries: Vec<_> = records
        .into_iter()
        .filter_map(|record| record.drill)
        .filter(|drill| drill.policy == policy)
        .map(|drill| drill.trend_entry())
        .collect();
    Ok(entries[entries.len().saturating_sub(TREND)..].to_vec())
}

async fn run(
    request: &DrillRequest<'_>,
    repository: &Repository,
    scratch: &mut scratch::Scratch,
    progress: &mut Progress,
    observer: &SharedObserver,
) -> Result<(), OperationError> {
    let policy = request.policy;
    let (point, root_hash, names) = progress.phases.time("select point", select(request, repository)).await?;
    progress.point = Some(DrilledPoint {
        id: point.id.clone(),
        consistent_at: point.consistent_at,
        root_hash,
        encryption: point.encryption.clone(),
    });
    // First the point in use, then all of them.
    progress.consistent_at = std::iter::once(point.consistent_at).chain(names.iter().map(|name| name.time)).collect();
    let budget = Budget::new(policy.limits.memory_bytes);
    let reader = progress.phases.time("fetch catalogue", Reader::open(repository, Arc::clone(&request.workers), budget)).await?;
    // What lies in an archive is not brought back for a drill: what that costs, and how long it takes, is for whoever must restore.
    if let Some(found) = lists_in_archive(repository, &reader, None, observer.as_ref()).await? {
        return Err(found.refusal(repository.store().describe()));
    }
    progress.phases.time("obtain keys", open_point(repository, &reader, &point)).await?;
    let targets = progress.phases.time("check target", scratch.targets(request, repository, &point)).await?;
    progress.isolation = targets.isolation;
    let beyond = targets.checks;
    let restore = RestoreRequest {
        repository,
        reader,
        point: &point,
        targets: targets.rebuild,
        below: None,
        into_existing: false,
        lost_at: Some(progress.started_at),
        retrieval: None,
        observer: Arc::clone(observer),
        clock: Arc::clone(&request.clock),
        parallelism: request.parallelism,
    };
    progress.phases.time("check target", restore.plan()).await?;
    restore.retrieve().await?;
    rebuild_all(&restore, &mut progress.phases, &mut progress.sources).await?;
    progress.is_restored = true;
    let checks = application::check(policy, &targets.databases, &targets.stores);
    progress.checks = beyond.into_iter().chain(progress.phases.time("application check", checks).await).collect();
    progress.served = true;
    // Nobody waits for these, so they are in no phase.
    for snapshot in point.snapshots.iter().filter(|snapshot| is_physical(&snapshot.facts)) {
        let source = progress.sources.iter_mut().find(|source| source.name == snapshot.source);
        if let Some((config, source)) = targets.databases.get(&snapshot.source).zip(source) {
            rows::look(request, repository, &point, config, source, observer).await?;
        }
    }
    progress.checks.push(keys_open_the_newest_point(names.last(), repository, &restore.reader, &point).await?);
    Ok(())
}

/// Losing a key is the worst loss: whatever point was drilled, the newest one must open with the identity at hand. The newest when the
/// drill began: of one that was made since, the reader does not know the chunks.
async fn keys_open_the_newest_point(
    newest: Option<&PointName>,
    repository: &Repository,
    reader: &Reader,
    drilled: &Point,
) -> Result<Check, OperationError> {
    let title = format!("keys open the newest point, {}", newest.map_or(drilled.id.as_str(), |name| name.id.as_str()));
    let opened = async {
        match newest.filter(|name| name.id != drilled.id) {
            None => check_point_keys(repository, reader, drilled).await,
            Some(name) => check_point_keys(repository, reader, &repository.point(name).await?).await,
        }
    };
    Ok(match opened.await {
        Ok(keys) => {
            let actual = match keys.closed.first() {
                None => keys.describe(),
                Some((_, error)) => format!("{}: {error}", keys.describe()),
            };
            Check::equal(title, format!("{0} of {0} data keys open", keys.data_keys), actual)
        }
        Err(OperationError::Repository(error)) if error.is_damage() => Check::equal(title, "every data key opens", error),
        Err(error) => return Err(error),
    })
}

async fn select(request: &DrillRequest<'_>, repository: &Repository) -> Result<(Point, String, Vec<PointName>), OperationError> {
    let names = repository.point_names(Some(&request.policy.name)).await?;
    let name = repository.find_point(Some(&request.policy.name), request.point).await?;
    let point = repository.point(&name).await?;
    let root_hash = repository.root_hash(&name).await?;
    Ok((point, root_hash, names))
}
