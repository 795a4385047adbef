//! `farshore key`.

use std::{
    fs::OpenOptions,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use secrecy::ExposeSecret;
use serde_json::json;

use super::{CliError, Context, place};
use crate::{clock::SystemClock, report::ExitCode, repository::generate_identity};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Make a new identity: the secret key goes into a file that only you can read, the public key to standard output.
    Generate {
        /// The file; it must not exist.
        #[arg(long, short, value_name = "FILE")]
        output: PathBuf,
    },
    /// Print the public key (`age1…`) of an identity file, for `recipients` in a policy.
    Public {
        /// The identity file.
        file: PathBuf,
    },
}

pub(super) fn run(context: &Context, args: Args) -> Result<ExitCode, CliError> {
    let public = match args.command {
        Command::Generate { output } => {
            let (text, public) = generate_identity(SystemClock::shared().now());
            write_new(&output, text.expose_secret()).map_err(|error| {
                CliError::other(
                    output.display().to_string(),
                    format!("the identity cannot be written: {error}; choose a file that does not exist"),
                )
            })?;
            public
        }
        Command::Public { file } => {
            let identities = place::identity_file(&file)?;
            identities.public().map(|public| public.to_string()).unwrap_or_default()
        }
    };
    context.print(&json!({ "public_key": public }), |_| public.clone())?;
    Ok(ExitCode::Success)
}

/// Writes a file that must not exist, readable by its owner alone from the first moment, and on disk when this returns.
fn write_new(path: &Path, text: &str) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::File::open(parent)?.sync_all()
}
