//! Until when a log is there, up to where a recovery has come.

use chrono::{DateTime, Utc};

use crate::{
    operations::OperationError,
    repository::{LogKind, LogName, Repository, StoredLog},
    sources::postgres::physical::{Layout, Lsn, Segment, facts::PhysicalFacts},
};

/// When the server's log ended where a recovery ended that found no more of it, by the file that it ended in; nothing where that file does
/// not say. What was committed until then was replayed.
///
/// # Errors
/// Those of the site.
pub(in crate::operations) async fn log_ended_at(
    repository: &Repository,
    facts: &PhysicalFacts,
    reached: Lsn,
) -> Result<Option<DateTime<Utc>>, OperationError> {
    ended_at(repository, facts, |layout, files| last_replayed(layout, reached, files)).await
}

/// When the log ended that the site had at a moment, by its own clock; nothing if it had none, or the last file does not say.
///
/// # Errors
/// Those of the site.
pub(in crate::operations) async fn log_ended_before(
    repository: &Repository,
    facts: &PhysicalFacts,
    moment: DateTime<Utc>,
) -> Result<Option<DateTime<Utc>>, OperationError> {
    ended_at(repository, facts, |layout, files| last_before(layout, moment, files)).await
}

/// When the log ended, by the one of a cluster's files that is chosen.
async fn ended_at(
    repository: &Repository,
    facts: &PhysicalFacts,
    choose: impl for<'a> FnOnce(Layout, &'a [StoredLog]) -> Option<&'a LogName>,
) -> Result<Option<DateTime<Utc>>, OperationError> {
    let Ok(system) = facts.system_identifier.parse() else { return Ok(None) };
    let layout = Layout { segment_bytes: facts.wal_segment_bytes, system };
    if !layout.segment_bytes.is_power_of_two() {
        return Ok(None);
    }
    let files = repository.log_files(Some(system)).await?;
    let Some(last) = choose(layout, &files) else { return Ok(None) };
    Ok(repository.log_head(last).await?.and_then(|head| head.ended_at))
}

/// Of a segment or a part of one: which segment, and where in it the file ends. Nothing for any other file.
fn end_of(layout: Layout, file: &StoredLog) -> Option<(Segment, u64)> {
    let bytes = match file.name.kind() {
        LogKind::Segment => layout.segment_bytes,
        LogKind::Part => file.name.range()?.end,
        _ => return None,
    };
    Some((layout.parse(file.name.segment()?)?, bytes))
}

/// The file that was the end of the log at a moment. Pure.
fn last_before(layout: Layout, moment: DateTime<Utc>, files: &[StoredLog]) -> Option<&LogName> {
    let there = files.iter().filter(|file| file.stored_at <= moment).filter_map(|file| {
        let (segment, bytes) = end_of(layout, file)?;
        Some((segment.timeline, segment.number, bytes, &file.name))
    });
    there.max().map(|(.., name)| name)
}

/// The file that a recovery to the end of the log ended in, if the last record that it found ends at `reached`. Of a segment in progress
/// that is the first part that has that record: the recovery may have had a later one, with nothing in it that is whole. Pure.
fn last_replayed(layout: Layout, reached: Lsn, files: &[StoredLog]) -> Option<&LogName> {
    let number = layout.segment_before(reached);
    let of_it = files.iter().filter_map(|file| {
        let (segment, end) = end_of(layout, file).filter(|(segment, _)| segment.number == number)?;
        let has_it = number * layout.segment_bytes + end >= reached.0;
        // The newest timeline is the one that was followed to the end.
        has_it.then_some((std::cmp::Reverse(segment.timeline), end, &file.name))
    });
    of_it.min().map(|(.., name)| name)
}

#[cfg(test)]
mod tests {
    use super::{DateTime, Layout, LogName, Lsn, StoredLog, last_before, last_replayed};

    #[test]
    fn what_comes_after_a_moment_was_not_the_end_of_the_log_then() {
        let layout = Layout { segment_bytes: 1 << 20, system: 7 };
        let segment = |timeline: u32, number: u32| format!("{timeline:08X}00000000{number:08X}");
        let at = |second| DateTime::from_timestamp(second, 0).unwrap();
        let file = |name: &LogName, second| StoredLog { name: name.clone(), bytes: 1, stored_at: at(second) };
        let part = |to| LogName::part(7, &segment(1, 3), &(0..to)).unwrap();
        let whole = |timeline, number| LogName::new(7, &segment(timeline, number)).unwrap();
        let history = LogName::new(7, "00000002.history").unwrap();
        let files = [
            file(&whole(1, 2), 10),
            file(&part(500), 15),
            file(&part(900), 20),
            file(&whole(1, 3), 30),
            file(&history, 35),
            file(&whole(2, 3), 40),
        ];
        for (second, expected) in [
            (9, None),
            (10, Some(whole(1, 2))),
            (19, Some(part(500))),
            (20, Some(part(900))),
            (39, Some(whole(1, 3))),
            (99, Some(whole(2, 3))),
        ] {
            assert_eq!(last_before(layout, at(second), &files).cloned(), expected, "{second}");
        }
    }

    #[test]
    fn a_recovery_ended_in_the_first_file_that_has_its_last_record() {
        let layout = Layout { segment_bytes: 1 << 20, system: 7 };
        let segment = |timeline: u32, number: u32| format!("{timeline:08X}00000000{number:08X}");
        let part = |timeline, number, to| LogName::part(7, &segment(timeline, number), &(0..to)).unwrap();
        let whole = |timeline, number| LogName::new(7, &segment(timeline, number)).unwrap();
        let stored = |name: &LogName| StoredLog { name: name.clone(), bytes: 1, stored_at: DateTime::UNIX_EPOCH };
        let all = [whole(1, 2), whole(1, 3), part(1, 3, 500), part(1, 3, 900), part(2, 4, 300), part(2, 4, 600), whole(1, 4)];
        let files: Vec<StoredLog> = all.iter().map(stored).collect();
        let found = |at: u64| last_replayed(layout, Lsn(at), &files).cloned();
        let table = [
            ((2 << 20) + 1, Some(whole(1, 2))),
            // The segment was ended there, and nothing followed.
            (3 << 20, Some(whole(1, 2))),
            ((3 << 20) + 400, Some(part(1, 3, 500))),
            ((3 << 20) + 500, Some(part(1, 3, 500))),
            ((3 << 20) + 501, Some(part(1, 3, 900))),
            ((3 << 20) + 901, Some(whole(1, 3))),
            ((4 << 20) + 301, Some(part(2, 4, 600))),
            ((4 << 20) + 601, Some(whole(1, 4))),
            ((5 << 20) + 1, None),
        ];
        for (at, expected) in table {
            assert_eq!(found(at), expected, "{at:#x}");
        }
    }
}
