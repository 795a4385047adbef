//! Deleting what of the log no recovery point needs.
//!
//! Replay goes forward from where a point begins. So a segment that ends before the beginning of every point of its cluster, on whatever
//! timeline, is needed by none of them. Every point counts that is there, of whatever policy, doomed or not: it may be brought back.
//! A point that is made later may begin earlier, on a timeline that went back; but then its log is stored later than the points that are
//! there. So nothing goes that was stored after the first of them. Histories of timelines stay.
//!
//! Parts of a segment go as soon as it is there whole, whatever points there are.
//!
//! Order: the site's time → files → points → files are deleted → keys that no file needs. If we stop here, anywhere, the next prune goes
//! on. Where a point cannot be read, nothing is deleted.

use std::collections::{BTreeMap, BTreeSet};

use super::coverage::{PhysicalPoint, physical_points};
use crate::{
    clock::{Moment, SharedClock},
    operations::OperationError,
    progress::Problem,
    report::{Amount, LogPruneReport},
    repository::{LogKind, LogName, Repository, StoredLog, site_time},
    sources::postgres::physical::Layout,
};

/// So many keys must seem to be needless before the heads of all files are read for their sake: about once a month.
const KEYS_WORTH_A_LOOK: usize = 24;

/// What a prune of the log needs.
#[derive(Debug)]
pub struct LogPruneRequest<'a> {
    /// The repository; several policies may share it.
    pub repository: &'a Repository,
    /// Delete nothing.
    pub dry_run: bool,
    /// The time.
    pub clock: SharedClock,
}

/// Prunes the log, or says what it would do.
///
/// # Errors
/// Those of the site; [`OperationError::Refused`] where the clocks differ.
pub async fn prune_log(request: LogPruneRequest<'_>) -> Result<LogPruneReport, OperationError> {
    let LogPruneRequest { repository, dry_run, clock } = request;
    let (start, looked) = (clock.monotonic(), Moment::now(&clock));
    let now = site_time(repository.store(), &clock).await?;
    let mut report = LogPruneReport { site: repository.store().describe(), dry_run, ..LogPruneReport::default() };
    let files = repository.log_files(None).await?;
    files.iter().for_each(|file| report.files.add(file.bytes));
    if !files.is_empty() {
        let (points, problems) = physical_points(repository, None).await?;
        report.problems = problems;
        for problem in &mut report.problems {
            problem.message = format!("cannot be read, so that nothing of the log is deleted: {}", problem.message);
        }
        let doomed = if report.problems.is_empty() { doomed(&files, &points, &mut report) } else { Vec::new() };
        let doomed: BTreeMap<String, &StoredLog> = doomed.into_iter().map(|file| (file.name.to_string(), file)).collect();
        let amount = |gone: &mut dyn Iterator<Item = &&StoredLog>| {
            let mut amount = Amount::default();
            gone.for_each(|file| amount.add(file.bytes));
            amount
        };
        if dry_run {
            report.deleted = amount(&mut doomed.values());
        } else {
            let names: Vec<LogName> = doomed.values().map(|file| file.name.clone()).collect();
            let removed = repository.remove_log_files(&names, looked).await?;
            report.deleted = amount(&mut doomed.iter().filter(|(key, _)| removed.gone.contains(*key)).map(|(_, file)| file));
            (report.locked, report.locked_until) = (removed.locked, removed.locked_until);
            let stays: Vec<StoredLog> =
                files.iter().filter(|file| !removed.gone.contains(&file.name.to_string())).cloned().collect();
            let needless = repository.needless_log_keys(&stays, now, KEYS_WORTH_A_LOOK).await?;
            if !needless.is_empty() {
                let wraps = repository.remove_log_keys(&needless, looked).await?;
                report.keys_deleted = if wraps.locked == 0 { needless.len() as u64 } else { 0 };
                report.locked += wraps.locked;
                report.locked_until = [report.locked_until, wraps.locked_until].into_iter().flatten().min();
            }
        }
    }
    report.seconds = clock.monotonic().saturating_sub(start).as_secs_f64();
    Ok(report)
}

/// What no point needs. Pure.
fn doomed<'a>(files: &'a [StoredLog], points: &[PhysicalPoint], report: &mut LogPruneReport) -> Vec<&'a StoredLog> {
    let mut by_system: BTreeMap<u64, Vec<&StoredLog>> = BTreeMap::new();
    for file in files {
        by_system.entry(file.name.system()).or_default().push(file);
    }
    let whole: BTreeSet<(u64, &str)> =
        files.iter().filter(|file| file.name.kind() == LogKind::Segment).map(|file| of(&file.name)).collect();
    let mut doomed: Vec<&StoredLog> =
        files.iter().filter(|file| file.name.kind() == LogKind::Part && whole.contains(&of(&file.name))).collect();
    for (system, files) in by_system {
        let own: Vec<&PhysicalPoint> = points.iter().filter(|point| point.layout.system == system).collect();
        let Some(first) = own.iter().min_by_key(|point| point.start) else {
            report.without_point.push(system.to_string());
            continue;
        };
        if own.iter().any(|point| point.layout != first.layout) {
            let detail = "its points do not agree on the size of segments, so that nothing of its log is deleted";
            report.problems.push(Problem::new(format!("cluster {system}"), detail));
            continue;
        }
        let before = first.layout.segment_of(first.start);
        let stored = own.iter().map(|point| point.stored_at).min().unwrap_or(first.stored_at);
        let is_doomed =
            |file: &&StoredLog| file.stored_at < stored && number(first.layout, &file.name).is_some_and(|number| number < before);
        doomed.extend(files.into_iter().filter(is_doomed));
    }
    doomed
}

/// Cluster and segment of a file.
fn of(name: &LogName) -> (u64, &str) {
    (name.system(), name.segment().unwrap_or_default())
}

/// The number of the segment that a file is, or is about; nothing for what always stays.
fn number(layout: Layout, name: &LogName) -> Option<u64> {
    let segment = name.segment().filter(|_| name.kind() != LogKind::History)?;
    Some(layout.parse(segment)?.number)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use chrono::{DateTime, TimeDelta};

    use super::{Layout, LogName, LogPruneReport, PhysicalPoint, StoredLog, doomed};
    use crate::{repository::PointName, sources::postgres::physical::Lsn};

    const LAYOUT: Layout = Layout { segment_bytes: 16 << 20, system: 7 };

    fn files(names: &[&str]) -> Vec<StoredLog> {
        let stored = |name: &&str| StoredLog { name: LogName::new(7, name).unwrap(), bytes: 1, stored_at: DateTime::UNIX_EPOCH };
        names.iter().map(stored).collect()
    }

    fn point(timeline: u32, start: u64, layout: Layout) -> PhysicalPoint {
        let name = PointName { time: DateTime::UNIX_EPOCH, id: String::new(), policy: String::new(), key: String::new() };
        PhysicalPoint {
            name,
            stored_at: DateTime::UNIX_EPOCH + TimeDelta::hours(1),
            layout,
            timeline,
            start: Lsn(start),
            stop: Lsn(start + 1),
        }
    }

    fn gone(names: &[&str], points: &[PhysicalPoint]) -> (Vec<String>, LogPruneReport) {
        let (files, mut report) = (files(names), LogPruneReport::default());
        let gone = doomed(&files, points, &mut report).into_iter().map(|file| file.name.file().to_owned()).collect();
        (gone, report)
    }

    #[test]
    fn only_what_ends_before_the_beginning_of_every_point_goes() {
        let names = [
            "00000001.history",
            "000000010000000000000002",
            "000000010000000000000003",
            "000000010000000000000003.00000028.backup",
            "000000010000000000000003.partial",
            "000000010000000000000004",
            "000000020000000000000003",
            "000000020000000000000004",
        ];
        let four = 4 * (16 << 20);
        let expected = ["000000010000000000000002", names[2], names[3], names[4], "000000020000000000000003"];
        // A point in the middle of segment 4 needs that one; it does not matter on which timeline.
        for start in [four, four + 40, four + (16 << 20) - 1] {
            for points in [vec![point(1, start, LAYOUT)], vec![point(2, 9 * four, LAYOUT), point(1, start, LAYOUT)]] {
                assert_eq!(gone(&names, &points).0, expected);
            }
        }
        assert_eq!(gone(&names, &[point(1, four - 1, LAYOUT)]).0, ["000000010000000000000002"]);
    }

    #[test]
    fn what_was_stored_after_the_first_point_stays_since_a_timeline_may_have_gone_back() {
        let names = ["000000010000000000000002", "000000020000000000000002"];
        let (mut files, mut report) = (files(&names), LogPruneReport::default());
        files[1].stored_at += TimeDelta::hours(2);
        let points = [point(1, 1 << 40, LAYOUT)];
        let gone: Vec<_> = doomed(&files, &points, &mut report).into_iter().map(|file| file.name.file()).collect();
        assert_eq!(gone, [names[0]]);
    }

    #[test]
    fn parts_go_once_their_segment_is_whole_and_others_only_as_segments_do() {
        let part = |segment: &str, from, to| LogName::part(7, segment, &(from..to)).unwrap();
        let (second, third) = ("000000010000000000000002", "000000010000000000000003");
        let mut files = files(&[second]);
        for name in [part(second, 0, 50), part(second, 50, 70), part(third, 0, 50), part("000000020000000000000002", 0, 9)] {
            files.push(StoredLog { name, ..files[0].clone() });
        }
        let gone = |points: &[PhysicalPoint]| -> Vec<String> {
            let doomed = doomed(&files, points, &mut LogPruneReport::default());
            let names: BTreeSet<String> = doomed.into_iter().map(|file| file.name.to_string()).collect();
            names.into_iter().map(|name| name[15..].to_owned()).collect()
        };
        let parts = ["000000010000000000000002.part-00000000-00000032", "000000010000000000000002.part-00000032-00000046"];
        assert_eq!(gone(&[]), parts);
        assert_eq!(gone(&[point(1, 2 << 24, LAYOUT)]), parts);
        assert_eq!(gone(&[point(1, 4 << 24, LAYOUT)]).len(), 5);
    }

    #[test]
    fn without_a_point_of_the_cluster_or_with_points_that_disagree_all_stays() {
        let names = ["000000010000000000000002"];
        let (none, report) = gone(&names, &[point(1, u64::MAX - 1, Layout { system: 8, ..LAYOUT })]);
        assert_eq!((none.len(), report.without_point), (0, vec!["7".to_owned()]));
        let other = Layout { segment_bytes: 1 << 20, ..LAYOUT };
        let (none, report) = gone(&names, &[point(1, 1 << 40, LAYOUT), point(1, 1 << 40, other)]);
        assert_eq!((none.len(), report.problems.len()), (0, 1));
    }
}
