//! What of logs the site has.

use std::collections::HashSet;

use chrono::{DateTime, Utc};

use super::{LogKind, LogName, name::system_folder};
use crate::{
    repository::{Repository, RepositoryError, error::Result, format::LOG, point::list_all},
    stores::{ObjectStat, SharedStore},
};

/// Names in a page.
const PAGE: usize = 1000;

/// A file of the log as the site lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredLog {
    /// Which one.
    pub name: LogName,
    /// Bytes of the object.
    pub bytes: u64,
    /// When the site stored it, by the site's own clock.
    pub stored_at: DateTime<Utc>,
}

impl StoredLog {
    fn of(object: ObjectStat) -> Option<Self> {
        Some(Self { name: LogName::parse(&object.key)?, bytes: object.size, stored_at: object.modified })
    }
}

impl Repository {
    /// All files of all logs (or of one cluster's), in the order of their keys.
    ///
    /// # Errors
    /// The store's.
    pub async fn log_files(&self, system: Option<u64>) -> Result<Vec<StoredLog>> {
        let prefix = system.map_or_else(|| LOG.to_owned(), system_folder);
        let listed = list_all(self, &prefix).await?.into_iter();
        Ok(listed.filter_map(StoredLog::of).collect())
    }

    /// The site's time, to judge by it how old a file is. It is this machine's where the site does not tell: to a reader it may not, where
    /// nothing may be written.
    pub async fn log_time(&self) -> DateTime<Utc> {
        self.store.time().await.unwrap_or_else(|_| self.clock.now())
    }

    /// The first segments of a file's timeline that come after it, at most so many.
    ///
    /// # Errors
    /// The store's.
    pub async fn segments_after(&self, name: &LogName, most: usize) -> Result<Vec<LogName>> {
        let found = self.log_after(name, most, &[LogKind::Segment, LogKind::Partial]).await?;
        Ok(found.into_iter().take(most).map(|found| found.name).collect())
    }

    /// The first files of these kinds that belong to later segments of a file's timeline: so many, if there are, and what the site lists
    /// together with them.
    pub(super) async fn log_after(&self, name: &LogName, least: usize, kinds: &[LogKind]) -> Result<Vec<StoredLog>> {
        let mut found = Vec::new();
        let mut after = name.to_string();
        while found.len() < least {
            let page = page_after(&self.store, &name.folder(), &after).await?;
            let Some(last) = page.last() else { break };
            after.clone_from(&last.key);
            let is_later = |found: &LogName| kinds.contains(&found.kind()) && found.segment() > name.segment();
            found.extend(page.into_iter().filter_map(StoredLog::of).filter(|found| is_later(&found.name)));
        }
        Ok(found)
    }

    /// Which of these files the site lists. They are sorted, so that a request or two show those of a timeline.
    ///
    /// # Errors
    /// The store's.
    pub async fn listed(&self, names: &[LogName]) -> Result<HashSet<LogName>> {
        let mut listed = HashSet::new();
        for names in names.chunk_by(|one, next| one.folder() == next.folder()) {
            let (first, last) = (names[0].to_string(), names[names.len() - 1].to_string());
            // A little before the first: a listing begins behind what it is given.
            let mut after = first[..first.len() - 1].to_owned();
            while after < last {
                let page = page_after(&self.store, &names[0].folder(), &after).await?;
                let Some(end) = page.last() else { break };
                after.clone_from(&end.key);
                listed.extend(page.iter().filter_map(|object| LogName::parse(&object.key)).filter(|name| names.contains(name)));
            }
        }
        Ok(listed)
    }

    /// Whether the site lists a file.
    ///
    /// # Errors
    /// The store's.
    pub async fn has_log_file(&self, name: &LogName) -> Result<bool> {
        let key = name.to_string();
        let page = self.store.list(&key, None, 1).await?;
        Ok(page.objects.first().is_some_and(|object| object.key == key))
    }
}

/// The next page of objects; empty at the end.
async fn page_after(store: &SharedStore, prefix: &str, after: &str) -> Result<Vec<ObjectStat>> {
    let page = store.list(prefix, Some(after), PAGE).await?;
    if page.objects.first().is_some_and(|object| object.key.as_str() <= after) {
        return Err(RepositoryError::Damaged {
            place: format!("{}/{prefix}", store.describe()),
            detail: "the site lists the same objects again and again".to_owned(),
        });
    }
    Ok(page.objects)
}
