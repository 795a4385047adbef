//! Progress on a terminal, log lines elsewhere.

use std::{
    fmt,
    io::{IsTerminal, Write},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tracing_subscriber::{EnvFilter, layer::SubscriberExt, util::SubscriberInitExt};

use super::LogFormat;
use crate::{
    clock::Stopwatch,
    progress::{Observer, Problem, SharedObserver},
    report::{bytes, count, printable},
};

/// How often a log line tells where the work is, when nobody watches.
const LOG_EVERY: Duration = Duration::from_secs(30);

/// Prints to standard output; a reader that has gone away (`| head`) is no error.
pub(super) fn print(text: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

/// Sends log lines to standard error; `RUST_LOG` chooses which.
pub(super) fn log_to_stderr(format: LogFormat, json: bool) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("farshore=info,warn"));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false);
    let registry = tracing_subscriber::registry().with(filter);
    // A second initialisation (tests run several commands in one process) changes nothing.
    let _ = match format {
        LogFormat::Json => registry.with(lines.json()).try_init(),
        LogFormat::Text if json || !std::io::stderr().is_terminal() => registry.with(lines.with_ansi(false)).try_init(),
        LogFormat::Text => registry.with(lines.without_time()).try_init(),
    };
}

/// Draws progress, or logs it.
#[derive(Clone)]
pub(super) struct Terminal(Arc<Shown>);

struct Shown {
    quiet: bool,
    bar: Option<ProgressBar>,
    phase: Mutex<(String, Stopwatch)>,
    bytes: AtomicU64,
    items: AtomicU64,
}

impl fmt::Debug for Shown {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Terminal")
    }
}

impl Terminal {
    pub(super) fn new(quiet: bool) -> Self {
        let bar = (!quiet && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(8));
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        let phase = Mutex::new((String::new(), Stopwatch::start()));
        Self(Arc::new(Shown { quiet, bar, phase, bytes: AtomicU64::new(0), items: AtomicU64::new(0) }))
    }

    pub(super) fn observer(&self) -> SharedObserver {
        self.0.clone()
    }

    /// Prints something else while work goes on, without a bar in it.
    pub(super) fn aside(&self, print: impl FnOnce()) {
        match &self.0.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }

    /// Takes the bar away, so that it does not stand in the report.
    pub(super) fn finish(&self) {
        if let Some(bar) = &self.0.bar {
            bar.finish_and_clear();
        }
    }
}

impl Shown {
    fn tell(&self) {
        let items = self.items.load(Ordering::Relaxed);
        if let Some(bar) = &self.bar {
            bar.set_message(format!("{} items", count(items)));
            return;
        }
        if self.quiet {
            return;
        }
        let mut phase = self.phase.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if phase.1.elapsed() >= LOG_EVERY {
            phase.1 = Stopwatch::start();
            tracing::info!(phase = %phase.0, items, bytes = self.bytes.load(Ordering::Relaxed), "at work");
        }
    }
}

impl Observer for Shown {
    fn phase(&self, name: &str, total_bytes: Option<u64>) {
        self.bytes.store(0, Ordering::Relaxed);
        self.items.store(0, Ordering::Relaxed);
        *self.phase.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = (name.to_owned(), Stopwatch::start());
        match &self.bar {
            Some(bar) => {
                let template = if total_bytes.is_some() {
                    "{spinner} {prefix:24} [{bar:24}] {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} ETA {eta} {msg}"
                } else {
                    "{spinner} {prefix:24} {binary_bytes} {binary_bytes_per_sec} {elapsed} {msg}"
                };
                if let Ok(style) = ProgressStyle::with_template(template) {
                    bar.set_style(style);
                }
                bar.reset();
                bar.set_length(total_bytes.unwrap_or(0));
                bar.set_prefix(printable(name));
                bar.set_message("");
            }
            None if !self.quiet => tracing::info!(phase = name, "begins"),
            None => {}
        }
    }

    fn bytes(&self, number: u64) {
        self.bytes.fetch_add(number, Ordering::Relaxed);
        if let Some(bar) = &self.bar {
            bar.inc(number);
        }
        self.tell();
    }

    fn items(&self, number: u64) {
        self.items.fetch_add(number, Ordering::Relaxed);
        self.tell();
    }

    fn problem(&self, problem: Problem) {
        match &self.bar {
            Some(bar) => bar.println(format!("{}: {}", printable(&problem.subject), printable(&problem.message))),
            None => tracing::warn!(subject = %printable(&problem.subject), "{}", printable(&problem.message)),
        }
    }
}

/// Bytes in words; for lines that commands print themselves.
pub(super) fn size(number: u64) -> String {
    bytes(number)
}
