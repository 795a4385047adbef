//! Restore: snapshots of one point into their targets, planned, timed by phase.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use futures_util::TryStreamExt;
use serde::Serialize;

use super::{
    OperationError, Phases,
    archived::InArchive,
    backup::at_once,
    exchange::{Inlet, lies_below},
    log::{log_ended_at, log_ended_before},
};
use crate::{
    clock::SharedClock,
    progress::{Observer, Problem, SharedObserver, Tally},
    report::{RestoreReport, RestoredSource},
    repository::{Point, Reader, Repository, RepositoryError, Snapshot, site_time},
    sources::{Rebuild, RebuildContext, Replayed, postgres::physical::facts::PhysicalFacts},
    stores::Retrieval,
};

/// What a restore needs.
#[derive(Debug)]
pub struct RestoreRequest<'a> {
    /// Where it comes from.
    pub repository: &'a Repository,
    /// Reads it.
    pub reader: Reader,
    /// The point.
    pub point: &'a Point,
    /// Name of a source, and where it is rebuilt; in this order.
    pub targets: Vec<(String, Arc<dyn Rebuild>)>,
    /// Only what lies below this path.
    pub below: Option<Vec<u8>>,
    /// The targets may hold something already.
    pub into_existing: bool,
    /// When everything was supposedly lost: what the archived log got later does not count as brought back. Nothing in a restore for good.
    pub lost_at: Option<DateTime<Utc>>,
    /// How packs are brought back that lie in an archive; without it a restore that needs such ones is refused.
    pub retrieval: Option<Retrieval>,
    /// Told of progress and problems.
    pub observer: SharedObserver,
    /// The time.
    pub clock: SharedClock,
    /// Writers at once.
    pub parallelism: usize,
}

/// One step of a plan.
#[derive(Debug, Clone, Serialize)]
pub struct RestoreStep {
    /// Name of the source.
    pub source: String,
    /// Its kind.
    pub kind: String,
    /// Where it goes.
    pub target: String,
    /// What was found there.
    pub found: String,
    /// Entries in the snapshot.
    pub entries: u64,
    /// Plain bytes in the snapshot.
    pub bytes: u64,
    /// What must be brought back from an archive before; absent if there is nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_archive: Option<InArchive>,
}

impl RestoreRequest<'_> {
    /// Looks at every target before anything is written to the first.
    ///
    /// # Errors
    /// [`OperationError::Target`] for a target that is not fit; [`OperationError::Repository`] for a source that is not in the point.
    pub async fn plan(&self) -> Result<Vec<RestoreStep>, OperationError> {
        for (name, _) in &self.targets {
            self.check_below(self.point.snapshot(name)?).await?;
        }
        self.look_at_targets().await
    }

    /// The same with what lies in an archive; `lists` is what [`lists_in_archive`] found. Asks for nothing.
    ///
    /// # Errors
    /// Those of [`Self::plan`].
    ///
    /// [`lists_in_archive`]: super::lists_in_archive
    pub async fn plan_with_archive(&self, lists: Option<&InArchive>) -> Result<Vec<RestoreStep>, OperationError> {
        // Where the lists cannot be read, nobody can tell what is in the point.
        let mut steps = if lists.is_some() { self.look_at_targets().await? } else { self.plan().await? };
        for step in &mut steps {
            step.in_archive = match lists {
                Some(found) => Some(found.clone()),
                None => self.in_archive(&step.source).await?,
            };
        }
        Ok(steps)
    }

    async fn look_at_targets(&self) -> Result<Vec<RestoreStep>, OperationError> {
        let mut steps = Vec::new();
        for (name, target) in &self.targets {
            let snapshot = self.point.snapshot(name)?;
            let found = target
                .inspect(&snapshot.facts, self.into_existing)
                .await
                .map_err(|error| OperationError::rebuilding(name, error))?;
            steps.push(RestoreStep {
                source: name.clone(),
                kind: snapshot.kind.clone(),
                target: target.describe(),
                found,
                entries: snapshot.entry_count,
                bytes: snapshot.content_bytes,
                in_archive: None,
            });
        }
        Ok(steps)
    }

    /// Fails if a path was given and nothing lies below it: a restore of nothing must not look like one that went well.
    async fn check_below(&self, snapshot: &Snapshot) -> Result<(), OperationError> {
        let Some(below) = &self.below else { return Ok(()) };
        let mut entries = self.reader.entries(snapshot);
        while let Some(entry) = entries.try_next().await.map_err(|error| error.at_entry(&snapshot.source, None))? {
            if lies_below(&entry.path, below) {
                return Ok(());
            }
        }
        Err(OperationError::Repository(RepositoryError::NoSuchPoint {
            wanted: format!("path {}", String::from_utf8_lossy(below)),
            detail: format!(
                "source {} of point {} has nothing there; `farshore ls` lists what it has (paths have no slash at their beginning)",
                snapshot.source, self.point.id
            ),
        }))
    }
}

/// Executes a restore: checks all targets, then rebuilds one after the other. Phases before it (`select point`, `obtain keys`)
/// are in `phases` already.
///
/// # Errors
/// [`OperationError::Target`] and the repository's; what was begun is left as its kind promises (nothing looks whole).
pub async fn restore(request: &RestoreRequest<'_>, mut phases: Phases) -> Result<RestoreReport, OperationError> {
    let (started_at, start) = (request.clock.now(), request.clock.monotonic());
    phases.time("check target", request.plan()).await?;
    let began = request.clock.monotonic();
    if request.retrieve().await? {
        phases.add("retrieval", request.clock.monotonic().saturating_sub(began));
    }
    let mut sources = Vec::new();
    rebuild_all(request, &mut phases, &mut sources).await?;
    Ok(RestoreReport {
        policy: request.point.policy.clone(),
        site: request.repository.store().describe(),
        point_id: request.point.id.clone(),
        consistent_at: request.point.consistent_at,
        started_at,
        seconds: request.clock.monotonic().saturating_sub(start).as_secs_f64(),
        encryption: request.point.encryption.clone(),
        sources,
        phases: phases.finish(),
        problems: Vec::new(),
    })
}

/// Rebuilds one source after the other; what is done is in `sources` and `phases` even if a later one fails.
pub(super) async fn rebuild_all(
    request: &RestoreRequest<'_>,
    phases: &mut Phases,
    sources: &mut Vec<RestoredSource>,
) -> Result<(), OperationError> {
    for (name, target) in &request.targets {
        let snapshot = request.point.snapshot(name)?.clone();
        let tally = Tally::over(Arc::clone(&request.observer));
        tally.phase(&format!("restore {name}"), Some(snapshot.content_bytes));
        let began = request.clock.monotonic();
        let inlet = Arc::new(Inlet::new(request.reader.clone(), snapshot.clone(), request.below.clone()));
        let context = RebuildContext {
            origin: inlet.clone(),
            facts: &snapshot.facts,
            observer: tally.clone(),
            clock: Arc::clone(&request.clock),
            parallelism: at_once(&snapshot.kind, request.parallelism),
            into_existing: request.into_existing,
            partial: request.below.is_some(),
        };
        let rebuilt = match target.rebuild(context).await.map_err(|error| OperationError::rebuilding(name, error)) {
            Err(OperationError::Repository(error)) => return Err(inlet.at_entry(error).await.into()),
            done => done?,
        };
        let took = request.clock.monotonic().saturating_sub(began);
        phases.extend(&rebuilt.phases);
        let recovered_to = match rebuilt.replayed {
            Some(replayed) => recovered_to(request, &snapshot, replayed, &tally).await,
            None => None,
        };
        let named: f64 = rebuilt.phases.iter().map(|phase| phase.seconds).sum();
        // What the source did not give a name: its catalogue on the way in, its comparisons at the end.
        phases.add("verification", took.saturating_sub(std::time::Duration::try_from_secs_f64(named).unwrap_or_default()));
        sources.push(RestoredSource {
            name: name.clone(),
            kind: snapshot.kind.clone(),
            target: target.describe(),
            items: rebuilt.items,
            items_kept: rebuilt.items_kept,
            bytes: rebuilt.bytes,
            seconds: took.as_secs_f64(),
            recovered_to,
            rows: Vec::new(),
            checks: rebuilt.checks,
            problems: tally.problems(),
        });
    }
    Ok(())
}

/// The moment up to which nothing is missing of a source whose log was replayed: that of its last commit, or, where the replay found no
/// more, that of the end of the log, as its last file says. Where a loss is supposed, what the archive got after it does not count: then the end of
/// what it had by then.
async fn recovered_to(
    request: &RestoreRequest<'_>,
    snapshot: &Snapshot,
    replayed: Replayed,
    tally: &Tally,
) -> Option<DateTime<Utc>> {
    let unknown = |error: OperationError| {
        let detail = format!("its log was replayed, and until when that was complete beyond the last commit is not known: {error}");
        tally.problem(Problem::new(&snapshot.source, detail));
        None
    };
    let facts = PhysicalFacts::read(&snapshot.facts).ok();
    let ended_at = match (replayed.lsn.filter(|_| replayed.to_the_end), &facts) {
        (Some(lsn), Some(facts)) => log_ended_at(request.repository, facts, lsn).await.unwrap_or_else(unknown),
        _ => None,
    };
    let reached = replayed.last_commit.max(ended_at);
    let now = request.clock.now();
    match (request.lost_at, &facts) {
        // What lies ahead of now says that a clock is wrong, and stays for whoever judges that.
        (Some(lost_at), Some(facts)) if reached.is_some_and(|reached| reached > lost_at && reached <= now) => {
            let before = async {
                let moment = lost_at + (site_time(request.repository.store(), &request.clock).await? - request.clock.now());
                log_ended_before(request.repository, facts, moment).await
            };
            before.await.unwrap_or_else(unknown).map(|ended_at| ended_at.min(lost_at))
        }
        _ => reached,
    }
}
