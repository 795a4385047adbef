//! Keeping the tablespaces that a log makes within the data directory of the server that fetches it.

use std::path::Path;

use super::{
    archives::{Answer, Archives},
    local::check,
    off_thread, refused,
};
use crate::{
    operations::OperationError,
    repository::LogName,
    sources::postgres::physical::{FirstPage, empty_paths, needs_before},
};

/// A file of the log as a server may replay it that must not reach into directories of others; says whether it differs from what was archived.
///
/// Where the segment begins with the rest of a record that may make a tablespace, the segment before tells: the server's own in `directory`, which it
/// has just replayed, else the archive's. Where neither is there, the server does not have the beginning of that record either, and cannot replay it.
///
/// # Errors
/// [`OperationError::Refused`] for a segment that must not be replayed so; those of the sites.
pub(super) async fn keep_in_place(
    name: &LogName,
    bytes: Vec<u8>,
    directory: &Path,
    archives: &Archives,
) -> Result<(Vec<u8>, bool), OperationError> {
    let before = needs_before(&bytes).zip(FirstPage::read(&bytes)).map(|(segment, page)| page.layout.name(segment));
    let Some(before) = before.and_then(|file| LogName::new(name.system(), &file)) else {
        return change(name, bytes, None).await;
    };
    let own = std::fs::read(directory.join(before.file())).ok().filter(|own| check(&before, own).is_ok());
    if let Some(own) = own
        && let Ok(changed) = change(name, bytes.clone(), Some(own)).await
    {
        return Ok(changed);
    }
    let before = match archives.fetch(&before).await? {
        Answer::File(before) => Some(before),
        Answer::Absent | Answer::Gap { .. } => None,
    };
    change(name, bytes, before).await
}

async fn change(name: &LogName, mut bytes: Vec<u8>, before: Option<Vec<u8>>) -> Result<(Vec<u8>, bool), OperationError> {
    let name = name.file().to_owned();
    off_thread(move || match empty_paths(&mut bytes, before.as_deref()) {
        Ok(changed) => Ok((bytes, changed > 0)),
        Err(detail) => Err(refused(name, detail)),
    })
    .await
}
