//! A prune after which nothing was left to do is remembered on this machine with what the site listed; the next one that finds the
//! same listing, and whose retention removes nothing, needs to look no further. Believing it wrongly would leave garbage, and
//! never delete anything.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{OperationError, PruneRequest, look::Look};
use crate::{
    policy::{PointFacts, RetentionPlan, plan_retention},
    repository::Repository,
};

/// Name of the note.
const NOTE: &str = "pruned";

#[derive(Serialize, Deserialize)]
struct Note {
    policy: String,
    /// SHA-256 of everything that was listed, hexadecimal.
    listing: String,
    facts: Vec<PointFacts>,
}

/// What the site lists now, as a hash.
pub(super) async fn listing(repository: &Repository) -> Result<String, OperationError> {
    Ok(hex::encode(repository.listing_hash().await?))
}

/// What retention says, if everything is as the last prune left it, and nothing is to be removed.
pub(super) async fn plan(request: &PruneRequest<'_>, now: DateTime<Utc>) -> Result<Option<RetentionPlan>, OperationError> {
    let Some(note) = request.repository.state(NOTE).await else { return Ok(None) };
    let Ok(note) = serde_json::from_slice::<Note>(&note) else { return Ok(None) };
    if note.policy != request.policy.name {
        return Ok(None);
    }
    let plan = plan_retention(&note.facts, request.retention, now);
    if plan.removed().next().is_some() || listing(request.repository).await? != note.listing {
        return Ok(None);
    }
    Ok(Some(plan))
}

/// Remembers that nothing is left to do. A note that cannot be written costs time later.
pub(super) async fn keep(request: &PruneRequest<'_>, look: &Look, listing: &str) {
    let note = Note { policy: request.policy.name.clone(), listing: listing.to_owned(), facts: look.facts.clone() };
    let json = serde_json::to_vec(&note).expect("texts, numbers and times always serialise");
    if let Err(error) = request.repository.keep_state(NOTE, json).await {
        tracing::warn!(%error, "the next prune looks at everything again");
    }
}
