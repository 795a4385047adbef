//! What holds for any points and any rules.

use std::{collections::BTreeSet, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use farshore::policy::{Condition, PinnedUntil, PointFacts, Retention, RetentionPlan, plan_retention};
use proptest::prelude::{Just, Strategy, any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest};

use super::at;

fn now() -> DateTime<Utc> {
    at("2026-11-23T12:00:00Z")
}

fn condition() -> impl Strategy<Value = Condition> {
    prop_oneof![
        5 => Just(Condition::Good),
        1 => Just(Condition::Problems),
        1 => Just(Condition::Anomalous),
        1 => Just(Condition::Unreadable),
    ]
}

/// Times are drawn from few, so that ties and shared periods are common.
fn point() -> impl Strategy<Value = PointFacts> {
    let shown_before = prop_oneof![4 => 0..180_i64, 1 => 0..60 * 24 * 90_i64];
    let pin = prop_oneof![4 => Just(None), 1 => prop::option::of(-50..50_i64).prop_map(Some)];
    let given_up = prop::bool::weighted(0.1);
    let policy = prop_oneof![4 => Just("p"), 1 => Just("q")];
    (-3..24 * 120_i64, shown_before, condition(), any::<bool>(), pin, given_up, policy).prop_map(
        |(hours, minutes, condition, verified, pin, given_up, policy)| {
            let stored_at = now() - TimeDelta::hours(hours);
            PointFacts {
                id: String::new(),
                policy: policy.to_owned(),
                consistent_at: stored_at - TimeDelta::minutes(minutes),
                stored_at,
                condition,
                verified_at: verified.then(now),
                pin: pin
                    .map(|hours| PinnedUntil { until: hours.map(|hours| now() + TimeDelta::hours(hours)), reason: "r".to_owned() }),
                given_up: given_up.then(|| "lost".to_owned()),
            }
        },
    )
}

fn points() -> impl Strategy<Value = Vec<PointFacts>> {
    prop::collection::vec(point(), 0..60).prop_map(|mut points| {
        points.iter_mut().enumerate().for_each(|(number, point)| point.id = format!("{number:04}"));
        points
    })
}

fn rules() -> impl Strategy<Value = Retention> {
    let few = || 0..6_u32;
    (1..40_u64, few(), few(), few(), few(), few(), few(), 1..5_u32).prop_map(
        |(days, keep_last, keep_hourly, keep_daily, keep_weekly, keep_monthly, keep_yearly, keep_verified)| Retention {
            keep_within: Duration::from_secs(days * 24 * 3600),
            keep_last,
            keep_hourly,
            keep_daily,
            keep_weekly,
            keep_monthly,
            keep_yearly,
            keep_verified,
            ..Retention::default()
        },
    )
}

fn kept(plan: &RetentionPlan) -> BTreeSet<String> {
    plan.decisions.iter().filter(|decision| decision.keep).map(|decision| decision.id.clone()).collect()
}

fn kept_of(points: &[PointFacts], rules: &Retention) -> BTreeSet<String> {
    kept(&plan_retention(points, rules, now()))
}

proptest! {
    #[test]
    fn another_rule_never_makes_a_kept_point_go(points in points(), one in rules(), other in rules()) {
        let both = Retention {
            keep_within: one.keep_within.max(other.keep_within),
            keep_last: one.keep_last.max(other.keep_last),
            keep_hourly: one.keep_hourly.max(other.keep_hourly),
            keep_daily: one.keep_daily.max(other.keep_daily),
            keep_weekly: one.keep_weekly.max(other.keep_weekly),
            keep_monthly: one.keep_monthly.max(other.keep_monthly),
            keep_yearly: one.keep_yearly.max(other.keep_yearly),
            keep_verified: one.keep_verified.max(other.keep_verified),
            ..one
        };
        let (kept, more) = (kept_of(&points, &one), kept_of(&points, &both));
        prop_assert!(kept.is_subset(&more), "{:?}", kept.difference(&more));
    }

    #[test]
    fn the_floor_holds_for_each_policy(points in points(), rules in rules()) {
        let kept = kept_of(&points, &rules);
        for policy in ["p", "q"] {
            let floor = |wanted: &dyn Fn(&PointFacts) -> bool| {
                let counts = |point: &&PointFacts| point.policy == policy && point.given_up.is_none() && wanted(point);
                let all: Vec<_> = points.iter().filter(counts).collect();
                let staying = all.iter().filter(|point| kept.contains(&point.id)).count();
                (staying, all.len().min(rules.keep_verified as usize))
            };
            let (staying, least) = floor(&|point| point.condition == Condition::Good && point.verified_at.is_some());
            prop_assert!(staying >= least, "verified: {} of {}", staying, least);
            let (staying, least) = floor(&|_| true);
            prop_assert!(staying >= least, "any: {} of {}", staying, least);
        }
    }

    #[test]
    fn what_becomes_of_good_points_does_not_hang_on_bad_ones(points in points(), rules in rules()) {
        let good: Vec<_> = points.iter().filter(|point| point.condition == Condition::Good).cloned().collect();
        let alone = plan_retention(&good, &rules, now()).decisions;
        let among_bad = plan_retention(&points, &rules, now()).decisions.into_iter();
        let among_bad: Vec<_> = among_bad.filter(|decision| decision.condition == Condition::Good).collect();
        prop_assert_eq!(alone, among_bad);
    }

    #[test]
    fn what_is_pinned_young_or_of_the_future_stays(points in points(), rules in rules()) {
        let kept = kept_of(&points, &rules);
        for point in &points {
            let pinned = point.pin.as_ref().is_some_and(|pin| pin.until.is_none_or(|until| until > now()));
            let young = (now() - point.stored_at).to_std().map_or(true, |age| age <= rules.keep_within);
            let future = point.stored_at > now();
            let stays = pinned || future || young && point.given_up.is_none();
            prop_assert!(!stays || kept.contains(&point.id), "{:?}", point);
        }
    }

    #[test]
    fn what_was_given_up_is_kept_by_a_pin_alone_and_changes_nothing_for_the_others(points in points(), rules in rules()) {
        let others: Vec<_> = points.iter().filter(|point| point.given_up.is_none()).cloned().collect();
        let (among, alone) = (plan_retention(&points, &rules, now()), plan_retention(&others, &rules, now()));
        let is_other = |id: &str| others.iter().any(|point| point.id == id);
        let of_others: Vec<_> = among.decisions.iter().filter(|decision| is_other(&decision.id)).cloned().collect();
        prop_assert_eq!(of_others, alone.decisions);
        for decision in among.decisions.iter().filter(|decision| !is_other(&decision.id)) {
            let reason = decision.reasons[0].to_string();
            let is_right = if decision.keep { reason.contains("pinned") || reason.contains("future") } else { reason == "given up: lost" };
            prop_assert!(is_right, "{:?}", decision);
        }
    }

    #[test]
    fn the_order_of_the_points_changes_nothing(
        (points, shuffled) in points().prop_flat_map(|points| (Just(points.clone()), Just(points).prop_shuffle())), rules in rules(),
    ) {
        prop_assert_eq!(plan_retention(&points, &rules, now()), plan_retention(&shuffled, &rules, now()));
    }

    #[test]
    fn a_point_that_went_is_not_missed_by_the_next_plan(points in points(), rules in rules()) {
        let first = kept_of(&points, &rules);
        let left: Vec<_> = points.iter().filter(|point| first.contains(&point.id)).cloned().collect();
        prop_assert_eq!(kept_of(&left, &rules), first);
    }

    #[test]
    fn every_decision_has_a_reason_and_every_point_a_decision(points in points(), rules in rules()) {
        let plan = plan_retention(&points, &rules, now());
        prop_assert!(plan.decisions.iter().all(|decision| !decision.reasons.is_empty()));
        let ids: BTreeSet<_> = plan.decisions.iter().map(|decision| &decision.id).collect();
        prop_assert_eq!((ids.len(), plan.decisions.len()), (points.len(), points.len()));
    }
}
