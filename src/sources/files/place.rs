//! Putting entries that have no bytes into the tree, and giving everything its owner, mode, times and extended attributes.

use std::{
    ffi::{CString, OsStr},
    fs::File,
    io,
    os::{
        fd::{AsFd, AsRawFd},
        unix::ffi::OsStrExt,
    },
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use rustix::{
    fs::{
        AtFlags, CWD, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, chmodat, chownat, fchmod, fchown, futimens, makedev,
        mkdirat, mknodat, openat, readlinkat, symlinkat, utimensat,
    },
    io::Errno,
    process::geteuid,
};

use super::{
    BLOCK_DEVICE, CHARACTER_DEVICE, DIRECTORY, FIFO, SYMLINK,
    attributes::FileAttributes,
    metadata::kind,
    owners::Owners,
    tree::{Place, Tree},
};
use crate::progress::{Check, Problem, SharedObserver};

/// What one restore has in common for all entries.
#[derive(Debug)]
pub(super) struct Placing {
    pub(super) tree: Tree,
    pub(super) observer: SharedObserver,
    pub(super) into_existing: bool,
    owners: Owners,
    /// Only root may give files away.
    root: bool,
    uid: u32,
    foreign_owners: AtomicU64,
    reserved_xattrs: AtomicU64,
}

impl Placing {
    pub(super) fn new(tree: Tree, observer: SharedObserver, into_existing: bool) -> Arc<Self> {
        let uid = geteuid();
        Arc::new(Self {
            tree,
            observer,
            into_existing,
            owners: Owners::of_this_machine(),
            root: uid.is_root(),
            uid: uid.as_raw(),
            foreign_owners: AtomicU64::new(0),
            reserved_xattrs: AtomicU64::new(0),
        })
    }

    /// Reports what became of one entry.
    pub(super) fn problem(&self, path: &[u8], message: impl std::fmt::Display) {
        self.observer.problem(Problem::new(String::from_utf8_lossy(path), format!("not restored as it was: {message}")));
    }

    /// What an ordinary user's restore had to leave out.
    pub(super) fn notes(&self) -> Vec<Check> {
        let mut notes = Vec::new();
        let owners = self.foreign_owners.load(Ordering::Relaxed);
        if owners > 0 {
            notes.push(Check::note(
                "owners",
                "as captured",
                format!("{owners} entries belong to the restoring user; restore as root to keep owners"),
            ));
        }
        let reserved = self.reserved_xattrs.load(Ordering::Relaxed);
        if reserved > 0 {
            notes.push(Check::note(
                "security and trusted attributes",
                "as captured",
                format!("{reserved} were left out; restore as root to keep them"),
            ));
        }
        notes
    }

    /// Makes a directory, private until the end, where its own mode is set. Returns whether it is new.
    pub(super) fn make_directory(&self, path: &[u8]) -> io::Result<bool> {
        let place = self.tree.place(path, true)?;
        match mkdirat(&place.directory, place.name, Mode::from_raw_mode(0o700)) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => {
                if place.stat()?.is_some_and(|stat| kind(&stat) == Some(DIRECTORY)) {
                    return Ok(false);
                }
                if !self.into_existing {
                    return Err(Errno::EXIST.into());
                }
                place.clear()?;
                mkdirat(&place.directory, place.name, Mode::from_raw_mode(0o700))?;
                Ok(true)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Makes a symbolic link, fifo or device node. Returns whether it is new.
    pub(super) fn make_special(&self, path: &[u8], wanted: &str, attributes: &FileAttributes) -> io::Result<bool> {
        let place = self.tree.place(path, true)?;
        let mut new = true;
        if self.into_existing
            && let Some(there) = place.stat()?
        {
            let same = kind(&there) == Some(wanted)
                && match wanted {
                    SYMLINK => {
                        readlinkat(&place.directory, place.name, Vec::new())?.as_bytes() == destination(attributes)?.as_bytes()
                    }
                    FIFO => true,
                    _ => attributes.device.is_some_and(|(major, minor)| makedev(major, minor) == there.st_rdev),
                };
            if same {
                new = false;
            } else {
                place.clear()?;
            }
        }
        if new {
            Self::create(&place, wanted, attributes)?;
        }
        self.dress_special(&place, path, wanted == SYMLINK, attributes)?;
        Ok(new)
    }

    fn create(place: &Place<'_>, wanted: &str, attributes: &FileAttributes) -> io::Result<()> {
        let file_type = match wanted {
            SYMLINK => return Ok(symlinkat(destination(attributes)?.as_c_str(), &place.directory, place.name)?),
            FIFO => FileType::Fifo,
            CHARACTER_DEVICE => FileType::CharacterDevice,
            BLOCK_DEVICE => FileType::BlockDevice,
            other => return Err(io::Error::other(format!("a newer farshore stored it as `{other}`"))),
        };
        let device = match (file_type, attributes.device) {
            (FileType::Fifo, _) => 0,
            (_, Some((major, minor))) => makedev(major, minor),
            (_, None) => return Err(io::Error::other("the numbers of the device are missing")),
        };
        mknodat(&place.directory, place.name, file_type, Mode::from_raw_mode(0o600), device).map_err(|error| match error {
            Errno::PERM => io::Error::other("only root can make device nodes"),
            other => other.into(),
        })
    }

    fn dress_special(&self, place: &Place<'_>, path: &[u8], link: bool, attributes: &FileAttributes) -> io::Result<()> {
        if self.may_own(attributes) {
            let (uid, gid) = self.owner(attributes);
            chownat(&place.directory, place.name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        }
        // Through the descriptor's own name: the last component must not be followed, and the others cannot be exchanged.
        let shown = [format!("/proc/self/fd/{}/", place.directory.as_raw_fd()).as_bytes(), place.name].concat();
        let shown = PathBuf::from(OsStr::from_bytes(&shown));
        self.set_xattrs(path, attributes, |name, value| xattr::set(&shown, name, value));
        if !link {
            let node = openat(&place.directory, place.name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
            let node_path = format!("/proc/self/fd/{}", node.as_raw_fd());
            chmodat(CWD, node_path, self.mode(attributes), AtFlags::empty())?;
        }
        Ok(utimensat(&place.directory, place.name, &times(attributes), AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// Gives an open file or directory its owner, extended attributes, mode and times, in an order in which none undoes another:
    /// a new owner clears set-user-id and capabilities, and everything changes the times.
    pub(super) fn dress(&self, file: &File, path: &[u8], attributes: &FileAttributes) -> io::Result<()> {
        if self.may_own(attributes) {
            let (uid, gid) = self.owner(attributes);
            fchown(file.as_fd(), Some(uid), Some(gid))?;
        }
        self.set_xattrs(path, attributes, |name, value| xattr::FileExt::set_xattr(file, name, value));
        fchmod(file.as_fd(), self.mode(attributes))?;
        Ok(futimens(file.as_fd(), &times(attributes))?)
    }

    /// Whether mode or owner of what is there differ.
    pub(super) fn undressed(&self, there: &rustix::fs::Stat, attributes: &FileAttributes) -> bool {
        let (uid, gid) = self.owner(attributes);
        there.st_mode & 0o7777 != self.mode(attributes).as_raw_mode()
            || (self.root && (there.st_uid != uid.as_raw() || there.st_gid != gid.as_raw()))
    }

    fn owner(&self, attributes: &FileAttributes) -> (Uid, Gid) {
        let uid = self.owners.uid(attributes.user.as_deref(), attributes.uid);
        let gid = self.owners.gid(attributes.group.as_deref(), attributes.gid);
        (Uid::from_raw_unchecked(uid), Gid::from_raw_unchecked(gid))
    }

    fn may_own(&self, attributes: &FileAttributes) -> bool {
        if !self.root && self.owner(attributes).0.as_raw() != self.uid {
            self.foreign_owners.fetch_add(1, Ordering::Relaxed);
        }
        self.root
    }

    /// The mode to set: a program that ran with its owner's rights must not run with the restoring user's instead.
    fn mode(&self, attributes: &FileAttributes) -> Mode {
        let own = self.root || self.owner(attributes).0.as_raw() == self.uid;
        Mode::from_raw_mode(attributes.mode & if own { 0o7777 } else { 0o1777 })
    }

    fn set_xattrs(&self, path: &[u8], attributes: &FileAttributes, set: impl Fn(&OsStr, &[u8]) -> io::Result<()>) {
        for (name, value) in &attributes.xattrs {
            if !self.root && (name.starts_with(b"security.") || name.starts_with(b"trusted.")) {
                self.reserved_xattrs.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            if let Err(error) = set(OsStr::from_bytes(name), value) {
                self.problem(path, format!("its extended attribute {} could not be set: {error}", String::from_utf8_lossy(name)));
            }
        }
    }
}

fn destination(attributes: &FileAttributes) -> io::Result<CString> {
    let link = attributes.link.as_ref().ok_or_else(|| io::Error::other("the destination of the link is missing"))?;
    CString::new(link.to_vec()).map_err(io::Error::other)
}

fn times(attributes: &FileAttributes) -> Timestamps {
    let mtime = Timespec { tv_sec: attributes.mtime.seconds, tv_nsec: i64::from(attributes.mtime.nanoseconds) };
    Timestamps { last_access: mtime, last_modification: mtime }
}
