//! Reading what a file is beside its bytes.

use std::{ffi::OsStr, fs::File, io, os::unix::ffi::OsStrExt, path::Path};

use rustix::fs::{FileType, Stat, major, minor};
use serde_bytes::ByteBuf;
use xattr::FileExt;

use super::{
    BLOCK_DEVICE, CHARACTER_DEVICE, DIRECTORY, FIFO, FILE, SYMLINK,
    attributes::{FileAttributes, ctime, mtime},
    owners::Owners,
};

/// An entry's path as the file system knows it.
pub(super) fn absolute(path: &[u8]) -> Vec<u8> {
    [b"/", path].concat()
}

/// The kind that `stat` shows; none for a socket.
pub(super) fn kind(stat: &Stat) -> Option<&'static str> {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Some(FILE),
        FileType::Directory => Some(DIRECTORY),
        FileType::Symlink => Some(SYMLINK),
        FileType::Fifo => Some(FIFO),
        FileType::CharacterDevice => Some(CHARACTER_DEVICE),
        FileType::BlockDevice => Some(BLOCK_DEVICE),
        FileType::Socket | FileType::Unknown => None,
    }
}

/// What `stat` says; size, data, link and extended attributes are up to the caller.
pub(super) fn of_stat(stat: &Stat, owners: &Owners) -> FileAttributes {
    let device = matches!(kind(stat), Some(CHARACTER_DEVICE | BLOCK_DEVICE));
    FileAttributes {
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        user: owners.user_name(stat.st_uid),
        group: owners.group_name(stat.st_gid),
        mtime: mtime(stat),
        ctime: ctime(stat),
        inode: stat.st_ino,
        links: if kind(stat) == Some(FILE) && stat.st_nlink > 1 { links(stat) } else { 0 },
        device: device.then(|| (major(stat.st_rdev), minor(stat.st_rdev))),
        ..FileAttributes::default()
    }
}

/// Number of names.
#[expect(clippy::useless_conversion, reason = "the type differs between architectures")]
pub(super) fn links(stat: &Stat) -> u64 {
    u64::try_from(stat.st_nlink).unwrap_or(1)
}

type Xattrs = Vec<(ByteBuf, ByteBuf)>;

/// Extended attributes of an open file.
pub(super) fn xattrs_of_file(file: &File) -> io::Result<Xattrs> {
    collect(file.list_xattr(), |name| file.get_xattr(name))
}

/// Extended attributes by path; a symbolic link's own.
pub(super) fn xattrs_of_path(path: &[u8]) -> io::Result<Xattrs> {
    let path = Path::new(OsStr::from_bytes(path));
    collect(xattr::list(path), |name| xattr::get(path, name))
}

fn collect(names: io::Result<xattr::XAttrs>, mut value: impl FnMut(&OsStr) -> io::Result<Option<Vec<u8>>>) -> io::Result<Xattrs> {
    let names = match names {
        Ok(names) => names,
        // A file system without them.
        Err(error) if error.kind() == io::ErrorKind::Unsupported => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut all = Vec::new();
    for name in names {
        // Gone since it was listed: then it is not there.
        if let Some(value) = value(&name)? {
            all.push((ByteBuf::from(name.as_bytes()), ByteBuf::from(value)));
        }
    }
    all.sort_unstable();
    Ok(all)
}
