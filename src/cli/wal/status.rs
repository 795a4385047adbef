//! `farshore wal status`.

use std::time::Duration;

use super::spool::{cluster_of, clusters, spool_of};
use crate::{
    cli::{
        CliError, Context, assemble, identity,
        place::{self, EACH_SITE, PlaceArgs},
        sites,
    },
    clock::SystemClock,
    operations::{LogStatusRequest, log_server, log_status},
    report::{ExitCode, LogSiteReport, LogStatusReport},
    repository::Identities,
    sources::postgres::{
        PostgresConfig,
        physical::{Receiving, receiving},
    },
};

#[derive(Debug, clap::Args)]
#[command(mut_arg("site", |site| site.help(EACH_SITE)))]
pub(super) struct Args {
    /// A policy file, or the name of one in /etc/farshore/policies; not needed with an address in --site.
    policy: Option<String>,
    #[command(flatten)]
    place: PlaceArgs,
    /// Whose spool, if the policy has several clusters.
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
}

pub(super) async fn run(context: &Context, args: Args) -> Result<ExitCode, CliError> {
    let usage = "farshore wal status POLICY, or farshore wal status --site ADDRESS";
    let words = args.place.words(args.policy.clone().into_iter().collect(), 0, usage)?;
    let identities = identity::read(args.place.identity.clone()).await?;
    let (mut report, mut names) = (LogStatusReport { spool: None, server: None, sites: Vec::new() }, vec![args.place.site.clone()]);
    let (mut server, mut objective) = (None, None);
    if let Some(policy) = &words.policy {
        let policy = place::load_policy(policy)?;
        objective = policy.objectives.rpo.filter(|_| clusters(&policy).next().is_some());
        names = sites::meant(&policy, args.place.site.as_deref())?.iter().map(|site| Some(site.name.clone())).collect();
        // Without a cluster that could be archived there is no spool, and perhaps a log from before.
        if let Ok((source, cluster)) = cluster_of(&policy, args.source.as_deref()) {
            report.spool = spool_of(&policy, &cluster.wal).report(&SystemClock::shared())?;
            let slot = cluster.wal.slot_name(&policy.name);
            let config = assemble::postgres(source, cluster);
            let named = config.as_ref().map_or_else(|_| cluster.url.clone(), PostgresConfig::describe);
            // Whoever looks at an archive need not be able to reach the server.
            let asked = match config {
                Ok(config) => receiving(&config, &slot).await.map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            };
            server = asked.as_ref().ok().cloned();
            report.server = Some(log_server(named, slot, &asked));
        }
    }
    let mut code = ExitCode::Success;
    for site in names {
        let place_args = PlaceArgs { site, ..args.place.clone() };
        match one(context, words.policy.as_deref(), &place_args, identities.clone(), (server.clone(), objective)).await {
            Ok(found) => report.sites.push(found),
            Err(error) => {
                error.print(context.json);
                code = code.worse(error.exit_code());
            }
        }
    }
    context.print(&report, |look| report.text(look))?;
    Ok(code.worse(report.exit_code()))
}

async fn one(
    context: &Context,
    policy: Option<&str>,
    place_args: &PlaceArgs,
    identities: Identities,
    (server, objective): (Option<Receiving>, Option<Duration>),
) -> Result<LogSiteReport, CliError> {
    let place = place::find_with(policy, place_args, identities).await?;
    let repository = place.open(&context.cache_dir).await?;
    let (policy, clock) = (place.policy_name(), place.clock.clone());
    let request = LogStatusRequest { repository: &repository, policy, server, objective, clock };
    Ok(log_status(request).await?)
}
