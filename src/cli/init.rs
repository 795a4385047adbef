//! `farshore init`.

use serde::Serialize;

use super::{CliError, Context, assemble, permissions, place};
use crate::{
    clock::SystemClock,
    policy::LockModePolicy,
    report::ExitCode,
    repository::{Initialised, Repository},
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A policy file, or the name of one in /etc/farshore/policies.
    policy: String,
    /// Only this site of the policy.
    #[arg(long, value_name = "NAME")]
    site: Option<String>,
    /// Make a missing bucket, container or directory, too.
    #[arg(long)]
    create: bool,
    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Serialize)]
struct InitReport {
    site: String,
    place: String,
    #[serde(flatten)]
    made: Option<Initialised>,
    warnings: Vec<String>,
    /// What each identity must be allowed there; nothing for a directory.
    permissions: Vec<permissions::Permissions>,
}

pub(super) async fn run(context: &Context, args: Args) -> Result<ExitCode, CliError> {
    let policy = place::load_policy(&args.policy)?;
    let clock = SystemClock::shared();
    let sites = match &args.site {
        Some(name) => vec![place::choose_site(&policy, Some(name))?],
        None => policy.sites.iter().collect(),
    };
    let mut reports = Vec::new();
    for site in sites {
        let recipients = assemble::recipients(&policy, &site.encryption)?;
        let store = assemble::store(&site.store, false, &clock).await?;
        let mut warnings = Vec::new();
        if let crate::policy::Encryption::Recipients(who) = &site.encryption {
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
            Some(Repository::init_locked(&store, &clock, &recipients, lock).await?)
        };
        reports.push(InitReport {
            site: site.name.clone(),
            place: store.describe(),
            made,
            warnings,
            permissions: permissions::of(site),
        });
    }
    context.print(&reports, |look| reports.iter().map(|report| text(report, look)).collect())?;
    Ok(ExitCode::Success)
}

fn text(report: &InitReport, look: crate::report::Look) -> String {
    let mut text = match &report.made {
        Some(made) => format!("{} Repository {} made at {} (site {})\n", look.ok(), made.id, report.place, report.site),
        None => format!("{} Would make a repository at {} (site {})\n", look.note(), report.place, report.site),
    };
    let findings = report.made.iter().flat_map(|made| &made.findings);
    for line in findings.chain(&report.warnings) {
        text.push_str(&format!("  {line}\n"));
    }
    if !report.permissions.is_empty() {
        text.push_str("  what each identity must be allowed, and nothing beyond (`farshore permissions` prints it again):\n\n");
        text.push_str(&permissions::text(&report.permissions));
    }
    text
}
