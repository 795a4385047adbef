//! `farshore wal receive`.

use std::{sync::Arc, time::Duration};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};

use super::{
    sites::WrittenSite,
    spool::{self, cluster_of},
};
use crate::{
    cli::{CliError, Context, assemble},
    clock::SystemClock,
    operations::{OpenLogSite, ReceiveBy, ReceiveRequest, receive},
    policy::PostgresReceiveBy,
    report::ExitCode,
    repository::LogKey,
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A policy file, or the name of one in /etc/farshore/policies.
    policy: String,
    /// Which cluster of the policy, if it has several.
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// How often the server is asked how far it is, where it does not stream its log, and how its slot stands.
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = an_interval)]
    interval: Duration,
    /// How often a part of the segment that the server is writing is stored, if there is anything new: about what can be lost (with --interval, where the log is not streamed).
    #[arg(long, value_name = "DURATION", default_value = "3s", value_parser = an_interval)]
    partial_interval: Duration,
}

/// Less keeps the server busy for nothing.
const LEAST_INTERVAL: Duration = Duration::from_millis(100);

fn an_interval(text: &str) -> Result<Duration, String> {
    let interval = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if interval < LEAST_INTERVAL { Err("is less than 100ms".to_owned()) } else { Ok(interval) }
}

pub(super) async fn run(context: &Context, args: Args) -> Result<ExitCode, CliError> {
    let file = spool::policy_path(Some(&args.policy))?;
    let policy = spool::read(&file)?;
    let (source, postgres) = cluster_of(&policy, args.source.as_deref())?;
    let sites = policy.sites.iter().map(|site| -> Arc<dyn OpenLogSite> {
        Arc::new(WrittenSite {
            policy: file.clone(),
            site: site.name.clone(),
            cache: context.cache_dir.clone(),
            key: LogKey::default(),
        })
    });
    let (stopping, stop) = watch::channel(false);
    let request = ReceiveRequest {
        source: source.to_owned(),
        config: assemble::postgres(source, postgres)?,
        slot: postgres.wal.slot_name(&policy.name),
        by: match postgres.wal.receive_by {
            PostgresReceiveBy::Auto => ReceiveBy::Auto,
            PostgresReceiveBy::Stream => ReceiveBy::Stream,
            PostgresReceiveBy::Sql => ReceiveBy::Sql,
        },
        hold_bytes: postgres.wal.hold_bytes,
        sites: sites.collect(),
        interval: args.interval,
        part_interval: args.partial_interval,
        stop,
        clock: SystemClock::shared(),
    };
    let listen = |kind: SignalKind| signal(kind).map_err(|error| CliError::other("signals", error));
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    let mut work = std::pin::pin!(receive(request));
    tokio::select! {
        ended = &mut work => return Ok(ended.map(|()| ExitCode::Success)?),
        _ = either(&mut interrupt, &mut terminate) => tracing::info!("storing what is there, then it ends; once more ends it at once"),
    }
    stopping.send_replace(true);
    tokio::select! {
        ended = &mut work => Ok(ended.map(|()| ExitCode::Success)?),
        code = either(&mut interrupt, &mut terminate) => Ok(code),
    }
}

/// The next of two signals, as a shell says it.
async fn either(interrupt: &mut Signal, terminate: &mut Signal) -> ExitCode {
    tokio::select! {
        _ = interrupt.recv() => ExitCode::Interrupted,
        _ = terminate.recv() => ExitCode::Terminated,
    }
}
