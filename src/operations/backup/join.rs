//! The shards of a plan, joined into one recovery point.

use std::{
    collections::{BTreeMap, HashSet},
    sync::atomic::AtomicBool,
    time::Duration,
};

use futures_util::TryStreamExt;

use super::{
    Backed, BackupRequest, Draft, Site, in_time,
    shards::{LOOK_EVERY, NotWhole, Usable, begin, destination, newest_part, refused, usable},
    site::newest_point,
    source_report,
};
use crate::{
    operations::OperationError,
    progress::Tally,
    report::SourceReport,
    repository::{Part, Repository, Snapshot, site_time},
    sources::bucket::merged_facts,
};

/// Looks are no further apart.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Joins the shards of the plan into a recovery point. Waits so long, at most, until all of them are there.
///
/// # Errors
/// [`OperationError::Refused`] if there is no plan, or one of its shards is missing, or what one of them stored is not there any more; as
/// [`super::backup`].
pub async fn commit_shards(request: &BackupRequest<'_>, shards: u32, wait: Duration) -> Result<Backed, OperationError> {
    let start = request.clock.monotonic();
    let mut is_said = false;
    let (mut not_whole, mut pause) = (NotWhole::Passed(HashSet::new()), LOOK_EVERY);
    loop {
        let storing = AtomicBool::new(false);
        let not_ready = match in_time(request, &storing, commit(request, shards, &storing, &mut not_whole)).await? {
            Ok(backed) => return Ok(backed),
            Err(error) => error,
        };
        if request.clock.monotonic().saturating_sub(start) >= wait {
            return Err(not_ready);
        }
        if !is_said {
            request.observer.phase("wait for the shards", None);
            is_said = true;
        }
        tokio::time::sleep(pause.min(wait)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// The inner error is one that time may mend.
async fn commit(
    request: &BackupRequest<'_>,
    shards: u32,
    storing: &AtomicBool,
    not_whole: &mut NotWhole,
) -> Result<Result<Backed, OperationError>, OperationError> {
    let start = request.clock.monotonic();
    request.observer.phase("open repository", None);
    // Before the way in is opened, which stores a data key: whoever waits looks here again and again.
    let (policy, repository) = (&request.policy.name, destination(request)?.repository);
    let base = newest_point(repository, policy, &Tally::alone()).await?.map(|point| point.id);
    let base_id = base.as_deref();
    let planned = repository.planned(policy, base_id, shards).await?;
    let now = site_time(repository.store(), &request.clock).await?;
    let plan = match usable(&planned, request, now) {
        Usable::Plan(plan) => plan,
        Usable::Name(_) => {
            let on = base_id.map_or("nothing".to_owned(), |id| format!("point {id}"));
            return Ok(Err(refused(
                policy,
                format!(
                    "there is no plan of {shards} shards that builds on {on}: run the shards (`farshore backup {policy} --shard I/{shards}`) first. If they ran, another backup has made a point since"
                ),
            )));
        }
        Usable::Over => {
            return Ok(Err(refused(
                policy,
                "the plan of the shards is more than 20 hours old, or was made with another policy: run all shards again",
            )));
        }
        Usable::Wait(claim) => {
            return Ok(Err(refused(policy, format!("shard {} on {} is still making the plan", claim.shard, claim.host))));
        }
    };
    let mut parts = Vec::new();
    let mut missing = Vec::new();
    for shard in 0..shards {
        match newest_part(repository, &plan, shard, not_whole).await? {
            Some(part) => parts.push(part),
            None => missing.push(shard.to_string()),
        }
    }
    if !missing.is_empty() {
        return Ok(Err(refused(
            policy,
            format!("of {shards} shards of plan {} these are not done: {}; no point was made", plan.id, missing.join(", ")),
        )));
    }
    let site = begin(request).await?;
    if site.earlier.as_ref().map(|point| &point.id) != base.as_ref() {
        return Ok(Err(refused(policy, "another backup has made a point at this moment: run all shards again")));
    }
    request.observer.phase("join the shards", None);
    let mut joined: BTreeMap<&str, (Snapshot, SourceReport)> = BTreeMap::new();
    for snapshot in &plan.snapshots {
        joined.insert(&snapshot.source, join(&site, &[snapshot], None).await?);
    }
    for shared in &plan.shared {
        let of_it = |part: &'_ Part| part.snapshots.iter().find(|snapshot| snapshot.source == shared.source).cloned();
        let lists: Vec<Snapshot> = parts.iter().filter_map(of_it).collect();
        if lists.len() != parts.len() {
            return Err(refused(policy, format!("a shard of plan {} lacks the source {}", plan.id, shared.source)));
        }
        joined.insert(&shared.source, join(&site, &lists.iter().collect::<Vec<_>>(), Some(&shared.context)).await?);
    }
    let (mut snapshots, mut sources) = (Vec::new(), Vec::new());
    for source in &request.policy.sources {
        let (snapshot, report) = joined
            .remove(source.name.as_str())
            .ok_or_else(|| refused(&source.name, "is in the policy and not in the plan of the shards"))?;
        snapshots.push(snapshot);
        sources.push(report);
    }
    request.observer.phase("commit", None);
    site.writer.settle().await?;
    let draft = Draft {
        policy: request.policy,
        id: Repository::fresh_point_id(),
        consistent_at: plan.consistent_at,
        started_at: plan.started_at,
        finished_at: request.clock.now(),
        agent: request.agent.clone(),
    };
    let (_, anomalies) = site.commit(&draft, snapshots, Vec::new(), storing).await?;
    let seconds = request.clock.monotonic().saturating_sub(start).as_secs_f64();
    Ok(Ok(Backed { reports: vec![site.report(&draft, sources, anomalies, Vec::new(), seconds)], failed: Vec::new() }))
}

/// The entries of consecutive parts of a source as one snapshot, every chunk of theirs looked for.
///
/// With the plan's `context` for a source that is shared, none for one that is not.
async fn join(
    site: &Site<'_>,
    parts: &[&Snapshot],
    context: Option<&serde_json::Value>,
) -> Result<(Snapshot, SourceReport), OperationError> {
    let [first, ..] = parts else { return Err(refused("shards", "a defect: there is nothing to join")) };
    let entries = site.writer.entries();
    for part in parts {
        let mut records = site.reader.entries(part);
        while let Some(record) = records.try_next().await? {
            if let Some(list) = &record.content
                && !site.writer.has(&site.reader, list).await?
            {
                return Err(refused(
                    &part.source,
                    format!(
                        "{} was stored by a shard, and its bytes are not there any more, or are doomed: a prune took more than a day's work for waste, or the site lost it. Run all shards again",
                        String::from_utf8_lossy(&record.path)
                    ),
                ));
            }
            entries.push(&record).await?;
        }
    }
    let (list, entry_count, content_bytes) = entries.finish().await?;
    let facts: Vec<_> = parts.iter().map(|part| part.facts.clone()).collect();
    let facts = context.map_or_else(|| first.facts.clone(), |context| merged_facts(&facts, context));
    let problems: Vec<_> = parts.iter().flat_map(|part| part.problems.clone()).collect();
    let measures = parts.iter().filter_map(|part| part.measures).reduce(|sum, one| sum.and(one));
    let snapshot = Snapshot { entries: list, entry_count, content_bytes, facts, problems, measures, ..(*first).clone() };
    let report = source_report(&snapshot, 0.0, 0);
    Ok((snapshot, report))
}
