//! Which share of the packs one verification reads, and what earlier ones read already.

use chrono::{DateTime, TimeDelta, Utc};

use super::{
    super::history::Record,
    needs::{Needs, PointSet},
};
use crate::{report::ReadPart, repository::PackRecord};

/// In which part of `of` a pack lies, from 1: by its name, which is a hash, so that the parts are about equal, and the same on every
/// machine.
pub(super) fn part_of(pack: &PackRecord, of: u32) -> u32 {
    let head = u64::from_be_bytes(pack.sha256[..8].try_into().expect("eight of 32 bytes"));
    // The remainder is below `of`, which fits.
    (head % u64::from(of)) as u32 + 1
}

/// The part whose turn it is: the one that was read longest ago, or never; of those the first. A record that is lost or cannot be
/// read only means that its part is read once more.
pub(super) fn due_part(records: &[Record], of: u32) -> ReadPart {
    let last_read = |number: u32| {
        records.iter().rposition(|record| {
            record.reading.as_ref().is_some_and(|reading| reading.part.of == 1 || reading.part == ReadPart { number, of })
        })
    };
    let number = (1..=of.max(1)).min_by_key(|number| last_read(*number)).unwrap_or(1);
    ReadPart { number, of }
}

/// One earlier reading, as far as it still counts: its part, and which of today's points it read all packs of in that part.
pub(super) struct Earlier {
    part: ReadPart,
    started_at: DateTime<Utc>,
    points: PointSet,
}

/// The readings that still count: those of the time `window` before `now`.
pub(super) fn earlier(records: &[Record], ids: &[String], now: DateTime<Utc>, window: TimeDelta) -> Vec<Earlier> {
    let counts = |record: &&Record| record.at <= now && now - record.at <= window;
    let reading = |record: &Record| {
        let reading = record.reading.as_ref()?;
        let mut points = PointSet::default();
        ids.iter().enumerate().filter(|(_, id)| reading.points.contains(*id)).for_each(|(number, _)| points.insert(number));
        Some(Earlier { part: reading.part, started_at: reading.started_at, points })
    };
    records.iter().filter(counts).filter_map(reading).collect()
}

/// Of the points in `sound`, those whose every pack was read: now (`read_now`), or by an earlier reading of the pack's part that
/// began when the site had the pack (`pack` says since when it has) and counted a point which needs it. Either alone would not do:
/// a pack is there before an index names it, and what a point needs may be stored anew or repacked.
pub(super) fn completely_read<'a>(
    sound: &PointSet,
    needs: &Needs,
    earlier: &[Earlier],
    pack: impl Fn(u32) -> Option<(&'a PackRecord, DateTime<Utc>)>,
    read_now: impl Fn(u32) -> bool,
    is_quarantined: impl Fn(u32) -> bool,
) -> PointSet {
    let mut complete = sound.clone();
    for (number, points) in needs.iter() {
        let was_read = |(record, stored): (&PackRecord, DateTime<Utc>)| {
            let by = |reading: &&Earlier| part_of(record, reading.part.of) == reading.part.number && stored < reading.started_at;
            earlier.iter().filter(by).any(|reading| reading.points.meets(points))
        };
        let read = read_now(number) || (!is_quarantined(number) && pack(number).is_some_and(was_read));
        if !read {
            complete.remove_all(points);
        }
    }
    complete
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{DateTime, PackRecord, ReadPart, Record, TimeDelta, Utc, completely_read, due_part, earlier, part_of};
    use crate::{
        operations::{
            history::Reading,
            verify::needs::{Needs, PointSet},
        },
        report::EvidenceLink,
        repository::Class,
    };

    fn record(day: i64, number: u32, of: u32, points: &[&str]) -> Record {
        let points: BTreeSet<String> = points.iter().map(|point| (*point).to_owned()).collect();
        Record {
            link: EvidenceLink { key: String::new(), sha256: String::new() },
            at: DateTime::UNIX_EPOCH + TimeDelta::days(day),
            sound: BTreeSet::new(),
            hurt: BTreeSet::new(),
            reading: Some(Reading {
                part: ReadPart { number, of },
                started_at: DateTime::UNIX_EPOCH + TimeDelta::days(day),
                points,
            }),
            drill: None,
            previous: None,
        }
    }

    fn pack(first: u8) -> PackRecord {
        let mut sha256 = [0; 32];
        sha256[7] = first;
        PackRecord { sha256, size: 100, class: Class::Data, run: [0; 16], data_key: [0; 16], directory: [0; 32], chunks: 1 }
    }

    #[test]
    fn the_part_that_was_read_longest_ago_is_due_whatever_other_divisions_were_read() {
        assert_eq!(due_part(&[], 3).number, 1);
        let mut records = vec![record(0, 1, 3, &[]), record(1, 1, 30, &[])];
        assert_eq!(due_part(&records, 3).number, 2);
        records.extend([record(2, 2, 3, &[]), record(3, 3, 3, &[])]);
        assert_eq!(due_part(&records, 3).number, 1);
        records.push(record(4, 1, 3, &[]));
        assert_eq!(due_part(&records, 3).number, 2);
        // All of it was read: begin again.
        records.push(record(5, 1, 1, &[]));
        assert_eq!(due_part(&records, 3).number, 1);
        // A record that is gone: its part is read once more.
        records.truncate(4);
        records.remove(2);
        assert_eq!(due_part(&records, 3).number, 2);
    }

    #[test]
    fn every_pack_lies_in_one_part() {
        for of in [1, 2, 30] {
            for first in 0..=255 {
                assert!((1..=of).contains(&part_of(&pack(first), of)));
            }
        }
    }

    #[test]
    fn a_point_is_read_when_all_its_packs_were_within_the_window_while_a_point_that_needs_them_was_there() {
        let ids = ["old".to_owned(), "new".to_owned()];
        // Pack 0 lies in part 1 of 2, pack 1 in part 2. The new point shares pack 1 with the old one, and has pack 2 (part 1) for itself.
        let packs = [pack(0), pack(1), pack(2)];
        let (mut old, mut both, mut new) = (PointSet::default(), PointSet::default(), PointSet::default());
        old.insert(0);
        [0, 1].into_iter().for_each(|point| both.insert(point));
        new.insert(1);
        let mut needs = Needs::default();
        for (pack, points) in [(0, &old), (1, &both), (2, &new)] {
            points.iter().for_each(|point| needs.insert(pack, point));
        }
        let now = DateTime::UNIX_EPOCH + TimeDelta::days(40);
        let mut stored = [DateTime::UNIX_EPOCH; 3];
        let complete = |records: &[Record], quarantined: u32, stored: [DateTime<Utc>; 3]| {
            let earlier = earlier(records, &ids, now, TimeDelta::days(30));
            let found = completely_read(
                &both,
                &needs,
                &earlier,
                |number| Some((packs.get(number as usize)?, stored[number as usize])),
                |_| false,
                |number| number == quarantined,
            );
            found.iter().collect::<Vec<_>>()
        };
        let nothing = 99;
        // Both parts, when only the old point was there.
        let mut records = vec![record(20, 1, 2, &["old"]), record(21, 2, 2, &["old"])];
        assert_eq!(complete(&records, nothing, stored), [0]);
        // Part 1 again, with the new one: pack 1 was read for the old point.
        records.push(record(22, 1, 2, &["old", "new"]));
        assert_eq!(complete(&records, nothing, stored), [0, 1]);
        assert_eq!(complete(&records, 1, stored), [] as [usize; 0], "a pack found damaged since");
        // Too long ago, or in the future.
        assert_eq!(complete(&[record(9, 1, 1, &["old", "new"])], nothing, stored), [] as [usize; 0]);
        assert_eq!(complete(&[record(41, 1, 1, &["old", "new"])], nothing, stored), [] as [usize; 0]);
        assert_eq!(complete(&[record(10, 1, 1, &["old", "new"])], nothing, stored), [0, 1]);
        // A full reading and another division together.
        assert_eq!(complete(&[record(11, 1, 1, &["old"]), record(12, 1, 2, &["new"])], nothing, stored), [0, 1]);
        // What both need was stored anew since: nobody read that.
        stored[1] = DateTime::UNIX_EPOCH + TimeDelta::days(22);
        assert_eq!(complete(&records, nothing, stored), [] as [usize; 0]);
    }
}
