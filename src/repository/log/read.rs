//! Fetching files of the log, and telling what is not there from what cannot be got.

use std::sync::Arc;

use chrono::{DateTime, Utc};

use super::{
    LogHead, LogKind, LogName,
    format::{LogRoom, MAX_OBJECT_BYTES, SealedLogFile, open_log_blocks, open_log_file},
};
use crate::{
    repository::{
        Repository, RepositoryError,
        error::{Result, reading},
        keys::{Catalogue, DataKeys},
        pool::Pool,
        workers::off_thread,
    },
    stores::{GetOptions, StoreError, read_all},
};

/// What a site answers to the wish for a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogAnswer {
    /// The file, whole.
    File(Vec<u8>),
    /// The site lists no such file, and none of the timeline that comes later.
    Absent,
    /// The site lists no such file, and later ones of the timeline: a part of the log is missing.
    Gap {
        /// The first one that comes later.
        next: LogName,
    },
}

/// What a site has of a file's timeline that comes after it, where it does not have the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaterLog {
    /// The first one.
    pub next: LogName,
    /// When the first of them was stored: of those that are listed together with `next`, by the site's clock.
    pub since: DateTime<Utc>,
    /// The site's time after that ([`Repository::log_time`]).
    pub now: DateTime<Utc>,
}

/// What a site answers that was looked at for a file.
pub enum Looked<T> {
    /// It has it.
    File(T),
    /// It lists none, and none that comes later.
    Absent,
    /// It lists none, and later ones.
    Later(LaterLog),
}

/// Keys of the log, opened when they are needed.
#[derive(Debug)]
pub struct LogKeys(DataKeys);

/// Reads files of the log of one repository.
#[derive(Debug)]
pub struct LogReader {
    repository: Arc<Repository>,
    keys: LogKeys,
    /// What opening takes.
    rooms: Arc<Pool<LogRoom>>,
}

/// A file as the site has it, fetched and not opened yet.
pub struct FetchedLogFile {
    sealed: SealedLogFile,
    catalogue: Arc<Catalogue>,
    rooms: Arc<Pool<LogRoom>>,
}

impl FetchedLogFile {
    /// Plain bytes of the file, by its head.
    pub fn size(&self) -> u64 {
        self.sealed.head.size
    }

    /// Where it came from, for errors.
    pub fn place(&self) -> &str {
        &self.sealed.place
    }

    /// All of it, opened.
    ///
    /// # Errors
    /// [`RepositoryError::Damaged`].
    pub async fn whole(self) -> Result<Vec<u8>> {
        self.sealed.whole(self.catalogue).await
    }

    /// Opens it: its bytes go to `take`, some MiB at a time, so that no more of it is ever in memory. What was taken is the file only if this
    /// returns no error. For a thread that may work.
    ///
    /// # Errors
    /// [`RepositoryError::Damaged`], and those of `take`.
    pub fn open<E: From<RepositoryError>>(
        &self,
        take: impl FnMut(&[u8]) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let make = || LogRoom::new(&self.sealed.place);
        self.rooms.with(make, |room| open_log_blocks(&self.sealed, &self.catalogue, room, take))?
    }
}

impl SealedLogFile {
    /// Opened by a thread that may work.
    async fn whole(self, catalogue: Arc<Catalogue>) -> Result<Vec<u8>> {
        off_thread(move || {
            let Self { place, name, head, bytes, key } = &self;
            open_log_file(place, name, head, bytes, key, &catalogue)
        })
        .await
    }
}

impl LogReader {
    /// With the identities that the repository was opened with.
    pub fn new(repository: Arc<Repository>) -> Self {
        let keys = repository.log_keys();
        Self { repository, keys, rooms: Arc::new(Pool::for_processors()) }
    }

    /// The repository that it reads from.
    pub fn repository(&self) -> &Arc<Repository> {
        &self.repository
    }

    /// Fetches a file.
    ///
    /// # Errors
    /// The store's; [`RepositoryError::Key`] if none of the identities opens its key; [`RepositoryError::Damaged`].
    pub async fn fetch(&self, name: &LogName) -> Result<LogAnswer> {
        self.fetch_ended(name).await.map(|(answer, _)| answer)
    }

    /// Fetches a file without opening it; nothing if the site says that there is none.
    ///
    /// # Errors
    /// As [`Self::fetch`], but for what only opening it shows.
    pub async fn fetch_sealed(&self, name: &LogName) -> Result<Option<FetchedLogFile>> {
        let sealed = self.repository.sealed_log_file(name, &self.keys).await?;
        let (catalogue, rooms) = (Arc::clone(&self.repository.catalogue), Arc::clone(&self.rooms));
        Ok(sealed.map(|sealed| FetchedLogFile { sealed, catalogue, rooms }))
    }

    /// The same, and where there is none, what there is later of its timeline: by the site's listings, which answer or fail as a whole.
    ///
    /// # Errors
    /// As [`Self::fetch_sealed`]; [`RepositoryError::Damaged`] if the file is listed, and is not there.
    pub async fn look(&self, name: &LogName) -> Result<Looked<FetchedLogFile>> {
        // One that is listed was stored between the two.
        for _ in 0..2 {
            if let Some(file) = self.fetch_sealed(name).await? {
                return Ok(Looked::File(file));
            }
            if !self.repository.has_log_file(name).await? {
                return Ok(self.repository.log_later(name).await?.map_or(Looked::Absent, Looked::Later));
            }
        }
        let place = format!("{}/{name}", self.repository.store.describe());
        let detail = "the site lists it, and says that it is not there".to_owned();
        Err(RepositoryError::Damaged { place, detail })
    }

    /// The same as [`Self::fetch`], with what the file says of when it ended ([`LogHead::ended_at`]).
    ///
    /// # Errors
    /// Those of [`Self::fetch`].
    pub async fn fetch_ended(&self, name: &LogName) -> Result<(LogAnswer, Option<DateTime<Utc>>)> {
        match self.look(name).await? {
            Looked::File(file) => {
                let ended_at = file.sealed.head.ended_at;
                Ok((LogAnswer::File(file.whole().await?), ended_at))
            }
            Looked::Absent => Ok((LogAnswer::Absent, None)),
            Looked::Later(LaterLog { next, .. }) => Ok((LogAnswer::Gap { next }, None)),
        }
    }
}

impl Repository {
    /// Opens keys of the log with the identities that the repository was opened with.
    pub fn log_keys(&self) -> LogKeys {
        LogKeys(DataKeys::of_log(self.store.clone(), self.is_unencrypted(), self.identities.clone()))
    }

    /// Reads a file and throws it away. One that is not there was deleted since it was listed.
    ///
    /// # Errors
    /// As [`LogReader::fetch`].
    pub async fn check_log_file(&self, name: &LogName, keys: &LogKeys) -> Result<()> {
        self.log_file(name, keys).await.map(|_| ())
    }

    /// A file that is looked at once, for instance the history of a timeline; nothing if the site says that there is none.
    ///
    /// # Errors
    /// As [`LogReader::fetch`].
    pub async fn read_log_file(&self, name: &LogName) -> Result<Option<Vec<u8>>> {
        Ok(self.log_file(name, &self.log_keys()).await?.map(|(bytes, _)| bytes))
    }

    /// A file, whole, and when it ended; nothing if the site says that there is none.
    async fn log_file(&self, name: &LogName, keys: &LogKeys) -> Result<Option<(Vec<u8>, Option<DateTime<Utc>>)>> {
        let Some(sealed) = self.sealed_log_file(name, keys).await? else { return Ok(None) };
        let ended_at = sealed.head.ended_at;
        Ok(Some((sealed.whole(Arc::clone(&self.catalogue)).await?, ended_at)))
    }

    /// A file as the site has it, and the key that opens it.
    async fn sealed_log_file(&self, name: &LogName, keys: &LogKeys) -> Result<Option<SealedLogFile>> {
        let key = name.to_string();
        let place = format!("{}/{key}", self.store.describe());
        let bytes = match read_all(self.store.as_ref(), &key, GetOptions::sealed(), MAX_OBJECT_BYTES).await {
            Ok(bytes) => bytes,
            Err(StoreError::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(reading(error)),
        };
        let head = LogHead::read(&place, name, &bytes, &self.catalogue)?;
        let key = keys.0.get(&head.log_key()).await?;
        Ok(Some(SealedLogFile { place, name: name.clone(), head, bytes, key }))
    }

    /// What the site has of a file's timeline that comes after it.
    async fn log_later(&self, name: &LogName) -> Result<Option<LaterLog>> {
        if name.kind() == LogKind::History {
            return Ok(None);
        }
        // A part counts: whoever stores one has stored all segments before.
        let found = self.log_after(name, 1, &[LogKind::Segment, LogKind::Partial, LogKind::Part]).await?;
        let Some(since) = found.iter().map(|file| file.stored_at).min() else { return Ok(None) };
        let now = self.log_time().await;
        Ok(found.into_iter().next().map(|first| LaterLog { next: first.name, since, now }))
    }
}
