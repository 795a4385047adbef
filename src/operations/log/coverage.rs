//! What of a log is there: by the numbers of segments alone, pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
};

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::{StreamExt, stream};

use crate::{
    operations::OperationError,
    progress::Problem,
    repository::{LogKind, LogName, Point, PointName, Repository, RepositoryError, StoredLog},
    sources::postgres::physical::{
        Layout, Lineage, Lsn,
        facts::{PhysicalFacts, is_physical},
    },
    stores::StoreError,
};

/// Points read at once.
const READS: usize = 8;

/// A cluster as a recovery point has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PhysicalPoint {
    pub(super) name: PointName,
    /// When the site stored it, by the site's own clock.
    pub(super) stored_at: DateTime<Utc>,
    pub(super) layout: Layout,
    pub(super) timeline: u32,
    /// Where replay begins.
    pub(super) start: Lsn,
    /// Where the point's own log ends.
    pub(super) stop: Lsn,
}

impl PhysicalPoint {
    /// Reads the clusters of a point.
    fn of(name: &PointName, stored_at: DateTime<Utc>, point: &Point) -> Result<Vec<Self>, String> {
        let physical = point.snapshots.iter().filter(|snapshot| snapshot.kind == "postgres" && is_physical(&snapshot.facts));
        let read = |snapshot: &crate::repository::Snapshot| {
            let facts = PhysicalFacts::read(&snapshot.facts).map_err(|error| error.to_string())?;
            let unclear = || format!("source {}: does not say where its log begins and ends", snapshot.source);
            let segment_bytes = facts.wal_segment_bytes;
            let layout = Layout { segment_bytes, system: facts.system_identifier.parse().map_err(|_| unclear())? };
            if !segment_bytes.is_power_of_two() || !(1 << 20..=1 << 30).contains(&segment_bytes) {
                return Err(unclear());
            }
            let (Some(start), Some(stop)) = (Lsn::parse(&facts.start_lsn), Lsn::parse(&facts.stop_lsn)) else {
                return Err(unclear());
            };
            Ok(Self { name: name.clone(), stored_at, layout, timeline: facts.timeline, start, stop })
        };
        physical.map(read).collect()
    }

    /// The first segment that replay beyond the point needs of the archive.
    pub(super) fn needs_from(&self) -> u64 {
        self.layout.segment_before(self.stop)
    }
}

/// The clusters of all points (of one policy, or of all), oldest first, and the points that cannot be read.
pub(super) async fn physical_points(
    repository: &Repository,
    policy: Option<&str>,
) -> Result<(Vec<PhysicalPoint>, Vec<Problem>), OperationError> {
    let names = repository.stored_points(policy).await?;
    let mut read = stream::iter(names)
        .map(|(name, stored_at)| async move { (repository.point(&name).await, name, stored_at) })
        .buffered(READS);
    let (mut points, mut problems) = (Vec::new(), Vec::new());
    while let Some((point, name, stored_at)) = read.next().await {
        let found = match point {
            Ok(point) => PhysicalPoint::of(&name, stored_at, &point),
            Err(error) if error.is_damage() => match repository.store().stat(&name.key).await {
                // A prune deleted it since it was listed.
                Err(StoreError::NotFound { .. }) => Ok(Vec::new()),
                _ => Err(error.to_string()),
            },
            Err(error) => return Err(RepositoryError::into(error)),
        };
        match found {
            Ok(found) => points.extend(found),
            Err(detail) => problems.push(Problem::new(name.key, detail)),
        }
    }
    Ok((points, problems))
}

/// Several files are stored at once, so that one may come before those that precede it. Where it came longer ago than this, they are missing.
const ON_ITS_WAY: TimeDelta = TimeDelta::seconds(60);

/// Whether what precedes a file that a site stored then may be on its way, `now` by that site's clock.
pub(super) fn is_recent(stored_at: DateTime<Utc>, now: DateTime<Utc>) -> bool {
    (now - stored_at).abs() < ON_ITS_WAY
}

/// Which way replay takes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Line<'a> {
    /// Along this timeline and those that came out of it, as far as segments tell: where one begins, only its history says, which is
    /// sealed from whoever may not read the log. Here it is where its first segment is.
    Guessed(u32),
    /// Along this one.
    Known(Layout, &'a Lineage),
}

/// How far the log takes a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Beyond {
    /// Timeline and number of the last segment that replay reaches; nothing if it does not leave the point.
    pub(super) last: Option<(u32, u64)>,
    /// Later segments are there, and replay does not reach them.
    pub(super) is_cut_off: bool,
    /// The last of those that came only just now, where no other is there: what is missing before it may be on its way.
    pub(super) awaited: Option<u64>,
}

/// Numbers of segments, by timeline.
type Numbers = BTreeMap<u32, BTreeSet<u64>>;

/// Segments of one cluster that are there, by timeline.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Segments {
    all: Numbers,
    /// Those of them that did not come only just now.
    settled: Numbers,
}

impl Segments {
    /// Those among these files that the site has `now`, by its own clock.
    pub(super) fn of<'a>(layout: Layout, files: impl IntoIterator<Item = &'a StoredLog>, now: DateTime<Utc>) -> Self {
        let mut found = Self::default();
        for file in files {
            let Some((timeline, number)) = number_of(layout, &file.name) else { continue };
            found.all.entry(timeline).or_default().insert(number);
            if !is_recent(file.stored_at, now) {
                found.settled.entry(timeline).or_default().insert(number);
            }
        }
        found
    }

    /// Timelines, each with its segments.
    pub(super) fn timelines(&self) -> impl Iterator<Item = (u32, &BTreeSet<u64>)> {
        self.all.iter().map(|(timeline, segments)| (*timeline, segments))
    }

    /// The last segment of the newest timeline.
    fn newest(&self) -> Option<(u32, u64)> {
        self.all.last_key_value().and_then(|(timeline, segments)| Some((*timeline, *segments.last()?)))
    }

    /// Whether what is missing of a timeline before this one may be on its way: all that comes later came only just now.
    pub(super) fn is_awaited(&self, timeline: u32, before: u64) -> bool {
        self.settled.get(&timeline).is_none_or(|settled| settled.range(before..).next().is_none())
    }

    /// How far the log takes a point whose own log ends in the segment `own`.
    pub(super) fn beyond(&self, line: Line<'_>, own: u64) -> Beyond {
        // The point holds that segment itself: what is needed of the archive may begin after it.
        let last = self.reach(line, own).or_else(|| self.reach(line, own + 1));
        let after = last.map_or(own, |(_, last)| last) + 1;
        let later = |among: &Numbers| match line {
            Line::Guessed(timeline) if last != self.newest() => last_after(among, timeline, after),
            Line::Guessed(_) => None,
            Line::Known(layout, lineage) => {
                let is_on = |timeline, number: &u64| lineage.segment(layout, *number).timeline == timeline;
                let later = |(timeline, there): (&u32, &BTreeSet<u64>)| {
                    there.range(after..).rev().find(|number| is_on(*timeline, number)).copied()
                };
                among.iter().filter_map(later).max()
            }
        };
        let is_cut_off = later(&self.settled).is_some();
        Beyond { last, is_cut_off, awaited: later(&self.all).filter(|_| !is_cut_off) }
    }

    /// As far as the log goes without a gap from a segment on; nothing if that segment is not there.
    fn reach(&self, line: Line<'_>, from: u64) -> Option<(u32, u64)> {
        match line {
            Line::Guessed(timeline) => self.reach_guessing(timeline, from),
            Line::Known(layout, lineage) => {
                let on_line = (from..).map(|number| (lineage.segment(layout, number).timeline, number));
                on_line.take_while(|(timeline, number)| self.all.get(timeline).is_some_and(|there| there.contains(number))).last()
            }
        }
    }

    fn reach_guessing(&self, mut timeline: u32, from: u64) -> Option<(u32, u64)> {
        let mut from = from;
        let mut reached = None;
        loop {
            let last = self.all.get(&timeline).and_then(|segments| {
                let run = segments.range(from..).zip(from..).take_while(|(there, wanted)| *there == wanted);
                run.last().map(|(there, _)| *there)
            });
            if let Some(last) = last {
                reached = Some((timeline, last));
            }
            let joins = last.map_or(from, |last| last + 1);
            let newer = self.all.range(timeline + 1..).find_map(|(newer, segments)| {
                let first = *segments.range(from..).next()?;
                (first <= joins).then_some((*newer, first))
            });
            match newer {
                Some((newer, first)) => (timeline, from) = (newer, first),
                None => return reached,
            }
        }
    }
}

/// The last segment of this timeline, or of a newer one, from this number on.
fn last_after(among: &Numbers, timeline: u32, from: u64) -> Option<u64> {
    among.range(timeline..).filter_map(|(_, there)| there.range(from..).next_back().copied()).max()
}

/// Numbers that are missing between the first and the last.
pub(super) fn gaps(segments: &BTreeSet<u64>) -> Vec<RangeInclusive<u64>> {
    let pairs = segments.iter().zip(segments.iter().skip(1));
    pairs.filter(|(left, right)| *left + 1 < **right).map(|(left, right)| left + 1..=right - 1).collect()
}

/// Timeline and number of a whole segment.
pub(super) fn number_of(layout: Layout, name: &LogName) -> Option<(u32, u64)> {
    let segment = name.segment().filter(|_| name.kind() == LogKind::Segment)?;
    layout.parse(segment).map(|segment| (segment.timeline, segment.number))
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, TimeDelta};

    use super::{Layout, Line, Lineage, LogName, Segments, StoredLog, gaps, last_after};

    const LAYOUT: Layout = Layout { segment_bytes: 16 << 20, system: 7 };

    fn segments(of: &[(u32, &[u64])]) -> Segments {
        let all: super::Numbers = of.iter().map(|(timeline, numbers)| (*timeline, numbers.iter().copied().collect())).collect();
        Segments { settled: all.clone(), all }
    }

    #[test]
    fn the_log_reaches_to_its_first_gap_and_over_to_newer_timelines() {
        let one = segments(&[(1, &[3, 4, 5, 7, 8])]);
        let reach = |there: &Segments, timeline, from| there.reach(Line::Guessed(timeline), from);
        assert_eq!(reach(&one, 1, 3), Some((1, 5)));
        assert_eq!(reach(&one, 1, 7), Some((1, 8)));
        let none = (None, None, None, None);
        assert_eq!((reach(&one, 1, 2), reach(&one, 1, 6), reach(&one, 1, 9), reach(&one, 2, 3)), none);
        assert_eq!(one.newest(), Some((1, 8)));
        let after = |timeline, from| last_after(&one.all, timeline, from);
        assert_eq!((after(1, 8), after(1, 9), after(2, 0)), (Some(8), None, None));
        // The new timeline begins with a copy of the segment that the old one ended in, or with the next; the old primary may go on.
        assert_eq!(reach(&segments(&[(1, &[3, 4]), (2, &[5, 6])]), 1, 3), Some((2, 6)));
        assert_eq!(reach(&segments(&[(1, &[3, 4, 5, 6, 9]), (2, &[5, 6, 7])]), 1, 3), Some((2, 7)));
        assert_eq!(reach(&segments(&[(1, &[3, 4]), (2, &[6, 7])]), 1, 3), Some((1, 4)));
        assert_eq!(reach(&segments(&[(1, &[3]), (2, &[4]), (4, &[5, 6])]), 1, 3), Some((4, 6)));
        // The timeline ended in the very segment that is asked for.
        assert_eq!(reach(&segments(&[(1, &[1, 2]), (2, &[3, 4])]), 1, 3), Some((2, 4)));
    }

    /// Segments by timeline.
    type There<'a> = &'a [(u32, &'a [u64])];
    /// Them, the way, how far it leads, and whether anything comes later.
    type Row<'a> = (There<'a>, Line<'a>, Option<(u32, u64)>, bool);

    #[test]
    fn a_point_is_taken_from_its_own_last_segment_or_the_next_on_and_cut_off_only_where_something_comes_later() {
        // On the first timeline; the second left it within segment 5, and the third it within segment 8.
        let own = Lineage::parse(1, None).unwrap();
        let second = Lineage::parse(2, Some(b"1\t0/5400000\tx\n")).unwrap();
        let third = Lineage::parse(3, Some(b"1\t0/5400000\tx\n2\t0/8000000\tx\n")).unwrap();
        let known = |lineage| Line::Known(LAYOUT, lineage);
        let both: There = &[(1, &[3, 4, 5, 6, 7, 8, 9]), (2, &[5, 6, 7])];
        let table: [Row; 19] = [
            (&[(1, &[3, 4, 5])], Line::Guessed(1), Some((1, 5)), false),
            // Archiving began after the backup: the point has segment 3 itself.
            (&[(1, &[4, 5])], Line::Guessed(1), Some((1, 5)), false),
            (&[(1, &[4, 5])], known(&own), Some((1, 5)), false),
            (&[(1, &[4, 5, 7])], Line::Guessed(1), Some((1, 5)), true),
            (&[(1, &[4, 5, 7])], known(&own), Some((1, 5)), true),
            (&[(1, &[5, 6])], Line::Guessed(1), None, true),
            (&[(1, &[5, 6])], known(&own), None, true),
            (&[(1, &[1, 2])], Line::Guessed(1), None, false),
            (&[(1, &[1, 2])], known(&own), None, false),
            (&[(1, &[2, 3])], known(&own), Some((1, 3)), false),
            (&[], known(&own), None, false),
            // Both go on, and each line is judged by what it has.
            (both, Line::Guessed(1), Some((2, 7)), false),
            (both, known(&own), Some((1, 9)), false),
            (both, known(&second), Some((2, 7)), false),
            (both, known(&third), Some((2, 7)), false),
            (&[(1, &[3, 4, 5, 6, 8]), (2, &[5, 6, 7])], known(&own), Some((1, 6)), true),
            (&[(1, &[3, 4, 5, 6, 8]), (2, &[5, 6, 7])], known(&second), Some((2, 7)), false),
            (&[(1, &[3, 4, 5]), (2, &[6, 7])], known(&second), Some((1, 4)), true),
            (&[(1, &[3, 4]), (2, &[5, 6, 7, 8]), (3, &[8, 9])], known(&third), Some((3, 9)), false),
        ];
        for (there, line, last, is_cut_off) in table {
            let found = segments(there).beyond(line, 3);
            assert_eq!((found.last, found.is_cut_off, found.awaited), (last, is_cut_off, None), "{there:?}, {line:?}");
        }
    }

    #[test]
    fn what_precedes_segments_that_came_only_just_now_is_no_gap_yet() {
        let own = Lineage::parse(1, None).unwrap();
        let now = DateTime::from_timestamp(1_764_154_800, 0).unwrap();
        // Segment 5 is missing; of each other one, how many seconds ago it came.
        for (ages, is_cut_off, awaited) in [
            (&[(4, 900), (6, 59)][..], false, Some(6)),
            (&[(4, 900), (6, 2), (7, 0), (8, 1)], false, Some(8)),
            (&[(4, 900), (6, 2), (7, 61)], true, None),
            (&[(4, 900), (6, 61)], true, None),
            // A clock that was set does not hide a gap for long.
            (&[(4, 900), (6, -4000)], true, None),
            (&[(4, 1)], false, None),
        ] {
            let stored = |(number, age): &(u64, i64)| StoredLog {
                name: LogName::new(7, &format!("0000000100000000{number:08X}")).unwrap(),
                bytes: 1,
                stored_at: now - TimeDelta::seconds(*age),
            };
            let files: Vec<StoredLog> = ages.iter().map(stored).collect();
            let there = Segments::of(LAYOUT, &files, now);
            for line in [Line::Guessed(1), Line::Known(LAYOUT, &own)] {
                let found = there.beyond(line, 3);
                assert_eq!(
                    (found.last, found.is_cut_off, found.awaited),
                    (Some((1, 4)), is_cut_off, awaited),
                    "{ages:?}, {line:?}"
                );
            }
            assert_eq!(there.is_awaited(1, 5), !is_cut_off, "{ages:?}");
        }
    }

    #[test]
    fn what_is_missing_in_between_is_named() {
        assert_eq!(gaps(&[3, 4, 7, 8, 10].into()), [5..=6, 9..=9]);
        assert_eq!(gaps(&[3].into()), []);
        assert_eq!(gaps(&[].into()), []);
    }
}
