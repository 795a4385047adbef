//! Storing files of the log.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::{Mutex, Semaphore};

use super::{
    LogHead, LogName, MAX_LOG_FILE_BYTES,
    format::{HEAD_BYTES, seal_log_file},
};
use crate::{
    clock::Moment,
    repository::{
        Recipients, Repository, RepositoryError,
        error::{Result, reading},
        format::Id,
        keys::{SetName, create_log_key},
        pool::{Pool, processors},
        seal::SealingKey,
        workers::{Desk, off_thread},
    },
    stores::{GetOptions, PutOptions, StoreError, read_all},
};

/// A key of the log seals for so long, and what was sealed is stored within as long again: prune counts on twice this.
const KEY_LASTS: TimeDelta = TimeDelta::hours(24);
/// How often the recipients are looked at again: a key that is wrapped for others seals nothing new.
const LOOK_EVERY: TimeDelta = TimeDelta::minutes(10);

/// What became of a file that was to be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogPut {
    /// It is stored, and was not before.
    Stored,
    /// It had been stored before, with these very bytes.
    There,
    /// Another file of this name had been stored before.
    Other {
        /// The object, as an operator would write it down.
        place: String,
    },
}

/// A file of the log, sealed as it is stored.
pub struct SealedLog {
    name: LogName,
    plain: Bytes,
    object: Bytes,
}

impl fmt::Debug for SealedLog {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "SealedLog({})", self.name)
    }
}

/// A key as it is held.
struct Held {
    repository: String,
    id: Id,
    key: Arc<SealingKey>,
    made: Moment,
    set: SetName,
    recipients: Vec<String>,
    looked: Moment,
}

/// A key of the log, in the memory of the process that made it. It outlives a [`LogWriter`], so that opening the site anew does not
/// store another one.
#[derive(Clone, Default)]
pub struct LogKey(Arc<Mutex<Option<Held>>>);

impl fmt::Debug for LogKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("LogKey")
    }
}

/// Stores files of the log in one repository.
#[derive(Debug)]
pub struct LogWriter {
    repository: Arc<Repository>,
    recipients: Recipients,
    key: LogKey,
    level: i32,
    /// Compressors. They learn what the log is like, and are costly to make.
    desks: Arc<Pool<Desk>>,
    /// So that there are no more of them than are kept.
    seats: Arc<Semaphore>,
    /// Room for what was sealed.
    objects: Arc<Pool<Vec<u8>>>,
}

impl LogWriter {
    /// With keys wrapped to these recipients, compressing at this zstd level.
    ///
    /// # Errors
    /// [`RepositoryError::Key`] where the recipients do not fit the repository.
    pub fn new(repository: Arc<Repository>, recipients: Recipients, key: LogKey, level: i32) -> Result<Self> {
        if matches!(recipients, Recipients::Nobody) != repository.is_unencrypted() {
            let detail = "the policy and the repository do not agree on whether it is encrypted; mend [encryption] in the policy";
            return Err(RepositoryError::Key { place: repository.store.describe(), detail: detail.to_owned() });
        }
        Ok(Self {
            repository,
            recipients,
            key,
            level,
            desks: Arc::new(Pool::for_processors()),
            seats: Arc::new(Semaphore::new(processors())),
            objects: Arc::new(Pool::for_processors()),
        })
    }

    /// The repository that it writes to.
    pub fn repository(&self) -> &Arc<Repository> {
        &self.repository
    }

    /// Gives back memory that is only of use while files come.
    pub fn rest(&self) {
        self.objects.clear();
    }

    /// Stores a file, unless it is there. It is confirmed by the site when this returns [`LogPut::Stored`] or [`LogPut::There`].
    ///
    /// # Errors
    /// The store's, [`RepositoryError::OtherRecipients`], [`RepositoryError::Key`]; [`RepositoryError::Damaged`] if there is an object of
    /// that name that cannot be read; [`RepositoryError::Refused`] for a file that is too large.
    pub async fn put(&self, name: &LogName, plain: Bytes) -> Result<LogPut> {
        self.put_ended(name, plain, None).await
    }

    /// The same, with the moment when the server's log ended where this file does. It is no part of the file: the same bytes of another
    /// moment are the same file.
    ///
    /// # Errors
    /// Those of [`Self::put`].
    pub async fn put_ended(&self, name: &LogName, plain: Bytes, ended_at: Option<DateTime<Utc>>) -> Result<LogPut> {
        // What is there need not be sealed first.
        match self.found_before(name, &plain).await? {
            Some(found) => Ok(found),
            None => self.store(self.seal(name, plain, ended_at).await?).await,
        }
    }

    /// Stores a file that was sealed before, unless it is there: [`Self::put`]. The caller does so soon, well within the day for which its key
    /// is kept.
    ///
    /// # Errors
    /// Those of [`Self::put`].
    pub async fn put_sealed(&self, sealed: SealedLog) -> Result<LogPut> {
        match self.found_before(&sealed.name, &sealed.plain).await? {
            Some(found) => Ok(found),
            None => self.store(sealed).await,
        }
    }

    /// What is there under this name, where a site lets the last writer win, and so must be looked at first.
    async fn found_before(&self, name: &LogName, plain: &Bytes) -> Result<Option<LogPut>> {
        if self.repository.file.writes == "exclusive" { Ok(None) } else { self.compare(name, plain.clone()).await }
    }

    /// Seals a file for [`Self::put_sealed`]: its key is at the site when this returns. See [`Self::put_ended`] for `ended_at`.
    ///
    /// # Errors
    /// Those of [`Self::put`].
    pub async fn seal(&self, name: &LogName, plain: Bytes, ended_at: Option<DateTime<Utc>>) -> Result<SealedLog> {
        let repository = &self.repository;
        if plain.len() as u64 > MAX_LOG_FILE_BYTES {
            return Err(RepositoryError::Refused {
                subject: name.file().to_owned(),
                detail: format!(
                    "has {} bytes, and no file of the log may have more than {} MiB",
                    plain.len(),
                    MAX_LOG_FILE_BYTES >> 20
                ),
            });
        }
        let (id, key) = self.key().await?;
        let (catalogue, sealed_name, level, bytes) = (Arc::clone(&repository.catalogue), name.clone(), self.level, plain.clone());
        let seat = Arc::clone(&self.seats).acquire_owned().await;
        let (desks, room) = (Arc::clone(&self.desks), self.objects.buffer());
        let object: Bytes = off_thread(move || {
            // Held by the work itself: it goes on where nobody waits for it any more.
            let _seat = seat;
            let make = || {
                Desk::new(level).map_err(|error| RepositoryError::Refused {
                    subject: "zstd".to_owned(),
                    detail: format!("has no memory: {error}"),
                })
            };
            desks.with(make, |desk| seal_log_file(&catalogue, &sealed_name, (&id, &key), (&bytes, ended_at), desk, room))
        })
        .await?
        .into();
        Ok(SealedLog { name: name.clone(), plain, object })
    }

    async fn store(&self, SealedLog { name, plain, object }: SealedLog) -> Result<LogPut> {
        // The store makes the checksum that its site wants; who reads goes by the tags of what was sealed.
        let options = PutOptions { if_absent: true, sealed: true, ..PutOptions::default() };
        let stored = self.repository.store.put(&name.to_string(), object.clone(), options).await;
        self.objects.reuse(object);
        match stored {
            Ok(_) => Ok(LogPut::Stored),
            Err(there @ StoreError::AlreadyExists { .. }) => self.compare(&name, plain).await?.ok_or_else(|| there.into()),
            Err(error) => Err(error.into()),
        }
    }

    /// What is stored under this name, held against these bytes; nothing if there is none.
    ///
    /// # Errors
    /// The store's; [`RepositoryError::Damaged`] if it cannot be read.
    pub async fn compare(&self, name: &LogName, plain: impl Into<Bytes>) -> Result<Option<LogPut>> {
        let Some(head) = self.repository.log_head(name).await? else { return Ok(None) };
        let (catalogue, plain): (_, Bytes) = (Arc::clone(&self.repository.catalogue), plain.into());
        let size = plain.len() as u64;
        let hash = off_thread(move || Ok(catalogue.log_id(&plain))).await?;
        let same = head.size == size && head.hash == hash;
        let place = || format!("{}/{name}", self.repository.store.describe());
        Ok(Some(if same { LogPut::There } else { LogPut::Other { place: place() } }))
    }

    /// The key to seal under now: the one that is held, or a new one, stored first.
    async fn key(&self) -> Result<(Id, Arc<SealingKey>)> {
        let repository = &self.repository;
        let clock = &repository.clock;
        // Held across the calls on purpose: ten files at once need one key.
        let mut held = self.key.0.lock().await;
        let own = self.recipients.public_keys();
        if let Some(known) = held.as_mut()
            && known.repository == repository.file.id
            && known.recipients == own
            && known.made.since(clock) < KEY_LASTS
        {
            if known.looked.since(clock) < LOOK_EVERY {
                return Ok((known.id, Arc::clone(&known.key)));
            }
            let (now, set) = (Moment::now(clock), repository.settled_set(&self.recipients).await?);
            if set == known.set {
                known.looked = now;
                return Ok((known.id, Arc::clone(&known.key)));
            }
        }
        let made = Moment::now(clock);
        let set = repository.settled_set(&self.recipients).await?;
        let (id, key, _) = create_log_key(&repository.store, &self.recipients, set).await?;
        let key = Arc::new(key);
        let kept = Arc::clone(&key);
        *held = Some(Held { repository: repository.file.id.clone(), id, key: kept, made, set, recipients: own, looked: made });
        Ok((id, key))
    }
}

impl Repository {
    /// What a stored file says of itself; nothing if there is none of that name.
    ///
    /// # Errors
    /// The store's, [`RepositoryError::Damaged`].
    pub async fn log_head(&self, name: &LogName) -> Result<Option<LogHead>> {
        let key = name.to_string();
        let place = format!("{}/{key}", self.store.describe());
        let options = GetOptions { range: Some(0..HEAD_BYTES), ..GetOptions::default() };
        match read_all(self.store.as_ref(), &key, options, HEAD_BYTES).await {
            Ok(bytes) => LogHead::read(&place, name, &bytes, &self.catalogue).map(Some),
            Err(StoreError::NotFound { .. }) => Ok(None),
            Err(error) => Err(reading(error)),
        }
    }
}
