//! The spool: where files of the log wait, on a disk of the server's machine, until every site has them.
//!
//! ```text
//! <system>/<file>          whole: it got this name after its bytes were on the disk
//! <system>/.<…>.incoming   on its way in
//! lock                     held by the process that empties the spool
//! status.json              what that process has to say
//! ```
//!
//! The files are as the server wrote them, not sealed, with the time at which it wrote the last of each: the directory is for the server's
//! user alone, as `pg_wal` is.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{ErrorKind, Read},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use chrono::{DateTime, Utc};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::{io, refused};
use crate::{operations::OperationError, repository::LogName, sources::files::writeback, stores::direct::write_cached};

/// What did not get its name after so long was left behind by a process that died.
const ABANDONED_AFTER: Duration = Duration::from_secs(3600);
const INCOMING: &str = ".incoming";
const LOCK: &str = "lock";
const STATUS: &str = "status.json";

/// The disk begins with a file's bytes as soon as so many are there: a segment then takes as long as the disk, and not longer.
const PIECE_BYTES: usize = 2 << 20;

/// A directory in which files wait.
#[derive(Debug, Clone)]
pub struct Spool {
    directory: PathBuf,
    limit_bytes: u64,
}

/// A file that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Waiting {
    pub(super) name: LogName,
    pub(super) bytes: u64,
    /// Since when.
    pub(super) since: DateTime<Utc>,
    /// Whether it is not in the spool, but where the server has it.
    pub(super) at_server: bool,
}

/// What became of a file that was to be added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Added {
    New,
    /// It waits there already.
    There,
    /// Another file of this name waits there.
    Other,
}

/// Held by the process that empties a spool; others see that it lives.
#[derive(Debug)]
pub(super) struct Held(File);

/// What keeps a site from having what waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadError {
    /// In words.
    pub message: String,
    /// Since when it has been so.
    pub since: DateTime<Utc>,
    /// The cluster and timeline of which another file of the same name is stored; nothing for other errors.
    pub conflict: Option<(u64, u32)>,
}

/// What the process that empties a spool says of a site.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiteState {
    /// Files that it has confirmed since this process began.
    pub confirmed: u64,
    /// When it confirmed the last.
    pub confirmed_at: Option<DateTime<Utc>>,
    /// What is wrong now.
    pub error: Option<UploadError>,
}

/// What the process that empties a spool says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadState {
    /// By name of the site.
    pub sites: BTreeMap<String, SiteState>,
    /// What keeps it from going to any site, for instance a policy that cannot be read.
    pub error: Option<UploadError>,
}

impl UploadState {
    /// Everything that is wrong, a line each.
    pub fn errors(&self) -> Vec<String> {
        let own = self.error.iter().map(|error| error.message.clone());
        let of_sites =
            self.sites.iter().filter_map(|(site, state)| Some(format!("site {site}: {}", state.error.as_ref()?.message)));
        own.chain(of_sites).collect()
    }
}

impl Spool {
    /// In this directory, which may have to be made; so many bytes may wait there.
    pub fn new(directory: PathBuf, limit_bytes: u64) -> Self {
        Self { directory, limit_bytes }
    }

    /// Where it is.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// How many bytes may wait.
    pub fn limit_bytes(&self) -> u64 {
        self.limit_bytes
    }

    fn place(&self) -> String {
        self.directory.display().to_string()
    }

    /// Makes the directory, where it is missing.
    ///
    /// # Errors
    /// [`OperationError::Refused`], saying how an operator makes it.
    pub fn prepare(&self) -> Result<(), OperationError> {
        let place = self.place();
        make(&self.directory).map_err(|error| {
            refused(
                &place,
                format!("the spool cannot be made: {error}; make it for the server's user: install -d -m 0700 -o postgres -g postgres {place}"),
            )
        })
    }

    fn path(&self, name: &LogName) -> PathBuf {
        self.directory.join(name.system().to_string()).join(name.file())
    }

    /// Everything that waits, in the order in which it is to be stored.
    pub(super) fn waiting(&self) -> Result<Vec<Waiting>, OperationError> {
        let mut waiting = Vec::new();
        for folder in self.entries(&self.directory)? {
            let system = folder.file_name().to_str().and_then(|name| name.parse::<u64>().ok());
            let Some(system) = system else { continue };
            for entry in self.entries(&folder.path())? {
                let name = entry.file_name().to_str().and_then(|file| LogName::new(system, file));
                let Some(name) = name else { continue };
                match entry.metadata() {
                    Ok(data) => waiting.push(Waiting { name, bytes: data.len(), since: since(&data), at_server: false }),
                    // Every site has it by now.
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    Err(error) => return Err(io(entry.path().display().to_string())(error)),
                }
            }
        }
        waiting.sort_by(|left, right| left.name.cmp(&right.name));
        Ok(waiting)
    }

    fn entries(&self, directory: &Path) -> Result<Vec<fs::DirEntry>, OperationError> {
        let place = directory.display().to_string();
        match fs::read_dir(directory) {
            Ok(entries) => entries.collect::<Result<_, _>>().map_err(io(place)),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(Vec::new()),
            Err(error) => Err(io(place)(error)),
        }
    }

    /// Whether so many bytes more may wait. An empty spool takes any file.
    pub(super) fn has_room(&self, bytes: u64) -> Result<bool, OperationError> {
        let used: u64 = self.waiting()?.iter().map(|waiting| waiting.bytes).sum();
        Ok(used == 0 || used + bytes <= self.limit_bytes)
    }

    /// Adds a file, which the server wrote to last at `written_at`. When this returns [`Added::New`] or [`Added::There`], it is on the disk under its name.
    pub(super) fn add(&self, name: &LogName, bytes: &[u8], written_at: SystemTime) -> Result<Added, OperationError> {
        let path = self.path(name);
        let folder = self.directory.join(name.system().to_string());
        let place = path.display().to_string();
        if !folder.exists() {
            make(&folder).map_err(io(&place))?;
        }
        let incoming = folder.join(format!(".{}.{:016x}{INCOMING}", name.file(), rand::random::<u64>()));
        loop {
            let there = File::open(&path).and_then(|file| {
                file.sync_all()?;
                fs::read(&path)
            });
            match there {
                Ok(there) => {
                    // Whoever put it there may have died before the name was on the disk.
                    sync(&folder)?;
                    return Ok(if there == bytes { Added::There } else { Added::Other });
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(io(place)(error)),
            }
            let written = write_new(&incoming, bytes, Some(written_at)).and_then(|()| fs::hard_link(&incoming, &path));
            let _ = fs::remove_file(&incoming);
            match written {
                Ok(()) => {
                    sync(&folder)?;
                    return Ok(Added::New);
                }
                // Another push was faster.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(io(place)(error)),
            }
        }
    }

    /// Whether a file waits.
    pub(super) fn holds(&self, name: &LogName) -> bool {
        self.path(name).exists()
    }

    /// Reads a file that waits into an empty buffer; says when the server wrote the last of its bytes, and nothing if it does not wait.
    pub(super) fn read(&self, name: &LogName, bytes: &mut Vec<u8>) -> Result<Option<SystemTime>, OperationError> {
        let path = self.path(name);
        let mut read = || -> std::io::Result<_> {
            let mut file = File::open(&path)?;
            file.read_to_end(bytes)?;
            file.metadata()?.modified()
        };
        match read() {
            Ok(written_at) => Ok(Some(written_at)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io(path.display().to_string())(error)),
        }
    }

    /// Takes a file out, which every site has.
    pub(super) fn remove(&self, name: &LogName) -> Result<(), OperationError> {
        let path = self.path(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(io(path.display().to_string())(error)),
            // What comes back after a crash is pushed once more, and found to be there.
            _ => Ok(()),
        }
    }

    /// Takes away what processes that died left behind.
    pub(super) fn clean(&self, now: DateTime<Utc>) -> Result<(), OperationError> {
        for folder in self.entries(&self.directory)? {
            for entry in self.entries(&folder.path())? {
                let is_old = || (now - since(&entry.metadata().ok()?)).to_std().ok().map(|age| age > ABANDONED_AFTER);
                if entry.file_name().to_string_lossy().ends_with(INCOMING) && is_old() == Some(true) {
                    let _ = fs::remove_file(entry.path());
                }
            }
        }
        Ok(())
    }

    /// Becomes the process that empties the spool; nothing while another one is.
    pub(super) fn hold(&self) -> Result<Option<Held>, OperationError> {
        self.flock(FlockOperation::NonBlockingLockExclusive)
    }

    /// Whether the spool is still the one that is held: somebody may have taken it away, and another have made it anew.
    pub(super) fn is_still(&self, held: &Held) -> bool {
        let (there, ours) = (fs::metadata(self.directory.join(LOCK)), held.0.metadata());
        matches!((there, ours), (Ok(there), Ok(ours)) if (there.dev(), there.ino()) == (ours.dev(), ours.ino()))
    }

    /// Whether a process empties the spool.
    pub(super) fn is_held(&self) -> Result<bool, OperationError> {
        Ok(self.flock(FlockOperation::NonBlockingLockShared)?.is_none())
    }

    fn flock(&self, operation: FlockOperation) -> Result<Option<Held>, OperationError> {
        let path = self.directory.join(LOCK);
        let place = path.display().to_string();
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(io(&place))?;
        match flock(&file, operation) {
            Ok(()) => Ok(Some(Held(file))),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(io(place)(error.into())),
        }
    }

    /// What the process that empties the spool said last; nothing where there was none, or nobody can read it.
    pub fn state(&self) -> UploadState {
        let read = fs::read(self.directory.join(STATUS)).ok();
        read.and_then(|json| serde_json::from_slice(&json).ok()).unwrap_or_default()
    }

    /// Keeps what the process that empties the spool says.
    ///
    /// # Errors
    /// [`OperationError::Io`].
    pub fn keep_state(&self, state: &UploadState) -> Result<(), OperationError> {
        let (path, new) = (self.directory.join(STATUS), self.directory.join(".status.new"));
        let json = serde_json::to_vec_pretty(state).expect("strings, numbers and times always serialise");
        let _ = fs::remove_file(&new);
        write_new(&new, &json, None).and_then(|()| fs::rename(&new, &path)).map_err(io(path.display().to_string()))
    }
}

/// Since when a file has its name here, or waits for it. What it says of when it was written is the server's.
fn since(file: &fs::Metadata) -> DateTime<Utc> {
    DateTime::from_timestamp(file.ctime(), u32::try_from(file.ctime_nsec()).unwrap_or(0)).unwrap_or(DateTime::UNIX_EPOCH)
}

/// Writes a new file, which is on the disk when this returns, as of a time.
fn write_new(path: &Path, bytes: &[u8], written_at: Option<SystemTime>) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    for piece in bytes.chunks(PIECE_BYTES) {
        write_cached(&mut file, piece)?;
        if piece.len() == PIECE_BYTES {
            writeback::begin(&file);
        }
    }
    if let Some(written_at) = written_at {
        file.set_modified(written_at)?;
    }
    file.sync_all()
}

/// Makes a directory, and those above it that are missing. When this returns, the names of all that it made are on the disk.
fn make(directory: &Path) -> std::io::Result<()> {
    let holding = holding_missing(directory);
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    holding.into_iter().try_for_each(|directory| File::open(directory)?.sync_all())
}

/// The directories that get a new name when this one is made, innermost first.
fn holding_missing(directory: &Path) -> Vec<&Path> {
    let missing = directory.ancestors().take_while(|path| !path.as_os_str().is_empty() && !path.exists());
    missing.filter_map(Path::parent).map(|above| if above.as_os_str().is_empty() { Path::new(".") } else { above }).collect()
}

/// Puts the names of a directory on the disk.
fn sync(directory: &Path) -> Result<(), OperationError> {
    File::open(directory).and_then(|file| file.sync_all()).map_err(io(directory.display().to_string()))
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt, path::Path};

    use super::{Added, Duration, LogName, Spool, SystemTime, holding_missing};
    use crate::clock::SystemClock;

    fn name(file: &str) -> LogName {
        LogName::new(7, file).unwrap()
    }

    fn written() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)
    }

    #[test]
    fn what_waits_is_in_the_order_of_the_log_and_nothing_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let spool = Spool::new(directory.path().join("spool"), 10);
        spool.prepare().unwrap();
        let names =
            ["000000020000000000000003", "00000002.history", "000000010000000000000003", "000000010000000000000002"].map(name);
        for name in &names {
            assert_eq!(spool.add(name, b"one", written()).unwrap(), Added::New);
        }
        let order: Vec<LogName> = spool.waiting().unwrap().into_iter().map(|waiting| waiting.name).collect();
        assert_eq!(order, names.iter().rev().cloned().collect::<Vec<_>>());
        assert_eq!(spool.add(&names[0], b"one", written()).unwrap(), Added::There);
        assert_eq!(spool.add(&names[0], b"two", written()).unwrap(), Added::Other);
        let mut bytes = Vec::new();
        assert_eq!(spool.read(&names[0], &mut bytes).unwrap(), Some(written()), "as of the time at which the server wrote it");
        assert_eq!(bytes, b"one");
        let waits = SystemClock::shared().now() - spool.waiting().unwrap()[0].since;
        assert!(waits < chrono::TimeDelta::minutes(10), "and it waits since it came: {waits}");
        assert!(!spool.has_room(1).unwrap());
        for name in &names {
            spool.remove(name).unwrap();
            assert_eq!((spool.read(name, &mut bytes).unwrap(), spool.holds(name)), (None, false));
        }
        assert!(spool.has_room(1000).unwrap(), "an empty spool takes any file");
    }

    #[test]
    fn every_directory_that_is_made_for_a_spool_is_kept_by_the_one_that_holds_it_and_is_for_its_user_alone() {
        let place = tempfile::tempdir().unwrap();
        let (base, spool) = (place.path(), Spool::new(place.path().join("a/b/spool"), 10));
        assert_eq!(holding_missing(spool.directory()), [&base.join("a/b"), &base.join("a"), base]);
        spool.prepare().unwrap();
        assert_eq!(holding_missing(spool.directory()), [] as [&Path; 0]);
        for made in ["a", "a/b", "a/b/spool"] {
            assert_eq!(std::fs::metadata(base.join(made)).unwrap().permissions().mode() & 0o777, 0o700, "{made}");
        }
        let folder = spool.directory().join("7");
        assert_eq!(holding_missing(&folder), [spool.directory()]);
        spool.add(&name("000000010000000000000002"), b"one", written()).unwrap();
        assert!(folder.is_dir());
        assert_eq!(holding_missing(Path::new("not-there/spool")), [Path::new("not-there"), Path::new(".")]);
    }

    #[test]
    fn one_process_empties_a_spool_and_others_see_it() {
        let directory = tempfile::tempdir().unwrap();
        let spool = Spool::new(directory.path().to_owned(), 10);
        assert!(!spool.is_held().unwrap());
        let held = spool.hold().unwrap().unwrap();
        assert!(spool.is_held().unwrap() && spool.hold().unwrap().is_none());
        drop(held);
        assert!(!spool.is_held().unwrap());
    }

    #[test]
    fn a_spool_that_was_made_anew_is_not_the_one_that_is_held() {
        let directory = tempfile::tempdir().unwrap();
        let spool = Spool::new(directory.path().join("spool"), 10);
        spool.prepare().unwrap();
        let held = spool.hold().unwrap().unwrap();
        assert!(spool.is_still(&held));
        std::fs::remove_dir_all(spool.directory()).unwrap();
        assert!(!spool.is_still(&held));
        spool.prepare().unwrap();
        let other = spool.hold().unwrap().unwrap();
        assert!(spool.is_still(&other) && !spool.is_still(&held));
    }
}
