//! `farshore verify`.

use super::{
    CliError, Context, assemble,
    place::{self, PlaceArgs},
};
use crate::{
    operations::{VerifyLevel, VerifyRequest, verify},
    policy::Limits,
    report::ExitCode,
    repository::{Budget, Reader},
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A policy file, or the name of one in /etc/farshore/policies; not needed with an address in --site.
    policy: Option<String>,
    #[command(flatten)]
    place: PlaceArgs,
    /// Read the packs, too, and authenticate every byte: all of them, or so many percent, chosen anew each time. Needs
    /// --identity.
    #[arg(long, value_name = "PERCENT", num_args = 0..=1, default_missing_value = "100", require_equals = true, value_parser = percent)]
    read_data: Option<f64>,
}

fn percent(text: &str) -> Result<f64, String> {
    let number: f64 = text.trim_end_matches('%').parse().map_err(|_| "expected a number from 0 to 100".to_owned())?;
    if number > 0.0 && number <= 100.0 { Ok(number) } else { Err("expected more than 0 and at most 100".to_owned()) }
}

pub(super) async fn run(context: &Context, args: Args) -> Result<ExitCode, CliError> {
    let words =
        args.place.words(args.policy.into_iter().collect(), 0, "farshore verify POLICY, or farshore verify --site ADDRESS")?;
    let place = place::find(words.policy.as_deref(), &args.place).await?;
    let repository = place.open(&context.cache_dir).await?;
    let limits = place.policy.as_ref().map_or_else(Limits::default, |policy| policy.limits);
    let report = verify(VerifyRequest {
        repository: &repository,
        reader: Reader::open(&repository, assemble::workers(&limits)?, Budget::new(limits.memory_bytes)).await?,
        // Packs are shared by all policies of a repository: its points are looked at together.
        policy: None,
        level: args.read_data.map_or(VerifyLevel::Structure, VerifyLevel::ReadData),
        observer: context.terminal.observer(),
        clock: place.clock.clone(),
    })
    .await?;
    context.print(&report, |look| report.text(look))?;
    Ok(report.exit_code())
}
