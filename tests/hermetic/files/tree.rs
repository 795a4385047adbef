//! Trees to capture, and how two of them are compared.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs::{self, FileTimes},
    os::unix::{
        ffi::OsStrExt,
        fs::{FileTypeExt, MetadataExt},
    },
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use farshore::sources::files::{FilesOptions, FilesSource};

/// Everything of a tree that a restore must bring back, by path.
pub type Picture = BTreeMap<OsString, String>;

/// Looks at all that lies below `top`.
pub fn picture(top: &Path) -> Picture {
    let mut picture = Picture::new();
    let mut names: BTreeMap<u64, OsString> = BTreeMap::new();
    let mut open = vec![top.to_owned()];
    while let Some(directory) = open.pop() {
        let mut children: Vec<PathBuf> = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
        children.sort();
        for path in children {
            let found = fs::symlink_metadata(&path).unwrap();
            let kind = found.file_type();
            let name = path.strip_prefix(top).unwrap().as_os_str().to_owned();
            let mut line =
                format!("{:o} {}.{:09} {}:{}", found.mode(), found.mtime(), found.mtime_nsec(), found.uid(), found.gid());
            if kind.is_symlink() {
                line += &format!(" -> {:?}", fs::read_link(&path).unwrap());
            } else if kind.is_file() {
                let bytes = fs::read(&path).unwrap();
                line += &format!(" {} bytes {}", bytes.len(), blake3::hash(&bytes));
                if found.nlink() > 1 {
                    line += &format!(" = {:?}", names.entry(found.ino()).or_insert_with(|| name.clone()));
                }
            } else if kind.is_dir() {
                open.push(path.clone());
            } else {
                line += if kind.is_fifo() { " fifo" } else { " device" };
                line += &format!(" {}", found.rdev());
            }
            for key in xattr::list(&path).unwrap() {
                line += &format!(" {key:?}={:?}", xattr::get(&path, &key).unwrap());
            }
            picture.insert(name, line);
        }
    }
    picture
}

/// A source of all below `top`.
pub fn source(top: &Path) -> FilesSource {
    FilesSource::new(FilesOptions { paths: vec![top.to_owned()], ..FilesOptions::default() })
}

/// Where `top` lies below a restore's target.
pub fn restored(target: &Path, top: &Path) -> PathBuf {
    target.join(top.strip_prefix("/").unwrap())
}

/// Sets a file's time of modification to so many nanoseconds after 2001-09-09.
pub fn set_mtime(path: &Path, nanoseconds: u64) {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000) + Duration::from_nanos(nanoseconds);
    fs::File::open(path).unwrap().set_times(FileTimes::new().set_modified(time)).unwrap();
}

/// A path of raw bytes below `top`.
pub fn raw(top: &Path, name: &[u8]) -> PathBuf {
    top.join(OsStr::from_bytes(name))
}
