//! `farshore wal prefetch`: `get` starts it.

use std::path::PathBuf;

use super::sites::read_sites;
use crate::{
    cli::{CliError, Context, identity, place::PlaceArgs},
    clock::SystemClock,
    operations::{Archives, PrefetchRequest, prefetch},
    report::ExitCode,
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A policy file, or the name of one in /etc/farshore/policies; not needed with an address in --site.
    policy: Option<String>,
    #[command(flatten)]
    place: PlaceArgs,
    /// Where what was fetched is put.
    #[arg(long, value_name = "DIR")]
    directory: PathBuf,
}

pub(super) async fn run(context: &Context, args: Args) -> Result<ExitCode, CliError> {
    let identities = identity::read(args.place.identity.clone()).await?;
    let archives = Archives::new(read_sites(args.policy.as_deref(), &args.place, &identities, &context.cache_dir)?);
    prefetch(PrefetchRequest { directory: &args.directory, archives: &archives, clock: SystemClock::shared() }).await?;
    Ok(ExitCode::Success)
}
