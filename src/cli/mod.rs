//! The command line: one file per command; flags → request → one operation → report → exit code.
//!
//! Reports go to standard output (text, or JSON with `--json`), progress and errors to standard error. No secret is ever taken
//! from the command line itself.

mod assemble;
mod backup;
mod browse;
mod copy;
mod doctor;
mod drill;
mod exposed;
mod failure;
mod give_up;
mod identity;
mod init;
mod key;
mod permissions;
mod pin;
mod place;
mod points;
mod policy;
mod prune;
mod recovery;
mod rehydrate;
mod repair;
mod restore;
mod shard;
mod sites;
mod terminal;
mod verify;
mod wal;

use std::{ffi::OsString, path::PathBuf};

use clap::{CommandFactory, Parser, Subcommand};
use serde::Serialize;

pub use failure::CliError;
use terminal::Terminal;

use crate::report::{ExitCode, GetCode, Look};

/// Backup and disaster recovery: database, bucket and cluster state as one verified recovery point.
#[derive(Debug, Parser)]
#[command(
    name = "farshore",
    version,
    max_term_width = 110,
    after_help = "Exit codes are listed in the README. On the bad day: docs/runbook.md."
)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// The command line of those that are started for each file of a log.
#[derive(Debug, Parser)]
#[command(name = "farshore")]
struct Brief {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: BriefCommand,
}

#[derive(Debug, Subcommand)]
enum BriefCommand {
    Wal(wal::Args),
}

impl Brief {
    fn is_brief(&self) -> bool {
        let BriefCommand::Wal(args) = &self.command;
        args.is_brief()
    }
}

impl From<Brief> for Cli {
    fn from(Brief { global, command: BriefCommand::Wal(args) }: Brief) -> Self {
        Self { global, command: Command::Wal(args) }
    }
}

/// Flags of every command.
#[derive(Debug, clap::Args)]
struct Global {
    /// Print the report as JSON.
    #[arg(long, global = true)]
    json: bool,
    /// Show no progress.
    #[arg(long, short, global = true)]
    quiet: bool,
    /// How log lines look, when standard error is no terminal: text or json.
    #[arg(long, global = true, value_name = "FORMAT", default_value = "text", env = "FARSHORE_LOG_FORMAT")]
    log_format: LogFormat,
    /// Where local indexes are kept (they can be deleted at any time; the work is only slower then).
    #[arg(long, global = true, value_name = "DIR", env = "FARSHORE_CACHE_DIR")]
    cache_dir: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make the repository at a policy's sites, after probing what they really do.
    Init(init::Args),
    /// Capture every source of a policy as one recovery point.
    Backup(backup::Args),
    /// Copy recovery points from one site to another, sealed anew for those who read there.
    Copy(copy::Args),
    /// List recovery points.
    Points(points::Args),
    /// Show a recovery point in full.
    Show(browse::ShowArgs),
    /// List what is in a recovery point.
    Ls(browse::LsArgs),
    /// Write the bytes of one entry to standard output.
    Cat(browse::CatArgs),
    /// Compare two recovery points.
    Diff(browse::DiffArgs),
    /// Keep a recovery point, whatever retention says.
    Pin(pin::PinArgs),
    /// Take a pin back.
    Unpin(pin::UnpinArgs),
    /// Delete what no recovery point needs that retention keeps: first doomed, then, when its grace is over, gone.
    Prune(prune::Args),
    /// Bring a doomed recovery point back before its grace is over.
    Undelete(pin::UndeleteArgs),
    /// Give up a recovery point that is lost, so that prune no longer waits for it.
    GiveUp(give_up::Args),
    /// Restore a recovery point, or a part of it.
    Restore(restore::Args),
    /// Check that everything is there, and (with --read-data) is what it was.
    Verify(verify::Args),
    /// Make packs known again that no index names, and name every file that damage hurts.
    Repair(repair::Args),
    /// Restore into isolated targets, check, time, and keep the evidence.
    Drill(drill::Args),
    /// Look at everything that a policy's backups, restores and drills will need, and say what mends what is missing.
    Doctor(doctor::Args),
    /// Archive the write-ahead log of a PostgreSQL cluster, and fetch it back.
    Wal(wal::Args),
    /// Make, list and check keys, and change who the recipients are.
    Key(key::Args),
    /// Print what each identity (writer, reader, pruner) must be allowed at a policy's sites.
    Permissions(permissions::Args),
    /// Check policies, or print their schema.
    Policy(policy::Args),
    /// Print a completion script for a shell.
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
}

/// What every command is given.
struct Context {
    json: bool,
    look: Look,
    cache_dir: PathBuf,
    terminal: Terminal,
}

impl Context {
    /// Prints a report: as JSON where that was asked for, as text otherwise.
    fn print(&self, value: &impl Serialize, text: impl FnOnce(Look) -> String) -> Result<(), CliError> {
        self.terminal.finish();
        if self.json {
            terminal::print(&serde_json::to_string_pretty(value).map_err(|error| CliError::other("report", error))?);
        } else {
            terminal::print(text(self.look).trim_end());
        }
        Ok(())
    }
}

/// Runs the program: arguments in, exit code out. What ends it early is printed to standard error. `brief` is what [`brief`] made of the arguments.
pub async fn run(arguments: Vec<OsString>, brief: Option<Cli>) -> ExitCode {
    let is_get = serves_recovery(&arguments);
    let cli = match brief.map_or_else(|| Cli::try_parse_from(arguments), Ok) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors; clap knows where each is printed.
            let _ = error.print();
            return match error.use_stderr() {
                true if is_get => GetCode::Undelivered.into(),
                true => ExitCode::Usage,
                false => ExitCode::Success,
            };
        }
    };
    let Global { json, quiet, log_format, cache_dir } = cli.global;
    terminal::log_to_stderr(log_format, json);
    let locale =
        ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().filter_map(|name| std::env::var(name).ok()).find(|value| !value.is_empty());
    let context = Context {
        json,
        look: Look::of_locale(locale.as_deref()),
        cache_dir: cache_dir.unwrap_or_else(place::default_cache_directory),
        terminal: Terminal::new(quiet),
    };
    let outcome = match cli.command {
        Command::Init(args) => init::run(&context, args).await,
        Command::Backup(args) => backup::run(&context, args).await,
        Command::Copy(args) => copy::run(&context, args).await,
        Command::Points(args) => points::run(&context, args).await,
        Command::Show(args) => browse::show(&context, args).await,
        Command::Ls(args) => browse::ls(&context, args).await,
        Command::Cat(args) => browse::cat(&context, args).await,
        Command::Diff(args) => browse::diff(&context, args).await,
        Command::Pin(args) => pin::pin(&context, args).await,
        Command::Unpin(args) => pin::unpin(&context, args).await,
        Command::Prune(args) => prune::run(&context, args).await,
        Command::Undelete(args) => pin::undelete(&context, args).await,
        Command::GiveUp(args) => give_up::run(&context, args).await,
        Command::Restore(args) => restore::run(&context, args).await,
        Command::Verify(args) => verify::run(&context, args).await,
        Command::Repair(args) => repair::run(&context, args).await,
        Command::Drill(args) => drill::run(&context, args).await,
        Command::Doctor(args) => doctor::run(&context, args).await,
        Command::Wal(args) => wal::run(&context, args).await,
        Command::Key(args) => key::run(&context, args).await,
        Command::Permissions(args) => permissions::run(&context, args),
        Command::Policy(args) => policy::run(&context, args),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "farshore", &mut std::io::stdout());
            Ok(ExitCode::Success)
        }
    };
    context.terminal.finish();
    outcome.unwrap_or_else(|error| {
        error.print(json);
        if is_get { GetCode::Undelivered.into() } else { error.exit_code() }
    })
}

/// Whether a command line is, or may have been meant as, a `restore_command`: PostgreSQL takes an exit code from 1 to 125 for a proof that
/// there is no such file, ends its recovery, and becomes a primary that lacks what was committed. So nothing that goes wrong with it, be
/// it a misspelt word, may end with such a code.
pub fn serves_recovery(arguments: &[OsString]) -> bool {
    let has = |words: &[&str]| arguments.iter().skip(1).any(|argument| words.iter().any(|word| argument == word));
    has(&["get"]) || (has(&["wal"]) && !has(&wal::OTHERS))
}

/// A command that does next to nothing and is started for each file of a log (`wal push`, `wal get`): it needs no threads beside the first, and does
/// not wait for all other commands to be described. What is wrong with one, the description of all tells.
pub fn brief(arguments: &[OsString]) -> Option<Cli> {
    let has = |word: &str| arguments.iter().skip(1).any(|argument| argument == word);
    let may_be = has("wal") && (has("push") || has("get"));
    may_be.then(|| Brief::try_parse_from(arguments).ok()).flatten().filter(|brief| brief.is_brief()).map(Cli::from)
}

/// Whether a command takes signals itself: `wal receive` stores what is there before it ends.
pub fn takes_signals(arguments: &[OsString]) -> bool {
    let has = |word: &str| arguments.iter().skip(1).any(|argument| argument == word);
    has("wal") && has("receive")
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::{Cli, brief};

    #[test]
    fn what_is_started_for_each_file_of_a_log_reads_its_words_as_every_command_does() {
        for line in [
            "farshore wal push prod pg_wal/000000010000000000000001",
            "farshore --quiet wal push --cache-dir /var/cache/x --source db --wait 5s --no-upload prod pg_wal/1",
            "farshore wal get --json prod 000000010000000000000001 pg_wal/RECOVERYXLOG",
            "farshore wal --log-format json get --site ./far --identity key --system 7 00000002.history x --tablespaces-in-place",
        ] {
            let words: Vec<_> = line.split(' ').map(std::ffi::OsString::from).collect();
            let short = brief(&words).unwrap();
            assert_eq!(format!("{short:?}"), format!("{:?}", Cli::try_parse_from(&words).unwrap()), "{line}");
        }
        for line in [
            "farshore wal status prod",
            "farshore backup prod",
            "farshore wal gett x",
            "farshore wal receive push",
            "farshore backup wal --source get",
            "farshore wal push",
        ] {
            let words: Vec<_> = line.split(' ').map(std::ffi::OsString::from).collect();
            assert!(brief(&words).is_none(), "{line}");
        }
    }
}
