//! Source `command`: what a program writes to its standard output.
//!
//! Promises: no shell comes between; the exit status is obeyed, so the output of a program that failed, was cut off or ran too
//! long is never kept; the program and all it started end with the capture, also when that is dropped. Standard error is kept
//! with the point, its middle left out when it is long.
//!
//! Assumes: the program leads its own process group and its children stay in it.
//!
//! Leaves out on purpose: comparing with an earlier output (the repository stores equal chunks once anyway).

mod process;
mod rebuild;
mod tail;

use std::{collections::BTreeMap, fmt, path::PathBuf, time::Duration};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use serde_json::json;
use tokio::io::AsyncReadExt;

pub use rebuild::CommandTarget;

use self::process::Running;
use super::{Capture, CaptureContext, Captured, Cut, Entry, Examination, SourceError};
use crate::progress::{Finding, Problem};

/// Path and kind of the one entry that a command's snapshot has.
pub const OUTPUT: &str = "output";

/// Bytes read from the program at once: what the sink takes best.
const PIECE_BYTES: usize = 256 << 10;

/// What to run.
#[derive(Clone, Default)]
pub struct CommandOptions {
    /// Program and arguments, as they are: no shell expands them. They are kept in the point, so no secrets in them.
    pub capture: Vec<String>,
    /// How long it may take; none is no limit.
    pub timeout: Option<Duration>,
    /// Variables set in addition to the agent's own; the way to hand a secret over.
    pub environment: BTreeMap<String, String>,
    /// Where to run it; none is where the agent runs.
    pub directory: Option<PathBuf>,
}

impl fmt::Debug for CommandOptions {
    // The values of the environment may be secrets.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("CommandOptions")
            .field("capture", &self.capture)
            .field("timeout", &self.timeout)
            .field("environment", &self.environment.keys().collect::<Vec<_>>())
            .field("directory", &self.directory)
            .finish()
    }
}

/// Captures the standard output of a program.
#[derive(Debug)]
pub struct CommandSource {
    options: CommandOptions,
}

impl CommandSource {
    /// A source that runs what `options` say, each time anew.
    pub fn new(options: CommandOptions) -> Self {
        Self { options }
    }

    async fn run(&self, context: CaptureContext<'_>) -> Result<Captured, SourceError> {
        let started = context.clock.monotonic();
        let (mut running, mut stdout) = Running::capturing(&self.options)?;
        let mut writer = context.sink.content(Cut::ContentDefined, None).await?;
        let mut total = 0u64;
        let mut buffer = BytesMut::with_capacity(PIECE_BYTES);
        loop {
            // A child that was left behind could hold the pipe open for ever: once the program has ended, silence ends the wait.
            let count = running.read(stdout.read_buf(&mut buffer)).await?;
            if count > 0 && buffer.len() < PIECE_BYTES {
                continue;
            }
            if !buffer.is_empty() {
                let piece: Bytes = buffer.split().freeze();
                total += piece.len() as u64;
                context.observer.bytes(piece.len() as u64);
                writer.write(piece).await?;
                buffer.reserve(PIECE_BYTES);
            }
            if count == 0 {
                break;
            }
        }
        let stderr = running.succeeded().await?;
        let content = writer.finish().await?;
        if total == 0 {
            context.observer.problem(Problem::new(
                self.describe(),
                "the program succeeded and wrote nothing; check that its arguments select something",
            ));
        }
        let mut entry = Entry::new(OUTPUT, OUTPUT);
        entry.modified = Some(context.clock.now());
        entry.content = Some(content);
        context.sink.entry(entry).await?;
        context.observer.items(1);
        let facts = json!({
            "command": self.options.capture,
            "exit_status": 0,
            "bytes": total,
            "stderr": stderr.text(),
            "stderr_bytes": stderr.total_bytes(),
            "seconds": (context.clock.monotonic() - started).as_secs_f64(),
        });
        Ok(Captured { facts, consistent_at: None })
    }
}

#[async_trait]
impl Capture for CommandSource {
    fn kind(&self) -> &'static str {
        "command"
    }

    fn describe(&self) -> String {
        self.options.capture.join(" ")
    }

    /// Looks for the program, and does not run it.
    async fn examine(&self, _: &Examination) -> Vec<Finding> {
        let name = self.options.capture.first().map_or("", String::as_str);
        let path = std::env::var_os("PATH").unwrap_or_default();
        let directories = if name.contains('/') { vec![PathBuf::new()] } else { std::env::split_paths(&path).collect() };
        let runs = |file: &PathBuf| file.is_file() && rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok();
        vec![match directories.into_iter().map(|directory| directory.join(name)).find(runs) {
            Some(found) => Finding::sound("program", format!("{} (not run)", found.display())),
            None => Finding::wrong(
                "program",
                format!("{name:?} is not on PATH, or may not be executed"),
                "give its absolute path in `capture`, or install it",
            ),
        }]
    }

    async fn capture(&self, context: CaptureContext<'_>) -> Result<Captured, SourceError> {
        context.observer.phase(&format!("command {}", self.options.capture.first().map_or("", String::as_str)), None);
        let Some(limit) = self.options.timeout else { return self.run(context).await };
        match tokio::time::timeout(limit, self.run(context)).await {
            Ok(done) => done,
            Err(_) => Err(SourceError::Program {
                program: self.describe(),
                detail: format!(
                    "ran longer than {} and was stopped, nothing of it was kept; raise `timeout` in the policy or find what it waits for",
                    humantime::format_duration(limit)
                ),
            }),
        }
    }
}
