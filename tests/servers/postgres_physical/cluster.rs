//! Clusters that a test makes itself: on a unix socket in a directory of their own, as the user that PostgreSQL may run as.

use std::{
    os::unix::{
        fs::{PermissionsExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use farshore::sources::postgres::{
    PostgresConfig,
    physical::{Fetch, PhysicalOptions, PostgresPhysical, ReadBy},
};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::postgres::{Server, run};

/// The role that captures, with exactly the rights that the runbook names.
pub const ROLE: &str = "farshore";
/// How the runbook's statements for it begin.
const ROLE_BEGINS: &str = "CREATE ROLE farshore LOGIN REPLICATION;";
/// What the runbook grants for configuration outside of the data directory only.
const ROLE_MORE: &str = "GRANT pg_read_server_files";

/// A running server on a data directory, and the directory around it, which goes away with it.
pub struct Cluster {
    pub server: Server,
    directory: TempDir,
    process: Option<Child>,
    settings: Vec<String>,
    /// A data directory that lies elsewhere.
    elsewhere: Option<PathBuf>,
}

/// What the runbook grants from 15 on, and what it says to grant instead before.
const BACKUP: [&str; 2] = [
    "pg_backup_start(text, boolean), pg_backup_stop(boolean)",
    "pg_start_backup(text, boolean, boolean), pg_stop_backup(boolean, boolean)",
];

/// The statements of the runbook that make [`ROLE`] in a server of this version, without what it grants for configuration outside of the
/// data directory only.
pub fn role_of_runbook(server: Server) -> String {
    let runbook = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/runbook.md")).unwrap();
    let lines =
        runbook.lines().map(str::trim).skip_while(|line| *line != ROLE_BEGINS).take_while(|line| !["```", "SQL"].contains(line));
    let (more, needed): (Vec<&str>, Vec<&str>) = lines.partition(|line| line.starts_with(ROLE_MORE));
    assert!(
        needed.len() > 2 && more.len() == 1,
        "the runbook has no statements that begin with {ROLE_BEGINS}: {needed:?}, {more:?}"
    );
    let statements = needed.join(" ");
    assert!(statements.contains(BACKUP[0]) && runbook.contains(BACKUP[1]), "{statements}");
    if server.number() < 15 { statements.replace(BACKUP[0], BACKUP[1]) } else { statements }
}

/// User and group that servers run as, where we are root.
fn account() -> Option<(u32, u32)> {
    let number = |flag: &str| {
        let output = Command::new("id").args([flag, "postgres"]).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
    };
    rustix::process::geteuid().is_root().then(|| (number("-u"), number("-g")))
}

/// A program, as the user that servers run as.
pub fn as_postgres(program: PathBuf) -> Command {
    let mut command = Command::new(program);
    command.current_dir("/").env("LC_ALL", "C").stdin(Stdio::null());
    if let Some((user, group)) = account() {
        command.uid(user).gid(group);
    }
    command
}

/// A directory that this user owns and all may enter.
pub fn directory() -> TempDir {
    let made = tempfile::Builder::new().prefix("farshore-pg-").tempdir().unwrap();
    std::fs::set_permissions(made.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    give(made.path());
    made
}

/// Makes a file that of the user that servers run as.
pub fn give(path: &Path) {
    if let Some((user, group)) = account() {
        chown(path, Some(user), Some(group)).unwrap();
    }
}

/// Fetches the log from what [`Cluster::archives_by_copying`] has made, after `before` said that it may.
pub fn copied_from(archive: &Path, before: &str) -> Fetch {
    let script = format!("{before}\ncp '{}'/\"$1\" \"$2\" 2>/dev/null || exit 1", archive.display());
    let argv = ["/bin/sh", "-c", &script, "fetch"].map(str::to_owned).to_vec();
    Fetch { argv, ..Fetch::default() }
}

/// Stops a server that a restore has started.
pub fn stop_on(data: &Path, server: Server) {
    let mut stop = as_postgres(server.bin().join("pg_ctl"));
    stop.args(["stop", "-m", "immediate", "-D"]).arg(data);
    run(stop);
}

impl Cluster {
    /// A new cluster that runs with these settings.
    pub fn new(server: Server, settings: &[&str]) -> Self {
        Self::with_segments(server, 16, settings)
    }

    /// One whose log has segments of so many MiB.
    pub fn with_segments(server: Server, mebibytes: u32, settings: &[&str]) -> Self {
        let cluster = Self::unstarted(server, settings);
        let mut initdb = as_postgres(server.bin().join("initdb"));
        initdb.args(["--username=postgres", "--auth=trust", "--data-checksums", "--no-sync", "--encoding=UTF8", "--locale=C"]);
        run({
            initdb.arg(format!("--wal-segsize={mebibytes}")).arg("-D").arg(cluster.data());
            initdb
        });
        cluster.started()
    }

    /// A server on what was restored or copied into [`Self::data`] beforehand.
    pub fn unstarted(server: Server, settings: &[&str]) -> Self {
        let settings = settings.iter().map(ToString::to_string).collect();
        Self { server, directory: directory(), process: None, settings, elsewhere: None }
    }

    pub fn started(mut self) -> Self {
        self.start();
        self
    }

    pub fn start(&mut self) {
        assert!(self.try_start(), "{}", self.log());
    }

    /// A setting from its next start on.
    pub fn set(&mut self, setting: String) {
        self.settings.push(setting);
    }

    /// Whether it came up: a primary to its end of recovery, since it answers as soon as it is consistent, and cannot be written to.
    pub fn try_start(&mut self) -> bool {
        let is_standby = self.data().join("standby.signal").exists();
        self.comes_up(if is_standby { &["t", "f"] } else { &["f"] })
    }

    /// Whether it came up to wait in its recovery.
    pub fn try_start_waiting(&mut self) -> bool {
        self.comes_up(&["t"])
    }

    /// Whether it answers one of these when it is asked whether it is in recovery, before it ends.
    fn comes_up(&mut self, wanted: &[&str]) -> bool {
        let log = std::fs::File::create(self.path("log")).unwrap();
        let mut command = as_postgres(self.server.bin().join("postgres"));
        command.arg("-D").arg(self.data()).args(["-c", "listen_addresses=", "-c", "fsync=off", "-c", "shared_buffers=32MB"]);
        command.arg("-c").arg(format!("unix_socket_directories={}", self.directory.path().display()));
        for setting in &self.settings {
            command.arg("-c").arg(setting);
        }
        command.process_group(0).stdout(log.try_clone().unwrap()).stderr(log);
        let mut process = command.spawn().unwrap();
        let since = Instant::now();
        loop {
            if process.try_wait().unwrap().is_some() {
                return false;
            }
            let mut ready = Command::new(self.server.bin().join("psql"));
            ready.args(["-XAtqw", "-d", &self.url("postgres"), "-c", "SELECT pg_is_in_recovery()"]);
            let answer = ready.output().unwrap();
            if answer.status.success() && wanted.iter().any(|wanted| answer.stdout.starts_with(wanted.as_bytes())) {
                self.process = Some(process);
                return true;
            }
            assert!(since.elapsed() < Duration::from_secs(60), "{}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Stops it with a checkpoint, or at once.
    pub fn stop(&mut self, is_fast: bool) {
        let Some(mut process) = self.process.take() else { return };
        let signal = if is_fast { Signal::INT } else { Signal::QUIT };
        kill_process(Pid::from_child(&process), signal).unwrap();
        process.wait().unwrap();
    }

    /// Has the settings of its command line in its own file as far as one that is restored from it needs them: that one takes its socket.
    pub fn leaves_its_socket(&self) {
        let own = format!("listen_addresses = ''\nunix_socket_directories = '{}'\n", self.path("").display());
        self.write("data/postgresql.conf", own.as_bytes());
    }

    /// From now on it copies its log to a directory beside the data directory. It must run with `archive_mode=on`.
    pub fn archives_by_copying(&self) -> PathBuf {
        let archive = self.make("archive");
        self.psql("postgres", &format!("ALTER SYSTEM SET archive_command = 'cp %p {}/%f'", archive.display()));
        self.psql("postgres", "SELECT pg_reload_conf()");
        archive
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn data(&self) -> PathBuf {
        self.elsewhere.clone().unwrap_or_else(|| self.path("data"))
    }

    /// From its next start on its data directory is this one.
    pub fn elsewhere(&mut self, data: PathBuf) {
        self.elsewhere = Some(data);
    }

    /// Makes a directory beside the data directory.
    pub fn make(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir(&path).unwrap();
        give(&path);
        path
    }

    /// Writes a file as the server's user would.
    pub fn write(&self, path: &str, bytes: &[u8]) {
        std::fs::write(self.path(path), bytes).unwrap();
        give(&self.path(path));
    }

    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@/{database}?host={}", self.directory.path().display())
    }

    pub fn role_url(&self, database: &str) -> String {
        self.url(database).replace("postgres://postgres@", &format!("postgres://{ROLE}@"))
    }

    pub fn psql(&self, database: &str, sql: &str) -> String {
        run(self.psql_command(database, sql))
    }

    /// psql, which runs each statement by itself.
    pub fn psql_command(&self, database: &str, sql: &str) -> Command {
        let mut command = Command::new(self.server.bin().join("psql"));
        command.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-d", &self.url(database)]);
        for statement in sql.split(';').filter(|statement| !statement.trim().is_empty()) {
            command.args(["-c", statement]);
        }
        command
    }

    /// One of PostgreSQL's programs, connected to it.
    pub fn program(&self, name: &str) -> Command {
        let mut command = as_postgres(self.server.bin().join(name));
        command.arg("-h").arg(self.directory.path()).args(["-U", "postgres"]);
        command
    }

    /// Makes [`ROLE`], which may read in this database, by the runbook's own statements.
    pub fn make_role(&self, database: &str) {
        self.psql(database, &role_of_runbook(self.server));
    }

    /// Of 18 the files are read from the data directory, of the others over SQL.
    pub fn source(&self, database: &str) -> PostgresPhysical {
        self.source_read_by(database, if matches!(self.server, Server::Eighteen) { ReadBy::Files } else { ReadBy::Sql })
    }

    pub fn source_read_by(&self, database: &str, read_by: ReadBy) -> PostgresPhysical {
        let options = PhysicalOptions { read_by, ..PhysicalOptions::default() };
        PostgresPhysical::new(PostgresConfig::parse(&self.role_url(database), None).unwrap(), options)
    }

    /// pg_checksums of the stopped server.
    pub fn check_checksums(&mut self) {
        self.stop(true);
        let mut command = as_postgres(self.server.bin().join("pg_checksums"));
        command.arg("--check").arg("-D").arg(self.data());
        run(command);
    }

    /// pg_amcheck of every database.
    pub fn amcheck(&self) {
        let mut command = self.program("pg_amcheck");
        command.args(["--all", "--heapallindexed", "--install-missing"]);
        run(command);
    }

    /// Flips bytes so far into a page of a stopped server's file.
    pub fn damage(&self, path: &str, block: u64, offset: u64) {
        use std::os::unix::fs::FileExt;
        let file = std::fs::OpenOptions::new().read(true).write(true).open(self.data().join(path)).unwrap();
        let mut bytes = [0; 8];
        let at = block * 8192 + offset;
        file.read_exact_at(&mut bytes, at).unwrap();
        file.write_all_at(&bytes.map(|byte| byte ^ 0x55), at).unwrap();
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop(false);
    }
}

/// Names of all below a directory.
pub fn listing(directory: &Path) -> Vec<PathBuf> {
    crate::support::agent::files(directory).into_iter().map(PathBuf::from).collect()
}
