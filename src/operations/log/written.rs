//! Files that are whole when they get their name: for the server, for a delivery that comes later, and marks of what was stored.

use std::{
    fs::{self, File},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use rustix::fs::{FallocateFlags, fallocate};

use super::{io, local::check_beginning, refused};
use crate::{
    operations::OperationError,
    repository::{FetchedLogFile, LogName},
    stores::direct::write_cached,
};

/// The directory that a file is to lie in.
///
/// # Errors
/// [`OperationError::Refused`] for what is no path of a file.
pub(super) fn directory_of(to: &Path) -> Result<&Path, OperationError> {
    match (to.parent(), to.file_name()) {
        (Some(parent), Some(_)) if parent.as_os_str().is_empty() => Ok(Path::new(".")),
        (Some(parent), Some(_)) => Ok(parent),
        _ => Err(refused(to.display().to_string(), "is no path of a file; write %p in restore_command")),
    }
}

/// Names of files that are being written begin so.
const TEMPORARY: &str = ".farshore-";

/// Whether this is the name of a file that is being written.
pub(super) fn is_temporary(name: &str) -> bool {
    name.starts_with(TEMPORARY)
}

/// A file that is taken away again, unless it got its name.
struct Temporary(Option<PathBuf>);

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            let _ = fs::remove_file(path);
        }
    }
}

/// Whether a file has to outlive a crash of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lasting {
    /// It is on the disk when it gets its name.
    Synced,
    /// Nobody looks at it after a crash.
    Cached,
}

impl Lasting {
    /// PostgreSQL asks for a file under such a name, removes what lies there before it asks, and puts on the disk what it keeps
    /// (`RestoreArchivedFile`, `KeepFileRestoredFromArchive`).
    pub(super) fn of(to: &Path) -> Self {
        match to.file_name().is_some_and(|name| name == "RECOVERYXLOG" || name == "RECOVERYHISTORY") {
            true => Self::Cached,
            false => Self::Synced,
        }
    }
}

/// Writes a file that is whole when it gets its name.
pub(super) fn write(to: &Path, bytes: &[u8], lasting: Lasting) -> Result<(), OperationError> {
    write_by(to, lasting, |file| write_cached(file, bytes).map_err(io(to.display().to_string())))
}

/// Writes a file that gets its name when `fill` has ended well.
fn write_by(to: &Path, lasting: Lasting, fill: impl FnOnce(&mut File) -> Result<(), OperationError>) -> Result<(), OperationError> {
    let place = to.display().to_string();
    let directory = directory_of(to)?;
    let path = directory.join(format!("{TEMPORARY}{:016x}", rand::random::<u64>()));
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(&path).map_err(io(&place))?;
    let mut temporary = Temporary(Some(path.clone()));
    fill(&mut file)?;
    let written = match lasting {
        Lasting::Synced => file.sync_all(),
        Lasting::Cached => Ok(()),
    };
    written.and_then(|()| fs::rename(&path, to)).map_err(io(&place))?;
    temporary.0 = None;
    if lasting == Lasting::Cached {
        return Ok(());
    }
    // Whoever cannot sync a directory has the file all the same, and asks again after a crash.
    let _ = File::open(directory).and_then(|directory| directory.sync_all());
    Ok(())
}

/// Writes a file as it is opened, a piece at a time: what is at hand is in the processor's caches then, and no memory is new.
///
/// What went wrong with writing it, and not with the file, is no error but what is returned: no other site's file would mend that.
///
/// # Errors
/// What is wrong with the file.
pub(super) fn write_opened(
    file: &FetchedLogFile,
    name: &LogName,
    to: &Path,
    lasting: Lasting,
) -> Result<Result<(), OperationError>, OperationError> {
    let is_its = |beginning: &[u8]| check_beginning(name, beginning, file.size()).map_err(|detail| refused(file.place(), detail));
    let written = write_by(to, lasting, |out| {
        let mut is_checked = false;
        // The file system finds room for all of it at once. One that cannot says so when it is written.
        let _ = fallocate(&*out, FallocateFlags::empty(), 0, file.size());
        file.open(|piece| {
            if !is_checked {
                is_its(piece)?;
                is_checked = true;
            }
            write_cached(out, piece).map_err(io(to.display().to_string()))
        })?;
        if is_checked { Ok(()) } else { is_its(&[]) }
    });
    match written {
        Err(error) if !matches!(error, OperationError::Io { .. }) => Err(error),
        written => Ok(written),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::{Lasting, fs, refused, write_by};

    #[test]
    fn of_a_file_that_could_not_be_filled_nothing_is_left() {
        let place = tempfile::tempdir().unwrap();
        let to = place.path().join("RECOVERYXLOG");
        for lasting in [Lasting::Cached, Lasting::Synced] {
            let error = write_by(&to, lasting, |file| {
                file.write_all(b"half of it").unwrap();
                Err(refused("the other half", "is damaged"))
            });
            assert!(error.unwrap_err().to_string().contains("the other half"));
            assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
        }
        write_by(&to, Lasting::Cached, |file| {
            file.write_all(b"all").unwrap();
            Ok(())
        })
        .unwrap();
        assert_eq!((fs::read(&to).unwrap(), fs::read_dir(place.path()).unwrap().count()), (b"all".to_vec(), 1));
    }
}
