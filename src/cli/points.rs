//! `farshore points`.

use chrono::{DateTime, Utc};

use super::{
    CliError, Context,
    place::{self, PlaceArgs},
};
use crate::{
    operations::{PointSummary, planned_retention, point_summaries},
    policy::{Condition, RetentionPlan},
    report::{Align, ExitCode, Look, Table, bytes, count, printable, timestamp},
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A policy file, or the name of one in /etc/farshore/policies; not needed with an address in --site.
    policy: Option<String>,
    #[command(flatten)]
    place: PlaceArgs,
    /// Say of each point whether the retention of the policy, or of the site, keeps it, and why. Nothing is removed by this. Needs a POLICY.
    #[arg(long)]
    retention: bool,
}

pub(super) async fn run(context: &Context, args: Args) -> Result<ExitCode, CliError> {
    let words =
        args.place.words(args.policy.into_iter().collect(), 0, "farshore points POLICY, or farshore points --site ADDRESS")?;
    let place = place::find(words.policy.as_deref(), &args.place).await?;
    let repository = place.open(&context.cache_dir).await?;
    if args.retention {
        let (Some(policy), Some(site)) = (&place.policy, &place.site) else {
            return Err(CliError::Usage("--retention needs a POLICY, whose rules it shows".to_owned()));
        };
        let plan = planned_retention(&repository, &policy.name, &site.retention, place.clock.now()).await?;
        context.print(&plan.decisions, |_| retention_text(&plan))?;
        let damaged = plan.decisions.iter().any(|decision| decision.condition == Condition::Unreadable);
        return Ok(if damaged { ExitCode::Damaged } else { ExitCode::Success });
    }
    let now = place.clock.now();
    let points = point_summaries(&repository, place.policy_name()).await?;
    let damaged = points.iter().any(|point| point.unreadable.is_some());
    context.print(&points, |look| {
        let unencrypted = if repository.is_unencrypted() {
            "\nEncryption: NONE: everybody who can read the site can read the data\n"
        } else {
            ""
        };
        format!("{}{unencrypted}", text(&points, now, look))
    })?;
    Ok(if damaged { ExitCode::Damaged } else { ExitCode::Success })
}

const NO_POINTS: &str = "No recovery points yet; `farshore backup` makes one.";

fn retention_text(plan: &RetentionPlan) -> String {
    if plan.decisions.is_empty() {
        return NO_POINTS.to_owned();
    }
    let columns = [("point", Align::Left), ("stored at", Align::Left), ("", Align::Left), ("why", Align::Left)];
    let mut table = Table::new(&columns);
    for decision in &plan.decisions {
        let reasons: Vec<String> = decision.reasons.iter().map(ToString::to_string).collect();
        let verdict = if decision.keep { "keep" } else { "remove" };
        table.row(vec![decision.id.clone(), timestamp(decision.stored), verdict.to_owned(), reasons.join("; ")]);
    }
    let (all, removed) = (plan.decisions.len() as u64, plan.removed().count() as u64);
    format!("{table}\n  {} of {} points are kept; this list removes nothing\n", count(all - removed), count(all))
}

/// What is worth knowing of a point beside its figures, briefly.
fn remark(point: &PointSummary, now: DateTime<Utc>) -> String {
    let mut remarks = Vec::new();
    if point.unreadable.is_some() {
        remarks.push("DAMAGED".to_owned());
    }
    if point.given_up.is_some() {
        remarks.push("GIVEN UP".to_owned());
    }
    if !point.anomalies.is_empty() {
        remarks.push("ANOMALOUS".to_owned());
    }
    if !point.missing_at.is_empty() {
        remarks.push(format!("not at {}", point.missing_at.iter().map(|name| printable(name)).collect::<Vec<_>>().join(", ")));
    }
    match point.problems {
        0 => {}
        1 => remarks.push("1 problem".to_owned()),
        many => remarks.push(format!("{many} problems")),
    }
    remarks.extend(point.pinned.as_ref().filter(|pin| pin.holds(now)).map(|pin| match pin.until {
        Some(until) => format!("pinned until {}", timestamp(until)),
        None => "pinned for ever".to_owned(),
    }));
    remarks.extend(point.doomed.map(|until| format!("doomed, deleted after {}", timestamp(until))));
    remarks.join(", ")
}

fn text(points: &[PointSummary], now: DateTime<Utc>, look: Look) -> String {
    if points.is_empty() {
        return NO_POINTS.to_owned();
    }
    let mut table = Table::new(&[
        ("point", Align::Left),
        ("consistent at", Align::Left),
        ("policy", Align::Left),
        ("items", Align::Right),
        ("size", Align::Right),
        ("verified", Align::Left),
        ("", Align::Left),
    ]);
    for point in points {
        table.row(vec![
            point.id.clone(),
            timestamp(point.time),
            point.policy.clone(),
            count(point.entries),
            bytes(point.bytes),
            point.verified.map_or_else(|| "never".to_owned(), timestamp),
            remark(point, now),
        ]);
    }
    let broken: String =
        points.iter().filter_map(|point| point.unreadable.as_ref()).map(|detail| format!("\n{detail}\n")).collect();
    let anomalies: String = points.iter().flat_map(|point| point.anomalies.iter().map(move |anomaly| (point, anomaly))).fold(
        String::new(),
        |text, (point, anomaly)| {
            let (source, message) = (printable(&anomaly.source), printable(&anomaly.message));
            text + &format!("\n{} ANOMALOUS {}: {source}: {message}\n", look.failed(), point.id)
        },
    );
    format!("{table}{anomalies}{broken}")
}
