//! `farshore verify`.

use chrono::TimeDelta;

use super::{
    CliError, Context, assemble, identity,
    place::{self, EACH_SITE, PlaceArgs},
    sites::{self, Sites},
};
use crate::{
    operations::{VerifyLevel, VerifyRequest, verify},
    policy::{Limits, SitePolicy},
    report::{ExitCode, VerifyReport},
    repository::{Budget, Identities},
};

#[derive(Debug, clap::Args)]
#[command(mut_arg("site", |site| site.help(EACH_SITE)))]
pub(super) struct Args {
    /// A policy file, or the name of one in /etc/farshore/policies; not needed with an address in --site.
    policy: Option<String>,
    #[command(flatten)]
    place: PlaceArgs,
    /// Read packs, too, and authenticate every byte: all of them (one that was interrupted goes on); so many percent, chosen
    /// anew each time; or 1/30: the thirtieth part whose turn it is, so that thirty such runs read everything; each site has its own turn. Needs --identity.
    #[arg(long, value_name = "PERCENT|1/N", num_args = 0..=1, default_missing_value = "100", require_equals = true, value_parser = level)]
    read_data: Option<VerifyLevel>,
}

/// Most parts of a rolling verification: with one part a night, each pack is read at least every second year.
const MOST_PARTS: u32 = 1000;

fn level(text: &str) -> Result<VerifyLevel, String> {
    if let Some((one, parts)) = text.split_once('/') {
        let parts = parts.parse().ok().filter(|parts| one == "1" && (1..=MOST_PARTS).contains(parts));
        let parts: u32 = parts
            .ok_or_else(|| format!("expected 1/N, with N from 1 to {MOST_PARTS}; which part it is follows from earlier runs"))?;
        return Ok(if parts == 1 { VerifyLevel::ReadData(100.0) } else { VerifyLevel::ReadPart(parts) });
    }
    let number: f64 = text.trim_end_matches('%').parse().map_err(|_| "expected a number from 0 to 100, or 1/N".to_owned())?;
    if number > 0.0 && number <= 100.0 {
        Ok(VerifyLevel::ReadData(number))
    } else {
        Err("expected more than 0 and at most 100".to_owned())
    }
}

/// How long a reading counts towards a point's being verified: half as long again as points are kept, so that a nightly thirtieth
/// may miss some nights; at least 45 days.
fn window(site: Option<&SitePolicy>) -> TimeDelta {
    let least = TimeDelta::days(45);
    let kept = site.and_then(|site| TimeDelta::from_std(site.retention.keep_within).ok());
    kept.and_then(|kept| kept.checked_add(&(kept / 2))).map_or(least, |window| window.max(least))
}

pub(super) async fn run(context: &Context, args: Args) -> Result<ExitCode, CliError> {
    let level = args.read_data.unwrap_or(VerifyLevel::Structure);
    let words =
        args.place.words(args.policy.into_iter().collect(), 0, "farshore verify POLICY, or farshore verify --site ADDRESS")?;
    let identities = identity::read(args.place.identity.clone()).await?;
    let names: Vec<Option<String>> = match &words.policy {
        Some(policy) => {
            let policy = place::load_policy(policy)?;
            sites::meant(&policy, args.place.site.as_deref())?.iter().map(|site| Some(site.name.clone())).collect()
        }
        None => vec![args.place.site.clone()],
    };
    let mut done = Sites::new();
    for site in names {
        let place_args = PlaceArgs { site, ..args.place.clone() };
        let outcome = one(context, words.policy.as_deref(), &place_args, identities.clone(), level).await;
        done.take(context, outcome, VerifyReport::exit_code);
    }
    done.finish(context, VerifyReport::text)
}

async fn one(
    context: &Context,
    policy: Option<&str>,
    place_args: &PlaceArgs,
    identities: Identities,
    level: VerifyLevel,
) -> Result<VerifyReport, CliError> {
    let place = place::find_with(policy, place_args, identities).await?;
    let repository = place.open(&context.cache_dir).await?;
    let limits = place.policy.as_ref().map_or_else(Limits::default, |policy| policy.limits);
    let request = VerifyRequest {
        repository: &repository,
        workers: assemble::workers(&limits)?,
        budget: Budget::new(limits.memory_bytes),
        // Packs are shared by all policies of a repository: its points are looked at together.
        policy: None,
        level,
        window: window(place.site.as_ref()),
        observer: context.terminal.observer(),
        clock: place.clock.clone(),
    };
    Ok(verify(request).await?)
}
