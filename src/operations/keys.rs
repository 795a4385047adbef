//! Keys of a point: which ones it takes to restore it, and whether those at hand open them all.

use std::collections::{BTreeSet, HashSet};

use futures_util::TryStreamExt;

use super::OperationError;
use crate::{
    policy::Encryption,
    repository::{Expected, Id, Point, Reader, Repository, RepositoryError},
};

/// What a policy says of a repository before it is opened.
pub fn expected_of(encryption: &Encryption) -> Expected {
    match encryption {
        Encryption::Recipients(_) => Expected::Encrypted,
        Encryption::None => Expected::Unencrypted,
    }
}

/// What it takes to open a point.
#[derive(Debug)]
pub struct PointKeys {
    /// Data keys that its contents are sealed under.
    pub data_keys: u64,
    /// Those of them that do not open with the identities at hand, each with the error.
    pub closed: Vec<(Id, RepositoryError)>,
}

impl PointKeys {
    /// `3 of 3 data keys`.
    pub fn describe(&self) -> String {
        format!("{} of {} data keys open", self.data_keys - self.closed.len() as u64, self.data_keys)
    }
}

/// Fails unless the keys at hand open all data of a point: said before anything is written to a target, since a rotation that was
/// stopped midway leaves keys that a newcomer cannot open yet.
///
/// # Errors
/// [`RepositoryError::Key`], or damage, of the first key that stays closed; those of [`check_point_keys`].
pub async fn open_point(repository: &Repository, reader: &Reader, point: &Point) -> Result<(), OperationError> {
    match check_point_keys(repository, reader, point).await?.closed.into_iter().next() {
        Some((_, error)) => Err(error.into()),
        None => Ok(()),
    }
}

/// Opens every data key that a point needs. Follows its lists to every chunk; reads no data.
///
/// # Errors
/// Damage of the catalogue on the way, [`RepositoryError::MissingChunk`], the store's. A key that stays closed is none.
pub async fn check_point_keys(repository: &Repository, reader: &Reader, point: &Point) -> Result<PointKeys, OperationError> {
    let place = || repository.store().describe();
    let mut packs: HashSet<u32> = HashSet::new();
    for snapshot in &point.snapshots {
        let mut entries = reader.entries(snapshot);
        let source = &snapshot.source;
        while let Some(entry) = entries.try_next().await.map_err(|error| error.at_entry(source, None))? {
            let Some(content) = entry.content.filter(|content| !content.is_empty()) else { continue };
            let at_entry = |error: RepositoryError| error.at_entry(source, Some(&entry.path));
            for chunk in reader.flatten(&content).await.map_err(at_entry)? {
                let found = reader.cache().find(&chunk)?;
                let missing = || at_entry(RepositoryError::MissingChunk { place: place(), id: chunk.id.to_string() });
                packs.insert(found.ok_or_else(missing)?.pack);
            }
        }
    }
    let mut ids: BTreeSet<Id> = BTreeSet::new();
    for pack in packs {
        ids.insert(reader.cache().pack(pack)?.data_key);
    }
    let data_keys = ids.len() as u64;
    Ok(PointKeys { data_keys, closed: repository.open_data_keys(ids).await? })
}
