//! `farshore wal prune`.

use crate::{
    cli::{
        CliError, Context, identity,
        place::{self, PlaceArgs},
        sites::{self, Sites},
    },
    operations::{LogPruneRequest, prune_log},
    report::{ExitCode, LogPruneReport},
    repository::Identities,
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A policy file, or the name of one in /etc/farshore/policies.
    policy: String,
    /// Only this site of the policy; without it, each in turn.
    #[arg(long, value_name = "NAME")]
    site: Option<String>,
    /// A reader's identity, where the policy names no agent key.
    #[arg(long, value_name = "FILE", env = "FARSHORE_IDENTITY_FILE", value_delimiter = ':')]
    identity: Vec<std::path::PathBuf>,
    /// Say what would be deleted; delete nothing.
    #[arg(long)]
    dry_run: bool,
}

pub(super) async fn run(context: &Context, args: Args) -> Result<ExitCode, CliError> {
    let policy = place::load_policy(&args.policy)?;
    let identities = identity::read(args.identity.clone()).await?;
    let mut done = Sites::new();
    for site in sites::meant(&policy, args.site.as_deref())? {
        let place_args = PlaceArgs { site: Some(site.name.clone()), identity: Vec::new(), first_versions: false };
        done.take(context, one(context, &args, place_args, identities.clone()).await, LogPruneReport::exit_code);
    }
    done.finish(context, LogPruneReport::text)
}

async fn one(context: &Context, args: &Args, place_args: PlaceArgs, identities: Identities) -> Result<LogPruneReport, CliError> {
    let place = place::find_with(Some(&args.policy), &place_args, identities).await?;
    let repository = place.open(&context.cache_dir).await?;
    let request = LogPruneRequest { repository: &repository, dry_run: args.dry_run, clock: place.clock.clone() };
    Ok(prune_log(request).await?)
}
