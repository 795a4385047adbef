//! What of a log is there: by the numbers of segments alone, pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
};

use chrono::{DateTime, Utc};
use futures_util::{StreamExt, stream};

use crate::{
    operations::OperationError,
    progress::Problem,
    repository::{LogKind, LogName, Point, PointName, Repository, RepositoryError, StoredLog},
    sources::postgres::physical::{
        Layout, Lsn,
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

/// Segments of one cluster that are there, by timeline.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Segments(BTreeMap<u32, BTreeSet<u64>>);

impl Segments {
    /// Those among these files.
    pub(super) fn of<'a>(layout: Layout, files: impl IntoIterator<Item = &'a StoredLog>) -> Self {
        let mut timelines: BTreeMap<u32, BTreeSet<u64>> = BTreeMap::new();
        for segment in files.into_iter().filter_map(|file| number_of(layout, &file.name)) {
            timelines.entry(segment.0).or_default().insert(segment.1);
        }
        Self(timelines)
    }

    /// Timelines, each with its segments.
    pub(super) fn timelines(&self) -> impl Iterator<Item = (u32, &BTreeSet<u64>)> {
        self.0.iter().map(|(timeline, segments)| (*timeline, segments))
    }

    /// The last segment of the newest timeline.
    pub(super) fn newest(&self) -> Option<(u32, u64)> {
        self.0.last_key_value().and_then(|(timeline, segments)| Some((*timeline, *segments.last()?)))
    }

    /// As far as the log goes without a gap from a segment on, on a timeline and those that came out of it; nothing if that segment is
    /// not there. Where a timeline begins, only its history says; here it is where its first segment is.
    pub(super) fn reach(&self, mut timeline: u32, from: u64) -> Option<(u32, u64)> {
        let mut from = from;
        let mut reached = None;
        loop {
            let last = self.0.get(&timeline).and_then(|segments| {
                let run = segments.range(from..).zip(from..).take_while(|(there, wanted)| *there == wanted);
                run.last().map(|(there, _)| *there)
            });
            if let Some(last) = last {
                reached = Some((timeline, last));
            }
            let joins = last.map_or(from, |last| last + 1);
            let newer = self.0.range(timeline + 1..).find_map(|(newer, segments)| {
                let first = *segments.range(from..).next()?;
                (first <= joins).then_some((*newer, first))
            });
            match newer {
                Some((newer, first)) => (timeline, from) = (newer, first),
                None => return reached,
            }
        }
    }

    /// Whether anything of this timeline, or of a newer one, comes after a segment.
    pub(super) fn has_after(&self, timeline: u32, from: u64) -> bool {
        self.0.range(timeline..).any(|(_, segments)| segments.range(from..).next().is_some())
    }
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
    use super::{Segments, gaps};

    fn segments(of: &[(u32, &[u64])]) -> Segments {
        Segments(of.iter().map(|(timeline, numbers)| (*timeline, numbers.iter().copied().collect())).collect())
    }

    #[test]
    fn the_log_reaches_to_its_first_gap_and_over_to_newer_timelines() {
        let one = segments(&[(1, &[3, 4, 5, 7, 8])]);
        assert_eq!(one.reach(1, 3), Some((1, 5)));
        assert_eq!(one.reach(1, 7), Some((1, 8)));
        assert_eq!((one.reach(1, 2), one.reach(1, 6), one.reach(1, 9), one.reach(2, 3)), (None, None, None, None));
        assert_eq!(one.newest(), Some((1, 8)));
        assert!(one.has_after(1, 8) && !one.has_after(1, 9) && !one.has_after(2, 0));
        // The new timeline begins with a copy of the segment that the old one ended in, or with the next; the old primary may go on.
        assert_eq!(segments(&[(1, &[3, 4]), (2, &[5, 6])]).reach(1, 3), Some((2, 6)));
        assert_eq!(segments(&[(1, &[3, 4, 5, 6, 9]), (2, &[5, 6, 7])]).reach(1, 3), Some((2, 7)));
        assert_eq!(segments(&[(1, &[3, 4]), (2, &[6, 7])]).reach(1, 3), Some((1, 4)));
        assert_eq!(segments(&[(1, &[3]), (2, &[4]), (4, &[5, 6])]).reach(1, 3), Some((4, 6)));
        // The timeline ended in the very segment that is asked for.
        assert_eq!(segments(&[(1, &[1, 2]), (2, &[3, 4])]).reach(1, 3), Some((2, 4)));
    }

    #[test]
    fn what_is_missing_in_between_is_named() {
        assert_eq!(gaps(&[3, 4, 7, 8, 10].into()), [5..=6, 9..=9]);
        assert_eq!(gaps(&[3].into()), []);
        assert_eq!(gaps(&[].into()), []);
    }
}
