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

use super::{PostgresConfig, account, connect::Knock, programs};
use crate::{clock::Stopwatch, sources::SourceError};

/// A running scratch server. Dropping it stops the server and removes its directory.
#[derive(Debug)]
pub struct ScratchCluster {
    /// Stopped before the directory goes.
    server: Child,
    place: ScratchPlace,
    major: u32,
}

/// A directory in which a scratch server will run. Dropping it removes the directory.
#[derive(Debug)]
pub struct ScratchPlace {
    directory: PathBuf,
    /// The data directory; one that lies elsewhere stays.
    data: PathBuf,
    /// What to do when the server does not come up.
    remedy: &'static str,
    socket: PathBuf,
    /// Holds the socket where the directory's own path is too long for one.
    _socket_directory: Option<TempDir>,
    account: Option<(u32, u32)>,
}

/// The file that says a directory is ours to remove.
const MARKER: &str = "farshore-scratch-cluster";
/// A unix socket's path has room for 107 bytes; the file's own name takes 16 of them.
const LONGEST_SOCKET_DIRECTORY: usize = 90;
/// How long the server may take to start, and to stop.
const PATIENCE: Duration = Duration::from_secs(60);
/// Lines of its log that are told when it does not come up, and among how many of the last they are looked for.
const REASON_LINES: (usize, usize) = (5, 40);
/// How long replaying a log may take.
const REPLAY_PATIENCE: Duration = Duration::from_secs(24 * 3600);

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
        let directory = directory.to_owned();
        let made = tokio::task::spawn_blocking(move || {
            let place = ScratchPlace::make(&directory)?;
            initialise(&place, &initdb.path)?;
            let server_process = run(&place, &server.path, OWN_SETTINGS.iter().map(ToString::to_string))?;
            Ok::<_, SourceError>(Self { server: server_process, place, major: server.major })
        });
        let made = made.await;
        let mut cluster = made.map_err(|error| SourceError::io("starting a scratch cluster")(std::io::Error::other(error)))??;
        let config = PostgresConfig::parse(&cluster.url("postgres"), None)?;
        cluster.wait_until_ready(&config, PATIENCE).await?;
        Ok(cluster)
    }

    /// Starts a server on the data directory that was restored into `place`, with `settings` beside those that keep it apart, and
    /// waits until it has replayed its log and answers `config`. If it ends before that, `again` is asked, off this thread, whether to
    /// start it once more.
    ///
    /// # Errors
    /// [`SourceError::Program`], with the end of the server's log.
    pub async fn serve(
        place: ScratchPlace,
        server: &Path,
        major: u32,
        settings: Vec<String>,
        config: &PostgresConfig,
        again: impl FnOnce() -> bool + Send + 'static,
    ) -> Result<Self, SourceError> {
        let process = run(&place, server, settings.iter().cloned())?;
        let mut cluster = Self { server: process, place, major };
        let Err(error) = cluster.wait_until_ready(config, REPLAY_PATIENCE).await else { return Ok(cluster) };
        let has_ended = matches!(cluster.server.try_wait(), Ok(Some(_)));
        if !has_ended || !tokio::task::spawn_blocking(again).await.unwrap_or(false) {
            return Err(error);
        }
        cluster.server = run(&cluster.place, server, settings.into_iter())?;
        cluster.wait_until_ready(config, REPLAY_PATIENCE).await?;
        Ok(cluster)
    }

    /// How to reach a database of it, as superuser `postgres`. Holds no secret.
    pub fn url(&self, database: &str) -> String {
        self.place.url("postgres", database)
    }

    /// Stops the server as an operator would: everything is written, and it starts again without replaying anything.
    ///
    /// # Errors
    /// [`SourceError::Program`] if it does not end well.
    pub async fn stop(mut self) -> Result<(), SourceError> {
        let io = || SourceError::io(self.place.data.display().to_string());
        if let Some(pid) = Pid::from_raw(self.server.id().cast_signed()) {
            kill_process(pid, Signal::INT).map_err(|error| io()(error.into()))?;
        }
        let since = Stopwatch::start();
        loop {
            match self.server.try_wait().map_err(io())? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => {
                    let (program, detail) = ("postgres".to_owned(), format!("ended with {status} when it was stopped"));
                    return Err(SourceError::Program { program, detail });
                }
                // It writes all that it holds in memory.
                None if since.elapsed() > REPLAY_PATIENCE => {
                    let (program, detail) = ("postgres".to_owned(), "does not stop; look at its log".to_owned());
                    return Err(SourceError::Program { program, detail });
                }
                None => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// Major version.
    pub fn major(&self) -> u32 {
        self.major
    }

    async fn wait_until_ready(&mut self, config: &PostgresConfig, patience: Duration) -> Result<(), SourceError> {
        let since = Stopwatch::start();
        loop {
            match config.knock().await {
                Knock::In => return Ok(()),
                Knock::NotYet => {}
                Knock::Never(error) => {
                    return Err(SourceError::Program {
                        program: "postgres".to_owned(),
                        detail: format!(
                            "the server on {} came up and lets nobody in: {error}{}; {}",
                            self.place.data.display(),
                            match error {
                                SourceError::Unauthenticated { .. } => {
                                    "; it is reached as the superuser that the point names, who must exist and be allowed to log in"
                                }
                                _ => "",
                            },
                            self.place.remedy
                        ),
                    });
                }
            }
            let ended = self.server.try_wait().map_err(SourceError::io("the scratch cluster"))?;
            if ended.is_some() || since.elapsed() > patience {
                let log = fs::read_to_string(self.place.directory.join("log")).unwrap_or_default();
                let end = reason(&log);
                return Err(SourceError::Program {
                    program: "postgres".to_owned(),
                    detail: format!("the server on {} did not come up: {end}; {}", self.place.data.display(), self.place.remedy),
                });
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Lines of a log that say why a server ended: not what it goes on to tell of its own end.
fn reason(log: &str) -> String {
    let (told, among) = REASON_LINES;
    let last: Vec<&str> = log.lines().rev().take(among).collect();
    let telling: Vec<&str> = last.iter().copied().filter(|line| !line.contains("LOG:  ")).take(told).collect();
    let chosen = if telling.is_empty() { last.into_iter().take(told).collect() } else { telling };
    chosen.into_iter().rev().collect::<Vec<_>>().join("; ")
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
    }
}

impl ScratchPlace {
    /// Makes the directory, with what an earlier scratch cluster left there taken away.
    ///
    /// # Errors
    /// [`SourceError::UnfitTarget`] when it holds something else, [`SourceError::Io`].
    pub fn make(directory: &Path) -> Result<Self, SourceError> {
        clear(directory)?;
        let account = account::unprivileged()
            .map_err(|detail| SourceError::UnfitTarget { subject: "the scratch cluster".to_owned(), detail })?;
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
            let made = private_directory("farshore-socket-", &std::env::temp_dir()).map_err(io(directory))?;
            (made.path().to_owned(), Some(made))
        } else {
            (directory.to_owned(), None)
        };
        if let Some((user, group)) = account {
            for path in [directory, &socket] {
                chown(path, Some(user), Some(group)).map_err(io(path))?;
            }
        }
        let (data, remedy) = (directory.join("data"), "mend that, and start the drill again");
        Ok(Self { directory: directory.to_owned(), data, remedy, socket, _socket_directory: socket_directory, account })
    }

    /// A place for what a server on `data` needs beside it, which goes away again, while the data stay. When we are root it runs as
    /// `owner`.
    ///
    /// # Errors
    /// [`SourceError::Io`].
    pub fn beside(data: &Path, owner: (u32, u32), remedy: &'static str) -> Result<Self, SourceError> {
        let io = |path: &Path| SourceError::io(path.display().to_string());
        // In the directory for temporary files, whose name is short enough for a socket.
        let directory = private_directory("farshore-server-", &std::env::temp_dir()).map_err(io(data))?.keep();
        let account = rustix::process::geteuid().is_root().then_some(owner);
        let place = Self {
            data: fs::canonicalize(data).map_err(io(data))?,
            remedy,
            socket: directory.clone(),
            _socket_directory: None,
            account,
            directory,
        };
        if let Some((user, group)) = account {
            chown(&place.directory, Some(user), Some(group)).map_err(io(&place.directory))?;
        }
        Ok(place)
    }

    /// The directory itself.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where the data directory of its server is, or will be.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// User and group that its server runs as.
    pub fn owner(&self) -> (u32, u32) {
        self.account.unwrap_or((rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()))
    }

    /// How to reach a database of its server, without any library that the database's or the role's own settings would load:
    /// [`UNLOADED`]. Holds no secret.
    pub fn url(&self, user: &str, database: &str) -> String {
        let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        format!(
            "postgres://{}@/{}?host={}&port=5432&sslmode=disable&options={}",
            encode(user),
            encode(database),
            encode(&self.socket.to_string_lossy()),
            encode(UNLOADED)
        )
    }

    /// Writes a file that its server reads, beside the data directory.
    ///
    /// # Errors
    /// [`SourceError::Io`].
    pub fn write(&self, name: &str, text: &str) -> Result<PathBuf, SourceError> {
        let path = self.directory.join(name);
        fs::write(&path, text).map_err(SourceError::io(path.display().to_string()))?;
        if let Some((user, group)) = self.account {
            chown(&path, Some(user), Some(group)).map_err(SourceError::io(path.display().to_string()))?;
        }
        Ok(path)
    }
}

/// A directory in `place` that nobody else can enter: whoever gets to a socket in it is a superuser, and to a key in it a reader.
///
/// # Errors
/// The operating system's.
pub(super) fn private_directory(prefix: &str, place: &Path) -> std::io::Result<TempDir> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(prefix).permissions(std::os::unix::fs::PermissionsExt::from_mode(0o700)).tempdir_in(place)
}

impl Drop for ScratchPlace {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.directory) {
            tracing::warn!(directory = %self.directory.display(), %error, "a scratch cluster was left behind: remove it");
        }
    }
}

/// A program of PostgreSQL's that is started apart from our terminal and environment, as the user that servers run as.
pub(super) fn server_command(program: &Path, account: Option<(u32, u32)>, directory: &Path) -> Command {
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

fn failed(program: &Path, place: &ScratchPlace, detail: &str) -> SourceError {
    SourceError::Program {
        program: program.display().to_string(),
        detail: format!(
            "{detail}; the directory {} and those above it must be accessible to the user that PostgreSQL runs as",
            place.directory.display()
        ),
    }
}

fn initialise(place: &ScratchPlace, initdb: &Path) -> Result<(), SourceError> {
    let made = server_command(initdb, place.account, &place.directory)
        .args(["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions", "-D"])
        .arg(place.data())
        .output()
        .map_err(|error| failed(initdb, place, &format!("cannot be started: {error}")))?;
    if made.status.success() {
        return Ok(());
    }
    Err(failed(initdb, place, &format!("failed: {}", String::from_utf8_lossy(&made.stderr).trim())))
}

/// Options of every connection to a scratch server, those of PostgreSQL's programs among them. On the server's command line they would
/// not do: `ALTER DATABASE … SET` and `ALTER ROLE … SET` outrank that, and are outranked by what a connection begins with.
const UNLOADED: &str = "-c session_preload_libraries= -c local_preload_libraries=";
/// Settings of a server that must reach nothing else, whatever its data directory says.
const APART: [&str; 9] = [
    "listen_addresses=",
    "port=5432",
    "archive_mode=off",
    "shared_preload_libraries=",
    "session_preload_libraries=",
    "local_preload_libraries=",
    "max_logical_replication_workers=0",
    "fsync=on",
    "logging_collector=off",
];
/// And of one that is new.
const OWN_SETTINGS: [&str; 3] = ["max_wal_senders=0", "wal_level=minimal", "max_wal_size=4GB"];

fn run(place: &ScratchPlace, server: &Path, settings: impl Iterator<Item = String>) -> Result<Child, SourceError> {
    let io = || SourceError::io(place.directory.display().to_string());
    let log = fs::File::create(place.directory.join("log")).map_err(io())?;
    let errors = log.try_clone().map_err(io())?;
    let mut start = server_command(server, place.account, &place.directory);
    start.arg("-D").arg(place.data());
    let socket = format!("unix_socket_directories={}", quoted_directory(&place.socket));
    for setting in APART.iter().map(ToString::to_string).chain([socket]).chain(settings) {
        start.arg("-c").arg(setting);
    }
    start.stdout(log).stderr(errors).spawn().map_err(|error| failed(server, place, &format!("cannot be started: {error}")))
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
