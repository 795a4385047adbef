//! `farshore prune`.

use super::{CliError, Context, assemble, place::Place, sites::EachSite};
use crate::{
    operations::{PruneRequest, prune},
    report::{ExitCode, PruneReport},
    repository::Budget,
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    sites: EachSite,
    /// Say of every point whether it stays and why, and what would be doomed and deleted; write nothing.
    #[arg(long)]
    dry_run: bool,
}

pub(super) async fn run(context: &Context, args: Args) -> Result<ExitCode, CliError> {
    let one = async |place: &Place| one(context, &args, place).await;
    args.sites.each(context, one, PruneReport::exit_code, PruneReport::text).await
}

async fn one(context: &Context, args: &Args, place: &Place) -> Result<PruneReport, CliError> {
    let (policy, site) = place.of_policy()?;
    let repository = place.open(&context.cache_dir).await?;
    let request = PruneRequest {
        policy,
        retention: &site.retention,
        repository: &repository,
        workers: assemble::workers(&policy.limits)?,
        budget: Budget::new(policy.limits.memory_bytes),
        dry_run: args.dry_run,
        observer: context.terminal.observer(),
        clock: place.clock.clone(),
    };
    Ok(prune(request).await?)
}
