//! `farshore wal push`.

use std::{fs::OpenOptions, os::unix::fs::OpenOptionsExt, path::PathBuf, sync::Arc, time::Duration};

use super::{apart, spool};
use crate::{
    cli::{CliError, Context},
    clock::SystemClock,
    operations::{PushRequest, push},
    report::{ExitCode, printable},
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// [POLICY] PATH: a policy file, or the name of one in /etc/farshore/policies (it may be left out if there is only one, or if
    /// FARSHORE_POLICY names it), and the file of the log, %p.
    #[arg(value_name = "POLICY PATH", num_args = 1..=2, required = true)]
    words: Vec<String>,
    /// Which cluster of the policy, if it has several.
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// How long to wait for room in the spool; with `synchronous` in the policy, for the sites.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = humantime::parse_duration)]
    wait: Duration,
    /// Do not start what empties the spool: a unit of its own does that (systemd/farshore-wal@.service).
    #[arg(long)]
    no_upload: bool,
    #[arg(skip = std::env::var("FARSHORE_POLICY").ok().filter(|policy| !policy.is_empty()))]
    policy: Option<String>,
}

pub(super) async fn run(context: &Context, mut args: Args) -> Result<ExitCode, CliError> {
    let path = PathBuf::from(args.words.pop().unwrap_or_default());
    let file = spool::policy_path(args.words.pop().or(args.policy).as_deref())?;
    let policy = spool::read(&file)?;
    let wal = spool::wal_of(&policy, args.source.as_deref())?;
    let spool = Arc::new(spool::spool_of(&policy, wal));
    let start = || {
        if args.no_upload {
            return Ok(());
        }
        let mut process = apart(context)?;
        process.args(["wal", "upload"]).arg(&file).current_dir("/");
        if let Some(source) = &args.source {
            process.arg("--source").arg(source);
        }
        // What it says beside its state, of the last time that it ran.
        let log = spool.directory().join("upload.log");
        process.stderr(OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(log)?);
        process.spawn().map(|_| ())
    };
    let request = PushRequest {
        spool: Arc::clone(&spool),
        path: &path,
        synchronous: wal.synchronous,
        patience: args.wait,
        start: &start,
        clock: SystemClock::shared(),
    };
    let pushed = push(request).await?;
    for warning in &pushed.warnings {
        eprintln!("farshore: warning: {} waits in the spool: {}", pushed.name.file(), printable(warning));
    }
    Ok(ExitCode::Success)
}
