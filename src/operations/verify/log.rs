//! Reading files of clusters' logs, and authenticating every byte of them.

use futures_util::{StreamExt, stream};

use super::{OperationError, read::Share, walk::Walk};
use crate::{
    progress::{Observer, Tally},
    report::VerifyReport,
    repository::{PackCheck, RepositoryError},
};

/// Files read at once: each is held as it is stored and as it was.
const READS: usize = 2;

/// Reads the files of a share.
pub(super) async fn read_log(
    walk: &mut Walk<'_>,
    report: &mut VerifyReport,
    share: Share,
    tally: &Tally,
) -> Result<(), OperationError> {
    let repository = walk.request.repository;
    let files = repository.log_files(None).await?;
    let wanted: Vec<_> = files.into_iter().filter(|file| share.takes_object(&file.name.to_string())).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    tally.phase("read the log", Some(wanted.iter().map(|file| file.bytes).sum()));
    let keys = repository.log_keys();
    let keys = &keys;
    let mut results = stream::iter(wanted)
        .map(|file| async move { (repository.check_log_file(&file.name, keys).await, file) })
        .buffer_unordered(READS);
    let mut damaged = Vec::new();
    while let Some((result, file)) = results.next().await {
        match result {
            Ok(()) => {
                report.log_files_read += 1;
                tally.bytes(file.bytes);
                tally.items(1);
            }
            // Of the keys that are for others `check_keys` has told.
            Err(error) if error.is_damage() || matches!(error, RepositoryError::Key { .. }) => {
                damaged.push(PackCheck { key: file.name.to_string(), detail: error.to_string() });
            }
            Err(error) => return Err(error.into()),
        }
    }
    walk.found(damaged.into_iter());
    Ok(())
}
