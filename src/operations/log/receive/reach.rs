//! How far the archive of a site goes, where this run does not know.

use crate::{
    operations::OperationError,
    repository::{LogKind, LogName, Repository},
    sources::postgres::physical::{Layout, Lineage, Segment},
};

/// The last whole segment before the one of this number that a site has of what the server came from; nothing if it has none.
///
/// # Errors
/// The site's.
pub(super) async fn last_before(
    repository: &Repository,
    layout: Layout,
    lineage: &Lineage,
    number: u64,
) -> Result<Option<Segment>, OperationError> {
    // Nearly always it is the one just before, and a long archive need not be listed.
    if let Some(before) = number.checked_sub(1).map(|before| lineage.segment(layout, before))
        && let Some(name) = LogName::new(layout.system, &layout.name(before))
        && repository.has_log_file(&name).await?
    {
        return Ok(Some(before));
    }
    let files = repository.log_files(Some(layout.system)).await?;
    let segments = files.iter().filter(|file| file.name.kind() == LogKind::Segment);
    let ours = segments
        .filter_map(|file| layout.parse(file.name.segment()?))
        .filter(|segment| segment.number < number && lineage.segment(layout, segment.number) == *segment);
    Ok(ours.max_by_key(|segment| segment.number))
}
