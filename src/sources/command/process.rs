//! A running program that cannot outlive its owner.

use std::{
    future::Future,
    io,
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::{Child, ChildStdin, ChildStdout, Command},
    task::JoinHandle,
};

use super::{CommandOptions, tail::HeadAndTail};
use crate::sources::SourceError;

/// How long pipes may stay open and silent after the program has ended, held by a child that it left behind.
const SILENCE_AFTER_EXIT: Duration = Duration::from_secs(10);

/// A program, its process group, and what it says on standard error. Dropping it kills the whole group.
#[derive(Debug)]
pub(super) struct Running {
    program: String,
    child: Child,
    group: Option<Pid>,
    exited: Option<ExitStatus>,
    said: Arc<Mutex<HeadAndTail>>,
    listeners: Vec<JoinHandle<()>>,
}

impl Running {
    /// Starts a program whose standard output is read by the caller.
    pub(super) fn capturing(options: &CommandOptions) -> Result<(Self, ChildStdout), SourceError> {
        let mut command = base(&options.capture)?;
        command.envs(&options.environment).stdin(Stdio::null());
        if let Some(directory) = &options.directory {
            command.current_dir(directory);
        }
        let mut running = Self::start(command, &options.capture)?;
        let stdout = running.child.stdout.take().expect("stdout was asked to be piped");
        Ok((running, stdout))
    }

    /// Starts a program whose standard input is written by the caller; what it writes counts as what it says.
    pub(super) fn receiving(argv: &[String]) -> Result<(Self, ChildStdin), SourceError> {
        let mut command = base(argv)?;
        command.stdin(Stdio::piped());
        let mut running = Self::start(command, argv)?;
        let stdout = running.child.stdout.take().expect("stdout was asked to be piped");
        running.listen(stdout);
        let stdin = running.child.stdin.take().expect("stdin was asked to be piped");
        Ok((running, stdin))
    }

    fn start(mut command: Command, argv: &[String]) -> Result<Self, SourceError> {
        let program = argv.join(" ");
        let mut child = command.spawn().map_err(|error| SourceError::Program {
            program: program.clone(),
            detail: format!("cannot be started: {error}; check that it is installed, in the PATH of the agent, and executable"),
        })?;
        let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let stderr = child.stderr.take().expect("stderr was asked to be piped");
        let mut running = Self { program, child, group, exited: None, said: Arc::default(), listeners: Vec::new() };
        running.listen(stderr);
        Ok(running)
    }

    fn listen(&mut self, mut pipe: impl AsyncRead + Unpin + Send + 'static) {
        let said = Arc::clone(&self.said);
        self.listeners.push(tokio::spawn(async move {
            let mut buffer = vec![0; 8 << 10];
            // An error of the pipe ends what can be heard; the exit status still tells how it went.
            while let Ok(count) = pipe.read(&mut buffer).await
                && count > 0
            {
                said.lock().unwrap_or_else(PoisonError::into_inner).push(&buffer[..count]);
            }
        }));
    }

    /// One read of the program's output: waits as long as the program runs, and a little longer.
    pub(super) async fn read(&mut self, read: impl Future<Output = io::Result<usize>>) -> Result<usize, SourceError> {
        let mut read = std::pin::pin!(read);
        if self.exited.is_none() {
            tokio::select! {
                biased;
                done = &mut read => return done.map_err(SourceError::io(self.program.clone())),
                status = self.child.wait() => {
                    self.exited = Some(status.map_err(SourceError::io(self.program.clone()))?);
                }
            }
        }
        match tokio::time::timeout(SILENCE_AFTER_EXIT, read).await {
            Ok(done) => done.map_err(SourceError::io(self.program.clone())),
            Err(_) => Err(self.failed("ended, but something it started still holds its output open; let it wait for its children")),
        }
    }

    /// Waits for the end and obeys the exit status.
    pub(super) async fn succeeded(mut self) -> Result<HeadAndTail, SourceError> {
        let status = match self.exited {
            Some(status) => status,
            None => self.child.wait().await.map_err(SourceError::io(self.program.clone()))?,
        };
        self.exited = Some(status);
        for mut listener in std::mem::take(&mut self.listeners) {
            if tokio::time::timeout(SILENCE_AFTER_EXIT, &mut listener).await.is_err() {
                listener.abort();
            }
        }
        if !status.success() {
            return Err(self.failed(&format!("failed ({status}), nothing of it was kept; run it by hand to see why")));
        }
        Ok(std::mem::take(&mut *self.said.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    fn failed(&self, what: &str) -> SourceError {
        let words = self.said.lock().unwrap_or_else(PoisonError::into_inner).last_words();
        // The next step stays at the end: what the program said goes between.
        let (happened, step) = what.rsplit_once("; ").unwrap_or((what, "run it by hand to see why"));
        SourceError::Program { program: self.program.clone(), detail: format!("{happened}; {words}; {step}") }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        for listener in &self.listeners {
            listener.abort();
        }
        // Once the leader was waited for and none of its children is left, its number may belong to a stranger.
        if self.exited.is_some_and(|status| status.success()) {
            return;
        }
        if let Some(group) = self.group {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

fn base(argv: &[String]) -> Result<Command, SourceError> {
    let Some((program, arguments)) = argv.split_first() else {
        return Err(SourceError::Program {
            program: "(none)".to_owned(),
            detail: "the list of program and arguments is empty; name a program".to_owned(),
        });
    };
    let mut command = Command::new(program);
    // A group of its own, so that what the program starts can be ended with it.
    command.args(arguments).process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    Ok(command)
}
