//! The records of the write-ahead log, followed from the one where replay begins to the one where it may end.
//!
//! That shows three things. The log can be replayed: each record is whole by its own checksum and names the one before it. Which
//! tablespaces it makes: a server that replays `CREATE TABLESPACE` writes to the directory that the statement named, on whatever
//! machine it runs, so that a drill would reach into a production server's files beside it. [`Change`]s to the log empty that path
//! (see [`super::in_place`]). And which relations have no log of their own (see [`super::unlogged`]).
//!
//! The layout is that of `xlogrecord.h`, `xlog_internal.h` and `xloginsert.c`.

use crc_fast::{CrcAlgorithm, Digest};

use super::{
    label::Lsn,
    summary::Locator,
    tablespace::{Change, Coming, MOST_TABLESPACE_BYTES, Made, emptying, path_at, tablespace},
    unlogged::init_fork,
    wal::{CHECKED_HEADER_BYTES, HEADER_BYTES, LONG_HEADER_BYTES, Layout, SHORT_HEADER_BYTES},
};

/// `XLogRecordMaxSize`.
const MOST_BYTES: u32 = 1020 << 20;
/// Set in the flags of a page that begins with the rest of a record.
pub const BEGINS_WITH_REST: u16 = 0x0001;
/// Set in the flags of a page at whose beginning a record was given up that a crash had cut off.
pub const RECORD_GIVEN_UP: u16 = 0x0008;
/// Resource managers and their records: the rest of the segment is empty; a relation's fork is made; a tablespace is made, or dropped.
const RM_XLOG: u8 = 0;
const XLOG_SWITCH: u8 = 0x40;
/// Resource manager and kind of the record after which the rest of the segment is empty.
pub const SWITCH: (u8, u8) = (RM_XLOG, XLOG_SWITCH);
const RM_SMGR: u8 = 2;
const SMGR_CREATE: u8 = 0x10;
const RM_TABLESPACE: u8 = 5;
const TABLESPACE_CREATE: u8 = 0x00;
const TABLESPACE_DROP: u8 = 0x10;
/// The lower bits of a record's flags are not the resource manager's.
const INFO: u8 = 0xF0;
/// What the records say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Followed {
    /// The tablespaces that are made, in the order of the log.
    pub made: Vec<Made>,
    /// How many records name a directory for a tablespace; one that is cut off at the very end counts.
    pub naming: u64,
    /// What empties the paths of those records.
    pub changes: Vec<Change>,
    /// The relations whose init fork is made.
    pub init_forks: Vec<Locator>,
}

/// Follows the records of a log whose segments come one after the other, each from its beginning.
#[derive(Debug)]
pub struct Records {
    layout: Layout,
    page_bytes: u64,
    start: u64,
    end: u64,
    /// The end of the segment that `end` lies in. A server replays as far as there are records.
    last: u64,
    /// Nothing can be replayed from here on, behind `end`.
    is_over: bool,
    /// Whether the log is right as far as `end`, once that is known.
    verdict: Option<Result<(), String>>,
    /// Why it must not be replayed, whatever else is right.
    refused: Option<String>,
    /// The place of the next byte.
    position: u64,
    /// What has come of the present page's header.
    page_header: Vec<u8>,
    record: Option<Record>,
    /// Where the record before began, if it is known.
    before: Option<u64>,
    /// As far as nothing is to be read: the rest of a segment that was switched.
    skip_to: u64,
    records: u64,
    followed: Followed,
}

/// A record that is coming.
#[derive(Debug)]
struct Record {
    start: u64,
    header: Vec<u8>,
    /// Bytes of it that are still to come after its header.
    remaining: usize,
    digest: Digest,
    /// The place of its checksum.
    sum_at: u64,
    /// Of one that is read, its bytes and their places.
    kept: Vec<u8>,
    places: Vec<u64>,
    /// It began before what is followed, and is not judged.
    is_rest: bool,
}

impl Record {
    fn word(&self, at: usize) -> u32 {
        u32::from_le_bytes([self.header[at], self.header[at + 1], self.header[at + 2], self.header[at + 3]])
    }

    fn is(&self, manager: u8, info: u8) -> bool {
        self.header.len() == HEADER_BYTES && self.header[17] == manager && self.header[16] & INFO == info
    }

    /// Whether what it says is read: it makes or drops a tablespace, or makes a fork.
    fn is_read(&self) -> bool {
        self.header.get(17) == Some(&RM_TABLESPACE) || self.is(RM_SMGR, SMGR_CREATE)
    }

    /// Whether its checksum is right with these bytes of a tablespace's record.
    fn is_right_with(&self, body: &[u8]) -> bool {
        let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
        digest.update(body);
        digest.update(&self.header[..CHECKED_HEADER_BYTES]);
        digest.finalize() == u64::from(self.word(CHECKED_HEADER_BYTES))
    }

    /// Whether it is right but for the beginning of its path, which was emptied as far as it lay in the segment before.
    fn was_emptied_in_part(&self) -> bool {
        let Ok(Some(at)) = path_at(&self.kept) else { return false };
        let mask = emptying();
        (1..mask.len()).any(|count| {
            let mut body = self.kept.clone();
            body.iter_mut().skip(at).zip(&mask[..count]).for_each(|(byte, with)| *byte ^= with);
            self.kept.get(at) == Some(&0) && self.is_right_with(&body)
        })
    }

    /// What empties the path that it names, as far as its bytes have come.
    fn changes(&self, was_emptied_in_part: bool) -> Result<Vec<Change>, String> {
        if self.is_rest || !self.is(RM_TABLESPACE, TABLESPACE_CREATE) {
            return Ok(Vec::new());
        }
        let coming =
            Coming { body: &self.kept, places: &self.places, remaining: self.remaining, sum_at: self.sum_at, was_emptied_in_part };
        coming.changes().map_err(|what| format!("the record at {} makes a tablespace {what}", Lsn(self.start)))
    }
}

impl Records {
    /// From the record at `start` to the one that ends at `end`. `page_bytes` is what the log's pages have.
    pub fn new(layout: Layout, page_bytes: u64, start: Lsn, end: Lsn) -> Self {
        let position = start.0 - start.0 % layout.segment_bytes;
        Self {
            layout,
            page_bytes,
            start: start.0,
            end: end.0,
            last: end.0.next_multiple_of(layout.segment_bytes),
            is_over: false,
            verdict: None,
            refused: None,
            position,
            page_header: Vec::new(),
            record: None,
            before: None,
            skip_to: start.0,
            records: 0,
            followed: Followed::default(),
        }
    }

    /// From the first record that begins in the segment of this number, for as many segments as come.
    pub fn from_segment(layout: Layout, page_bytes: u64, number: u64) -> Self {
        let start = number * layout.segment_bytes;
        Self { last: u64::MAX, ..Self::new(layout, page_bytes, Lsn(start), Lsn(u64::MAX - layout.segment_bytes)) }
    }

    /// More bytes of the log. Behind the end that is needed they are followed for as long as they can be replayed.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Result<(), String> {
        while !bytes.is_empty() && self.position < self.last && !self.is_over {
            let within = self.position % self.page_bytes;
            let in_segment = self.position % self.layout.segment_bytes;
            let header_bytes = if in_segment < self.page_bytes { LONG_HEADER_BYTES } else { SHORT_HEADER_BYTES } as u64;
            let until = if self.position < self.end { self.end } else { self.last };
            let (limit, is_header) = match within < header_bytes {
                true => (header_bytes - within, true),
                false => ((self.page_bytes - within).min(until - self.position), false),
            };
            let part = usize::try_from(limit).unwrap_or(usize::MAX).min(bytes.len());
            let (now, rest) = bytes.split_at(part);
            let followed = match is_header {
                true => self.page_header(now, header_bytes),
                false => self.content(now),
            };
            match followed {
                Err(_) if self.position >= self.end => (self.is_over, self.record) = (true, None),
                other => other?,
            }
            self.position += part as u64;
            bytes = rest;
            if self.position >= self.end && self.verdict.is_none() {
                self.verdict = Some(match &self.record {
                    Some(record) => Err(format!("the record at {} is cut off at {}", Lsn(record.start), Lsn(self.end))),
                    None if self.records == 0 => Err(format!("there is no record at {}", Lsn(self.start))),
                    None => Ok(()),
                });
            }
        }
        Ok(())
    }

    /// Where the last record begins that has come whole; nothing if none has.
    pub fn last_record(&self) -> Option<Lsn> {
        self.before.map(Lsn)
    }

    /// All of it has come. Returns what it says.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn finish(mut self) -> Result<Followed, String> {
        let missing = || format!("the log ends at {}, and {} is needed", Lsn(self.position), Lsn(self.end));
        self.verdict.take().unwrap_or_else(|| Err(missing()))?;
        self.so_far()
    }

    /// What the part says that has come, right or not: a server replays no further than it was followed.
    ///
    /// # Errors
    /// In words, what must not be replayed.
    pub fn so_far(mut self) -> Result<Followed, String> {
        if let Some(record) = self.record.take() {
            match record.changes(false) {
                Ok(changes) => self.takes(changes),
                Err(why) => self.refused = self.refused.or(Some(why)),
            }
        }
        self.refused.map_or(Ok(self.followed), Err)
    }

    fn takes(&mut self, changes: Vec<Change>) {
        self.followed.naming += u64::from(!changes.is_empty());
        self.followed.changes.extend(changes);
    }

    fn page_header(&mut self, bytes: &[u8], header_bytes: u64) -> Result<(), String> {
        self.page_header.extend_from_slice(bytes);
        if (self.page_header.len() as u64) < header_bytes {
            return Ok(());
        }
        let header = std::mem::take(&mut self.page_header);
        let page = self.position - self.position % self.page_bytes;
        // A server leaves even the headers of pages empty from a switch on.
        if header.iter().all(|byte| *byte == 0) && page >= self.skip_to {
            return Err(format!("there is no page of the log at {}", Lsn(page)));
        }
        let flags = u16::from_le_bytes([header[2], header[3]]);
        if flags & RECORD_GIVEN_UP != 0 {
            (self.record, self.before) = (None, None);
        } else if page == self.start && flags & BEGINS_WITH_REST != 0 {
            let rest = u32::from_le_bytes([header[16], header[17], header[18], header[19]]);
            self.record =
                Some(Record { header: vec![0; HEADER_BYTES], remaining: rest as usize, is_rest: true, ..Record::at(page) });
        }
        Ok(())
    }

    /// Bytes of one page that are no header.
    fn content(&mut self, mut bytes: &[u8]) -> Result<(), String> {
        let mut at = self.position;
        while !bytes.is_empty() {
            let idle = match self.record {
                Some(_) => 0,
                // Records begin at multiples of 8.
                None => self.skip_to.saturating_sub(at).max(at.next_multiple_of(8) - at),
            };
            if idle > 0 {
                let part = usize::try_from(idle).unwrap_or(usize::MAX).min(bytes.len());
                (at, bytes) = (at + part as u64, &bytes[part..]);
                continue;
            }
            let record = self.record.get_or_insert_with(|| Record::at(at));
            let part = if record.header.len() < HEADER_BYTES {
                let part = (HEADER_BYTES - record.header.len()).min(bytes.len());
                record.header.extend_from_slice(&bytes[..part]);
                if record.header.len() == HEADER_BYTES {
                    let length = record.word(0);
                    if !(HEADER_BYTES as u32..=MOST_BYTES).contains(&length) {
                        return Err(format!("there is no record at {}", Lsn(record.start)));
                    }
                    record.remaining = length as usize - HEADER_BYTES;
                    // These eight bytes of a header are never apart.
                    record.sum_at = at + part as u64 - 4;
                }
                part
            } else {
                let part = record.remaining.min(bytes.len());
                record.digest.update(&bytes[..part]);
                if record.is_read() && record.kept.len() < MOST_TABLESPACE_BYTES {
                    record.kept.extend_from_slice(&bytes[..part]);
                    record.places.extend(at..at + part as u64);
                }
                record.remaining -= part;
                part
            };
            (at, bytes) = (at + part as u64, &bytes[part..]);
            if record.header.len() == HEADER_BYTES && record.remaining == 0 {
                self.whole(at)?;
            }
        }
        Ok(())
    }

    /// Judges a record all of which has come; `next` is the place after it.
    fn whole(&mut self, next: u64) -> Result<(), String> {
        let Some(mut record) = self.record.take() else { return Ok(()) };
        if record.is_rest {
            return Ok(());
        }
        record.digest.update(&record.header[..CHECKED_HEADER_BYTES]);
        let is_right = record.digest.finalize() == u64::from(record.word(CHECKED_HEADER_BYTES));
        let makes = record.is(RM_TABLESPACE, TABLESPACE_CREATE);
        let was_emptied_in_part = !is_right && makes && record.was_emptied_in_part();
        if !is_right && !was_emptied_in_part {
            return Err(format!("the record at {} is damaged", Lsn(record.start)));
        }
        let before = u64::from(record.word(8)) | u64::from(record.word(12)) << 32;
        if self.before.is_some_and(|known| known != before) {
            return Err(format!("the record at {} follows another than the one before it", Lsn(record.start)));
        }
        if record.is(RM_XLOG, XLOG_SWITCH) {
            self.skip_to = next.next_multiple_of(self.layout.segment_bytes);
        }
        if makes {
            match record.changes(was_emptied_in_part) {
                Ok(changes) => self.takes(changes),
                Err(why) => return Err(self.refused.insert(why).clone()),
            }
            let (oid, directory) = tablespace(&record.kept);
            self.followed.made.push(Made { oid, directory, is_dropped: false });
        }
        if record.is(RM_TABLESPACE, TABLESPACE_DROP) {
            let (dropped, _) = tablespace(&record.kept);
            self.followed.made.iter_mut().filter(|made| made.oid == dropped).for_each(|made| made.is_dropped = true);
        }
        if record.is(RM_SMGR, SMGR_CREATE) {
            self.followed.init_forks.extend(init_fork(&record.kept));
        }
        self.before = Some(record.start);
        self.records += 1;
        Ok(())
    }
}

impl Record {
    /// One that begins there.
    fn at(start: u64) -> Self {
        Self {
            start,
            header: Vec::with_capacity(HEADER_BYTES),
            remaining: 0,
            digest: Digest::new(CrcAlgorithm::Crc32Iscsi),
            sum_at: 0,
            kept: Vec::new(),
            places: Vec::new(),
            is_rest: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{CrcAlgorithm, Followed, Layout, Locator, Lsn, Made, Records};

    const SEGMENT: u64 = 64 << 10;
    const LAYOUT: Layout = Layout { segment_bytes: SEGMENT, system: 7 };
    const PAGE: u64 = 8192;

    /// A log from the beginning of segment 1, as a server writes it.
    struct Log {
        bytes: Vec<u8>,
        before: u64,
    }

    impl Log {
        fn new() -> Self {
            Self { bytes: Vec::new(), before: 0 }
        }

        fn at(&self) -> u64 {
            SEGMENT + self.bytes.len() as u64
        }

        fn put(&mut self, bytes: &[u8]) {
            for byte in bytes {
                if (self.bytes.len() as u64).is_multiple_of(PAGE) {
                    let is_long = (self.bytes.len() as u64).is_multiple_of(SEGMENT);
                    let mut header = vec![0; if is_long { 40 } else { 24 }];
                    header[2] = if is_long { 2 } else { 1 };
                    self.bytes.extend(header);
                }
                self.bytes.push(*byte);
            }
        }

        /// Returns where it begins.
        fn record(&mut self, manager: u8, info: u8, body: &[u8]) -> u64 {
            while !self.bytes.len().is_multiple_of(8) {
                self.put(&[0]);
            }
            let page = self.at() % PAGE;
            let start = self.at()
                + if page > 0 {
                    0
                } else if self.at().is_multiple_of(SEGMENT) {
                    40
                } else {
                    24
                };
            let mut header = vec![0; 24];
            header[..4].copy_from_slice(&(24 + body.len() as u32).to_le_bytes());
            header[8..16].copy_from_slice(&self.before.to_le_bytes());
            (header[16], header[17]) = (info, manager);
            let checked: Vec<u8> = body.iter().chain(&header[..20]).copied().collect();
            let sum = u32::try_from(crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, &checked)).unwrap();
            header[20..].copy_from_slice(&sum.to_le_bytes());
            self.put(&header);
            self.put(body);
            self.before = start;
            start
        }
    }

    fn follow(bytes: &[u8], start: u64, end: u64) -> Result<Followed, String> {
        let followed = [1, 7, 8192, bytes.len()].map(|step| {
            let mut records = Records::new(LAYOUT, PAGE, Lsn(start), Lsn(end));
            bytes.chunks(step).try_for_each(|piece| records.feed(piece))?;
            records.finish()
        });
        assert!(followed.iter().all(|one| *one == followed[0]), "wherever it is cut: {followed:?}");
        followed[0].clone()
    }

    #[test]
    fn a_log_is_followed_over_pages_segments_and_switches_and_damage_is_found() {
        let mut log = Log::new();
        log.record(10, 0, &[1; 100]);
        let start = log.record(10, 0x10, &[2; 30_001]);
        log.record(0, 0x40, &[]);
        let rest = SEGMENT - log.bytes.len() as u64 % SEGMENT;
        log.bytes.extend(vec![0; usize::try_from(rest).unwrap()]);
        let after = log.record(10, 0, &[3; 500]);
        log.record(5, 0x10, &made(16_400, ""));
        assert_eq!(follow(&log.bytes, start, log.at()), Ok(Followed::default()), "one that is dropped");
        log.record(5, 0, &made(16_400, "/srv/fast"));
        let end = log.at();
        log.put(&[0xEE; 300]);
        let fast = Made { oid: 16_400, directory: "/srv/fast".to_owned(), is_dropped: false };
        assert_eq!(follow(&log.bytes, start, end).unwrap().made, [fast]);
        for place in [start + 4, start + 20_000, after + 8, after + 100, end - 1] {
            let mut damaged = log.bytes.clone();
            damaged[usize::try_from(place - SEGMENT).unwrap()] ^= 1;
            assert!(follow(&damaged, start, end).unwrap_err().contains("is damaged"), "{place}");
        }
        let mut emptied = log.bytes.clone();
        let page = usize::try_from((start - SEGMENT).next_multiple_of(8192)).unwrap();
        emptied[page..page + 24].fill(0);
        assert!(follow(&emptied, start, end).unwrap_err().contains("no page"));
        assert!(follow(&log.bytes, start, end + 200).unwrap_err().contains("no record"));
        assert!(follow(&log.bytes, start + 64, end).is_err());
        assert!(follow(&log.bytes, start, after + 100).unwrap_err().contains("cut off"));
        assert!(follow(&log.bytes, start, end + 9000).is_err(), "less log than is needed");
        let mut other = Log::new();
        other.record(10, 0, &[1]);
        other.before = 8;
        other.record(10, 0, &[1]);
        assert!(follow(&other.bytes, SEGMENT + 40, other.at()).unwrap_err().contains("follows another"));
    }

    #[test]
    fn a_record_that_a_crash_cut_off_is_given_up_where_a_page_says_so() {
        let mut log = Log::new();
        log.record(10, 0, &[1; 100]);
        log.record(10, 0, &[2; 20_000]);
        log.bytes.truncate(8192);
        log.before = 12;
        let at = log.bytes.len();
        log.record(0, 0xD0, &[3; 16]);
        log.bytes[at + 2] = 8;
        assert_eq!(follow(&log.bytes, SEGMENT + 40, log.at()), Ok(Followed::default()));
        log.bytes[at + 2] = 0;
        assert!(follow(&log.bytes, SEGMENT + 40, log.at()).is_err());
    }

    /// The body of a record that makes a tablespace.
    fn made(oid: u32, path: &str) -> Vec<u8> {
        let mut body = vec![253, 9, 9, 255, 5 + u8::try_from(path.len()).unwrap()];
        body.extend(oid.to_le_bytes());
        body.extend(path.as_bytes());
        body.push(0);
        body
    }

    fn emptied(bytes: &[u8], followed: &Followed) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        followed.changes.iter().for_each(|change| bytes[usize::try_from(change.at - SEGMENT).unwrap()] ^= change.with);
        bytes
    }

    #[test]
    fn wherever_a_record_lies_its_path_is_emptied_and_its_checksum_is_right() {
        for path in ["/", "/a", "/ab", "/abc", "/srv/tablespaces/fast"] {
            // Over the end of a page and of a segment, at every place where a record can be cut.
            for before in (0..120).step_by(8).flat_map(|less| [8192 - less, SEGMENT as usize - less]) {
                let mut log = Log::new();
                let start = log.record(10, 0, &[1; 10]);
                let filler = before - (log.bytes.len().next_multiple_of(8)) - 24 - if before > 8192 { 7 * 24 } else { 0 };
                log.record(10, 0x10, &vec![2; filler]);
                log.record(5, 0, &made(16_400, path));
                log.record(5, 0x10, &made(16_399, ""));
                log.record(10, 0x10, &[3; 500]);
                let followed = follow(&log.bytes, start, log.at()).unwrap();
                assert_eq!(followed.made, [Made { oid: 16_400, directory: path.to_owned(), is_dropped: false }]);
                assert_eq!((followed.naming, followed.changes.len()), (1, 5), "{path}, {before}");
                assert_eq!(followed.changes.iter().any(|change| change.is_sum), path.len() < 4, "{path}");
                let again = follow(&emptied(&log.bytes, &followed), start, log.at()).unwrap();
                assert_eq!(again.made, [Made { oid: 16_400, directory: String::new(), is_dropped: false }], "{path}, {before}");
                assert_eq!((again.naming, again.changes), (0, Vec::new()), "{path}, {before}");
            }
        }
    }

    #[test]
    fn relations_whose_init_fork_is_made_are_told() {
        let fork = |before: &[u8], number: u32, fork: u32| {
            let data = [1663, 5, number, fork].map(u32::to_le_bytes).concat();
            [before, &[255, 16], &data].concat()
        };
        let mut log = Log::new();
        let start = log.record(10, 0, &[1; 8100]);
        log.record(2, 0x10, &fork(&[], 1, 0));
        log.record(2, 0x10, &fork(&[], 2, 3));
        log.record(2, 0x20, &fork(&[], 3, 3));
        log.record(2, 0x10, &fork(&[252, 9, 9, 9, 9], 4, 3));
        log.record(3, 0x10, &fork(&[], 5, 3));
        log.record(2, 0x10, &[255, 16, 1]);
        let at = |number| Locator { tablespace: 1663, database: 5, number };
        assert_eq!(follow(&log.bytes, start, log.at()).unwrap().init_forks, [at(2), at(4)]);
    }

    #[test]
    fn what_a_server_replays_behind_the_end_counts_and_what_it_cannot_does_not() {
        let mut log = Log::new();
        let start = log.record(10, 0, &[1; 10]);
        log.record(5, 0, &made(1, "/kept/in/place"));
        let end = log.at();
        log.record(5, 0x10, &made(1, ""));
        log.record(5, 0, &made(2, "/behind"));
        let last = log.at();
        log.record(5, 0, &made(3, "/damaged"));
        let mut bytes = log.bytes.clone();
        bytes[usize::try_from(last + 30 - SEGMENT).unwrap()] ^= 1;
        let followed = follow(&bytes, start, end).unwrap();
        let made = |oid, directory: &str, is_dropped| Made { oid, directory: directory.to_owned(), is_dropped };
        assert_eq!(followed.made, [made(1, "/kept/in/place", true), made(2, "/behind", false)]);
        assert_eq!(followed.naming, 2);
    }

    #[test]
    fn one_that_is_not_understood_or_names_no_absolute_path_is_refused() {
        let mut other = made(1, "/x");
        other[0] = 9;
        for (body, words) in [(other, "not understood"), (made(1, "x:/data"), "no absolute path")] {
            let mut log = Log::new();
            let start = log.record(10, 0, &[1; 10]);
            let end = log.record(5, 0, &body);
            assert!(follow(&log.bytes, start, log.at()).unwrap_err().contains(words));
            assert!(follow(&log.bytes, start, end).unwrap_err().contains(words), "behind the end, too");
        }
    }
}
