//! Hours of the day, and what holds in them.

use chrono::{DateTime, Local, Timelike, Utc};

/// A time of day, to the minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TimeOfDay(u32);

impl TimeOfDay {
    /// `None` for what no clock shows.
    pub fn new(hour: u32, minute: u32) -> Option<Self> {
        (hour < 24 && minute < 60).then_some(Self(hour * 60 + minute))
    }
}

/// Whose clock is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Zone {
    /// The world's.
    Utc,
    /// This machine's, with its summer time.
    Local,
}

/// What holds in some hours of the day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hours {
    /// From (included) until (excluded), over midnight where the end lies before the beginning; `None` for all day.
    pub window: Option<(TimeOfDay, TimeOfDay, Zone)>,
    /// Most bytes to the site in a second; `None` for no limit.
    pub upload: Option<u64>,
    /// Most bytes from the site in a second; `None` for no limit.
    pub download: Option<u64>,
}

impl Hours {
    /// Whether they hold at a time.
    pub(super) fn hold_at(&self, time: DateTime<Utc>) -> bool {
        let Some((from, until, zone)) = self.window else { return true };
        let (hour, minute) = match zone {
            Zone::Utc => (time.hour(), time.minute()),
            Zone::Local => {
                let local = time.with_timezone(&Local);
                (local.hour(), local.minute())
            }
        };
        let now = TimeOfDay(hour * 60 + minute);
        if from < until { from <= now && now < until } else { now >= from || now < until }
    }
}

#[cfg(test)]
mod tests {
    use chrono::{Local, Timelike};

    use super::{DateTime, Hours, TimeOfDay, Utc, Zone};

    fn hours(from: (u32, u32), until: (u32, u32), zone: Zone) -> Hours {
        let time = |(hour, minute)| TimeOfDay::new(hour, minute).unwrap();
        Hours { window: Some((time(from), time(until), zone)), upload: None, download: None }
    }

    fn holds(hours: Hours, times: &[(&str, bool)]) {
        for (time, expected) in times {
            let time: DateTime<Utc> = format!("2026-11-23T{time}Z").parse().unwrap();
            assert_eq!(hours.hold_at(time), *expected, "{hours:?} at {time}");
        }
    }

    #[test]
    fn a_window_has_its_first_minute_and_not_its_last() {
        let day = [("07:59:59", false), ("08:00:00", true), ("17:59:59", true), ("18:00:00", false)];
        holds(hours((8, 0), (18, 0), Zone::Utc), &day);
    }

    #[test]
    fn a_window_may_go_over_midnight() {
        let night = [
            ("21:59:59", false),
            ("22:00:00", true),
            ("23:59:59", true),
            ("00:00:00", true),
            ("05:29:59", true),
            ("05:30:00", false),
        ];
        holds(hours((22, 0), (5, 30), Zone::Utc), &night);
        holds(hours((22, 0), (0, 0), Zone::Utc), &[("23:59:59", true), ("00:00:00", false), ("21:59:00", false)]);
    }

    #[test]
    fn local_hours_are_this_machines() {
        let time: DateTime<Utc> = "2026-07-01T12:00:00Z".parse().unwrap();
        let here = time.with_timezone(&Local);
        let this = hours((here.hour(), here.minute()), ((here.hour() + 1) % 24, here.minute()), Zone::Local);
        assert!(this.hold_at(time) && !this.hold_at(time - chrono::TimeDelta::minutes(1)));
    }

    #[test]
    fn no_clock_shows_other_times() {
        assert!(TimeOfDay::new(24, 0).is_none() && TimeOfDay::new(0, 60).is_none() && TimeOfDay::new(23, 59).is_some());
    }
}
