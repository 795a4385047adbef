//! `farshore key`.

mod change;
mod check;
mod generate;
mod sheet;

use super::{CliError, Context};
use crate::report::ExitCode;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Make a new identity: the secret key goes into a file that only you can read, the public key to standard output.
    Generate(generate::GenerateArgs),
    /// Print the public key (`age1…`) of an identity file, for `recipients` in a policy.
    Public(generate::PublicArgs),
    /// Who can open what, and which keys are not yet wrapped for the newest recipients.
    List(check::ListArgs),
    /// Prove that the identity at hand opens the repository and every data key of the newest point.
    Check(check::CheckArgs),
    /// Let somebody else restore, too: wraps every key anew. The data are not touched.
    AddRecipient(change::AddArgs),
    /// Shut somebody out: wraps every key anew without him, and deletes the wraps that he opens.
    RemoveRecipient(change::RemoveArgs),
    /// Make the recipients those that the policy names; goes on with what was stopped.
    Rotate(change::RotateArgs),
    /// Write a recovery sheet to be printed and locked away: the identity as text and QR code, and what to type on the bad day.
    Sheet(sheet::SheetArgs),
}

pub(super) async fn run(context: &Context, args: Args) -> Result<ExitCode, CliError> {
    match args.command {
        Command::Generate(args) => generate::generate(context, args).await,
        Command::Public(args) => generate::public(context, args).await,
        Command::List(args) => check::list(context, args).await,
        Command::Check(args) => check::check(context, args).await,
        Command::AddRecipient(args) => change::add(context, args).await,
        Command::RemoveRecipient(args) => change::remove(context, args).await,
        Command::Rotate(args) => change::rotate(context, args).await,
        Command::Sheet(args) => sheet::run(context, args).await,
    }
}
