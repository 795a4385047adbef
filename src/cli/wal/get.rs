//! `farshore wal get`. However it fails, it ends with a code that stops the recovery: see `report::exit`.

use std::path::{Path, PathBuf};

use super::{apart, sites::read_sites};
use crate::{
    cli::{CliError, Context, identity, place::PlaceArgs},
    clock::SystemClock,
    operations::{Archives, Delivered, GetRequest, deliver, system_below},
    report::{ExitCode, GetCode},
    repository::LogName,
};

#[derive(Debug, clap::Args)]
#[command(mut_arg("site", |site| site.help("Only this site of the policy; without it, the first that has the file. Or, without a policy, where the repository is: a directory with a slash in it (./far), s3://bucket/prefix, or azure://account/container/prefix")))]
pub(super) struct Args {
    /// POLICY FILE PATH; with an address in --site only FILE PATH: the file of the log, %f, and where the server wants it, %p.
    #[arg(value_name = "POLICY FILE PATH", num_args = 2..=3, required = true)]
    words: Vec<String>,
    #[command(flatten)]
    place: PlaceArgs,
    /// System identifier of the cluster; without it, that of the data directory which the command runs in.
    #[arg(long, value_name = "ID")]
    system: Option<u64>,
    /// Keep tablespaces that the log makes in the data directory, in pg_tblspc, and not where they were: so that a recovery beside the living
    /// primary does not write to its directories. `farshore restore` writes this into restore_command; a standby does without.
    #[arg(long)]
    tablespaces_in_place: bool,
    /// Do not fetch what will be asked for next.
    #[arg(long)]
    no_prefetch: bool,
}

pub(super) async fn run(context: &Context, args: Args) -> Result<ExitCode, CliError> {
    let words = args.place.words(
        args.words.clone(),
        2,
        "farshore wal get POLICY FILE PATH, or farshore wal get --site ADDRESS FILE PATH",
    )?;
    let (file, to) = (&words.rest[0], Path::new(&words.rest[1]));
    let system = match args.system {
        Some(system) => system,
        None => system_below(Path::new(""))?,
    };
    let name = LogName::new(system, file).ok_or_else(|| {
        CliError::Usage(format!("{file:?} is no file of the log; expected a segment (24 digits) or what ends in .history; write %f %p in restore_command"))
    })?;
    let archives = async || {
        let identities = identity::read(args.place.identity.clone()).await?;
        Ok::<_, CliError>(Archives::new(read_sites(words.policy.as_deref(), &args.place, &identities, &context.cache_dir)?))
    };
    let start = |directory: &Path| {
        let mut process = apart(context)?;
        process.args(["wal", "prefetch"]).args(&words.policy).arg("--directory").arg(directory);
        process.args(place_arguments(&args.place));
        process.spawn().map(|_| ())
    };
    let request = GetRequest {
        name: &name,
        to,
        in_place: args.tablespaces_in_place,
        start: (!args.no_prefetch).then_some(&start),
        clock: SystemClock::shared(),
    };
    let code = match deliver(request, archives).await? {
        Delivered::File => GetCode::Delivered,
        Delivered::Absent | Delivered::AtHand => GetCode::Absent,
    };
    Ok(code.into())
}

/// The arguments that say the same of the place.
fn place_arguments(place: &PlaceArgs) -> Vec<PathBuf> {
    let mut arguments = Vec::new();
    if let Some(site) = &place.site {
        arguments.extend([PathBuf::from("--site"), PathBuf::from(site)]);
    }
    for identity in &place.identity {
        arguments.extend([PathBuf::from("--identity"), identity.clone()]);
    }
    if place.first_versions {
        arguments.push(PathBuf::from("--first-versions"));
    }
    arguments
}
