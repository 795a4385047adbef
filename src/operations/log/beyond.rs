//! Whether the archive takes a point as far as a restore is asked to go, looked at before anything is written.

use super::{
    coverage::{Segments, number_of},
    refused,
};
use crate::{
    operations::OperationError,
    repository::{LogKind, Repository, StoredLog},
    sources::postgres::physical::{Layout, Lsn, RecoveryTarget, Segment, facts::PhysicalFacts},
};

/// What the archive at this site has beyond a snapshot with these facts, in words; nothing where nothing of its cluster is archived.
///
/// # Errors
/// [`OperationError::Refused`] where the log does not go so far, or has a gap before: the server would find that out after the whole
/// restore. Those of the site.
pub async fn look_beyond(
    repository: &Repository,
    facts: &PhysicalFacts,
    target: &RecoveryTarget,
) -> Result<Option<String>, OperationError> {
    let site = repository.store().describe();
    let unclear = || refused(&site, "the point does not say which cluster it is of, or where its log ends");
    let system = facts.system_identifier.parse().map_err(|_| unclear())?;
    let stop = Lsn::parse(&facts.stop_lsn).ok_or_else(unclear)?;
    let layout = Layout { segment_bytes: facts.wal_segment_bytes, system };
    if !layout.segment_bytes.is_power_of_two() {
        return Err(unclear());
    }
    let files = repository.log_files(Some(system)).await?;
    if files.is_empty() {
        return Ok(None);
    }
    judge(layout, facts.timeline, stop, target, &files).map(Some).map_err(|detail| refused(&site, detail))
}

/// The same, of what is there.
fn judge(layout: Layout, timeline: u32, stop: Lsn, target: &RecoveryTarget, files: &[StoredLog]) -> Result<String, String> {
    let there = Segments::of(layout, files);
    let own = layout.segment_before(stop);
    let name = |(timeline, number)| layout.name(Segment { number, timeline });
    // The point holds its own last segment; what is needed of the archive may begin after it.
    let reach = there.reach(timeline, own).or_else(|| there.reach(timeline, own + 1));
    let last = reach.map_or(own, |(_, last)| last);
    let is_cut_off = reach != there.newest() && there.has_after(timeline, last + 1);
    // Of the segment after that there may be the beginning.
    let begun = Segment { number: last + 1, timeline: reach.map_or(timeline, |(timeline, _)| timeline) };
    let parts = || {
        let is_of = |file: &&StoredLog| file.name.segment().and_then(|segment| layout.parse(segment)) == Some(begun);
        files.iter().filter(|file| file.name.kind() == LogKind::Part).filter(is_of)
    };
    let part_end = parts().filter_map(|part| part.name.range()).map(|range| range.end).max();
    let part_end = part_end.map_or(0, |end| begun.number * layout.segment_bytes + end);
    let reaches = match (reach, part_end) {
        (None, 0) => "does not go beyond the point".to_owned(),
        (Some(reach), 0) => format!("reaches {}", name(reach)),
        (_, end) => format!("reaches into {}, to {}", layout.name(begun), Lsn(end)),
    };
    let stored_at =
        reach.and_then(|reach| files.iter().find(|file| number_of(layout, &file.name) == Some(reach))).map(|file| file.stored_at);
    let stored_at = parts().map(|part| part.stored_at).max().or(stored_at);
    let gap = || {
        format!(
            "the archive {reaches}, and then has a gap: the server would stop there. Restore from a point behind the gap (`farshore wal status` shows which reach how far), or with --to-lsn to a place before it"
        )
    };
    let late = |at: chrono::DateTime<chrono::Utc>| at.format("%Y-%m-%d %H:%M:%SZ");
    match target {
        RecoveryTarget::Lsn(lsn) if layout.segment_before(*lsn) > last && lsn.0 > part_end => Err(if is_cut_off {
            gap()
        } else {
            format!("the archive {reaches}, and {lsn} lies beyond that: ask for less, or --to-latest")
        }),
        RecoveryTarget::Latest if is_cut_off => Err(gap()),
        RecoveryTarget::Time(time) if is_cut_off && stored_at.is_none_or(|at| at < *time) => Err(gap()),
        RecoveryTarget::Time(time) if stored_at.is_some_and(|at| at < *time) => Ok(format!(
            "the archive {reaches}, which was stored at {}, before the time that is asked for: if the server says that it did not reach its target, --to-latest is what you want",
            stored_at.map_or_else(String::new, |at| late(at).to_string())
        )),
        _ => Ok(format!("the archive {reaches}{}", stored_at.map_or_else(String::new, |at| format!(", stored at {}", late(at))))),
    }
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, TimeDelta, Utc};

    use super::{Layout, Lsn, RecoveryTarget, StoredLog, judge};
    use crate::repository::LogName;

    const LAYOUT: Layout = Layout { segment_bytes: 16 << 20, system: 7 };
    /// In the middle of segment 5.
    const STOP: Lsn = Lsn(0x580_0000);

    fn at(minutes: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_764_154_800, 0).unwrap() + TimeDelta::minutes(minutes)
    }

    /// Segments of the first timeline, one a minute.
    fn archive(numbers: &[u64]) -> Vec<StoredLog> {
        let stored = |number: &u64| StoredLog {
            name: LogName::new(7, &format!("0000000100000000{number:08X}")).unwrap(),
            bytes: 1,
            stored_at: at(number.cast_signed()),
        };
        numbers.iter().map(stored).collect()
    }

    #[test]
    fn the_beginning_of_the_next_segment_counts_as_far_as_it_goes() {
        let mut archive = archive(&[5, 6]);
        let part = LogName::part(7, "000000010000000000000007", &(0..0x1000)).unwrap();
        archive.push(StoredLog { name: part, bytes: 1, stored_at: at(9) });
        let said = |target| judge(LAYOUT, 1, STOP, &target, &archive);
        let latest = said(RecoveryTarget::Latest).unwrap();
        assert!(latest.contains("reaches into 000000010000000000000007, to 0/7001000, stored at 2025-11-26 11:09"), "{latest}");
        assert!(said(RecoveryTarget::Lsn(Lsn(0x700_1000))).is_ok() && said(RecoveryTarget::Time(at(9))).is_ok());
        assert!(said(RecoveryTarget::Lsn(Lsn(0x700_1001))).unwrap_err().contains("lies beyond that"));
    }

    #[test]
    fn what_the_log_does_not_reach_is_refused_before_anything_is_restored() {
        use RecoveryTarget::{Latest, Time, Xid};
        let lsn = |segment: u64| RecoveryTarget::Lsn(Lsn((segment << 24) + 5));
        let whole: &[u64] = &[3, 4, 5, 6, 7];
        let table: [(&[u64], RecoveryTarget, Result<&str, &str>); 13] = [
            (whole, Latest, Ok("reaches 000000010000000000000007, stored at")),
            (whole, lsn(7), Ok("reaches")),
            (whole, lsn(8), Err("lies beyond that")),
            (whole, Time(at(7)), Ok("stored at")),
            (whole, Time(at(8)), Ok("--to-latest is what you want")),
            (whole, Xid(3), Ok("reaches")),
            // The point has its own segments, archived or not.
            (&[6, 7], Latest, Ok("reaches 000000010000000000000007")),
            (&[3], Latest, Ok("does not go beyond the point")),
            (&[3], lsn(5), Ok("does not go beyond")),
            (&[5, 6, 8], Latest, Err("reaches 000000010000000000000006, and then has a gap")),
            (&[5, 6, 8], lsn(6), Ok("reaches 000000010000000000000006")),
            (&[5, 6, 8], Time(at(7)), Err("has a gap")),
            (&[7, 8], Latest, Err("does not go beyond the point, and then has a gap")),
        ];
        for (numbers, target, expected) in table {
            let said = judge(LAYOUT, 1, STOP, &target, &archive(numbers));
            match (&said, expected) {
                (Ok(said), Ok(words)) | (Err(said), Err(words)) if said.contains(words) => {}
                _ => panic!("{numbers:?}, {target:?}: {said:?}"),
            }
        }
    }
}
