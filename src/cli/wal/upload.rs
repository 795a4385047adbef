//! `farshore wal upload`: empties the spool. `push` starts it; a unit of its own may keep it running.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use super::{
    sites::WrittenSite,
    spool::{self, spool_of, wal_of},
};
use crate::{
    cli::{CliError, Context},
    clock::{SharedClock, Stopwatch, SystemClock},
    operations::{OpenLogSite, Spool, UploadEnd, UploadError, UploadRequest, UploadState, upload},
    policy::Policy,
    report::ExitCode,
    repository::LogKey,
};

/// How often it is looked whether the policy has changed.
const READ_POLICY_EVERY: Duration = Duration::from_secs(2);
/// A policy that cannot be read is tried again after this.
const NICENESS: i32 = 5;
const PAUSE: Duration = Duration::from_secs(5);

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A policy file, or the name of one in /etc/farshore/policies.
    policy: String,
    /// Which cluster of the policy, if it has several.
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// End when the spool was empty for so long.
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = humantime::parse_duration)]
    idle: Duration,
}

pub(super) async fn run(context: &Context, args: Args) -> Result<ExitCode, CliError> {
    // Away from whoever started it, so that it outlives the server's shell; by hand it stays where it is.
    let _ = rustix::process::setsid();
    // The server's own work, and its pushes, go first.
    let _ = rustix::process::nice(NICENESS);
    let file = spool::policy_path(Some(&args.policy))?;
    let clock = SystemClock::shared();
    let policy = spool::read(&file)?;
    let spool = Arc::new(spool_of(&policy, wal_of(&policy, args.source.as_deref())?));
    let mut keys = Keys::default();
    let mut policy = Some(policy);
    loop {
        let Some(read) = policy.take() else {
            tokio::time::sleep(PAUSE).await;
            policy = match spool::read(&file) {
                Ok(read) => Some(read),
                Err(error) => {
                    complain(&spool, &error, &clock)?;
                    None
                }
            };
            continue;
        };
        if spool_of(&read, wal_of(&read, args.source.as_deref())?).directory() != spool.directory() {
            // The next push starts one for the new place; what waits here is told by the old policy's name alone.
            return Ok(ExitCode::Success);
        }
        match once(context, &args, &file, &read, &spool, &mut keys).await? {
            UploadEnd::Idle | UploadEnd::Held => return Ok(ExitCode::Success),
            UploadEnd::Changed => policy = spool::read(&file).ok(),
        }
    }
}

/// A key of the log for each site.
#[derive(Default)]
struct Keys(std::collections::BTreeMap<String, LogKey>);

/// Empties the spool as this policy says.
async fn once(
    context: &Context,
    args: &Args,
    file: &std::path::Path,
    policy: &Policy,
    spool: &Arc<Spool>,
    keys: &mut Keys,
) -> Result<UploadEnd, CliError> {
    let sites = policy.sites.iter().map(|site| -> Arc<dyn OpenLogSite> {
        Arc::new(WrittenSite {
            policy: PathBuf::from(file),
            site: site.name.clone(),
            cache: context.cache_dir.clone(),
            key: keys.0.entry(site.name.clone()).or_default().clone(),
        })
    });
    let sites: Vec<_> = sites.collect();
    let looked = Mutex::new((Stopwatch::start(), false));
    let changed = || {
        let mut looked = looked.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if looked.0.elapsed() >= READ_POLICY_EVERY {
            *looked = (Stopwatch::start(), std::fs::read_to_string(file).is_ok_and(|text| text != policy.text));
        }
        looked.1
    };
    let memory_bytes = policy.limits.memory_bytes / sites.len().max(1) as u64;
    let request = UploadRequest {
        spool: Arc::clone(spool),
        sites,
        memory_bytes,
        idle: args.idle,
        changed: &changed,
        clock: SystemClock::shared(),
    };
    Ok(upload(request).await?)
}

/// Keeps what is wrong where the next push and `wal status` find it.
fn complain(spool: &Spool, error: &CliError, clock: &SharedClock) -> Result<(), CliError> {
    let mut state: UploadState = spool.state();
    let since = state.error.as_ref().map_or_else(|| clock.now(), |error| error.since);
    state.error = Some(UploadError { message: error.to_string(), since, conflict: None });
    Ok(spool.keep_state(&state)?)
}
