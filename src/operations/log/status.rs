//! How the archive of a log stands.

use std::collections::BTreeMap;

use super::{
    Spool,
    coverage::{PhysicalPoint, Segments, gaps, physical_points},
};
use crate::{
    clock::SharedClock,
    operations::OperationError,
    progress::Problem,
    report::{Amount, LogGap, LogPoint, LogServerReport, LogSiteReport, LogSystem, LogTimeline, SpoolReport},
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
    };
    match asked {
        Err(error) => report.unanswered = Some(error.clone()),
        Ok(found) => {
            report.system = Some(found.layout.system.to_string());
            report.timeline = Some(found.stand.timeline);
            report.end_lsn = Some(found.stand.end.to_string());
            report.is_lost = found.held == Held::Lost;
            report.receivers = found.receivers;
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
            rpo_seconds: newest_at.map(|at| (now - at).as_seconds_f64().max(0.0)),
            end_lsn: None,
            behind_bytes: None,
            timelines: Vec::new(),
            points: Vec::new(),
        };
        let server = request.server.filter(|server| server.layout.system == system);
        // Of a log that has just begun there may be parts alone, which do not say how long a segment is.
        let end = layout.or(server.map(|server| server.layout)).and_then(|layout| end(layout, &files));
        found.end_lsn = end.map(|end| end.to_string());
        found.behind_bytes = end.zip(server).map(|(end, server)| server.stand.end.0.saturating_sub(end.0));
        if let Some(layout) = layout {
            let there = Segments::of(layout, &files);
            found.timelines = there.timelines().filter_map(|(timeline, numbers)| described(layout, timeline, numbers)).collect();
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
    Ok(LogSiteReport { site: repository.store().describe(), site_time: now, systems, problems })
}

/// As far as the newest segment, or part of one, goes.
fn end(layout: Layout, files: &[StoredLog]) -> Option<Lsn> {
    let end = |file: &StoredLog| {
        let segment = layout.parse(file.name.segment()?)?;
        let bytes = match file.name.kind() {
            LogKind::Segment => layout.segment_bytes,
            LogKind::Part => file.name.range()?.end,
            _ => return None,
        };
        Some((segment.timeline, segment.number * layout.segment_bytes + bytes))
    };
    files.iter().filter_map(end).max().map(|(_, end)| Lsn(end))
}

fn described(layout: Layout, timeline: u32, numbers: &std::collections::BTreeSet<u64>) -> Option<LogTimeline> {
    let name = |number: u64| layout.name(Segment { number, timeline });
    let gap = |gap: std::ops::RangeInclusive<u64>| LogGap {
        from: name(*gap.start()),
        to: name(*gap.end()),
        segments: gap.end() - gap.start() + 1,
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
    let reach = there.reach(point.timeline, from);
    LogPoint {
        point: point.name.id.clone(),
        time: point.name.time,
        needs: layout.name(Segment { number: from, timeline: point.timeline }),
        reaches: reach.map(|(timeline, number)| layout.name(Segment { number, timeline })),
        is_cut_off: reach != there.newest() && there.has_after(point.timeline, reach.map_or(from, |(_, last)| last + 1)),
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
