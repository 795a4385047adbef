//! One recovery point made by several machines: each captures a shard, and one of them, or another one, commits.
//!
//! Whoever comes first makes the plan: it captures what cannot be shared (so that T is fixed before any bucket is listed), finds where to cut
//! the rest, and stores both. Each shard stores what it captured as a part; who commits joins the parts of one plan, looks for every
//! chunk that they name, and stores the point. Shards may run in any order, more than once, and die: a plan and the parts of it are written once
//! each, and a shard that is there whole is not captured again.
//!
//! If we stop here, anywhere: parts, which keep nothing from being deleted, and no point.

use std::{collections::HashSet, sync::atomic::AtomicBool, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::TryStreamExt;
use sha2::{Digest, Sha256};

use super::{BackupRequest, Destination, NamedSource, Run, Site, earlier::parts_since, in_order, in_time};
use crate::{
    operations::OperationError,
    progress::Problem,
    report::ShardReport,
    repository::{Claim, Part, Plan, PlanName, Planned, Repository, ShardMark, SharedSource, site_time},
    sources::{Shard, ShardPlanning},
};

/// A plan that the site has had longer than this is over: so a job of every day never joins that of the day before, and what its shards stored
/// is not doomed (the grace is 26 hours unless a policy shortens it).
const PLAN_LASTS: TimeDelta = TimeDelta::hours(20);

/// How long a machine that makes a plan may be silent before another makes one in its stead: as long as a database takes to dump.
const CLAIM_LASTS: TimeDelta = TimeDelta::hours(12);

/// How often a machine looks whether the plan is there that another one makes.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Which shard of how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShardNumber {
    /// From 0.
    pub number: u32,
    /// At least one.
    pub shards: u32,
}

pub(super) fn refused(subject: &str, detail: impl Into<String>) -> OperationError {
    OperationError::Refused { subject: subject.to_owned(), detail: detail.into() }
}

fn policy_sha256(request: &BackupRequest<'_>) -> String {
    hex::encode(Sha256::digest(request.policy.text.as_bytes()))
}

/// Captures one shard of a recovery point, to the one destination there is, and makes the plan if nobody has.
///
/// # Errors
/// As [`super::backup`].
pub async fn backup_shard(request: &BackupRequest<'_>, shard: ShardNumber) -> Result<ShardReport, OperationError> {
    in_time(request, &AtomicBool::new(false), capture_shard(request, shard)).await
}

async fn capture_shard(request: &BackupRequest<'_>, shard: ShardNumber) -> Result<ShardReport, OperationError> {
    let start = request.clock.monotonic();
    request.observer.phase("open repository", None);
    let site = begin(request).await?;
    let base = site.earlier.as_ref().map(crate::repository::Point::object_key);
    let mut run = Run { request, sites: vec![site], consistent_at: None };
    let plan = plan(&mut run, shard, base.as_deref()).await?;
    let report = |run: &Run<'_>, sources, was_there| {
        let written = run.sites.first().map(|site| site.writer.summary()).unwrap_or_default();
        let seconds = request.clock.monotonic().saturating_sub(start).as_secs_f64();
        ShardReport {
            policy: request.policy.name.clone(),
            site: run.sites.first().map(|site| site.destination.repository.store().describe()).unwrap_or_default(),
            plan: plan.id.clone(),
            shard: shard.number,
            shards: shard.shards,
            consistent_at: plan.consistent_at,
            was_there,
            sources,
            bytes_stored: written.bytes_stored,
            packs_written: written.packs,
            seconds,
        }
    };
    {
        let Some(site) = run.sites.first_mut() else { return Err(refused(&request.policy.name, "a defect: there is no site")) };
        site.run = plan.run_of(shard.number);
        site.shard = Some(ShardMark { plan: plan.id.clone(), shard: shard.number, whole: false });
        // Of plans that are over, what the shard of this number had read: about the same range, if they were as many.
        let (own, repository) = (plan.run_of(shard.number), site.destination.repository);
        let same = |run: &str| run != own && Plan::is_run_of(run, shard.number);
        site.unfinished = parts_since(repository, &plan.policy, site.earlier.as_ref(), same).await?;
        if let Some(part) = newest_part(repository, &plan, shard.number, &mut NotWhole::Wanted).await? {
            if plan.is_done_by(&part, shard.number) && is_there(site, &part).await? {
                return Ok(report(&run, Vec::new(), true));
            }
            site.unfinished.insert(0, part);
        }
        // What this machine captured for the plan is the plan's.
        site.forget_finished();
    }
    let (mut snapshots, mut sources) = (Vec::new(), Vec::new());
    for shared in &plan.shared {
        let source = named(request, shared)?;
        let mut captured = run.capture(source, Some(part_of(shared, shard.number)?)).await?;
        if let Some((snapshot, report)) = captured.first_mut().and_then(Option::take) {
            snapshots.push(snapshot);
            sources.push(report);
        }
    }
    let site = living(&run)?;
    site.writer.settle().await?;
    let whole = Part {
        policy: request.policy.name.clone(),
        run: site.run.clone(),
        at: site.next_part_at(request.clock.now()),
        snapshots,
        shard: Some(ShardMark { plan: plan.id.clone(), shard: shard.number, whole: true }),
    };
    site.destination.repository.put_part(&whole).await?;
    Ok(report(&run, sources, false))
}

/// The one site that shards go to.
pub(super) fn destination<'a>(request: &'a BackupRequest<'a>) -> Result<&'a Destination<'a>, OperationError> {
    let [destination] = request.destinations.as_slice() else {
        return Err(refused(
            &request.policy.name,
            "shards go to one site: name it with --site, and copy the point to the others with `farshore copy`",
        ));
    };
    Ok(destination)
}

pub(super) async fn begin<'a>(request: &'a BackupRequest<'a>) -> Result<Site<'a>, OperationError> {
    Site::begin(request, destination(request)?).await
}

/// The one site, or why it was left behind.
fn living<'r, 'a>(run: &'r Run<'a>) -> Result<&'r Site<'a>, OperationError> {
    let site = run.sites.first().ok_or_else(|| refused(&run.request.policy.name, "a defect: there is no site"))?;
    match site.failure.error() {
        Some(error) => Err(error.into()),
        None => Ok(site),
    }
}

fn named<'a>(request: &'a BackupRequest<'_>, shared: &SharedSource) -> Result<&'a NamedSource, OperationError> {
    let is_it = |source: &&NamedSource| source.name == shared.source && source.capture.kind() == shared.kind;
    request.sources.iter().find(is_it).ok_or_else(|| {
        refused(&shared.source, "is in the plan of the shards and not in the policy: all machines must have the same policy")
    })
}

/// The part of a source's entries that a shard captures. With fewer cuts than that, the last shards have nothing: their range is empty.
fn part_of(shared: &SharedSource, number: u32) -> Result<Shard, OperationError> {
    let cut = |index: usize| {
        let decoded = shared.cuts.get(index).map(hex::decode).transpose();
        decoded.map_err(|error| refused(&shared.source, format!("the plan of the shards has a cut that is no path: {error}")))
    };
    let (number, cuts) = (number as usize, shared.cuts.len());
    let context = shared.context.clone();
    if number > cuts {
        // After the end and up to it: nothing.
        let last = vec![0xf4, 0x8f, 0xbf, 0xbf];
        return Ok(Shard { after: Some(last.clone()), until: Some(last), context });
    }
    Ok(Shard { after: if number == 0 { None } else { cut(number - 1)? }, until: cut(number)?, context })
}

/// The plan that all shards have in common: the one that is there, or a new one.
async fn plan(run: &mut Run<'_>, shard: ShardNumber, base: Option<&str>) -> Result<Plan, OperationError> {
    let request = run.request;
    let repository = living(run)?.destination.repository;
    let base_id = base.and_then(|base| base.rsplit('-').next());
    let mut is_said = false;
    loop {
        let planned = repository.planned(&request.policy.name, base_id, shard.shards).await?;
        let now = site_time(repository.store(), &request.clock).await?;
        let name = match usable(&planned, request, now) {
            Usable::Plan(plan) => return Ok(plan),
            Usable::Name(name) => name,
            Usable::Over => planned.after.clone(),
            Usable::Wait(claim) if claim.shard != shard.number => {
                if !is_said {
                    request.observer.phase(&format!("wait for shard {} on {} to make the plan", claim.shard, claim.host), None);
                    is_said = true;
                }
                tokio::time::sleep(LOOK_EVERY).await;
                continue;
            }
            // This shard began to make it, and was started again.
            Usable::Wait(_) => planned.name.clone(),
        };
        let takes_long = request.sources.iter().any(|source| source.capture.kind() != "bucket");
        let claim = Claim { shard: shard.number, host: request.agent.host.clone() };
        let is_ours = planned.claim.as_ref().is_some_and(|(there, _)| planned.name == name && there.shard == claim.shard);
        if takes_long && !is_ours && !repository.put_claim(&name, &claim).await? {
            continue;
        }
        let plan = make(run, shard.shards, base).await?;
        if repository.put_plan(&name, &plan).await? {
            return Ok(plan);
        }
    }
}

/// What the newest plan is good for.
pub(super) enum Usable {
    Plan(Plan),
    /// There is none under this name yet.
    Name(PlanName),
    /// It is too old, or of another policy.
    Over,
    /// Somebody makes it.
    Wait(Claim),
}

pub(super) fn usable(planned: &Planned, request: &BackupRequest<'_>, now: DateTime<Utc>) -> Usable {
    match (&planned.plan, &planned.claim) {
        // From when the work began: a database that takes hours to dump is as old as T when the plan is stored.
        (Some((plan, at)), _) if now - plan.started_at.min(*at) < PLAN_LASTS && plan.policy_sha256 == policy_sha256(request) => {
            Usable::Plan(plan.clone())
        }
        (Some(_), _) => Usable::Over,
        (None, Some((claim, at))) if now - *at < CLAIM_LASTS => Usable::Wait(claim.clone()),
        (None, Some(_)) => Usable::Over,
        (None, None) => Usable::Name(planned.name.clone()),
    }
}

/// Makes a plan: captures what is not shared, and asks the others where to cut.
async fn make(run: &mut Run<'_>, shards: u32, base: Option<&str>) -> Result<Plan, OperationError> {
    let request = run.request;
    let started_at = request.clock.now();
    request.observer.phase("plan the shards", None);
    let (mut shared, mut snapshots) = (Vec::new(), Vec::new());
    for source in in_order(&request.sources) {
        let kind = source.capture.kind();
        let site = living(run)?;
        let earlier_cuts = match site.earlier_snapshot(&source.name, kind) {
            Some(snapshot) => match site.reader.cuts(snapshot, shards).await {
                Err(error) if error.is_damage() => {
                    let said = format!("the list of the newest point cannot be read, so it is cut anew: {error}");
                    request.observer.problem(Problem::new(&source.name, said));
                    Vec::new()
                }
                cuts => cuts?,
            },
            None => Vec::new(),
        };
        let planning = ShardPlanning { shards, earlier_cuts, consistent_at: run.consistent_at, clock: &request.clock };
        let planned = source.capture.plan_shards(planning).await.map_err(|error| OperationError::capturing(&source.name, error))?;
        if let Some(plan) = planned {
            let cuts = plan.cuts.iter().map(hex::encode).collect();
            shared.push(SharedSource { source: source.name.clone(), kind: kind.to_owned(), cuts, context: plan.context });
            continue;
        }
        let captured = run.capture(source, None).await?;
        snapshots.extend(captured.into_iter().flatten().map(|(snapshot, _)| snapshot));
    }
    let site = living(run)?;
    site.writer.settle().await?;
    let consistent_at = run.consistent_at.map_or(started_at, |time| time.at);
    Ok(Plan {
        id: Repository::fresh_point_id(),
        policy: request.policy.name.clone(),
        policy_sha256: policy_sha256(request),
        base: base.map(str::to_owned),
        shards,
        started_at,
        consistent_at: DateTime::from_timestamp_micros(consistent_at.timestamp_micros()).unwrap_or(consistent_at),
        shared,
        snapshots,
    })
}

/// Parts of a shard that are not all of it.
pub(super) enum NotWhole {
    /// Are wanted, too.
    Wanted,
    /// Are passed over; these keys are known to be such, or not to be read.
    Passed(HashSet<String>),
}

/// The newest part of a shard that can be read, rather one that is whole.
pub(super) async fn newest_part(
    repository: &Repository,
    plan: &Plan,
    shard: u32,
    not_whole: &mut NotWhole,
) -> Result<Option<Part>, OperationError> {
    let mut names = repository.parts_of_run(&plan.policy, &plan.run_of(shard)).await?;
    names.sort_by_key(|name| std::cmp::Reverse((name.stored_at, name.named_at)));
    let mut newest = None;
    for name in names {
        if matches!(not_whole, NotWhole::Passed(known) if known.contains(&name.key)) {
            continue;
        }
        match repository.part(&name).await {
            Ok(part) if plan.is_done_by(&part, shard) => return Ok(Some(part)),
            Ok(part) => newest = newest.or(Some(part)),
            Err(error) if error.is_damage() => tracing::warn!(%error, key = name.key, "a part of a shard cannot be read"),
            Err(error) => return Err(error.into()),
        }
        if let NotWhole::Passed(known) = not_whole {
            known.insert(name.key);
        }
    }
    Ok(newest.filter(|_| matches!(not_whole, NotWhole::Wanted)))
}

/// Whether everything that a part names can be adopted still. A prune may have taken it for waste, or the site may have lost it.
async fn is_there(site: &Site<'_>, part: &Part) -> Result<bool, OperationError> {
    for snapshot in &part.snapshots {
        let mut records = site.reader.entries(snapshot);
        loop {
            let record = match records.try_next().await {
                Ok(Some(record)) => record,
                Ok(None) => break,
                Err(error) if error.is_damage() => return Ok(false),
                Err(error) => return Err(error.into()),
            };
            let Some(list) = &record.content else { continue };
            match site.writer.has(&site.reader, list).await {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                Err(error) if error.is_damage() => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(true)
}
