//! Files that are not yet objects: names under the reserved directory that vanish unless they are kept.

use std::{
    fs::File,
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
};

use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags},
    io::Errno,
};

use super::{
    directory::{open_directory, open_root},
    path::RESERVED,
};

/// Directory of temporary files, under [`RESERVED`].
const TEMPORARY: &str = "temporary";
/// Directory of multipart uploads, under [`RESERVED`].
pub(super) const UPLOADS: &str = "uploads";
/// A temporary file lives for one put, which takes minutes at most: older ones are what a killed process left. Seconds.
const OLDEST_TEMPORARY_S: i64 = 24 * 3600;
/// An upload of a very large object may rest between its parts; S3's customary clean-up rule is seven days. Seconds.
const OLDEST_UPLOAD_S: i64 = 7 * 24 * 3600;

/// Makes temporary files, and once in its life removes what killed processes left behind.
#[derive(Debug)]
pub(super) struct Temporaries {
    root: PathBuf,
    swept: AtomicBool,
    rearranging: Mutex<()>,
}

/// A temporary file or directory; removed when dropped, unless it was moved into its place and [`Temporary::keep`] was called.
#[derive(Debug)]
pub(super) struct Temporary {
    parent: OwnedFd,
    name: String,
    keep: bool,
}

impl Temporaries {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), swept: AtomicBool::new(false), rearranging: Mutex::default() }
    }

    /// Held while an object gives way to a directory of its name.
    pub(super) fn lock(&self) -> MutexGuard<'_, ()> {
        self.rearranging.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// A new empty file, open for writing.
    pub(super) fn file(&self) -> io::Result<(File, Temporary)> {
        let parent = self.reserved(TEMPORARY)?;
        let name = random_name();
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(&parent, &name, flags, Mode::from_raw_mode(0o666))?;
        let temporary = Temporary { parent, name, keep: false };
        if !self.swept.swap(true, Ordering::Relaxed) {
            // The new file's own time is the file system's now, which need not be this machine's.
            self.sweep(&temporary, rustix::fs::fstat(&opened)?.st_mtime);
        }
        Ok((opened.into(), temporary))
    }

    /// A new empty directory.
    pub(super) fn directory(&self) -> io::Result<Temporary> {
        let parent = self.reserved(TEMPORARY)?;
        let name = random_name();
        rustix::fs::mkdirat(&parent, &name, Mode::from_raw_mode(0o777))?;
        Ok(Temporary { parent, name, keep: false })
    }

    /// Opens a directory under [`RESERVED`], made if missing.
    pub(super) fn reserved(&self, name: &str) -> io::Result<OwnedFd> {
        let mut current = open_root(&self.root)?;
        for name in [RESERVED, name] {
            current = match open_directory(&current, name) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    match rustix::fs::mkdirat(&current, name, Mode::from_raw_mode(0o777)) {
                        Ok(()) | Err(Errno::EXIST) => {}
                        Err(error) => return Err(error.into()),
                    }
                    rustix::fs::fsync(&current)?;
                    open_directory(&current, name)?
                }
                opened => opened?,
            };
        }
        Ok(current)
    }

    /// Removes what is older than any living put or upload. What cannot be removed stays: it is hidden and harms nothing.
    fn sweep(&self, newest: &Temporary, now: i64) {
        let old = [(TEMPORARY, OLDEST_TEMPORARY_S), (UPLOADS, OLDEST_UPLOAD_S)];
        for (name, oldest) in old {
            let Ok(directory) = open_root(&self.root).and_then(|root| open_directory(open_directory(root, RESERVED)?, name)) else {
                continue;
            };
            for entry in names(&directory).unwrap_or_default() {
                let modified = rustix::fs::statat(&directory, &entry, AtFlags::SYMLINK_NOFOLLOW).map(|stat| stat.st_mtime);
                if entry != newest.name && modified.is_ok_and(|modified| now - modified > oldest) {
                    let removed = remove_tree(&directory, &entry);
                    tracing::debug!(?removed, name = entry, "an old temporary file was removed");
                }
            }
        }
    }
}

impl Temporary {
    /// The directory it lies in.
    pub(super) fn parent(&self) -> &OwnedFd {
        &self.parent
    }

    /// Its name there.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// It was moved away.
    pub(super) fn keep(&mut self) {
        self.keep = true;
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.keep
            && let Err(error) = remove_tree(&self.parent, &self.name)
        {
            tracing::warn!(%error, name = self.name, "a temporary file could not be removed");
        }
    }
}

/// A name that nobody else uses.
pub(super) fn random_name() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// The names in a directory, unsorted; those that are not UTF-8 are not ours.
pub(super) fn names(directory: &OwnedFd) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        if let Ok(name) = entry?.file_name().to_str()
            && name != "."
            && name != ".."
        {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// Removes a file, or a directory with the files in it (ours have no deeper ones).
pub(super) fn remove_tree(parent: &OwnedFd, name: &str) -> io::Result<()> {
    let stat = match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(()),
        stat => stat?,
    };
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return gone(rustix::fs::unlinkat(parent, name, AtFlags::empty()));
    }
    let directory = open_directory(parent, name)?;
    for inside in names(&directory)? {
        gone(rustix::fs::unlinkat(&directory, &inside, AtFlags::empty()))?;
    }
    gone(rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR))
}

/// What somebody else removed first is removed.
fn gone(removed: Result<(), Errno>) -> io::Result<()> {
    match removed {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
