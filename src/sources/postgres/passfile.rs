//! libpq's password file: looked up for ourselves, and written privately for the programs that are started.

use std::{
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use secrecy::{ExposeSecret, SecretString};
use tempfile::{NamedTempFile, TempPath};

use crate::sources::SourceError;

/// The file libpq would read: what was configured, or `~/.pgpass`.
pub(super) fn location(configured: Option<&Path>) -> Option<PathBuf> {
    configured.map(Path::to_owned).or_else(|| std::env::home_dir().map(|home| home.join(".pgpass")))
}

/// The password for a place, from a password file. As libpq does it: a file that others can read is passed over (with a
/// warning), the first line that fits wins, and `localhost` also stands for the usual socket directory.
pub(super) fn look_up(file: &Path, host: &str, port: u16, database: &str, user: &str) -> Option<SecretString> {
    let metadata = std::fs::metadata(file).ok()?;
    if !metadata.is_file() {
        return None;
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        tracing::warn!(file = %file.display(), "password file passed over: others can read it; run chmod 0600 on it");
        return None;
    }
    let text = std::fs::read_to_string(file).ok()?;
    let port = port.to_string();
    let host = if host == "/var/run/postgresql" || host == "/tmp" { "localhost" } else { host };
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let fields = split(line);
        let [for_host, for_port, for_database, for_user, password] = fields.as_slice() else { return None };
        let fits = |pattern: &(String, bool), value: &str| pattern.1 || pattern.0 == value;
        let all = fits(for_host, host) && fits(for_port, &port) && fits(for_database, database) && fits(for_user, user);
        all.then(|| SecretString::from(password.0.clone()))
    })
}

/// Fields of a line with their escapes undone, and whether each was the bare wildcard. The fifth takes the rest of the line.
fn split(line: &str) -> Vec<(String, bool)> {
    let mut fields = Vec::new();
    let mut field = String::new();
    let mut wild = false;
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => field.extend(characters.next()),
            ':' if fields.len() < 4 => fields.push((std::mem::take(&mut field), std::mem::take(&mut wild))),
            '*' if field.is_empty() => {
                wild = true;
                field.push('*');
            }
            other => {
                wild = false;
                field.push(other);
            }
        }
    }
    fields.push((field, false));
    fields
}

/// Writes a password file (0600, in the temporary directory) that gives this password everywhere; it goes when the path is dropped.
pub(super) fn write(password: &SecretString) -> Result<TempPath, SourceError> {
    let escaped = password.expose_secret().replace('\\', "\\\\").replace(':', "\\:");
    let fail = SourceError::io("the temporary password file");
    let written = NamedTempFile::with_prefix("farshore-pass-").and_then(|mut file| {
        writeln!(file, "*:*:*:*:{escaped}")?;
        file.flush()?;
        Ok(file.into_temp_path())
    });
    written.map_err(fail)
}

#[cfg(test)]
mod tests {
    use super::{ExposeSecret, NamedTempFile, PermissionsExt, SecretString, Write, look_up, write};

    fn file(text: &str, mode: u32) -> NamedTempFile {
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(mode)).unwrap();
        file
    }

    #[test]
    fn the_first_line_that_fits_wins_and_escapes_are_undone() {
        let file = file("# mine\nother:5432:*:ada:no\nhost:5432:app:ada:se\\:cr\\\\et:x\n*:*:*:*:last\n", 0o600);
        let found = |host: &str| look_up(file.path(), host, 5432, "app", "ada").unwrap().expose_secret().to_owned();
        assert_eq!(found("host"), "se:cr\\et:x");
        assert_eq!(found("third"), "last");
    }

    #[test]
    fn a_file_that_others_can_read_is_passed_over() {
        let file = file("*:*:*:*:last\n", 0o644);
        assert!(look_up(file.path(), "host", 5432, "app", "ada").is_none());
    }

    #[test]
    fn what_is_written_is_private_and_reads_back() {
        let path = write(&SecretString::from("a:b\\c")).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(look_up(&path, "h", 1, "d", "u").unwrap().expose_secret(), "a:b\\c");
    }
}
