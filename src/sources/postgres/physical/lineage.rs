//! Which timeline each part of the log was written on, from the history that the server keeps of them.

use super::{
    history::{Left, parse_history},
    label::Lsn,
    wal::{Layout, Segment},
};

/// A timeline, and those that it came out of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lineage {
    timeline: u32,
    /// Earlier timelines with where each was left, oldest first.
    left: Vec<Left>,
}

impl Lineage {
    /// Reads the history of a timeline (`00000003.history`: on each line a timeline, where it was left, and why); without one, it came out of none.
    /// Nothing for what is no history of it.
    pub fn parse(timeline: u32, history: Option<&[u8]>) -> Option<Self> {
        let left = parse_history(&String::from_utf8_lossy(history.unwrap_or_default())).ok()?;
        let follows = |pair: &[Left]| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1;
        if !left.windows(2).all(follows) || left.last().is_some_and(|(last, _)| *last >= timeline) {
            return None;
        }
        Some(Self { timeline, left })
    }

    /// The newest timeline.
    pub fn timeline(&self) -> u32 {
        self.timeline
    }

    /// Where an earlier timeline was left that this one came out of.
    pub fn left_at(&self, earlier: u32) -> Option<Lsn> {
        self.left.iter().find(|(timeline, _)| *timeline == earlier).map(|(_, at)| *at)
    }

    /// The name of the segment of this number that the server goes by: where a timeline was left, the next one begins with a copy.
    pub fn segment(&self, layout: Layout, number: u64) -> Segment {
        let timeline =
            self.left.iter().find(|(_, at)| number < layout.segment_of(*at)).map_or(self.timeline, |(earlier, _)| *earlier);
        Segment { number, timeline }
    }

    /// The first segment that is another one than where only `earlier` was known; nothing if all is.
    pub fn differs_from(&self, layout: Layout, earlier: u32) -> Option<u64> {
        if earlier == self.timeline {
            return None;
        }
        // A timeline that this one did not come out of shares with it what their common ancestor wrote, which nobody knows here.
        let known = self.left.iter().find(|(timeline, _)| *timeline == earlier);
        Some(known.map_or(0, |(_, at)| layout.segment_of(*at)))
    }
}

#[cfg(test)]
mod tests {
    use super::{Layout, Lineage, Lsn, Segment};

    const LAYOUT: Layout = Layout { segment_bytes: 16 << 20, system: 7 };

    #[test]
    fn each_segment_is_of_the_timeline_that_its_end_was_written_on() {
        let history = b"1\t0/3000148\tno recovery target specified\n\n# a remark\n2\t0/5000000\tbefore 2026-11-26\n";
        let lineage = Lineage::parse(4, Some(history)).unwrap();
        assert_eq!(lineage.left, [(1, Lsn(0x300_0148)), (2, Lsn(0x500_0000))]);
        let timelines = (1..8).map(|number| lineage.segment(LAYOUT, number));
        let expected =
            [(1, 1), (2, 1), (3, 2), (4, 2), (5, 4), (6, 4), (7, 4)].map(|(number, timeline)| Segment { number, timeline });
        assert!(timelines.eq(expected));
        assert_eq!([1, 2, 3, 4].map(|earlier| lineage.differs_from(LAYOUT, earlier)), [Some(3), Some(5), Some(0), None]);
        assert_eq!([1, 2, 3].map(|earlier| lineage.left_at(earlier)), [Some(Lsn(0x300_0148)), Some(Lsn(0x500_0000)), None]);
        let first = Lineage::parse(1, None).unwrap();
        assert_eq!((first.segment(LAYOUT, 9).timeline, first.differs_from(LAYOUT, 1)), (1, None));
    }

    #[test]
    fn what_is_no_history_is_not_taken_for_one() {
        for wrong in ["1", "x\t0/1", "1\t0", "2\t0/5000000\n1\t0/6000000", "1\t0/5000000\n2\t0/4000000", "3\t0/1", "9\t0/1"] {
            assert_eq!(Lineage::parse(3, Some(wrong.as_bytes())), None, "{wrong:?}");
        }
    }
}
