//! Recipient sets: who the recipients are, generation after generation.
//!
//! Generation 0 is what `repository.json` says. Each later one is an object of its own, sealed under the catalogue key and
//! written only if absent, so that a generation has one winner. Agents hold the catalogue key, and could write a set as well: so
//! a set only tells what *is*, and never whom anything is wrapped to; that the policy says, or the operator.

use std::{cmp::Reverse, fmt};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{Recipients, random, sha256};
use crate::{
    repository::{
        PackCheck, Repository, RepositoryError,
        error::{Result, reading},
        format::{Header, Id, Kind, MAX_KEY_BYTES, RECIPIENTS},
        index::{open_object, seal_object},
        point::list_all,
    },
    stores::{GetOptions, PutOptions, StoreError, read_all},
};

/// Highest generation that a name has room for.
const LAST_GENERATION: u32 = 99_999_999;

/// Which set: its generation, and an id that tells two sets apart of which a site kept only one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SetName {
    /// Counts from 0.
    pub generation: u32,
    /// The first half of the run in the set's header; zero for generation 0.
    pub id: [u8; 8],
}

impl SetName {
    /// The set of `repository.json`.
    pub const FIRST: Self = Self { generation: 0, id: [0; 8] };

    /// Reads `<8 digits>-<16 hexadecimal digits>`; the first set has no such name.
    pub fn parse(text: &str) -> Option<Self> {
        let (generation, id) = text.split_once('-')?;
        let mut name = Self { generation: generation.parse().ok().filter(|number| *number > 0)?, id: [0; 8] };
        hex::decode_to_slice(id, &mut name.id).ok()?;
        (name.to_string() == text).then_some(name)
    }
}

impl fmt::Display for SetName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:08}-{}", self.generation, hex::encode(self.id))
    }
}

/// One recipient.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetMember {
    /// The public key (`age1…`).
    pub key: String,
    /// Whose it is, in the operator's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// When it became a recipient.
    pub added_at: DateTime<Utc>,
}

/// Who could open what was wrapped for this generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecipientSet {
    /// Which one.
    pub name: SetName,
    /// When it was written.
    pub made_at: DateTime<Utc>,
    /// Those who open everything, sorted by key; nothing where it is not recorded (generation 0 of an early repository).
    pub recipients: Option<Vec<SetMember>>,
    /// Public keys of those who open the catalogue key only, sorted; nothing where it is not recorded.
    pub agents: Option<Vec<String>>,
}

/// As stored.
#[derive(Debug, Serialize, Deserialize)]
struct StoredSet {
    generation: u32,
    made_at: DateTime<Utc>,
    recipients: Vec<SetMember>,
    agents: Vec<String>,
}

impl RecipientSet {
    /// Reads the plain text of the set of this name. `place` names it in errors.
    ///
    /// # Errors
    /// [`RepositoryError::Damaged`].
    pub fn parse(place: &str, name: SetName, plain: &[u8]) -> Result<Self> {
        let damaged = |detail: String| RepositoryError::Damaged { place: place.to_owned(), detail };
        let stored: StoredSet = serde_json::from_slice(plain).map_err(|error| damaged(error.to_string()))?;
        if stored.generation != name.generation {
            return Err(damaged(format!("holds generation {} instead", stored.generation)));
        }
        Ok(Self { name, made_at: stored.made_at, recipients: Some(stored.recipients), agents: Some(stored.agents) })
    }

    /// The recipients' public keys, sorted; nothing where they are not recorded.
    pub fn keys(&self) -> Option<Vec<String>> {
        Some(self.recipients.as_ref()?.iter().map(|member| member.key.clone()).collect())
    }

    /// Whether somebody of this set is not among `readers`, or (for the catalogue key) `agents`: then a wrap for this set opens
    /// to one who should open nothing any more. What is not known counts as such.
    pub(super) fn has_outsiders(&self, readers: &[String], agents: Option<&[String]>) -> bool {
        let reader = self.keys().is_none_or(|keys| keys.iter().any(|key| !readers.contains(key)));
        let agent = agents.is_some_and(|now| self.agents.as_ref().is_none_or(|own| own.iter().any(|key| !now.contains(key))));
        reader || agent
    }
}

/// All sets there are.
#[derive(Debug, Clone)]
pub(super) struct Sets {
    /// Those that can be read, the oldest first; generation 0 is always there.
    pub(super) sound: Vec<RecipientSet>,
    /// Those that cannot, by generation.
    pub(super) damaged: Vec<(u32, PackCheck)>,
}

impl Sets {
    /// The newest one that can be read.
    pub(super) fn newest_sound(&self) -> &RecipientSet {
        self.sound.last().expect("generation 0 is always there")
    }

    /// The newest one; nothing if that cannot be read.
    pub(super) fn newest(&self) -> Option<&RecipientSet> {
        let newest = self.newest_sound();
        self.damaged.iter().all(|(generation, _)| *generation < newest.name.generation).then_some(newest)
    }

    /// Whether the newest set names the same as the one before it: only a rotation that wraps everything anew writes such a set.
    pub(super) fn newest_was_made_anew(&self) -> bool {
        match self.sound.as_slice() {
            [.., before, newest] => {
                newest.keys().is_some()
                    && newest.keys() == before.keys()
                    && newest.agents.is_some()
                    && newest.agents == before.agents
            }
            _ => false,
        }
    }

    pub(super) fn last_generation(&self) -> u32 {
        let damaged = self.damaged.iter().map(|(generation, _)| *generation).max().unwrap_or(0);
        damaged.max(self.newest_sound().name.generation)
    }

    pub(super) fn get(&self, name: &SetName) -> Option<&RecipientSet> {
        self.sound.iter().find(|set| set.name == *name)
    }
}

fn set_key(generation: u32) -> String {
    format!("{RECIPIENTS}{generation:08}")
}

/// The generation that an object's key names; nothing for one that is no set, or is written in another way than ours.
pub fn parse_set_key(key: &str) -> Option<u32> {
    let generation = key.strip_prefix(RECIPIENTS)?.parse().ok()?;
    (generation > 0 && set_key(generation) == key).then_some(generation)
}

fn set_id(run: &Id) -> [u8; 8] {
    let mut id = [0; 8];
    id.copy_from_slice(&run[..8]);
    id
}

impl Repository {
    fn first_set(&self) -> RecipientSet {
        let made_at = self.file.created_at;
        let member = |key: &String| SetMember { key: key.clone(), name: None, added_at: made_at };
        let recipients = (!self.file.recipients.is_empty()).then(|| self.file.recipients.iter().map(member).collect());
        RecipientSet { name: SetName::FIRST, made_at, recipients, agents: self.file.agents.clone() }
    }

    /// Generations that the site has beside 0, the newest first.
    async fn generations(&self) -> Result<Vec<u32>> {
        let listed = list_all(self, RECIPIENTS).await?;
        let mut found: Vec<u32> = listed.iter().filter_map(|object| parse_set_key(&object.key)).collect();
        found.sort_by_key(|generation| Reverse(*generation));
        Ok(found)
    }

    async fn read_set(&self, generation: u32) -> Result<RecipientSet> {
        let key = set_key(generation);
        let place = format!("{}/{key}", self.store.describe());
        let bytes = read_all(self.store.as_ref(), &key, GetOptions::default(), MAX_KEY_BYTES).await.map_err(reading)?;
        let (header, plain) = open_object(&place, &bytes, Kind::RecipientSet, &self.catalogue)?;
        RecipientSet::parse(&place, SetName { generation, id: set_id(&header.run) }, &plain)
    }

    /// The newest recipient set.
    ///
    /// # Errors
    /// The store's; [`RepositoryError::Damaged`] if that set cannot be read.
    pub async fn newest_recipients(&self) -> Result<RecipientSet> {
        match self.generations().await?.first() {
            None => Ok(self.first_set()),
            Some(newest) => self.read_set(*newest).await.map_err(|error| match error {
                RepositoryError::Damaged { place, detail } => RepositoryError::Damaged {
                    place,
                    detail: format!("{detail}; `farshore key rotate POLICY --identity FILE` writes a sound set after it"),
                },
                other => other,
            }),
        }
    }

    /// Reads every recipient set.
    ///
    /// # Errors
    /// The store's.
    pub(super) async fn recipient_sets(&self) -> Result<Sets> {
        let mut sets = Sets { sound: vec![self.first_set()], damaged: Vec::new() };
        for generation in self.generations().await?.into_iter().rev() {
            match self.read_set(generation).await {
                Ok(set) => sets.sound.push(set),
                Err(error) if error.is_damage() => {
                    sets.damaged.push((generation, PackCheck { key: set_key(generation), detail: error.to_string() }));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(sets)
    }

    /// Refuses unless `recipients`, whom a policy names, are those of the newest set, which is returned: whoever is new could
    /// open neither the catalogue nor what is there already, and whoever left would go on reading.
    ///
    /// # Errors
    /// [`RepositoryError::OtherRecipients`]; the store's; [`RepositoryError::Damaged`].
    pub(in crate::repository) async fn settled_set(&self, recipients: &Recipients) -> Result<SetName> {
        if matches!(recipients, Recipients::Nobody) {
            return Ok(SetName::FIRST);
        }
        let newest = self.newest_recipients().await?;
        let named = recipients.public_keys();
        let Some(there) = newest.keys() else { return Ok(newest.name) };
        if there == named {
            return Ok(newest.name);
        }
        Err(RepositoryError::OtherRecipients {
            place: self.store.describe(),
            generation: newest.name.generation,
            policy: "POLICY".to_owned(),
            missing: named.iter().filter(|key| !there.contains(key)).cloned().collect(),
            unnamed: there.into_iter().filter(|key| !named.contains(key)).collect(),
        })
    }

    /// Whether `recipients`, whom a policy names, are those that a backup may wrap its key to.
    ///
    /// # Errors
    /// [`RepositoryError::OtherRecipients`]; the store's; [`RepositoryError::Damaged`].
    pub async fn check_recipients(&self, recipients: &Recipients) -> Result<()> {
        self.settled_set(recipients).await.map(|_| ())
    }

    /// Stores a set as this generation, unless there is one; returns the one that is there now.
    pub(super) async fn put_set(&self, generation: u32, recipients: Vec<SetMember>, agents: Vec<String>) -> Result<RecipientSet> {
        let key = set_key(generation);
        if generation > LAST_GENERATION {
            return Err(RepositoryError::Damaged {
                place: format!("{}/{}", self.store.describe(), set_key(LAST_GENERATION)),
                detail: "is the last generation that there can be, which nobody comes to by rotating: a false set, written by a holder of the catalogue key. Look at it with `farshore key list`, and remove the object".to_owned(),
            });
        }
        let run: Id = random();
        let header = Header { kind: Kind::RecipientSet, catalogue_key: self.catalogue.id, run, data_key: [0; 16] };
        let stored = StoredSet { generation, made_at: self.clock.now(), recipients, agents };
        let json = serde_json::to_vec(&stored).expect("strings, a number and times always serialise");
        let bytes = seal_object(&header, &self.catalogue.sealing_key(&run), &json);
        let options = PutOptions { if_absent: true, sha256: Some(sha256(&bytes)), ..PutOptions::default() };
        match self.store.put(&key, bytes.into(), options).await {
            // Read back in any case: a site may let two writers believe that they won, and keeps one.
            Ok(_) | Err(StoreError::AlreadyExists { .. }) => self.read_set(generation).await,
            Err(error) => Err(error.into()),
        }
    }
}
