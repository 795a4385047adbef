//! Records: JSON sealed under the catalogue key, each an object of its own that is never changed.
//!
//! Promises: a record is stored only if there is none of its name, and read only from under the name that its contents and its run make:
//! none can be passed off as another. Whoever has the agent's key reads them; nobody without it makes one.

use bytes::Bytes;
use serde::de::DeserializeOwned;

use super::{
    Id, Repository, RepositoryError,
    error::{Result, reading},
    format::{Header, Kind},
    index::{most_plain_bytes, open_object, seal_object},
    keys::{random, sha256},
};
use crate::stores::{GetOptions, ObjectStat, PutOptions, StoreError, read_all};

/// A record that was just stored.
pub(super) struct PutRecord {
    /// What the site says of its object.
    pub stat: ObjectStat,
    /// The key.
    pub key: String,
    /// SHA-256 of the object's bytes.
    pub hash: [u8; 32],
}

impl Repository {
    /// Seals a record and stores it under the key that `key` makes of its run.
    ///
    /// # Errors
    /// The store's; [`StoreError::AlreadyExists`] if there is one of that name; [`RepositoryError::Refused`] if it is longer than what can be
    /// read again.
    pub(super) async fn put_record(&self, kind: Kind, json: &[u8], key: impl FnOnce(&Id) -> String) -> Result<PutRecord> {
        if json.len() > most_plain_bytes(kind) {
            let detail = format!("a defect: says too much ({} bytes)", json.len());
            return Err(RepositoryError::Refused { subject: format!("a record ({kind:?})"), detail });
        }
        let run = random();
        let header = Header { kind, catalogue_key: self.catalogue.id, run, data_key: [0; 16] };
        let bytes = seal_object(&header, &self.catalogue.sealing_key(&run), json);
        let (key, hash) = (key(&run), sha256(&bytes));
        let options = PutOptions { if_absent: true, sha256: Some(hash), ..PutOptions::default() };
        let stat = self.store.put(&key, Bytes::from(bytes), options).await?;
        Ok(PutRecord { stat, key, hash })
    }

    /// Reads the record of a name, of at most `limit` bytes; `name` says which name a record of this content and run has.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] if there is none (any more), the store's others, [`RepositoryError::Damaged`].
    pub(super) async fn record<T: DeserializeOwned>(
        &self,
        kind: Kind,
        key: &str,
        limit: u64,
        name: impl FnOnce(&T, &Id) -> String,
    ) -> Result<T> {
        let (place, run, plain, _) = self.record_bytes(kind, key, limit).await?;
        let damaged = |detail: String| RepositoryError::Damaged { place, detail };
        let record = match serde_json::from_slice(&plain) {
            Ok(record) => record,
            Err(error) => return Err(damaged(error.to_string())),
        };
        let name = name(&record, &run);
        if name != key {
            return Err(damaged(format!("holds the record whose name is {name} instead")));
        }
        Ok(record)
    }

    /// Reads a record as it is: where it lies, its run, its JSON, and the SHA-256 of its object. Whether it has the right name its reader has
    /// to see.
    ///
    /// # Errors
    /// Those of [`Self::record`].
    pub(super) async fn record_bytes(&self, kind: Kind, key: &str, limit: u64) -> Result<(String, Id, Vec<u8>, [u8; 32])> {
        let bytes = match read_all(self.store.as_ref(), key, GetOptions::default(), limit).await {
            Err(gone @ StoreError::NotFound { .. }) => return Err(gone.into()),
            read => read.map_err(reading)?,
        };
        let place = format!("{}/{key}", self.store.describe());
        let (header, plain) = open_object(&place, &bytes, kind, &self.catalogue)?;
        Ok((place, header.run, plain, sha256(&bytes)))
    }
}

/// That a record is missing which nobody takes away is damage.
pub(super) fn never_removed(error: RepositoryError) -> RepositoryError {
    match error {
        RepositoryError::Store(gone @ StoreError::NotFound { .. }) => reading(gone),
        other => other,
    }
}
