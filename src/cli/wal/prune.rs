//! `farshore wal prune`.

use crate::{
    cli::{CliError, Context, place::Place, sites::EachSite},
    operations::{LogPruneRequest, prune_log},
    report::{ExitCode, LogPruneReport},
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    sites: EachSite,
    /// Say what would be deleted; delete nothing.
    #[arg(long)]
    dry_run: bool,
}

pub(super) async fn run(context: &Context, args: Args) -> Result<ExitCode, CliError> {
    let one = async |place: &Place| {
        let repository = place.open(&context.cache_dir).await?;
        let request = LogPruneRequest { repository: &repository, dry_run: args.dry_run, clock: place.clock.clone() };
        Ok(prune_log(request).await?)
    };
    args.sites.each(context, one, LogPruneReport::exit_code, LogPruneReport::text).await
}
