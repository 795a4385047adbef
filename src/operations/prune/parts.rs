//! Parts of runs that made no point, and of those that did.

use chrono::{DateTime, TimeDelta, Utc};

use crate::{operations::OperationError, repository::Repository, stores::StoreError};

/// Deletes the parts, plans and claims of a policy that the site stored longer ago than the grace; returns how many there were. Nobody relies on one, so none
/// is doomed first. One that a lock of the site's own holds waits for a later prune.
pub(super) async fn prune_parts(
    repository: &Repository,
    policy: &str,
    (now, grace): (DateTime<Utc>, TimeDelta),
    dry_run: bool,
) -> Result<u64, OperationError> {
    let mut deleted = 0;
    for part in repository.part_objects(policy).await? {
        if now - part.modified < grace {
            continue;
        }
        if !dry_run {
            match repository.store().delete_versions(&part.key).await {
                Ok(()) => {}
                Err(StoreError::Locked { .. }) => continue,
                Err(error) => return Err(crate::repository::RepositoryError::from(error).into()),
            }
        }
        deleted += 1;
    }
    Ok(deleted)
}
