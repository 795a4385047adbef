//! `farshore repair`.

use super::{
    CliError, Context, assemble,
    place::{self, PlaceArgs},
    terminal,
};
use crate::{
    operations::{RepairRequest, repair},
    policy::Limits,
    report::{ExitCode, Hurt},
    repository::Budget,
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A policy file, or the name of one in /etc/farshore/policies; not needed with an address in --site.
    policy: Option<String>,
    #[command(flatten)]
    place: PlaceArgs,
    /// Write nothing: only say what would be rebuilt, and what is hurt.
    #[arg(long)]
    dry_run: bool,
}

pub(super) async fn run(context: &Context, args: Args) -> Result<ExitCode, CliError> {
    let words =
        args.place.words(args.policy.into_iter().collect(), 0, "farshore repair POLICY, or farshore repair --site ADDRESS")?;
    let place = place::find(words.policy.as_deref(), &args.place).await?;
    let repository = place.open(&context.cache_dir).await?;
    let limits = place.policy.as_ref().map_or_else(Limits::default, |policy| policy.limits);
    // With --json one value a line: what is hurt as it is found, and the report last.
    let hurt = |hurt: &Hurt| match serde_json::to_string(hurt) {
        Ok(json) if context.json => terminal::print(&json),
        _ => terminal::print(&hurt.text()),
    };
    let report = repair(RepairRequest {
        repository: &repository,
        workers: assemble::workers(&limits)?,
        budget: Budget::new(limits.memory_bytes),
        dry_run: args.dry_run,
        hurt: &hurt,
        observer: context.terminal.observer(),
        clock: place.clock.clone(),
    })
    .await?;
    context.terminal.finish();
    if context.json {
        terminal::print(&serde_json::to_string(&report).map_err(|error| CliError::other("report", error))?);
    } else {
        terminal::print(report.text(context.look).trim_end());
    }
    Ok(report.exit_code())
}
