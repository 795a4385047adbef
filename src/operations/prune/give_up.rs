//! Giving up a point that is lost: one that cannot be followed keeps every pack from being pruned for as long as a rule keeps it.
//!
//! That somebody said so is a record among the pins. It deletes nothing: prune finds out for itself, each time, whether the point is lost,
//! and believes no record about one that is not. So whoever may write to the site can make no sound point go. What is lost and was given
//! up is doomed and deleted as any other point that no rule keeps; a pin keeps it.

use std::sync::Arc;

use chrono::{DateTime, Utc};

use super::{OperationError, PruneRequest, look::follow};
use crate::{
    operations::pins,
    policy::PointFacts,
    progress::{Observer, Problem, Tally},
    report::Agent,
    repository::{PinAction, PinRecord, PointName, Reach, Reader, Repository, RepositoryError},
};

/// Which point is given up.
#[derive(Debug)]
pub struct GiveUpRequest<'a> {
    /// The repository.
    pub repository: &'a Repository,
    /// Reads the lists of the point, as far as they can be read.
    pub reader: &'a Reader,
    /// The point.
    pub point: &'a PointName,
    /// Why.
    pub reason: &'a str,
    /// Who says so.
    pub agent: &'a Agent,
    /// The time.
    pub now: DateTime<Utc>,
}

/// A point that was given up.
#[derive(Debug)]
pub struct GivenUp {
    /// What was recorded.
    pub record: PinRecord,
    /// What is wrong with the point.
    pub damage: RepositoryError,
}

/// Records that a point is given up.
///
/// # Errors
/// [`OperationError::Refused`] for an empty reason, a point that is pinned, and one that is not lost; the store's.
pub async fn give_up(request: &GiveUpRequest<'_>) -> Result<GivenUp, OperationError> {
    let GiveUpRequest { repository, reader, point, reason, agent, now } = *request;
    let refused = |detail: String| OperationError::Refused { subject: format!("point {}", point.id), detail };
    if reason.trim().is_empty() {
        return Err(refused("giving up a point needs a --reason: somebody will want to know it when nobody remembers".to_owned()));
    }
    if let Some(pin) = pins::current(&repository.pins().await?).get(&point.id).filter(|pin| pin.holds(now)) {
        return Err(refused(format!("is pinned ({}); `farshore unpin` takes that back", pin.reason)));
    }
    let Some(damage) = loss(repository, reader, point).await? else {
        return Err(refused(
            "is not lost: what it needs can be told, and it keeps nothing else from being pruned. `farshore prune` deletes it when no rule of retention keeps it any more; what of it is damaged, `farshore verify` says".to_owned(),
        ));
    };
    let record = PinRecord {
        action: PinAction::GiveUp,
        point: point.id.clone(),
        policy: point.policy.clone(),
        until: None,
        reason: reason.trim().to_owned(),
        user: agent.user.clone(),
        host: agent.host.clone(),
        at: now,
    };
    repository.put_pin(&record).await?;
    Ok(GivenUp { record, damage })
}

/// Why it cannot be told what a point needs; nothing if it can, or if the point is gone.
async fn loss(repository: &Repository, reader: &Reader, point: &PointName) -> Result<Option<RepositoryError>, OperationError> {
    let mut reach = Reach::new(reader.cache())?;
    Ok(follow(repository, reader, &mut reach, point).await?.err())
}

/// Of the points that were given up only those stay so that are lost; either is said loudly, as long as the point is there.
pub(super) async fn keep_what_is_not_lost(
    request: &PruneRequest<'_>,
    facts: &mut [PointFacts],
    tally: &Tally,
) -> Result<(), OperationError> {
    let repository = request.repository;
    let mut given_up = facts.iter_mut().filter(|point| point.given_up.is_some()).peekable();
    if given_up.peek().is_none() {
        return Ok(());
    }
    let reader = Reader::open(repository, Arc::clone(&request.workers), request.budget.clone()).await?;
    for point in given_up {
        let object = Repository::point_object(&point.policy, point.consistent_at, &point.id);
        let lost = match PointName::parse(&object) {
            Some(name) => loss(repository, &reader, &name).await?,
            None => None,
        };
        let said = match lost {
            Some(error) => format!(
                "was given up, and goes with what only it needs when its grace is over; nothing that is doomed goes before it. `farshore pin` keeps it, `farshore unpin` takes this back: {error}"
            ),
            None => {
                point.given_up = None;
                "was given up, and is not lost: that counts for nothing, and retention decides. If nobody here gave it up, somebody else may write to the site. `farshore unpin` takes it back".to_owned()
            }
        };
        tally.problem(Problem::new(format!("point {}", point.id), said));
    }
    Ok(())
}
