//! Prune: what no point needs any more is doomed, and deleted when its grace is over and it still is not needed.
//!
//! Order: the site's time → doom records → points, pins, evidence → points that have matured are deleted → what the rest needs →
//! packs and keys that have matured are deleted → what is needed of mostly empty packs is moved → everything else that is not
//! needed is doomed → doom records that are done with are deleted → parts of runs that are older than the grace are deleted → the log before all points is deleted ([`super::prune_log`]). If we stop here, anywhere, the next prune goes on; the rules that
//! keep running backups safe stand in `repository::trash`.
//!
//! Where it cannot be told what a point needs, no pack is doomed and none deleted, unless the point was given up ([`give_up`]).

mod give_up;
mod judge;
mod look;
mod parts;
mod unchanged;
mod undelete;

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

use chrono::{DateTime, TimeDelta, Utc};
pub use give_up::{GiveUpRequest, GivenUp, give_up};
use judge::Judgement;
use look::Look;
use parts::prune_parts;
pub use undelete::{UndeleteRequest, undelete};

use super::{LogPruneRequest, OperationError, prune_log};
use crate::{
    clock::{Moment, SharedClock},
    policy::{Decision, Policy, Retention, RetentionPlan},
    progress::{Observer, Problem, SharedObserver, Tally},
    report::{Amount, PointVerdict, PruneReport},
    repository::{
        Budget, DoomRecord, Dooms, PackRecord, Reader, Removal, Removed, Repacked, Repository, Workers, pack_key, site_time,
    },
};

/// What a prune needs.
#[derive(Debug)]
pub struct PruneRequest<'a> {
    /// The policy whose points are looked at.
    pub policy: &'a Policy,
    /// Its retention, as it holds at this site.
    pub retention: &'a Retention,
    /// The repository; other policies may share it.
    pub repository: &'a Repository,
    /// Threads for CPU work.
    pub workers: Arc<Workers>,
    /// Memory for reading.
    pub budget: Budget,
    /// Write and delete nothing.
    pub dry_run: bool,
    /// Told of progress and problems.
    pub observer: SharedObserver,
    /// The time.
    pub clock: SharedClock,
}

/// A record names at most so many objects.
const NAMES_PER_RECORD: usize = 100_000;

/// Prunes, or says what it would do.
///
/// # Errors
/// Those of the site; [`OperationError::Refused`] where the clocks differ.
pub async fn prune(request: PruneRequest<'_>) -> Result<PruneReport, OperationError> {
    let clock = request.clock.clone();
    let log = LogPruneRequest { repository: request.repository, dry_run: request.dry_run, clock };
    let (repository, policy, dry_run) = (request.repository, request.policy.name.clone(), request.dry_run);
    let grace = TimeDelta::from_std(request.retention.grace).unwrap_or(TimeDelta::MAX);
    let mut report = prune_points(request).await?;
    let hindered;
    (report.parts_deleted, hindered) = prune_parts(repository, &policy, (report.site_time, grace), dry_run).await?;
    report.problems.extend(hindered);
    // After the points: what only those needed that have just gone can go as well.
    let pruned = prune_log(log).await?;
    if pruned.files.objects > 0 {
        report.problems.extend(pruned.problems.iter().cloned());
        report.log = Some(pruned);
    }
    Ok(report)
}

/// Prunes everything but the log.
async fn prune_points(request: PruneRequest<'_>) -> Result<PruneReport, OperationError> {
    let (repository, start) = (request.repository, request.clock.monotonic());
    let looked = Moment::now(&request.clock);
    let tally = Tally::over(Arc::clone(&request.observer));
    tally.phase("look", None);
    let now = site_time(repository.store(), &request.clock).await?;
    if let Some(plan) = unchanged::plan(&request, now).await? {
        let mut report = empty_report(&request, now);
        report.unchanged = true;
        report.points = verdicts(&plan, &Dooms::default(), &BTreeSet::new());
        report.seconds = request.clock.monotonic().saturating_sub(start).as_secs_f64();
        return Ok(report);
    }
    let listing = unchanged::listing(repository).await?;
    let mut look = Look::begin(&request, now, &tally).await?;
    let mut report = empty_report(&request, now);
    let mut removed = Removed::default();
    let condemned = look.condemned();
    let deleted = if request.dry_run || condemned.is_empty() {
        condemned
    } else {
        let reader = Reader::open(repository, Arc::clone(&request.workers), request.budget.clone()).await?;
        let removal = Removal::new(repository, Arc::clone(reader.cache()), looked);
        let outcome = removal.objects(condemned.iter().cloned().collect()).await?;
        let locked: HashSet<&String> = outcome.locked.iter().collect();
        let deleted = condemned.iter().filter(|point| !locked.contains(point)).cloned().collect();
        removed.add(outcome);
        deleted
    };
    report.points_deleted = deleted.len() as u64;
    look.gone(&deleted);
    let reader = Reader::open(repository, Arc::clone(&request.workers), request.budget.clone()).await?;
    look.follow(&request, &reader, &tally).await?;
    let judgement = Judgement::of(&request, &look, reader.cache()).await?;
    judgement.tell(&mut report, &look);
    if !request.dry_run {
        execute(&request, (&look, looked), &judgement, &reader, &tally, &mut report, &mut removed).await?;
    }
    report.points = verdicts(&look.plan, &look.dooms, &deleted);
    report.points_doomed = look.points_to_doom().count() as u64;
    report.locked += removed.locked.len() as u64;
    report.locked_until = [report.locked_until, removed.locked_until].into_iter().flatten().min();
    if report.points_doomed + report.packs_doomed.objects + report.packs_emptied.objects + report.keys_doomed > 0 {
        report.next_at = [report.next_at, now.checked_add_signed(look.grace)].into_iter().flatten().min();
    }
    report.problems = tally.problems();
    if !request.dry_run && judgement.is_idle() && look.records.is_empty() && removed.locked.is_empty() && report.problems.is_empty()
    {
        unchanged::keep(&request, &look, &listing).await;
    }
    report.seconds = request.clock.monotonic().saturating_sub(start).as_secs_f64();
    Ok(report)
}

fn empty_report(request: &PruneRequest<'_>, site_time: DateTime<Utc>) -> PruneReport {
    PruneReport {
        site: request.repository.store().describe(),
        policy: request.policy.name.clone(),
        dry_run: request.dry_run,
        site_time,
        seconds: 0.0,
        unchanged: false,
        points: Vec::new(),
        points_doomed: 0,
        points_deleted: 0,
        packs: Amount::default(),
        bytes_needed: 0,
        packs_doomed: Amount::default(),
        packs_waiting: Amount::default(),
        packs_spared: 0,
        packs_deleted: Amount::default(),
        packs_emptied: Amount::default(),
        packs_filled: Amount::default(),
        keys_doomed: 0,
        keys_deleted: 0,
        parts_deleted: 0,
        locked: 0,
        locked_until: None,
        next_at: None,
        log: None,
        problems: Vec::new(),
    }
}

fn verdicts(plan: &RetentionPlan, dooms: &Dooms, deleted: &BTreeSet<String>) -> Vec<PointVerdict> {
    let of = |decision: &Decision| {
        let object = Repository::point_object(&decision.policy, decision.time, &decision.id);
        PointVerdict {
            point: decision.id.clone(),
            stored: decision.stored,
            keep: decision.keep,
            why: decision.reasons.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
            doomed_until: dooms.point(&object).filter(|_| !deleted.contains(&object)),
            deleted: deleted.contains(&object),
        }
    };
    plan.decisions.iter().map(of).collect()
}

/// Deletes what has matured, moves what is needed of mostly empty packs, dooms the rest.
async fn execute(
    request: &PruneRequest<'_>,
    (look, looked): (&Look, Moment),
    judgement: &Judgement,
    reader: &Reader,
    tally: &Tally,
    report: &mut PruneReport,
    removed: &mut Removed,
) -> Result<(), OperationError> {
    let repository = request.repository;
    let removal = Removal::new(repository, Arc::clone(reader.cache()), looked);
    tally.phase("delete", None);
    let packs: HashSet<[u8; 32]> = judgement.delete.keys().copied().collect();
    let mut outcome = removal.packs(packs.clone()).await?;
    // What only looks lost may be on its way, in a listing that lags: its object is never touched, and its name stays for a grace.
    let before = look.now.checked_sub_signed(look.grace).unwrap_or(DateTime::<Utc>::MIN_UTC);
    outcome.add(removal.names(judgement.names_only.clone(), before).await?);
    let locked: HashSet<&String> = outcome.locked.iter().collect();
    let gone: HashSet<[u8; 32]> = packs.iter().filter(|pack| !locked.contains(&pack_key(pack))).copied().collect();
    for pack in &gone {
        if let Some(size) = judgement.delete.get(pack) {
            report.packs_deleted.add(*size);
        }
    }
    // A key stays as long as a pack under it does.
    let needed: HashSet<_> = judgement.keys_of_deleted(&packs, &gone);
    let keys: HashSet<_> = judgement.keys_to_delete.difference(&needed).copied().collect();
    if !keys.is_empty() {
        let wraps = removal.data_keys(&keys).await?;
        if wraps.locked.is_empty() {
            report.keys_deleted = keys.len() as u64;
        }
        outcome.add(wraps);
    }
    // Nobody can read them, and whatever they named is named by others.
    let needless = removal.objects(judgement.needless.clone()).await?;
    let unread: Vec<&String> = judgement.needless.iter().filter(|index| !needless.locked.contains(index)).collect();
    if !gone.is_empty() || !keys.is_empty() || !unread.is_empty() {
        outcome.add(removal.marks(&gone, &keys, &unread).await?);
    }
    outcome.add(needless);
    removed.add(outcome);
    tally.phase("repack", Some(judgement.repack.iter().map(|(_, record)| u64::from(record.size)).sum()));
    let repacked = match &look.reach {
        Some(reach) => removal.repack(judgement.repack.clone(), reach, &request.budget, |bytes| tally.bytes(bytes)).await?,
        None => Repacked::default(),
    };
    for damaged in &repacked.damaged {
        tally.problem(Problem::new(
            &damaged.key,
            format!("is left as it is, run `farshore verify --read-data` to see which points are hurt: {}", damaged.detail),
        ));
    }
    report.packs_emptied = Amount { objects: repacked.replaced.len() as u64, bytes: repacked.bytes_before };
    report.packs_filled = Amount { objects: repacked.packs, bytes: repacked.bytes_after };
    tally.phase("doom", None);
    let packs = judgement.doom.keys().chain(&repacked.replaced).map(hex::encode).collect();
    let keys = judgement.keys_to_doom.iter().map(hex::encode).collect();
    doom(request, look.points_to_doom().cloned().collect(), packs, keys).await?;
    let done: Vec<String> = look.done_with(request, judgement).collect();
    removal.objects(done).await?;
    let cache = Arc::clone(reader.cache());
    if let Err(error) = tokio::task::spawn_blocking(move || cache.persist()).await.unwrap_or(Ok(())) {
        tracing::warn!(%error, "the local index was not saved; the next run rebuilds it");
    }
    Ok(())
}

/// Stores the records that doom all this.
async fn doom(
    request: &PruneRequest<'_>,
    points: Vec<String>,
    packs: Vec<String>,
    keys: Vec<String>,
) -> Result<(), OperationError> {
    let mut rests = [points, packs, keys];
    while rests.iter().any(|rest| !rest.is_empty()) {
        let mut take = |kind: usize| -> Vec<String> {
            let rest = &mut rests[kind];
            rest.split_off(rest.len().saturating_sub(NAMES_PER_RECORD))
        };
        let (points, packs, keys) = (take(0), take(1), take(2));
        let record = DoomRecord {
            policy: request.policy.name.clone(),
            at: request.clock.now(),
            grace_seconds: request.retention.grace.as_secs(),
            points,
            packs,
            keys,
        };
        request.repository.put_doom(&record).await?;
    }
    Ok(())
}

/// Packs by number that are worth moving, with what is known of them.
type Numbered = Vec<(u32, PackRecord)>;
