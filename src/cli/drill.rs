//! `farshore drill`.

use std::path::PathBuf;

use super::{
    CliError, Context, assemble,
    place::{self, PlaceArgs},
    recovery,
};
use crate::{
    operations::{DrillRequest, drill, select_point},
    policy::{Policy, SourceKind},
    report::ExitCode,
    sources::postgres::PostgresConfig,
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A policy file, or the name of one in /etc/farshore/policies; with an address in --site, the policy stored in the point
    /// is used.
    policy: Option<String>,
    #[command(flatten)]
    place: PlaceArgs,
    /// Which point: an id, an unambiguous beginning of one, `latest` or `latest-verified`.
    #[arg(long, value_name = "POINT", default_value = "latest")]
    point: String,
    /// Where scratch targets are made, instead of where the policy says.
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
    /// Where PostgreSQL's programs are, if not where the policy says or where they are usually.
    #[arg(long, value_name = "DIR")]
    bin_directory: Option<PathBuf>,
}

pub(super) async fn run(context: &Context, args: Args) -> Result<ExitCode, CliError> {
    let words = args.place.words(
        args.policy.clone().into_iter().collect(),
        0,
        "farshore drill POLICY, or farshore drill --site ADDRESS",
    )?;
    let place = place::find(words.policy.as_deref(), &args.place).await?;
    let repository = place.open(&context.cache_dir).await?;
    let name = select_point(&repository, place.policy_name(), &args.point).await?;
    let mut policy = match place.policy.clone() {
        Some(policy) => policy,
        // Everything that is needed lies on the site, the policy too.
        None => Policy::parse(&repository.point(&name).await?.policy_text, format!("the policy stored in point {}", name.id))?,
    };
    if let Some(directory) = args.directory {
        policy.drill.directory = directory;
    }
    let bin_directory = args.bin_directory.or_else(|| {
        policy.sources.iter().find_map(|source| match &source.kind {
            SourceKind::Postgres(postgres) => postgres.bin_directory.clone(),
            SourceKind::Bucket(_) | SourceKind::Files(_) | SourceKind::Command(_) => None,
        })
    });
    let server = match &policy.drill.server {
        Some(url) => {
            let password = policy.drill.server_password.as_ref().map(assemble::secret).transpose()?;
            Some(PostgresConfig::parse(url, password).map_err(|error| CliError::setting("[drill] server", error))?)
        }
        None => None,
    };
    // From the site that the point comes from, and no other.
    let from =
        PlaceArgs { site: place.site.as_ref().map(|site| site.name.clone()).or(args.place.site.clone()), ..args.place.clone() };
    let fetch = |facts: &_, found| recovery::fetch(facts, &from, words.policy.as_deref(), found).map_err(|error| error.to_string());
    let drilled = drill(DrillRequest {
        policy: &policy,
        store: place.store.clone(),
        identities: &place.identities,
        point: &name.id,
        workers: assemble::workers(&policy.limits)?,
        observer: context.terminal.observer(),
        clock: place.clock.clone(),
        agent: assemble::agent(),
        parallelism: assemble::parallelism(&policy.limits),
        server,
        bin_directory,
        open_directory: assemble::directory,
        fetch: &fetch,
    })
    .await?;
    context.print(&drilled.report, |look| {
        format!("{}\nEvidence: {}/{}\n", drilled.report.text(look).trim_end(), place.store.describe(), drilled.evidence)
    })?;
    Ok(drilled.report.exit_code())
}
