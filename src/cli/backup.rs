//! `farshore backup`.

use std::{path::PathBuf, time::Duration};

use futures_util::future::join_all;

use super::{
    CliError, Context, assemble,
    place::{self, PlaceArgs},
    shard::ShardArg,
    sites,
};
use crate::{
    clock::SystemClock,
    operations::{
        Backed, BackupPlan, BackupRequest, CHECKPOINT_EVERY, Destination, OperationError, backup, backup_shard, commit_shards,
        plan_backup,
    },
    report::{BackupReport, ExitCode, Look},
    repository::{Agent, Recipients, Repository, RepositoryError},
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A policy file, or the name of one in /etc/farshore/policies.
    policy: String,
    /// Only to this site of the policy; without it, to all of them, with one read of the sources.
    #[arg(long, value_name = "NAME")]
    site: Option<String>,
    /// A reader's identity, where the policy names no agent key.
    #[arg(long, value_name = "FILE", env = "FARSHORE_IDENTITY_FILE", value_delimiter = ':')]
    identity: Vec<PathBuf>,
    /// Give up after this long (for instance 6h); not longer than the policy's limits.backup_time, which holds without it.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    time_limit: Option<Duration>,
    /// Capture only this shard of the buckets, for several machines that make one point together: I/N with I from 0 to N-1, or auto/N with
    /// I from JOB_COMPLETION_INDEX, SLURM_ARRAY_TASK_ID or AWS_BATCH_JOB_ARRAY_INDEX. `--commit-shards N` makes the point of them.
    #[arg(long, value_name = "I/N", conflicts_with = "dry_run")]
    shard: Option<ShardArg>,
    /// Make the point of N shards that were captured.
    #[arg(long, value_name = "N", conflicts_with_all = ["shard", "dry_run"], value_parser = clap::value_parser!(u32).range(1..))]
    commit_shards: Option<u32>,
    /// Wait so long for shards that are still at work.
    #[arg(long, value_name = "DURATION", requires = "commit_shards", default_value = "0s", value_parser = humantime::parse_duration)]
    wait: Duration,
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
    let shard = args.shard.map(|shard| shard.resolve(|name| std::env::var(name).ok())).transpose().map_err(CliError::Usage)?;
    let sites: Vec<String> = sites::meant(&policy, args.site.as_deref())?.iter().map(|site| site.name.clone()).collect();
    let mut failures: Vec<(String, CliError)> = Vec::new();
    let opened = join_all(sites.iter().map(|site| open(context, &args, site))).await;
    let mut open_sites: Vec<OpenSite> = Vec::new();
    for (opened, site) in opened.into_iter().zip(sites) {
        match opened {
            Ok(open) => open_sites.push(open),
            // One site that is down must not keep the others without their point.
            Err(error) => failures.push((site, error)),
        }
    }
    if open_sites.is_empty() {
        return end(context, ExitCode::Success, failures);
    }
    let clock = SystemClock::shared();
    let agent = assemble::agent();
    let request = BackupRequest {
        checkpoint_every: CHECKPOINT_EVERY,
        policy: &policy,
        sources: assemble::sources(&policy, &clock).await?,
        destinations: open_sites.iter().map(OpenSite::destination).collect(),
        unreachable: failures.iter().map(|(site, _)| site.clone()).collect(),
        workers: assemble::workers(&policy.limits)?,
        observer: context.terminal.observer(),
        clock,
        agent: Agent { version: agent.version, host: agent.host },
        parallelism: assemble::parallelism(&policy.limits),
        time_limit,
    };
    if args.dry_run {
        for destination in &request.destinations {
            match plan_backup(&request, destination).await {
                Ok(plan) => context.print(&plan, |look| plan_text(&plan, look))?,
                Err(error) => failures.push((destination.name.clone(), error.into())),
            }
        }
        return end(context, ExitCode::Success, failures);
    }
    if let Some(shard) = shard {
        let report = backup_shard(&request, shard).await.map_err(|error| named(error, &args.policy))?;
        context.print(&report, |look| report.text(look))?;
        return end(context, report.exit_code(), failures);
    }
    let Backed { reports, failed } = match args.commit_shards {
        Some(shards) => commit_shards(&request, shards, args.wait).await?,
        None => backup(request).await?,
    };
    failures.extend(failed.into_iter().map(|(site, error)| (site, named(error, &args.policy).into())));
    if !reports.is_empty() {
        context.print(&reports, |look| reports.iter().map(|report| report.text(look)).collect())?;
    }
    let code = reports.iter().map(BackupReport::exit_code).find(|code| *code != ExitCode::Success).unwrap_or(ExitCode::Success);
    end(context, code, failures)
}

/// Prints all errors but the first, which decides how the command ends.
fn end(context: &Context, code: ExitCode, failures: Vec<(String, CliError)>) -> Result<ExitCode, CliError> {
    let mut failures = failures.into_iter().map(|(_, error)| error);
    let first = failures.next();
    failures.for_each(|error| error.print(context.json));
    first.map_or(Ok(code), Err)
}

/// A site with what it takes to write to it.
struct OpenSite {
    name: String,
    repository: Repository,
    recipients: Recipients,
}

impl OpenSite {
    fn destination(&self) -> Destination<'_> {
        Destination { name: self.name.clone(), repository: &self.repository, recipients: &self.recipients }
    }
}

async fn open(context: &Context, args: &Args, site: &str) -> Result<OpenSite, CliError> {
    let place_args = PlaceArgs { site: Some(site.to_owned()), identity: args.identity.clone(), first_versions: false };
    let place = place::find(Some(&args.policy), &place_args).await?;
    let (Some(policy), Some(site)) = (&place.policy, &place.site) else {
        return Err(CliError::Usage("a POLICY is needed".to_owned()));
    };
    let recipients = assemble::recipients(policy, &site.encryption)?;
    Ok(OpenSite { name: site.name.clone(), repository: place.open(&context.cache_dir).await?, recipients })
}

fn plan_text(plan: &BackupPlan, look: Look) -> String {
    let builds_on = plan.builds_on.as_ref().map_or("nothing: everything is read".to_owned(), |name| {
        format!("point {} of {}", name.id, crate::report::timestamp(name.time))
    });
    let lines: String = plan.sources.iter().map(|(name, kind, what)| format!("  {name} ({kind}): {what}\n")).collect();
    format!("{} Would capture {} to {}, in this order:\n{lines}  building on {builds_on}\n", look.note(), plan.policy, plan.site)
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
