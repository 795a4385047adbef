//! `farshore restore`.

use std::{path::PathBuf, sync::Arc};

use super::{
    CliError, Context, assemble,
    place::{self, Place, PlaceArgs},
    recovery::RecoveryArgs,
    rehydrate::RehydrateArgs,
};
use crate::{
    operations::{Phases, RestoreRequest, RestoreStep, lists_in_archive, open_point, restore, select_point},
    policy::{Limits, SourceKind},
    report::{ExitCode, bytes, count},
    repository::{Budget, Point, Reader, Repository, Snapshot},
    sources::{
        Rebuild,
        bucket::{BucketTarget, RestoredLocks},
        command::CommandTarget,
        files::FilesTarget,
        postgres::{
            PostgresConfig, PostgresTarget, TargetOptions,
            physical::{PhysicalTarget, PhysicalTargetOptions, Recovery, Start, facts::is_physical},
        },
    },
    stores::Location,
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// POLICY POINT; with an address in --site only POINT. POINT is an id, an unambiguous beginning of one, `latest` or
    /// `latest-verified`.
    #[arg(value_name = "POLICY POINT", num_args = 1..=2, required = true)]
    words: Vec<String>,
    #[command(flatten)]
    place: PlaceArgs,
    /// Which source; repeat it together with --to for several. May be left out if the point has only one.
    #[arg(long, value_name = "NAME")]
    source: Vec<String>,
    /// Where to: a directory, postgres://user@host/database (a cluster that was captured by method "physical": an empty directory),
    /// s3://bucket/prefix; for a command source a file, or `restore` for the policy's own restore command. A database password
    /// comes from PGPASSWORD or the password file.
    #[arg(long, value_name = "TARGET", required = true)]
    to: Vec<String>,
    /// Only what lies below this path.
    #[arg(long, value_name = "PATH")]
    path: Option<String>,
    /// The target may hold something already: what matches is kept, what differs is replaced. A cluster's files are held against the point
    /// block by block, and those that it does not have are removed.
    #[arg(long, visible_alias = "delta")]
    into_existing: bool,
    /// Of a bucket: put locks (Object Lock) that have not ended, and legal holds, on its objects again. What is locked in compliance mode
    /// nobody deletes until the lock ends, in a bucket for a test neither: `--locks=governance` puts every lock in governance mode,
    /// which an identity with the right for it can lift.
    #[arg(long, value_name = "MANNER", num_args = 0..=1, require_equals = true, default_missing_value = "as-recorded")]
    locks: Option<Manner>,
    /// Where PostgreSQL's programs are, if not where they are usually.
    #[arg(long, value_name = "DIR")]
    bin_directory: Option<PathBuf>,
    /// Where a tablespace of a cluster goes: its name or OID, and an absolute directory. Repeat it for several.
    #[arg(long, value_name = "NAME=DIR", value_parser = tablespace)]
    tablespace: Vec<(String, PathBuf)>,
    #[command(flatten)]
    recovery: RecoveryArgs,
    #[command(flatten)]
    rehydrate: RehydrateArgs,
    /// Look at the targets and say what would be done.
    #[arg(long)]
    dry_run: bool,
}

/// How locks are put back.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Manner {
    /// Each in the mode that it had.
    AsRecorded,
    /// Each in governance mode.
    Governance,
}

impl Manner {
    fn meant(given: Option<Self>) -> RestoredLocks {
        match given {
            None => RestoredLocks::LeftOut,
            Some(Self::AsRecorded) => RestoredLocks::AsRecorded,
            Some(Self::Governance) => RestoredLocks::Governance,
        }
    }
}

fn tablespace(text: &str) -> Result<(String, PathBuf), String> {
    let (name, directory) = text.split_once('=').ok_or("should be NAME=DIR")?;
    Ok((name.to_owned(), PathBuf::from(directory)))
}

pub(super) async fn run(context: &Context, args: Args) -> Result<ExitCode, CliError> {
    let words = args.place.words(args.words.clone(), 1, "farshore restore POLICY POINT --source NAME --to TARGET")?;
    let place = place::find(words.policy.as_deref(), &args.place).await?;
    let mut phases = Phases::new(place.clock.clone(), context.terminal.observer());
    let repository = phases.time("obtain keys", place.open(&context.cache_dir)).await?;
    let name = phases.time("select point", select_point(&repository, place.policy_name(), &words.rest[0])).await?;
    let point = repository.point(&name).await?;
    let limits = place.policy.as_ref().map_or_else(Limits::default, |policy| policy.limits);
    let targets = targets(&args, &point, &place, words.policy.as_deref(), &repository).await?;
    let workers = assemble::workers(&limits)?;
    let reader = phases.time("fetch catalogue", Reader::open(&repository, workers, Budget::new(limits.memory_bytes))).await?;
    let retrieval = args.rehydrate.retrieval().filter(|_| !args.dry_run);
    let request = RestoreRequest {
        repository: &repository,
        reader,
        point: &point,
        targets,
        below: args.path.map(String::into_bytes),
        into_existing: args.into_existing,
        lost_at: None,
        retrieval,
        observer: context.terminal.observer(),
        clock: place.clock.clone(),
        parallelism: assemble::parallelism(&limits),
    };
    let began = place.clock.monotonic();
    let lists = lists_in_archive(&repository, &request.reader, retrieval, request.observer.as_ref()).await?;
    if retrieval.is_some() && !request.reader.archived_lists()?.is_empty() {
        phases.add("retrieval", place.clock.monotonic().saturating_sub(began));
    }
    if lists.is_none() {
        // Said before anything is written to a target.
        phases.time("obtain keys", open_point(&repository, &request.reader, &point)).await?;
    }
    if args.dry_run {
        let steps = request.plan_with_archive(lists.as_ref()).await?;
        context.print(&steps, |look| {
            let line = |step: &RestoreStep| {
                let (items, size) = (count(step.entries), bytes(step.bytes));
                let archive = step.in_archive.as_ref().map(|found| format!("    {}\n", found.describe())).unwrap_or_default();
                format!("  {} ({}): {items} items, {size} → {}\n    {}\n{archive}", step.source, step.kind, step.target, step.found)
            };
            format!(
                "{} Would restore {} of {}:\n{}",
                look.note(),
                point.id,
                point.policy,
                steps.iter().map(line).collect::<String>()
            )
        })?;
        return Ok(ExitCode::Success);
    }
    if let Some(found) = lists {
        return Err(found.refusal(repository.store().describe()).into());
    }
    let report = restore(&request, phases).await?;
    context.print(&report, |look| report.text(look))?;
    Ok(report.exit_code())
}

/// Pairs sources with targets.
async fn targets(
    args: &Args,
    point: &Point,
    place: &Place,
    policy_word: Option<&str>,
    repository: &Repository,
) -> Result<Vec<(String, Arc<dyn Rebuild>)>, CliError> {
    let names: Vec<String> = match (args.source.as_slice(), point.snapshots.as_slice()) {
        ([], [only]) => vec![only.source.clone()],
        ([], many) => {
            let names = many.iter().map(|snapshot| snapshot.source.as_str()).collect::<Vec<_>>().join(", ");
            return Err(CliError::Usage(format!(
                "the point has the sources {names}; say which with --source NAME, each with its own --to TARGET"
            )));
        }
        (given, _) => given.to_vec(),
    };
    if names.len() != args.to.len() {
        return Err(CliError::Usage(format!("{} --source and {} --to: each source needs one target", names.len(), args.to.len())));
    }
    let (mut all, mut has_cluster, mut has_bucket) = (Vec::new(), false, false);
    for (name, to) in names.into_iter().zip(&args.to) {
        let snapshot = point.snapshot(&name)?;
        has_cluster |= is_physical(&snapshot.facts);
        has_bucket |= snapshot.kind == "bucket";
        let recovery = match is_physical(&snapshot.facts) {
            true => args.recovery.of(snapshot, point, (&args.place, policy_word), repository).await?,
            false => Recovery::default(),
        };
        all.push((name, target(args, snapshot, to, place, recovery).await?));
    }
    if !has_cluster && (!args.tablespace.is_empty() || args.recovery.is_given()) {
        return Err(CliError::Usage(
            "--tablespace, --start and the targets of a recovery are for a source that was captured by method \"physical\": leave them out".to_owned(),
        ));
    }
    if !has_bucket && args.locks.is_some() {
        return Err(CliError::Usage("--locks is for a source of kind bucket: leave it out".to_owned()));
    }
    Ok(all)
}

/// An address without what may be secret in it.
fn shown(to: &str) -> String {
    let (address, parameters) = to.split_once('?').map_or((to, ""), |(address, _)| (address, "?…"));
    let place = address.split_once("://").and_then(|(scheme, rest)| Some((scheme, rest.rsplit_once('@')?.1)));
    place.map_or_else(|| format!("{address}{parameters}"), |(scheme, place)| format!("{scheme}://…@{place}{parameters}"))
}

async fn target(
    args: &Args,
    snapshot: &Snapshot,
    to: &str,
    place: &Place,
    recovery: Recovery,
) -> Result<Arc<dyn Rebuild>, CliError> {
    let (policy, clock) = (place.policy.as_ref(), &place.clock);
    let name = &snapshot.source;
    let wrong = |what: &str| {
        CliError::Usage(format!("source {name} is of kind {}: --to must be {what}, not {:?}", snapshot.kind, shown(to)))
    };
    let is_database = to.starts_with("postgres://") || to.starts_with("postgresql://");
    match snapshot.kind.as_str() {
        "postgres" if is_database && !is_physical(&snapshot.facts) => {
            if PostgresConfig::has_password(to) {
                return Err(CliError::Usage(
                    "--to has a password, which everybody on this machine can read there: leave it out, and give it in PGPASSWORD or in a password file (PGPASSFILE, ~/.pgpass)".to_owned(),
                ));
            }
            let config = PostgresConfig::parse(to, None).map_err(|error| CliError::Usage(error.to_string()))?;
            let options = TargetOptions { bin_directory: args.bin_directory.clone(), ..TargetOptions::default() };
            Ok(Arc::new(PostgresTarget::new(config, options)))
        }
        "postgres" if is_physical(&snapshot.facts) && !to.contains("://") => Ok(Arc::new(PhysicalTarget::new(
            to,
            PhysicalTargetOptions {
                tablespaces: args.tablespace.clone(),
                is_isolated: false,
                recovery,
                start: args.recovery.start.then(|| Start { bin_directory: args.bin_directory.clone() }),
            },
        ))),
        "postgres" if is_physical(&snapshot.facts) => Err(wrong("a directory, since it is of a whole cluster")),
        "postgres" => Err(wrong("postgres://user@host/database")),
        _ if is_database => Err(wrong("a directory or bucket")),
        "bucket" => {
            let location = Location::parse(to).map_err(|error| CliError::Usage(error.to_string()))?;
            let way = assemble::Way::to_place(&policy.map_or_else(Limits::default, |policy| policy.limits));
            let store = assemble::wrap(location.open().await?, &way, clock);
            Ok(Arc::new(BucketTarget::new(store).with_locks(Manner::meant(args.locks))))
        }
        "files" if to.contains("://") => Err(wrong("a directory")),
        "files" => Ok(Arc::new(FilesTarget::new(PathBuf::from(to)))),
        "command" if to == "restore" => match policy.and_then(|policy| policy.source(name)).map(|source| &source.kind) {
            Some(SourceKind::Command(command)) => {
                command.restore.clone().map(|argv| Arc::new(CommandTarget::Pipe(argv)) as Arc<dyn Rebuild>).ok_or_else(|| {
                    CliError::Usage(format!("source {name} has no `restore` command in the policy; give a file with --to"))
                })
            }
            _ => Err(CliError::Usage("--to restore needs the policy, which names the command; give a file otherwise".to_owned())),
        },
        "command" if to.contains("://") => Err(wrong("a file, or the word restore")),
        "command" => Ok(Arc::new(CommandTarget::File(PathBuf::from(to)))),
        other => Err(CliError::Usage(format!(
            "source {name} is of kind {other}, which this version does not know; use the version that wrote the point"
        ))),
    }
}
