//! Fetching files of the log, and telling what is not there from what cannot be got.

use std::sync::Arc;

use super::{
    LogHead, LogKind, LogName,
    format::{MAX_OBJECT_BYTES, open_log_file},
};
use crate::{
    repository::{
        Repository, RepositoryError,
        error::{Result, reading},
        keys::DataKeys,
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

/// Reads files of the log of one repository.
#[derive(Debug)]
pub struct LogReader {
    repository: Arc<Repository>,
    keys: DataKeys,
}

impl LogReader {
    /// With the identities that the repository was opened with.
    pub fn new(repository: Arc<Repository>) -> Self {
        let keys = DataKeys::of_log(repository.store.clone(), repository.is_unencrypted(), repository.identities.clone());
        Self { repository, keys }
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
        let (store, key) = (&self.repository.store, name.to_string());
        let place = format!("{}/{key}", store.describe());
        let bytes = match read_all(store.as_ref(), &key, GetOptions::default(), MAX_OBJECT_BYTES).await {
            Ok(bytes) => bytes,
            Err(StoreError::NotFound { .. }) => return self.absence(name, &place).await,
            Err(error) => return Err(reading(error)),
        };
        let head = LogHead::read(&place, name, &bytes, &self.repository.catalogue)?;
        let opener = self.keys.get(&head.log_key()).await?;
        let (catalogue, name) = (Arc::clone(&self.repository.catalogue), name.clone());
        off_thread(move || open_log_file(&place, &name, &head, &bytes, &opener, &catalogue).map(LogAnswer::File)).await
    }

    /// Why a file cannot be fetched that the site says it has not: by its listings, which answer or fail as a whole.
    async fn absence(&self, name: &LogName, place: &str) -> Result<LogAnswer> {
        if self.repository.lists(name).await? {
            let detail = "the site lists it, and says that it is not there".to_owned();
            return Err(RepositoryError::Damaged { place: place.to_owned(), detail });
        }
        if name.kind() == LogKind::History {
            return Ok(LogAnswer::Absent);
        }
        // A part counts: whoever stores one has stored all segments before.
        let later = [LogKind::Segment, LogKind::Partial, LogKind::Part];
        Ok(match self.repository.log_after(name, 1, &later).await?.pop() {
            Some(next) => LogAnswer::Gap { next },
            None => LogAnswer::Absent,
        })
    }
}
