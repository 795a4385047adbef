//! The records of the write-ahead log, followed from the one where replay begins to the one where it may end.
//!
//! That shows two things. The log can be replayed: each record is whole by its own checksum and names the one before it. And it
//! makes no tablespace: a server that replays `CREATE TABLESPACE` writes to the directory that the statement named, on whatever
//! machine it runs, so that a drill would reach into a production server's files beside it.
//!
//! The layout is that of `xlogrecord.h`, `xlog_internal.h` and `xloginsert.c`.

use crc_fast::{CrcAlgorithm, Digest};

use super::{
    label::Lsn,
    wal::{LONG_HEADER_BYTES, Layout, SHORT_HEADER_BYTES},
};

/// Bytes of a record's own header: length, transaction, the record before, flags, resource manager, two of nothing, CRC-32C.
const HEADER_BYTES: usize = 24;
/// Its checksum covers what follows the header, and then the header as far as this.
const CHECKED_HEADER_BYTES: usize = 20;
/// `XLogRecordMaxSize`.
const MOST_BYTES: u32 = 1020 << 20;
/// Set in the flags of a page at whose beginning a record was given up that a crash had cut off.
const RECORD_GIVEN_UP: u16 = 0x0008;
/// Resource managers and their records: the rest of the segment is empty; a tablespace is made.
const RM_XLOG: u8 = 0;
const XLOG_SWITCH: u8 = 0x40;
const RM_TABLESPACE: u8 = 5;
const TABLESPACE_CREATE: u8 = 0x00;
/// The lower bits of a record's flags are not the resource manager's.
const INFO: u8 = 0xF0;
/// Kept of the bytes of a record that makes a tablespace: more than a path may have.
const KEPT_BYTES: usize = 8192;

/// Follows the records of a log whose segments come one after the other, each from its beginning.
#[derive(Debug)]
pub struct Records {
    layout: Layout,
    page_bytes: u64,
    start: u64,
    end: u64,
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
    made: Vec<(u32, String)>,
}

/// A record that is coming.
#[derive(Debug)]
struct Record {
    start: u64,
    header: Vec<u8>,
    /// Bytes of it that are still to come after its header.
    remaining: usize,
    digest: Digest,
    kept: Vec<u8>,
}

impl Record {
    fn word(&self, at: usize) -> u32 {
        u32::from_le_bytes([self.header[at], self.header[at + 1], self.header[at + 2], self.header[at + 3]])
    }

    fn is(&self, manager: u8, info: u8) -> bool {
        self.header[17] == manager && self.header[16] & INFO == info
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
            position,
            page_header: Vec::new(),
            record: None,
            before: None,
            skip_to: start.0,
            records: 0,
            made: Vec::new(),
        }
    }

    /// More bytes of the log.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Result<(), String> {
        while !bytes.is_empty() && self.position < self.end {
            let within = self.position % self.page_bytes;
            let in_segment = self.position % self.layout.segment_bytes;
            let header_bytes = if in_segment < self.page_bytes { LONG_HEADER_BYTES } else { SHORT_HEADER_BYTES } as u64;
            let (limit, is_header) = match within < header_bytes {
                true => (header_bytes - within, true),
                false => ((self.page_bytes - within).min(self.end - self.position), false),
            };
            let part = usize::try_from(limit).unwrap_or(usize::MAX).min(bytes.len());
            let (now, rest) = bytes.split_at(part);
            match is_header {
                true => self.page_header(now, header_bytes)?,
                false => self.content(now)?,
            }
            self.position += part as u64;
            bytes = rest;
        }
        Ok(())
    }

    /// All of it has come. Returns the tablespaces that it makes: OID and directory.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn finish(self) -> Result<Vec<(u32, String)>, String> {
        match &self.record {
            _ if self.position < self.end => {
                Err(format!("the log ends at {}, and {} is needed", Lsn(self.position), Lsn(self.end)))
            }
            Some(record) => Err(format!("the record at {} is cut off at {}", Lsn(record.start), Lsn(self.end))),
            None if self.records == 0 => Err(format!("there is no record at {}", Lsn(self.start))),
            None => Ok(self.made),
        }
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
        if u16::from_le_bytes([header[2], header[3]]) & RECORD_GIVEN_UP != 0 {
            (self.record, self.before) = (None, None);
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
            let record = self.record.get_or_insert_with(|| Record {
                start: at,
                header: Vec::with_capacity(HEADER_BYTES),
                remaining: 0,
                digest: Digest::new(CrcAlgorithm::Crc32Iscsi),
                kept: Vec::new(),
            });
            let part = if record.header.len() < HEADER_BYTES {
                let part = (HEADER_BYTES - record.header.len()).min(bytes.len());
                record.header.extend_from_slice(&bytes[..part]);
                if record.header.len() == HEADER_BYTES {
                    let length = record.word(0);
                    if !(HEADER_BYTES as u32..=MOST_BYTES).contains(&length) {
                        return Err(format!("there is no record at {}", Lsn(record.start)));
                    }
                    record.remaining = length as usize - HEADER_BYTES;
                }
                part
            } else {
                let part = record.remaining.min(bytes.len());
                record.digest.update(&bytes[..part]);
                if record.is(RM_TABLESPACE, TABLESPACE_CREATE) && record.kept.len() < KEPT_BYTES {
                    record.kept.extend_from_slice(&bytes[..part]);
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
        record.digest.update(&record.header[..CHECKED_HEADER_BYTES]);
        if record.digest.finalize() != u64::from(record.word(CHECKED_HEADER_BYTES)) {
            return Err(format!("the record at {} is damaged", Lsn(record.start)));
        }
        let before = u64::from(record.word(8)) | u64::from(record.word(12)) << 32;
        if self.before.is_some_and(|known| known != before) {
            return Err(format!("the record at {} follows another than the one before it", Lsn(record.start)));
        }
        if record.is(RM_XLOG, XLOG_SWITCH) {
            self.skip_to = next.next_multiple_of(self.layout.segment_bytes);
        }
        if record.is(RM_TABLESPACE, TABLESPACE_CREATE) {
            self.made.push(tablespace(&record.kept));
        }
        self.before = Some(record.start);
        self.records += 1;
        Ok(())
    }
}

/// The OID and the directory in a record that makes a tablespace. What is not understood is named as such: it is refused anyway.
fn tablespace(mut body: &[u8]) -> (u32, String) {
    // Headers of the data come first: an origin, the outer transaction, then the length of the data, short or long.
    while let Some((id, rest)) = body.split_first() {
        let skipped = match id {
            253 => 2,
            252 => 4,
            255 => 1,
            254 => 4,
            _ => break,
        };
        body = rest.get(skipped..).unwrap_or_default();
        if matches!(id, 254 | 255) {
            break;
        }
    }
    let oid = body.first_chunk::<4>().map_or(0, |oid| u32::from_le_bytes(*oid));
    let path = body.get(4..).unwrap_or_default();
    let path = path.split(|byte| *byte == 0).next().unwrap_or_default();
    (oid, String::from_utf8_lossy(path).into_owned())
}

#[cfg(test)]
mod tests {
    use super::{CrcAlgorithm, Layout, Lsn, Records, tablespace};

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

    fn follow(bytes: &[u8], start: u64, end: u64) -> Result<Vec<(u32, String)>, String> {
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
        let mut body = vec![253, 9, 9, 255, 14];
        body.extend(16_400_u32.to_le_bytes());
        body.extend(b"/srv/fast\0");
        log.record(5, 0x10, &body);
        assert_eq!(follow(&log.bytes, start, log.at()), Ok(Vec::new()), "one that is dropped");
        log.record(5, 0, &body);
        let end = log.at();
        log.put(&[0xEE; 300]);
        assert_eq!(follow(&log.bytes, start, end), Ok(vec![(16_400, "/srv/fast".to_owned())]));
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
        assert_eq!(follow(&log.bytes, SEGMENT + 40, log.at()), Ok(Vec::new()));
        log.bytes[at + 2] = 0;
        assert!(follow(&log.bytes, SEGMENT + 40, log.at()).is_err());
    }

    #[test]
    fn what_makes_a_tablespace_is_never_overlooked() {
        assert_eq!(tablespace(&[]), (0, String::new()));
        assert_eq!(tablespace(&[254, 6, 0, 0, 0, 1, 0, 0, 0, b'/', b'a']), (1, "/a".to_owned()));
    }
}
