//! `farshore policy`.

use super::{CliError, Context, place, terminal};
use crate::{
    policy,
    report::{ExitCode, counted},
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Check policy files: every problem of each, with its line, key, and what would be right.
    Check {
        /// Policy files, or names of policies in /etc/farshore/policies.
        #[arg(required = true)]
        files: Vec<String>,
    },
    /// Print the JSON Schema of policies, for editors.
    Schema,
}

pub(super) fn run(context: &Context, args: Args) -> Result<ExitCode, CliError> {
    match args.command {
        Command::Schema => {
            terminal::print(&serde_json::to_string_pretty(policy::schema()).map_err(|error| CliError::other("schema", error))?);
            Ok(ExitCode::Success)
        }
        Command::Check { files } => {
            let mut code = ExitCode::Success;
            for file in files {
                match place::load_policy(&file) {
                    Ok(policy) => {
                        context.print(&serde_json::json!({ "file": file, "policy": policy.name, "sound": true }), |look| {
                            format!(
                                "{} {file}: policy {}, {}, {}",
                                look.ok(),
                                policy.name,
                                counted(policy.sources.len() as u64, "source"),
                                counted(policy.sites.len() as u64, "site")
                            )
                        })?
                    }
                    Err(error) => {
                        error.print(context.json);
                        code = error.exit_code();
                    }
                }
            }
            Ok(code)
        }
    }
}
