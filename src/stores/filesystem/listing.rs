//! Listing in the order of keys, a directory at a time.
//!
//! A directory sorts as its name and a slash (`a-b` comes before `a/b`), so the entries of one directory, sorted like this, are in
//! the order of whole keys, and memory holds the names of the directories on the way down and no more. Subtrees before the start
//! key or outside the prefix are never opened.

use std::{
    io,
    os::fd::OwnedFd,
    sync::{Arc, Mutex},
};

use rustix::{
    fs::{AtFlags, Dir, FileType},
    io::Errno,
};

use super::{
    Inner, ObjectStat, Page,
    directory::{Missing, descend, open_directory},
    modified_ns, object_stat,
    path::{Component, KeyPath, OWN, RESERVED, decode, directory_path, key_path},
};

/// Sorted directories that are kept from page to page: more than the way down has large ones.
const KEPT_DIRECTORIES: usize = 4;
/// Smaller directories are read again for each page, which costs less than keeping them. Entries.
const WORTH_KEEPING: usize = 1000;
/// A directory changed this recently could change again without a new time (its granularity is some milliseconds). Nanoseconds.
const SETTLED_NS: i128 = 2_000_000_000;

/// What a directory holds, sorted.
type Entries = Arc<Vec<Entry>>;

/// Large directories as they were sorted for the last page, so that a listing of many pages does not sort them again for each.
#[derive(Debug, Default)]
pub(super) struct Sorted(Mutex<Vec<(Identity, Entries)>>);

/// A state of a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
    modified_ns: i128,
}

#[derive(Debug)]
struct Entry {
    /// The segment; with a slash if it is a directory.
    sort: Box<str>,
    /// Where it lies, if that is not its segment; relative to the directory, with slashes.
    path: Option<Box<str>>,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Object,
    /// The object that a directory of its name may hold.
    Own,
    Directory,
}

impl Entry {
    fn path(&self) -> &str {
        self.path.as_deref().unwrap_or_else(|| self.sort.trim_end_matches('/'))
    }
}

struct Walk<'a> {
    store: &'a Inner,
    prefix: &'a str,
    after: Option<&'a str>,
    /// One more than the page, to know whether there is more.
    wanted: usize,
    found: Vec<ObjectStat>,
}

/// One page. See [`super::super::Store::list`].
pub(super) fn list(store: &Inner, prefix: &str, after: Option<&str>, limit: usize) -> io::Result<Page> {
    let root = super::directory::open_root(&store.root)?;
    let mut walk = Walk { store, prefix, after, wanted: limit.saturating_add(1), found: Vec::new() };
    // Straight to the directory that holds everything under the prefix.
    let base = prefix.rfind('/').map_or("", |slash| &prefix[..=slash]);
    match descend(root, &directory_path(base), Missing::Stop) {
        Ok(directory) => walk.directory(directory, base)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let more = walk.found.len() > limit;
    walk.found.truncate(limit);
    Ok(Page { objects: walk.found, more })
}

impl Walk<'_> {
    fn directory(&mut self, directory: OwnedFd, base: &str) -> io::Result<()> {
        let entries = sorted(self.store, &directory, base)?;
        // Both are relative to this directory; what begins elsewhere bounds nothing here.
        let prefix = self.prefix.strip_prefix(base).unwrap_or("");
        let after = self.after.and_then(|after| after.strip_prefix(base));
        let start = entries.partition_point(|entry| before(entry, prefix) || after.is_some_and(|after| done(entry, after)));
        // The prefix itself may be that of a directory whose own object it is not: `a/` holds `a/…`, never `a`.
        if self.after.is_some_and(|after| !after.starts_with(base) && after > base) {
            return Ok(());
        }
        for entry in &entries[start..] {
            if !entry.sort.starts_with(prefix) && !prefix.starts_with(&*entry.sort) {
                break;
            }
            if self.found.len() >= self.wanted {
                break;
            }
            match entry.kind {
                Kind::Directory => {
                    match descend(directory.try_clone()?, &entry.path().split('/').collect::<Vec<_>>(), Missing::Stop) {
                        Ok(inside) => self.directory(inside, &format!("{base}{}", entry.sort))?,
                        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                        Err(error) => return Err(io::Error::new(error.kind(), format!("{base}{}: {error}", entry.sort))),
                    }
                }
                Kind::Object | Kind::Own if entry.sort.starts_with(prefix) => self.object(&directory, base, entry)?,
                Kind::Object | Kind::Own => {}
            }
        }
        Ok(())
    }

    fn object(&mut self, directory: &OwnedFd, base: &str, entry: &Entry) -> io::Result<()> {
        let own = if entry.kind == Kind::Own { format!("{}/{OWN}", entry.path()) } else { String::new() };
        let path = if entry.kind == Kind::Own { &own } else { entry.path() };
        match rustix::fs::statat(directory, path, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => {
                let key = format!("{base}{}", entry.sort);
                // It gave way to a directory since the names were read, and was listed, or it is listed now: never twice.
                if self.found.last().is_none_or(|last| last.key < key) {
                    self.found.push(object_stat(key, &stat));
                }
                Ok(())
            }
            // Gone since the names were read, or a directory now.
            Ok(_) | Err(Errno::NOENT | Errno::NOTDIR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Whether the entry and everything in it lies before all keys with this prefix.
fn before(entry: &Entry, prefix: &str) -> bool {
    *entry.sort < *prefix && !(entry.kind == Kind::Directory && prefix.starts_with(&*entry.sort))
}

/// Whether the entry and everything in it lies at or before this key.
fn done(entry: &Entry, after: &str) -> bool {
    match entry.kind {
        Kind::Directory => *entry.sort < *after && !after.starts_with(&*entry.sort),
        Kind::Object | Kind::Own => *entry.sort <= *after,
    }
}

/// The directory's entries in the order of keys.
fn sorted(store: &Inner, directory: &OwnedFd, base: &str) -> io::Result<Entries> {
    let stat = rustix::fs::fstat(directory)?;
    let identity = Identity { device: stat.st_dev, inode: stat.st_ino, modified_ns: i128::from(modified_ns(&stat)) };
    let lock = || store.sorted.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if let Some((_, entries)) = lock().iter().find(|(kept, _)| *kept == identity) {
        return Ok(entries.clone());
    }
    let mut scan = Scan { base, entries: Vec::new(), flat: true };
    scan.read(directory, "", "")?;
    scan.entries.sort_unstable_by(|a, b| (&a.sort, a.kind).cmp(&(&b.sort, b.kind)));
    scan.entries.shrink_to_fit();
    let entries = Arc::new(scan.entries);
    let now_ns = i128::from(store.clock.now().timestamp_nanos_opt().unwrap_or(0));
    if scan.flat && entries.len() >= WORTH_KEEPING && now_ns - identity.modified_ns > SETTLED_NS {
        let mut kept = lock();
        kept.retain(|(other, _)| (other.device, other.inode) != (identity.device, identity.inode));
        if kept.len() == KEPT_DIRECTORIES {
            kept.remove(0);
        }
        kept.push((identity, entries.clone()));
    }
    Ok(entries)
}

/// Reads the names of one directory of keys.
struct Scan<'a> {
    base: &'a str,
    entries: Vec<Entry>,
    /// Whether no long segment spreads over further directories: then the directory's own time tells of every change.
    flat: bool,
}

impl Scan<'_> {
    /// `path` is that of a directory which holds segments that begin with `beginning`.
    fn read(&mut self, directory: &OwnedFd, path: &str, beginning: &str) -> io::Result<()> {
        let at_root = self.base.is_empty() && path.is_empty();
        for entry in Dir::read_from(directory)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_str().map_err(|_| {
                unfit(
                    self.base,
                    &name.to_string_lossy(),
                    "its name is not UTF-8, so it is no key; rename it, or use a files source",
                )
            })?;
            if matches!(name, "." | "..") || name == OWN || (at_root && name == RESERVED) {
                continue;
            }
            let kind = match entry.file_type() {
                FileType::Unknown => match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                    Err(Errno::NOENT) => continue,
                    Err(error) => return Err(error.into()),
                },
                known => known,
            };
            if !matches!(kind, FileType::RegularFile | FileType::Directory) {
                continue;
            }
            let component = decode(name, at_root);
            let unfit = || unfit(self.base, name, "names that begin with `%~` are this store's own; rename it");
            match component.ok_or_else(unfit)? {
                Component::Segment(text) => self.segment(format!("{beginning}{text}"), format!("{path}{name}"), kind)?,
                Component::Beginning(text) if kind == FileType::Directory => {
                    self.flat = false;
                    match open_directory(directory, name) {
                        Ok(inside) => self.read(&inside, &format!("{path}{name}/"), &format!("{beginning}{text}"))?,
                        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                        Err(error) => return Err(error),
                    }
                }
                Component::Beginning(_) | Component::Own => return Err(unfit()),
            }
        }
        Ok(())
    }

    fn segment(&mut self, segment: String, path: String, kind: FileType) -> io::Result<()> {
        if segment != path {
            // Hand-made names could claim a key that lies elsewhere.
            let KeyPath { mut directories, name } = key_path(&format!("{}{segment}", self.base));
            directories.push(name);
            let outside = directory_path(self.base).len();
            if directories[outside..].join("/") != path {
                return Err(unfit(self.base, &path, "names that begin with `%~` are this store's own; rename it"));
            }
        }
        let path = (segment != path).then(|| path.into_boxed_str());
        if kind == FileType::Directory {
            self.entries.push(Entry { sort: format!("{segment}/").into(), path: path.clone(), kind: Kind::Directory });
            self.entries.push(Entry { sort: segment.into(), path, kind: Kind::Own });
        } else {
            self.entries.push(Entry { sort: segment.into(), path, kind: Kind::Object });
        }
        Ok(())
    }
}

fn unfit(base: &str, name: &str, why: &str) -> io::Error {
    io::Error::other(format!("{base}{name}: {why}"))
}
