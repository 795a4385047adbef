//! `farshore copy`.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc};

use serde::Serialize;

use super::{CliError, Context, assemble, identity, place};
use crate::{
    clock::SystemClock,
    operations::{CopyRequest, CopyStep, copy, plan_copied_log, plan_copy, select_point},
    report::{CopiedLog, ExitCode, Look, Problem, problem_lines, timestamp},
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A policy file, or the name of one in /etc/farshore/policies.
    policy: String,
    /// Which points: ids, unambiguous beginnings of ids, `latest` or `latest-verified`.
    #[arg(value_name = "POINT", required_unless_present_any = ["all", "wal"])]
    points: Vec<String>,
    /// All points of the policy that the target lacks.
    #[arg(long, conflicts_with = "points")]
    all: bool,
    /// Where they are: a site of the policy, or an address: a directory with a slash in it (./far), or s3://bucket/prefix.
    #[arg(long, value_name = "SITE")]
    from: String,
    /// Where they go: likewise. There must be a repository (`farshore init`).
    #[arg(long, value_name = "SITE")]
    to: String,
    /// A file with an age identity that opens the data at the source (repeatable).
    #[arg(long, value_name = "FILE", env = "FARSHORE_IDENTITY_FILE", value_delimiter = ':')]
    identity: Vec<PathBuf>,
    /// After the points, the archived log of their clusters, from the beginning of the oldest point on that the target has then.
    #[arg(long)]
    wal: bool,
    /// Only say what would be copied, and what it would build on; no data is read.
    #[arg(long)]
    dry_run: bool,
}

pub(super) async fn run(context: &Context, args: Args) -> Result<ExitCode, CliError> {
    let policy = place::load_policy(&args.policy)?;
    let clock = SystemClock::shared();
    let given = identity::read(args.identity.clone()).await?;
    let from = place::end(&policy, &args.from, given.clone(), &clock).await?;
    let to = place::end(&policy, &args.to, given, &clock).await?;
    if from.store.describe() == to.store.describe() {
        return Err(CliError::Usage("--from and --to are the same place; name another site".to_owned()));
    }
    let encryption = to.site.as_ref().map_or(&policy.encryption, |site| &site.encryption);
    let recipients = assemble::recipients(&policy, encryption)?;
    let source = Arc::new(from.open(&context.cache_dir).await?);
    let target = Arc::new(to.open(&context.cache_dir).await?);
    let points = if args.all {
        let there: BTreeSet<_> = target.point_names(Some(&policy.name)).await?.into_iter().map(|name| name.id).collect();
        let here = source.point_names(Some(&policy.name)).await?;
        here.into_iter().filter(|name| !there.contains(&name.id)).collect()
    } else {
        let mut points = Vec::new();
        for wanted in &args.points {
            points.push(select_point(&source, Some(&policy.name), wanted).await?);
        }
        points
    };
    let request = CopyRequest {
        from: &source,
        to: &target,
        to_name: to.site.as_ref().map(|site| site.name.as_str()),
        recipients: &recipients,
        points,
        log_of: args.wal.then_some(policy.name.as_str()),
        compression_level: policy.limits.compression_level,
        workers: assemble::workers(&policy.limits)?,
        memory_bytes: policy.limits.memory_bytes,
        parallelism: assemble::parallelism(&policy.limits),
        observer: context.terminal.observer(),
        clock,
    };
    if args.dry_run {
        let steps = plan_copy(&request).await?;
        let to = to.store.describe();
        if !args.wal {
            context.print(&steps, |look| plan_text(&steps, &to, look))?;
            return Ok(ExitCode::Success);
        }
        let (log, problems) = plan_copied_log(&request).await?;
        let code = if problems.is_empty() { ExitCode::Success } else { ExitCode::Problems };
        let plan = Plan { points: steps, log, problems };
        context.print(&plan, |look| plan.text(&to, look))?;
        return Ok(code);
    }
    let report = copy(&request).await?;
    context.print(&report, |look| report.text(look))?;
    Ok(report.exit_code())
}

/// What would be copied, with the log.
#[derive(Debug, Serialize)]
struct Plan {
    points: Vec<CopyStep>,
    log: Vec<CopiedLog>,
    problems: Vec<Problem>,
}

impl Plan {
    fn text(&self, to: &str, look: Look) -> String {
        let log: String = self.log.iter().map(|log| format!("  {}\n", log.text())).collect();
        format!("{}{log}{}", plan_text(&self.points, to, look), problem_lines(&self.problems))
    }
}

fn plan_text(steps: &[CopyStep], to: &str, look: Look) -> String {
    let line = |step: &CopyStep| {
        let what = match (&step.builds_on, step.is_there) {
            (_, true) => "is there already".to_owned(),
            (Some(id), false) => format!("building on {id}"),
            (None, false) => "building on nothing: everything is read".to_owned(),
        };
        format!("  {} of {}: {what}\n", step.point.id, timestamp(step.point.time))
    };
    let lines: String = steps.iter().map(line).collect();
    format!("{} Would copy to {to}, in this order:\n{lines}", look.note())
}
