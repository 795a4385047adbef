//! Which packs of an archive somebody needs who wants to read some contents.
//!
//! What a point needs is in lists, and lists are in packs, too: of a site whose packs all lie in an archive those come first, and what they name
//! after them. They are few, so that all of them are brought back at once: the way from list to list would be one wait for each level.

use std::collections::BTreeSet;

use futures_util::TryStreamExt;

use super::{Class, PackRecord, Reader, Result};
use crate::repository::{Snapshot, format::pack_key};

/// A pack at the site, in an archive class when it was listed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ArchivedPack {
    /// Its key.
    pub key: String,
    /// Its bytes.
    pub size: u32,
}

fn archived_pack(record: &PackRecord) -> ArchivedPack {
    ArchivedPack { key: pack_key(&record.sha256), size: record.size }
}

impl Reader {
    /// Packs of lists that lie in an archive class, of whatever point.
    ///
    /// # Errors
    /// [`crate::repository::RepositoryError::Cache`].
    pub fn archived_lists(&self) -> Result<BTreeSet<ArchivedPack>> {
        self.archived_of(Class::Catalogue)
    }

    /// Packs of data that lie in an archive class, whoever needs them.
    ///
    /// # Errors
    /// [`crate::repository::RepositoryError::Cache`].
    pub fn archived_data(&self) -> Result<BTreeSet<ArchivedPack>> {
        self.archived_of(Class::Data)
    }

    fn archived_of(&self, class: Class) -> Result<BTreeSet<ArchivedPack>> {
        let cache = &self.shared.cache;
        let mut packs = BTreeSet::new();
        for number in &cache.seen().archived {
            let record = cache.pack(*number)?;
            if record.class == class {
                packs.insert(archived_pack(&record));
            }
        }
        Ok(packs)
    }

    /// Packs of data in an archive class that the contents need of those entries of a snapshot that are `wanted`. The lists must be readable;
    /// what no index knows is for the reading to say.
    ///
    /// # Errors
    /// As [`Reader::flatten`].
    pub async fn archived_packs_of(&self, snapshot: &Snapshot, wanted: impl Fn(&[u8]) -> bool) -> Result<BTreeSet<ArchivedPack>> {
        let cache = &self.shared.cache;
        let mut numbers = BTreeSet::new();
        let mut entries = self.entries(snapshot);
        while let Some(entry) = entries.try_next().await? {
            let Some(content) = entry.content.filter(|_| wanted(&entry.path)) else { continue };
            for chunk in self.flatten(&content).await? {
                numbers.extend(cache.find(&chunk)?.map(|location| location.pack));
            }
        }
        let seen = cache.seen();
        let archived = numbers.into_iter().filter(|number| seen.archived.contains(number));
        archived.map(|number| Ok(archived_pack(&cache.pack(number)?))).collect()
    }
}
