//! How the archive of a log stands.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use chrono::{DateTime, Utc};

use super::{
    Spool,
    coverage::{Line, PhysicalPoint, Segments, gaps, physical_points},
};
use crate::{
    clock::SharedClock,
    operations::OperationError,
    progress::Problem,
    report::{Amount, LogGap, LogPoint, LogServerReport, LogSiteReport, LogSystem, LogTimeline, SpoolReport, seconds},
    repository::{LogKind, Repository, StoredLog, site_time},
    sources::postgres::physical::{Held, Layout, Lsn, Receiving, Segment},
};

/// A spool in which a file has waited for so long is stuck, said or not. Seconds.
const STUCK_AFTER_SECONDS: f64 = 600.0;

/// What it takes to say how the archive at a site stands.
#[derive(Debug)]
pub struct LogStatusRequest<'a> {
    /// The repository.
    pub repository: &'a Repository,
    /// Points of this policy; without one, of all.
    pub policy: Option<&'a str>,
    /// The server, as it answered just before.
    pub server: Option<Receiving>,
    /// What may be lost at most.
    pub objective: Option<Duration>,
    /// The time.
    pub clock: SharedClock,
}

/// What a server says of its log and of who receives it, for a report; `asked` is its answer, or why there is none.
pub fn log_server(server: String, slot: String, asked: &Result<Receiving, String>) -> LogServerReport {
    let mut report = LogServerReport {
        server,
        unanswered: None,
        system: None,
        timeline: None,
        end_lsn: None,
        slot,
        holds_from_lsn: None,
        is_lost: false,
        receivers: 0,
        unarchived: None,
    };
    match asked {
        Err(error) => report.unanswered = Some(error.clone()),
        Ok(found) => {
            report.system = Some(found.layout.system.to_string());
            report.timeline = Some(found.stand.timeline);
            report.end_lsn = Some(found.stand.end.to_string());
            report.is_lost = found.held == Held::Lost;
            report.receivers = found.receivers;
            report.unarchived.clone_from(&found.unarchived);
            if let Held::From(from) = found.held {
                report.holds_from_lsn = Some(from.to_string());
            }
        }
    }
    report
}

/// How the archive at a site stands.
///
/// # Errors
/// Those of the site; [`OperationError::Refused`] where the clocks differ.
pub async fn log_status(request: LogStatusRequest<'_>) -> Result<LogSiteReport, OperationError> {
    let repository = request.repository;
    let now = site_time(repository.store(), &request.clock).await?;
    let files = repository.log_files(None).await?;
    let (points, mut problems) = physical_points(repository, request.policy).await?;
    let mut by_system: BTreeMap<u64, Vec<StoredLog>> = BTreeMap::new();
    for file in files {
        by_system.entry(file.name.system()).or_default().push(file);
    }
    let judged = judged(&points, request.server.as_ref().map(|server| server.layout.system));
    let objective = request.objective.map(|objective| objective.as_secs_f64());
    let mut systems = Vec::new();
    for (system, files) in by_system {
        let own: Vec<&PhysicalPoint> = points.iter().filter(|point| point.layout.system == system).collect();
        let segments: Vec<&StoredLog> = files.iter().filter(|file| file.name.kind() == LogKind::Segment).collect();
        let layout = match segments.first() {
            // A segment has the bytes of a segment.
            Some(first) => match repository.log_head(&first.name).await {
                Ok(head) => head.map(|head| Layout { segment_bytes: head.size, system }),
                Err(error) if error.is_damage() => {
                    problems.push(Problem::new(first.name.to_string(), error.to_string()));
                    own.first().map(|point| point.layout)
                }
                Err(error) => return Err(error.into()),
            },
            None => None,
        };
        let layout = layout.filter(|layout| layout.segment_bytes.is_power_of_two() && layout.segment_bytes >= 1 << 20);
        let is_part = |file: &&StoredLog| file.name.kind() == LogKind::Part;
        let newest_at = segments.iter().copied().chain(files.iter().filter(is_part)).map(|file| file.stored_at).max();
        let (mut stored, mut parts) = (Amount::default(), Amount::default());
        files.iter().for_each(|file| stored.add(file.bytes));
        files.iter().filter(is_part).for_each(|file| parts.add(file.bytes));
        let mut found = LogSystem {
            system: system.to_string(),
            segment_bytes: layout.map(|layout| layout.segment_bytes),
            stored,
            parts,
            newest_at,
            rpo_seconds: None,
            rpo_objective_seconds: objective.filter(|_| judged.as_ref().is_none_or(|judged| judged.contains(&system))),
            end_lsn: None,
            behind_bytes: None,
            timelines: Vec::new(),
            points: Vec::new(),
        };
        let server = request.server.as_ref().filter(|server| server.layout.system == system);
        // Of a log that has just begun there may be parts alone, which do not say how long a segment is.
        let end = layout.or(server.map(|server| server.layout)).and_then(|layout| end(layout, &files));
        let ended_at = match end {
            Some((file, _)) => ended_at(repository, file, &mut problems).await?,
            None => newest_at,
        };
        found.end_lsn = end.map(|(_, end)| end.to_string());
        // Places of two timelines say nothing of each other.
        let on_one_timeline = server.zip(end).filter(|(server, (file, _))| server.stand.timeline == file.name.timeline());
        found.behind_bytes = on_one_timeline.map(|(server, (_, end))| server.stand.end.0.saturating_sub(end.0));
        found.rpo_seconds = match (found.behind_bytes, server) {
            // A standby may itself be behind.
            (Some(0), Some(server)) if !server.stand.is_standby => Some(0.0),
            _ => ended_at.into_iter().chain(own.iter().map(|point| point.name.time)).max().map(|until| age(until, now)),
        };
        if let (Some(rpo), Some(objective)) = (found.rpo_seconds, found.rpo_objective_seconds)
            && rpo > objective
        {
            problems.push(beyond(system, rpo, objective, found.behind_bytes));
        }
        if let Some(layout) = layout {
            let there = Segments::of(layout, &files, now);
            found.timelines = there.timelines().filter_map(|(timeline, _)| described(layout, timeline, &there)).collect();
            found.points = own.iter().map(|point| reached(layout, &there, point)).collect();
        }
        problems.extend(found.points.iter().filter(|point| point.is_cut_off).map(|point| {
            Problem::new(
                format!("point {}", point.point),
                format!(
                    "the log has a gap after {}, so that replay from this point does not reach what is archived later; a new backup begins anew behind the gap",
                    point.reaches.as_ref().unwrap_or(&point.needs)
                ),
            )
        }));
        systems.push(found);
    }
    // Of a log that has gone for good, or never came, nothing is listed.
    if let Some(objective) = objective {
        let there: BTreeSet<String> = systems.iter().map(|system| system.system.clone()).collect();
        let nothing = judged.is_none() && systems.is_empty();
        for system in judged.into_iter().flatten().filter(|system| !there.contains(&system.to_string())) {
            let newest = points.iter().filter(|point| point.layout.system == system).map(|point| point.name.time).max();
            match newest.map(|at| age(at, now)) {
                Some(rpo) if rpo > objective => problems.push(beyond(system, rpo, objective, None)),
                Some(_) => {}
                None => problems.push(unprotected(format!("cluster {system}"), objective)),
            }
        }
        if nothing {
            problems.push(unprotected(repository.store().describe(), objective));
        }
    }
    Ok(LogSiteReport { site: repository.store().describe(), site_time: now, systems, problems })
}

fn age(at: DateTime<Utc>, now: DateTime<Utc>) -> f64 {
    (now - at).as_seconds_f64().max(0.0)
}

/// The clusters to which an objective applies: those of the newest point, and the one that runs; all where neither is known. One that was
/// replaced ends somewhere, and has points for a while.
fn judged(points: &[PhysicalPoint], server: Option<u64>) -> Option<BTreeSet<u64>> {
    let newest = points.iter().map(|point| point.name.time).max();
    let of_newest = points.iter().filter(|point| Some(point.name.time) == newest).map(|point| point.layout.system);
    let judged: BTreeSet<u64> = of_newest.chain(server).collect();
    (!judged.is_empty()).then_some(judged)
}

fn beyond(system: u64, rpo: f64, objective: f64, behind_bytes: Option<u64>) -> Problem {
    let asked = if behind_bytes.is_none() { " (the server could not be asked whether it is idle)" } else { "" };
    Problem::new(
        format!("cluster {system}"),
        format!(
            "RPO: {} would be lost with the server now, and the objective is {}{asked}: see whether it archives (SELECT * FROM pg_stat_archiver), or whether `farshore wal receive` runs, and whether the spool is stuck",
            seconds(rpo),
            seconds(objective)
        ),
    )
}

/// Nothing of a cluster is there that could be restored.
fn unprotected(subject: String, objective: f64) -> Problem {
    Problem::new(
        subject,
        format!(
            "RPO: all would be lost with the server now, since neither a recovery point nor anything of its log is here, and the objective is {}: make a backup, and see whether the server archives (SELECT * FROM pg_stat_archiver), or whether `farshore wal receive` runs",
            seconds(objective)
        ),
    )
}

/// Until when the log is there up to the end of a file: as the file says, or, where it does not, when it was stored.
async fn ended_at(
    repository: &Repository,
    file: &StoredLog,
    problems: &mut Vec<Problem>,
) -> Result<Option<DateTime<Utc>>, OperationError> {
    match repository.log_head(&file.name).await {
        Ok(head) => {
            // Whoever stored it cannot have known what came later.
            let said = head.and_then(|head| head.ended_at).map(|said| said.min(file.stored_at));
            Ok(Some(said.unwrap_or(file.stored_at)))
        }
        Err(error) if error.is_damage() => {
            problems.push(Problem::new(file.name.to_string(), error.to_string()));
            Ok(Some(file.stored_at))
        }
        Err(error) => Err(error.into()),
    }
}

/// The newest segment, or part of one, and as far as it goes.
fn end(layout: Layout, files: &[StoredLog]) -> Option<(&StoredLog, Lsn)> {
    let end = |file: &StoredLog| {
        let segment = layout.parse(file.name.segment()?)?;
        let bytes = match file.name.kind() {
            LogKind::Segment => layout.segment_bytes,
            LogKind::Part => file.name.range()?.end,
            _ => return None,
        };
        Some((segment.timeline, segment.number * layout.segment_bytes + bytes))
    };
    let newest = files.iter().filter_map(|file| Some((end(file)?, file))).max_by_key(|(end, _)| *end);
    newest.map(|((_, end), file)| (file, Lsn(end)))
}

fn described(layout: Layout, timeline: u32, there: &Segments) -> Option<LogTimeline> {
    let numbers = there.timelines().find_map(|(other, numbers)| (other == timeline).then_some(numbers))?;
    let name = |number: u64| layout.name(Segment { number, timeline });
    let gap = |gap: std::ops::RangeInclusive<u64>| LogGap {
        from: name(*gap.start()),
        to: name(*gap.end()),
        segments: gap.end() - gap.start() + 1,
        is_awaited: there.is_awaited(timeline, gap.end() + 1),
    };
    Some(LogTimeline {
        timeline,
        first: name(*numbers.first()?),
        last: name(*numbers.last()?),
        segments: numbers.len() as u64,
        gaps: gaps(numbers).into_iter().map(gap).collect(),
    })
}

/// How far the log takes a point.
fn reached(layout: Layout, there: &Segments, point: &PhysicalPoint) -> LogPoint {
    let from = point.needs_from();
    // Histories are sealed from whoever looks at an archive.
    let beyond = there.beyond(Line::Guessed(point.timeline), from);
    LogPoint {
        point: point.name.id.clone(),
        time: point.name.time,
        needs: layout.name(Segment { number: from, timeline: point.timeline }),
        reaches: beyond.last.map(|(timeline, number)| layout.name(Segment { number, timeline })),
        is_cut_off: beyond.is_cut_off,
    }
}

impl Spool {
    /// What waits; nothing where there is no spool.
    ///
    /// # Errors
    /// [`OperationError::Io`].
    pub fn report(&self, clock: &SharedClock) -> Result<Option<SpoolReport>, OperationError> {
        if !self.directory().exists() {
            return Ok(None);
        }
        let waiting = self.waiting()?;
        let now = clock.now();
        let oldest = waiting.iter().map(|waiting| waiting.since).min();
        let oldest_seconds = oldest.map(|oldest| (now - oldest).as_seconds_f64().max(0.0));
        let errors = self.state().errors();
        Ok(Some(SpoolReport {
            directory: self.directory().display().to_string(),
            files: waiting.len() as u64,
            bytes: waiting.iter().map(|waiting| waiting.bytes).sum(),
            limit_bytes: self.limit_bytes(),
            oldest_seconds,
            is_emptied: self.is_held()?,
            is_stuck: !waiting.is_empty()
                && (!errors.is_empty() || oldest_seconds.is_some_and(|oldest| oldest > STUCK_AFTER_SECONDS)),
            errors,
        }))
    }
}
