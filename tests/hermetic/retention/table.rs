//! One rule at a time, by example.

use chrono::{DateTime, TimeDelta, Utc};
use farshore::policy::{Condition, PinnedUntil, PointFacts, Retention, plan_retention};

use super::{DAY, at, point, rules};

fn now() -> DateTime<Utc> {
    at("2026-11-23T12:00:00Z")
}

/// A point stored so many hours ago.
fn ago(id: &str, hours: i64) -> PointFacts {
    point(id, now() - TimeDelta::hours(hours))
}

fn with(condition: Condition, point: PointFacts) -> PointFacts {
    PointFacts { condition, ..point }
}

fn verified(point: PointFacts) -> PointFacts {
    PointFacts { verified_at: Some(now()), ..point }
}

fn pinned(until: Option<&str>, point: PointFacts) -> PointFacts {
    PointFacts { pin: Some(PinnedUntil { until: until.map(at), reason: "trial 12/26".to_owned() }), ..point }
}

/// Ten old verified points, so that the floor holds none of those that a test is about.
fn floor() -> Vec<PointFacts> {
    (0..10).map(|number| verified(ago(&format!("floor{number}"), 24 * 200 + number))).collect()
}

/// What becomes of each point, a line each: `id: keep: reason; reason`.
fn planned(points: &[PointFacts], rules: &Retention) -> Vec<String> {
    let plan = plan_retention(points, rules, now());
    let line = |decision: &farshore::policy::Decision| {
        let reasons: Vec<String> = decision.reasons.iter().map(ToString::to_string).collect();
        format!("{}: {}: {}", decision.id, if decision.keep { "keep" } else { "remove" }, reasons.join("; "))
    };
    plan.decisions.iter().filter(|decision| !decision.id.starts_with("floor")).map(line).collect()
}

#[track_caller]
fn expect(points: &[PointFacts], rules: &Retention, expected: &[&str]) {
    let all = [points.to_vec(), floor()].concat();
    assert_eq!(planned(&all, rules), expected);
}

#[test]
fn within_is_measured_from_the_time_at_which_the_site_stored_a_point_to_the_second() {
    let boundary = point("edge", now() - TimeDelta::days(30));
    let beyond = point("over", now() - TimeDelta::days(30) - TimeDelta::seconds(1));
    // It claims to be young.
    let liar = PointFacts { consistent_at: now(), ..ago("liar", 24 * 31) };
    expect(
        &[boundary, beyond, liar],
        &rules(30 * DAY),
        &[
            "liar: remove: older than 30 days, and no other rule keeps it",
            "over: remove: older than 30 days, and no other rule keeps it",
            "edge: keep: within 30 days",
        ],
    );
}

#[test]
fn of_each_period_the_newest_point_is_kept_and_all_its_reasons_are_told() {
    let points = [
        point("a", at("2026-09-30T23:59:59Z")),
        point("b", at("2026-10-01T00:00:00Z")),
        point("c", at("2026-11-21T01:00:00Z")),
        point("d", at("2026-11-21T01:59:59Z")),
        point("e", at("2026-11-22T00:00:00Z")),
    ];
    let rules = Retention { keep_last: 1, keep_hourly: 2, keep_daily: 3, keep_monthly: 3, ..rules(DAY) };
    expect(
        &points,
        &rules,
        &[
            "a: keep: monthly 2026-09",
            "b: keep: daily 2026-10-01; monthly 2026-10",
            "c: remove: older than 1 day, and no other rule keeps it",
            "d: keep: hourly 2026-11-21 01:00; daily 2026-11-21",
            "e: keep: the last one; hourly 2026-11-22 00:00; daily 2026-11-22; monthly 2026-11",
        ],
    );
}

#[test]
fn weeks_are_those_of_iso_8601_and_belong_to_the_year_of_their_thursday() {
    // 2024-12-30 is a Monday: of the first week of 2025. Another week that counts is that of the floor's points.
    let points = [
        point("monday", at("2024-12-30T00:00:00Z")),
        point("sunday", at("2025-01-05T23:59:59Z")),
        point("next", at("2025-01-06T00:00:00Z")),
    ];
    let rules = Retention { keep_weekly: 4, keep_yearly: 9, ..rules(DAY) };
    expect(
        &points,
        &rules,
        &["monday: keep: yearly 2024", "sunday: keep: weekly 2025-W01", "next: keep: weekly 2025-W02; yearly 2025"],
    );
}

#[test]
fn of_two_points_of_one_second_the_one_that_shows_the_later_time_is_newer_and_then_the_one_with_the_higher_id() {
    let stored = at("2026-11-20T10:00:00Z");
    let later = PointFacts { consistent_at: stored, ..point("1", stored) };
    let rules = Retention { keep_daily: 1, ..rules(DAY) };
    let older = "older than 1 day, and no other rule keeps it";
    expect(
        &[point("3", stored), later, point("2", stored)],
        &rules,
        &[&format!("2: remove: {older}"), &format!("3: remove: {older}"), "1: keep: daily 2026-11-20"],
    );
}

#[test]
fn only_good_points_count_and_anomalous_ones_are_kept_only_while_they_are_young_or_pinned() {
    let points = [
        ago("good1", 24 * 5),
        ago("good2", 24 * 4),
        with(Condition::Anomalous, ago("odd1", 24 * 3)),
        with(Condition::Unreadable, ago("broken1", 24 * 3)),
        with(Condition::Anomalous, pinned(None, ago("odd2", 24 * 2))),
        with(Condition::Anomalous, ago("odd3", 12)),
        with(Condition::Unreadable, ago("broken2", 11)),
        with(Condition::Problems, ago("partial", 10)),
    ];
    let rules = Retention { keep_last: 2, keep_daily: 2, ..rules(DAY) };
    expect(
        &points,
        &rules,
        &[
            "good1: keep: one of the last 2; daily 2026-11-18",
            "good2: keep: one of the last 2; daily 2026-11-19",
            "broken1: keep: daily 2026-11-20 (damaged, for want of a better one)",
            "odd1: remove: older than 1 day, and anomalous: it counts for no other rule",
            "odd2: keep: pinned for ever: trial 12/26",
            "odd3: keep: within 1 day",
            "broken2: keep: within 1 day; one of the last 2 (damaged, for want of a better one)",
            "partial: keep: within 1 day; one of the last 2 (with problems, for want of a better one); \
             daily 2026-11-23 (with problems, for want of a better one)",
        ],
    );
}

#[test]
fn where_every_backup_has_problems_they_stand_in_for_good_ones_but_no_more_of_them_than_the_rule_keeps() {
    let points: Vec<_> = (3..9).rev().map(|day| with(Condition::Problems, ago(&day.to_string(), 24 * day))).collect();
    let removed = "remove: older than 1 day, its backup had problems, and no other rule keeps it";
    let kept = "(with problems, for want of a better one)";
    expect(
        &points,
        &Retention { keep_daily: 2, ..rules(DAY) },
        &[
            &format!("8: {removed}"),
            &format!("7: {removed}"),
            &format!("6: {removed}"),
            &format!("5: {removed}"),
            &format!("4: keep: daily 2026-11-19 {kept}"),
            &format!("3: keep: daily 2026-11-20 {kept}"),
        ],
    );
}

#[test]
fn a_pin_keeps_until_its_end_and_not_a_second_longer() {
    let points = [
        pinned(Some("2026-11-23T12:00:00Z"), ago("ended", 24 * 9)),
        pinned(Some("2026-11-23T12:00:01Z"), ago("holds", 24 * 8)),
        pinned(None, ago("forever", 24 * 7)),
    ];
    expect(
        &points,
        &rules(DAY),
        &[
            "ended: remove: its pin ended 2026-11-23 12:00:00 UTC; older than 1 day, and no other rule keeps it",
            "holds: keep: pinned until 2026-11-23 12:00:01 UTC: trial 12/26",
            "forever: keep: pinned for ever: trial 12/26",
        ],
    );
}

#[test]
fn a_point_that_the_site_dates_in_the_future_is_kept_and_counts_for_nothing() {
    let points = [ago("past", 24 * 5), ago("future", -1)];
    expect(
        &points,
        &Retention { keep_last: 1, ..rules(DAY) },
        &["past: keep: the last one", "future: keep: stored at 2026-11-23 13:00:00 UTC, which is in the future: the clocks differ"],
    );
}

#[test]
fn copies_from_another_site_have_a_calendar_of_their_own_by_the_time_that_they_show() {
    // All copied within one hour, two months ago.
    let copied = now() - TimeDelta::days(60);
    let copy = |id: &str, days: i64, minutes: i64| PointFacts {
        consistent_at: copied - TimeDelta::days(days),
        stored_at: copied + TimeDelta::minutes(minutes),
        ..point(id, copied)
    };
    let points = [copy("c90", 90, 0), copy("c60", 60, 1), copy("c30", 30, 2), point("own", copied), ago("young", 24 * 45)];
    let rules = Retention { keep_monthly: 2, ..rules(DAY) };
    expect(
        &points,
        &rules,
        &[
            "c90: remove: older than 1 day, and no other rule keeps it",
            "c60: keep: monthly 2026-07",
            "c30: keep: monthly 2026-08",
            "own: keep: monthly 2026-09",
            "young: keep: monthly 2026-10",
        ],
    );
}

#[test]
fn the_newest_verified_points_stay_however_old() {
    let points = [verified(ago("a", 24 * 90)), verified(ago("b", 24 * 80)), verified(ago("c", 24 * 70)), ago("d", 24 * 60)];
    let removed = "remove: older than 1 day, and no other rule keeps it";
    assert_eq!(
        planned(&points, &rules(DAY)),
        [
            format!("a: {removed}"),
            "b: keep: one of the 2 newest verified".to_owned(),
            "c: keep: one of the 2 newest verified".to_owned(),
            format!("d: {removed}"),
        ]
    );
}

#[test]
fn while_too_few_are_verified_the_newest_that_may_become_so_stay_too() {
    let points = [
        ago("a", 24 * 90),
        verified(ago("b", 24 * 80)),
        ago("c", 24 * 70),
        ago("d", 24 * 60),
        verified(with(Condition::Problems, ago("e", 24 * 55))),
        with(Condition::Anomalous, verified(ago("f", 24 * 50))),
    ];
    let instead = "keep: only 1 of the 2 verified points that must stay are there; kept in their stead";
    assert_eq!(
        planned(&points, &rules(DAY)),
        [
            "a: remove: older than 1 day, and no other rule keeps it".to_owned(),
            "b: keep: one of the 2 newest verified".to_owned(),
            format!("c: {instead}"),
            format!("d: {instead}"),
            format!("e: {instead}"),
            "f: remove: older than 1 day, and anomalous: it counts for no other rule".to_owned(),
        ]
    );
}

#[test]
fn where_nothing_is_good_the_best_there_is_stays_rather_than_nothing() {
    let points = [
        with(Condition::Problems, ago("partial", 24 * 90)),
        with(Condition::Anomalous, ago("odd1", 24 * 80)),
        with(Condition::Anomalous, ago("odd2", 24 * 70)),
        with(Condition::Unreadable, ago("broken", 24 * 60)),
    ];
    let kept: Vec<String> = planned(&points, &rules(DAY)).into_iter().filter(|line| line.contains(": keep: ")).collect();
    assert!(kept.len() == 2 && kept[0].starts_with("partial:") && kept[1].starts_with("odd2:"), "{kept:?}");
    let only_broken = [with(Condition::Unreadable, ago("broken", 24 * 60))];
    assert!(planned(&only_broken, &rules(DAY))[0].starts_with("broken: keep:"));
}

#[test]
fn each_policy_is_planned_for_itself() {
    let other = PointFacts { policy: "other".to_owned(), ..ago("theirs", 24 * 60) };
    let mine = verified(ago("mine", 24 * 60));
    let plan = plan_retention(&[mine, verified(ago("mine2", 24 * 50)), other], &rules(DAY), now());
    let kept: Vec<(&str, bool)> = plan.decisions.iter().map(|decision| (decision.id.as_str(), decision.keep)).collect();
    assert_eq!(kept, [("theirs", true), ("mine", true), ("mine2", true)]);
    assert_eq!(plan.removed().count(), 0);
}

#[test]
fn a_plan_is_plain_json_with_the_reasons_as_they_read() {
    let plan = plan_retention(&[ago("a", 1)], &rules(30 * DAY), now());
    let json = serde_json::to_value(&plan).unwrap();
    assert_eq!(
        json["decisions"][0],
        serde_json::json!({
            "id": "a", "policy": "p", "time": "2026-11-23T10:59:00Z", "stored": "2026-11-23T11:00:00Z", "condition": "good",
            "verified": null, "keep": true,
            "reasons": ["within 30 days", "only 0 of the 2 verified points that must stay are there; kept in their stead"],
        })
    );
}
