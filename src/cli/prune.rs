//! `farshore prune`.

use super::{
    CliError, Context, assemble,
    place::{self, PlaceArgs},
};
use crate::{
    operations::{PruneRequest, prune},
    report::{ExitCode, PruneReport},
    repository::Budget,
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
    let sites: Vec<String> = match &args.site {
        Some(name) => vec![place::choose_site(&policy, Some(name))?.name.clone()],
        None => policy.sites.iter().map(|site| site.name.clone()).collect(),
    };
    let (mut reports, mut code, mut failure): (Vec<PruneReport>, _, _) = (Vec::new(), ExitCode::Success, None);
    for site in sites {
        let place_args = PlaceArgs { site: Some(site), identity: args.identity.clone(), first_versions: false };
        // One site that is down must not keep the others from being pruned.
        match one(context, &args, place_args).await {
            Ok(report) => {
                if report.exit_code() != ExitCode::Success {
                    code = report.exit_code();
                }
                reports.push(report);
            }
            Err(error) => {
                if let Some(earlier) = failure.replace(error) {
                    earlier.print(context.json);
                }
            }
        }
    }
    if !reports.is_empty() {
        context.print(&reports, |look| reports.iter().map(|report| report.text(look)).collect())?;
    }
    failure.map_or(Ok(code), Err)
}

async fn one(context: &Context, args: &Args, place_args: PlaceArgs) -> Result<PruneReport, CliError> {
    let place = place::find(Some(&args.policy), &place_args).await?;
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
