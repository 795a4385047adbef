//! Which points stay and which may go, and why: a pure function of the points, the rules and the site's time.
//!
//! Promises (why each of them is so stands in `docs/decisions/0016-what-retention-keeps.md`):
//! * What a rule keeps depends on no other rule: another one never makes a point go.
//! * What happens to a good point depends on good points alone: one that failed, has problems or is anomalous pushes none out.
//! * Of each policy the newest `keep_verified` verified points stay; while there are fewer, so does what may become one.
//! * A pinned point stays, and so does one that the site dates in the future.
//! * A point that was given up is kept by no other rule, and what becomes of the others is as if it were not there.
//! * The order in which points come in changes nothing.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::{
    Retention,
    retention_reason::{PERIODS, Reason},
};

/// A point stored later than this after the time it shows was copied from another site, not backed up to this one. Two days:
/// longer than any backup takes.
const COPIED_AFTER: TimeDelta = TimeDelta::days(2);

/// How far a point can be relied on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Condition {
    /// Nothing is known against it.
    Good,
    /// It holds what it could; its backup reported problems.
    Problems,
    /// Far from what the points before it looked like.
    Anomalous,
    /// It cannot be read.
    Unreadable,
}

/// A pin that was not taken back. It holds until its time has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinnedUntil {
    /// For ever without.
    pub until: Option<DateTime<Utc>>,
    /// Why, in the words of who did it.
    pub reason: String,
}

/// What retention must know of a point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointFacts {
    /// Its id; unique within a policy.
    pub id: String,
    /// Name of its policy.
    pub policy: String,
    /// The time it shows, as its writer says.
    pub consistent_at: DateTime<Utc>,
    /// When the site stored it, as the site says.
    pub stored_at: DateTime<Utc>,
    /// How far it can be relied on.
    pub condition: Condition,
    /// When it was last found sound by a full reading verification or a drill.
    pub verified_at: Option<DateTime<Utc>>,
    /// Its pin.
    pub pin: Option<PinnedUntil>,
    /// It is lost, and was given up: why.
    #[serde(default)]
    pub given_up: Option<String>,
}

/// What becomes of one point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Decision {
    /// The point.
    pub id: String,
    /// Its policy.
    pub policy: String,
    /// The time it shows.
    pub time: DateTime<Utc>,
    /// When the site stored it.
    pub stored: DateTime<Utc>,
    /// How far it can be relied on.
    pub condition: Condition,
    /// When it was last found sound.
    pub verified: Option<DateTime<Utc>>,
    /// Whether it stays.
    pub keep: bool,
    /// Everything that keeps it, or why nothing does; never empty.
    pub reasons: Vec<Reason>,
}

/// What becomes of every point: by policy, in each the oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RetentionPlan {
    /// One for each point.
    pub decisions: Vec<Decision>,
}

impl RetentionPlan {
    /// The points that nothing keeps.
    pub fn removed(&self) -> impl Iterator<Item = &Decision> {
        self.decisions.iter().filter(|decision| !decision.keep)
    }
}

impl PointFacts {
    fn is_copy(&self) -> bool {
        self.stored_at - self.consistent_at > COPIED_AFTER
    }

    /// What the calendar goes by: the site's time, since a writer could claim any. All points that were copied on one day would
    /// be of that day: they go by the time they show, in a calendar of their own.
    fn dated(&self) -> DateTime<Utc> {
        if self.is_copy() { self.consistent_at } else { self.stored_at }
    }

    fn order(&self) -> (&str, DateTime<Utc>, DateTime<Utc>, &str) {
        (&self.policy, self.dated(), self.consistent_at, &self.id)
    }
}

/// A point and what was found to keep it.
struct Held<'a> {
    point: &'a PointFacts,
    reasons: Vec<Reason>,
}

/// Decides about every point, at the site's time `now`.
pub fn plan_retention(points: &[PointFacts], rules: &Retention, now: DateTime<Utc>) -> RetentionPlan {
    let mut policies: BTreeMap<&str, Vec<Held<'_>>> = BTreeMap::new();
    for point in points {
        policies.entry(&point.policy).or_default().push(Held { point, reasons: Vec::new() });
    }
    let mut decisions = Vec::with_capacity(points.len());
    for mut held in policies.into_values() {
        held.sort_by(|left, right| left.point.order().cmp(&right.point.order()));
        one_policy(&mut held, rules, now);
        decisions.extend(held.into_iter().map(|held| held.decide(rules, now)));
    }
    RetentionPlan { decisions }
}

fn one_policy(held: &mut [Held<'_>], rules: &Retention, now: DateTime<Utc>) {
    for held in held.iter_mut() {
        held.by_itself(rules, now);
    }
    let counts_at_all = |point: &PointFacts| point.stored_at <= now && point.given_up.is_none();
    let newest_first: Vec<usize> = (0..held.len()).rev().filter(|index| counts_at_all(held[*index].point)).collect();
    let (copies, backups): (Vec<usize>, Vec<usize>) = newest_first.iter().partition(|index| held[**index].point.is_copy());
    for calendar in [backups, copies] {
        for (period, count) in PERIODS.into_iter().zip(counts(rules)) {
            let found = periods(held, &calendar, count, |point| period.of(point.dated(), &point.id));
            for index in found {
                let point = held[index].point;
                let of = period.of(point.dated(), &point.id);
                held[index].reasons.push(Reason::Period { period, count, of, condition: point.condition });
            }
        }
    }
    floor(held, &newest_first, rules.keep_verified);
}

/// In the order of [`PERIODS`].
fn counts(rules: &Retention) -> [u32; 6] {
    [rules.keep_last, rules.keep_hourly, rules.keep_daily, rules.keep_weekly, rules.keep_monthly, rules.keep_yearly]
}

/// The newest good point of each of the newest `count` periods that have one. A period on the way that has none does not count; the
/// newest of its points with problems, or else of those that cannot be read, stands in for a good one, as long as there are not
/// more than `count` of these.
fn periods(held: &[Held<'_>], newest_first: &[usize], count: u32, period: impl Fn(&PointFacts) -> String) -> Vec<usize> {
    let (mut good, mut standing_in, mut found) = (0, 0, Vec::new());
    for of_one in newest_first.chunk_by(|left, right| period(held[*left].point) == period(held[*right].point)) {
        if good == count {
            break;
        }
        let newest = |condition| of_one.iter().copied().find(|index| held[*index].point.condition == condition);
        if let Some(index) = newest(Condition::Good) {
            good += 1;
            found.push(index);
        } else if standing_in < count
            // What cannot be read today may be mended: the site may have an earlier version of it.
            && let Some(index) = newest(Condition::Problems).or_else(|| newest(Condition::Unreadable))
        {
            standing_in += 1;
            found.push(index);
        }
    }
    found
}

/// The newest `keep` verified good points. While there are fewer: as many that may become one by being verified, and as many
/// that are verified and had problems; and if even these are fewer, the newest of whatever there is.
fn floor(held: &mut [Held<'_>], newest_first: &[usize], keep: u32) {
    let wanted = keep as usize;
    let newest = |held: &[Held<'_>], condition, verified| -> Vec<usize> {
        let fits = |point: &PointFacts| point.condition == condition && point.verified_at.is_some() == verified;
        newest_first.iter().copied().filter(|index| fits(held[*index].point)).take(wanted).collect()
    };
    let verified = newest(held, Condition::Good, true);
    for index in &verified {
        held[*index].reasons.push(Reason::Verified { keep });
    }
    if verified.len() >= wanted {
        return;
    }
    let have = verified.len();
    let mut instead = newest(held, Condition::Good, false);
    instead.extend(newest(held, Condition::Problems, true));
    for condition in [Condition::Problems, Condition::Anomalous, Condition::Unreadable] {
        let missing = wanted.saturating_sub(have + instead.len());
        let others = newest_first.iter().copied().filter(|index| held[*index].point.condition == condition);
        let others: Vec<usize> = others.filter(|index| !instead.contains(index)).take(missing).collect();
        instead.extend(others);
    }
    for index in instead {
        held[index].reasons.push(Reason::Floor { have, keep });
    }
}

impl Held<'_> {
    /// What keeps a point whatever others there are.
    fn by_itself(&mut self, rules: &Retention, now: DateTime<Utc>) {
        let point = self.point;
        if let Some(pin) = point.pin.as_ref().filter(|pin| pin.until.is_none_or(|until| until > now)) {
            self.reasons.push(Reason::Pinned { until: pin.until, reason: pin.reason.clone() });
        }
        if point.stored_at > now {
            self.reasons.push(Reason::Future { stored_at: point.stored_at });
        } else if point.given_up.is_none()
            && TimeDelta::from_std(rules.keep_within).is_ok_and(|within| now - point.stored_at <= within)
        {
            self.reasons.push(Reason::Within { limit: rules.keep_within });
        }
    }

    fn decide(self, rules: &Retention, now: DateTime<Utc>) -> Decision {
        let Self { point, mut reasons } = self;
        let keep = !reasons.is_empty();
        if let Some(why) = point.given_up.as_ref().filter(|_| !keep) {
            reasons.push(Reason::GivenUp { why: why.clone() });
        } else if !keep {
            let unpinned = point.pin.as_ref().and_then(|pin| pin.until).filter(|until| *until <= now);
            reasons.push(Reason::Nothing { limit: rules.keep_within, condition: point.condition, unpinned });
        }
        Decision {
            id: point.id.clone(),
            policy: point.policy.clone(),
            time: point.consistent_at,
            stored: point.stored_at,
            condition: point.condition,
            verified: point.verified_at,
            keep,
            reasons,
        }
    }
}
