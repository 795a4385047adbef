//! Tablespaces that a log makes, kept within the data directory of whoever replays it.
//!
//! A server that replays `CREATE TABLESPACE` takes hold of the directory that the statement named: it changes its permissions, makes a
//! directory in it and links to it (`create_tablespace_directories`). Beside the living primary that is the primary's own. Where the path
//! is empty, it makes a plain directory `pg_tblspc/<oid>` instead, or goes through the link that is there already.
//!
//! Promises:
//! * Of the log only those bytes are changed, and each record's checksum is right afterwards. What an archive or a recovery point has stays as the server wrote it.
//! * It does not matter in how many segments such a record lies, nor which of them were changed before: each is changed by itself, to the same bytes.
//! * A record that is not understood is never let through.
//!
//! Assumes: servers that know tablespaces in place ([`KNOWN_FROM`]). An older one ends its recovery with an error.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::Read,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use super::{
    facts::PhysicalFacts,
    label::Lsn,
    records::{BEGINS_WITH_REST, RECORD_GIVEN_UP, Records},
    tablespace::MOST_TABLESPACE_BYTES,
    wal::{FirstPage, LONG_HEADER_BYTES, Layout, SHORT_HEADER_BYTES, Segment},
};
use crate::sources::SourceError;

/// The first version whose replay takes an empty path for a tablespace in place: 14.5, as `server_version_num`.
pub const KNOWN_FROM: u32 = 140_005;
/// The setting without which a server refuses to come to consistency over a tablespace in place.
pub const SETTING: &str = "allow_in_place_tablespaces";
/// Read at once, bytes: more than the header of a segment.
const READ_BYTES: usize = 1 << 20;

/// The segment before this one, if only it can tell whether the record that this one begins with the rest of makes a tablespace.
///
/// The end of such a record is the end of a path; so few others end like that that the segment before is seldom needed.
pub fn needs_before(bytes: &[u8]) -> Option<Segment> {
    let page = FirstPage::read(bytes)?;
    let flags = u16::from_le_bytes([bytes[2], bytes[3]]);
    let length = u32::from_le_bytes([bytes[16], bytes[17], bytes[18], bytes[19]]) as usize;
    if flags & BEGINS_WITH_REST == 0 || flags & RECORD_GIVEN_UP != 0 || !(1..MOST_TABLESPACE_BYTES).contains(&length) {
        return None;
    }
    let number = (page.address.0 / page.layout.segment_bytes).checked_sub(1)?;
    let (page_bytes, long) = (usize::try_from(page.page_bytes()).ok()?, LONG_HEADER_BYTES);
    // On the first page, and on those that follow where pages are small.
    let pages = bytes.chunks(page_bytes).enumerate();
    let contents = pages.flat_map(|(number, page)| page.iter().skip(if number == 0 { long } else { SHORT_HEADER_BYTES }));
    let rest: Vec<u8> = contents.take(length).copied().collect();
    let is_like_a_path = rest.len() == length && rest[length - 1] == 0 && rest[..length - 1].last().is_none_or(|last| *last != 0);
    is_like_a_path.then_some(Segment { number, timeline: page.timeline })
}

/// Empties the paths of the records in a segment that make tablespaces; says how many bytes that changed. `before` is the segment before,
/// where it is known and [`needs_before`] asks for it; without it the record that this one begins with the rest of is not changed.
///
/// # Errors
/// In words, if such a record must not be replayed as it would be.
pub fn empty(bytes: &mut [u8], before: Option<&[u8]>) -> Result<usize, String> {
    let Some(page) = FirstPage::read(bytes) else { return Ok(0) };
    let from = page.address.0;
    let number = from / page.layout.segment_bytes;
    let mut records =
        Records::from_segment(page.layout, page.page_bytes(), if before.is_some() { number.saturating_sub(1) } else { number });
    if let Some(before) = before {
        records.feed(before).map_err(|why| format!("the segment before it cannot be followed: {why}"))?;
    }
    // A server replays no further than this either.
    let _ = records.feed(bytes);
    let (mut changed, mut path_at) = (0, from);
    for change in records.so_far()?.changes {
        if !change.is_sum {
            path_at = change.at;
        }
        match change.at.checked_sub(from).and_then(|at| bytes.get_mut(usize::try_from(at).ok()?)) {
            Some(byte) => {
                *byte ^= change.with;
                changed += 1;
            }
            None if change.is_sum && path_at >= from => {
                return Err(format!(
                    "a tablespace is made at {} in a directory whose path has fewer than 4 bytes, and the record lies in two segments: it cannot be kept in the data directory. Recover to before that (--to-lsn), or from a later point",
                    Lsn(path_at)
                ));
            }
            // What lies in the segment before was changed there.
            None => {}
        }
    }
    Ok(changed)
}

/// Empties the paths in the log that was restored into `directory`, of a snapshot with these facts.
///
/// # Errors
/// [`SourceError::Malformed`] if it is not the log that was captured, [`SourceError::Io`].
pub fn empty_in(directory: &Path, facts: &PhysicalFacts) -> Result<(), SourceError> {
    // Older snapshots do not say; no record that would make one was let into them, as far as the end of the backup.
    if facts.tablespaces_in_log == Some(0) {
        return Ok(());
    }
    let shown = || directory.display().to_string();
    let malformed = |detail: String| SourceError::Malformed { subject: format!("the log in {}", shown()), detail };
    let place = |text: &str| Lsn::parse(text).ok_or_else(|| malformed(format!("{text:?} is no place in it")));
    let (start, stop) = (place(&facts.start_lsn)?, place(&facts.stop_lsn)?);
    let system = facts.system_identifier.parse().map_err(|_| malformed("is of no known cluster".to_owned()))?;
    let layout = Layout { segment_bytes: facts.wal_segment_bytes, system };
    if !layout.segment_bytes.is_power_of_two() {
        return Err(malformed(format!("has segments of {} bytes", layout.segment_bytes)));
    }
    let files = files(directory, layout).map_err(SourceError::io(shown()))?;
    let mut records: Option<Records> = None;
    for number in layout.segment_of(start)..=layout.segment_before(stop) {
        let path = files.get(&number).ok_or_else(|| malformed(format!("has no segment {number:X}")))?;
        let io = || SourceError::io(path.display().to_string());
        let mut file = File::open(path).map_err(io())?;
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let count = file.read(&mut buffer).map_err(io())?;
            let bytes = &buffer[..count];
            if bytes.is_empty() {
                break;
            }
            let records = match &mut records {
                Some(records) => records,
                none => {
                    let page =
                        FirstPage::read(bytes).ok_or_else(|| malformed("does not begin with a segment's header".to_owned()))?;
                    none.insert(Records::new(layout, page.page_bytes(), start, stop))
                }
            };
            records.feed(bytes).map_err(malformed)?;
        }
    }
    let followed = records.map_or_else(|| Err("is empty".to_owned()), Records::finish).map_err(malformed)?;
    if let Some(expected) = facts.tablespaces_in_log.filter(|expected| *expected != followed.naming) {
        return Err(malformed(format!("makes {} tablespaces, and made {expected} when it was captured", followed.naming)));
    }
    for changes in followed.changes.chunk_by(|one, next| one.at / layout.segment_bytes == next.at / layout.segment_bytes) {
        let Some(path) = changes.first().and_then(|change| files.get(&(change.at / layout.segment_bytes))) else { continue };
        let change_all = || -> std::io::Result<()> {
            let file = OpenOptions::new().read(true).write(true).open(path)?;
            for change in changes {
                let (at, mut byte) = (change.at % layout.segment_bytes, [0]);
                file.read_exact_at(&mut byte, at)?;
                file.write_all_at(&[byte[0] ^ change.with], at)?;
            }
            file.sync_all()
        };
        change_all().map_err(SourceError::io(path.display().to_string()))?;
    }
    Ok(())
}

/// The segments in a directory by number; of one that two timelines have, the later one's, which is what a server replays.
fn files(directory: &Path, layout: Layout) -> std::io::Result<BTreeMap<u64, PathBuf>> {
    let mut found: BTreeMap<u64, Segment> = BTreeMap::new();
    for entry in std::fs::read_dir(directory)? {
        if let Some(segment) = entry?.file_name().to_str().and_then(|name| layout.parse(name)) {
            let latest = found.entry(segment.number).or_insert(segment);
            *latest = (*latest).max(segment);
        }
    }
    Ok(found.into_iter().map(|(number, segment)| (number, directory.join(layout.name(segment)))).collect())
}

#[cfg(test)]
mod tests {
    use super::{FirstPage, Layout, Lsn, Records, Segment, empty, needs_before};

    const SEGMENT: usize = 1 << 20;
    const PAGE: usize = 8192;
    const LAYOUT: Layout = Layout { segment_bytes: SEGMENT as u64, system: 7 };
    /// Of the first segment that is there.
    const FIRST: u64 = 3;

    /// A log as a server writes it, with the headers of its pages.
    #[derive(Default)]
    struct Log {
        bytes: Vec<u8>,
        before: u64,
    }

    impl Log {
        fn at(&self) -> u64 {
            FIRST * SEGMENT as u64 + self.bytes.len() as u64
        }

        /// Begins a page, if one is due, in the midst of a record of which so many bytes are to come.
        fn page(&mut self, rest: usize) {
            if !self.bytes.len().is_multiple_of(PAGE) {
                return;
            }
            let is_first = self.bytes.len().is_multiple_of(SEGMENT);
            let mut header = vec![0; if is_first { 40 } else { 24 }];
            header[..2].copy_from_slice(&0xD110_u16.to_le_bytes());
            header[2] = u8::from(rest > 0) | if is_first { 2 } else { 0 };
            header[4] = 1;
            header[8..16].copy_from_slice(&self.at().to_le_bytes());
            header[16..20].copy_from_slice(&u32::try_from(rest).unwrap().to_le_bytes());
            if is_first {
                header[24] = 7;
                header[32..36].copy_from_slice(&u32::try_from(SEGMENT).unwrap().to_le_bytes());
                header[36..40].copy_from_slice(&u32::try_from(PAGE).unwrap().to_le_bytes());
            }
            self.bytes.extend(header);
        }

        fn record(&mut self, manager: u8, info: u8, body: &[u8]) {
            self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
            self.page(0);
            let start = self.at();
            let mut header = vec![0; 24];
            header[..4].copy_from_slice(&(24 + u32::try_from(body.len()).unwrap()).to_le_bytes());
            header[8..16].copy_from_slice(&self.before.to_le_bytes());
            (header[16], header[17]) = (info, manager);
            let checked: Vec<u8> = body.iter().chain(&header[..20]).copied().collect();
            let sum = u32::try_from(crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &checked)).unwrap();
            header[20..].copy_from_slice(&sum.to_le_bytes());
            let all: Vec<u8> = header.into_iter().chain(body.iter().copied()).collect();
            for (number, byte) in all.iter().enumerate() {
                self.page(if number == 0 { 0 } else { all.len() - number });
                self.bytes.push(*byte);
            }
            self.before = start;
        }

        /// Other records, until so many bytes are left in the segment.
        fn fill_but(&mut self, left: usize) {
            loop {
                self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
                self.page(0);
                let there = SEGMENT - self.bytes.len() % SEGMENT - left;
                match (there, PAGE - self.bytes.len() % PAGE) {
                    (0, _) => return,
                    (..=8100, in_page) if there <= in_page => self.record(10, 0, &vec![2; there - 24]),
                    // To the end of the page, but for a little.
                    (_, in_page @ 96..) => self.record(10, 0, &vec![2; in_page - 24 - 48]),
                    (_, in_page) => self.record(10, 0, &vec![2; in_page + 48]),
                }
            }
        }
    }

    fn made(path: &str) -> Vec<u8> {
        let mut body = vec![255, 5 + u8::try_from(path.len()).unwrap()];
        body.extend(16_400_u32.to_le_bytes());
        body.extend(path.as_bytes());
        body.push(0);
        body
    }

    /// Three segments, of which a record that makes a tablespace begins so many bytes before the second.
    fn log(left: usize, path: &str) -> Vec<u8> {
        let mut log = Log::default();
        log.record(10, 0, &[1; 100]);
        log.fill_but(left);
        log.record(5, 0, &made(path));
        log.record(10, 0, &[3; 200]);
        log.record(5, 0, &made("/another/one"));
        log.fill_but(64);
        log.record(10, 0, b"ends like a path, over the end of a segment, and is none: /srv/fast\0");
        log.bytes.resize(3 * SEGMENT, 0);
        log.bytes
    }

    /// How many records name a directory, if all can be replayed.
    fn naming(bytes: &[u8]) -> u64 {
        let mut records = Records::from_segment(LAYOUT, PAGE as u64, FIRST);
        records.feed(&bytes[..2 * SEGMENT + PAGE]).unwrap_or_else(|why| assert!(why.contains("no record"), "{why}"));
        records.so_far().unwrap().naming
    }

    #[test]
    fn segments_that_are_delivered_one_by_one_come_to_the_same_as_the_whole_log() {
        for path in ["/abc", "/abcd", "/srv/fast", "/srv/a/longer/path/than/the/others/have"] {
            for left in (8..112).step_by(8) {
                let raw = log(left, path);
                assert_eq!(naming(&raw), 2, "{path}, {left}");
                let mut wanted = raw.clone();
                let mut records = Records::from_segment(LAYOUT, PAGE as u64, FIRST);
                let _ = records.feed(&raw);
                for change in records.so_far().unwrap().changes {
                    wanted[usize::try_from(change.at).unwrap() - 3 * SEGMENT] ^= change.with;
                }
                assert_eq!(naming(&wanted), 0, "{path}, {left}");
                let (mut delivered, mut looked) = (Vec::new(), 0);
                for segment in raw.chunks(SEGMENT) {
                    let mut segment = segment.to_vec();
                    let before = needs_before(&segment).map(|before| {
                        looked += 1;
                        assert_eq!(before.timeline, 1);
                        let at = usize::try_from(before.number - FIRST).unwrap() * SEGMENT;
                        // What the server has by then, and what the archive has, tell the same.
                        let (own, archived) = (delivered[at..at + SEGMENT].to_vec(), raw[at..at + SEGMENT].to_vec());
                        let (mut one, mut other) = (segment.clone(), segment.clone());
                        empty(&mut one, Some(&own)).unwrap();
                        empty(&mut other, Some(&archived)).unwrap();
                        assert!(one == other, "{path}, {left}");
                        own
                    });
                    empty(&mut segment, before.as_deref()).unwrap();
                    assert_eq!(empty(&mut segment.clone(), None), Ok(0), "once is enough");
                    delivered.extend(segment);
                }
                assert!(delivered == wanted, "{path}, {left}");
                let (length, split) = (24 + 6 + path.len() + 1, left < 24 + 6 + path.len() + 1);
                assert_eq!(looked, 1 + u32::from(split), "{path}, {left}, {length}");
            }
        }
    }

    #[test]
    fn a_path_that_is_too_short_and_lies_apart_from_its_checksum_is_refused_and_otherwise_emptied() {
        for left in (8..=40).step_by(8) {
            let raw = log(left, "/a");
            let (mut first, mut second) = (raw[..SEGMENT].to_vec(), raw[SEGMENT..2 * SEGMENT].to_vec());
            empty(&mut first, None).unwrap();
            let before = needs_before(&second).map(|_| first.as_slice());
            let outcome = empty(&mut second, before);
            // Header and length of the data come before the path.
            match (24..30).contains(&left) {
                true => assert!(outcome.unwrap_err().contains("fewer than 4 bytes"), "{left}"),
                false => assert_eq!(naming(&[first, second, raw[2 * SEGMENT..].to_vec()].concat()), 0, "{left}"),
            }
        }
    }

    #[test]
    fn the_segment_before_is_asked_for_only_where_it_can_tell_something() {
        let raw = log(16, "/srv/fast");
        let second = &raw[SEGMENT..2 * SEGMENT];
        assert_eq!(needs_before(second), Some(Segment { number: FIRST, timeline: 1 }));
        assert_eq!(needs_before(&raw[..SEGMENT]), None, "it begins with a record");
        assert_eq!(needs_before(&[0; 8192]), None);
        let mut given_up = second.to_vec();
        given_up[2] |= 8;
        assert_eq!(needs_before(&given_up), None);
        let mut other = second.to_vec();
        let length = u32::from_le_bytes(other[16..20].try_into().unwrap()) as usize;
        other[40 + length - 1] = 1;
        assert_eq!(needs_before(&other), None);
        // Nobody has the segment before: nobody replays that record.
        let mut alone = second.to_vec();
        assert_eq!(empty(&mut alone, None), Ok(5), "the other one in this segment");
        assert!(alone[40..40 + length] == second[40..40 + length]);
        assert_eq!(FirstPage::read(second).map(|page| page.address), Some(Lsn(4 << 20)));
    }
}
