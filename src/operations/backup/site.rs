//! One of the sites that a backup goes to, from the first look at it to the commit.
//!
//! A site that fails is left behind: its error is kept, nothing more is sent to it, and the others go on.

use std::sync::{Arc, Mutex, OnceLock, atomic::AtomicBool};

use chrono::{DateTime, TimeDelta, Utc};

use super::{BackupRequest, Destination, earlier::parts_since, encryption_words};
use crate::{
    operations::{OperationError, anomaly, history},
    policy::Policy,
    progress::{Anomaly, Observer, Problem, SharedObserver, Tally},
    report::{BackupReport, SourceReport},
    repository::{Budget, Part, Point, PointName, Reader, Repository, RepositoryError, ShardMark, Snapshot, Writer},
};

/// Why a site was left behind, once it was.
#[derive(Debug, Default)]
pub(super) struct Failure(OnceLock<Arc<RepositoryError>>);

impl Failure {
    /// Leaves the site behind; the first reason counts.
    pub(super) fn set(&self, error: RepositoryError) {
        tracing::warn!(%error, "a site fails; the backup goes on without it");
        let _ = self.0.set(Arc::new(error));
    }

    /// Whether it was left behind.
    pub(super) fn is_set(&self) -> bool {
        self.0.get().is_some()
    }

    /// The reason, for one more who must know it.
    pub(super) fn error(&self) -> Option<RepositoryError> {
        self.0.get().map(|error| RepositoryError::Earlier(Arc::clone(error)))
    }
}

/// What all points of a run have in common.
pub(super) struct Draft<'a> {
    pub(super) policy: &'a Policy,
    pub(super) id: String,
    pub(super) consistent_at: DateTime<Utc>,
    pub(super) started_at: DateTime<Utc>,
    pub(super) finished_at: DateTime<Utc>,
    pub(super) agent: crate::repository::Agent,
}

/// A site that takes part in a run.
pub(super) struct Site<'a> {
    pub(super) destination: &'a Destination<'a>,
    pub(super) writer: Writer,
    pub(super) reader: Reader,
    /// The point to build on.
    pub(super) earlier: Option<Point>,
    /// What runs after it had read that made no point, newest first.
    pub(super) unfinished: Vec<Part>,
    /// Names this run among them.
    pub(super) run: String,
    /// The shard that it captures, where it captures but one.
    pub(super) shard: Option<ShardMark>,
    pub(super) failure: Arc<Failure>,
    observer: SharedObserver,
    general: Arc<Tally>,
    /// Problems that this site alone has with the source at hand.
    of_source: Mutex<Vec<Problem>>,
    /// Sources that are captured, and worth keeping for a run after this one.
    finished: Mutex<Vec<Snapshot>>,
    /// The time in the name of the last part.
    part_named: Mutex<Option<DateTime<Utc>>>,
}

impl<'a> Site<'a> {
    /// Opens the way in, and finds the point to build on.
    pub(super) async fn begin(request: &BackupRequest<'_>, destination: &'a Destination<'a>) -> Result<Self, OperationError> {
        let (repository, sites) = (destination.repository, request.destinations.len());
        let memory = request.policy.limits.memory_bytes;
        let general = Tally::over(Arc::clone(&request.observer));
        let budget = Budget::one_of(memory, sites);
        let writer = Writer::begin(repository, destination.recipients, Arc::clone(&request.workers), budget);
        // Both at once: far sites answer late. Whichever looks first, what the point names is adopted only as far as the writer sees it. And both
        // to their end: one that fails must not have the other stop in the midst of storing a key.
        let (writer, earlier) = tokio::join!(writer, newest_point(repository, &request.policy.name, &general));
        let (writer, earlier) = (writer?, earlier?);
        if writer.packs_missing() > 0 {
            general.problem(Problem::new(
                repository.store().describe(),
                format!("{} packs that indexes name are missing or cut short; what is still the same is stored anew. Run `farshore verify` to see which points are hurt", writer.packs_missing()),
            ));
        }
        for damaged in writer.indexes_damaged() {
            general
                .problem(Problem::new(damaged.key, format!("is left out, what only it names is stored anew: {}", damaged.detail)));
        }
        // A budget of its own: a reader ahead of the sources must never hold what the writer waits for.
        let reader = writer.reader(repository, Budget::one_of(memory / 4, sites));
        let unfinished = parts_since(repository, &request.policy.name, earlier.as_ref(), |_| true).await?;
        Ok(Self {
            destination,
            writer,
            reader,
            earlier,
            unfinished,
            run: Repository::fresh_point_id(),
            shard: None,
            failure: Arc::default(),
            observer: Arc::clone(&request.observer),
            general,
            of_source: Mutex::default(),
            finished: Mutex::default(),
            part_named: Mutex::default(),
        })
    }

    /// Whether it still takes part.
    pub(super) fn is_living(&self) -> bool {
        !self.failure.is_set()
    }

    /// The snapshot of a source in the point to build on.
    pub(super) fn earlier_snapshot(&self, source: &str, kind: &str) -> Option<&Snapshot> {
        self.earlier.iter().flat_map(|point| &point.snapshots).find(|snapshot| snapshot.source == source && snapshot.kind == kind)
    }

    /// Something is wrong here with the source at hand.
    pub(super) fn problem_with_source(&self, problem: Problem) {
        self.observer.problem(problem.clone());
        self.of_source.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(problem);
    }

    /// What was wrong here with the source that has just been captured.
    pub(super) fn take_source_problems(&self) -> Vec<Problem> {
        std::mem::take(&mut *self.of_source.lock().unwrap_or_else(|poisoned| poisoned.into_inner()))
    }

    /// Sources of this run that are captured, as far as a run after it could use them.
    pub(super) fn finished(&self) -> Vec<Snapshot> {
        self.finished.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    /// Remembers one of them.
    pub(super) fn finish(&self, snapshot: Snapshot) {
        self.finished.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(snapshot);
    }

    /// When the next part is said to be written: names have whole seconds, and tell which of two parts is the later one.
    pub(super) fn next_part_at(&self, now: DateTime<Utc>) -> DateTime<Utc> {
        let mut last = self.part_named.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let at = last.map_or(now, |last| now.max(last + TimeDelta::seconds(1)));
        *last = Some(at);
        at
    }

    /// Forgets those that were remembered: they are stored elsewhere.
    pub(super) fn forget_finished(&self) {
        self.finished.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clear();
    }

    /// Commits the point here; returns its name and what is unusual about it. Sets `storing` when the site is asked to store it.
    pub(super) async fn commit(
        &self,
        draft: &Draft<'_>,
        snapshots: Vec<Snapshot>,
        missing_at: Vec<String>,
        storing: &AtomicBool,
    ) -> Result<(PointName, Vec<Anomaly>), OperationError> {
        let repository = self.destination.repository;
        let point = Point {
            id: draft.id.clone(),
            policy: draft.policy.name.clone(),
            region: draft.policy.region.clone(),
            consistent_at: draft.consistent_at,
            started_at: draft.started_at,
            finished_at: draft.finished_at,
            agent: draft.agent.clone(),
            policy_text: draft.policy.text.clone(),
            encryption: repository.file().encryption.clone(),
            anomalies: anomalies(repository, &draft.policy.name, &snapshots).await?,
            snapshots,
            missing_at,
            more: std::collections::BTreeMap::new(),
        };
        for anomaly in &point.anomalies {
            let advice = "This point counts for no rule of retention, so that it pushes no good one out. If nobody meant that, find out what happened before the points before it are gone: `farshore pin` keeps them";
            self.general.problem(Problem::new(&anomaly.source, format!("ANOMALOUS: {}. {advice}", anomaly.message)));
        }
        if self.writer.recipients_changed(repository).await? {
            self.general.problem(Problem::new(
                repository.store().describe(),
                "the recipients were changed while this backup ran: its data key is wrapped to those of before. Run `farshore key rotate POLICY --identity FILE` with a reader's identity",
            ));
        }
        let name = self.writer.commit(repository, &point, storing).await?;
        Ok((name, point.anomalies))
    }

    /// What happened here.
    pub(super) fn report(
        &self,
        draft: &Draft<'_>,
        sources: Vec<SourceReport>,
        anomalies: Vec<Anomaly>,
        missing_at: Vec<String>,
        seconds: f64,
    ) -> BackupReport {
        let written = self.writer.summary();
        BackupReport {
            policy: draft.policy.name.clone(),
            region: draft.policy.region.clone(),
            site: self.destination.repository.store().describe(),
            point_id: draft.id.clone(),
            consistent_at: draft.consistent_at,
            started_at: draft.started_at,
            seconds,
            sources,
            bytes_stored: written.bytes_stored,
            packs_written: written.packs,
            chunks_new: written.chunks_new,
            chunks_known: written.chunks_known,
            encryption: encryption_words(self.destination.recipients),
            anomalies,
            missing_at,
            problems: self.general.problems(),
        }
    }
}

/// The point to build on. One that cannot be read costs time, not the backup; but it is said.
pub(super) async fn newest_point(repository: &Repository, policy: &str, observer: &Tally) -> Result<Option<Point>, OperationError> {
    let Some(name) = repository.point_names(Some(policy)).await?.pop() else { return Ok(None) };
    match repository.point(&name).await {
        Ok(point) => Ok(Some(point)),
        Err(error) if error.is_damage() => {
            observer.problem(Problem::new(
                format!("point {}", name.id),
                format!("cannot be built on, everything is read again: {error}"),
            ));
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// In what these snapshots are far from those of the recent points of the policy.
async fn anomalies(repository: &Repository, policy: &str, snapshots: &[Snapshot]) -> Result<Vec<Anomaly>, OperationError> {
    let recent = history::recent_shapes(repository, policy, anomaly::RECENT).await?;
    let of = |snapshot: &Snapshot| {
        let before = recent.get(&(snapshot.source.clone(), snapshot.kind.clone())).map_or(&[][..], Vec::as_slice);
        anomaly::anomalies(&snapshot.source, &snapshot.kind, &snapshot.into(), before)
    };
    Ok(snapshots.iter().flat_map(of).collect())
}
