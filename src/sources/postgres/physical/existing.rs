//! What lies in a data directory already into which a cluster is to be restored.

use std::{
    fs,
    io::ErrorKind,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

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

/// Whether anything lies where a tablespace is to go, which then is this very tablespace's: the data directory leads there, or a restore
/// that was cut off has left it. The path is somebody's word, and what lies there would be removed.
///
/// # Errors
/// [`SourceError::UnfitTarget`] for anything else.
pub fn look_tablespace(data: &Path, oid: u32, directory: &Path, system: &str) -> Result<bool, SourceError> {
    let shown = || directory.display().to_string();
    match fs::read_dir(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        other => {
            if other.map_err(SourceError::io(shown()))?.next().is_none() {
                return Ok(false);
            }
        }
    }
    let begun = read(&directory.join(MARKER))?.map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned());
    // It may have been made anew since, with another OID.
    let links = fs::read_dir(data.join("pg_tblspc")).into_iter().flatten().flatten();
    let place = fs::canonicalize(directory).map_err(SourceError::io(shown()))?;
    let leads_there = links.filter_map(|link| fs::canonicalize(link.path()).ok()).any(|to| to == place);
    if leads_there || begun.as_deref() == Some(system) {
        return Ok(true);
    }
    Err(SourceError::UnfitTarget {
        subject: shown(),
        detail: format!(
            "is not empty, and no link in {} leads there: what lies in it is not known to be this cluster's, and would be removed. Name the directory that tablespace {oid} has there, or an empty one",
            data.join("pg_tblspc").display()
        ),
    })
}

/// Names in a tablespace's directory that are not this major version's: of a server that was upgraded, of a file system.
///
/// # Errors
/// [`SourceError::Io`].
pub fn of_others(directory: &Path, major: u32) -> Result<Vec<Vec<u8>>, SourceError> {
    let list = || -> std::io::Result<Vec<Vec<u8>>> {
        fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name().as_encoded_bytes().to_vec())).collect()
    };
    let mut names = list().map_err(SourceError::io(directory.display().to_string()))?;
    names.retain(|name| !name.starts_with(format!("PG_{major}_").as_bytes()));
    Ok(names)
}

/// Where the log of a data directory lies: there, or where a link leads that `initdb --waldir` made. Nothing but log may lie there.
///
/// # Errors
/// [`SourceError::UnfitTarget`] for a link that leads to anything else; [`SourceError::Io`].
pub fn log_directory(data: &Path) -> Result<PathBuf, SourceError> {
    let log = data.join("pg_wal");
    if !fs::symlink_metadata(&log).is_ok_and(|found| found.is_symlink()) {
        return Ok(log);
    }
    let unfit = |detail: String| SourceError::UnfitTarget { subject: log.display().to_string(), detail };
    let place = fs::canonicalize(&log)
        .map_err(|error| unfit(format!("is a link that leads nowhere ({error}): make the directory, or remove the link")))?;
    let io = || SourceError::io(place.display().to_string());
    if fs::metadata(&place).map_err(io())?.uid() != fs::metadata(data).map_err(io())?.uid() {
        return Err(unfit(format!(
            "leads to {}, which is of another user than the data directory: remove the link",
            place.display()
        )));
    }
    for entry in fs::read_dir(&place).map_err(io())? {
        let name = entry.map_err(io())?.file_name();
        if !name.to_str().is_some_and(is_of_log) {
            return Err(unfit(format!(
                "leads to {}, where {name:?} lies, which is no part of a log and would be removed: move it away, or remove the link",
                place.display()
            )));
        }
    }
    Ok(place)
}

/// Whether a server, or a restore that was cut off, has something of that name in `pg_wal`.
fn is_of_log(name: &str) -> bool {
    const OTHERS: [&str; 6] = ["archive_status", "summaries", "lost+found", "RECOVERYXLOG", "RECOVERYHISTORY", ".farshore"];
    let is_hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let (number, rest) = name.split_once('.').unwrap_or((name, ""));
    let is_numbered = is_hex(number)
        && match (number.len(), rest) {
            (24, "" | "partial") | (8, "history") => true,
            (24, rest) => rest.strip_suffix(".backup").is_some_and(|place| place.len() == 8 && is_hex(place)),
            _ => false,
        };
    is_numbered || name.starts_with("xlogtemp.") || name.starts_with(".farshore-") || OTHERS.contains(&name)
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
    use super::{MARKER, RUNNING, log_directory, look, look_tablespace};

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

    #[test]
    fn a_tablespace_is_restored_over_what_is_its_own_and_over_nothing_else() {
        let place = tempfile::tempdir().unwrap();
        let (data, fast) = (place.path().join("data"), place.path().join("fast"));
        std::fs::create_dir_all(data.join("pg_tblspc")).unwrap();
        assert!(!look_tablespace(&data, 7, &fast, "42").unwrap());
        std::fs::create_dir(&fast).unwrap();
        assert!(!look_tablespace(&data, 7, &fast, "42").unwrap());
        std::fs::create_dir(fast.join("PG_18_1")).unwrap();
        let said = || look_tablespace(&data, 7, &fast, "42").unwrap_err().to_string();
        assert!(said().contains("pg_tblspc leads there"), "{}", said());
        std::os::unix::fs::symlink(place.path(), data.join("pg_tblspc/7")).unwrap();
        assert!(said().contains("would be removed"), "{}", said());
        std::fs::write(fast.join(MARKER), "41").unwrap();
        assert!(said().contains("would be removed"), "{}", said());
        std::fs::write(fast.join(MARKER), "42").unwrap();
        assert!(look_tablespace(&data, 7, &fast, "42").unwrap());
        std::fs::remove_file(fast.join(MARKER)).unwrap();
        std::fs::remove_file(data.join("pg_tblspc/7")).unwrap();
        std::os::unix::fs::symlink(&fast, data.join("pg_tblspc/7")).unwrap();
        assert!(look_tablespace(&data, 7, &fast, "42").unwrap() && look_tablespace(&data, 8, &fast, "42").unwrap());
    }

    #[test]
    fn a_log_that_lies_elsewhere_is_found_and_a_link_to_anything_else_is_refused() {
        let place = tempfile::tempdir().unwrap();
        let (data, log) = (place.path().join("data"), place.path().join("log"));
        std::fs::create_dir(&data).unwrap();
        assert_eq!(log_directory(&data).unwrap(), data.join("pg_wal"));
        std::os::unix::fs::symlink(&log, data.join("pg_wal")).unwrap();
        assert!(log_directory(&data).unwrap_err().to_string().contains("leads nowhere"));
        std::fs::create_dir_all(log.join("archive_status")).unwrap();
        let names = [
            "000000010000000000000001",
            "00000002.history",
            "000000010000000000000003.00000028.backup",
            "000000010000000000000004.partial",
            "xlogtemp.7",
            ".farshore-1f-3",
        ];
        names.iter().for_each(|name| std::fs::write(log.join(name), "").unwrap());
        std::fs::create_dir(log.join(".farshore")).unwrap();
        assert_eq!(log_directory(&data).unwrap(), std::fs::canonicalize(&log).unwrap());
        for name in ["passwd", "20260131", "20260131.tar.gz", "000000010000000000000001.gz", "0000000200000000.history"] {
            std::fs::write(log.join(name), "").unwrap();
            let said = log_directory(&data).unwrap_err().to_string();
            assert!(said.contains(&format!("{name:?} lies")) && said.contains("would be removed"), "{said}");
            std::fs::remove_file(log.join(name)).unwrap();
        }
    }
}
