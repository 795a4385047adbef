//! Walking directories in the byte order of whole paths.
//!
//! That is not the order of names: `a-b` and `a.b` come before `a/b`, because `-` and `.` come before `/`. So each directory
//! stands twice among its siblings, sorted together with them: as `a`, where its entry is made, and as `a/`, where it is entered.

use std::{
    collections::{HashMap, hash_map},
    ffi::OsStr,
    io,
    os::unix::ffi::OsStrExt,
    path::{Component, Path, PathBuf},
    sync::Arc,
    vec::IntoIter,
};

use rustix::{
    fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, fstat, openat, readlinkat, statat},
    io::Errno,
};
use serde_bytes::ByteBuf;

use super::{
    DIRECTORY, FILE, SYMLINK,
    filter::Filter,
    metadata::{absolute, kind, links, of_stat, xattrs_of_path},
    owners::Owners,
};
use crate::sources::{Entry, SourceError};

/// What the walk comes upon.
#[derive(Debug)]
pub(super) enum Step {
    /// A regular file, by its only or its first name.
    File { path: Vec<u8>, stat: Box<Stat> },
    /// Another name of a file that came before; `last` when no more are to be expected.
    HardLink { path: Vec<u8>, first: Vec<u8>, last: bool },
    /// Anything without bytes.
    Entry(Entry),
    /// A socket.
    Socket,
    /// Something that is kept without part of what it is.
    Partial { path: Vec<u8>, problem: String },
    /// Something that could not be looked at.
    Unreadable { path: Vec<u8>, error: io::Error },
}

/// Names of one directory (or the roots), those that end in `/` to be entered.
struct Level {
    prefix: Vec<u8>,
    names: IntoIter<Box<[u8]>>,
    device: Option<u64>,
}

/// The walk; an iterator, for a blocking thread.
pub(super) struct Walk {
    levels: Vec<Level>,
    filter: Filter,
    owners: Arc<Owners>,
    one_file_system: bool,
    /// First names of files with several, by device and inode, with the number of names still to come.
    several: HashMap<(u64, u64), (Vec<u8>, u64)>,
    waiting: Option<Step>,
}

impl Walk {
    /// A walk over `roots` (entry paths).
    pub(super) fn new(roots: Vec<Vec<u8>>, filter: Filter, owners: Arc<Owners>, one_file_system: bool) -> Self {
        let mut names = Vec::new();
        for root in roots {
            names.push([root.as_slice(), b"/"].concat().into_boxed_slice());
            if !root.is_empty() {
                names.push(root.into_boxed_slice());
            }
        }
        names.sort_unstable();
        let top = Level { prefix: Vec::new(), names: names.into_iter(), device: None };
        Self { levels: vec![top], filter, owners, one_file_system, several: HashMap::new(), waiting: None }
    }

    fn visit(&mut self, path: Vec<u8>) -> Step {
        let full = absolute(&path);
        let stat = match statat(CWD, full.as_slice(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(error) => return Step::Unreadable { path, error: error.into() },
        };
        match kind(&stat) {
            None => Step::Socket,
            Some(FILE) => self.file(path, stat),
            Some(kind) => self.other(path, &full, kind, &stat),
        }
    }

    fn file(&mut self, path: Vec<u8>, stat: Stat) -> Step {
        if links(&stat) > 1 {
            match self.several.entry((stat.st_dev, stat.st_ino)) {
                hash_map::Entry::Occupied(mut found) => {
                    let (first, more) = found.get_mut();
                    *more = more.saturating_sub(1);
                    let last = *more == 0;
                    let first = if last { found.remove().0 } else { first.clone() };
                    return Step::HardLink { path, first, last };
                }
                hash_map::Entry::Vacant(place) => {
                    place.insert((path.clone(), links(&stat) - 1));
                }
            }
        }
        Step::File { path, stat: Box::new(stat) }
    }

    fn other(&mut self, path: Vec<u8>, full: &[u8], kind: &'static str, stat: &Stat) -> Step {
        let mut attributes = of_stat(stat, &self.owners);
        if kind == SYMLINK {
            match readlinkat(CWD, full, Vec::new()) {
                Ok(link) => attributes.link = Some(ByteBuf::from(link.into_bytes())),
                Err(error) => return Step::Unreadable { path, error: error.into() },
            }
        }
        match xattrs_of_path(full) {
            Ok(xattrs) => attributes.xattrs = xattrs,
            Err(error) => {
                self.waiting = Some(Step::Partial {
                    path: path.clone(),
                    problem: format!(
                        "its extended attributes could not be read ({error}) and are not in this point; run the agent as root"
                    ),
                });
            }
        }
        let mut entry = Entry::new(path, kind);
        entry.modified = attributes.mtime.timestamp();
        match entry.set_attributes(&attributes) {
            Ok(()) => Step::Entry(entry),
            Err(error) => Step::Unreadable { path: entry.path, error: io::Error::other(error) },
        }
    }

    /// Reads a directory's names; `path` is its entry path.
    fn enter(&mut self, path: &[u8], device: Option<u64>) -> io::Result<Option<Level>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = match openat(CWD, absolute(path).as_slice(), flags, Mode::empty()) {
            Ok(directory) => directory,
            // Among the roots, files are tried as well.
            Err(Errno::NOTDIR | Errno::LOOP) if device.is_none() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let here = fstat(&directory)?.st_dev;
        if self.one_file_system && device.is_some_and(|device| device != here) {
            return Ok(None);
        }
        let prefix = if path.is_empty() { Vec::new() } else { [path, b"/"].concat() };
        let mut names: Vec<Box<[u8]>> = Vec::new();
        let mut full = prefix.clone();
        for child in Dir::read_from(&directory)? {
            let child = child?;
            let name = child.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let is_directory = match child.file_type() {
                FileType::Unknown => statat(&directory, child.file_name(), AtFlags::SYMLINK_NOFOLLOW)
                    .is_ok_and(|stat| kind(&stat) == Some(DIRECTORY)),
                known => known == FileType::Directory,
            };
            full.truncate(prefix.len());
            full.extend_from_slice(name);
            if !self.filter.takes(&full, is_directory) {
                continue;
            }
            if is_directory {
                names.push([name, b"/"].concat().into_boxed_slice());
            }
            names.push(name.into());
        }
        names.sort_unstable();
        Ok(Some(Level { prefix, names: names.into_iter(), device: Some(here) }))
    }
}

impl Iterator for Walk {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        if let Some(step) = self.waiting.take() {
            return Some(step);
        }
        loop {
            let level = self.levels.last_mut()?;
            let Some(name) = level.names.next() else {
                self.levels.pop();
                continue;
            };
            let path = [level.prefix.as_slice(), &name].concat();
            let Some(directory) = path.strip_suffix(b"/") else { return Some(self.visit(path)) };
            let device = level.device;
            match self.enter(directory, device) {
                Ok(Some(inside)) => self.levels.push(inside),
                Ok(None) => {}
                Err(error) => return Some(Step::Unreadable { path: directory.to_vec(), error }),
            }
        }
    }
}

/// The entry paths of what the policy names, sorted, without what lies within another.
pub(super) fn roots(paths: &[PathBuf]) -> Result<Vec<Vec<u8>>, SourceError> {
    let mut roots = Vec::new();
    for path in paths {
        let mut root: Vec<u8> = Vec::new();
        for component in path.components() {
            match component {
                Component::Normal(name) => {
                    if !root.is_empty() {
                        root.push(b'/');
                    }
                    root.extend_from_slice(name.as_bytes());
                }
                Component::RootDir | Component::CurDir => {}
                Component::ParentDir | Component::Prefix(_) => return Err(unfit(path, "must not contain `..`")),
            }
        }
        if !path.is_absolute() {
            return Err(unfit(path, "must be absolute"));
        }
        roots.push(root);
    }
    roots.sort_unstable();
    roots.dedup();
    let all = roots.clone();
    roots.retain(|root| !all.iter().any(|outer| within(root, outer)));
    Ok(roots)
}

/// Whether `root` lies below `outer`.
fn within(root: &[u8], outer: &[u8]) -> bool {
    if outer.is_empty() {
        return !root.is_empty();
    }
    root.strip_prefix(outer).is_some_and(|rest| rest.first() == Some(&b'/'))
}

fn unfit(path: &Path, why: &str) -> SourceError {
    SourceError::Unfit { subject: path.display().to_string(), detail: format!("a path {why}; write it out in the policy") }
}

/// Whether there is anything at an entry path, and whether it is a symbolic link.
pub(super) fn look(root: &[u8]) -> io::Result<bool> {
    let full = absolute(root);
    let stat = std::fs::symlink_metadata(OsStr::from_bytes(&full))?;
    Ok(stat.file_type().is_symlink())
}

#[cfg(test)]
mod tests {
    use super::{PathBuf, roots};

    #[test]
    fn what_lies_within_another_path_is_walked_once() {
        let paths = ["/srv/a/", "/srv/a/b", "/srv/a-b", "/srv/a"].map(PathBuf::from);
        assert_eq!(roots(&paths).unwrap(), [b"srv/a".to_vec(), b"srv/a-b".to_vec()]);
        assert_eq!(roots(&["/".into(), "/etc".into()]).unwrap(), [b"".to_vec()]);
    }

    #[test]
    fn relative_paths_and_dots_are_refused_by_name() {
        for path in ["etc/x", "/etc/../x"] {
            assert!(roots(&[path.into()]).unwrap_err().to_string().contains(path));
        }
    }
}
