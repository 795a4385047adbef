//! Marks: records that an object of the repository is known to be damaged, or that it is sound again.
//!
//! Append-only and sealed under the catalogue key, like pins. A pack that is marked is *quarantined*: it stays where it is, and is
//! still read where nothing else holds a chunk, but a backup does not rely on it: it stores the same bytes anew, which mends the
//! points that need them. Who forges a mark needs the catalogue key, and makes a backup store more than it must; who takes one
//! away makes a backup trust what it would have trusted without.

use std::collections::{BTreeMap, HashSet};

use chrono::{DateTime, Utc};
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};

use super::{
    PackCheck, Repository, RepositoryError,
    cache::PackRecord,
    error::Result,
    format::{DAMAGED, Kind, MAX_PIN_BYTES},
    keys::data_key_object,
    point::{dated_name, list_all, parse_dated_name},
};
use crate::stores::StoreError;

/// Records read at once.
const READS: usize = 8;

/// What a mark says of its object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MarkState {
    /// It was read again and is what it was: earlier marks are void.
    Sound,
    /// It cannot be used, or not all of it.
    Damaged,
}

/// What is known of an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Key of the object.
    pub object: String,
    /// What it is.
    pub state: MarkState,
    /// What was found.
    pub detail: String,
    /// When, by the clock of whoever found it.
    pub at: DateTime<Utc>,
}

/// Which of two marks counts, the greater one: when the site stored it, the time in its name, what it says.
type Order = (DateTime<Utc>, DateTime<Utc>, MarkState);

/// What the marks on the site say.
#[derive(Debug, Clone, Default)]
pub struct Marks {
    /// By the last part of the object's key: the damaged ones, each with what was found.
    damaged: BTreeMap<String, String>,
    /// Marks that cannot be read. What they are about counts as damaged.
    pub unreadable: Vec<PackCheck>,
}

impl Marks {
    /// What is wrong with an object, if that is known.
    pub fn damage(&self, object: &str) -> Option<&str> {
        self.damaged.get(last_part(object)).map(String::as_str)
    }

    /// Whether a pack, or the key that it needs, is marked.
    pub(super) fn names(&self, pack: &PackRecord, unencrypted: bool) -> bool {
        !self.damaged.is_empty()
            && (self.damaged.contains_key(&hex::encode(pack.sha256))
                || self.damaged.contains_key(last_part(&data_key_object(&pack.data_key, unencrypted))))
    }
}

fn last_part(key: &str) -> &str {
    key.rsplit('/').next().unwrap_or(key)
}

/// `damaged/<last part of the object's key>/<UTC>-<id>`: that part and the time.
pub fn parse_mark_key(key: &str) -> Option<(&str, DateTime<Utc>)> {
    let (object, name) = key.strip_prefix(DAMAGED)?.split_once('/')?;
    Some((object, parse_dated_name(name)?.0))
}

impl Repository {
    /// Stores a mark; returns its key.
    ///
    /// # Errors
    /// The store's.
    pub async fn put_mark(&self, object: &str, state: MarkState, detail: &str) -> Result<String> {
        let mark = Mark { object: object.to_owned(), state, detail: detail.to_owned(), at: self.clock.now() };
        let json = serde_json::to_vec(&mark).expect("strings and times always serialise");
        Ok(self.put_record(Kind::Mark, &json, |run| mark_key(&mark, run)).await?.key)
    }

    /// What all marks together say: of each object the one that the site stored last counts, then the one whose name is later, then
    /// `damaged`.
    ///
    /// # Errors
    /// The store's. One that is damaged is among [`Marks::unreadable`].
    pub async fn marks(&self) -> Result<Marks> {
        let objects = list_all(self, DAMAGED).await?;
        let named = objects.into_iter().filter_map(|object| {
            let (about, named_at) = parse_mark_key(&object.key)?;
            Some((about.to_owned(), named_at, object))
        });
        let mut read = stream::iter(named)
            .map(|(about, named_at, object)| async move {
                let mark = match self.mark(&object.key).await {
                    Ok(mark) => Ok(mark),
                    // What it was about is gone, and a prune took the mark away since it was listed.
                    Err(RepositoryError::Store(StoreError::NotFound { .. })) => return Ok(None),
                    Err(error) if error.is_damage() => Err(error.to_string()),
                    Err(error) => return Err(error),
                };
                Ok::<_, RepositoryError>(Some((about, (object.modified, named_at), object.key, mark)))
            })
            .buffered(READS);
        let mut newest: BTreeMap<String, (Order, String)> = BTreeMap::new();
        let mut marks = Marks::default();
        while let Some(read) = read.try_next().await? {
            let Some((about, (stored_at, named_at), key, mark)) = read else { continue };
            match mark {
                Ok(mark) => {
                    let order = (stored_at, named_at, mark.state);
                    if newest.get(&about).is_none_or(|(before, _)| *before <= order) {
                        newest.insert(about, (order, mark.detail));
                    }
                }
                Err(detail) => {
                    // Whatever later ones say: it costs room, and trusting what is damaged costs more.
                    newest.insert(
                        about,
                        ((DateTime::<Utc>::MAX_UTC, named_at, MarkState::Damaged), "has a mark that cannot be read".to_owned()),
                    );
                    marks.unreadable.push(PackCheck { key, detail });
                }
            }
        }
        let damaged = newest.into_iter().filter(|(_, ((.., state), _))| *state == MarkState::Damaged);
        marks.damaged = damaged.map(|(about, (_, detail))| (about, detail)).collect();
        Ok(marks)
    }

    async fn mark(&self, key: &str) -> Result<Mark> {
        self.record(Kind::Mark, key, MAX_PIN_BYTES, mark_key).await
    }
}

impl Marks {
    /// Numbers of the packs that they name.
    pub(super) fn quarantined(&self, packs: &[(u32, PackRecord)], unencrypted: bool) -> HashSet<u32> {
        packs.iter().filter(|(_, record)| self.names(record, unencrypted)).map(|(number, _)| *number).collect()
    }
}

fn mark_key(mark: &Mark, run: &super::Id) -> String {
    format!("{DAMAGED}{}/{}", last_part(&mark.object), dated_name(mark.at, &hex::encode(&run[..8])))
}
