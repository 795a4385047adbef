//! A directory beneath which entries are put, and out of which none of them leads.
//!
//! Every path is walked component by component from the target's own descriptor, never following a symbolic link, be it one
//! that the snapshot holds or one that lay there. (`openat2` with `RESOLVE_BENEATH` does the same in one call, but older
//! kernels and many container profiles refuse it; open directories are remembered, so few calls are made either way.)

use std::{
    collections::HashMap,
    io,
    os::fd::OwnedFd,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use rustix::{
    fs::{AtFlags, CWD, Mode, OFlags, Stat, mkdirat, openat, statat, unlinkat},
    io::Errno,
};

/// Open directories remembered; descriptors are scarcer than memory.
const MOST_REMEMBERED: usize = 128;

/// The root of a restore.
#[derive(Debug)]
pub(super) struct Tree {
    root: Arc<OwnedFd>,
    remembered: Mutex<HashMap<Vec<u8>, Arc<OwnedFd>>>,
}

/// A directory in the tree and a name in it.
pub(super) struct Place<'a> {
    pub(super) directory: Arc<OwnedFd>,
    pub(super) name: &'a [u8],
}

impl Tree {
    /// Opens the target, which must be a directory; only its own path may lead through symbolic links.
    pub(super) fn open(target: &Path) -> io::Result<Self> {
        let root = openat(CWD, target, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { root: Arc::new(root), remembered: Mutex::default() })
    }

    /// The target itself.
    pub(super) fn root(&self) -> &OwnedFd {
        &self.root
    }

    /// Where an entry goes; with `make`, directories above it that are missing are made, mode 0755.
    pub(super) fn place<'a>(&self, path: &'a [u8], make: bool) -> io::Result<Place<'a>> {
        check(path)?;
        let (parent, name) = match path.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (&path[..slash], &path[slash + 1..]),
            None => (&path[..0], path),
        };
        Ok(Place { directory: self.directory(parent, make)?, name })
    }

    /// What lies at an entry's path, not following it; none if nothing does.
    pub(super) fn stat(&self, path: &[u8]) -> io::Result<Option<Stat>> {
        match self.place(path, false) {
            Ok(place) => place.stat(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn directory(&self, path: &[u8], make: bool) -> io::Result<Arc<OwnedFd>> {
        let mut end = path.len();
        let mut here = loop {
            if end == 0 {
                break Arc::clone(&self.root);
            }
            if let Some(known) = self.lock().get(&path[..end]) {
                break Arc::clone(known);
            }
            end = path[..end].iter().rposition(|byte| *byte == b'/').unwrap_or(0);
        };
        while end < path.len() {
            let start = if end == 0 { 0 } else { end + 1 };
            end = path[start..].iter().position(|byte| *byte == b'/').map_or(path.len(), |slash| start + slash);
            here = Arc::new(step(&here, &path[start..end], make).map_err(|error| blocked(error, &path[..end]))?);
            let mut remembered = self.lock();
            if remembered.len() >= MOST_REMEMBERED {
                remembered.clear();
            }
            remembered.insert(path[..end].to_vec(), Arc::clone(&here));
        }
        Ok(here)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Vec<u8>, Arc<OwnedFd>>> {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place<'_> {
    /// What lies here, not following it.
    pub(super) fn stat(&self) -> io::Result<Option<Stat>> {
        match statat(&self.directory, self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes what lies here, unless it is a directory.
    pub(super) fn clear(&self) -> io::Result<()> {
        match unlinkat(&self.directory, self.name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

fn step(directory: &OwnedFd, name: &[u8], make: bool) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(directory, name, flags, Mode::empty()) {
        Err(Errno::NOENT) if make => {
            match mkdirat(directory, name, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            Ok(openat(directory, name, flags, Mode::empty())?)
        }
        other => Ok(other?),
    }
}

fn blocked(error: io::Error, path: &[u8]) -> io::Error {
    if error.kind() != io::ErrorKind::NotADirectory && error.raw_os_error() != Some(Errno::LOOP.raw_os_error()) {
        return error;
    }
    let shown = String::from_utf8_lossy(path);
    io::Error::new(
        io::ErrorKind::NotADirectory,
        format!("{shown} is a symbolic link or a file, and nothing is restored through one; move it away if it is in the way"),
    )
}

/// Refuses a path that is empty or absolute, or has a component that is empty, `.` or `..`, or a zero byte.
fn check(path: &[u8]) -> io::Result<()> {
    let sound = path.split(|byte| *byte == b'/').all(|name| !matches!(name, b"" | b"." | b"..") && !name.contains(&0));
    if sound {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidInput,
        "its path leads out of the target or is no path; no farshore writes such an entry, so find out who did",
    ))
}

#[cfg(test)]
mod tests {
    use super::{Tree, check};

    #[test]
    fn paths_that_lead_out_are_refused() {
        for path in [&b""[..], b"/etc", b"a/../b", b"..", b"a//b", b"a/", b".", b"a\0b"] {
            assert!(check(path).is_err(), "{:?}", String::from_utf8_lossy(path));
        }
        assert!(check(b"a/b..c/...").is_ok());
    }

    #[test]
    fn a_symbolic_link_is_not_walked_through_even_when_it_points_inside() {
        let target = tempfile::tempdir().unwrap();
        std::fs::create_dir(target.path().join("real")).unwrap();
        std::os::unix::fs::symlink("real", target.path().join("link")).unwrap();
        let tree = Tree::open(target.path()).unwrap();
        assert!(tree.place(b"real/new/file", true).is_ok());
        let error = tree.place(b"link/file", true).err().unwrap();
        assert!(error.to_string().contains("link is a symbolic link"), "{error}");
    }
}
