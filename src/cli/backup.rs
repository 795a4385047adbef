//! `farshore backup`.

use std::{path::PathBuf, time::Duration};

use super::{
    CliError, Context, assemble,
    place::{self, PlaceArgs},
};
use crate::{
    operations::{BackupRequest, OperationError, backup, plan_backup},
    report::{BackupReport, ExitCode},
    repository::{Agent, RepositoryError},
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A policy file, or the name of one in /etc/farshore/policies.
    policy: String,
    /// Only to this site of the policy; without it, to each in turn.
    #[arg(long, value_name = "NAME")]
    site: Option<String>,
    /// A reader's identity, where the policy names no agent key.
    #[arg(long, value_name = "FILE", env = "FARSHORE_IDENTITY_FILE", value_delimiter = ':')]
    identity: Vec<PathBuf>,
    /// Give up after this long (for instance 6h); not longer than the policy's limits.backup_time, which holds without it.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    time_limit: Option<Duration>,
    /// Only say what would be captured, and what it would build on; no source is touched.
    #[arg(long)]
    dry_run: bool,
}

pub(super) async fn run(context: &Context, args: Args) -> Result<ExitCode, CliError> {
    let policy = place::load_policy(&args.policy)?;
    let time_limit = match (args.time_limit, policy.limits.backup_time) {
        (Some(asked), Some(most)) if asked > most => {
            let most = humantime::format_duration(most);
            return Err(CliError::Usage(format!(
                "--time-limit is longer than the policy's limits.backup_time ({most}), which prune relies on"
            )));
        }
        (asked, most) => asked.or(most),
    };
    let sites: Vec<String> = match args.site {
        Some(name) => vec![place::choose_site(&policy, Some(&name))?.name.clone()],
        None => policy.sites.iter().map(|site| site.name.clone()).collect(),
    };
    let (mut reports, mut code, mut failure): (Vec<BackupReport>, _, _) = (Vec::new(), ExitCode::Success, None);
    for site in sites {
        let place_args = PlaceArgs { site: Some(site.clone()), identity: args.identity.clone(), first_versions: false };
        // One site that is down must not keep the others without their point.
        match one(context, &args.policy, place_args, time_limit, args.dry_run).await {
            Ok(None) => {}
            Ok(Some(report)) => {
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

async fn one(
    context: &Context,
    named_policy: &str,
    place_args: PlaceArgs,
    time_limit: Option<Duration>,
    dry_run: bool,
) -> Result<Option<BackupReport>, CliError> {
    let place = place::find(Some(named_policy), &place_args).await?;
    let Some(policy) = &place.policy else { return Err(CliError::Usage("a POLICY is needed".to_owned())) };
    let repository = place.open(&context.cache_dir).await?;
    let agent = assemble::agent();
    let request = BackupRequest {
        policy,
        sources: assemble::sources(policy, &place.clock).await?,
        repository: &repository,
        recipients: &assemble::recipients(policy)?,
        workers: assemble::workers(&policy.limits)?,
        observer: context.terminal.observer(),
        clock: place.clock.clone(),
        agent: Agent { version: agent.version, host: agent.host },
        parallelism: assemble::parallelism(&policy.limits),
        time_limit,
    };
    if dry_run {
        let plan = plan_backup(&request).await?;
        context.print(&plan, |look| {
            let builds_on = plan.builds_on.as_ref().map_or("nothing: everything is read".to_owned(), |name| {
                format!("point {} of {}", name.id, crate::report::timestamp(name.time))
            });
            let lines: String = plan.sources.iter().map(|(name, kind, what)| format!("  {name} ({kind}): {what}\n")).collect();
            format!(
                "{} Would capture {} to {}, in this order:\n{lines}  building on {builds_on}\n",
                look.note(),
                plan.policy,
                plan.site
            )
        })?;
        return Ok(None);
    }
    Ok(Some(backup(request).await.map_err(|error| named(error, named_policy))?))
}

/// With the words that mend it, as they are to be typed.
fn named(error: OperationError, word: &str) -> OperationError {
    match error {
        OperationError::Repository(RepositoryError::OtherRecipients { place, generation, missing, unnamed, .. }) => {
            let policy = word.to_owned();
            OperationError::Repository(RepositoryError::OtherRecipients { place, generation, policy, missing, unnamed })
        }
        other => other,
    }
}
