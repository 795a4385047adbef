//! Farshore: parse, assemble, run, exit code.

use std::{process::ExitCode, time::Duration};

use farshore::{cli, report};
use tokio::signal::unix::{SignalKind, signal};

/// How long work that was interrupted may take to let go of its files and processes.
const PATIENCE: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("farshore: the operating system gives no threads: {error}");
            return report::ExitCode::Other.into();
        }
    };
    let code = runtime.block_on(async {
        let (mut interrupt, mut terminate) = match (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) {
            (Ok(interrupt), Ok(terminate)) => (interrupt, terminate),
            (Err(error), _) | (_, Err(error)) => {
                eprintln!("farshore: signals cannot be received: {error}");
                return report::ExitCode::Other;
            }
        };
        // A signal drops the work where it waits: every guard on the way cleans up behind it.
        tokio::select! {
            code = cli::run(std::env::args_os()) => code,
            _ = interrupt.recv() => stopped("SIGINT", report::ExitCode::Interrupted),
            _ = terminate.recv() => stopped("SIGTERM", report::ExitCode::Terminated),
        }
    });
    runtime.shutdown_timeout(PATIENCE);
    code.into()
}

fn stopped(signal: &str, code: report::ExitCode) -> report::ExitCode {
    eprintln!("farshore: stopped by {signal}; nothing half-done counts as done, and the next run continues");
    code
}
