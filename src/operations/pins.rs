//! Pinning a point, so that no rule of retention removes it; and which of the records about a point counts.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::OperationError;
use crate::{
    report::{Agent, printable},
    repository::{PinAction, PinRecord, PointName, Repository, StoredPin},
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
/// [`OperationError::Refused`] for an empty reason, a time that has passed, and taking back a pin that there is not; the store's.
pub async fn pin(request: &PinRequest<'_>) -> Result<PinRecord, OperationError> {
    let refused = |detail: &str| OperationError::Refused {
        subject: format!("point {}", request.point.id),
        detail: detail.to_owned(),
    };
    if request.reason.trim().is_empty() {
        return Err(refused("a pin needs a --reason: somebody will want to know it when nobody remembers"));
    }
    if request.until.is_some_and(|until| until <= request.now) {
        return Err(refused("was to be pinned until a time that has passed; give --until a later one"));
    }
    if request.action == PinAction::Unpin && !current(request.repository).await?.contains_key(&request.point.id) {
        return Err(refused("is not pinned; `farshore points` shows which are"));
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
    request.repository.put_pin(request.point, &record).await?;
    Ok(record)
}

/// The pins of all points, by their ids, as far as they were not taken back.
///
/// # Errors
/// The store's.
pub(super) async fn current(repository: &Repository) -> Result<BTreeMap<String, PinSummary>, OperationError> {
    Ok(counting(repository.pins().await?))
}

/// Of the records about a point the newest counts, by the site's time. Of several that the site stored at the same time: the one
/// whose own name is later; then a pin rather than its end, and the pin that holds longer. A record that cannot be read counts
/// as a pin for ever: nobody can say that it was none.
fn counting(records: Vec<StoredPin>) -> BTreeMap<String, PinSummary> {
    let rank = |stored: &StoredPin| {
        let holds = match &stored.record {
            Err(_) => (true, true, None),
            Ok(record) => (record.action == PinAction::Pin, record.until.is_none(), record.until),
        };
        (stored.stored_at, stored.named_at, holds, stored.key.clone())
    };
    let mut newest: BTreeMap<String, StoredPin> = BTreeMap::new();
    for stored in records {
        if newest.get(&stored.point).is_none_or(|other| rank(other) < rank(&stored)) {
            newest.insert(stored.point.clone(), stored);
        }
    }
    newest.into_iter().filter_map(|(point, stored)| Some((point, summary(stored)?))).collect()
}

fn summary(stored: StoredPin) -> Option<PinSummary> {
    match stored.record {
        Err(detail) => Some(PinSummary {
            until: None,
            reason: format!("its record cannot be read, so it counts as pinned: {}", printable(&detail)),
            by: None,
            at: stored.named_at,
        }),
        Ok(record) if record.action == PinAction::Unpin => None,
        Ok(record) => Some(PinSummary {
            until: record.until,
            by: Some(format!("{}@{}", record.user, record.host)),
            reason: record.reason,
            at: record.at,
        }),
    }
}
