//! `farshore doctor`.

use super::{
    CliError, Context,
    assemble::{self, Way},
    identity, place, sites,
};
use crate::{
    clock::{SharedClock, SystemClock},
    operations::{MachineExamination, SiteExamination, examine_machine, examine_site, examine_sources, expected_of},
    policy::SitePolicy,
    report::{DoctorReport, Examined, ExitCode, Finding, bytes},
    sources::Examination,
    stores::Direction,
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A policy file, or the name of one in /etc/farshore/policies.
    policy: String,
    /// Only this site of the policy.
    #[arg(long, value_name = "NAME")]
    site: Option<String>,
    /// A file with an age identity, instead of the agent's (repeatable).
    #[arg(long, value_name = "FILE", env = "FARSHORE_IDENTITY_FILE")]
    identity: Vec<std::path::PathBuf>,
    /// Write nothing: leave out whether the sites can be written to and what they promise.
    #[arg(long)]
    read_only: bool,
}

pub(super) async fn run(context: &Context, args: Args) -> Result<ExitCode, CliError> {
    let policy = place::load_policy(&args.policy)?;
    let clock = SystemClock::shared();
    let mut identities = identity::read(args.identity).await?;
    if identities.is_empty() {
        identities = place::agent_identity(&policy)?;
    }
    let expected = expected_of(&policy.encryption);
    let examination = Examination { clock: clock.clone(), scratch_drills: policy.drill.server.is_none() };
    context.terminal.observer().phase("sources", None);
    let mut examined = examine_sources(&assemble::sources(&policy, &clock).await?, &examination).await;
    let mut point_bytes = None;
    for site in sites::meant(&policy, args.site.as_deref())? {
        context.terminal.observer().phase(&format!("site {}", site.name), None);
        let store = match assemble::store(&site.store, &Way::to_site(&policy.limits, site, &clock), false, &clock).await {
            Ok(store) => store,
            // The other sites are examined all the same.
            Err(error) => {
                let findings = vec![Finding::failed("access", error)];
                examined.push(Examined { subject: format!("site {}", site.name), place: site.store.place(), findings });
                continue;
            }
        };
        let recipients = assemble::recipients(&policy, &site.encryption)?;
        let lock = site.lock.map(assemble::lock_term);
        let examination = SiteExamination {
            name: &site.name,
            store,
            identities: &identities,
            expected,
            recipients: &recipients,
            lock,
            writes: !args.read_only,
        };
        let (mut found, newest) = examine_site(&examination, &policy.name, &clock, &context.cache_dir).await;
        found.findings.extend(bandwidth_now(site, &clock));
        examined.push(found);
        point_bytes = point_bytes.max(newest);
    }
    let machine = MachineExamination { limits: &policy.limits, drill: &policy.drill, cache: &context.cache_dir, point_bytes };
    examined.push(examine_machine(&machine));
    let report = DoctorReport { policy: policy.name.clone(), examined };
    context.print(&report, |look| report.text(look))?;
    Ok(report.exit_code())
}

/// What limit of bandwidth holds at a site now, where it has one.
fn bandwidth_now(site: &SitePolicy, clock: &SharedClock) -> Option<Finding> {
    let bandwidth = assemble::bandwidth(&site.bandwidth, clock)?;
    let said = |direction| bandwidth.rate(direction).map_or_else(|| "unlimited".to_owned(), |rate| format!("{}/s", bytes(rate)));
    let now = format!("now {} to the site, {} from it", said(Direction::Up), said(Direction::Down));
    let windows: Vec<String> =
        site.bandwidth.iter().filter_map(|hours| hours.window).map(|(from, until)| format!("{from} to {until}")).collect();
    let others = if windows.is_empty() { String::new() } else { format!(" (hours of their own: {})", windows.join(", ")) };
    Some(Finding::sound("bandwidth", format!("{now}{others}")))
}
