//! Whether the archive takes a point as far as a restore is asked to go, looked at before anything is written.

use chrono::{DateTime, Utc};

use super::{
    coverage::{Beyond, Line, Segments, number_of},
    off_thread, refused,
};
use crate::{
    operations::OperationError,
    repository::{LogKind, LogName, Repository, StoredLog},
    sources::postgres::physical::{
        FirstPage, Layout, Lineage, Lsn, Records, RecoveryTarget, Segment, Timeline, facts::PhysicalFacts,
    },
};

/// A server reads so far ahead of what it replays, and ends where that is not to be had, whatever its target is (`XLogPrefetcher`, from 15 on):
/// 512 KiB (`wal_decode_buffer_size`), and some pages.
const READ_AHEAD_BYTES: u64 = 640 << 10;
/// So many segments are looked at for a record that begins and ends in one.
const LOOKS_BACK: usize = 3;

/// What the archive at this site has beyond a snapshot with these facts, along the timeline that is asked for, in words; nothing where
/// nothing of its cluster is archived.
///
/// # Errors
/// [`OperationError::Refused`] where the log does not go so far, or has a gap before, or has no such timeline: the server would find that
/// out after the whole restore. Those of the site, and of keys that do not open a timeline's history.
pub async fn look_beyond(
    repository: &Repository,
    facts: &PhysicalFacts,
    target: &RecoveryTarget,
    timeline: Timeline,
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
    let refuse = |detail: String| refused(&site, detail);
    let chosen = chosen(facts.timeline, timeline, &files).map_err(refuse)?;
    let history = match chosen {
        own if own == facts.timeline => None,
        _ => Some(history(repository, system, chosen).await?),
    };
    let lineage = line(facts.timeline, stop, chosen, history.as_deref()).map_err(refuse)?;
    let now = repository.log_time().await;
    match judge(layout, facts.timeline, &lineage, stop, target, (&files, now)) {
        Ok(found) => Ok(Some(found)),
        Err(Unreached::Beyond(detail)) => Err(refuse(detail)),
        Err(Unreached::Gap { reaches, last }) => {
            let place = match last {
                Some(last) => last_place(repository, (layout, &lineage), (stop, last)).await,
                None => None,
            };
            Err(refuse(gap(&reaches, last.is_some(), place)))
        }
    }
}

/// Why a target is not reached.
#[derive(Debug, PartialEq, Eq)]
enum Unreached {
    /// It lies beyond what is archived, in words.
    Beyond(String),
    /// There is a gap before it, and the archive `reaches`, in words, the segment `last`; nothing if it does not leave the point.
    Gap { reaches: String, last: Option<u64> },
}

/// What is said of a gap, where the log is there beyond the point or not, and can be replayed to a place or is not known to be.
fn gap(reaches: &str, is_beyond: bool, place: Option<Lsn>) -> String {
    let to = match place {
        Some(place) => format!("with --to-lsn {place}, which is as far as it is sure to come"),
        None if is_beyond => "with --to-lsn to a place well before it: the server reads half a MiB ahead".to_owned(),
        None => "without --to-…, which ends with the backup itself".to_owned(),
    };
    format!(
        "the archive {reaches}, and then has a gap: the server would stop there. Restore {to}, or from a point behind the gap (`farshore wal status` shows which reach how far)"
    )
}

/// Where the last record begins that a server replays for sure before the gap behind the segment `last`; nothing if that is not beyond `stop`, or
/// cannot be read.
async fn last_place(repository: &Repository, (layout, lineage): (Layout, &Lineage), (stop, last): (Lsn, u64)) -> Option<Lsn> {
    let limit = ((last + 1) * layout.segment_bytes).saturating_sub(READ_AHEAD_BYTES);
    for number in (layout.segment_before(stop)..=layout.segment_before(Lsn(limit))).rev().take(LOOKS_BACK) {
        let name = LogName::new(layout.system, &layout.name(lineage.segment(layout, number)))?;
        let bytes = match repository.read_log_file(&name).await {
            Ok(bytes) => bytes?,
            Err(error) => {
                tracing::warn!(%error, "how far the log before the gap goes is not known");
                return None;
            }
        };
        let until = usize::try_from(limit - number * layout.segment_bytes).unwrap_or(usize::MAX).min(bytes.len());
        let found = off_thread(move || {
            let page = FirstPage::read(&bytes).filter(|page| page.layout == layout);
            Ok(page.and_then(|page| {
                let mut records = Records::from_segment(layout, page.page_bytes(), number);
                // No further than this a server comes, either.
                let _ = records.feed(&bytes[..until]);
                records.last_record()
            }))
        });
        if let Some(found) = found.await.ok()? {
            return Some(found).filter(|found| *found >= stop);
        }
    }
    None
}

/// The history of a timeline.
async fn history(repository: &Repository, system: u64, timeline: u32) -> Result<Vec<u8>, OperationError> {
    let file = format!("{timeline:08X}.history");
    let gone = || refused(&file, "is listed at the site, and is not there");
    let name = LogName::new(system, &file).ok_or_else(gone)?;
    repository.read_log_file(&name).await?.ok_or_else(gone)
}

/// The timeline that a server takes: for the latest it looks for one history after another, as long as there is one (`findNewestTimeLine`).
fn chosen(own: u32, asked: Timeline, files: &[StoredLog]) -> Result<u32, String> {
    let has = |timeline: u32| files.iter().any(|file| file.name.kind() == LogKind::History && file.name.timeline() == timeline);
    match asked {
        Timeline::Current => Ok(own),
        Timeline::Number(number) if number == own || has(number) => Ok(number),
        Timeline::Number(number) => Err(format!(
            "timeline {number} is not archived there (there is no {number:08X}.history): `farshore wal status` shows which are, and `current` is this point's own, {own}"
        )),
        Timeline::Latest => {
            let mut newest = own;
            while has(newest.saturating_add(1)) {
                newest += 1;
            }
            Ok(newest)
        }
    }
}

/// The way to the timeline that was chosen, from a point that ends at `stop` on its own.
fn line(own: u32, stop: Lsn, chosen: u32, history: Option<&[u8]>) -> Result<Lineage, String> {
    let lineage = Lineage::parse(chosen, history)
        .ok_or_else(|| format!("{chosen:08X}.history is no history of timelines: ask for another timeline (--timeline current)"))?;
    let next = "take another point, or another timeline (--timeline current is the point's own)";
    match lineage.left_at(own) {
        _ if chosen == own => Ok(lineage),
        None => Err(format!("timeline {chosen} did not come out of timeline {own}, on which this point was made: {next}")),
        Some(at) if at < stop => {
            Err(format!("timeline {chosen} left timeline {own} at {at}, before the end of this point's backup, {stop}: {next}"))
        }
        Some(_) => Ok(lineage),
    }
}

/// The same, of what the site has `now`, for a point on the timeline `own`.
fn judge(
    layout: Layout,
    own: u32,
    lineage: &Lineage,
    stop: Lsn,
    target: &RecoveryTarget,
    (files, now): (&[StoredLog], DateTime<Utc>),
) -> Result<String, Unreached> {
    let there = Segments::of(layout, files, now);
    let end = layout.segment_before(stop);
    let name = |(timeline, number)| layout.name(Segment { number, timeline });
    let Beyond { last: reach, is_cut_off, awaited } = there.beyond(Line::Known(layout, lineage), end);
    let last = reach.map_or(end, |(_, last)| last);
    // Of the segment after that there may be the beginning.
    let begun = lineage.segment(layout, last + 1);
    let parts = || {
        let is_of = |file: &&StoredLog| file.name.segment().and_then(|segment| layout.parse(segment)) == Some(begun);
        files.iter().filter(|file| file.name.kind() == LogKind::Part).filter(is_of)
    };
    let part_end = parts().filter_map(|part| part.name.range()).map(|range| range.end).max();
    let part_end = part_end.map_or(0, |end| begun.number * layout.segment_bytes + end);
    let along = match lineage.timeline() {
        timeline if timeline == own => String::new(),
        timeline => format!(" along timeline {timeline}"),
    };
    let reaches = match (reach, part_end) {
        (None, 0) => format!("does not go beyond the point{along}"),
        (Some(reach), 0) => format!("reaches {}{along}", name(reach)),
        (_, end) => format!("reaches into {}, to {}{along}", layout.name(begun), Lsn(end)),
    };
    let stored_at =
        reach.and_then(|reach| files.iter().find(|file| number_of(layout, &file.name) == Some(reach))).map(|file| file.stored_at);
    let stored_at = parts().map(|part| part.stored_at).max().or(stored_at);
    let gap = || Unreached::Gap { reaches: reaches.clone(), last: reach.map(|(_, number)| number) };
    // Of a fork each side has its own.
    let elsewhere = |wanted: u64| {
        let is_other = |timeline: u32| lineage.segment(layout, wanted).timeline != timeline;
        let other = there.timelines().find(|(timeline, numbers)| is_other(*timeline) && numbers.contains(&wanted));
        other
            .map_or_else(String::new, |(timeline, _)| format!(", or along another timeline (--timeline {timeline} has that place)"))
    };
    let late = |at: DateTime<Utc>| at.format("%Y-%m-%d %H:%M:%SZ");
    let is_needed = match target {
        RecoveryTarget::Point | RecoveryTarget::Lsn(_) => false,
        RecoveryTarget::Time(time) => stored_at.is_none_or(|at| at < *time),
        RecoveryTarget::Latest | RecoveryTarget::Xid(_) | RecoveryTarget::Name(_) => true,
    };
    if is_needed
        && part_end == 0
        && let Some((earlier, left)) = astray(layout, lineage, &there, files, begun)
    {
        return Err(Unreached::Beyond(format!(
            "the archive {reaches}, and of timeline {}, which left timeline {earlier} at {left}, {} has not come yet, while that of timeline {earlier} is there: a server would take it, and go on in it beyond where it was left. Wait until it has come (SELECT pg_switch_wal() on the server that was promoted), or take all that the old one wrote, with --timeline {earlier}",
            begun.timeline,
            layout.name(begun)
        )));
    }
    match target {
        RecoveryTarget::Lsn(lsn)
            if layout.segment_before(*lsn) > awaited.map_or(last, |later| later.max(last)) && lsn.0 > part_end =>
        {
            Err(if is_cut_off {
                gap()
            } else {
                let elsewhere = elsewhere(layout.segment_before(*lsn));
                Unreached::Beyond(format!(
                    "the archive {reaches}, and {lsn} lies beyond that: ask for less, or --to-latest{elsewhere}"
                ))
            })
        }
        RecoveryTarget::Latest if is_cut_off => Err(gap()),
        RecoveryTarget::Time(time) if is_cut_off && stored_at.is_none_or(|at| at < *time) => Err(gap()),
        RecoveryTarget::Time(time) if stored_at.is_some_and(|at| at < *time) => Ok(format!(
            "the archive {reaches}, which was stored at {}, before the time that is asked for: if the server says that it did not reach its target, --to-latest is what you want",
            stored_at.map_or_else(String::new, |at| late(at).to_string())
        )),
        _ => {
            let stored_at = stored_at.map_or_else(String::new, |at| format!(", stored at {}", late(at)));
            let more =
                awaited.map_or("", |_| "; later segments came only just now, and what is missing before them may be on its way");
            Ok(format!("the archive {reaches}{stored_at}{more}"))
        }
    }
}

/// The timeline whose segment a server takes where this one is not there, which begins a timeline, and where that one was left: it takes those
/// of earlier timelines too, and asks nobody how far they hold (`XLogFileReadAnyTLI`).
fn astray(layout: Layout, lineage: &Lineage, there: &Segments, files: &[StoredLog], first: Segment) -> Option<(u32, Lsn)> {
    let earlier = (1..first.timeline).rev().filter_map(|timeline| Some((timeline, lineage.left_at(timeline)?)));
    let mut left_here = earlier.filter(|(_, left)| layout.segment_of(*left) == first.number);
    left_here.find(|(timeline, left)| {
        let goes_on = |file: &StoredLog| {
            let segment = file.name.segment().and_then(|segment| layout.parse(segment));
            let end = file.name.range().map(|range| first.number * layout.segment_bytes + range.end);
            segment == Some(Segment { timeline: *timeline, ..first }) && end.is_some_and(|end| end > left.0)
        };
        let is_whole = there.timelines().any(|(other, numbers)| other == *timeline && numbers.contains(&first.number));
        is_whole || files.iter().any(goes_on)
    })
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, TimeDelta, Utc};

    use super::{Layout, Lineage, Lsn, RecoveryTarget, StoredLog, Timeline, Unreached, chosen, gap, line};
    use crate::repository::LogName;

    const LAYOUT: Layout = Layout { segment_bytes: 16 << 20, system: 7 };

    /// What is said before the last segment is looked at.
    fn judge(
        layout: Layout,
        own: u32,
        lineage: &Lineage,
        stop: Lsn,
        target: &RecoveryTarget,
        files: (&[StoredLog], DateTime<Utc>),
    ) -> Result<String, String> {
        super::judge(layout, own, lineage, stop, target, files).map_err(|unreached| match unreached {
            Unreached::Beyond(said) => said,
            Unreached::Gap { reaches, last } => gap(&reaches, last.is_some(), None),
        })
    }

    /// In the middle of segment 5.
    const STOP: Lsn = Lsn(0x580_0000);

    fn at(minutes: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_764_154_800, 0).unwrap() + TimeDelta::minutes(minutes)
    }

    fn own() -> Lineage {
        Lineage::parse(1, None).unwrap()
    }

    /// Segments of the first timeline, one a minute.
    fn archive(numbers: &[u64]) -> Vec<StoredLog> {
        archive_of(1, numbers)
    }

    fn archive_of(timeline: u32, numbers: &[u64]) -> Vec<StoredLog> {
        let stored = |number: &u64| StoredLog {
            name: LogName::new(7, &format!("{timeline:08X}00000000{number:08X}")).unwrap(),
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
        let said = |target| judge(LAYOUT, 1, &own(), STOP, &target, (&archive, at(60)));
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
            let said = judge(LAYOUT, 1, &own(), STOP, &target, (&archive(numbers), at(60)));
            match (&said, expected) {
                (Ok(said), Ok(words)) | (Err(said), Err(words)) if said.contains(words) => {}
                _ => panic!("{numbers:?}, {target:?}: {said:?}"),
            }
        }
    }

    #[test]
    fn a_hole_before_segments_that_came_only_just_now_keeps_nobody_from_what_is_asked_for() {
        use RecoveryTarget::{Latest, Lsn as At, Time};
        let lsn = |segment: u64| At(Lsn((segment << 24) + 5));
        // Segment 8 came at minute 8, and 7 has not.
        let files = archive(&[5, 6, 8]);
        let said = |target: &RecoveryTarget, seconds| {
            judge(LAYOUT, 1, &own(), STOP, target, (&files, at(8) + TimeDelta::seconds(seconds)))
        };
        for target in [Latest, lsn(6), lsn(7), lsn(8), Time(at(6))] {
            let soon = said(&target, 59).unwrap();
            assert!(soon.contains("reaches 000000010000000000000006") && soon.contains("may be on its way"), "{target:?}: {soon}");
        }
        assert!(said(&lsn(9), 59).unwrap_err().contains("lies beyond that"));
        for target in [Latest, lsn(7), lsn(8), Time(at(8))] {
            assert!(said(&target, 61).unwrap_err().contains("and then has a gap"), "{target:?}");
        }
    }

    /// The second timeline left the first within segment 6; both went on, the first with a gap.
    const HISTORY: &[u8] = b"1\t0/6400000\tno recovery target specified\n";

    fn forked() -> Vec<StoredLog> {
        let history = StoredLog { name: LogName::new(7, "00000002.history").unwrap(), bytes: 1, stored_at: at(1) };
        [archive(&[5, 6, 7, 9]), archive_of(2, &[6, 7, 8]), vec![history]].concat()
    }

    #[test]
    fn a_target_is_judged_along_the_timeline_that_is_asked_for() {
        let lsn = |segment: u64| RecoveryTarget::Lsn(Lsn((segment << 24) + 5));
        let table = [
            (Timeline::Latest, lsn(8), Ok("reaches 000000020000000000000008 along timeline 2, stored at")),
            (Timeline::Number(2), lsn(8), Ok("reaches 000000020000000000000008 along timeline 2")),
            (
                Timeline::Number(2),
                lsn(9),
                Err("lies beyond that: ask for less, or --to-latest, or along another timeline (--timeline 1 has that place)"),
            ),
            (Timeline::Number(2), RecoveryTarget::Latest, Ok("reaches 000000020000000000000008 along timeline 2")),
            (Timeline::Current, lsn(7), Ok("reaches 000000010000000000000007, stored at")),
            (Timeline::Current, lsn(9), Err("reaches 000000010000000000000007, and then has a gap")),
            (Timeline::Current, RecoveryTarget::Latest, Err("has a gap")),
            (Timeline::Number(1), lsn(8), Err("has a gap")),
            (Timeline::Number(3), lsn(6), Err("timeline 3 is not archived there (there is no 00000003.history)")),
        ];
        for (asked, target, expected) in table {
            let files = forked();
            let said = chosen(1, asked, &files)
                .and_then(|chosen| line(1, STOP, chosen, (chosen != 1).then_some(HISTORY)))
                .and_then(|lineage| judge(LAYOUT, 1, &lineage, STOP, &target, (&files, at(60))));
            match (&said, expected) {
                (Ok(said), Ok(words)) | (Err(said), Err(words)) if said.contains(words) => {}
                _ => panic!("{asked:?}, {target:?}: {said:?}"),
            }
        }
    }

    #[test]
    fn where_a_new_timeline_has_not_begun_in_the_archive_the_old_one_is_not_gone_on_with() {
        use RecoveryTarget::{Latest, Time, Xid};
        let lineage = line(1, STOP, 2, Some(HISTORY)).unwrap();
        let part = |timeline: u32, end: u64| StoredLog {
            name: LogName::part(7, &format!("{timeline:08X}0000000000000006"), &(0..end)).unwrap(),
            bytes: 1,
            stored_at: at(6),
        };
        let said = |files: &[StoredLog], target: &RecoveryTarget| judge(LAYOUT, 1, &lineage, STOP, target, (files, at(60)));
        let words = "of timeline 2, which left timeline 1 at 0/6400000, 000000020000000000000006 has not come yet";
        let stray = [archive(&[5, 6, 7]), vec![part(1, 0x40_0001)]];
        for files in [&stray[0], &[archive(&[5]), stray[1].clone()].concat()] {
            for target in [Latest, Xid(3), Time(at(6))] {
                assert!(said(files, &target).unwrap_err().contains(words), "{files:?}, {target:?}");
            }
            assert!(said(files, &Time(at(5))).is_ok() && said(files, &RecoveryTarget::Lsn(Lsn(0x5FF_0000))).is_ok(), "{files:?}");
        }
        // It has come, or its beginning; the old one ended where it was left, or did not come.
        for more in [archive_of(2, &[6]), vec![part(2, 0x40_1000)]] {
            assert!(said(&[archive(&[5, 6, 7]), more].concat(), &Latest).is_ok());
        }
        assert!(
            said(&[archive(&[5]), vec![part(1, 0x40_0000)]].concat(), &Latest).is_ok() && said(&archive(&[5]), &Latest).is_ok()
        );
    }

    #[test]
    fn the_latest_timeline_is_the_last_of_those_whose_histories_follow_each_other() {
        let history = |timeline: u32| StoredLog {
            name: LogName::new(7, &format!("{timeline:08X}.history")).unwrap(),
            bytes: 1,
            stored_at: at(1),
        };
        let files = [2, 3, 5].map(history);
        let latest = |own, files: &[StoredLog]| chosen(own, Timeline::Latest, files).unwrap();
        assert_eq!((latest(1, &files), latest(3, &files), latest(4, &files), latest(1, &[])), (3, 3, 5, 1));
        assert_eq!(latest(1, &archive_of(2, &[6])), 1, "a server does not look at segments");
    }

    #[test]
    fn a_timeline_that_has_nothing_of_the_point_is_refused() {
        let said = |own, stop, chosen, history: &[u8]| line(own, stop, chosen, Some(history)).unwrap_err();
        let early = said(1, STOP, 2, b"1\t0/5700000\tx\n");
        assert!(early.contains("left timeline 1 at 0/5700000, before the end of this point's backup, 0/5800000"), "{early}");
        let other = said(2, STOP, 3, b"1\t0/6400000\tx\n");
        assert!(other.contains("timeline 3 did not come out of timeline 2"), "{other}");
        assert!(said(1, STOP, 2, b"nonsense").contains("00000002.history is no history"));
        assert!(line(1, STOP, 2, Some(b"1\t0/5800000\tx\n")).is_ok() && line(4, STOP, 4, None).is_ok());
    }
}
