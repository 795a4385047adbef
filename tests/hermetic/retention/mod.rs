//! What retention keeps: tables, properties over random points, and whole calendars against golden files.

mod calendar;
mod property;
mod table;

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use farshore::policy::{Condition, PointFacts, Retention};

/// Rules that keep nothing by themselves but the floor.
pub(super) fn rules(keep_within: Duration) -> Retention {
    Retention { keep_within, ..Retention::default() }
}

pub(super) const DAY: Duration = Duration::from_secs(24 * 3600);

pub(super) fn at(text: &str) -> DateTime<Utc> {
    DateTime::parse_from_rfc3339(text).unwrap().to_utc()
}

/// A good point, stored a minute after the time that it shows.
pub(super) fn point(id: &str, stored_at: DateTime<Utc>) -> PointFacts {
    PointFacts {
        id: id.to_owned(),
        policy: "p".to_owned(),
        consistent_at: stored_at - TimeDelta::minutes(1),
        stored_at,
        condition: Condition::Good,
        verified_at: None,
        pin: None,
        given_up: None,
    }
}
