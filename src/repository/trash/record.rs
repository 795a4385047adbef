//! Doom records: what prune is going to delete, and after how long. Sealed under the catalogue key, like pins.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    marker::PhantomData,
};

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{SeqAccess, Visitor},
};

use crate::{
    repository::{
        PackRecord, PointName, Repository, RepositoryError,
        error::Result,
        format::{DOOMED, Id, Kind, MAX_DOOM_BYTES},
        point::{dated_name, list_all, parse_dated_name},
        trash::LEAST_GRACE,
    },
    stores::{ObjectStat, StoreError},
};

/// Records read at once: each may have 16 MiB while it is read.
const READS: usize = 4;

/// What one prune doomed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DoomRecord {
    /// The policy whose retention named the points.
    pub policy: String,
    /// When, by the clock of whoever pruned.
    pub at: DateTime<Utc>,
    /// Nothing in it is deleted before the site has had the record for so long. Seconds.
    pub grace_seconds: u64,
    /// Keys of recovery points.
    #[serde(default, deserialize_with = "names::<_, PointKey>")]
    pub points: Vec<String>,
    /// SHA-256 of packs, hexadecimal.
    #[serde(default, deserialize_with = "names::<_, PackHash>")]
    pub packs: Vec<String>,
    /// Ids of data keys, hexadecimal.
    #[serde(default, deserialize_with = "names::<_, KeyId>")]
    pub keys: Vec<String>,
}

/// What may be named in a list of a record.
trait Nameable {
    fn is_one(name: &str) -> bool;
}

struct PointKey;
struct PackHash;
struct KeyId;

impl Nameable for PointKey {
    fn is_one(name: &str) -> bool {
        PointName::parse(name).is_some()
    }
}

impl Nameable for PackHash {
    fn is_one(name: &str) -> bool {
        parse::<32>(name).is_some()
    }
}

impl Nameable for KeyId {
    fn is_one(name: &str) -> bool {
        parse::<16>(name).is_some()
    }
}

/// Reads a list of names, each once, and drops what names nothing: a few stored bytes could else say "" millions of times, and take
/// memory of everybody who opens the repository.
fn names<'de, D: Deserializer<'de>, N: Nameable>(from: D) -> std::result::Result<Vec<String>, D::Error> {
    struct Names<N>(PhantomData<N>);
    impl<'de, N: Nameable> Visitor<'de> for Names<N> {
        type Value = Vec<String>;
        fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
            out.write_str("a list of names")
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<Vec<String>, A::Error> {
            let mut names = BTreeSet::new();
            while let Some(name) = list.next_element::<std::borrow::Cow<'de, str>>()? {
                if N::is_one(&name) {
                    names.insert(name.into_owned());
                }
            }
            Ok(names.into_iter().collect())
        }
    }
    from.deserialize_seq(Names::<N>(PhantomData))
}

impl DoomRecord {
    /// The packs that it names.
    pub fn pack_names(&self) -> impl Iterator<Item = [u8; 32]> {
        self.packs.iter().filter_map(|name| parse(name))
    }

    /// The data keys that it names.
    pub fn key_ids(&self) -> impl Iterator<Item = Id> {
        self.keys.iter().filter_map(|id| parse(id))
    }
}

/// A record as the site has it.
#[derive(Debug, Clone)]
pub struct StoredDoom {
    /// Key of the object.
    pub key: String,
    /// When the site stored it, by the site's own clock.
    pub stored_at: DateTime<Utc>,
    /// What it says, or why it cannot be read. Nobody deletes anything for the sake of a record that cannot be read.
    pub record: std::result::Result<DoomRecord, String>,
}

impl StoredDoom {
    /// When what it names may be deleted, by the site's clock.
    pub fn matures_at(&self) -> DateTime<Utc> {
        let grace = self.record.as_ref().map_or(0, |record| record.grace_seconds);
        // Never sooner than what backups count on, whatever a record says.
        let grace = i64::try_from(grace).ok().and_then(TimeDelta::try_seconds).unwrap_or(TimeDelta::MAX).max(LEAST_GRACE);
        self.stored_at.checked_add_signed(grace).unwrap_or(DateTime::<Utc>::MAX_UTC)
    }
}

/// Everything that is doomed, each with the time at which the earliest record that names it matures.
#[derive(Debug, Clone, Default)]
pub struct Dooms {
    packs: HashMap<[u8; 32], DateTime<Utc>>,
    keys: HashMap<Id, DateTime<Utc>>,
    points: BTreeMap<String, DateTime<Utc>>,
}

impl Dooms {
    /// Of these records.
    pub fn of(records: &[StoredDoom]) -> Self {
        Self::since(records, &BTreeMap::new())
    }

    /// Of these records, where one that the site stored before a point was `held_until` (by its id) does not count for the point:
    /// a pin that ended leaves the point a grace of its own.
    pub fn since(records: &[StoredDoom], held_until: &BTreeMap<String, DateTime<Utc>>) -> Self {
        let mut dooms = Self::default();
        for stored in records {
            let Ok(record) = &stored.record else { continue };
            let matures_at = stored.matures_at();
            let earliest = |known: &mut DateTime<Utc>| *known = (*known).min(matures_at);
            for pack in record.pack_names() {
                dooms.packs.entry(pack).and_modify(earliest).or_insert(matures_at);
            }
            for key in record.key_ids() {
                dooms.keys.entry(key).and_modify(earliest).or_insert(matures_at);
            }
            for point in &record.points {
                let held = PointName::parse(point).and_then(|name| held_until.get(&name.id));
                if held.is_none_or(|held| *held <= stored.stored_at) {
                    dooms.points.entry(point.clone()).and_modify(earliest).or_insert(matures_at);
                }
            }
        }
        dooms
    }

    /// Whether a pack is doomed, or the key that it needs.
    pub fn names(&self, pack: &PackRecord) -> bool {
        self.pack(&pack.sha256).is_some() || self.key(&pack.data_key).is_some()
    }

    /// When a pack matures, if it is doomed.
    pub fn pack(&self, sha256: &[u8; 32]) -> Option<DateTime<Utc>> {
        self.packs.get(sha256).copied()
    }

    /// When a data key matures, if it is doomed.
    pub fn key(&self, id: &Id) -> Option<DateTime<Utc>> {
        self.keys.get(id).copied()
    }

    /// When a point (by its object's key) matures, if it is doomed.
    pub fn point(&self, object: &str) -> Option<DateTime<Utc>> {
        self.points.get(object).copied()
    }
}

fn parse<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    hex::decode_to_slice(text, &mut bytes).ok()?;
    Some(bytes)
}

fn doom_key(record: &DoomRecord, run: &Id) -> String {
    format!("{DOOMED}{}", dated_name(record.at, &hex::encode(&run[..8])))
}

impl Repository {
    /// Stores a doom record; returns what the site says of it.
    ///
    /// # Errors
    /// The store's; [`RepositoryError::Refused`] for a record that no reader would take.
    pub async fn put_doom(&self, record: &DoomRecord) -> Result<ObjectStat> {
        let json = serde_json::to_vec(record).expect("strings and times always serialise");
        Ok(self.put_record(Kind::Doom, &json, |run| doom_key(record, run)).await?.stat)
    }

    /// All doom records, in the order of their keys.
    ///
    /// # Errors
    /// The store's. One that is damaged is among them, and says so.
    pub async fn doom_records(&self) -> Result<Vec<StoredDoom>> {
        let objects = list_all(self, DOOMED).await?;
        let named = objects.into_iter().filter(|object| object.key.strip_prefix(DOOMED).and_then(parse_dated_name).is_some());
        let read = stream::iter(named).map(|object| async move {
            let record = match self.doom_record(&object.key).await {
                Ok(record) => Ok(record),
                // Done with, since it was listed.
                Err(RepositoryError::Store(StoreError::NotFound { .. })) => return Ok(None),
                Err(error) if error.is_damage() => Err(error.to_string()),
                Err(error) => return Err(error),
            };
            Ok(Some(StoredDoom { key: object.key, stored_at: object.modified, record }))
        });
        read.buffered(READS).try_filter_map(|stored| std::future::ready(Ok(stored))).try_collect().await
    }

    async fn doom_record(&self, key: &str) -> Result<DoomRecord> {
        self.record(Kind::Doom, key, MAX_DOOM_BYTES, doom_key).await
    }
}
