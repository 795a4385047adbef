//! `farshore pin`, `unpin`, `undelete`: a point that no retention removes.

use chrono::{DateTime, Days, NaiveDate, NaiveTime, TimeDelta, Utc};
use serde_json::json;

use super::{
    CliError, Context, assemble,
    place::{self, PlaceArgs},
};
use crate::{
    operations::{self, PinRequest, UndeleteRequest},
    report::{ExitCode, printable, timestamp},
    repository::{PinAction, PinRecord},
};

#[derive(Debug, clap::Args)]
pub(super) struct PinArgs {
    /// POLICY POINT; with an address in --site only POINT. POINT is an id, an unambiguous beginning of one, `latest` or
    /// `latest-verified`.
    #[arg(value_name = "POLICY POINT", num_args = 1..=2, required = true)]
    words: Vec<String>,
    #[command(flatten)]
    place: PlaceArgs,
    /// Until when: a day (2027-12-31, to its end in UTC), a time (2027-12-31T12:00:00Z), a duration from now (90d), or `forever`.
    #[arg(long, value_name = "DATE|DURATION|forever", value_parser = until)]
    until: Until,
    /// Why; shown wherever the pin is.
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

#[derive(Debug, clap::Args)]
pub(super) struct UnpinArgs {
    /// POLICY POINT; with an address in --site only POINT.
    #[arg(value_name = "POLICY POINT", num_args = 1..=2, required = true)]
    words: Vec<String>,
    #[command(flatten)]
    place: PlaceArgs,
    /// Why; kept with the record.
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

#[derive(Debug, clap::Args)]
pub(super) struct UndeleteArgs {
    /// POLICY POINT; with an address in --site only POINT.
    #[arg(value_name = "POLICY POINT", num_args = 1..=2, required = true)]
    words: Vec<String>,
    #[command(flatten)]
    place: PlaceArgs,
    /// Until when it is pinned, so that the next prune does not doom it again: as for `pin`.
    #[arg(long, value_name = "DATE|DURATION|forever", value_parser = until, default_value = "30d")]
    until: Until,
    /// Why; shown wherever the pin is.
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

/// What may stand in `--until`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Until {
    At(DateTime<Utc>),
    After(TimeDelta),
    Forever,
}

impl Until {
    /// The time it means at `now`; nothing for ever.
    fn time(self, now: DateTime<Utc>) -> Result<Option<DateTime<Utc>>, CliError> {
        match self {
            Self::Forever => Ok(None),
            Self::At(time) => Ok(Some(time)),
            Self::After(span) => now
                .checked_add_signed(span)
                .map(Some)
                .ok_or_else(|| CliError::Usage("--until is beyond all dates; write forever".to_owned())),
        }
    }
}

fn until(text: &str) -> Result<Until, String> {
    if text == "forever" {
        return Ok(Until::Forever);
    }
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Ok(Until::At(time.to_utc()));
    }
    if let Ok(day) = text.parse::<NaiveDate>() {
        let next = day.checked_add_days(Days::new(1)).ok_or("is beyond all dates; write forever")?;
        return Ok(Until::At(next.and_time(NaiveTime::MIN).and_utc()));
    }
    let span = humantime::parse_duration(text).ok().and_then(|span| TimeDelta::from_std(span).ok());
    span.map(Until::After)
        .ok_or_else(|| "should be a day (2027-12-31), a time (2027-12-31T12:00:00Z), a duration (90d), or forever".to_owned())
}

pub(super) async fn pin(context: &Context, args: PinArgs) -> Result<ExitCode, CliError> {
    record(context, args.words, &args.place, Some(args.until), &args.reason).await
}

pub(super) async fn unpin(context: &Context, args: UnpinArgs) -> Result<ExitCode, CliError> {
    record(context, args.words, &args.place, None, &args.reason).await
}

pub(super) async fn undelete(context: &Context, args: UndeleteArgs) -> Result<ExitCode, CliError> {
    let words = args.place.words(args.words, 1, "farshore undelete POLICY POINT --reason …")?;
    let place = place::find(words.policy.as_deref(), &args.place).await?;
    let repository = place.open(&context.cache_dir).await?;
    let point = operations::select_point(&repository, place.policy_name(), &words.rest[0]).await?;
    let (now, agent) = (place.clock.now(), assemble::agent());
    let until = args.until.time(now)?;
    let request = UndeleteRequest { repository: &repository, point: &point, until, reason: &args.reason, agent: &agent, now };
    show(context, &operations::undelete(&request).await?)
}

/// Pins until then, or unpins.
async fn record(
    context: &Context,
    words: Vec<String>,
    place_args: &PlaceArgs,
    until: Option<Until>,
    reason: &str,
) -> Result<ExitCode, CliError> {
    let (action, usage) = match until {
        Some(_) => (PinAction::Pin, "farshore pin POLICY POINT --until … --reason …"),
        None => (PinAction::Unpin, "farshore unpin POLICY POINT --reason …"),
    };
    let words = place_args.words(words, 1, usage)?;
    let place = place::find(words.policy.as_deref(), place_args).await?;
    let repository = place.open(&context.cache_dir).await?;
    let point = operations::select_point(&repository, place.policy_name(), &words.rest[0]).await?;
    let (now, agent) = (place.clock.now(), assemble::agent());
    let until = until.map_or(Ok(None), |until| until.time(now))?;
    let request = PinRequest { repository: &repository, point: &point, action, until, reason, agent: &agent, now };
    let record = operations::pin(&request).await?;
    show(context, &record)
}

fn show(context: &Context, record: &PinRecord) -> Result<ExitCode, CliError> {
    let shown = json!({
        "point": record.point, "policy": record.policy, "pinned": record.action == PinAction::Pin, "until": record.until,
        "reason": record.reason, "by": format!("{}@{}", record.user, record.host), "at": record.at,
    });
    context.print(&shown, |look| format!("{} {}", look.ok(), said(record)))?;
    Ok(ExitCode::Success)
}

fn said(record: &PinRecord) -> String {
    let (point, policy, reason) = (&record.point, printable(&record.policy), printable(&record.reason));
    match (record.action, record.until) {
        (PinAction::Pin, Some(until)) => format!("Point {point} of {policy} is pinned until {}: {reason}", timestamp(until)),
        (PinAction::Pin, None) => format!("Point {point} of {policy} is pinned for ever: {reason}"),
        // `give-up` says it in its own words.
        (PinAction::Unpin | PinAction::GiveUp, _) => {
            format!("Point {point} of {policy} is neither pinned nor given up any more: {reason}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{DateTime, TimeDelta, Until, until};

    #[test]
    fn a_day_lasts_to_its_end_and_a_duration_begins_now() {
        let at = |text: &str| Until::At(DateTime::parse_from_rfc3339(text).unwrap().to_utc());
        assert_eq!(until("2027-12-31"), Ok(at("2028-01-01T00:00:00Z")));
        assert_eq!(until("2027-12-31T12:00:00+02:00"), Ok(at("2027-12-31T10:00:00Z")));
        assert_eq!(until("90d"), Ok(Until::After(TimeDelta::days(90))));
        assert_eq!(until("forever"), Ok(Until::Forever));
        for wrong in ["", "31.12.2027", "2027-02-30", "soon", "-1d", "90"] {
            assert!(until(wrong).unwrap_err().contains("2027-12-31"), "{wrong}");
        }
    }
}
