//! Bringing a doomed point back within its grace.

use chrono::{DateTime, Utc};

use super::OperationError;
use crate::{
    operations::{PinRequest, pin, pins},
    report::Agent,
    repository::{PinAction, PinRecord, PointName, Repository, pin_holds},
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

/// Pins a doomed point before its grace is over: whoever prunes then sees the pin before it deletes anything.
///
/// # Errors
/// [`OperationError::Refused`] for a point that is not doomed, and for one whose grace is over; those of [`pin`].
pub async fn undelete(request: &UndeleteRequest<'_>) -> Result<PinRecord, OperationError> {
    let UndeleteRequest { repository, point, until, reason, agent, now } = *request;
    let refused = |detail: String| OperationError::Refused { subject: format!("point {}", point.id), detail };
    let Some(matures_at) = pins::doomed(repository, point).await? else {
        return Err(refused("is not doomed; `farshore pin` keeps a point that retention may remove".to_owned()));
    };
    if !pin_holds(repository.store().time().await?, Some(matures_at)) {
        return Err(refused(format!(
            "its grace has ended or is about to ({matures_at}): a prune may be deleting it, or parts of it. If `farshore points` still lists it, look with `farshore verify` whether it is whole"
        )));
    }
    // What counts is whether the pin was there in time: `pin` asks once more.
    pin(&PinRequest { repository, point, action: PinAction::Pin, until, reason, agent, now }).await
}
