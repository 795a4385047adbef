//! What lies in a data directory already into which a cluster is to be restored.

use std::{fs, io::ErrorKind, path::Path};

use super::{CONTROL_FILE, control::Control};
use crate::sources::SourceError;

/// Says whose cluster is half restored here: its system identifier. Gone at the end.
pub const MARKER: &str = "farshore-restore";
/// The file that a running server keeps in its data directory; its first line is a process.
const RUNNING: &str = "postmaster.pid";
/// Longest file that is looked into here. Bytes.
const MOST_BYTES: u64 = 1 << 16;

fn read(path: &Path) -> Result<Option<Vec<u8>>, SourceError> {
    let io = || SourceError::io(path.display().to_string());
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io()(error)),
        Ok(found) if !found.is_file() || found.len() > MOST_BYTES => Ok(None),
        Ok(_) => fs::read(path).map(Some).map_err(io()),
    }
}

/// Whether anything lies there, which is then of this cluster: what ran here before, or what a restore left that was cut off.
///
/// # Errors
/// [`SourceError::UnfitTarget`] for a server that runs, for another cluster, and for what is none.
pub fn look(directory: &Path, system: &str) -> Result<bool, SourceError> {
    let unfit = |detail: String| SourceError::UnfitTarget { subject: directory.display().to_string(), detail };
    let mut names = match fs::read_dir(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        other => other.map_err(SourceError::io(directory.display().to_string()))?,
    };
    if names.next().is_none() {
        return Ok(false);
    }
    if let Some(process) = running(directory)? {
        return Err(unfit(format!(
            "a server runs here, process {process} ({RUNNING} says so): stop it first, or name another directory"
        )));
    }
    let found =
        read(&directory.join(CONTROL_FILE))?.and_then(|bytes| Control::parse(&bytes)).map(|control| control.system.to_string());
    let begun = read(&directory.join(MARKER))?.map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned());
    match (found, begun) {
        (Some(found), _) if found == system => Ok(true),
        (None, Some(begun)) if begun == system => Ok(true),
        (Some(other), _) | (None, Some(other)) => Err(unfit(format!(
            "holds another cluster, with system identifier {other}; the point's is {system}: name another directory, or empty this one"
        ))),
        (None, None) => Err(unfit(
            "is not empty and no data directory of this cluster (it has no sound global/pg_control): name another directory, or empty this one"
                .to_owned(),
        )),
    }
}

/// The process of the server that runs in this directory.
fn running(directory: &Path) -> Result<Option<i32>, SourceError> {
    let Some(bytes) = read(&directory.join(RUNNING))? else { return Ok(None) };
    let text = String::from_utf8_lossy(&bytes);
    let number: i32 = text.lines().next().and_then(|line| line.trim().parse().ok()).unwrap_or(0);
    // A server that was killed leaves the file behind, and its number may be anybody's since. One in another container cannot be seen from
    // here; nor does PostgreSQL itself see it.
    let is_one = fs::read(format!("/proc/{}/comm", number.abs())).is_ok_and(|name| {
        let name = String::from_utf8_lossy(&name).trim().to_owned();
        name.starts_with("postgres") || name.starts_with("postmaster") || name.starts_with("edb-postgres")
    });
    Ok(is_one.then_some(number))
}

/// Sees to it that no server starts from what is here, before any of it is changed.
///
/// # Errors
/// [`SourceError::Io`].
pub fn unmake(directory: &Path) -> Result<(), SourceError> {
    remove(&directory.join(CONTROL_FILE))
}

/// The restore is whole.
///
/// # Errors
/// [`SourceError::Io`].
pub fn forget(directory: &Path) -> Result<(), SourceError> {
    remove(&directory.join(MARKER))
}

/// Removes a file and has the directory remember that.
fn remove(path: &Path) -> Result<(), SourceError> {
    let removed = || -> std::io::Result<()> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        match path.parent() {
            Some(above) if above.exists() => fs::File::open(above)?.sync_all(),
            _ => Ok(()),
        }
    };
    removed().map_err(SourceError::io(path.display().to_string()))
}

#[cfg(test)]
mod tests {
    use super::{MARKER, RUNNING, look};

    #[test]
    fn only_what_is_of_the_same_cluster_and_not_running_is_written_to() {
        let place = tempfile::tempdir().unwrap();
        let said = |directory: &std::path::Path| look(directory, "42").unwrap_err().to_string();
        assert!(!look(&place.path().join("missing"), "42").unwrap());
        assert!(!look(place.path(), "42").unwrap());
        std::fs::write(place.path().join("notes"), "somebody's").unwrap();
        assert!(said(place.path()).contains("no data directory of this cluster"));
        std::fs::create_dir(place.path().join("global")).unwrap();
        std::fs::write(place.path().join("global/pg_control"), [0; 8192]).unwrap();
        assert!(said(place.path()).contains("no data directory of this cluster"));
        std::fs::write(place.path().join(MARKER), "41").unwrap();
        assert!(said(place.path()).contains("another cluster, with system identifier 41"));
        std::fs::write(place.path().join(MARKER), "42").unwrap();
        assert!(look(place.path(), "42").unwrap());
        // The file of a server that is gone, and of a process that is none.
        std::fs::write(place.path().join(RUNNING), format!("{}\n/data\n", std::process::id())).unwrap();
        assert!(look(place.path(), "42").unwrap());
        std::fs::write(place.path().join(RUNNING), "").unwrap();
        assert!(look(place.path(), "42").unwrap());
    }
}
