//! Farshore: parse, assemble, run, exit code.

use std::{
    ffi::OsString,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    process::ExitCode,
    time::Duration,
};

use farshore::{cli, report};
use tokio::signal::unix::{SignalKind, signal};

/// How long work that was interrupted may take to let go of its files and processes.
const PATIENCE: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    bound_arenas();
    let arguments: Vec<OsString> = std::env::args_os().collect();
    // Whatever happens to a `restore_command`, the server must not take it for the end of the log.
    let failed: report::ExitCode =
        if cli::serves_recovery(&arguments) { report::GetCode::Undelivered.into() } else { report::ExitCode::Other };
    let brief = cli::brief(&arguments);
    let mut builder = match brief.is_some() {
        true => tokio::runtime::Builder::new_current_thread(),
        false => tokio::runtime::Builder::new_multi_thread(),
    };
    let runtime = match builder.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("farshore: the operating system gives no threads: {error}");
            return failed.into();
        }
    };
    let takes_signals = cli::takes_signals(&arguments);
    let work = async {
        if takes_signals {
            return cli::run(arguments, brief).await;
        }
        let (mut interrupt, mut terminate) = match (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) {
            (Ok(interrupt), Ok(terminate)) => (interrupt, terminate),
            (Err(error), _) | (_, Err(error)) => {
                eprintln!("farshore: signals cannot be received: {error}");
                return failed;
            }
        };
        // A signal drops the work where it waits: every guard on the way cleans up behind it.
        tokio::select! {
            code = cli::run(arguments, brief) => code,
            _ = interrupt.recv() => stopped("SIGINT", report::ExitCode::Interrupted),
            _ = terminate.recv() => stopped("SIGTERM", report::ExitCode::Terminated),
        }
    };
    let ended = catch_unwind(AssertUnwindSafe(|| runtime.block_on(work)));
    runtime.shutdown_timeout(PATIENCE);
    match ended {
        Ok(code) => code.into(),
        // The message has been printed, unless printing was what failed.
        Err(_) if failed != report::ExitCode::Other => failed.into(),
        Err(panic) => resume_unwind(panic),
    }
}

/// The C library gives threads arenas of memory of their own, eight for each processor, and what one thread has freed no other gets:
/// with our many short-lived threads more than half of the memory in use was such remains (a prune of 1,000,000 chunks: 290 MB, and
/// 118 with two arenas, in the same time). One for each processor is enough for those that run.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "a function of the C library that takes two numbers")]
fn bound_arenas() {
    let processors = std::thread::available_parallelism().map_or(2, usize::from).max(2);
    // SAFETY: mallopt(3) changes a number in the allocator and touches no memory of ours; it must not run beside another thread's
    // allocations, and there is no other thread yet: this is the first that main does. An answer of 0 (refused) leaves all as it was.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, i32::try_from(processors).unwrap_or(i32::MAX)) };
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn bound_arenas() {}

fn stopped(signal: &str, code: report::ExitCode) -> report::ExitCode {
    eprintln!("farshore: stopped by {signal}; nothing half-done counts as done, and the next run continues");
    code
}
