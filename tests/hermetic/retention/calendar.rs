//! Whole calendars on a fake clock against golden files: a year of daily points and one of hourly ones, pruned as they come in.

use std::{fmt::Write as _, fs, path::Path, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use farshore::{
    clock::{Clock, FixedClock},
    policy::{Condition, PinnedUntil, PointFacts, Retention, plan_retention},
};

use super::{DAY, at, point};

/// Points as they are after a year in which one was made every `step` and the plan was carried out after each.
struct Year {
    left: Vec<PointFacts>,
    made: usize,
    most: usize,
    now: DateTime<Utc>,
}

fn live(start: &str, step: Duration, rules: &Retention, told: impl Fn(usize, PointFacts) -> PointFacts) -> Year {
    let clock = FixedClock::shared(at(start));
    let end = clock.now() + TimeDelta::days(365);
    let mut year = Year { left: Vec::new(), made: 0, most: 0, now: clock.now() };
    while clock.now() < end {
        year.now = clock.now();
        year.left.push(told(year.made, point(&format!("{:04}", year.made), year.now)));
        year.made += 1;
        year.most = year.most.max(year.left.len());
        let plan = plan_retention(&year.left, rules, year.now);
        let gone: Vec<&str> = plan.removed().map(|decision| decision.id.as_str()).collect();
        year.left.retain(|point| !gone.contains(&point.id.as_str()));
        clock.advance(step);
    }
    year
}

fn printed(year: &Year, rules: &Retention) -> String {
    let mut text =
        format!("{} points were made, at most {} were there at once, {} are left\n\n", year.made, year.most, year.left.len());
    for decision in plan_retention(&year.left, rules, year.now).decisions {
        let reasons: Vec<String> = decision.reasons.iter().map(ToString::to_string).collect();
        writeln!(text, "{}  {}  {}", decision.id, decision.stored.format("%F %R %a"), reasons.join("; ")).unwrap();
    }
    text
}

/// `FARSHORE_WRITE_GOLDEN=1` writes the file anew, for a change that is meant.
fn compare(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/retention").join(name);
    if std::env::var_os("FARSHORE_WRITE_GOLDEN").is_some() {
        fs::write(&path, text).unwrap();
    }
    let expected = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert_eq!(text, expected, "{} differs", path.display());
}

#[test]
fn a_year_of_daily_points_leaves_what_the_golden_file_says() {
    let rules = Retention {
        keep_within: 7 * DAY,
        keep_last: 3,
        keep_daily: 14,
        keep_weekly: 8,
        keep_monthly: 12,
        keep_yearly: 5,
        ..Retention::default()
    };
    // A drill every fourth Sunday, one bad week in summer, one night of problems a month, a legal hold, and an attack at the end.
    let year = live("2026-01-01T02:30:00Z", DAY, &rules, |day, point| PointFacts {
        condition: match day {
            200..207 => Condition::Anomalous,
            361.. => Condition::Anomalous,
            day if day % 30 == 20 => Condition::Problems,
            _ => Condition::Good,
        },
        verified_at: (day % 28 == 3).then_some(point.stored_at),
        pin: (day == 100).then(|| PinnedUntil { until: None, reason: "case 4711".to_owned() }),
        ..point
    });
    compare("daily.txt", &printed(&year, &rules));
}

#[test]
fn a_year_of_hourly_points_leaves_what_the_golden_file_says() {
    let rules = Retention {
        keep_within: Duration::from_secs(6 * 3600),
        keep_hourly: 12,
        keep_daily: 7,
        keep_weekly: 4,
        keep_monthly: 6,
        keep_verified: 1,
        ..Retention::default()
    };
    let year = live("2026-03-01T00:10:00Z", Duration::from_secs(3600), &rules, |_, point| point);
    compare("hourly.txt", &printed(&year, &rules));
}
