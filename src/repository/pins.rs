//! Pins: records that a point is to be kept whatever retention says, or no longer; and that one which is lost is given up.
//!
//! Append-only, like everything here: a pin is never changed or removed, a further record takes its place. They are sealed under
//! the catalogue key, so that whoever prunes can read them with the agent's key alone, and bound to their names: none can be
//! passed off as another point's. Which record counts is decided in operations.

use chrono::{DateTime, Utc};
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};

use super::{
    Repository,
    error::Result,
    format::{Id, Kind, MAX_PIN_BYTES, PINS},
    json_record::never_removed,
    point::{dated_name, list_all, parse_dated_name},
};

/// Records read at once.
const READS: usize = 8;

/// What a record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PinAction {
    /// Keep the point.
    Pin,
    /// Forget about earlier pins.
    Unpin,
    /// The point is lost: no rule keeps it any more, as long as what it needs cannot be told. A pin keeps it all the same.
    #[serde(rename = "give-up")]
    GiveUp,
}

/// What was said about a point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinRecord {
    /// Which of them.
    pub action: PinAction,
    /// Id of the point.
    pub point: String,
    /// Name of its policy.
    pub policy: String,
    /// Until when a pin holds; for ever without.
    #[serde(default)]
    pub until: Option<DateTime<Utc>>,
    /// Why.
    pub reason: String,
    /// Name of the user who said it.
    pub user: String,
    /// Name of the machine he said it on.
    pub host: String,
    /// When he said it, by that machine's clock.
    pub at: DateTime<Utc>,
}

/// A record as the site has it.
#[derive(Debug, Clone)]
pub struct StoredPin {
    /// Id of the point, from the object's name.
    pub point: String,
    /// Key of the object.
    pub key: String,
    /// When the site stored it, by the site's own clock.
    pub stored_at: DateTime<Utc>,
    /// The time in the object's name.
    pub named_at: DateTime<Utc>,
    /// What it says, or why it cannot be read.
    pub record: std::result::Result<PinRecord, String>,
}

/// `pins/<point>/<UTC>-<id>`: point, time and id.
pub fn parse_pin_key(key: &str) -> Option<(&str, DateTime<Utc>, &str)> {
    let (point, name) = key.strip_prefix(PINS)?.split_once('/')?;
    let (time, id) = parse_dated_name(name)?;
    Some((point, time, id))
}

fn pin_key(record: &PinRecord, run: &Id) -> String {
    format!("{PINS}{}/{}", record.point, dated_name(record.at, &hex::encode(&run[..8])))
}

impl Repository {
    /// Stores a record about the point `name`; returns its key. The record must be about that point.
    ///
    /// # Errors
    /// The store's.
    pub async fn put_pin(&self, record: &PinRecord) -> Result<String> {
        let json = serde_json::to_vec(record).expect("strings and times always serialise");
        Ok(self.put_record(Kind::Pin, &json, |run| pin_key(record, run)).await?.key)
    }

    /// All records about all points, in the order of their keys.
    ///
    /// # Errors
    /// The store's. One that is damaged is among them, and says so.
    pub async fn pins(&self) -> Result<Vec<StoredPin>> {
        let objects = list_all(self, PINS).await?;
        let named = objects.into_iter().filter_map(|object| {
            let (point, named_at, _) = parse_pin_key(&object.key)?;
            Some((point.to_owned(), named_at, object))
        });
        let read = stream::iter(named).map(|(point, named_at, object)| async move {
            let record = match self.pin(&object.key).await {
                Ok(record) => Ok(record),
                Err(error) if error.is_damage() => Err(error.to_string()),
                Err(error) => return Err(error),
            };
            Ok(StoredPin { point, key: object.key, stored_at: object.modified, named_at, record })
        });
        read.buffered(READS).try_collect().await
    }

    async fn pin(&self, key: &str) -> Result<PinRecord> {
        self.record(Kind::Pin, key, MAX_PIN_BYTES, pin_key).await.map_err(never_removed)
    }
}
