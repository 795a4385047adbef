//! A bucket that several machines capture together, each a range of its keys: what must be the same for all of them.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{as_of::Window, cuts, pages::PAGE_KEYS, ranges::Span, reading::Reading};
use crate::{
    clock::{Moment, SharedClock},
    sources::{ConsistencyTime, Shard, ShardPlan, ShardPlanning, SourceError},
    stores::{SharedStore, StoreError},
};

/// What is found once for a capture, however many machines share it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Common {
    /// T.
    pub(super) at: DateTime<Utc>,
    /// A database fixed it.
    pub(super) is_asked_for: bool,
    /// Where it lies on the bucket's clock.
    pub(super) window: Window,
}

impl Common {
    /// Asks the bucket.
    pub(super) async fn found(
        store: &SharedStore,
        manner: &Reading,
        consistent_at: Option<ConsistencyTime>,
        clock: &SharedClock,
    ) -> Result<Self, StoreError> {
        let beginning = Moment::now(clock);
        let time = consistent_at.unwrap_or(ConsistencyTime { at: clock.now(), from: beginning, until: beginning });
        let window = window(store, manner, &time, clock).await?;
        Ok(Self { at: time.at, is_asked_for: consistent_at.is_some(), window })
    }

    /// As it was planned.
    pub(super) fn of(shard: &Shard) -> Result<Self, SourceError> {
        serde_json::from_value(shard.context.clone())
            .map_err(|error| SourceError::Malformed { subject: "the plan of the shards".to_owned(), detail: error.to_string() })
    }
}

/// Where T lies on the bucket's clock.
async fn window(store: &SharedStore, reading: &Reading, time: &ConsistencyTime, clock: &SharedClock) -> Result<Window, StoreError> {
    let asked = Moment::now(clock);
    let shown = if reading.tells_time() { store.time().await } else { Ok(clock.now()) };
    match shown {
        Ok(shown) => Ok(Window::of(time, shown, &asked, clock)),
        // This machine's clock is the next best.
        Err(StoreError::Unsupported { .. } | StoreError::Corrupt { .. }) => Ok(Window::of(time, clock.now(), &asked, clock)),
        Err(error) => Err(error),
    }
}

/// Where to part the keys, and what is common to all parts.
pub(super) async fn plan(store: &SharedStore, planning: ShardPlanning<'_>) -> Result<ShardPlan, SourceError> {
    let manner = Reading::look(store).await?;
    let common = Common::found(store, &manner, planning.consistent_at, planning.clock).await?;
    let cuts = match planning.earlier_cuts.len() + 1 >= planning.shards as usize {
        true => planning.earlier_cuts,
        false => cuts::find(store, planning.shards, PAGE_KEYS).await?.into_iter().map(String::into_bytes).collect(),
    };
    let context = serde_json::to_value(common).expect("times always serialise");
    Ok(ShardPlan { cuts, context })
}

/// The keys of a shard.
pub(super) fn span(shard: &Shard) -> Result<Span, SourceError> {
    let key = |path: &Option<Vec<u8>>| {
        path.clone().map(String::from_utf8).transpose().map_err(|error| SourceError::Malformed {
            subject: "the plan of the shards".to_owned(),
            detail: format!("a cut is no key: {error}"),
        })
    };
    Ok(Span { after: key(&shard.after)?, until: key(&shard.until)? })
}

/// Facts that are no counts of the shards, and yet numbers.
const NOT_SUMMED: [&str; 2] = ["seconds", "listing_seconds"];

/// The facts of the whole from those of its parts, in their order: counts are added up, times are the longest one's, everything else is the
/// first part's that has it; how it was read is said of the whole. `context` is the plan's: [`ShardPlan::context`].
pub fn merged_facts(parts: &[Value], context: &Value) -> Value {
    let mut merged = Map::new();
    for (name, value) in parts.iter().filter_map(Value::as_object).flatten() {
        let before = merged.get(name).cloned();
        let value = match (before, value) {
            (Some(Value::Number(sum)), Value::Number(more)) if NOT_SUMMED.contains(&name.as_str()) => {
                sum.as_f64().unwrap_or(0.0).max(more.as_f64().unwrap_or(0.0)).into()
            }
            (Some(Value::Number(sum)), Value::Number(more)) => {
                (sum.as_u64().unwrap_or(0).saturating_add(more.as_u64().unwrap_or(0))).into()
            }
            (Some(Value::Bool(any)), Value::Bool(more)) => (any | more).into(),
            (Some(before), _) if !before.is_null() => before,
            (_, value) => value.clone(),
        };
        merged.insert(name.clone(), value);
    }
    let manner = merged.get("versioning").and_then(Value::as_str).and_then(Reading::of_word);
    let later = merged.get("modified_after_consistency").and_then(Value::as_u64);
    if let (Some(manner), Some(later), Ok(common)) = (manner, later, serde_json::from_value::<Common>(context.clone())) {
        merged.insert("reading".to_owned(), manner.note(common.at, common.is_asked_for, later).into());
    }
    Value::Object(merged)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Common, DateTime, Value, Window, merged_facts};

    #[test]
    fn counts_are_added_up_and_times_are_the_longest() {
        let first = json!({ "objects": 3, "seconds": 2.5, "place": "s3://b", "versioned": false, "as_of": null, "gone": 1 });
        let second =
            json!({ "objects": 4, "seconds": 1.5, "place": "s3://b", "versioned": true, "as_of": { "from": 1 }, "gone": 0 });
        let whole =
            json!({ "objects": 7, "seconds": 2.5, "place": "s3://b", "versioned": true, "as_of": { "from": 1 }, "gone": 1 });
        assert_eq!(merged_facts(&[first.clone(), second], &Value::Null), whole);
        assert_eq!(merged_facts(std::slice::from_ref(&first), &Value::Null), first);
    }

    #[test]
    fn how_it_was_read_is_said_of_the_whole() {
        let part = |later: u64| json!({ "versioning": "enabled", "modified_after_consistency": later, "reading": "of a part" });
        let at = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let context = serde_json::to_value(Common { at, is_asked_for: true, window: Window { from: at, until: at } }).unwrap();
        let said = merged_facts(&[part(2), part(3)], &context)["reading"].as_str().unwrap().to_owned();
        assert!(said.contains("by versions; 5 objects were"), "{said}");
    }
}
