//! The last few segments as they are streamed, each page looked at; pure.

use std::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};

use crate::sources::postgres::physical::{Layout, Lsn, Segment, SegmentCheck};

/// Segments on end, of which the last grows.
#[derive(Debug, Default)]
pub(super) struct Kept {
    segments: VecDeque<Streamed>,
    /// So many at most.
    most: usize,
}

#[derive(Debug)]
struct Streamed {
    segment: Segment,
    layout: Layout,
    check: SegmentCheck,
    bytes: BytesMut,
    /// The same, once it is complete.
    whole: Option<Bytes>,
}

impl Streamed {
    fn length(&self) -> u64 {
        self.whole.as_ref().map_or(self.bytes.len(), Bytes::len) as u64
    }

    fn end(&self) -> Lsn {
        Lsn(self.segment.number * self.layout.segment_bytes + self.length())
    }
}

impl Kept {
    /// The stream begins with this segment; so many may be kept. What was kept before stays where the stream goes on behind it.
    pub(super) fn begin(&mut self, layout: Layout, segment: Segment, most: usize) {
        self.most = most;
        self.segments.retain(|kept| kept.segment.number < segment.number);
        if self.segments.back().is_some_and(|last| last.segment.number + 1 != segment.number || last.whole.is_none()) {
            self.segments.clear();
        }
        self.segments.drain(..self.segments.len().saturating_sub(most - 1));
        self.push(layout, segment);
    }

    fn push(&mut self, layout: Layout, segment: Segment) {
        // All that comes is on the server's disk, so that every page must be right.
        let check = layout.check(segment, 1, Lsn(u64::MAX));
        self.segments.push_back(Streamed { segment, layout, check, bytes: BytesMut::new(), whole: None });
    }

    /// As far as the log has come; nothing while none is streamed.
    pub(super) fn end(&self) -> Option<Lsn> {
        self.segments.back().map(Streamed::end)
    }

    /// The same if it came on this timeline: what was streamed on the one before may lie beyond where that was left.
    pub(super) fn end_on(&self, timeline: u32) -> Option<Lsn> {
        self.end().filter(|_| self.timeline() == Some(timeline))
    }

    /// The timeline that it was streamed on last.
    pub(super) fn timeline(&self) -> Option<u32> {
        self.segments.back().map(|last| last.segment.timeline)
    }

    /// Takes what there is room for: no segment makes room that the site which is furthest, at `next`, has not stored. Returns whether one is
    /// complete with it.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub(super) fn take(&mut self, at: Lsn, bytes: &mut Bytes, next: u64) -> Result<bool, String> {
        let mut is_complete = false;
        let mut at = at;
        while !bytes.is_empty() {
            let Some(last) = self.segments.back_mut() else { return Err("came unasked".to_owned()) };
            let (segment, layout) = (last.segment, last.layout);
            if at != last.end() {
                return Err(format!("goes on at {at}, and {} was expected", last.end()));
            }
            let room = layout.segment_bytes - last.length();
            if room == 0 {
                while self.segments.len() >= self.most && self.segments.front().is_some_and(|first| first.segment.number < next) {
                    self.segments.pop_front();
                }
                if self.segments.len() >= self.most {
                    break;
                }
                self.push(layout, Segment { number: segment.number + 1, ..segment });
                continue;
            }
            let part = usize::try_from(room).unwrap_or(usize::MAX).min(bytes.len());
            let name = || layout.name(segment);
            last.check.feed(&bytes[..part]).map_err(|detail| format!("{}: {detail}", name()))?;
            if last.bytes.capacity() == 0 {
                last.bytes.reserve(usize::try_from(layout.segment_bytes).unwrap_or(0));
            }
            last.bytes.extend_from_slice(&bytes[..part]);
            bytes.advance(part);
            at = Lsn(at.0 + part as u64);
            if last.length() == layout.segment_bytes {
                last.whole = Some(std::mem::take(&mut last.bytes).freeze());
                is_complete = true;
            }
        }
        Ok(is_complete)
    }

    /// These bytes of a segment, if all of them are kept.
    pub(super) fn read(&self, segment: Segment, from: u64, to: u64) -> Option<Bytes> {
        let kept = self.segments.iter().find(|kept| kept.segment == segment)?;
        let range = usize::try_from(from).ok()?..usize::try_from(to).ok()?;
        match &kept.whole {
            Some(whole) => (range.end <= whole.len()).then(|| whole.slice(range)),
            None => kept.bytes.get(range).map(Bytes::copy_from_slice),
        }
    }

    /// Another server may have other bytes.
    pub(super) fn forget(&mut self) {
        self.segments.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::{Bytes, Kept, Layout, Lsn, Segment};

    const LAYOUT: Layout = Layout { segment_bytes: 1 << 20, system: 7 };
    const OWN: Segment = Segment { number: 3, timeline: 1 };

    /// A segment with the headers of its pages.
    fn segment(number: u64) -> Vec<u8> {
        let mut bytes = vec![b'x'; 1 << 20];
        for (index, page) in bytes.chunks_mut(8192).enumerate() {
            let address = (number << 20) + index as u64 * 8192;
            page[..2].copy_from_slice(&0xD118_u16.to_le_bytes());
            page[2..4].copy_from_slice(&u16::from(index == 0).wrapping_mul(2).to_le_bytes());
            page[4..8].copy_from_slice(&1_u32.to_le_bytes());
            page[8..16].copy_from_slice(&address.to_le_bytes());
            if index == 0 {
                page[24..32].copy_from_slice(&7_u64.to_le_bytes());
                page[32..36].copy_from_slice(&(1_u32 << 20).to_le_bytes());
                page[36..40].copy_from_slice(&8192_u32.to_le_bytes());
            }
        }
        bytes
    }

    fn log(numbers: std::ops::Range<u64>) -> Bytes {
        numbers.flat_map(segment).collect::<Vec<u8>>().into()
    }

    fn begun(most: usize) -> Kept {
        let mut kept = Kept::default();
        kept.begin(LAYOUT, OWN, most);
        kept
    }

    #[test]
    fn what_comes_is_read_as_it_came_and_cut_into_segments() {
        let (mut kept, all) = (begun(4), log(3..6));
        let (mut at, mut complete) = (3 << 20, 0);
        for piece in all.chunks(100_000) {
            let mut bytes = Bytes::copy_from_slice(piece);
            complete += usize::from(kept.take(Lsn(at), &mut bytes, 0).unwrap());
            assert!(bytes.is_empty());
            at += piece.len() as u64;
            let number = (at - 1) >> 20;
            let to = at - (number << 20);
            let read = kept.read(Segment { number, timeline: 1 }, to / 2, to).unwrap();
            let from = usize::try_from((number << 20) + to / 2 - (3 << 20)).unwrap();
            assert_eq!(read, all.slice(from..from + read.len()));
            assert_eq!(kept.read(Segment { number, timeline: 1 }, 0, to + 1), None, "what has not come is not there");
        }
        assert_eq!((complete, kept.end()), (3, Some(Lsn(6 << 20))));
        assert_eq!(kept.read(Segment { number: 4, timeline: 1 }, 0, 1 << 20).unwrap(), segment(4));
        assert_eq!(kept.read(Segment { number: 4, timeline: 2 }, 0, 1), None);
    }

    #[test]
    fn no_more_is_kept_than_may_be_and_what_the_furthest_site_has_makes_room() {
        let (mut kept, mut bytes) = (begun(2), log(3..8));
        let total = bytes.len() as u64;
        let at = |bytes: &Bytes| Lsn((3 << 20) + total - bytes.len() as u64);
        for (next, expected) in [(3, 3), (3, 3), (4, 2), (6, 0)] {
            let from = at(&bytes);
            kept.take(from, &mut bytes, next).unwrap();
            assert_eq!(bytes.len() >> 20, expected, "next {next}");
            assert!(kept.segments.len() <= 2);
        }
        assert_eq!(kept.read(Segment { number: 5, timeline: 1 }, 0, 1), None);
    }

    #[test]
    fn what_does_not_go_on_or_is_no_page_is_refused() {
        for (at, mut bytes, words) in [
            ((3 << 20) + 1, log(3..4), "expected"),
            (2 << 20, log(2..3), "expected"),
            (3 << 20, log(4..5), "used again"),
            (3 << 20, Bytes::from(vec![9; 4096]), "header"),
        ] {
            let error = begun(4).take(Lsn(at), &mut bytes, 0).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
        assert!(Kept::default().take(Lsn(0), &mut log(3..4), 0).is_err(), "nothing was begun");
        assert!(begun(4).take(Lsn(u64::MAX), &mut Bytes::from_static(b"x"), 0).is_err());
    }

    #[test]
    fn a_stream_that_begins_anew_keeps_only_what_it_goes_on_behind() {
        let mut kept = begun(4);
        let mut bytes = log(3..5).slice(..(1 << 20) + 5000);
        kept.take(Lsn(3 << 20), &mut bytes, 0).unwrap();
        // A timeline was left in segment 4, which the next one has from its beginning.
        kept.begin(LAYOUT, Segment { number: 4, timeline: 2 }, 2);
        assert_eq!(kept.end(), Some(Lsn(4 << 20)));
        assert!(kept.read(OWN, 0, 1 << 20).is_some() && kept.read(Segment { number: 4, timeline: 1 }, 0, 1).is_none());
        kept.begin(LAYOUT, Segment { number: 9, timeline: 2 }, 2);
        assert_eq!((kept.read(OWN, 0, 1), kept.end()), (None, Some(Lsn(9 << 20))), "there would be a hole");
        kept.forget();
        assert_eq!(kept.end(), None);
    }
}
