//! Evidence: records of drills and verifications, sealed under the catalogue key and kept beside the points.
//!
//! They hold no data of the sources, and writers must read them (retention counts verified points), so they are sealed like
//! the rest of the catalogue and not under a key of their own; `docs/decisions` says more.

use chrono::{DateTime, Utc};

use super::{
    Repository, RepositoryError,
    error::{Result, reading},
    format::{EVIDENCE, Id, Kind, MAX_POINT_BYTES},
    json_record::never_removed,
    keys::sha256,
    point::{dated_name, fresh_id, list_all, parse_dated_name},
};
use crate::stores::{GetOptions, read_all};

/// What a piece of evidence is called.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct EvidenceName {
    /// When it was written, to the second.
    pub time: DateTime<Utc>,
    /// 16 hexadecimal digits.
    pub id: String,
    /// Key of the object.
    pub key: String,
}

impl EvidenceName {
    /// Reads the key of an object; nothing for one that is no evidence, or is written in another way than ours.
    pub fn parse(key: &str) -> Option<Self> {
        let (time, id) = parse_dated_name(key.strip_prefix(EVIDENCE)?)?;
        Some(Self { time, id: id.to_owned(), key: key.to_owned() })
    }
}

/// The id in a record's name: the first half of its header's run.
fn evidence_id(run: &Id) -> String {
    hex::encode(&run[..8])
}

impl Repository {
    /// Stores a record (JSON) and returns its name and the SHA-256 of the stored object, for the next one to be chained to.
    ///
    /// # Errors
    /// The store's.
    pub async fn put_evidence(&self, json: &[u8]) -> Result<(EvidenceName, String)> {
        let time = self.clock.now();
        let mut id = String::new();
        // The name repeats the header's run, so that no record can be passed off as another.
        let put = self.put_record(Kind::Evidence, json, |run| {
            id = evidence_id(run);
            format!("{EVIDENCE}{}", dated_name(time, &id))
        });
        let stored = put.await?;
        Ok((EvidenceName { time, id, key: stored.key }, hex::encode(stored.hash)))
    }

    /// All evidence, oldest first.
    ///
    /// # Errors
    /// The store's.
    pub async fn evidence_names(&self) -> Result<Vec<EvidenceName>> {
        let mut names: Vec<_> = list_all(self, EVIDENCE)
            .await?
            .into_iter()
            .filter_map(|object| Some((EvidenceName::parse(&object.key)?, object.modified)))
            .collect();
        // As the site stored them: the clock of whoever writes one does not decide which of two counts.
        names.sort_by(|(left, left_stored), (right, right_stored)| {
            (left_stored, left.time, &left.key).cmp(&(right_stored, right.time, &right.key))
        });
        Ok(names.into_iter().map(|(name, _)| name).collect())
    }

    /// Reads a record, with the SHA-256 of its stored object.
    ///
    /// # Errors
    /// The store's, [`RepositoryError::Damaged`].
    pub async fn evidence(&self, name: &EvidenceName) -> Result<(Vec<u8>, String)> {
        let (place, run, plain, hash) =
            self.record_bytes(Kind::Evidence, &name.key, MAX_POINT_BYTES).await.map_err(never_removed)?;
        let id = evidence_id(&run);
        if id != name.id {
            return Err(RepositoryError::Damaged { place, detail: format!("holds the record {id} instead") });
        }
        Ok((plain, hex::encode(hash)))
    }

    /// A fresh id for a point.
    pub fn fresh_point_id() -> String {
        fresh_id()
    }

    /// SHA-256 of a record's stored object, which need not be readable for that.
    ///
    /// # Errors
    /// The store's.
    pub async fn evidence_hash(&self, name: &EvidenceName) -> Result<String> {
        let bytes = read_all(self.store.as_ref(), &name.key, GetOptions::default(), MAX_POINT_BYTES).await.map_err(reading)?;
        Ok(hex::encode(sha256(&bytes)))
    }
}
