//! Pinning a point, so that no rule of retention removes it; and which of the records about a point counts.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::OperationError;
use crate::{
    report::{Agent, printable},
    repository::{Dooms, PinAction, PinRecord, PointName, Repository, StoredPin, pin_holds},
    stores::StoreError,
};

/// What is said about a point.
#[derive(Debug)]
pub struct PinRequest<'a> {
    /// The repository.
    pub repository: &'a Repository,
    /// The point, which must exist.
    pub point: &'a PointName,
    /// Whether it is pinned or no longer.
    pub action: PinAction,
    /// Until when; for ever without.
    pub until: Option<DateTime<Utc>>,
    /// Why: what somebody wants to read who wonders in a year.
    pub reason: &'a str,
    /// Who says so.
    pub agent: &'a Agent,
    /// The time.
    pub now: DateTime<Utc>,
}

/// The pin of a point, as lists show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PinSummary {
    /// Until when it holds; for ever without.
    pub until: Option<DateTime<Utc>>,
    /// Why.
    pub reason: String,
    /// `user@host` of who made it; nothing if the record cannot be read.
    pub by: Option<String>,
    /// When it was made, by the clock of who made it.
    pub at: DateTime<Utc>,
}

impl PinSummary {
    /// Whether it holds at `now`.
    pub fn holds(&self, now: DateTime<Utc>) -> bool {
        self.until.is_none_or(|until| until > now)
    }
}

/// Records on the site that a point is pinned, or no longer.
///
/// # Errors
/// [`OperationError::Refused`] for an empty reason, a time that has passed, taking back a pin (or a giving up) that there is not, and a pin that comes
/// too late for a doomed point; the store's.
pub async fn pin(request: &PinRequest<'_>) -> Result<PinRecord, OperationError> {
    let refused =
        |detail: &str| OperationError::Refused { subject: format!("point {}", request.point.id), detail: detail.to_owned() };
    if request.reason.trim().is_empty() {
        return Err(refused("a pin needs a --reason: somebody will want to know it when nobody remembers"));
    }
    if request.until.is_some_and(|until| until <= request.now) {
        return Err(refused("was to be pinned until a time that has passed; give --until a later one"));
    }
    if request.action == PinAction::Unpin {
        let records = request.repository.pins().await?;
        let id = &request.point.id;
        if !current(&records).contains_key(id) && !given_up(&records).contains_key(id) {
            return Err(refused("is not pinned; `farshore points` shows which are"));
        }
    }
    let record = PinRecord {
        action: request.action,
        point: request.point.id.clone(),
        policy: request.point.policy.clone(),
        until: request.until,
        reason: request.reason.trim().to_owned(),
        user: request.agent.user.clone(),
        host: request.agent.host.clone(),
        at: request.now,
    };
    let doomed = doomed(request.repository, request.point).await?;
    request.repository.put_pin(&record).await?;
    if request.action == PinAction::Pin {
        check_in_time(request, doomed).await?;
    }
    Ok(record)
}

/// When a point matures, if it is doomed and was not pinned since.
pub(super) async fn doomed(repository: &Repository, point: &PointName) -> Result<Option<DateTime<Utc>>, OperationError> {
    Ok(Dooms::since(&repository.doom_records().await?, &held_until(&repository.pins().await?)).point(&point.key))
}

/// A pin keeps a point that was doomed before only if it was stored before the grace was over: whoever prunes then sees it before it
/// deletes anything. What is doomed after that matures late enough.
async fn check_in_time(request: &PinRequest<'_>, doomed: Option<DateTime<Utc>>) -> Result<(), OperationError> {
    let PinRequest { repository, point, .. } = request;
    let refused = |detail: String| OperationError::Refused { subject: format!("point {}", point.id), detail };
    if let Some(matures_at) = doomed
        && !pin_holds(repository.store().time().await?, doomed)
    {
        return Err(refused(format!(
            "when the pin was stored, its grace had ended or was about to ({matures_at}): a prune may be deleting it, or parts of it. If `farshore points` still lists it, look with `farshore verify` whether it is whole"
        )));
    }
    match repository.store().stat(&point.key).await {
        Ok(_) => Ok(()),
        Err(StoreError::NotFound { .. }) => {
            Err(refused("is gone: it was deleted meanwhile. `farshore points` shows which points there are".to_owned()))
        }
        Err(error) => Err(error.into()),
    }
}

/// The pin of one point, if one was made and not taken back.
///
/// # Errors
/// The store's.
pub async fn pinned(repository: &Repository, point: &str) -> Result<Option<PinSummary>, OperationError> {
    Ok(current(&repository.pins().await?).remove(point))
}

/// Until when each point that was ever pinned was held by that: the end of its pin, or when the pin was taken back, by the site's
/// clock. What was decided about the point before then does not count any more, nor what was decided before it was given up: either
/// leaves it a grace of its own.
pub(super) fn held_until(records: &[StoredPin]) -> BTreeMap<String, DateTime<Utc>> {
    let until = |stored: &StoredPin| match &stored.record {
        Ok(record) if record.action == PinAction::Unpin => stored.stored_at,
        Ok(record) => record.until.unwrap_or(DateTime::<Utc>::MAX_UTC),
        Err(_) => DateTime::<Utc>::MAX_UTC,
    };
    let mut held: BTreeMap<String, DateTime<Utc>> =
        newest(pins(records)).into_iter().map(|(point, stored)| (point.to_owned(), until(stored))).collect();
    for stored in newest(records).into_values().filter(|stored| gives_up(stored)) {
        let until = held.entry(stored.point.clone()).or_insert(stored.stored_at);
        *until = (*until).max(stored.stored_at);
    }
    held
}

fn gives_up(stored: &StoredPin) -> bool {
    stored.record.as_ref().is_ok_and(|record| record.action == PinAction::GiveUp)
}

/// What was said about keeping points. Giving one up takes no pin back.
fn pins(records: &[StoredPin]) -> impl Iterator<Item = &StoredPin> {
    records.iter().filter(|stored| !gives_up(stored))
}

/// The points that were given up, by their ids, and why; not those that were pinned or unpinned since.
pub(super) fn given_up(records: &[StoredPin]) -> BTreeMap<String, String> {
    let why = |stored: &StoredPin| {
        let record = stored.record.as_ref().ok().filter(|record| record.action == PinAction::GiveUp)?;
        Some((stored.point.clone(), format!("{} ({}@{})", record.reason, record.user, record.host)))
    };
    newest(records).into_values().filter_map(why).collect()
}

/// Of the records about a point the newest counts, by the site's time. Of several that the site stored at the same time: the one
/// whose own name is later; then a pin rather than its end, and the pin that holds longer. A record that cannot be read counts
/// as a pin for ever: nobody can say that it was none.
fn newest<'a>(records: impl IntoIterator<Item = &'a StoredPin>) -> BTreeMap<&'a str, &'a StoredPin> {
    let rank = |stored: &StoredPin| {
        let holds = match &stored.record {
            Err(_) => (true, true, None),
            Ok(record) => (record.action == PinAction::Pin, record.until.is_none(), record.until),
        };
        (stored.stored_at, stored.named_at, holds, stored.key.clone())
    };
    let mut newest: BTreeMap<&str, &StoredPin> = BTreeMap::new();
    for stored in records {
        if newest.get(stored.point.as_str()).is_none_or(|other| rank(other) < rank(stored)) {
            newest.insert(&stored.point, stored);
        }
    }
    newest
}

/// The pins of all points, by their ids: those that hold or have run out, none of those that were taken back.
pub(super) fn current(records: &[StoredPin]) -> BTreeMap<String, PinSummary> {
    newest(pins(records)).into_iter().filter_map(|(point, stored)| Some((point.to_owned(), summary(stored)?))).collect()
}

fn summary(stored: &StoredPin) -> Option<PinSummary> {
    match &stored.record {
        Err(detail) => Some(PinSummary {
            until: None,
            reason: format!("its record cannot be read, so it counts as pinned: {}", printable(detail)),
            by: None,
            at: stored.named_at,
        }),
        Ok(record) if record.action != PinAction::Pin => None,
        Ok(record) => Some(PinSummary {
            until: record.until,
            by: Some(format!("{}@{}", record.user, record.host)),
            reason: record.reason.clone(),
            at: record.at,
        }),
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::{PinAction, PinRecord, StoredPin, current, given_up, held_until};

    /// A record stored and named at these seconds: `unpin`, `give up`, `forever`, `damaged`, or the second until which it pins.
    fn stored(key: &str, stored: i64, named: i64, what: &str) -> StoredPin {
        let at = |second| DateTime::from_timestamp(1_795_000_000 + second, 0).unwrap();
        let record = PinRecord {
            action: match what {
                "unpin" => PinAction::Unpin,
                "give up" => PinAction::GiveUp,
                _ => PinAction::Pin,
            },
            point: "p".to_owned(),
            policy: "sys".to_owned(),
            until: what.parse().ok().map(at),
            reason: key.to_owned(),
            user: "u".to_owned(),
            host: "h".to_owned(),
            at: at(named),
        };
        let record = if what == "damaged" { Err("a bit was flipped".to_owned()) } else { Ok(record) };
        StoredPin { point: "p".to_owned(), key: key.to_owned(), stored_at: at(stored), named_at: at(named), record }
    }

    #[test]
    fn the_newest_record_counts_by_the_time_of_the_site_and_ties_go_to_what_holds_longer() {
        for (name, records, counts) in [
            ("the last pin", vec![stored("a", 1, 1, "500"), stored("b", 2, 2, "100")], Some("b")),
            ("a clock that is ahead does not win", vec![stored("a", 1, 900, "500"), stored("b", 2, 2, "100")], Some("b")),
            ("taken back", vec![stored("a", 1, 1, "forever"), stored("b", 2, 2, "unpin")], None),
            ("and pinned anew", vec![stored("a", 1, 1, "unpin"), stored("b", 2, 2, "7")], Some("b")),
            ("stored at one time: the name decides", vec![stored("b", 2, 1, "forever"), stored("a", 2, 2, "unpin")], None),
            ("then a pin rather than its end", vec![stored("a", 2, 2, "7"), stored("b", 2, 2, "unpin")], Some("a")),
            ("then the longer one", vec![stored("a", 2, 2, "8"), stored("b", 2, 2, "7")], Some("a")),
            ("and for ever before all", vec![stored("a", 2, 2, "forever"), stored("b", 2, 2, "7")], Some("a")),
            ("then the key", vec![stored("b", 2, 2, "7"), stored("a", 2, 2, "7")], Some("b")),
            ("none", vec![], None),
        ] {
            let backwards: Vec<_> = records.iter().rev().cloned().collect();
            for records in [records, backwards] {
                assert_eq!(current(&records).get("p").map(|pin| pin.reason.as_str()), counts, "{name}");
            }
        }
    }

    #[test]
    fn giving_a_point_up_takes_no_pin_back_and_whatever_is_said_of_the_point_after_it_counts() {
        let at = |second: i64| DateTime::from_timestamp(1_795_000_000 + second, 0).unwrap();
        let pinned = stored("a", 1, 1, "500");
        for (name, records, is_given_up, is_pinned, held) in [
            ("given up", vec![stored("b", 2, 2, "give up")], true, false, Some(2)),
            ("and pinned: the pin holds", vec![pinned.clone(), stored("b", 2, 2, "give up")], true, true, Some(500)),
            ("pinned since", vec![stored("b", 2, 2, "give up"), stored("c", 3, 3, "500")], false, true, Some(500)),
            ("unpinned since", vec![stored("b", 2, 2, "give up"), stored("c", 3, 3, "unpin")], false, false, Some(3)),
            ("a pin at the same time", vec![stored("a", 2, 2, "500"), stored("b", 2, 2, "give up")], false, true, Some(500)),
            ("a pin that ended before", vec![stored("a", 1, 1, "2"), stored("b", 3, 3, "give up")], true, true, Some(3)),
            ("again", vec![stored("a", 1, 1, "unpin"), stored("b", 2, 2, "give up")], true, false, Some(2)),
        ] {
            assert_eq!(given_up(&records).contains_key("p"), is_given_up, "{name}");
            assert_eq!(current(&records).contains_key("p"), is_pinned, "{name}");
            assert_eq!(held_until(&records).get("p").copied(), held.map(at), "{name}");
        }
    }

    #[test]
    fn a_record_that_cannot_be_read_holds_for_ever_until_a_newer_one_is_there() {
        let pin = current(&[stored("a", 1, 1, "unpin"), stored("b", 2, 2, "damaged")]).remove("p").unwrap();
        assert!(pin.until.is_none() && pin.by.is_none() && pin.reason.contains("a bit was flipped"), "{pin:?}");
        assert!(current(&[stored("b", 2, 2, "damaged"), stored("c", 3, 3, "unpin")]).is_empty());
    }
}
