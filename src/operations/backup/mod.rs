//! Backup: every source of a policy into one recovery point.
//!
//! Order: databases first — the time of their snapshots is T — and then buckets, listed after T, so that an application which
//! writes the object before the row has every object its rows name. Then files and commands. The point is stored last, when the
//! site has confirmed everything else.
//!
//! All sites of a policy are written from one read of the sources: `fan_out` is what a source writes into, `together` what it need
//! not read again, `site` one of the sites. One that fails is left behind, and the others get their point.
//!
//! If we stop here, anywhere: at each site the point or none, and packs that the next run finds through their indexes; of a run that took
//! long, also what it had read so far (`checkpoint`), which the next one (`earlier`) does not read again.

mod checkpoint;
mod earlier;
mod fan_out;
mod join;
mod shards;
mod site;
mod together;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use chrono::DateTime;
use futures_util::future::join_all;
use serde::Serialize;

pub use self::{
    checkpoint::CHECKPOINT_EVERY,
    join::commit_shards,
    shards::{ShardNumber, backup_shard},
};
use self::{
    checkpoint::{Checkpoints, Subject, is_worth_keeping},
    fan_out::FanOut,
    site::{Draft, Site},
};
use super::{OperationError, anomaly};
use crate::{
    clock::SharedClock,
    policy::Policy,
    progress::{Observer, SharedObserver, Tally},
    report::{BackupReport, SourceReport},
    repository::{Agent, PointName, Recipients, Repository, Snapshot, Workers},
    sources::{Capture, CaptureContext, ConsistencyTime, Shard},
};

/// A source with its name in the policy.
#[derive(Debug, Clone)]
pub struct NamedSource {
    /// Its name.
    pub name: String,
    /// How it is captured.
    pub capture: Arc<dyn Capture>,
}

/// A site that a backup goes to.
#[derive(Debug)]
pub struct Destination<'a> {
    /// Its name in the policy.
    pub name: String,
    /// Its repository.
    pub repository: &'a Repository,
    /// Who can read it.
    pub recipients: &'a Recipients,
}

/// What became of a backup.
#[derive(Debug, Default)]
pub struct Backed {
    /// One for each site that has the point, in the order of the destinations.
    pub reports: Vec<BackupReport>,
    /// Names of the destinations that have it not, each with the reason.
    pub failed: Vec<(String, OperationError)>,
}

/// What a backup needs.
#[derive(Debug)]
pub struct BackupRequest<'a> {
    /// The policy.
    pub policy: &'a Policy,
    /// Its sources, open, in its order.
    pub sources: Vec<NamedSource>,
    /// Where it goes: at least one.
    pub destinations: Vec<Destination<'a>>,
    /// Names of the sites that should get it, too, and could not even be opened.
    pub unreachable: Vec<String>,
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
    /// The longest a backup may take until the first site is asked to store the point; `None` for no bound.
    pub time_limit: Option<Duration>,
    /// How often what was read so far is stored, so that a run after this one need not read it again: [`CHECKPOINT_EVERY`].
    pub checkpoint_every: Duration,
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

/// Plans a backup to one of its destinations; touches no source.
///
/// # Errors
/// Those of reading the repository.
pub async fn plan_backup(request: &BackupRequest<'_>, to: &Destination<'_>) -> Result<BackupPlan, OperationError> {
    let builds_on = to.repository.point_names(Some(&request.policy.name)).await?.pop();
    let line = |source: &NamedSource| (source.name.clone(), source.capture.kind().to_owned(), source.capture.describe());
    Ok(BackupPlan {
        policy: request.policy.name.clone(),
        site: to.repository.store().describe(),
        builds_on,
        sources: in_order(&request.sources).into_iter().map(line).collect(),
    })
}

/// What is needed to capture one source after the other.
struct Run<'a> {
    request: &'a BackupRequest<'a>,
    sites: Vec<Site<'a>>,
    consistent_at: Option<ConsistencyTime>,
}

/// What a source gave, for each site; nothing for one that was left behind.
type Captured = Vec<Option<(Snapshot, SourceReport)>>;

/// Makes a recovery point, the same at every destination. One that fails, at whatever step, is left behind with its error, and the
/// others complete; what it lacks the next backup reads again.
///
/// # Errors
/// [`OperationError::Source`] for a source that cannot be captured; [`OperationError::Refused`] when the time is up before any site
/// is asked to store the point (what is asked for then is brought to its end). No point exists then. Errors of the sites are in [`Backed::failed`].
pub async fn backup(request: BackupRequest<'_>) -> Result<Backed, OperationError> {
    let storing = AtomicBool::new(false);
    in_time(&request, &storing, run(&request, &storing)).await
}

/// Does the work within the request's time limit. `storing` says that a point may be at a site from then on.
async fn in_time<T>(
    request: &BackupRequest<'_>,
    storing: &AtomicBool,
    work: impl Future<Output = Result<T, OperationError>>,
) -> Result<T, OperationError> {
    let Some(limit) = request.time_limit else { return work.await };
    let mut work = std::pin::pin!(work);
    if let Ok(done) = tokio::time::timeout(limit, work.as_mut()).await {
        return done;
    }
    if storing.load(Ordering::Relaxed) {
        // What is under way may be there, whether its answer comes or not: only the end of it can tell, or take it back.
        tracing::warn!("the time is up while the point is being stored; that is brought to its end");
        return work.await;
    }
    Err(OperationError::Refused {
        subject: request.policy.name.clone(),
        detail: format!(
            "the backup took longer than {}; it was given up, and no point was made",
            humantime::format_duration(limit)
        ),
    })
}

/// Notes in `storing` that from now on a point may be at a site.
async fn run(request: &BackupRequest<'_>, storing: &AtomicBool) -> Result<Backed, OperationError> {
    let (started_at, start) = (request.clock.now(), request.clock.monotonic());
    request.observer.phase("open repository", None);
    let (mut sites, mut failed) = (Vec::new(), Vec::new());
    let begun = join_all(request.destinations.iter().map(|destination| Site::begin(request, destination))).await;
    for (begun, destination) in begun.into_iter().zip(&request.destinations) {
        match begun {
            Ok(site) => {
                if let Some(part) = site.unfinished.first() {
                    let at = destination.repository.store().describe();
                    tracing::info!(since = %part.at, at, "an earlier run made no point: what it had read is not read again");
                }
                sites.push(site);
            }
            Err(error) => failed.push((destination.name.clone(), error)),
        }
    }
    let mut run = Run { request, sites, consistent_at: None };
    let mut captured: Vec<(&NamedSource, Captured)> = Vec::new();
    for source in in_order(&request.sources) {
        if !run.is_anywhere() {
            break;
        }
        match run.capture(source, None).await {
            Ok(snapshots) => captured.push((source, snapshots)),
            // Not the source's fault: there is nobody left to take what it gives.
            Err(_) if !run.is_anywhere() => break,
            Err(error) => return Err(error),
        }
    }
    captured.sort_by_key(|(source, _)| request.sources.iter().position(|other| other.name == source.name));
    request.observer.phase("commit", None);
    run.flush().await;
    let consistent_at = run.consistent_at.map_or(started_at, |time| time.at);
    let draft = Draft {
        policy: request.policy,
        id: Repository::fresh_point_id(),
        // To the microsecond, as PostgreSQL tells it and JSON keeps it.
        consistent_at: DateTime::from_timestamp_micros(consistent_at.timestamp_micros()).unwrap_or(consistent_at),
        started_at,
        finished_at: request.clock.now(),
        agent: request.agent.clone(),
    };
    for site in run.sites.iter().filter(|site| !site.is_living()) {
        failed.extend(site.failure.error().map(|error| (site.destination.name.clone(), error.into())));
    }
    let mut committed = Vec::new();
    // One after the other, so that the later ones know which of the earlier ones have failed.
    for (number, site) in run.sites.iter().enumerate().filter(|(_, site)| site.is_living()) {
        let (snapshots, sources): (Vec<_>, Vec<_>) =
            captured.iter_mut().filter_map(|(_, of_sites)| of_sites.get_mut(number)?.take()).unzip();
        match site.commit(&draft, snapshots, missing_at(request, &failed), storing).await {
            Ok((_, anomalies)) => committed.push((site, sources, anomalies)),
            Err(error) => failed.push((site.destination.name.clone(), error)),
        }
    }
    let missing_at = missing_at(request, &failed);
    let seconds = request.clock.monotonic().saturating_sub(start).as_secs_f64();
    let report =
        |(site, sources, anomalies): (&Site<'_>, _, _)| site.report(&draft, sources, anomalies, missing_at.clone(), seconds);
    Ok(Backed { reports: committed.into_iter().map(report).collect(), failed })
}

/// Who is known to lack the point.
fn missing_at(request: &BackupRequest<'_>, failed: &[(String, OperationError)]) -> Vec<String> {
    request.unreachable.iter().chain(failed.iter().map(|(name, _)| name)).cloned().collect()
}

pub(super) fn encryption_words(recipients: &Recipients) -> String {
    match recipients {
        Recipients::Nobody => "none".to_owned(),
        Recipients::Age { readers, .. } if readers.len() == 1 => "1 recipient".to_owned(),
        Recipients::Age { readers, .. } => format!("{} recipients", readers.len()),
    }
}

impl Run<'_> {
    /// Whether any site still takes part.
    fn is_anywhere(&self) -> bool {
        self.sites.iter().any(Site::is_living)
    }

    /// Waits until each site has confirmed everything.
    async fn flush(&self) {
        let living = self.sites.iter().filter(|site| site.is_living());
        let flushed = living.map(|site| async move {
            if let Err(error) = site.writer.flush().await {
                site.failure.set(error);
            }
        });
        join_all(flushed).await;
    }

    /// Captures a source, or only a part of its entries.
    async fn capture(&mut self, source: &NamedSource, shard: Option<Shard>) -> Result<Captured, OperationError> {
        let (request, kind) = (self.request, source.capture.kind());
        let tally = Tally::over(Arc::clone(&request.observer));
        tally.phase(&format!("source {}", source.name), None);
        let start = request.clock.monotonic();
        let new_bytes = |site: &Site<'_>| site.writer.summary().bytes_new;
        let new_before: Vec<u64> = self.sites.iter().map(new_bytes).collect();
        let subject = Subject {
            policy: request.policy.name.clone(),
            source: source.name.clone(),
            kind: kind.to_owned(),
            description: source.capture.describe(),
        };
        let outlet = FanOut::new(&self.sites, Checkpoints::of(subject, request.checkpoint_every, &request.clock, &self.sites));
        let density = outlet.density();
        let context = CaptureContext {
            sink: &outlet,
            earlier: together::adoptable(&self.sites, &source.name, kind, shard.as_ref()),
            earlier_facts: together::facts(&self.sites, &source.name, kind),
            observer: tally.clone(),
            clock: Arc::clone(&request.clock),
            parallelism: at_once(kind, request.parallelism),
            consistent_at: self.consistent_at,
            shard,
        };
        let captured = match source.capture.capture(context).await {
            Ok(captured) => captured,
            Err(error) => {
                outlet.abandon().await;
                return Err(OperationError::capturing(&source.name, error));
            }
        };
        let lists = outlet.finish().await;
        if let Some(at) = captured.consistent_at {
            // Of several databases the earliest: what was committed before it is in all of them.
            self.consistent_at = Some(self.consistent_at.map_or(at, |so_far| so_far.and_later(at)));
        }
        let seconds = request.clock.monotonic().saturating_sub(start).as_secs_f64();
        let mut of_sites = Vec::with_capacity(lists.len());
        for ((site, list), before) in self.sites.iter().zip(lists).zip(new_before) {
            let Some((entries, entry_count, content_bytes)) = list else {
                of_sites.push(None);
                continue;
            };
            let problems = tally.problems().into_iter().chain(site.take_source_problems()).collect();
            let snapshot = Snapshot {
                source: source.name.clone(),
                kind: kind.to_owned(),
                description: source.capture.describe(),
                consistent_at: captured.consistent_at.map(|time| time.at),
                entries,
                entry_count,
                content_bytes,
                facts: captured.facts.clone(),
                problems,
                measures: Some(anomaly::measured(new_bytes(site).saturating_sub(before), &density)),
            };
            let report = source_report(&snapshot, seconds, tally.total_bytes());
            if is_worth_keeping(&snapshot) {
                site.finish(snapshot.clone());
            }
            of_sites.push(Some((snapshot, report)));
        }
        Ok(of_sites)
    }
}

/// What a report says of a source. `bytes_read` counts where the source itself does not say how much it read.
fn source_report(snapshot: &Snapshot, seconds: f64, bytes_read: u64) -> SourceReport {
    SourceReport {
        name: snapshot.source.clone(),
        kind: snapshot.kind.clone(),
        items: snapshot.entry_count,
        items_unchanged: figure(&snapshot.facts, &["unchanged_objects", "unchanged_files"]).unwrap_or(0),
        // Sources that pass over what has not changed say themselves how much they read.
        bytes_read: figure(&snapshot.facts, &["read_bytes"]).unwrap_or(bytes_read),
        seconds,
        summary: snapshot.description.clone(),
        note: snapshot.facts.get("reading").and_then(|note| note.as_str()).unwrap_or_default().to_owned(),
        problems: snapshot.problems.clone(),
    }
}

/// The first of these facts that is there and a number.
fn figure(facts: &serde_json::Value, names: &[&str]) -> Option<u64> {
    names.iter().find_map(|name| facts.get(name)?.as_u64())
}
