//! Whether a segment goes to its end, or is only the beginning of one.
//!
//! A server fills each page, so that the last one tells. From a switch on it leaves pages empty, as a segment is handed over of which only
//! the beginning is known: then the records say whether there was a switch (`CopyXLogRecordToWAL`).

use super::{
    label::Lsn,
    records::{BEGINS_WITH_REST, Records, SWITCH},
    wal::{FirstPage, LONG_HEADER_BYTES, SHORT_HEADER_BYTES},
};

/// Whether a segment whose first page was found to be right is all of it. One whose records cannot be followed to where it might end is taken
/// for whole: to find damage is not the matter here.
///
/// # Errors
/// Where it ends, in words.
pub fn filled(segment: &[u8]) -> Result<(), String> {
    let Some(page) = FirstPage::read(segment) else { return Ok(()) };
    let page_bytes = usize::try_from(page.page_bytes()).unwrap_or(usize::MAX);
    let Some(last) = segment.len().checked_sub(page_bytes) else { return Ok(()) };
    let header = &segment[last..last + SHORT_HEADER_BYTES];
    if header[8..16] == (page.address.0 + last as u64).to_le_bytes() {
        return Ok(());
    }
    if header.iter().any(|byte| *byte != 0) {
        return Err("ends in pages that are left over from an earlier use of the file".to_owned());
    }
    let nothing = vec![0; page_bytes];
    let empty = segment.rchunks_exact(page_bytes).take_while(|page| *page == nothing.as_slice()).count() * page_bytes;
    let written = segment.len() - empty;
    if written <= page_bytes && begins_with_switch(segment) {
        return Ok(());
    }
    let mut records = Records::from_segment(page.layout, page.page_bytes(), page.address.0 / page.layout.segment_bytes);
    for (number, page) in segment.chunks(page_bytes).enumerate() {
        if records.feed(page).is_err() {
            if (number + 1) * page_bytes < written || records.so_far().is_err() {
                return Ok(());
            }
            let end = segment[..written].iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            let address = FirstPage::read(segment).map_or(0, |first| first.address.0);
            return Err(format!("ends at {}, and the log was not switched there", Lsn(address + end as u64)));
        }
    }
    Ok(())
}

/// Whether all that a segment has is the end of a record that began in the one before and switched the log.
fn begins_with_switch(segment: &[u8]) -> bool {
    let flags = u16::from_le_bytes([segment[2], segment[3]]);
    let rest = u32::from_le_bytes([segment[16], segment[17], segment[18], segment[19]]) as usize;
    // Records begin at multiples of 8, and it has a header alone.
    if flags & BEGINS_WITH_REST == 0 || !matches!(rest, 8 | 16) {
        return false;
    }
    let end = LONG_HEADER_BYTES + rest;
    let (info, manager) = (segment[end - 8], segment[end - 7]);
    (manager, info) == SWITCH && segment[end..].iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use crc_fast::{CrcAlgorithm, checksum};

    use super::filled;

    const SEGMENT: usize = 1 << 20;
    const PAGE: usize = 8192;

    /// The log from segment 3 on, as a server writes it.
    struct Log {
        bytes: Vec<u8>,
        before: u64,
    }

    impl Log {
        fn new() -> Self {
            Self { bytes: Vec::new(), before: 0 }
        }

        /// Bytes of a record, of which so many have come.
        fn put(&mut self, bytes: &[u8]) {
            for (done, byte) in bytes.iter().enumerate() {
                if self.bytes.len().is_multiple_of(PAGE) {
                    let is_first = self.bytes.len().is_multiple_of(SEGMENT);
                    let mut header = vec![0; if is_first { 40 } else { 24 }];
                    header[..2].copy_from_slice(&0xD110_u16.to_le_bytes());
                    header[2] = u8::from(is_first) * 2 + u8::from(done > 0);
                    header[4] = 1;
                    header[8..16].copy_from_slice(&((3 * SEGMENT + self.bytes.len()) as u64).to_le_bytes());
                    header[16..20].copy_from_slice(&((bytes.len() - done) as u32).to_le_bytes());
                    if is_first {
                        header[24] = 7;
                        header[32..36].copy_from_slice(&(SEGMENT as u32).to_le_bytes());
                        header[36..40].copy_from_slice(&(PAGE as u32).to_le_bytes());
                    }
                    self.bytes.extend(header);
                }
                self.bytes.push(*byte);
            }
        }

        fn record(&mut self, (manager, info): (u8, u8), body: &[u8]) {
            self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
            let within = self.bytes.len() % PAGE;
            let header_bytes = match self.bytes.len() % SEGMENT {
                0 => 40,
                _ if within == 0 => 24,
                _ => 0,
            };
            let mut record = vec![0; 24];
            record[..4].copy_from_slice(&(24 + body.len() as u32).to_le_bytes());
            record[8..16].copy_from_slice(&self.before.to_le_bytes());
            (record[16], record[17]) = (info, manager);
            let sum = checksum(CrcAlgorithm::Crc32Iscsi, &[body, &record[..20]].concat()) as u32;
            record[20..].copy_from_slice(&sum.to_le_bytes());
            self.before = (3 * SEGMENT + self.bytes.len() + header_bytes) as u64;
            self.put(&[&record, body].concat());
        }

        fn fill(&mut self, to: usize) {
            while self.bytes.len() < to {
                self.record((10, 0), &[7; 500]);
            }
        }

        /// Its first segment, and the second, with zeros for what is not there.
        fn segments(&self) -> [Vec<u8>; 2] {
            [0, 1].map(|number| {
                let mut segment: Vec<u8> = self.bytes.iter().skip(number * SEGMENT).take(SEGMENT).copied().collect();
                segment.resize(SEGMENT, 0);
                segment
            })
        }
    }

    #[test]
    fn only_a_segment_that_is_full_or_was_switched_is_whole() {
        for to in [100, 9000, 500_000, SEGMENT - PAGE - 600] {
            let mut log = Log::new();
            log.fill(to);
            let [unfinished, _] = log.segments();
            let end = format!("0/{:X}", 3 * SEGMENT + log.bytes.len());
            assert_eq!(filled(&unfinished), Err(format!("ends at {end}, and the log was not switched there")), "{to}");
            // Known as far as somewhere within a record.
            for less in [1, 30, 300, 520] {
                let mut cut = unfinished.clone();
                cut[log.bytes.len() - less..].fill(0);
                assert!(filled(&cut).is_err(), "{to} less {less}");
            }
            let mut used_again = unfinished.clone();
            used_again[SEGMENT - PAGE..][..24].copy_from_slice(&[0xD1; 24]);
            assert!(filled(&used_again).unwrap_err().contains("earlier use"), "{to}");
            log.record((0, 0x40), &[]);
            assert_eq!(filled(&log.segments()[0]), Ok(()), "{to}");
        }
        let mut log = Log::new();
        log.fill(SEGMENT + 20_000);
        let [whole, unfinished] = log.segments();
        assert_eq!(filled(&whole), Ok(()));
        assert!(filled(&unfinished).is_err());
        assert!(filled(&[&whole[..40], &vec![0; SEGMENT - 40]].concat()).is_err(), "a header alone");
    }

    #[test]
    fn what_begins_with_the_rest_of_a_record_is_followed_from_the_next_on() {
        for before in [24, 400] {
            let mut log = Log::new();
            log.fill(SEGMENT - PAGE);
            let body = SEGMENT - log.bytes.len().next_multiple_of(8) - 24 - 24 - before;
            log.record((10, 0), &vec![1; body]);
            log.record((10, 0), &vec![1; 20_000]);
            assert!(log.bytes.len() > SEGMENT + 10_000 && filled(&log.segments()[1]).is_err());
            log.record((0, 0x40), &[]);
            let [whole, switched] = log.segments();
            assert_eq!((filled(&whole), filled(&switched)), (Ok(()), Ok(())));
        }
    }

    #[test]
    fn a_switch_that_lies_in_two_segments_leaves_the_second_empty() {
        for rest in [8, 16] {
            let mut log = Log::new();
            log.fill(SEGMENT - PAGE);
            let at = log.bytes.len().next_multiple_of(8);
            let header = if at.is_multiple_of(PAGE) { 24 } else { 0 };
            let pages = (SEGMENT - at - 1) / PAGE;
            log.record((10, 0), &vec![1; SEGMENT - at - header - pages * 24 - 24 - (24 - rest)]);
            log.record((0, 0x40), &[]);
            assert_eq!(log.bytes.len(), SEGMENT + 40 + rest);
            let [whole, mut switched] = log.segments();
            assert_eq!((filled(&whole), filled(&switched)), (Ok(()), Ok(())));
            switched[40 + rest - 8] = 0x10;
            assert!(filled(&switched).is_err(), "another record");
        }
    }

    #[test]
    fn what_cannot_be_followed_is_not_judged() {
        let mut log = Log::new();
        log.fill(50_000);
        let mut damaged = log.segments()[0].clone();
        damaged[20_000] ^= 1;
        assert_eq!(filled(&damaged), Ok(()));
    }
}
