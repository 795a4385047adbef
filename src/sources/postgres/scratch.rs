//! A private PostgreSQL server for drills: made, used, and gone again.
//!
//! It cannot touch anything else: its own directory (0700) and unix socket, no network, no archiving, no preloaded libraries, no
//! replication workers. It does sync to disk as any server does, because a drill measures. When run by root it runs as
//! `postgres`, else `nobody`, since PostgreSQL refuses root.

use std::{
    fs,
    os::unix::{
        fs::{DirBuilderExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::{PostgresConfig, account, failure::Side, programs};
use crate::{clock::Stopwatch, sources::SourceError};

/// A running scratch server. Dropping it stops the server and removes its directory.
#[derive(Debug)]
pub struct ScratchCluster {
    directory: PathBuf,
    socket: PathBuf,
    /// Holds the socket where the directory's own path is too long for one.
    _socket_directory: Option<TempDir>,
    server: Child,
    major: u32,
}

/// The file that says a directory is ours to remove.
const MARKER: &str = "farshore-scratch-cluster";
/// A unix socket's path has room for 107 bytes; the file's own name takes 16 of them.
const LONGEST_SOCKET_DIRECTORY: usize = 90;
/// How long the server may take to start, and to stop.
const PATIENCE: Duration = Duration::from_secs(60);

impl ScratchCluster {
    /// Makes a cluster in `directory` (which must not exist, be empty, or be left over from an earlier scratch cluster) and
    /// starts it. `bin_directory` says where `initdb` and `postgres` are; without it PATH and the distributions' directories are
    /// searched for the oldest that is at least major version `at_least`.
    ///
    /// # Errors
    /// [`SourceError::Program`] when the programs are missing, too old, or fail (with the end of the server's log);
    /// [`SourceError::UnfitTarget`] when the directory holds something else.
    pub async fn start(directory: &Path, bin_directory: Option<&Path>, at_least: u32) -> Result<Self, SourceError> {
        let initdb = programs::find("initdb", bin_directory, at_least).await?;
        let server = programs::find("postgres", initdb.path.parent(), at_least).await?;
        let (directory, major) = (directory.to_owned(), server.major);
        let made = tokio::task::spawn_blocking(move || make(&directory, &initdb.path, &server.path, major)).await;
        let mut cluster = made.map_err(|error| SourceError::io("starting a scratch cluster")(std::io::Error::other(error)))??;
        cluster.wait_until_ready().await?;
        Ok(cluster)
    }

    /// How to reach a database of it, as superuser `postgres`. Holds no secret.
    pub fn url(&self, database: &str) -> String {
        let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        format!(
            "postgres://postgres@/{}?host={}&port=5432&sslmode=disable",
            encode(database),
            encode(&self.socket.to_string_lossy())
        )
    }

    /// Major version.
    pub fn major(&self) -> u32 {
        self.major
    }

    async fn wait_until_ready(&mut self) -> Result<(), SourceError> {
        let config = PostgresConfig::parse(&self.url("postgres"), None)?;
        let since = Stopwatch::start();
        loop {
            if let Ok(session) = config.connect(Side::Target).await {
                session.close().await;
                return Ok(());
            }
            let ended = self.server.try_wait().map_err(SourceError::io("the scratch cluster"))?;
            if ended.is_some() || since.elapsed() > PATIENCE {
                let log = fs::read_to_string(self.directory.join("log")).unwrap_or_default();
                let end: Vec<&str> = log.lines().rev().take(5).collect();
                let end = end.into_iter().rev().collect::<Vec<_>>().join("; ");
                return Err(SourceError::Program {
                    program: "postgres".to_owned(),
                    detail: format!(
                        "the scratch cluster in {} did not start: {end}; mend that, and start the drill again",
                        self.directory.display()
                    ),
                });
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for ScratchCluster {
    fn drop(&mut self) {
        // Immediate shutdown: what is in it is thrown away.
        if let Some(pid) = Pid::from_raw(self.server.id().cast_signed()) {
            let _ = kill_process(pid, Signal::QUIT);
        }
        let since = Stopwatch::start();
        while !matches!(self.server.try_wait(), Ok(Some(_)) | Err(_)) {
            if since.elapsed() > PATIENCE {
                let _ = self.server.kill();
                let _ = self.server.wait();
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        if let Err(error) = fs::remove_dir_all(&self.directory) {
            tracing::warn!(directory = %self.directory.display(), %error, "a scratch cluster was left behind: remove it");
        }
    }
}

fn make(directory: &Path, initdb: &Path, server: &Path, major: u32) -> Result<ScratchCluster, SourceError> {
    clear(directory)?;
    let account =
        account::unprivileged().map_err(|detail| SourceError::UnfitTarget { subject: "the scratch cluster".to_owned(), detail })?;
    let io = |path: &Path| SourceError::io(path.display().to_string());
    if let Some(parent) = directory.parent() {
        fs::create_dir_all(parent).map_err(io(parent))?;
    }
    match fs::DirBuilder::new().mode(0o700).create(directory) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(io(directory)(error)),
    }
    // The server starts elsewhere than we do, and its command line must name the directory as a later run will look for it.
    let directory = &fs::canonicalize(directory).map_err(io(directory))?;
    // The marker comes first: a crash right after this must leave a directory that is recognised.
    fs::write(directory.join(MARKER), "a scratch cluster of farshore: may be removed\n").map_err(io(directory))?;
    fs::set_permissions(directory, std::os::unix::fs::PermissionsExt::from_mode(0o700)).map_err(io(directory))?;
    let (socket, socket_directory) = if directory.as_os_str().len() > LONGEST_SOCKET_DIRECTORY {
        let made = tempfile::Builder::new().prefix("farshore-socket-").tempdir().map_err(io(directory))?;
        (made.path().to_owned(), Some(made))
    } else {
        (directory.to_owned(), None)
    };
    if let Some((user, group)) = account {
        for path in [directory, &socket] {
            chown(path, Some(user), Some(group)).map_err(io(path))?;
        }
    }
    let started = run(directory, &socket, initdb, server, account);
    match started {
        Ok(child) => Ok(ScratchCluster {
            directory: directory.to_owned(),
            socket,
            _socket_directory: socket_directory,
            server: child,
            major,
        }),
        Err(error) => {
            // The first error says more than one of tidying up; what is left carries the marker.
            let _ = fs::remove_dir_all(directory);
            Err(error)
        }
    }
}

fn command(program: &Path, account: Option<(u32, u32)>, directory: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PG")) {
        command.env_remove(name);
    }
    command.env("LC_ALL", "C").current_dir(directory).stdin(Stdio::null());
    // A Ctrl-C at the terminal is for us; we then stop the server.
    command.process_group(0);
    if let Some((user, group)) = account {
        command.uid(user).gid(group);
    }
    command
}

fn run(directory: &Path, socket: &Path, initdb: &Path, server: &Path, account: Option<(u32, u32)>) -> Result<Child, SourceError> {
    let data = directory.join("data");
    let failed = |program: &Path, detail: String| SourceError::Program {
        program: program.display().to_string(),
        detail: format!(
            "{detail}; the directory {} and those above it must be accessible to the user that PostgreSQL runs as",
            directory.display()
        ),
    };
    let made = command(initdb, account, directory)
        .args(["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions", "-D"])
        .arg(&data)
        .output()
        .map_err(|error| failed(initdb, format!("cannot be started: {error}")))?;
    if !made.status.success() {
        let said = String::from_utf8_lossy(&made.stderr);
        return Err(failed(initdb, format!("failed: {}", said.trim())));
    }
    let log = fs::File::create(directory.join("log")).map_err(SourceError::io(directory.display().to_string()))?;
    let errors = log.try_clone().map_err(SourceError::io(directory.display().to_string()))?;
    let mut start = command(server, account, directory);
    start.arg("-D").arg(&data);
    let socket = format!("unix_socket_directories={}", quoted_directory(socket));
    for setting in [
        socket.as_str(),
        "listen_addresses=",
        "port=5432",
        "archive_mode=off",
        "shared_preload_libraries=",
        "session_preload_libraries=",
        "local_preload_libraries=",
        "max_logical_replication_workers=0",
        "max_wal_senders=0",
        "wal_level=minimal",
        "fsync=on",
        "max_wal_size=4GB",
        "logging_collector=off",
    ] {
        start.arg("-c").arg(setting);
    }
    start.stdout(log).stderr(errors).spawn().map_err(|error| failed(server, format!("cannot be started: {error}")))
}

/// The setting is a list of directories: quotes keep a comma or a space in a name from splitting it.
fn quoted_directory(directory: &Path) -> String {
    format!("\"{}\"", directory.to_string_lossy().replace('"', "\"\""))
}

/// Makes room: stops and removes what an earlier scratch cluster left; refuses to touch anything else.
fn clear(directory: &Path) -> Result<(), SourceError> {
    let io = || SourceError::io(directory.display().to_string());
    let mut entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(io())?,
    };
    if entries.next().is_none() {
        return Ok(());
    }
    if !directory.join(MARKER).is_file() {
        return Err(SourceError::UnfitTarget {
            subject: directory.display().to_string(),
            detail: "the directory is not empty, and not a scratch cluster's: name another one for the drill".to_owned(),
        });
    }
    stop_left_over(&fs::canonicalize(directory).map_err(io())?.join("data"));
    fs::remove_dir_all(directory).map_err(io())
}

/// Stops the server of a cluster whose owner died. The process must really be that server: a pid may have gone to somebody else.
fn stop_left_over(data: &Path) {
    let Ok(text) = fs::read_to_string(data.join("postmaster.pid")) else { return };
    let Some(number) = text.lines().next().and_then(|line| line.trim().parse::<i32>().ok()) else { return };
    let Some(pid) = Pid::from_raw(number) else { return };
    let is_it = || {
        let arguments = fs::read(format!("/proc/{number}/cmdline")).unwrap_or_default();
        arguments.split(|byte| *byte == 0).any(|argument| argument == data.as_os_str().as_encoded_bytes())
    };
    let since = Stopwatch::start();
    while is_it() && since.elapsed() < PATIENCE {
        let _ = kill_process(pid, Signal::QUIT);
        std::thread::sleep(Duration::from_millis(50));
    }
}
