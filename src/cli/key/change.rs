//! `farshore key add-recipient`, `remove-recipient` and `rotate`.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::{
    cli::{
        CliError, Context, identity,
        place::{self, EACH_SITE, PlaceArgs},
        sites::{self, Sites},
    },
    policy::{Encryption, Policy, SitePolicy},
    report::{ExitCode, Look, count, printable},
    repository::{Identities, Repository, RotationPlan, RotationRequest, RotationSummary, parse_public_key},
};

#[derive(Debug, clap::Args)]
pub(super) struct AddArgs {
    #[command(flatten)]
    change: Change,
    /// The public key (`age1…`) of who shall be able to restore.
    recipient: String,
    /// Whose it is; `farshore key list` shows it.
    #[arg(long, value_name = "TEXT")]
    name: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(super) struct RemoveArgs {
    #[command(flatten)]
    change: Change,
    /// The public key (`age1…`) of who shall not be able to restore any more.
    recipient: String,
}

#[derive(Debug, clap::Args)]
pub(super) struct RotateArgs {
    #[command(flatten)]
    change: Change,
    /// Wrap everything anew, also if nobody comes or goes: mends wraps that are damaged.
    #[arg(long)]
    anew: bool,
}

/// What every change is told.
#[derive(Debug, clap::Args)]
#[command(mut_arg("site", |site| site.help(EACH_SITE)))]
struct Change {
    /// A policy file, or the name of one in /etc/farshore/policies.
    policy: String,
    #[command(flatten)]
    place: PlaceArgs,
    /// Public key (`age1…`) of the agent, which opens the catalogue and no data (repeatable). Otherwise the policy's, where its
    /// key can be read here, or the one recorded in the repository.
    #[arg(long, value_name = "PUBLIC KEY", conflicts_with = "no_agent")]
    agent: Vec<String>,
    /// No agent: backups need a reader's identity from then on.
    #[arg(long)]
    no_agent: bool,
    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,
}

/// One site's part.
#[derive(Debug, Serialize)]
struct ChangeReport {
    site: String,
    place: String,
    #[serde(flatten)]
    plan: RotationPlan,
    /// Nothing for `--dry-run`.
    done: Option<RotationSummary>,
    warnings: Vec<String>,
}

pub(super) async fn add(context: &Context, args: AddArgs) -> Result<ExitCode, CliError> {
    let added = parse_public_key(&args.recipient)?.to_string();
    let names = args.name.map(|name| (added.clone(), name)).into_iter().collect();
    let with = |mut readers: Vec<String>| {
        if !readers.contains(&added) {
            readers.push(added.clone());
        }
        readers
    };
    change(context, args.change, with, names, false, None).await
}

pub(super) async fn remove(context: &Context, args: RemoveArgs) -> Result<ExitCode, CliError> {
    let removed = parse_public_key(&args.recipient)?.to_string();
    let without = |readers: Vec<String>| readers.into_iter().filter(|key| *key != removed).collect();
    change(context, args.change, without, BTreeMap::new(), false, Some(&removed)).await
}

pub(super) async fn rotate(context: &Context, args: RotateArgs) -> Result<ExitCode, CliError> {
    change(context, args.change, |readers| readers, BTreeMap::new(), args.anew, None).await
}

/// Who the agents are: said here, else by the policy where its key can be read, else as the repository has it.
fn agents(policy: &Policy, change: &Change) -> Option<Vec<String>> {
    if change.no_agent {
        return Some(Vec::new());
    }
    if !change.agent.is_empty() {
        return Some(change.agent.clone());
    }
    let own = place::agent_identity(policy).map(|identities| identities.public_keys()).unwrap_or_default();
    (!own.is_empty()).then_some(own)
}

async fn change(
    context: &Context,
    args: Change,
    readers: impl Fn(Vec<String>) -> Vec<String>,
    names: BTreeMap<String, String>,
    anew: bool,
    removed: Option<&str>,
) -> Result<ExitCode, CliError> {
    let policy = place::load_policy(&args.policy)?;
    if policy.encryption == Encryption::None {
        return Err(CliError::Usage("the policy says encryption = \"none\": there are no recipients to change".to_owned()));
    }
    let agents = agents(&policy, &args);
    let sites = sites::meant(&policy, args.place.site.as_deref())?;
    let identities = identity::read(args.place.identity.clone()).await?;
    if let Some(key) = removed {
        check_is_known(context, &args, key, &sites, &identities).await?;
    }
    let mut all = Sites::new();
    for site in sites {
        let Encryption::Recipients(encryption) = &site.encryption else { continue };
        // From the policy and the command line alone: an agent's key is enough to write a false set at the site.
        let mut named = encryption.recipients.clone();
        named.sort();
        let request = RotationRequest { readers: readers(named.clone()), agents: agents.clone(), names: names.clone(), anew };
        // One site that is down must not keep a thief's key valid at the others.
        let outcome = one_site(context, &args, &request, &site.name, &named, &identities).await;
        all.take(context, outcome, |report| match &report.done {
            Some(done) if !done.unwrapped.is_empty() || !done.left.is_empty() => ExitCode::Problems,
            _ => ExitCode::Success,
        });
    }
    all.finish(context, text)
}

/// Refuses to remove who is no recipient: a key that was mistyped would otherwise go on opening everything, and the answer would be
/// that nothing is left to do. Whoever was removed and still opens older wraps counts as one.
async fn check_is_known(
    context: &Context,
    args: &Change,
    key: &str,
    sites: &[&SitePolicy],
    identities: &Identities,
) -> Result<(), CliError> {
    let readers = |site: &SitePolicy| match &site.encryption {
        Encryption::Recipients(encryption) => encryption.recipients.clone(),
        Encryption::None => Vec::new(),
    };
    if sites.iter().any(|site| readers(site).iter().any(|reader| reader == key)) {
        return Ok(());
    }
    let (mut there, mut failure) = (BTreeSet::new(), None);
    for site in sites.iter().filter(|site| site.encryption != Encryption::None) {
        match open(context, args, &site.name, identities).await {
            Ok((_, repository)) => {
                let found = repository.key_holders().await?;
                let holders = found.holders;
                // Of early wraps nobody recorded whom they are for.
                if found.unknown > 0 || holders.iter().any(|holder| !holder.agent && holder.key == key) {
                    return Ok(());
                }
                there.extend(holders.into_iter().filter(|holder| !holder.agent).map(|holder| holder.key));
            }
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    if let Some(error) = failure {
        return Err(error);
    }
    there.extend(sites.iter().flat_map(|site| readers(site)));
    let there = there.into_iter().collect::<Vec<_>>().join(", ");
    Err(CliError::Usage(format!(
        "{key} is no recipient, so nothing was done; the recipients are {there} (an agent's key is changed with --agent or --no-agent)"
    )))
}

async fn open(
    context: &Context,
    args: &Change,
    site: &str,
    identities: &Identities,
) -> Result<(place::Place, Repository), CliError> {
    let place_args = PlaceArgs::of_site(site);
    let place = place::find_with(Some(&args.policy), &place_args, identities.clone()).await?;
    let repository = place.open(&context.cache_dir).await?;
    Ok((place, repository))
}

async fn one_site(
    context: &Context,
    args: &Change,
    request: &RotationRequest,
    site: &str,
    named: &[String],
    identities: &Identities,
) -> Result<ChangeReport, CliError> {
    let (place, repository) = open(context, args, site, identities).await?;
    let plan = repository.plan_rotation(request).await?;
    let mut warnings = Vec::new();
    if plan.recipients.len() < 2 {
        warnings.push(
            "one recipient only: if that identity is lost, everything is; add a second one and keep its identity elsewhere"
                .to_owned(),
        );
    }
    if !place.identities.public_keys().iter().any(|key| plan.recipients.contains(key)) {
        warnings.push(
            "no identity at hand is one of the recipients from then on: what was stopped midway must be finished by one of them"
                .to_owned(),
        );
    }
    if plan.recipients != named {
        warnings.push(format!(
            "say it in the policy, too: backups are refused until it has recipients = [{}]",
            plan.recipients.iter().map(|key| format!("\"{key}\"")).collect::<Vec<_>>().join(", ")
        ));
    }
    let done = if args.dry_run { None } else { Some(repository.rotate(request, context.terminal.observer().as_ref()).await?) };
    Ok(ChangeReport { site: site.to_owned(), place: place.store.describe(), plan, done, warnings })
}

fn text(report: &ChangeReport, look: Look) -> String {
    let plan = &report.plan;
    let nothing = !plan.writes_set && plan.data_keys_to_wrap == 0 && !plan.wraps_catalogue && plan.superseded.is_empty();
    let mut lines = match &report.done {
        _ if nothing => format!("{} Nothing to do at {} (site {})\n", look.ok(), report.place, report.site),
        None => format!("{} Would change the recipients at {} (site {})\n", look.note(), report.place, report.site),
        Some(done) => {
            let mark = if done.unwrapped.is_empty() && done.left.is_empty() { look.ok() } else { look.failed() };
            format!("{mark} Recipients of {} (site {})\n", report.place, report.site)
        }
    };
    lines.push_str(&format!("  recipient set  {}{}\n", plan.generation, if plan.writes_set { ", new" } else { "" }));
    for (word, keys) in [("added", &plan.added), ("removed", &plan.removed), ("agent", &plan.agents)] {
        for key in keys {
            lines.push_str(&format!("  {word:<13}  {}\n", printable(key)));
        }
    }
    match &report.done {
        None => lines.push_str(&format!(
            "  to wrap        {} of {} data keys{}\n  to delete      {} superseded wraps\n",
            count(plan.data_keys_to_wrap),
            count(plan.data_keys),
            if plan.wraps_catalogue { ", and the catalogue key" } else { "" },
            count(plan.superseded.len() as u64),
        )),
        Some(done) => {
            lines.push_str(&format!(
                "  wrapped        {} keys ({} data keys at the site)\n  deleted        {} superseded wraps\n",
                count(done.wrapped),
                count(plan.data_keys),
                count(done.deleted)
            ));
            for check in &done.unwrapped {
                lines.push_str(&format!("  {} NOT WRAPPED {}: {}\n", look.failed(), check.key, printable(&check.detail)));
            }
            if let [first, ..] = done.left.as_slice() {
                lines.push_str(&format!(
                    "  {} STILL THERE: {} older wraps, which whoever was removed still opens; run this again later. The first: {}: {}\n",
                    look.failed(),
                    count(done.left.len() as u64),
                    first.key,
                    printable(&first.detail)
                ));
            }
            if !plan.removed.is_empty() {
                lines.push_str("  Whoever was removed and has copied wrapped keys opens what they seal for ever; data of from now on, he does not.\n");
            }
        }
    }
    for warning in &report.warnings {
        lines.push_str(&format!("  {} {warning}\n", look.note()));
    }
    lines
}
