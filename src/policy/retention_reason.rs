//! Why a point stays or may go, and how that reads.

use std::{fmt, time::Duration};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Serialize, Serializer};

use super::Condition;

/// What a rule counts: points, or the hours, days, … of UTC that have one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Period {
    /// Each point is a period of its own.
    Last,
    /// An hour.
    Hour,
    /// A day.
    Day,
    /// A week by ISO 8601: from Monday, and of the year that its Thursday is of.
    Week,
    /// A month.
    Month,
    /// A year.
    Year,
}

/// All of them.
pub(super) const PERIODS: [Period; 6] = [Period::Last, Period::Hour, Period::Day, Period::Week, Period::Month, Period::Year];

impl Period {
    /// The name of the period that `time` lies in, for the point `id`. Names of two times are the same exactly within one period.
    pub(super) fn of(self, time: DateTime<Utc>, id: &str) -> String {
        let format = match self {
            Self::Last => return id.to_owned(),
            Self::Hour => "%Y-%m-%d %H:00",
            Self::Day => "%Y-%m-%d",
            Self::Week => "%G-W%V",
            Self::Month => "%Y-%m",
            Self::Year => "%Y",
        };
        time.format(format).to_string()
    }

    fn adverb(self) -> &'static str {
        match self {
            Self::Last => "last",
            Self::Hour => "hourly",
            Self::Day => "daily",
            Self::Week => "weekly",
            Self::Month => "monthly",
            Self::Year => "yearly",
        }
    }
}

/// Why a point stays or may go. Reads as one clause, which is also its JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// It is younger than the rules ask for.
    Within {
        /// `keep_within`.
        limit: Duration,
    },
    /// It is the newest of its period.
    Period {
        /// Which rule.
        period: Period,
        /// How many periods the rule keeps.
        count: u32,
        /// Name of the period: `2026-11-20`, `2026-W47`; a point's own id for `keep_last`.
        of: String,
        /// Of this point: if it is not good, it stands in for one.
        condition: Condition,
    },
    /// It is pinned.
    Pinned {
        /// For ever without.
        until: Option<DateTime<Utc>>,
        /// Why.
        reason: String,
    },
    /// It belongs to the floor.
    Verified {
        /// `keep_verified`.
        keep: u32,
    },
    /// The floor is not reached, and this may become a part of it or is the best there is.
    Floor {
        /// Verified points that there are.
        have: usize,
        /// `keep_verified`.
        keep: u32,
    },
    /// The site says that it was stored later than now: no clock can be trusted with it.
    Future {
        /// When it was stored.
        stored_at: DateTime<Utc>,
    },
    /// It is lost, and somebody said so.
    GivenUp {
        /// Why, and who said it.
        why: String,
    },
    /// Nothing keeps it.
    Nothing {
        /// `keep_within`.
        limit: Duration,
        /// Of this point.
        condition: Condition,
        /// When a pin ended that it had.
        unpinned: Option<DateTime<Utc>>,
    },
}

/// A duration in the largest unit that divides it.
fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let units = [("day", 24 * 3600), ("hour", 3600), ("minute", 60)];
    match units.into_iter().find(|(_, unit)| seconds >= *unit && seconds.is_multiple_of(*unit)) {
        Some((name, unit)) if seconds == unit => format!("1 {name}"),
        Some((name, unit)) => format!("{} {name}s", seconds / unit),
        None => humantime::format_duration(duration).to_string(),
    }
}

fn time(time: &DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true).replace('T', " ").replace('Z', " UTC")
}

impl fmt::Display for Reason {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Within { limit } => write!(out, "within {}", span(*limit)),
            Self::Period { period: Period::Last, count: 1, condition, .. } => {
                write!(out, "the last one{}", standing_in(*condition))
            }
            Self::Period { period: Period::Last, count, condition, .. } => {
                write!(out, "one of the last {count}{}", standing_in(*condition))
            }
            Self::Period { period, of, condition, .. } => write!(out, "{} {of}{}", period.adverb(), standing_in(*condition)),
            Self::Pinned { until: Some(until), reason } => write!(out, "pinned until {}: {reason}", time(until)),
            Self::Pinned { until: None, reason } => write!(out, "pinned for ever: {reason}"),
            Self::Verified { keep: 1 } => out.write_str("the newest verified"),
            Self::Verified { keep } => write!(out, "one of the {keep} newest verified"),
            Self::Floor { have, keep } => {
                write!(out, "only {have} of the {keep} verified points that must stay are there; kept in their stead")
            }
            Self::Future { stored_at } => {
                write!(out, "stored at {}, which is in the future: the clocks differ", time(stored_at))
            }
            Self::GivenUp { why } => write!(out, "given up: {why}"),
            Self::Nothing { limit, condition, unpinned } => {
                if let Some(unpinned) = unpinned {
                    write!(out, "its pin ended {}; ", time(unpinned))?;
                }
                write!(out, "older than {}, ", span(*limit))?;
                out.write_str(match condition {
                    Condition::Good => "and no other rule keeps it",
                    Condition::Problems => "its backup had problems, and no other rule keeps it",
                    Condition::Anomalous => "and anomalous: it counts for no other rule",
                    Condition::Unreadable => "damaged, and no other rule keeps it",
                })
            }
        }
    }
}

fn standing_in(condition: Condition) -> &'static str {
    match condition {
        Condition::Good => "",
        Condition::Problems => " (with problems, for want of a better one)",
        Condition::Anomalous => " (anomalous, for want of a better one)",
        Condition::Unreadable => " (damaged, for want of a better one)",
    }
}

impl Serialize for Reason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
