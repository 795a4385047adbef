//! The server's files, read where they lie: for an agent that runs on the server's machine and may read its data directory.
//!
//! The same rules as over SQL (what is listed, in which order it is read, what a missing or a shorter file means), with less work: bytes
//! do not go through the server's memory and a connection.
//!
//! Promises: the directory is the running server's own, and not a copy at the same path, since the slot that was just made there under a
//! random name is found in it (an examination, which makes none, compares the server's process file). No symbolic link is followed but those that PostgreSQL itself makes (`pg_wal`, tablespaces), and only
//! regular files of the data directory's owner are read: whoever may write there gets no file of somebody else's into a backup. What is
//! anything else (a key that root owns, a configuration that is a link) the server is asked for.

use std::{fs::File, io, os::fd::OwnedFd, path::Path, sync::Arc};

use bytes::Bytes;
use rustix::{
    buffer::spare_capacity,
    fs::{AtFlags, CWD, FileType, Mode, OFlags, fstat, openat, statat},
    io::Errno,
};
use tokio::sync::mpsc;

use super::{
    CONTROL_FILE,
    read::{Row, Wanted},
    server::{Server, check_control},
};
use crate::sources::SourceError;

/// Bytes read at once.
const READ_BYTES: u64 = 1 << 20;
/// Reads that wait for whoever takes them.
const READ_AHEAD: usize = 2;
/// No `pg_control` is longer.
const CONTROL_BYTES: usize = 8192;
/// Which process a server is and since when, and more that no other has.
pub const PROCESS_FILE: &str = "postmaster.pid";

/// What shows that a data directory is the running server's, and not a copy or a standby's at the same path.
#[derive(Debug, Clone)]
pub enum KnownBy {
    /// The slot of this name, which the server has just made.
    Slot(String),
    /// What the server says to be in its [`PROCESS_FILE`]: for who makes no slot.
    Process(Vec<u8>),
}

/// The data directory of the server that is captured, open.
#[derive(Debug)]
pub struct Direct {
    root: OwnedFd,
    owner: u32,
    /// Where `pg_wal` and the tablespaces lie: a path in the data directory, and what lies there.
    elsewhere: Vec<(String, OwnedFd)>,
}

/// A row and its bytes, the end, or why there is none.
type Delivered = Result<Option<(Row, Bytes)>, SourceError>;

impl Direct {
    /// Opens the data directory of the server that is known by this.
    ///
    /// # Errors
    /// Why its files have to be read over SQL, for a report.
    pub async fn open(server: &Server, known_by: KnownBy) -> Result<Self, String> {
        let server = server.clone();
        let opened = tokio::task::spawn_blocking(move || Self::open_here(&server, &known_by));
        opened.await.unwrap_or_else(|error| Err(error.to_string()))
    }

    fn open_here(server: &Server, known_by: &KnownBy) -> Result<Self, String> {
        let shown = &server.data_directory;
        let unreadable = |error: Errno| format!("{shown} cannot be read here ({})", io::Error::from(error).kind());
        let root = directory(CWD, shown.as_str()).map_err(unreadable)?;
        let owner = fstat(&root).map_err(unreadable)?.st_uid;
        let mut direct = Self { root, owner, elsewhere: Vec::new() };
        let another = || format!("{shown} is not the server's on this machine");
        match known_by {
            KnownBy::Slot(slot) => match statat(&direct.root, format!("pg_replslot/{slot}/state"), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(_) => {}
                Err(Errno::NOENT) => return Err(another()),
                Err(error) => return Err(unreadable(error)),
            },
            KnownBy::Process(wanted) => match direct.start_of(PROCESS_FILE, wanted.len() + 1).map_err(unreadable)? {
                Some(found) if found == *wanted => {}
                _ => return Err(another()),
            },
        }
        let control = direct.start_of(CONTROL_FILE, CONTROL_BYTES).map_err(unreadable)?;
        let control = control.ok_or_else(|| format!("{shown}/{CONTROL_FILE} is missing"))?;
        if check_control(server, &control).is_none() {
            return Err(format!("{shown}/{CONTROL_FILE} was just being written, or is another cluster's"));
        }
        let tablespaces = server.tablespaces.iter().map(|(_, (oid, location))| (format!("pg_tblspc/{oid}"), location.clone()));
        let log = [("pg_wal".to_owned(), format!("{shown}/pg_wal"))];
        for (path, location) in log.into_iter().chain(tablespaces) {
            let there = directory(CWD, location.as_str()).map_err(|error| format!("{location}: {}", io::Error::from(error)))?;
            if fstat(&there).map_err(unreadable)?.st_uid != owner {
                return Err(format!("{location} is not of the owner of {shown}"));
            }
            direct.elsewhere.push((path, there));
        }
        Ok(direct)
    }

    /// The first bytes of a file; none if it is not there.
    fn start_of(&self, path: &str, bytes: usize) -> Result<Option<Vec<u8>>, Errno> {
        let Some(file) = self.file(path)? else { return Ok(None) };
        let read = fill(&file, 0, bytes as u64);
        read.map(Some).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
    }

    /// A file of the server's; none if it is not there.
    fn file(&self, path: &str) -> Result<Option<File>, Errno> {
        match self.open_file(path) {
            Ok(file) => Ok(Some(file)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn open_file(&self, path: &str) -> Result<File, Errno> {
        let (start, rest) = self
            .elsewhere
            .iter()
            .find_map(|(prefix, there)| Some((there, path.strip_prefix(prefix.as_str())?.strip_prefix('/')?)))
            .unwrap_or((&self.root, path));
        let (above, name) = rest.rsplit_once('/').unwrap_or(("", rest));
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let mut here: Option<OwnedFd> = None;
        for part in above.split('/').filter(|part| !part.is_empty()) {
            if part == ".." {
                return Err(Errno::LOOP);
            }
            here = Some(openat(here.as_ref().unwrap_or(start), part, flags | OFlags::DIRECTORY, Mode::empty())?);
        }
        let file = openat(here.as_ref().unwrap_or(start), name, flags, Mode::empty())?;
        let stat = fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || stat.st_uid != self.owner {
            return Err(Errno::PERM);
        }
        Ok(File::from(file))
    }

    /// Reads these ranges, in their order, on a thread of its own; nothing if one of the files is not for us to read, but for the server.
    pub async fn read(self: &Arc<Self>, wanted: &[Wanted]) -> Option<Delivery> {
        let (direct, wanted) = (Arc::clone(self), wanted.to_vec());
        // Looked at first, and opened one after the other: descriptors are scarce where there are many readers.
        let looked = tokio::task::spawn_blocking(move || {
            let is_ours = |one: &Wanted| direct.file(&one.path).is_ok();
            wanted.chunk_by(|one, next| one.path == next.path).all(|ranges| is_ours(&ranges[0])).then_some((direct, wanted))
        });
        let (direct, wanted) = looked.await.ok().flatten()?;
        let (sender, receiver) = mpsc::channel(READ_AHEAD);
        tokio::task::spawn_blocking(move || {
            let end = direct.deliver(&wanted, &sender).map(|()| None);
            // Nobody may listen any more.
            let _ = sender.blocking_send(end);
        });
        Some(Delivery(receiver))
    }

    /// Until all is read, or nobody listens any more.
    fn deliver(&self, wanted: &[Wanted], sender: &mpsc::Sender<Delivered>) -> Result<(), SourceError> {
        let mut open: Option<(&str, Option<File>)> = None;
        for (number, one) in wanted.iter().enumerate() {
            if open.as_ref().is_none_or(|(path, _)| *path != one.path) {
                let file = self.file(&one.path).map_err(|error| SourceError::io(&one.path)(error.into()))?;
                open = Some((&one.path, file));
            }
            let file = open.as_ref().and_then(|(_, file)| file.as_ref());
            let end = one.offset.saturating_add(one.bytes);
            let mut at = one.offset;
            loop {
                let length = READ_BYTES.min(end - at);
                let bytes =
                    file.map_or_else(|| Ok(Vec::new()), |file| fill(file, at, length)).map_err(SourceError::io(&one.path))?;
                let read = bytes.len() as u64;
                let row = Row { wanted: number, offset: at, is_there: file.is_some() };
                if sender.blocking_send(Ok(Some((row, bytes.into())))).is_err() {
                    return Ok(());
                }
                at += read;
                if read < length || at >= end {
                    break;
                }
            }
        }
        Ok(())
    }
}

/// Ranges as they are read.
pub struct Delivery(mpsc::Receiver<Delivered>);

impl Delivery {
    /// The next row with its bytes; none at the end.
    ///
    /// # Errors
    /// The file system's, and where the thread that reads died: what came so far is not all.
    pub async fn next(&mut self) -> Result<Option<(Row, Bytes)>, SourceError> {
        self.0.recv().await.unwrap_or_else(|| {
            Err(SourceError::io("the data directory")(io::Error::other("a defect: whoever reads it gave up; the log says why")))
        })
    }
}

/// Opens a directory; only its own path may lead through symbolic links.
fn directory(below: impl std::os::fd::AsFd, path: impl AsRef<Path>) -> Result<OwnedFd, Errno> {
    openat(below, path.as_ref(), OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// So many bytes from there on, or as many as there are.
fn fill(file: &File, at: u64, length: u64) -> io::Result<Vec<u8>> {
    let length = usize::try_from(length).map_err(io::Error::other)?;
    let mut bytes = Vec::with_capacity(length);
    while bytes.len() < length {
        let from = at + bytes.len() as u64;
        match rustix::io::pread(file, spare_capacity(&mut bytes), from) {
            Ok(0) => break,
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    // The allocator may have given more room than was asked for.
    bytes.truncate(length);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink, path::Path, sync::Arc};

    use super::{Direct, KnownBy, READ_BYTES, Server, Wanted, directory};
    use crate::sources::postgres::physical::wal::Layout;

    fn server(data_directory: &Path) -> Server {
        Server {
            version: 180_000,
            layout: Layout { segment_bytes: 16 << 20, system: 1 },
            page_bytes: 8192,
            checksums: true,
            version_directory: "PG_18_1".to_owned(),
            data_directory: data_directory.display().to_string(),
            mode: 0o700,
            tablespaces: Vec::new(),
            direct: None,
        }
    }

    #[tokio::test]
    async fn a_directory_that_is_not_the_servers_is_not_read() {
        let (data, slot) = (tempfile::tempdir().unwrap(), || KnownBy::Slot("farshore_1".to_owned()));
        let process = || KnownBy::Process(b"4711\n/data\n".to_vec());
        for known_by in [slot(), process()] {
            let why = Direct::open(&server(&data.path().join("none")), known_by).await.unwrap_err();
            assert!(why.contains("cannot be read here"), "{why}");
        }
        fs::write(data.path().join("postmaster.pid"), b"4712\n/data\n").unwrap();
        for known_by in [slot(), process()] {
            let why = Direct::open(&server(data.path()), known_by).await.unwrap_err();
            assert!(why.contains("is not the server's on this machine"), "{why}");
        }
        fs::write(data.path().join("postmaster.pid"), b"4711\n/data\n").unwrap();
        fs::create_dir_all(data.path().join("pg_replslot/farshore_1")).unwrap();
        fs::write(data.path().join("pg_replslot/farshore_1/state"), b"").unwrap();
        fs::create_dir(data.path().join("global")).unwrap();
        fs::write(data.path().join("global/pg_control"), [1; 8192]).unwrap();
        for known_by in [slot(), process()] {
            let why = Direct::open(&server(data.path()), known_by).await.unwrap_err();
            assert!(why.contains("another cluster's"), "{why}");
        }
    }

    /// A data directory beside a secret of somebody else's, and with a tablespace.
    fn laid() -> (tempfile::TempDir, Arc<Direct>) {
        let place = tempfile::tempdir().unwrap();
        let below = |name: &str| place.path().join(name);
        for name in ["data/base/5", "data/pg_tblspc", "space/PG_18_1/5", "other"] {
            fs::create_dir_all(below(name)).unwrap();
        }
        fs::write(below("other/secret"), b"secret").unwrap();
        fs::write(below("data/base/5/1"), b"one").unwrap();
        fs::write(below("space/PG_18_1/5/2"), b"two").unwrap();
        symlink(below("space"), below("data/pg_tblspc/16384")).unwrap();
        symlink(below("other/secret"), below("data/base/5/link")).unwrap();
        symlink(below("other"), below("data/base/6")).unwrap();
        let root = directory(super::CWD, below("data")).unwrap();
        let owner = super::fstat(&root).unwrap().st_uid;
        let elsewhere = vec![("pg_tblspc/16384".to_owned(), directory(super::CWD, below("space")).unwrap())];
        (place, Arc::new(Direct { root, owner, elsewhere }))
    }

    #[test]
    fn no_link_leads_out_of_the_data_directory() {
        let (_place, direct) = laid();
        for path in ["base/5/link", "base/6/secret", "base/../../other/secret", "base/5", "pg_tblspc/16384/../other/secret"] {
            assert!(direct.file(path).is_err(), "{path}");
        }
        for path in ["base/5/1", "pg_tblspc/16384/PG_18_1/5/2"] {
            assert!(direct.file(path).unwrap().is_some(), "{path}");
        }
        for path in ["base/5/3", "base/7/1", "pg_tblspc/16384/PG_18_1/6/2"] {
            assert!(direct.file(path).unwrap().is_none(), "{path}");
        }
        let others = Direct { owner: direct.owner + 1, root: direct.root.try_clone().unwrap(), elsewhere: Vec::new() };
        assert!(others.file("base/5/1").is_err(), "a file of somebody else's");
    }

    #[tokio::test]
    async fn ranges_come_in_order_and_end_with_their_file() {
        let (place, direct) = laid();
        let bytes: Vec<u8> = (0..3 * READ_BYTES / 2).map(|at| (at % 251) as u8).collect();
        fs::write(place.path().join("data/base/5/4"), &bytes).unwrap();
        let wanted = |path: &str, offset, bytes| Wanted { path: path.to_owned(), offset, bytes };
        let all = [
            wanted("base/5/1", 0, 100),
            wanted("base/5/3", 0, 8),
            wanted("base/5/4", 8192, 8192),
            wanted("base/5/4", 16_384, 9 << 20),
        ];
        let mut rows = direct.read(&all).await.unwrap();
        let mut came = Vec::new();
        while let Some((row, bytes)) = rows.next().await.unwrap() {
            came.push((row.wanted, row.offset, row.is_there, bytes));
        }
        assert_eq!((came[0].0, came[0].2, came[0].3.as_ref()), (0, true, b"one".as_slice()));
        assert_eq!((came[1].0, came[1].2, came[1].3.len()), (1, false, 0));
        assert_eq!((came[2].0, came[2].1, came[2].3.as_ref()), (2, 8192, &bytes[8192..16_384]));
        let rest: Vec<u8> = came[3..].iter().flat_map(|row| row.3.to_vec()).collect();
        assert!(came[3..].iter().all(|row| row.0 == 3 && row.2) && rest == bytes[16_384..]);
        assert!(direct.read(&[wanted("base/5/1", 0, 1), wanted("base/5/link", 0, 1)]).await.is_none(), "the server reads these");
    }

    #[tokio::test]
    async fn a_reader_that_died_is_no_end() {
        let (sender, receiver) = super::mpsc::channel(1);
        drop(sender);
        assert!(super::Delivery(receiver).next().await.is_err());
    }
}
