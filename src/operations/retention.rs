//! What retention must know of the points of a repository, and what the policy makes of it.

use chrono::{DateTime, Utc};

use super::{OperationError, PointSummary, point_summaries};
use crate::{
    policy::{Condition, PinnedUntil, PointFacts, Retention, RetentionPlan, plan_retention},
    repository::Repository,
};

impl From<PointSummary> for PointFacts {
    fn from(point: PointSummary) -> Self {
        let condition = if point.unreadable.is_some() {
            Condition::Unreadable
        } else if !point.anomalies.is_empty() {
            Condition::Anomalous
        } else if point.problems > 0 {
            Condition::Problems
        } else {
            Condition::Good
        };
        Self {
            id: point.id,
            policy: point.policy,
            consistent_at: point.time,
            stored_at: point.stored,
            condition,
            verified_at: point.verified,
            pin: point.pinned.map(|pin| PinnedUntil { until: pin.until, reason: pin.reason }),
            given_up: point.given_up,
        }
    }
}

/// What retention must know of all points (of one policy, or of all): one pass each over points, evidence and pins.
///
/// # Errors
/// The store's.
pub async fn facts(repository: &Repository, policy: Option<&str>) -> Result<Vec<PointFacts>, OperationError> {
    Ok(point_summaries(repository, policy).await?.into_iter().map(PointFacts::from).collect())
}

/// What the retention of a site makes of a policy's points there. `now` is the site's time: what deletes must ask the site for it, what only
/// prints may do with the machine's.
///
/// # Errors
/// The store's.
pub async fn planned_retention(
    repository: &Repository,
    policy: &str,
    retention: &Retention,
    now: DateTime<Utc>,
) -> Result<RetentionPlan, OperationError> {
    Ok(plan_retention(&facts(repository, Some(policy)).await?, retention, now))
}
