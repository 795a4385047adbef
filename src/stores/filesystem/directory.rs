//! Directories by descriptor: going down without following links, and putting a finished file in its place.
//!
//! Every step is relative to an open directory and refuses symbolic links, so nothing that is done to the tree meanwhile can
//! lead out of the root.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{AtFlags, CWD, FileType, Mode, OFlags, RenameFlags, Stat},
    io::Errno,
};

use super::{path::OWN, temporary::Temporaries};

/// How far a way down is made passable.
#[derive(Debug, Clone, Copy)]
pub(super) enum Missing<'a> {
    /// Stop at a directory that is missing.
    Stop,
    /// Make it; an object in its place becomes the directory's own object.
    Make(&'a Temporaries),
}

/// Opens the root, which may itself be a symbolic link: that is the operator's choice.
pub(super) fn open_root(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(CWD, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Opens a directory for reading its entries and for fsync; symbolic links are refused.
pub(super) fn open_directory(parent: impl AsFd, name: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(parent, name, flags, Mode::empty())?)
}

/// Goes down from `start`.
///
/// # Errors
/// `NotFound` if there is no such directory and none is to be made: a file, link or anything else in its place counts as none.
pub(super) fn descend<S: AsRef<str>>(start: OwnedFd, names: &[S], missing: Missing<'_>) -> io::Result<OwnedFd> {
    let mut current = start;
    for name in names {
        let name = name.as_ref();
        current = match (open_directory(&current, name), missing) {
            (Ok(next), _) => next,
            (Err(error), Missing::Stop) if no_directory(&error) => return Err(io::ErrorKind::NotFound.into()),
            (Err(error), Missing::Make(temporaries)) if no_directory(&error) => make(&current, name, temporaries)?,
            (Err(error), _) => return Err(error),
        };
    }
    Ok(current)
}

fn no_directory(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP))
}

fn make(parent: &OwnedFd, name: &str, temporaries: &Temporaries) -> io::Result<OwnedFd> {
    match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o777)) {
        Ok(()) => {}
        // A racer made the directory, or an object lies there.
        Err(Errno::EXIST) if kind(parent, name)? == Some(FileType::RegularFile) => give_way(parent, name, temporaries)?,
        Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    rustix::fs::fsync(parent)?;
    open_directory(parent, name)
}

/// Turns the object `name` into a directory that holds it as its own object, without a moment in which it is missing.
fn give_way(parent: &OwnedFd, name: &str, temporaries: &Temporaries) -> io::Result<()> {
    let _one_at_a_time = temporaries.lock();
    if kind(parent, name)? != Some(FileType::RegularFile) {
        return Ok(());
    }
    let mut room = temporaries.directory()?;
    let inside = open_directory(room.parent(), room.name())?;
    rustix::fs::linkat(parent, name, &inside, OWN, AtFlags::empty())?;
    rustix::fs::fsync(&inside)?;
    let linked = rustix::fs::statat(&inside, OWN, AtFlags::SYMLINK_NOFOLLOW)?;
    rustix::fs::renameat_with(room.parent(), room.name(), parent, name, RenameFlags::EXCHANGE)?;
    // What lay at `name` is now the temporary. Another process may have replaced it since it was linked.
    let displaced = rustix::fs::statat(room.parent(), room.name(), AtFlags::SYMLINK_NOFOLLOW)?;
    if FileType::from_raw_mode(displaced.st_mode) == FileType::Directory {
        rustix::fs::renameat_with(room.parent(), room.name(), parent, name, RenameFlags::EXCHANGE)?;
    } else if displaced.st_ino != linked.st_ino {
        rustix::fs::renameat(room.parent(), room.name(), &inside, OWN)?;
        rustix::fs::fsync(&inside)?;
        room.keep();
    }
    Ok(())
}

/// What kind of thing `name` is, without following links; `None` if there is nothing.
fn kind(parent: impl AsFd, name: &str) -> io::Result<Option<FileType>> {
    match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Opens the object `name` for reading.
///
/// # Errors
/// `NotFound` also for links, devices, pipes and sockets: they are no objects.
pub(super) fn open_object(parent: &OwnedFd, name: &str) -> io::Result<(File, Stat)> {
    let opened = open_plain(parent, name)?;
    let (file, stat) = match FileType::from_raw_mode(opened.1.st_mode) {
        FileType::Directory => open_plain(&opened.0.into(), OWN)?,
        _ => opened,
    };
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok((file, stat)),
        _ => Err(io::ErrorKind::NotFound.into()),
    }
}

fn open_plain(parent: &OwnedFd, name: &str) -> io::Result<(File, Stat)> {
    // NONBLOCK: opening a named pipe must not wait for its writer.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match rustix::fs::openat(parent, name, flags, Mode::empty()) {
        Ok(opened) => {
            let stat = rustix::fs::fstat(&opened)?;
            Ok((opened.into(), stat))
        }
        // A link, a socket, a device without a driver.
        Err(Errno::LOOP | Errno::NXIO | Errno::NODEV) => Err(io::ErrorKind::NotFound.into()),
        Err(error) => Err(error.into()),
    }
}

/// What the file system says of the object `name`.
///
/// # Errors
/// As [`open_object`], but no right to read it is needed.
pub(super) fn stat_object(parent: &OwnedFd, name: &str) -> io::Result<Stat> {
    let mut stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        stat = rustix::fs::statat(open_directory(parent, name)?, OWN, AtFlags::SYMLINK_NOFOLLOW)?;
    }
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok(stat),
        _ => Err(io::ErrorKind::NotFound.into()),
    }
}

/// Moves a finished file into its place and makes that durable.
///
/// # Errors
/// `AlreadyExists` with `if_absent` if the object is there.
pub(super) fn install(from: (&OwnedFd, &str), parent: &OwnedFd, name: &str, if_absent: bool) -> io::Result<()> {
    let moved = if if_absent { move_no_replace(from, parent, name) } else { move_over(from, parent, name) };
    match moved {
        Err(Errno::EXIST | Errno::ISDIR) if kind(parent, name)? == Some(FileType::Directory) => {
            let inside = open_directory(parent, name)?;
            if if_absent { move_no_replace(from, &inside, OWN) } else { move_over(from, &inside, OWN) }?;
            rustix::fs::fsync(&inside)?;
        }
        moved => {
            moved?;
            rustix::fs::fsync(parent)?;
        }
    }
    Ok(())
}

fn move_over((from, temporary): (&OwnedFd, &str), parent: &OwnedFd, name: &str) -> Result<(), Errno> {
    rustix::fs::renameat(from, temporary, parent, name)
}

fn move_no_replace((from, temporary): (&OwnedFd, &str), parent: &OwnedFd, name: &str) -> Result<(), Errno> {
    match rustix::fs::renameat_with(from, temporary, parent, name, RenameFlags::NOREPLACE) {
        // File systems that do not know the flag (NFS, some FUSE) say one of these; link(2) refuses an existing name everywhere.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
            rustix::fs::linkat(from, temporary, parent, name, AtFlags::empty())?;
            rustix::fs::unlinkat(from, temporary, AtFlags::empty())
        }
        moved => moved,
    }
}

/// Removes the object `name`; no error if there is none. Makes it durable.
pub(super) fn remove(parent: &OwnedFd, name: &str) -> io::Result<()> {
    match kind(parent, name)? {
        Some(FileType::Directory) => {
            let inside = open_directory(parent, name)?;
            if kind(&inside, OWN)? == Some(FileType::RegularFile) {
                unlink(&inside, OWN)?;
            }
            Ok(())
        }
        Some(FileType::RegularFile) => unlink(parent, name),
        // Links, pipes and the like are no objects, so there is nothing to remove.
        _ => Ok(()),
    }
}

fn unlink(parent: &OwnedFd, name: &str) -> io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) => Ok(rustix::fs::fsync(parent)?),
        Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
