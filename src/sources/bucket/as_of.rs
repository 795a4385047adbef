//! Which version of an object belongs to a recovery point: a pure choice, and what is known of T on the bucket's clock.
//!
//! T was seen on this machine's clock, and is carried over to the bucket's by asking the bucket for its time: what comes out is not
//! an instant but a [`Window`] that T lies in. Of each key the newest version is taken that may have been there by the end of the
//! window, unless it was certainly deleted before the window began. So a row never names an object that is missing or older than
//! the row says; at worst an object is there, or newer, by as much as the window is wide (some four seconds). `docs/decisions/0030` says why.

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use crate::{
    clock::{Moment, SharedClock},
    sources::ConsistencyTime,
    stores::{NULL_VERSION, ObjectStat, ObjectVersion},
};

/// S3 cuts its times to whole seconds: what it shows may have happened this much later.
const RESOLUTION: TimeDelta = TimeDelta::seconds(1);

/// How far the clocks of a bucket's own servers may be from one another.
const MARGIN: TimeDelta = TimeDelta::seconds(1);

/// On the bucket's clock: what may be the instant T, beginning and end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Window {
    pub(super) from: DateTime<Utc>,
    pub(super) until: DateTime<Utc>,
}

impl Window {
    /// Carries T over to the bucket's clock, which showed `shown` (cut to whole seconds, if it is its time at all) between `asked` and now.
    pub(super) fn of(time: &ConsistencyTime, shown: DateTime<Utc>, asked: &Moment, clock: &SharedClock) -> Self {
        let took = asked.since(clock);
        Self { from: shown - time.from.since(clock), until: shown + RESOLUTION + took - time.until.since_at_least(clock) }
    }

    fn began_in_time(&self, modified: DateTime<Utc>) -> bool {
        modified <= self.until + MARGIN
    }

    fn ended_before(&self, modified: DateTime<Utc>) -> bool {
        modified + RESOLUTION + MARGIN < self.from
    }

    /// Whether what happened then may have happened after T.
    pub(super) fn may_be_later(&self, modified: DateTime<Utc>) -> bool {
        modified + RESOLUTION > self.from
    }
}

/// The versions of one key seen so far, as they come: newest first. Takes no more memory for a million of them than for one.
#[derive(Debug)]
pub(super) struct Choice {
    window: Window,
    chosen: Option<Chosen>,
    /// The newest delete marker that is certainly older than the window.
    deleted: Option<DateTime<Utc>>,
    /// Such a marker is what lies over everything else.
    gone: bool,
    /// Something happened to the key that T does not show.
    later: bool,
}

/// The version that was live at T, unless a marker lies over it.
#[derive(Debug)]
struct Chosen {
    stat: ObjectStat,
    /// It was not there before this: a version came to be after those that it replaced, whatever its own time says.
    born: DateTime<Utc>,
    latest: bool,
}

/// What a key comes to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Chose {
    /// The version, if the key had one.
    pub(super) stat: Option<ObjectStat>,
    /// A reader who names no version gets something else, or nothing.
    pub(super) covered: bool,
    /// Something happened to the key that T does not show.
    pub(super) later: bool,
}

impl Choice {
    pub(super) fn of(window: Window) -> Self {
        Self { window, chosen: None, deleted: None, gone: false, later: false }
    }

    /// Takes the next entry of the key.
    pub(super) fn see(&mut self, entry: ObjectVersion) {
        let ObjectVersion { stat, marker, latest } = entry;
        if marker {
            if self.window.ended_before(stat.modified) {
                self.gone |= latest;
                self.deleted = self.deleted.max(Some(stat.modified));
            } else {
                self.later = true;
            }
            return;
        }
        match &mut self.chosen {
            Some(chosen) => chosen.born = chosen.born.max(stat.modified),
            // What is stored without versions overwrites what was stored so before: nobody knows since when there was something.
            None if self.window.began_in_time(stat.modified) || stat.version.as_deref() == Some(NULL_VERSION) => {
                self.chosen = Some(Chosen { born: stat.modified, stat, latest });
            }
            None => self.later = true,
        }
    }

    /// All entries of the key were seen.
    pub(super) fn made(self) -> Chose {
        let Self { chosen, deleted, gone, later, .. } = self;
        let kept = chosen.filter(|chosen| {
            // The time of an upload in parts is the one at which it began: a marker of a later time may be older than its end.
            let by_parts = chosen.stat.etag.contains('-');
            !gone && (by_parts || deleted.is_none_or(|deleted| deleted <= chosen.born))
        });
        Chose { covered: kept.as_ref().is_some_and(|chosen| !chosen.latest), stat: kept.map(|chosen| chosen.stat), later }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Choice, Chose, ConsistencyTime, DateTime, Moment, ObjectStat, ObjectVersion, SharedClock, TimeDelta, Utc, Window};
    use crate::clock::FixedClock;

    fn at(seconds: f64) -> DateTime<Utc> {
        DateTime::from_timestamp_millis((seconds * 1000.0) as i64).unwrap()
    }

    /// An entry of a key that was made then; S3 shows whole seconds.
    fn entry(id: &str, seconds: f64, marker: bool) -> ObjectVersion {
        let etag = if id.starts_with("parts") { "d41d8cd98f00b204e9800998ecf8427e-2" } else { "d41d8cd98f00b204e9800998ecf8427e" };
        let stat = ObjectStat {
            key: "k".into(),
            size: 1,
            modified: at(seconds.floor()),
            etag: etag.into(),
            version: Some(id.into()),
            sha256: None,
            storage_class: None,
        };
        ObjectVersion { stat, marker, latest: false }
    }

    fn version(id: &str, seconds: f64) -> ObjectVersion {
        entry(id, seconds, false)
    }

    fn marker(seconds: f64) -> ObjectVersion {
        entry("marker", seconds, true)
    }

    /// What is chosen of entries, newest first, at T = 100 on a bucket whose clock is known to the millisecond.
    fn chosen(mut newest_first: Vec<ObjectVersion>) -> Chose {
        newest_first[0].latest = true;
        // As a store hands them over: versions first.
        newest_first.sort_by_key(|entry| entry.marker);
        let mut choice = Choice::of(Window { from: at(100.0), until: at(100.0) });
        newest_first.into_iter().for_each(|entry| choice.see(entry));
        choice.made()
    }

    fn id(newest_first: Vec<ObjectVersion>) -> Option<String> {
        chosen(newest_first).stat.and_then(|stat| stat.version)
    }

    #[test]
    fn the_version_that_was_live_is_taken_whatever_came_later() {
        assert_eq!(id(vec![version("a", 10.0)]).as_deref(), Some("a"));
        assert_eq!(id(vec![version("c", 300.0), version("b", 90.0), version("a", 10.0)]).as_deref(), Some("b"));
        assert_eq!(id(vec![marker(300.0), version("b", 90.0), version("a", 10.0)]).as_deref(), Some("b"));
        assert_eq!(id(vec![version("c", 400.0), marker(300.0), version("b", 90.0), version("a", 10.0)]).as_deref(), Some("b"));
        let plain = chosen(vec![version("b", 90.0), version("a", 10.0)]);
        assert_eq!((plain.covered, plain.later), (false, false));
        let covered = chosen(vec![marker(300.0), version("b", 90.0)]);
        assert_eq!((covered.covered, covered.later), (true, true));
    }

    #[test]
    fn what_was_deleted_before_is_absent_and_what_came_after_is_too() {
        assert_eq!(id(vec![marker(50.0), version("a", 10.0)]), None);
        assert_eq!(id(vec![version("b", 200.0), marker(50.0), version("a", 10.0)]), None);
        assert_eq!(id(vec![marker(200.0), version("b", 150.0), marker(50.0), version("a", 10.0)]), None);
        assert_eq!(id(vec![version("b", 200.0)]), None);
        assert_eq!(id(vec![marker(300.0), version("b", 200.0)]), None);
        assert_eq!(id(vec![marker(50.0)]), None);
        assert!(chosen(vec![version("b", 200.0)]).later);
    }

    #[test]
    fn what_was_written_again_after_a_delete_is_there() {
        assert_eq!(id(vec![version("b", 60.0), marker(50.0), version("a", 10.0)]).as_deref(), Some("b"));
        assert_eq!(id(vec![version("c", 300.0), version("b", 60.0), marker(50.0), version("a", 10.0)]).as_deref(), Some("b"));
        assert_eq!(id(vec![marker(70.0), version("b", 60.0), marker(50.0), version("a", 10.0)]), None);
    }

    #[test]
    fn near_the_instant_an_object_too_many_is_taken_rather_than_one_too_few() {
        // Uploaded in the same second, by another server's clock in the next.
        assert_eq!(id(vec![version("a", 100.9)]).as_deref(), Some("a"));
        assert_eq!(id(vec![version("a", 101.0)]).as_deref(), Some("a"));
        assert_eq!(id(vec![version("a", 102.0)]), None);
        // Deleted in the same second: perhaps after T.
        assert_eq!(id(vec![marker(100.2), version("a", 10.0)]).as_deref(), Some("a"));
        assert_eq!(id(vec![marker(98.0), version("a", 10.0)]).as_deref(), Some("a"));
        assert_eq!(id(vec![marker(97.9), version("a", 10.0)]), None);
        // Overwritten: the row that says so may be there already, so that the newer one is right.
        assert_eq!(id(vec![version("b", 100.5), version("a", 10.0)]).as_deref(), Some("b"));
    }

    #[test]
    fn a_marker_of_the_same_second_deletes_only_if_it_is_known_to_lie_above() {
        assert_eq!(id(vec![marker(50.7), version("a", 50.1)]), None);
        // With something newer over both nobody can tell.
        assert_eq!(id(vec![version("b", 300.0), marker(50.7), version("a", 50.1)]).as_deref(), Some("a"));
        assert_eq!(id(vec![version("b", 300.0), version("a", 50.7), marker(50.1)]).as_deref(), Some("a"));
    }

    #[test]
    fn an_upload_in_parts_counts_from_its_end_which_no_listing_shows() {
        // Begun at 40, finished after the marker.
        assert_eq!(id(vec![version("b", 300.0), version("parts", 40.0), marker(50.0)]).as_deref(), Some("parts"));
        assert_eq!(id(vec![version("b", 300.0), version("a", 40.0), version("parts", 60.0), marker(50.0)]).as_deref(), Some("a"));
        assert_eq!(id(vec![marker(50.0), version("parts", 40.0)]), None);
    }

    #[test]
    fn the_null_version_is_there_from_before_versioning_or_overwrote_what_was() {
        assert_eq!(id(vec![version("null", 10.0)]).as_deref(), Some("null"));
        assert_eq!(id(vec![version("b", 300.0), version("null", 10.0)]).as_deref(), Some("null"));
        assert_eq!(id(vec![marker(50.0), version("null", 10.0)]), None);
        assert_eq!(id(vec![version("null", 300.0)]).as_deref(), Some("null"));
        assert_eq!(id(vec![version("null", 300.0), version("a", 10.0)]).as_deref(), Some("null"));
    }

    #[test]
    fn the_clocks_of_database_and_bucket_need_not_agree() {
        let clock = FixedClock::shared(at(5000.0));
        let shared: SharedClock = clock.clone();
        let from = Moment::now(&shared);
        clock.advance(Duration::from_secs(2));
        let time = ConsistencyTime { at: at(77.0), from, until: Moment::now(&shared) };
        clock.advance(Duration::from_secs(3600));
        let asked = Moment::now(&shared);
        clock.advance(Duration::from_secs(1));
        // The bucket's clock is twenty minutes fast: T was between 6199 and 6202 by it.
        let window = Window::of(&time, at(5000.0 + 3602.0 + 1200.0), &asked, &shared);
        assert_eq!(window, Window { from: at(6199.0), until: at(6203.0) });
        assert!(window.from <= at(6200.0) && at(6202.0) + TimeDelta::seconds(1) <= window.until);
    }
}
