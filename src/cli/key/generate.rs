//! `farshore key generate` and `farshore key public`.

use std::{
    fs::OpenOptions,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use secrecy::ExposeSecret;
use serde_json::json;

use crate::{
    cli::{CliError, Context, identity},
    clock::SystemClock,
    report::ExitCode,
    repository::{generate_identity, wrap_identity},
};

#[derive(Debug, clap::Args)]
pub(super) struct GenerateArgs {
    /// The file; it must not exist.
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    /// Wrap the secret key with a passphrase, which is asked for on the terminal, or read from the file that
    /// FARSHORE_PASSPHRASE_FILE names. The file can then lie where others might find it; without the passphrase it is worth nothing.
    #[arg(long)]
    passphrase: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct PublicArgs {
    /// The identity file.
    file: PathBuf,
}

pub(super) async fn generate(context: &Context, args: GenerateArgs) -> Result<ExitCode, CliError> {
    let (text, public) = generate_identity(SystemClock::shared().now());
    let text = if args.passphrase {
        identity::off_thread(move || {
            let passphrase = identity::choose_passphrase()?;
            Ok(wrap_identity(&text, &passphrase)?.into())
        })
        .await?
    } else {
        text
    };
    write_new(&args.output, text.expose_secret()).map_err(|error| {
        CliError::other(
            args.output.display().to_string(),
            format!("the identity cannot be written: {error}; choose a file that does not exist"),
        )
    })?;
    print(context, &public)
}

pub(super) async fn public(context: &Context, args: PublicArgs) -> Result<ExitCode, CliError> {
    let identities = identity::off_thread(move || identity::file(&args.file)).await?;
    print(context, &identities.public().map(|public| public.to_string()).unwrap_or_default())
}

fn print(context: &Context, public: &str) -> Result<ExitCode, CliError> {
    context.print(&json!({ "public_key": public }), |_| public.to_owned())?;
    Ok(ExitCode::Success)
}

/// Writes a file that must not exist, readable by its owner alone from the first moment, and on disk when this returns.
pub(super) fn write_new(path: &Path, text: &str) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::File::open(parent)?.sync_all()
}
