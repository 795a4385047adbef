//! Copy: recovery points of one site to another, opened there and sealed anew here.
//!
//! A copy keeps the point's id, times and all that its backup said; the keys, chunk names and cuts are the target's, as if the backup
//! had gone there, so that later backups to the target find the same chunks. Each point is a run of its own, with its own data key
//! and commit: a copy that stops midway leaves whole points, or none.
//!
//! What both sites have in an earlier point of the same id is not read: see `snapshot`. The archived log of the points' clusters goes after
//! them, where it is asked for: see `operations::log`.

mod snapshot;

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::AtomicBool},
};

use serde::Serialize;

use super::{
    OperationError,
    backup::encryption_words,
    log::{LogCopyRequest, copy_log, plan_log},
};
use crate::{
    clock::SharedClock,
    progress::{Observer, Problem, SharedObserver, Tally},
    report::{CopiedLog, CopiedPoint, CopyReport},
    repository::{Budget, Point, PointName, Reader, Recipients, Repository, Workers, Writer},
};

/// What a copy needs.
#[derive(Debug)]
pub struct CopyRequest<'a> {
    /// Where the points are. Its identities must open the data.
    pub from: &'a Arc<Repository>,
    /// Where they go. The agent's identity is enough.
    pub to: &'a Arc<Repository>,
    /// What the target is called in the policy, if it is in it.
    pub to_name: Option<&'a str>,
    /// Who can read the copies.
    pub recipients: &'a Recipients,
    /// Which points, in any order.
    pub points: Vec<PointName>,
    /// The policy whose clusters' archived log is copied, too; without one no log is.
    pub log_of: Option<&'a str>,
    /// zstd level for the log.
    pub compression_level: i32,
    /// Threads for CPU work.
    pub workers: Arc<Workers>,
    /// Bytes of memory for the data under way.
    pub memory_bytes: u64,
    /// Contents that are copied at once.
    pub parallelism: usize,
    /// Told of progress and problems.
    pub observer: SharedObserver,
    /// The time.
    pub clock: SharedClock,
}

/// What a copy would do with a point.
#[derive(Debug, Clone, Serialize)]
pub struct CopyStep {
    /// The point.
    pub point: PointName,
    /// The target has it already.
    pub is_there: bool,
    /// The point that both sites have by then, and which it is held against.
    pub builds_on: Option<String>,
}

/// Plans a copy, oldest first; reads no data.
///
/// # Errors
/// Those of listing the points.
pub async fn plan_copy(request: &CopyRequest<'_>) -> Result<Vec<CopyStep>, OperationError> {
    let mut steps = Vec::new();
    for point in oldest_first(request) {
        let mut common = common_points(request, point).await?;
        let is_there = is_there(request, point).await?;
        // Those before it are there when its turn comes.
        let before =
            oldest_first(request).into_iter().take_while(|other| *other != point).filter(|other| other.policy == point.policy);
        common.extend(before.cloned());
        steps.push(CopyStep { point: point.clone(), is_there, builds_on: common.into_iter().max().map(|name| name.id) });
    }
    Ok(steps)
}

/// Plans the copy of the log: of each cluster what the target lacks; reads no data.
///
/// # Errors
/// Those of listing, and of reading the points.
pub async fn plan_copied_log(request: &CopyRequest<'_>) -> Result<(Vec<CopiedLog>, Vec<Problem>), OperationError> {
    match log_request(request) {
        Some(log) => plan_log(&log).await,
        None => Ok((Vec::new(), Vec::new())),
    }
}

fn log_request<'a>(request: &'a CopyRequest<'_>) -> Option<LogCopyRequest<'a>> {
    Some(LogCopyRequest {
        from: request.from,
        to: request.to,
        recipients: request.recipients,
        policy: request.log_of?,
        points: &request.points,
        compression_level: request.compression_level,
        memory_bytes: request.memory_bytes,
    })
}

/// Copies points, oldest first, and the log after them. A point that the target has is passed over; one that is damaged at the source is named in the
/// report, and the others are copied.
///
/// # Errors
/// The store's, and those of keys that do not open. The points before it are whole then.
pub async fn copy(request: &CopyRequest<'_>) -> Result<CopyReport, OperationError> {
    let (started_at, start) = (request.clock.now(), request.clock.monotonic());
    let tally = Tally::over(Arc::clone(&request.observer));
    let mut report = CopyReport {
        from: request.from.store().describe(),
        to: request.to.store().describe(),
        started_at,
        seconds: 0.0,
        encryption: encryption_words(request.recipients),
        points: Vec::new(),
        present: Vec::new(),
        log: Vec::new(),
        damaged: Vec::new(),
        problems: Vec::new(),
    };
    for name in oldest_first(request) {
        if is_there(request, name).await? {
            report.present.push(name.id.clone());
            continue;
        }
        tally.phase(&format!("copy point {}", name.id), None);
        match copy_unless_gone(request, name, &tally).await {
            Ok(Some(copied)) => report.points.push(copied),
            Ok(None) => tally.problem(Problem::new(
                format!("point {}", name.id),
                "was not copied: it was deleted at the source meanwhile, by retention or by hand; nothing is lost that retention keeps",
            )),
            Err(OperationError::Repository(error)) if error.is_damage() => {
                report.damaged.push(Problem::new(format!("point {}", name.id), format!("was not copied: {error}")));
            }
            Err(error) => return Err(error),
        }
    }
    if let Some(log) = log_request(request) {
        copy_log(&log, &tally, &mut report).await?;
    }
    report.problems = tally.problems();
    report.seconds = request.clock.monotonic().saturating_sub(start).as_secs_f64();
    Ok(report)
}

fn oldest_first<'a>(request: &'a CopyRequest<'_>) -> Vec<&'a PointName> {
    // A point that was named twice is one.
    request.points.iter().collect::<BTreeSet<_>>().into_iter().collect()
}

async fn is_there(request: &CopyRequest<'_>, name: &PointName) -> Result<bool, OperationError> {
    Ok(request.to.point_names(Some(&name.policy)).await?.iter().any(|there| there.id == name.id))
}

/// Points of the same policy that both sites have, not newer than this one; oldest first.
async fn common_points(request: &CopyRequest<'_>, name: &PointName) -> Result<Vec<PointName>, OperationError> {
    let there: BTreeSet<String> = request.to.point_names(Some(&name.policy)).await?.into_iter().map(|name| name.key).collect();
    let here = request.from.point_names(Some(&name.policy)).await?;
    Ok(here.into_iter().filter(|other| other.time <= name.time && there.contains(&other.key)).collect())
}

/// The newest common point that can be read at both sites, as it is at each.
async fn base(request: &CopyRequest<'_>, name: &PointName, tally: &Tally) -> Result<Option<(Point, Point)>, OperationError> {
    let marks = request.to.marks().await?;
    for common in common_points(request, name).await?.into_iter().rev().filter(|common| marks.damage(&common.key).is_none()) {
        match (request.from.point(&common).await, request.to.point(&common).await) {
            (Ok(here), Ok(there)) => return Ok(Some((here, there))),
            (Err(error), _) | (_, Err(error)) if error.is_damage() => {
                tally.problem(Problem::new(format!("point {}", common.id), format!("cannot be built on: {error}")));
            }
            (Err(error), _) | (_, Err(error)) => return Err(error.into()),
        }
    }
    Ok(None)
}

/// Copies a point; nothing if it is no longer there. What a prune takes away meanwhile is not damaged: without what it was built on the
/// copy is begun anew.
async fn copy_unless_gone(
    request: &CopyRequest<'_>,
    name: &PointName,
    tally: &Arc<Tally>,
) -> Result<Option<CopiedPoint>, OperationError> {
    loop {
        let base = base(request, name, tally).await?;
        let built_on = base.as_ref().map(|(here, _)| here.id.clone());
        let error = match copy_point(request, name, base, tally).await {
            Ok(copied) => return Ok(Some(copied)),
            Err(OperationError::Repository(error)) if error.is_damage() => error,
            Err(error) => return Err(error),
        };
        if request.from.point_names(Some(&name.policy)).await?.iter().all(|there| there.key != name.key) {
            return Ok(None);
        }
        let left = common_points(request, name).await?;
        match built_on {
            Some(id) if left.iter().all(|common| common.id != id) => {
                tracing::info!(point = name.id, base = id, "what the copy was built on was deleted meanwhile; it begins anew");
            }
            _ => return Err(error.into()),
        }
    }
}

async fn copy_point(
    request: &CopyRequest<'_>,
    name: &PointName,
    base: Option<(Point, Point)>,
    tally: &Arc<Tally>,
) -> Result<CopiedPoint, OperationError> {
    let start = request.clock.monotonic();
    let point = request.from.point(name).await?;
    let (memory, workers) = (request.memory_bytes, || Arc::clone(&request.workers));
    let writer = Writer::begin(request.to, request.recipients, workers(), Budget::one_of(memory, 2)).await?;
    // Budgets of their own: what is read ahead must never hold what the writer waits for.
    let here = Reader::open(request.from, workers(), Budget::new(memory / 4)).await?;
    let there = writer.reader(request.to, Budget::new(memory / 8));
    let mut copied = CopiedPoint { id: point.id.clone(), time: point.consistent_at, ..CopiedPoint::default() };
    let mut snapshots = Vec::with_capacity(point.snapshots.len());
    for snapshot in &point.snapshots {
        let same = |point: &Point| {
            point.snapshots.iter().find(|other| other.source == snapshot.source && other.kind == snapshot.kind).cloned()
        };
        let base = base.as_ref().and_then(|(here, there)| Some((same(here)?, same(there)?)));
        let work = snapshot::SnapshotCopy {
            snapshot,
            base,
            here: &here,
            there: &there,
            writer: &writer,
            tally,
            parallelism: super::backup::at_once(&snapshot.kind, request.parallelism),
        };
        let (done, figures) = work.run().await?;
        copied.items += done.entry_count;
        copied.bytes += done.content_bytes;
        copied.items_adopted += figures.adopted;
        copied.bytes_read += figures.bytes_read;
        snapshots.push(done);
    }
    writer.flush().await?;
    if writer.recipients_changed(request.to).await? {
        tally.problem(Problem::new(
            request.to.store().describe(),
            "the recipients were changed while this point was copied: its data key is wrapped to those of before. Run `farshore key rotate POLICY --identity FILE` with a reader's identity",
        ));
    }
    let missing_at = point.missing_at.iter().filter(|name| request.to_name != Some(name.as_str())).cloned().collect();
    let encryption = request.to.file().encryption.clone();
    writer.commit(request.to, &Point { encryption, snapshots, missing_at, ..point }, &AtomicBool::new(false)).await?;
    let written = writer.summary();
    copied.bytes_stored = written.bytes_stored;
    copied.packs_written = written.packs;
    copied.chunks_new = written.chunks_new;
    copied.chunks_known = written.chunks_known;
    copied.seconds = request.clock.monotonic().saturating_sub(start).as_secs_f64();
    Ok(copied)
}
