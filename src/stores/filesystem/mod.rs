//! A store over a directory: `path.rs` says which file a key is, `directory.rs` how it is reached and put in its place,
//! `listing.rs` how keys come out in order, `attributes.rs` and `upload.rs` what lies in the reserved directory `.farshore`.
//!
//! Promises beside those of the room:
//! * Order of a put: temporary file, write, fsync, attributes, rename (without replacing, for if-absent), fsync of the directory.
//!   A crash leaves at worst a temporary file, which a later process removes. Directories made on the way are made durable too.
//! * A plain directory of files is a bucket as it stands, and reading it changes nothing in it.
//! * No symbolic link below the root is ever followed; links, pipes, sockets and devices are no objects. A file whose name is not
//!   UTF-8 cannot be a key: a listing that meets one fails and names it.
//!
//! Assumes one file system under the root (a rename does not cross mounts), and that nobody else writes into an object in place.
//!
//! Leaves out on purpose: removing directories that became empty (a put into them may be under way), and keeping checksums (bit
//! rot is found by whoever knows what the bytes should be).

mod attributes;
mod directory;
mod error;
mod listing;
mod path;
mod temporary;
mod upload;

use std::{
    fmt,
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::{StreamExt, stream};
use rustix::fs::Stat;
use tokio::task::{JoinHandle, spawn_blocking};

use super::{
    Download, GetOptions, ObjectAttributes, ObjectStat, Page, PutOptions, Store, StoreError, UploadedPart,
    bounds::{check_body, check_key, object_place, resolve_range},
    direct, no_locks, no_versions,
};
use crate::clock::{SharedClock, SystemClock};
use directory::{Missing, descend, install, open_object, open_root, remove, stat_object};
use path::{KeyPath, key_path};
use temporary::{Temporaries, Temporary};

/// Bytes that one piece of a body has at most: large enough that switching threads costs nothing, small against the memory limit.
const PIECE_BYTES: u64 = 1 << 20;

/// A store over a directory.
pub struct FilesystemStore(Arc<Inner>);

/// What the blocking threads share.
struct Inner {
    root: PathBuf,
    place: String,
    clock: SharedClock,
    temporaries: Temporaries,
    sorted: listing::Sorted,
}

impl FilesystemStore {
    /// The store at `root`, which is looked at only when it is used; [`Store::create`] makes it.
    pub fn new(root: PathBuf) -> Arc<Self> {
        let inner = Inner {
            place: root.display().to_string(),
            temporaries: Temporaries::new(&root),
            clock: SystemClock::shared(),
            sorted: listing::Sorted::default(),
            root,
        };
        Arc::new(Self(Arc::new(inner)))
    }

    /// Runs `work` on a blocking thread, and says what an error of it means.
    async fn blocking<T: Send + 'static>(
        &self,
        key: &str,
        action: &'static str,
        work: impl FnOnce(&Inner) -> io::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let inner = self.0.clone();
        let done = joined(spawn_blocking(move || work(&inner))).await;
        done.map_err(|error| self.0.error(key, action, &error))
    }
}

/// Waits for a blocking thread.
async fn joined<T>(handle: JoinHandle<io::Result<T>>) -> io::Result<T> {
    handle.await.unwrap_or_else(|error| Err(io::Error::other(format!("the thread that did it ended: {error}"))))
}

impl fmt::Debug for FilesystemStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "FilesystemStore({})", self.0.place)
    }
}

impl Inner {
    fn error(&self, key: &str, action: &'static str, error: &io::Error) -> StoreError {
        if error.kind() == io::ErrorKind::NotFound && !self.root.is_dir() {
            return StoreError::NoSuchPlace { place: self.place.clone() };
        }
        error::store_error(object_place(&self.place, key), action, error)
    }

    fn put(&self, key: &str, body: &[u8], attributes: &ObjectAttributes, if_absent: bool) -> io::Result<Stat> {
        // Refusing early saves the writing; what decides is the rename.
        if if_absent && self.stat(key).is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let (file, temporary) = self.temporaries.file()?;
        direct::write_file(&file, body)?;
        self.install(key, &file, temporary, attributes, if_absent)
    }

    /// Makes a written temporary file the object.
    fn install(
        &self,
        key: &str,
        file: &File,
        mut temporary: Temporary,
        attributes: &ObjectAttributes,
        if_absent: bool,
    ) -> io::Result<Stat> {
        file.sync_all()?;
        let stat = rustix::fs::fstat(file)?;
        let KeyPath { directories, name } = key_path(key);
        let parent = descend(open_root(&self.root)?, &directories, Missing::Make(&self.temporaries))?;
        let earlier = if if_absent { None } else { stat_object(&parent, &name).ok() };
        attributes::write(&self.root, &self.temporaries, key, &stat, attributes)?;
        if let Err(error) = install((temporary.parent(), temporary.name()), &parent, &name, if_absent) {
            attributes::forget(&self.root, key, &stat);
            return Err(error);
        }
        temporary.keep();
        if let Some(earlier) = earlier {
            attributes::forget(&self.root, key, &earlier);
        }
        Ok(stat)
    }

    fn open(&self, key: &str) -> io::Result<(File, Stat)> {
        let KeyPath { directories, name } = key_path(key);
        open_object(&descend(open_root(&self.root)?, &directories, Missing::Stop)?, &name)
    }

    fn stat(&self, key: &str) -> io::Result<Stat> {
        let KeyPath { directories, name } = key_path(key);
        stat_object(&descend(open_root(&self.root)?, &directories, Missing::Stop)?, &name)
    }

    fn delete(&self, key: &str) -> io::Result<()> {
        let KeyPath { directories, name } = key_path(key);
        let root = open_root(&self.root)?;
        let parent = match descend(root, &directories, Missing::Stop) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            parent => parent?,
        };
        let stat = match stat_object(&parent, &name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            stat => stat?,
        };
        remove(&parent, &name)?;
        attributes::forget(&self.root, key, &stat);
        Ok(())
    }
}

/// Nanoseconds since the epoch of the last modification.
fn modified_ns(stat: &Stat) -> i64 {
    // Saturates in the year 2262.
    stat.st_mtime.saturating_mul(1_000_000_000).saturating_add(i64::try_from(stat.st_mtime_nsec).unwrap_or(0))
}

/// A file's size; the system never says a negative one.
fn size(stat: &Stat) -> u64 {
    stat.st_size.cast_unsigned()
}

fn object_stat(key: String, stat: &Stat) -> ObjectStat {
    ObjectStat {
        key,
        size: size(stat),
        modified: DateTime::from_timestamp_nanos(modified_ns(stat)),
        etag: format!("{:x}-{:x}-{:x}", size(stat), modified_ns(stat), stat.st_ino),
        version: None,
        sha256: None,
        storage_class: None,
    }
}

/// An object's bytes still to be read, one piece ahead of whoever takes them.
struct Reading {
    file: Arc<File>,
    place: String,
    ahead: JoinHandle<io::Result<Bytes>>,
    next: u64,
    end: u64,
}

impl Reading {
    fn start(file: Arc<File>, place: String, start: u64, end: u64) -> Self {
        let until = end.min(start + PIECE_BYTES);
        Self { ahead: read_soon(file.clone(), start, until), file, place, next: until, end }
    }

    /// The next piece and what is left after it.
    async fn piece(self) -> (Result<Bytes, StoreError>, Option<Self>) {
        let Self { file, place, ahead, next, end } = self;
        match joined(ahead).await {
            Ok(bytes) if next < end => (Ok(bytes), Some(Self::start(file, place, next, end))),
            Ok(bytes) => (Ok(bytes), None),
            Err(error) => (Err(read_error(place, &error)), None),
        }
    }
}

fn read_error(place: String, error: &io::Error) -> StoreError {
    match error.kind() {
        // The file became shorter while it was read.
        io::ErrorKind::UnexpectedEof => StoreError::Changed { place },
        _ => error::store_error(place, "get", error),
    }
}

fn read_soon(file: Arc<File>, start: u64, end: u64) -> JoinHandle<io::Result<Bytes>> {
    spawn_blocking(move || read_now(&file, start, end))
}

fn read_now(file: &File, start: u64, end: u64) -> io::Result<Bytes> {
    // A piece is at most PIECE_BYTES, so it fits usize.
    let mut bytes = vec![0; (end - start) as usize];
    file.read_exact_at(&mut bytes, start)?;
    Ok(bytes.into())
}

#[async_trait]
impl Store for FilesystemStore {
    fn describe(&self) -> String {
        self.0.place.clone()
    }

    async fn put(&self, key: &str, body: Bytes, options: PutOptions) -> Result<ObjectStat, StoreError> {
        check_key(&self.0.place, key, "put")?;
        let PutOptions { if_absent, sha256, sealed: _, attributes, lock } = options;
        if lock.is_some() || attributes.holds().any() {
            // Whoever owns a file may delete it: there is nothing that a lock could be made of.
            return Err(no_locks(self.0.place.clone()));
        }
        let owned = key.to_owned();
        let inner = self.0.clone();
        // The checksum is CPU work, so it too belongs on the blocking thread.
        let put = spawn_blocking(move || {
            check_body(&inner.place, &owned, &body, sha256)?;
            inner.put(&owned, &body, &attributes, if_absent).map_err(|error| inner.error(&owned, "put", &error))
        });
        let stat = put.await.map_err(|error| self.0.error(key, "put", &io::Error::other(error)))??;
        Ok(ObjectStat { sha256, ..object_stat(key.to_owned(), &stat) })
    }

    async fn get(&self, key: &str, options: GetOptions) -> Result<Download, StoreError> {
        check_key(&self.0.place, key, "get")?;
        if options.version.is_some() {
            return Err(no_versions(object_place(&self.0.place, key)));
        }
        let owned = key.to_owned();
        let inner = self.0.clone();
        let opened = spawn_blocking(move || {
            let error = |error: io::Error| inner.error(&owned, "get", &error);
            let (file, found) = inner.open(&owned).map_err(error)?;
            let stat = object_stat(owned.clone(), &found);
            if options.if_match.is_some_and(|etag| etag != stat.etag) {
                return Err(StoreError::Changed { place: object_place(&inner.place, &owned) });
            }
            let range = resolve_range(&inner.place, &owned, options.range.as_ref(), stat.size)?;
            let mut attributes = attributes::read(&inner.root, &owned, &found).map_err(error)?;
            if !options.attributes {
                attributes.tags.clear();
            }
            // The first piece comes along: most objects are small, and another thread switch would cost more than the reading.
            let first_end = range.end.min(range.start + PIECE_BYTES);
            let place = object_place(&inner.place, &owned);
            let first = read_now(&file, range.start, first_end).map_err(|error| read_error(place.clone(), &error))?;
            Ok((stat, attributes, first, (first_end < range.end).then_some((file, place, first_end, range.end))))
        });
        let (stat, attributes, first, rest) =
            opened.await.map_err(|error| self.0.error(key, "get", &io::Error::other(error)))??;
        let rest = rest.map(|(file, place, next, end)| Reading::start(Arc::new(file), place, next, end));
        let first = stream::iter((!first.is_empty()).then_some(Ok(first)));
        let rest = stream::unfold(rest, async |rest| Some(rest?.piece().await));
        Ok(Download { stat, attributes, body: first.chain(rest).boxed() })
    }

    async fn stat(&self, key: &str) -> Result<ObjectStat, StoreError> {
        check_key(&self.0.place, key, "stat")?;
        let owned = key.to_owned();
        let stat = self.blocking(key, "stat", move |inner| inner.stat(&owned)).await?;
        Ok(object_stat(key.to_owned(), &stat))
    }

    async fn list(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> Result<Page, StoreError> {
        let (owned, after) = (prefix.to_owned(), start_after.map(str::to_owned));
        self.blocking(prefix, "list", move |inner| listing::list(inner, &owned, after.as_deref(), limit)).await
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        check_key(&self.0.place, key, "delete")?;
        let owned = key.to_owned();
        self.blocking(key, "delete", move |inner| inner.delete(&owned)).await
    }

    async fn begin_upload(&self, key: &str, attributes: ObjectAttributes) -> Result<String, StoreError> {
        check_key(&self.0.place, key, "begin an upload")?;
        if attributes.holds().any() {
            return Err(no_locks(self.0.place.clone()));
        }
        let owned = key.to_owned();
        self.blocking(key, "begin an upload", move |inner| upload::begin(inner, &owned, attributes)).await
    }

    async fn upload_part(&self, key: &str, upload: &str, number: u32, body: Bytes) -> Result<UploadedPart, StoreError> {
        let (owned, id) = (key.to_owned(), upload.to_owned());
        self.blocking(key, "upload a part", move |inner| upload::part(inner, &owned, &id, number, &body)).await
    }

    async fn complete_upload(
        &self,
        key: &str,
        upload: &str,
        parts: &[UploadedPart],
        if_absent: bool,
    ) -> Result<ObjectStat, StoreError> {
        let (owned, id, parts) = (key.to_owned(), upload.to_owned(), parts.to_vec());
        let complete = move |inner: &Inner| upload::complete(inner, &owned, &id, &parts, if_absent);
        let stat = self.blocking(key, "complete an upload", complete).await?;
        Ok(object_stat(key.to_owned(), &stat))
    }

    async fn abort_upload(&self, key: &str, upload: &str) -> Result<(), StoreError> {
        let id = upload.to_owned();
        self.blocking(key, "abort an upload", move |inner| upload::abort(inner, &id)).await
    }

    async fn time(&self) -> Result<DateTime<Utc>, StoreError> {
        // What the file system stamps a new file with: a server's time, where it is one's.
        let stamp = |inner: &Inner| {
            let (file, _temporary) = inner.temporaries.file()?;
            Ok(DateTime::from_timestamp_nanos(modified_ns(&rustix::fs::fstat(&file)?)))
        };
        self.blocking("", "ask for the time", stamp).await
    }

    async fn create(&self) -> Result<(), StoreError> {
        self.blocking("", "create", |inner| create_durably(&inner.root)).await
    }
}

/// Makes a directory and those above it that are missing, each made durable in the one that holds it.
fn create_durably(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    create_durably(parent)?;
    match std::fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        created => created?,
    }
    File::open(parent)?.sync_all()
}
