//! Parts of runs that made no point, and of those that did.

use chrono::{DateTime, TimeDelta, Utc};

use crate::{
    operations::OperationError,
    progress::Problem,
    repository::{Repository, RepositoryError},
    stores::StoreError,
};

/// Deletes the parts, plans and claims of a policy that the site stored longer ago than the grace; returns how many there were, and what
/// hindered it. Nobody relies on one, so none is doomed first. One that a lock of the site's own holds waits for a later prune.
pub(super) async fn prune_parts(
    repository: &Repository,
    policy: &str,
    (now, grace): (DateTime<Utc>, TimeDelta),
    dry_run: bool,
) -> Result<(u64, Option<Problem>), OperationError> {
    let mut deleted = 0;
    for part in repository.part_objects(policy).await? {
        if now - part.modified < grace {
            continue;
        }
        if !dry_run {
            // Where the site locks, this removes all versions; elsewhere whoever prunes may not have the right to.
            match repository.store().delete(&part.key).await {
                Ok(()) => {}
                Err(StoreError::Locked { .. }) => continue,
                Err(error @ StoreError::Denied { .. }) => {
                    let said = format!("parts of runs that are over stay, since they may not be deleted: {error}");
                    return Ok((deleted, Some(Problem::new(part.key, said))));
                }
                Err(error) => return Err(RepositoryError::from(error).into()),
            }
        }
        deleted += 1;
    }
    Ok((deleted, None))
}
