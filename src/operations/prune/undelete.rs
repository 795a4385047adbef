//! Bringing a doomed point back within its grace.

use chrono::{DateTime, Utc};

use super::OperationError;
use crate::{
    operations::{PinRequest, pin, pins},
    report::Agent,
    repository::{PinAction, PinRecord, PointName, Repository, StoredDoom, StoredPin, pin_holds},
};

/// Which point comes back.
#[derive(Debug)]
pub struct UndeleteRequest<'a> {
    /// The repository.
    pub repository: &'a Repository,
    /// The point.
    pub point: &'a PointName,
    /// Until when it is pinned; for ever without. Without a pin the next prune would doom it again.
    pub until: Option<DateTime<Utc>>,
    /// Why.
    pub reason: &'a str,
    /// Who says so.
    pub agent: &'a Agent,
    /// The time.
    pub now: DateTime<Utc>,
}

/// Pins a doomed point before its grace is over: whoever prunes then sees the pin before it deletes anything. Once it is brought back, it
/// may be again: whoever was stopped, or never got the answer, ends where he would have.
///
/// # Errors
/// [`OperationError::Refused`] for a point that is not doomed, and for one whose grace is over; those of [`pin`].
pub async fn undelete(request: &UndeleteRequest<'_>) -> Result<PinRecord, OperationError> {
    let UndeleteRequest { repository, point, until, reason, agent, now } = *request;
    let refused = |detail: String| OperationError::Refused { subject: format!("point {}", point.id), detail };
    match pins::doomed(repository, point).await? {
        Some(matures_at) if !pin_holds(repository.store().time().await?, Some(matures_at)) => {
            return Err(refused(format!(
                "its grace has ended or is about to ({matures_at}): a prune may be deleting it, or parts of it. If `farshore points` still lists it, look with `farshore verify` whether it is whole"
            )));
        }
        None if !was_brought_back(repository, point, now).await? => {
            return Err(refused("is not doomed; `farshore pin` keeps a point that retention may remove".to_owned()));
        }
        Some(_) | None => {}
    }
    // What counts is whether the pin was there in time: `pin` asks once more.
    pin(&PinRequest { repository, point, action: PinAction::Pin, until, reason, agent, now }).await
}

/// Whether a pin that was in time answered the newest record that names the point, and one holds still.
async fn was_brought_back(repository: &Repository, point: &PointName, now: DateTime<Utc>) -> Result<bool, OperationError> {
    let records = repository.doom_records().await?;
    let named = |stored: &&StoredDoom| stored.record.as_ref().is_ok_and(|record| record.points.contains(&point.key));
    let Some(newest) = records.iter().filter(named).max_by_key(|stored| stored.stored_at) else { return Ok(false) };
    let pins = repository.pins().await?;
    let is_answer = |stored: &&StoredPin| {
        stored.point == point.id
            && stored.stored_at >= newest.stored_at
            && stored.record.as_ref().is_ok_and(|record| record.action == PinAction::Pin)
    };
    let answered_at = pins.iter().filter(is_answer).map(|stored| stored.stored_at).min();
    let was_in_time = answered_at.is_some_and(|at| pin_holds(at, Some(newest.matures_at())));
    Ok(was_in_time && pins::current(&pins).get(&point.id).is_some_and(|pin| pin.holds(now)))
}
