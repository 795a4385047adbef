//! Parts: what a run has captured that has made no recovery point of it, or not yet.
//!
//! A run that takes long stores one from time to time: the snapshots of what it has read so far, as a point would hold them. A run that
//! comes after it finds in it, under the ETag or the time that the source showed, which objects need not be read again. A part is a hint and
//! never more: whoever uses it looks for each chunk that it names, as for those of a point, and does without what is not there. No point
//! refers to one, and prune deletes those that are older than the grace.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize, de::IgnoredAny};

use super::{
    PackCheck, Repository, RepositoryError, Snapshot,
    error::Result,
    format::{Id, Kind, MAX_POINT_BYTES, PARTS},
    json_record::never_removed,
    point::{dated_name, list_all, parse_dated_name},
};
use crate::stores::{ObjectStat, StoreError};

/// What a run has captured.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Part {
    /// Name of the policy.
    pub policy: String,
    /// The run, 16 hexadecimal digits.
    pub run: String,
    /// When it was written, by the clock of the machine that did.
    pub at: DateTime<Utc>,
    /// Of each source the entries so far; the last one may be cut short after any of them.
    pub snapshots: Vec<Snapshot>,
    /// Of which shard of which plan it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shard: Option<ShardMark>,
}

/// Of which shard of which plan a part is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardMark {
    /// The plan's id.
    pub plan: String,
    /// Which of its shards, from 0.
    pub shard: u32,
    /// All that this shard has to capture is in it, stored and named by indexes.
    pub whole: bool,
}

/// A part at the site, by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredPart {
    /// The run.
    pub run: String,
    /// The time in its name.
    pub named_at: DateTime<Utc>,
    /// When the site stored it, by the site's own clock.
    pub stored_at: DateTime<Utc>,
    /// Key of the object.
    pub key: String,
}

/// `parts/<policy>/<run>/<UTC>-<id>`: policy, run and time.
pub fn parse_part_key(key: &str) -> Option<(&str, &str, DateTime<Utc>)> {
    let mut parts = key.strip_prefix(PARTS)?.splitn(3, '/');
    let (policy, run, name) = (parts.next()?, parts.next()?, parts.next()?);
    Some((policy, run, parse_dated_name(name)?.0))
}

fn part_key(part: &Part, id: &Id) -> String {
    format!("{PARTS}{}/{}/{}", part.policy, part.run, dated_name(part.at, &hex::encode(&id[..8])))
}

impl Repository {
    /// Stores a part; returns its key.
    ///
    /// # Errors
    /// The store's.
    pub async fn put_part(&self, part: &Part) -> Result<String> {
        let json = serde_json::to_vec(part).expect("strings, numbers and JSON values always serialise");
        Ok(self.put_record(Kind::Part, &json, |id| part_key(part, id)).await?.key)
    }

    /// Parts, plans and claims of a policy.
    ///
    /// # Errors
    /// The store's.
    pub async fn part_objects(&self, policy: &str) -> Result<Vec<ObjectStat>> {
        list_all(self, &format!("{PARTS}{policy}/")).await
    }

    /// All parts of one run, in the order of their names.
    ///
    /// # Errors
    /// The store's.
    pub async fn parts_of_run(&self, policy: &str, run: &str) -> Result<Vec<StoredPart>> {
        self.parts_under(&format!("{PARTS}{policy}/{run}/")).await
    }

    async fn parts_under(&self, prefix: &str) -> Result<Vec<StoredPart>> {
        let named = list_all(self, prefix).await?.into_iter().filter_map(|object| {
            let (_, run, named_at) = parse_part_key(&object.key)?;
            Some(StoredPart { run: run.to_owned(), named_at, stored_at: object.modified, key: object.key })
        });
        Ok(named.collect())
    }

    /// The last part of each run, newest run first.
    ///
    /// # Errors
    /// The store's.
    pub async fn last_parts(&self, policy: &str) -> Result<Vec<StoredPart>> {
        let mut last: BTreeMap<String, StoredPart> = BTreeMap::new();
        for part in self.parts_under(&format!("{PARTS}{policy}/")).await? {
            let known = last.entry(part.run.clone()).or_insert_with(|| part.clone());
            if (known.named_at, known.stored_at) <= (part.named_at, part.stored_at) {
                *known = part;
            }
        }
        let mut parts: Vec<_> = last.into_values().collect();
        parts.sort_by_key(|part| std::cmp::Reverse((part.stored_at, part.named_at)));
        Ok(parts)
    }

    /// Reads all parts, plans and claims, of whichever policy, and names those that are damaged.
    ///
    /// # Errors
    /// The store's.
    pub async fn check_parts(&self) -> Result<Vec<PackCheck>> {
        let mut damaged = Vec::new();
        for object in list_all(self, PARTS).await? {
            let key = object.key;
            let read = if parse_part_key(&key).is_some() {
                self.record::<Part>(Kind::Part, &key, MAX_POINT_BYTES, part_key).await.map(drop)
            } else {
                let named = |(named, _): &(String, IgnoredAny), _: &Id| named.clone();
                self.record(Kind::Part, &key, MAX_POINT_BYTES, named).await.map(drop)
            };
            match read {
                // One that a prune took away since it was listed is none.
                Ok(()) | Err(RepositoryError::Store(StoreError::NotFound { .. })) => {}
                Err(error) if error.is_damage() => damaged.push(PackCheck { key, detail: error.to_string() }),
                Err(error) => return Err(error),
            }
        }
        Ok(damaged)
    }

    /// Reads a part.
    ///
    /// # Errors
    /// The store's, [`RepositoryError::Damaged`].
    pub async fn part(&self, name: &StoredPart) -> Result<Part> {
        self.record(Kind::Part, &name.key, MAX_POINT_BYTES, part_key).await.map_err(never_removed)
    }
}
