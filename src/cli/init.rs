//! `farshore init`.

use serde::Serialize;

use super::{
    CliError, Context,
    assemble::{self, Way},
    permissions, place, sites,
};
use crate::{
    clock::{SharedClock, SystemClock},
    operations::OperationError,
    policy::{Encryption, LockModePolicy, Policy, SitePolicy},
    report::ExitCode,
    repository::{Initialised, Repository, RepositoryError},
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A policy file, or the name of one in /etc/farshore/policies.
    policy: String,
    /// Only this site of the policy; without it, each in turn.
    #[arg(long, value_name = "NAME")]
    site: Option<String>,
    /// Make a missing bucket, container or directory, too.
    #[arg(long)]
    create: bool,
    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,
}

/// What became of one site.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    /// A dry run.
    Planned,
    Made,
    /// There is one already; it was left alone.
    AlreadyThere,
    Failed,
}

#[derive(Debug, Serialize)]
struct InitReport {
    site: String,
    place: String,
    state: State,
    /// Why nothing was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(flatten)]
    made: Option<Initialised>,
    warnings: Vec<String>,
    /// What each identity must be allowed there; nothing for a directory.
    permissions: Vec<permissions::Permissions>,
}

pub(super) async fn run(context: &Context, args: Args) -> Result<ExitCode, CliError> {
    let policy = place::load_policy(&args.policy)?;
    let clock = SystemClock::shared();
    let wanted = sites::meant(&policy, args.site.as_deref())?;
    let alone = wanted.len() == 1;
    let (mut reports, mut code) = (Vec::new(), ExitCode::Success);
    for site in wanted {
        match one(&policy, site, &args, &clock).await {
            Ok(report) => reports.push(report),
            // Said on standard error is enough.
            Err(error) if alone => return Err(error),
            Err(error) => {
                context.terminal.aside(|| error.print(context.json));
                code = code.worse(error.exit_code());
                reports.push(not_made(site, &error));
            }
        }
    }
    context.print(&reports, |look| reports.iter().map(|report| text(report, look)).collect())?;
    Ok(code)
}

/// The report of a site where nothing was made: what was made at others stands beside it.
fn not_made(site: &SitePolicy, error: &CliError) -> InitReport {
    let there = matches!(error, CliError::Operation(OperationError::Repository(RepositoryError::AlreadyThere { .. })));
    InitReport {
        site: site.name.clone(),
        place: site.store.place(),
        state: if there { State::AlreadyThere } else { State::Failed },
        error: Some(error.to_string()),
        made: None,
        warnings: Vec::new(),
        permissions: Vec::new(),
    }
}

async fn one(policy: &Policy, site: &SitePolicy, args: &Args, clock: &SharedClock) -> Result<InitReport, CliError> {
    let recipients = assemble::recipients(policy, &site.encryption)?;
    let store = assemble::store(&site.store, &Way::to_site(&policy.limits, site, clock), false, clock).await?;
    let mut warnings = Vec::new();
    if let Encryption::Recipients(who) = &site.encryption {
        if who.recipients.len() < 2 {
            warnings.push(
                "one recipient only: if that identity is lost, everything is; add a second one and keep its identity elsewhere"
                    .to_owned(),
            );
        }
        if who.agent.is_none() {
            warnings.push("no agent key: backups need --identity with a reader's identity; `farshore key generate` makes a key for [encryption] agent".to_owned());
        }
    } else {
        warnings.push("encryption = \"none\": everybody who can read the site can read the data".to_owned());
    }
    let lock = site.lock.map(assemble::lock_term);
    match &site.lock {
        Some(lock) if lock.mode == LockModePolicy::Compliance => warnings.push(format!(
            "lock: nobody, not even the owner of the account, can delete what a backup stored before {} days have passed",
            lock.days
        )),
        Some(_) => {}
        None => warnings.push(
            "no lock: whoever may delete at the site can delete every point; say lock = { mode = \"compliance\", days = … } for a bucket with Object Lock, or a container with version-level immutability".to_owned(),
        ),
    }
    let made = if args.dry_run {
        None
    } else {
        match args.create {
            true if lock.is_some() => store.create_locking().await?,
            true => store.create().await?,
            false => {}
        }
        Some(Repository::init_locked(&store, clock, &recipients, lock).await?)
    };
    Ok(InitReport {
        site: site.name.clone(),
        place: store.describe(),
        state: if made.is_some() { State::Made } else { State::Planned },
        error: None,
        made,
        warnings,
        permissions: permissions::of(site),
    })
}

fn text(report: &InitReport, look: crate::report::Look) -> String {
    let (place, site) = (&report.place, &report.site);
    let mut text = match (&report.made, report.state) {
        (Some(made), _) => format!("{} Repository {} made at {place} (site {site})\n", look.ok(), made.id),
        (None, State::AlreadyThere) => format!("{} A repository is at {place} already (site {site})\n", look.note()),
        (None, State::Failed) => format!("{} No repository made at {place} (site {site})\n", look.failed()),
        (None, _) => format!("{} Would make a repository at {place} (site {site})\n", look.note()),
    };
    for finding in report.made.iter().flat_map(|made| &made.findings) {
        text.push_str(&finding.text(look));
    }
    for line in &report.warnings {
        text.push_str(&format!("  {line}\n"));
    }
    if !report.permissions.is_empty() {
        text.push_str("  what each identity must be allowed, and nothing beyond (`farshore permissions` prints it again):\n\n");
        text.push_str(&permissions::text(&report.permissions));
    }
    text
}
