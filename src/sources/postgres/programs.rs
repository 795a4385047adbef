//! PostgreSQL's own programs: finding ones that fit, and starting them with the same address, TLS settings and password.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use tempfile::TempPath;
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::Command,
};

use super::{PostgresConfig, passfile, tls};
use crate::sources::SourceError;

/// A program and its major version.
#[derive(Debug, Clone)]
pub(super) struct Program {
    pub(super) path: PathBuf,
    pub(super) major: u32,
}

/// Most bytes of a program's standard error that are kept: its end, where the reason stands.
const STDERR_KEPT_BYTES: usize = 4096;

/// Finds `name`: in `directory` if one is configured, otherwise on PATH and where distributions keep them. The **oldest** that
/// is at least `at_least` wins: a newer `pg_restore` sets parameters that an older server does not know.
///
/// # Errors
/// [`SourceError::Program`] that names the package to install.
pub(super) async fn find(name: &str, directory: Option<&Path>, at_least: u32) -> Result<Program, SourceError> {
    let mut found: Vec<Program> = Vec::new();
    for path in candidates(name, directory) {
        match version(&path).await {
            Ok(major) => found.push(Program { path, major }),
            Err(detail) if directory.is_some() => {
                return Err(SourceError::Program {
                    program: path.display().to_string(),
                    detail: format!("{detail}: correct the configured directory"),
                });
            }
            Err(_) => {}
        }
    }
    let newest = found.iter().map(|program| program.major).max();
    match found.into_iter().filter(|program| program.major >= at_least).min_by_key(|program| program.major) {
        Some(program) => Ok(program),
        None => {
            let detail = match newest {
                Some(newest) => format!("version {newest} is older than the server's {at_least}, and cannot be used with it"),
                None => "not found".to_owned(),
            };
            Err(SourceError::Program {
                program: name.to_owned(),
                detail: format!(
                    "{detail}: install the package postgresql-client-{at_least} (or set bin_directory to where {name} {at_least} is)"
                ),
            })
        }
    }
}

fn candidates(name: &str, directory: Option<&Path>) -> Vec<PathBuf> {
    if let Some(directory) = directory {
        return vec![directory.join(name)];
    }
    let mut directories: Vec<PathBuf> =
        std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default();
    // Debian and its kin keep each major version's programs in a directory of its own; so do PostgreSQL's Red Hat packages.
    let versioned = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().map(|entry| entry.path().join("bin"));
    directories.extend(versioned);
    let beside = std::fs::read_dir("/usr").into_iter().flatten().flatten();
    directories.extend(
        beside.filter(|entry| entry.file_name().to_string_lossy().starts_with("pgsql-")).map(|entry| entry.path().join("bin")),
    );
    directories.into_iter().map(|directory| directory.join(name)).filter(|path| path.is_file()).collect()
}

async fn version(path: &Path) -> Result<u32, String> {
    let output = Command::new(path).arg("--version").stdin(Stdio::null()).kill_on_drop(true).output().await;
    let output = output.map_err(|error| format!("cannot be started: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    // `pg_dump (PostgreSQL) 15.18 (Debian …)`, `18beta1`
    let number = text.split(") ").nth(1).unwrap_or_default();
    let digits: String = number.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().map_err(|_| format!("--version answered {:?}", text.trim()))
}

/// A command together with the temporary files it needs: keep it until the program has ended.
pub(super) struct Prepared {
    pub(super) command: Command,
    files: Vec<TempPath>,
}

/// Prepares a program that connects to `config`'s database. It is killed when its handle is dropped.
pub(super) fn prepare(program: &Program, config: &PostgresConfig, options: &str) -> Result<Prepared, SourceError> {
    let address = config.address();
    let mut command = Command::new(&program.path);
    command.stdin(Stdio::null()).kill_on_drop(true);
    // Nothing of ours may reach it by accident: not a service file, not another host.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PG")) {
        command.env_remove(name);
    }
    let list = |part: &dyn Fn(&(String, u16)) -> String| address.hosts.iter().map(part).collect::<Vec<_>>().join(",");
    command
        .env("PGHOST", list(&|(host, _)| host.clone()))
        .env("PGPORT", list(&|(_, port)| port.to_string()))
        .env("PGUSER", &address.user)
        .env("PGDATABASE", &address.database)
        .env("PGAPPNAME", "farshore")
        .env("PGCONNECT_TIMEOUT", address.connect_timeout.as_secs().to_string())
        .env("PGSSLMODE", address.tls.mode.word())
        .env("LC_ALL", "C");
    let given = address.options.as_deref().unwrap_or_default();
    command.env("PGOPTIONS", format!("{given} {options}"));
    let mut files = Vec::new();
    let roots = tls::root_file_for_programs(&address.tls)
        .map_err(|detail| SourceError::Program { program: program.path.display().to_string(), detail })?;
    match (roots, &address.tls.root) {
        (Some(roots), _) => {
            command.env("PGSSLROOTCERT", &roots);
            files.push(roots);
        }
        (None, Some(root)) => {
            command.env("PGSSLROOTCERT", root);
        }
        (None, None) => {}
    }
    if let Some(certificate) = &address.tls.certificate {
        command.env("PGSSLCERT", certificate);
    }
    if let Some(key) = &address.tls.key {
        command.env("PGSSLKEY", key);
    }
    // Without a password of ours, a file that cannot exist keeps it from reading another one.
    match config.password() {
        Some(password) => {
            let file = passfile::write(&password)?;
            command.env("PGPASSFILE", &file);
            files.push(file);
        }
        None => {
            command.env("PGPASSFILE", "/dev/null/none");
        }
    }
    Ok(Prepared { command, files })
}

impl Prepared {
    /// Runs it to its end with both outputs read; `stdout` is handed to nobody.
    pub(super) async fn run(mut self, program: &Program) -> Result<(), SourceError> {
        self.command.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = self.command.spawn().map_err(|error| cannot_start(program, &error))?;
        let stderr = child.stderr.take();
        let (status, said) = tokio::join!(child.wait(), tail(stderr));
        drop(self.files);
        judge(program, status, &said)
    }
}

/// The error for a program that did not even start.
pub(super) fn cannot_start(program: &Program, error: &std::io::Error) -> SourceError {
    SourceError::Program {
        program: program.path.display().to_string(),
        detail: format!("cannot be started: {error}: check the installation"),
    }
}

/// Success, or the error with what the program said.
pub(super) fn judge(program: &Program, status: std::io::Result<std::process::ExitStatus>, said: &str) -> Result<(), SourceError> {
    let detail = match status {
        Ok(status) if status.success() => return Ok(()),
        Ok(status) => format!("failed ({status}): {}; the line before the last usually says why", said.trim()),
        Err(error) => format!("could not be waited for: {error}; try again"),
    };
    Err(SourceError::Program { program: program.path.display().to_string(), detail })
}

/// Reads to the end and keeps the last [`STDERR_KEPT_BYTES`]: a program that complains without end must not fill memory.
pub(super) async fn tail(stream: Option<impl AsyncRead + Unpin>) -> String {
    let Some(mut stream) = stream else { return String::new() };
    let mut kept: Vec<u8> = Vec::new();
    let mut piece = [0; 4096];
    let mut cut = false;
    while let Ok(count @ 1..) = stream.read(&mut piece).await {
        kept.extend_from_slice(&piece[..count]);
        if kept.len() > STDERR_KEPT_BYTES {
            kept.drain(..kept.len() - STDERR_KEPT_BYTES);
            cut = true;
        }
    }
    let text = String::from_utf8_lossy(&kept).into_owned();
    if cut { format!("… {text}") } else { text }
}
