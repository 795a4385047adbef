//! Backup: every source of a policy into one recovery point.
//!
//! Order: databases first — the time of their snapshots is T — and then buckets, listed after T, so that an application which
//! writes the object before the row has every object its rows name. Then files and commands. The point is stored last, when the
//! site has confirmed everything else.
//!
//! If we stop here, anywhere: no point, and packs that the next run finds through their indexes.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::{
    OperationError, anomaly,
    exchange::{Outlet, adoptable},
    history,
};
use crate::{
    clock::SharedClock,
    policy::Policy,
    progress::{Anomaly, Observer, Problem, SharedObserver, Tally},
    report::{BackupReport, SourceReport},
    repository::{Agent, Budget, Point, PointName, Reader, Recipients, Repository, Snapshot, Workers, Writer},
    sources::{Capture, CaptureContext},
};

/// A source with its name in the policy.
#[derive(Debug, Clone)]
pub struct NamedSource {
    /// Its name.
    pub name: String,
    /// How it is captured.
    pub capture: Arc<dyn Capture>,
}

/// What a backup needs.
#[derive(Debug)]
pub struct BackupRequest<'a> {
    /// The policy.
    pub policy: &'a Policy,
    /// Its sources, open, in its order.
    pub sources: Vec<NamedSource>,
    /// Where it goes.
    pub repository: &'a Repository,
    /// Who can read it.
    pub recipients: &'a Recipients,
    /// Threads for CPU work.
    pub workers: Arc<Workers>,
    /// Told of progress and problems.
    pub observer: SharedObserver,
    /// The time.
    pub clock: SharedClock,
    /// Who we are.
    pub agent: Agent,
    /// Readers at once, per source.
    pub parallelism: usize,
    /// The longest a backup may take; `None` for no bound.
    pub time_limit: Option<Duration>,
}

/// What a backup would do.
#[derive(Debug, Clone, Serialize)]
pub struct BackupPlan {
    /// The policy's name.
    pub policy: String,
    /// The site.
    pub site: String,
    /// The point to build on, where there is one.
    pub builds_on: Option<PointName>,
    /// A line per source, in the order in which they are captured: name, kind, what.
    pub sources: Vec<(String, String, String)>,
}

/// Objects of a bucket that are read or written at once, at least: they wait for the network and not for a processor. Each may
/// be as long as the longest chunk, so that more would not fit beside the budget.
const OBJECTS_AT_ONCE: usize = 8;

/// How many readers or writers a source of this kind gets, where the policy's limits say `parallelism`.
pub(super) fn at_once(kind: &str, parallelism: usize) -> usize {
    if kind == "bucket" { parallelism.max(OBJECTS_AT_ONCE) } else { parallelism }
}

/// The order of capture: databases fix T, buckets come after T, the rest last.
fn rank(kind: &str) -> u8 {
    match kind {
        "postgres" => 0,
        "bucket" => 1,
        _ => 2,
    }
}

fn in_order(sources: &[NamedSource]) -> Vec<&NamedSource> {
    let mut ordered: Vec<_> = sources.iter().collect();
    ordered.sort_by_key(|source| rank(source.capture.kind()));
    ordered
}

/// Plans a backup; touches no source.
///
/// # Errors
/// Those of reading the repository.
pub async fn plan_backup(request: &BackupRequest<'_>) -> Result<BackupPlan, OperationError> {
    let builds_on = request.repository.point_names(Some(&request.policy.name)).await?.pop();
    let line = |source: &NamedSource| (source.name.clone(), source.capture.kind().to_owned(), source.capture.describe());
    Ok(BackupPlan {
        policy: request.policy.name.clone(),
        site: request.repository.store().describe(),
        builds_on,
        sources: in_order(&request.sources).into_iter().map(line).collect(),
    })
}

/// What is needed to capture one source after the other.
struct Run<'a> {
    request: &'a BackupRequest<'a>,
    writer: &'a Writer,
    reader: &'a Reader,
    earlier: Option<Point>,
    consistent_at: Option<DateTime<Utc>>,
}

/// Makes a recovery point.
///
/// # Errors
/// [`OperationError::Source`] for a source that cannot be captured, and those of the repository. No point exists then.
pub async fn backup(request: BackupRequest<'_>) -> Result<BackupReport, OperationError> {
    let limit = request.time_limit;
    let work = run(&request);
    match limit {
        None => work.await,
        Some(limit) => tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
            Err(OperationError::Refused {
                subject: request.policy.name.clone(),
                detail: format!(
                    "the backup took longer than {}; it was given up, and no point was made",
                    humantime::format_duration(limit)
                ),
            })
        }),
    }
}

async fn run(request: &BackupRequest<'_>) -> Result<BackupReport, OperationError> {
    let (started_at, start) = (request.clock.now(), request.clock.monotonic());
    let general = Tally::over(Arc::clone(&request.observer));
    general.phase("open repository", None);
    let budget = Budget::new(request.policy.limits.memory_bytes);
    let writer = Writer::begin(request.repository, request.recipients, Arc::clone(&request.workers), budget).await?;
    if writer.packs_missing() > 0 {
        general.problem(Problem::new(
            request.repository.store().describe(),
            format!("{} packs that indexes name are missing or cut short; what is still the same is stored anew. Run `farshore verify` to see which points are hurt", writer.packs_missing()),
        ));
    }
    for damaged in writer.indexes_damaged() {
        general.problem(Problem::new(damaged.key, format!("is left out, what only it names is stored anew: {}", damaged.detail)));
    }
    // A budget of its own: a reader ahead of the sources must never hold what the writer waits for.
    let reader =
        Reader::open(request.repository, Arc::clone(&request.workers), Budget::new(request.policy.limits.memory_bytes / 4)).await?;
    let earlier = newest_point(request, &general).await?;
    let mut run = Run { request, writer: &writer, reader: &reader, earlier, consistent_at: None };
    let mut captured: Vec<(Snapshot, SourceReport)> = Vec::new();
    for source in in_order(&request.sources) {
        captured.push(run.capture(source).await?);
    }
    captured.sort_by_key(|(snapshot, _)| request.sources.iter().position(|source| source.name == snapshot.source));
    let (snapshots, sources): (Vec<_>, Vec<_>) = captured.into_iter().unzip();
    general.phase("commit", None);
    writer.flush().await?;
    let mut point = Point {
        id: Repository::fresh_point_id(),
        policy: request.policy.name.clone(),
        region: request.policy.region.clone(),
        consistent_at: run.consistent_at.unwrap_or(started_at),
        started_at,
        finished_at: request.clock.now(),
        agent: request.agent.clone(),
        policy_text: request.policy.text.clone(),
        encryption: request.repository.file().encryption.clone(),
        anomalies: anomalies(request, &snapshots).await?,
        snapshots,
        more: std::collections::BTreeMap::new(),
    };
    for anomaly in &point.anomalies {
        let advice = "This point counts for no rule of retention, so that it pushes no good one out. If nobody meant that, find out what happened before the points before it are gone: `farshore pin` keeps them";
        general.problem(Problem::new(&anomaly.source, format!("ANOMALOUS: {}. {advice}", anomaly.message)));
    }
    // To the microsecond, as PostgreSQL tells it and JSON keeps it.
    point.consistent_at = DateTime::from_timestamp_micros(point.consistent_at.timestamp_micros()).unwrap_or(point.consistent_at);
    if writer.recipients_changed(request.repository).await? {
        general.problem(Problem::new(
            request.repository.store().describe(),
            "the recipients were changed while this backup ran: its data key is wrapped to those of before. Run `farshore key rotate POLICY --identity FILE` with a reader's identity",
        ));
    }
    let name = writer.commit(request.repository, &point).await?;
    let written = writer.summary();
    Ok(BackupReport {
        policy: request.policy.name.clone(),
        region: request.policy.region.clone(),
        site: request.repository.store().describe(),
        point_id: name.id,
        consistent_at: point.consistent_at,
        started_at,
        seconds: request.clock.monotonic().saturating_sub(start).as_secs_f64(),
        sources,
        bytes_stored: written.bytes_stored,
        packs_written: written.packs,
        chunks_new: written.chunks_new,
        chunks_known: written.chunks_known,
        encryption: encryption_words(request),
        anomalies: point.anomalies,
        problems: general.problems(),
    })
}

fn encryption_words(request: &BackupRequest<'_>) -> String {
    match request.recipients {
        Recipients::Nobody => "none".to_owned(),
        Recipients::Age { readers, .. } if readers.len() == 1 => "1 recipient".to_owned(),
        Recipients::Age { readers, .. } => format!("{} recipients", readers.len()),
    }
}

/// The point to build on. One that cannot be read costs time, not the backup; but it is said.
async fn newest_point(request: &BackupRequest<'_>, observer: &Tally) -> Result<Option<Point>, OperationError> {
    let Some(name) = request.repository.point_names(Some(&request.policy.name)).await?.pop() else { return Ok(None) };
    match request.repository.point(&name).await {
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
async fn anomalies(request: &BackupRequest<'_>, snapshots: &[Snapshot]) -> Result<Vec<Anomaly>, OperationError> {
    let recent = history::recent_shapes(request.repository, &request.policy.name, anomaly::RECENT).await?;
    let of = |snapshot: &Snapshot| {
        let before = recent.get(&(snapshot.source.clone(), snapshot.kind.clone())).map_or(&[][..], Vec::as_slice);
        anomaly::anomalies(&snapshot.source, &snapshot.kind, &snapshot.into(), before)
    };
    Ok(snapshots.iter().flat_map(of).collect())
}

impl Run<'_> {
    async fn capture(&mut self, source: &NamedSource) -> Result<(Snapshot, SourceReport), OperationError> {
        let (request, kind) = (self.request, source.capture.kind());
        let tally = Tally::over(Arc::clone(&request.observer));
        tally.phase(&format!("source {}", source.name), None);
        let start = request.clock.monotonic();
        let earlier = self
            .earlier
            .iter()
            .flat_map(|point| &point.snapshots)
            .find(|snapshot| snapshot.source == source.name && snapshot.kind == kind);
        let outlet = Outlet::new(self.writer);
        let (density, bytes_new_before) = (outlet.density(), self.writer.summary().bytes_new);
        let context = CaptureContext {
            sink: &outlet,
            earlier: earlier.map(|snapshot| adoptable(self.reader, self.writer, snapshot, tally.clone())),
            observer: tally.clone(),
            clock: Arc::clone(&request.clock),
            parallelism: at_once(kind, request.parallelism),
            consistent_at: self.consistent_at,
        };
        let captured = source.capture.capture(context).await.map_err(|error| OperationError::capturing(&source.name, error))?;
        let (entries, entry_count, content_bytes) = outlet.finish().await?;
        let bytes_new = self.writer.summary().bytes_new.saturating_sub(bytes_new_before);
        if let Some(at) = captured.consistent_at {
            // Of several databases the earliest: what was committed before it is in all of them.
            self.consistent_at = Some(self.consistent_at.map_or(at, |so_far| so_far.min(at)));
        }
        let snapshot = Snapshot {
            source: source.name.clone(),
            kind: kind.to_owned(),
            description: source.capture.describe(),
            consistent_at: captured.consistent_at,
            entries,
            entry_count,
            content_bytes,
            facts: captured.facts,
            problems: tally.problems(),
            measures: Some(anomaly::measured(bytes_new, &density)),
        };
        let report = SourceReport {
            name: source.name.clone(),
            kind: kind.to_owned(),
            items: entry_count,
            items_unchanged: figure(&snapshot.facts, &["unchanged_objects", "unchanged_files"]).unwrap_or(0),
            // Sources that pass over what has not changed say themselves how much they read.
            bytes_read: figure(&snapshot.facts, &["read_bytes"]).unwrap_or_else(|| tally.total_bytes()),
            seconds: request.clock.monotonic().saturating_sub(start).as_secs_f64(),
            summary: snapshot.description.clone(),
            problems: snapshot.problems.clone(),
        };
        Ok((snapshot, report))
    }
}

/// The first of these facts that is there and a number.
fn figure(facts: &serde_json::Value, names: &[&str]) -> Option<u64> {
    names.iter().find_map(|name| facts.get(name)?.as_u64())
}
