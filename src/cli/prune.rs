//! `farshore prune`.

use super::{
    CliError, Context, assemble, identity,
    place::{self, PlaceArgs},
    sites::{self, Sites},
};
use crate::{
    operations::{PruneRequest, prune},
    report::{ExitCode, PruneReport},
    repository::{Budget, Identities},
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
    /// Say of every point whether it stays and why, and what would be doomed and deleted; write nothing.
    #[arg(long)]
    dry_run: bool,
}

pub(super) async fn run(context: &Context, args: Args) -> Result<ExitCode, CliError> {
    let policy = place::load_policy(&args.policy)?;
    let identities = identity::read(args.identity.clone()).await?;
    let mut done = Sites::new();
    for site in sites::meant(&policy, args.site.as_deref())? {
        let place_args = PlaceArgs { site: Some(site.name.clone()), identity: Vec::new(), first_versions: false };
        done.take(context, one(context, &args, place_args, identities.clone()).await, PruneReport::exit_code);
    }
    done.finish(context, PruneReport::text)
}

async fn one(context: &Context, args: &Args, place_args: PlaceArgs, identities: Identities) -> Result<PruneReport, CliError> {
    let place = place::find_with(Some(&args.policy), &place_args, identities).await?;
    let (Some(policy), Some(site)) = (&place.policy, &place.site) else {
        return Err(CliError::Usage("a POLICY is needed".to_owned()));
    };
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
