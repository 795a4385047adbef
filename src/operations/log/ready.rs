//! Segments that a server has ready and has not pushed yet. They are stored from where they lie, and never written to the spool.
//!
//! ```text
//! <spool>/<system>/.server             the directory of the server's log, as the last push named it
//! <spool>/<system>/.<segment>.coming   on its way to the sites
//! <spool>/<system>/.<segment>.stored   every site has confirmed it; which file that was
//! ```
//!
//! PostgreSQL hands over one file, and waits. Where it is behind by several it names them in `archive_status`: whoever empties the spool
//! takes those after the one that is being pushed. Their pushes find a mark, and that the file is still the one that was read.
//!
//! Marks are not put on the disk: without one a file is pushed as ever, and found to be at the sites. Only the process that empties the
//! spool makes and removes them.

use std::{
    collections::HashSet,
    fs::{self, Metadata},
    io::ErrorKind,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::SystemTime,
};

use super::{
    Spool, io,
    local::{Examined, examine_into},
    spool::Waiting,
    written::{Lasting, is_temporary, write},
};
use crate::{
    operations::OperationError,
    repository::{LogKind, LogName},
};

/// Segments after the one that is being pushed: half of them may be stored already and wait for their pushes.
const AHEAD: usize = 16;
/// Where PostgreSQL says what it wants archived.
const STATUS: &str = "archive_status";
const READY: &str = ".ready";
const SERVER: &str = ".server";
const COMING: &str = ".coming";
const STORED: &str = ".stored";

/// What tells one file from another that had its name, and from itself after a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity(String);

impl Identity {
    fn of(file: &Metadata) -> Self {
        let changed = (file.mtime(), file.mtime_nsec(), file.ctime(), file.ctime_nsec());
        Self(format!("{:?} {} {} {}", changed, file.dev(), file.ino(), file.len()))
    }
}

/// What a server has ready, beside its spool.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ready<'a>(pub(super) &'a Spool);

impl Ready<'_> {
    fn folder(&self, system: u64) -> PathBuf {
        self.0.directory().join(system.to_string())
    }

    fn mark(&self, name: &LogName, what: &str) -> PathBuf {
        self.folder(name.system()).join(format!(".{}{what}", name.file()))
    }

    /// Says where the log of a server lies, by the path of a file in it. It is a matter of speed alone.
    pub(super) fn follow(&self, system: u64, path: &Path) {
        let Some(directory) = path.parent().and_then(|parent| fs::canonicalize(parent).ok()) else { return };
        let folder = self.folder(system);
        let there = fs::read(folder.join(SERVER)).is_ok_and(|there| there == directory.as_os_str().as_encoded_bytes());
        if !there && directory.join(STATUS).is_dir() && folder.is_dir() {
            let _ = write(&folder.join(SERVER), directory.as_os_str().as_encoded_bytes(), Lasting::Cached);
        }
    }

    fn server(&self, system: u64) -> Option<PathBuf> {
        use std::os::unix::ffi::OsStringExt;
        let directory = fs::read(self.folder(system).join(SERVER)).ok()?;
        Some(PathBuf::from(std::ffi::OsString::from_vec(directory))).filter(|directory| directory.is_absolute())
    }

    /// Whether every site has this file of a server.
    pub(super) fn is_stored(&self, name: &LogName, path: &Path) -> bool {
        let stored = fs::read(self.mark(name, STORED)).ok();
        stored.is_some_and(|stored| fs::metadata(path).is_ok_and(|file| Identity::of(&file).0.as_bytes() == stored))
    }

    /// Whether a file is on its way to the sites, if the process lives that says so.
    pub(super) fn is_coming(&self, name: &LogName) -> bool {
        self.mark(name, COMING).exists()
    }

    /// Whose logs come through this spool.
    fn systems(&self) -> impl Iterator<Item = u64> {
        entries(self.0.directory()).filter_map(|(name, _)| name.parse().ok())
    }

    /// Segments that a server will push after the next one, in order. Marks of what it has pushed are removed.
    pub(super) fn waiting(&self) -> Vec<Waiting> {
        self.systems().flat_map(|system| self.waiting_of(system)).collect()
    }

    fn waiting_of(&self, system: u64) -> Vec<Waiting> {
        let Some(server) = self.server(system) else { return Vec::new() };
        let names = entries(&server.join(STATUS)).filter_map(|(name, _)| LogName::new(system, name.strip_suffix(READY)?));
        let mut ready: Vec<LogName> = names.filter(|name| name.kind() == LogKind::Segment).collect();
        ready.sort();
        self.forget_all_but(system, &ready);
        let next = ready.into_iter().skip(1).take(AHEAD).filter(|name| !self.mark(name, STORED).exists());
        let sized = |name: LogName| {
            let file = fs::metadata(server.join(name.file())).ok()?;
            Some(Waiting { bytes: file.len(), since: file.modified().ok()?.into(), at_server: true, name })
        };
        next.filter_map(sized).collect()
    }

    /// Removes marks of what is not ready any more.
    fn forget_all_but(&self, system: u64, ready: &[LogName]) {
        let ready: HashSet<&str> = ready.iter().map(LogName::file).collect();
        for (mark, path) in entries(&self.folder(system)) {
            let name = mark.strip_prefix('.').and_then(|mark| mark.strip_suffix(STORED));
            if name.is_some_and(|name| !ready.contains(name)) {
                let _ = fs::remove_file(path);
            }
        }
    }

    /// Says that files are on their way.
    pub(super) fn begin<'n>(&self, names: impl IntoIterator<Item = &'n LogName>) {
        names.into_iter().for_each(|name| drop(fs::write(self.mark(name, COMING), [])));
    }

    /// Takes that back.
    pub(super) fn end(&self, name: &LogName) {
        let _ = fs::remove_file(self.mark(name, COMING));
    }

    /// Removes what a process that died said.
    pub(super) fn clean(&self) {
        for (name, path) in self.systems().flat_map(|system| entries(&self.folder(system))) {
            if name.ends_with(COMING) || is_temporary(&name) {
                let _ = fs::remove_file(path);
            }
        }
    }

    /// The bytes of a segment where the server has it, in an empty buffer that was used before, and when it wrote the last of them; nothing if it is not there any more, changed meanwhile, or need not be archived.
    ///
    /// # Errors
    /// [`OperationError::Refused`] for one that is not what its name says; [`OperationError::Io`].
    pub(super) fn read(&self, name: &LogName, into: Vec<u8>) -> Result<Option<(Vec<u8>, SystemTime, Identity)>, OperationError> {
        let Some(server) = self.server(name.system()) else { return Ok(None) };
        let path = server.join(name.file());
        let look = || match fs::metadata(&path) {
            Ok(file) => Ok(Some(Identity::of(&file))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io(path.display().to_string())(error)),
        };
        let Some(before) = look()? else { return Ok(None) };
        let Examined { bytes, written_at, is_left, .. } = examine_into(into, &path, name.system())?;
        Ok((look()?.as_ref() == Some(&before) && !is_left).then_some((bytes, written_at, before)))
    }

    /// Says that every site has this file.
    ///
    /// # Errors
    /// [`OperationError::Io`].
    pub(super) fn stored(&self, name: &LogName, identity: &Identity) -> Result<(), OperationError> {
        write(&self.mark(name, STORED), identity.0.as_bytes(), Lasting::Cached)?;
        self.end(name);
        Ok(())
    }
}

/// Names and paths in a directory; none if it cannot be read, since all here is a matter of speed.
fn entries(directory: &Path) -> impl Iterator<Item = (String, PathBuf)> + use<> {
    let there = fs::read_dir(directory).into_iter().flatten().flatten();
    there.filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path())))
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, File},
        os::unix::fs::FileExt,
        sync::atomic::{AtomicBool, Ordering},
    };

    use super::{LogName, Ready, Spool};

    /// The third segment of the cluster 7, whose segments have 1 MiB.
    fn segment() -> Vec<u8> {
        let mut bytes = vec![0; 1 << 20];
        bytes[..5].copy_from_slice(&[0x10, 0xD1, 2, 0, 1]);
        bytes[8..16].copy_from_slice(&(3_u64 << 20).to_le_bytes());
        bytes[24] = 7;
        bytes[32..36].copy_from_slice(&(1_u32 << 20).to_le_bytes());
        bytes[36..40].copy_from_slice(&8192_u32.to_le_bytes());
        // The last page tells that it is whole.
        let last = (1 << 20) - 8192;
        bytes[last + 8..last + 16].copy_from_slice(&((3_u64 << 20) + last as u64).to_le_bytes());
        bytes
    }

    #[test]
    fn a_file_that_changes_while_it_is_read_is_left_for_its_push() {
        let place = tempfile::tempdir().unwrap();
        let (directory, server) = (place.path().join("spool"), place.path().join("pg_wal"));
        fs::create_dir_all(directory.join("7")).unwrap();
        fs::create_dir_all(server.join("archive_status")).unwrap();
        let name = LogName::new(7, "000000010000000000000003").unwrap();
        let path = server.join(name.file());
        fs::write(&path, segment()).unwrap();
        let spool = Spool::new(directory, 1 << 30);
        let ready = Ready(&spool);
        ready.follow(7, &path);
        assert!(ready.read(&name, Vec::new()).unwrap().is_some());
        let done = AtomicBool::new(false);
        let is_seen = std::thread::scope(|scope| {
            scope.spawn(|| {
                let file = File::options().write(true).open(&path).unwrap();
                while !done.load(Ordering::SeqCst) {
                    // The same byte, at another time.
                    file.write_all_at(&[7], 24).unwrap();
                }
            });
            // A clock that ticks every few milliseconds tells some of these reads.
            let is_seen = (0..5000).any(|_| ready.read(&name, Vec::new()).unwrap().is_none());
            done.store(true, Ordering::SeqCst);
            is_seen
        });
        assert!(is_seen);
    }
}
