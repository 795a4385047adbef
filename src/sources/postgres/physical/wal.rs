//! Segments of the write-ahead log: their names, and whether a file really holds the part of the log that its name says.

use super::label::Lsn;

/// Bytes of the header of a segment's first page, and of any other page (`xlog_internal.h`).
pub const LONG_HEADER_BYTES: usize = 40;
pub const SHORT_HEADER_BYTES: usize = 24;
/// Bytes of a record's own header: length, transaction, the record before, flags, resource manager, two of nothing, CRC-32C.
pub const HEADER_BYTES: usize = 24;
/// Its checksum covers what follows the header, and then the header as far as this.
pub const CHECKED_HEADER_BYTES: usize = 20;
/// Set in a page's flags where the long header is used.
const LONG_HEADER: u16 = 0x0002;
/// All versions' magic numbers begin with this byte.
const MAGIC: u8 = 0xD1;

/// How a cluster's log is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Bytes of a segment.
    pub segment_bytes: u64,
    /// The cluster that wrote it.
    pub system: u64,
}

/// A segment's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Segment {
    /// Its place in the log, counted in segments.
    pub number: u64,
    /// The timeline that it was written on.
    pub timeline: u32,
}

impl Layout {
    /// The number of the segment that holds a byte.
    pub fn segment_of(self, lsn: Lsn) -> u64 {
        lsn.0 / self.segment_bytes
    }

    /// The number of the last segment that something which ends at `lsn` touches.
    pub fn segment_before(self, lsn: Lsn) -> u64 {
        lsn.0.saturating_sub(1) / self.segment_bytes
    }

    /// The file name: timeline, and number in two parts.
    pub fn name(self, segment: Segment) -> String {
        let per_id = 0x1_0000_0000 / self.segment_bytes;
        format!("{:08X}{:08X}{:08X}", segment.timeline, segment.number / per_id, segment.number % per_id)
    }

    /// Reads a file name; nothing for one that is no whole segment's.
    pub fn parse(self, name: &str) -> Option<Segment> {
        let hex = |part: &str| u32::from_str_radix(part, 16).ok().map(u64::from);
        let plain = name.len() == 24 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'A'..=b'F'));
        let per_id = 0x1_0000_0000 / self.segment_bytes;
        let (timeline, high, low) = (plain.then(|| hex(&name[..8]))??, hex(&name[8..16])?, hex(&name[16..])?);
        (low < per_id).then(|| Some(Segment { number: high * per_id + low, timeline: u32::try_from(timeline).ok()? }))?
    }

    /// Begins to look at a segment that is read from its beginning. `end` is the end of what is needed of the log: what comes after it
    /// in the last segment may be left over from an earlier use of the file. Timelines from `first` to the segment's own are right: a
    /// new timeline begins with a copy of what came before it.
    pub fn check(self, segment: Segment, first: u32, end: Lsn) -> SegmentCheck {
        SegmentCheck { layout: self, segment, first, end, position: 0, header: Vec::new(), page_bytes: 0, magic: 0 }
    }
}

/// What the header of a segment's first page says. Of the others [`SegmentCheck`] reads less.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FirstPage {
    /// The cluster, and bytes of its segments.
    pub layout: Layout,
    /// The timeline that the page was written on: in the first segment of a new timeline an earlier one, which it begins as a copy of.
    pub timeline: u32,
    /// Where in the log it begins.
    pub address: Lsn,
    magic: u8,
    page_bytes: u32,
}

impl FirstPage {
    /// Reads the first [`LONG_HEADER_BYTES`] of a segment; nothing if they are no such header.
    pub fn read(header: &[u8]) -> Option<Self> {
        let word = |at: usize| Some(u32::from_le_bytes(header.get(at..at + 4)?.try_into().ok()?));
        let long = |at: usize| Some(u64::from(word(at)?) | u64::from(word(at + 4)?) << 32);
        let (first, segment_bytes, page_bytes) = (word(0)?, word(32)?, word(36)?);
        let [_, magic, flags @ ..] = first.to_le_bytes();
        let possible = u16::from_le_bytes(flags) & LONG_HEADER != 0
            && page_bytes.is_power_of_two()
            && (1024..=65_536).contains(&page_bytes)
            && segment_bytes.is_power_of_two()
            && (1 << 20..=1 << 30).contains(&segment_bytes);
        possible.then(|| {
            let layout = Layout { segment_bytes: segment_bytes.into(), system: long(24)? };
            Some(Self { layout, timeline: word(4)?, address: Lsn(long(8)?), magic, page_bytes })
        })?
    }

    /// Bytes of the log's pages.
    pub fn page_bytes(&self) -> u64 {
        self.page_bytes.into()
    }

    /// What tells that it is not the beginning of this segment of the cluster `system`, in a file of so many bytes.
    ///
    /// # Errors
    /// In words.
    pub fn check(&self, name: &str, system: u64, file_bytes: u64) -> Result<Segment, String> {
        if self.magic != MAGIC {
            return Err("is no page of the log".to_owned());
        }
        if self.layout.system != system {
            return Err(format!("belongs to the cluster with the system identifier {}, not to {system}", self.layout.system));
        }
        if self.layout.segment_bytes != file_bytes {
            return Err(format!("has {file_bytes} bytes, and its header says {}", self.layout.segment_bytes));
        }
        let segment = self.layout.parse(name).ok_or_else(|| "has a name that no segment of this size has".to_owned())?;
        let wanted = Lsn(segment.number * self.layout.segment_bytes);
        if self.address != wanted {
            return Err(format!("holds the log at {} where {wanted} should be: the file was used again", self.address));
        }
        if self.timeline == 0 || self.timeline > segment.timeline {
            return Err(format!("holds timeline {}", self.timeline));
        }
        Ok(segment)
    }
}

/// Looks at the pages of a segment as they come.
#[derive(Debug)]
pub struct SegmentCheck {
    layout: Layout,
    segment: Segment,
    first: u32,
    end: Lsn,
    /// Bytes that came so far.
    position: u64,
    /// What has come of the present page's header.
    header: Vec<u8>,
    page_bytes: u64,
    magic: u16,
}

impl SegmentCheck {
    /// More bytes of it.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Result<(), String> {
        while !bytes.is_empty() {
            let header_bytes = if self.page_bytes == 0 { LONG_HEADER_BYTES } else { SHORT_HEADER_BYTES };
            let within = if self.page_bytes == 0 { self.position } else { self.position % self.page_bytes };
            let wanted = header_bytes.saturating_sub(usize::try_from(within).unwrap_or(usize::MAX));
            let part = if wanted > 0 {
                let part = wanted.min(bytes.len());
                self.header.extend_from_slice(&bytes[..part]);
                if part == wanted {
                    self.page(self.position + part as u64 - header_bytes as u64)?;
                    self.header.clear();
                }
                part
            } else {
                usize::try_from(self.page_bytes - within).unwrap_or(usize::MAX).min(bytes.len())
            };
            self.position += part as u64;
            bytes = &bytes[part..];
        }
        Ok(())
    }

    /// Bytes of the log's pages; 0 before the first header has come.
    pub fn page_bytes(&self) -> u64 {
        self.page_bytes
    }

    /// All of it has come.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn finish(self) -> Result<(), String> {
        match self.position == self.layout.segment_bytes {
            true => Ok(()),
            false => Err(format!("has {} bytes instead of {}", self.position, self.layout.segment_bytes)),
        }
    }

    /// Judges the page that begins so many bytes into the segment, by its header.
    fn page(&mut self, offset: u64) -> Result<(), String> {
        let header = &self.header;
        let short = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
        let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        if offset == 0 {
            let page_bytes = word(36);
            if short(2) & LONG_HEADER == 0 || !page_bytes.is_power_of_two() || !(1024..=65_536).contains(&page_bytes) {
                return Err("does not begin with the header of a segment".to_owned());
            }
            if long(24) != self.layout.system {
                return Err(format!(
                    "belongs to the cluster with the system identifier {}, not to {}",
                    long(24),
                    self.layout.system
                ));
            }
            if u64::from(word(32)) != self.layout.segment_bytes {
                return Err(format!("says that segments have {} bytes", word(32)));
            }
            (self.page_bytes, self.magic) = (u64::from(page_bytes), short(0));
        }
        let address = self.segment.number * self.layout.segment_bytes + offset;
        if address >= self.end.0 {
            return Ok(());
        }
        if header.iter().all(|byte| *byte == 0) {
            // Such pages follow a switch to the next segment. Whether there was one, only the records say.
            return Ok(());
        }
        if self.magic.to_be_bytes()[0] != MAGIC || short(0) != self.magic {
            return Err(format!("has no page of the log at {}", Lsn(address)));
        }
        if long(8) != address {
            let (held, wanted) = (Lsn(long(8)), Lsn(address));
            return Err(format!("holds the log at {held} where {wanted} should be: the file was used again"));
        }
        let timeline = word(4);
        if timeline < self.first || timeline > self.segment.timeline {
            return Err(format!("holds timeline {timeline} at {}", Lsn(address)));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{FirstPage, LONG_HEADER_BYTES, Layout, Lsn, Segment};

    const LAYOUT: Layout = Layout { segment_bytes: 1 << 20, system: 0x6A5B_4C3D_2E1F_0A0B };

    fn segment(of: Segment) -> Vec<u8> {
        let mut bytes = vec![0; 1 << 20];
        for page in (0..bytes.len()).step_by(8192) {
            let info: u16 = if page == 0 { 2 } else { 0 };
            bytes[page..page + 2].copy_from_slice(&0xD110_u16.to_le_bytes());
            bytes[page + 2..page + 4].copy_from_slice(&info.to_le_bytes());
            bytes[page + 4..page + 8].copy_from_slice(&of.timeline.to_le_bytes());
            bytes[page + 8..page + 16].copy_from_slice(&(of.number * LAYOUT.segment_bytes + page as u64).to_le_bytes());
        }
        bytes[24..32].copy_from_slice(&LAYOUT.system.to_le_bytes());
        bytes[32..36].copy_from_slice(&(1_u32 << 20).to_le_bytes());
        bytes[36..40].copy_from_slice(&8192_u32.to_le_bytes());
        bytes
    }

    #[test]
    fn names_come_back() {
        for (layout, segment, name) in [
            (LAYOUT, Segment { number: 4097, timeline: 1 }, "000000010000000100000001"),
            (Layout { segment_bytes: 16 << 20, ..LAYOUT }, Segment { number: 0x1FE, timeline: 31 }, "0000001F00000001000000FE"),
            (Layout { segment_bytes: 1 << 30, ..LAYOUT }, Segment { number: 7, timeline: 2 }, "000000020000000100000003"),
        ] {
            assert_eq!(layout.name(segment), name);
            assert_eq!(layout.parse(name), Some(segment));
        }
        let most = Layout { segment_bytes: 16 << 20, ..LAYOUT };
        for wrong in
            ["", "00000001000000010000000", "00000001000000010000000g", "000000010000000100000100", "00000001000000010000000a"]
        {
            assert_eq!(most.parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_first_page_tells_whose_segment_it_is_and_which() {
        let own = Segment { number: 5, timeline: 3 };
        let name = LAYOUT.name(own);
        let header = segment(own)[..LONG_HEADER_BYTES].to_vec();
        let page = FirstPage::read(&header).unwrap();
        assert_eq!((page.layout, page.timeline, page.address), (LAYOUT, 3, Lsn(5 << 20)));
        assert_eq!(page.check(&name, LAYOUT.system, 1 << 20), Ok(own));
        let later = Segment { timeline: 4, ..own };
        assert_eq!(page.check(&LAYOUT.name(later), LAYOUT.system, 1 << 20), Ok(later), "a copy of an earlier timeline");
        let refused = |name: &str, system: u64, bytes: u64| page.check(name, system, bytes).unwrap_err();
        assert!(refused(&name, 1, 1 << 20).contains("system identifier"));
        assert!(refused(&name, LAYOUT.system, (1 << 20) - 1).contains("its header says"));
        assert!(refused(&LAYOUT.name(Segment { number: 6, ..own }), LAYOUT.system, 1 << 20).contains("used again"));
        assert!(refused(&LAYOUT.name(Segment { timeline: 2, ..own }), LAYOUT.system, 1 << 20).contains("timeline 3"));
        assert!(refused("000000030000000000001000", LAYOUT.system, 1 << 20).contains("name"));
        for at in [1, 2, 7, 14, 28, 34, 38] {
            let mut broken = header.clone();
            broken[at] ^= 0xFF;
            assert!(FirstPage::read(&broken).is_none_or(|page| page.check(&name, LAYOUT.system, 1 << 20).is_err()), "byte {at}");
        }
        for short in 0..LONG_HEADER_BYTES {
            assert_eq!(FirstPage::read(&header[..short]), None);
        }
        assert_eq!(FirstPage::read(&[0; LONG_HEADER_BYTES]), None);
    }

    #[test]
    fn the_end_of_a_segment_does_not_touch_the_next() {
        assert_eq!(LAYOUT.segment_of(Lsn(2 << 20)), 2);
        assert_eq!(LAYOUT.segment_before(Lsn(2 << 20)), 1);
        assert_eq!(LAYOUT.segment_before(Lsn((2 << 20) + 1)), 2);
    }

    fn check(layout: Layout, of: Segment, bytes: &[u8], first: u32, end: u64) -> Result<(), String> {
        let looked = [1, 23, 8192, 1 << 20].map(|step| {
            let mut check = layout.check(of, first, Lsn(end));
            bytes.chunks(step).try_for_each(|piece| check.feed(piece))?;
            check.finish()
        });
        assert!(looked.iter().all(|one| *one == looked[0]), "wherever it is cut: {looked:?}");
        looked[0].clone()
    }

    #[test]
    fn a_segment_is_what_its_name_says_or_is_refused() {
        let own = Segment { number: 5, timeline: 3 };
        let (sound, end) = (segment(own), 6 << 20);
        assert_eq!(check(LAYOUT, own, &sound, 3, end), Ok(()));
        assert!(check(LAYOUT, own, &sound[..sound.len() - 1], 3, end).unwrap_err().contains("bytes instead"));
        assert!(check(LAYOUT, Segment { number: 6, timeline: 3 }, &sound, 3, 7 << 20).unwrap_err().contains("used again"));
        assert!(check(LAYOUT, own, &sound, 4, end).unwrap_err().contains("timeline 3"));
        assert!(check(LAYOUT, Segment { timeline: 2, ..own }, &sound, 1, end).unwrap_err().contains("timeline 3"));
        assert!(check(LAYOUT, Segment { timeline: 4, ..own }, &sound, 2, end).is_ok(), "a copy of an earlier timeline");
        assert!(check(Layout { system: 1, ..LAYOUT }, own, &sound, 3, end).unwrap_err().contains("system identifier"));
        assert!(check(LAYOUT, own, &vec![0; 1 << 20], 3, end).unwrap_err().contains("header"));
        let mut recycled = sound.clone();
        recycled[16 * 8192..].copy_from_slice(&segment(Segment { number: 2, ..own })[16 * 8192..]);
        assert!(check(LAYOUT, own, &recycled, 3, end).unwrap_err().contains("used again"));
        assert_eq!(check(LAYOUT, own, &recycled, 3, (5 << 20) + 16 * 8192), Ok(()), "what comes after the end does not count");
    }
}
