//! `farshore wal`: one file per subcommand.
//!
//! `push` and `get` are started by PostgreSQL, as its user, in its data directory. `push` and `get` start `upload` and `prefetch`, which
//! go on when they have ended.

mod get;
mod prefetch;
mod prune;
mod push;
mod receive;
mod sites;
mod spool;
mod status;
mod upload;

use std::process::{Command as Process, Stdio};

use super::{CliError, Context};
use crate::report::ExitCode;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

impl Args {
    /// Whether it does next to nothing and ends: what the server starts for each file.
    pub(super) fn is_brief(&self) -> bool {
        matches!(self.command, Command::Push(_) | Command::Get(_))
    }
}

/// The words of the subcommands that serve no recovery.
pub(super) const OTHERS: [&str; 7] = ["push", "receive", "status", "prune", "upload", "prefetch", "help"];

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Take a file of the log from the server: archive_command = '/usr/bin/farshore wal push POLICY %p'.
    Push(push::Args),
    /// Deliver a file of the log to a server that recovers: restore_command = 'farshore wal get POLICY %f %p'. It ends with 1 only
    /// where it is proven that there is no such file, and with 126 or more for whatever goes wrong.
    Get(get::Args),
    /// Receive the log from the server as it is written, so that only seconds can be lost. It runs until it is stopped.
    Receive(receive::Args),
    /// Say what is archived, what is missing in it, what waits, and how much would be lost if the server were lost now.
    Status(status::Args),
    /// Delete what of the log no recovery point needs. `farshore prune` does it, too.
    Prune(prune::Args),
    /// Empty the spool: `push` starts this.
    #[command(hide = true)]
    Upload(upload::Args),
    /// Fetch what a recovery will ask for next: `get` starts this.
    #[command(hide = true)]
    Prefetch(prefetch::Args),
}

pub(super) async fn run(context: &Context, args: Args) -> Result<ExitCode, CliError> {
    match args.command {
        Command::Push(args) => push::run(context, args).await,
        Command::Get(args) => get::run(context, args).await,
        Command::Receive(args) => receive::run(context, args).await,
        Command::Status(args) => status::run(context, args).await,
        Command::Prune(args) => prune::run(context, args).await,
        Command::Upload(args) => upload::run(context, args).await,
        Command::Prefetch(args) => prefetch::run(context, args).await,
    }
}

/// This program with other arguments, away from the server's terminal, pipes and working directory.
fn apart(context: &Context) -> std::io::Result<Process> {
    use std::os::unix::process::CommandExt;
    let mut process = Process::new(std::env::current_exe()?);
    process.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    process.arg("--quiet").arg("--cache-dir").arg(&context.cache_dir);
    Ok(process)
}
