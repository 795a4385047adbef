//! Which summaries cover the log from one place to another, over the timelines that the server went through.

use std::fmt;

use super::label::Lsn;

/// A summary by its file's name: from where to where, on which timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SummaryName {
    /// Its timeline.
    pub timeline: u32,
    /// The first byte of the log that it covers.
    pub start: Lsn,
    /// And the first that it does not.
    pub end: Lsn,
}

impl SummaryName {
    /// Reads a name; nothing for another file's.
    pub fn parse(name: &str) -> Option<Self> {
        let digits = name.strip_suffix(".summary").filter(|digits| digits.len() == 40)?;
        let plain = digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'A'..=b'F'));
        let word = |at: usize| u32::from_str_radix(&digits[at..at + 8], 16).ok();
        let place = |at: usize| Some(Lsn(u64::from(word(at)?) << 32 | u64::from(word(at + 8)?)));
        plain.then(|| Some(Self { timeline: word(0)?, start: place(8)?, end: place(24)? }))?
    }
}

impl fmt::Display for SummaryName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (start, end) = (self.start.0, self.end.0);
        let words = [start >> 32, start & 0xFFFF_FFFF, end >> 32, end & 0xFFFF_FFFF];
        write!(out, "{:08X}", self.timeline)?;
        words.iter().try_for_each(|word| write!(out, "{word:08X}"))?;
        out.write_str(".summary")
    }
}

/// A timeline that was left, and where.
pub type Left = (u32, Lsn);

/// Reads a timeline's history, oldest first: `00000003.history`.
///
/// # Errors
/// What is not understood, in words.
pub fn parse_history(text: &str) -> Result<Vec<Left>, String> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let left = |line: &str| {
        let mut words = line.split_whitespace();
        Some((words.next()?.parse().ok()?, Lsn::parse(words.next()?)?))
    };
    lines.map(|line| left(line).ok_or_else(|| format!("the history of the timeline has the line {line:?}"))).collect()
}

/// The summaries that cover the log from `from` to `to`, each a timeline and a place; between them lie those of `history` that were
/// left. Oldest first. `ended` is where the earlier backup ended, on the timeline on which it began: what it read may be of any time until then.
///
/// # Errors
/// Why there are none, in words.
pub fn covering(
    available: &[SummaryName],
    history: &[Left],
    from: (u32, Lsn),
    ended: Lsn,
    to: (u32, Lsn),
) -> Result<Vec<SummaryName>, String> {
    let line: Vec<Left> = history.iter().copied().chain([to]).collect();
    let first = line.iter().position(|(timeline, _)| *timeline == from.0);
    let Some(first) = first.filter(|first| from.1 <= line[*first].1) else {
        return Err(format!("the earlier point began at {} on timeline {}, where this server never was", from.1, from.0));
    };
    if ended > line[first].1 {
        let (timeline, left) = line[first];
        return Err(format!(
            "the earlier point ended at {ended} on timeline {timeline}, of which this server has nothing after {left}"
        ));
    }
    let (mut covering, mut reached) = (Vec::new(), from.1);
    for (timeline, end) in &line[first..] {
        let mut own: Vec<&SummaryName> = available.iter().filter(|one| one.timeline == *timeline).collect();
        own.sort();
        for one in own {
            if reached < *end && one.start <= reached && one.end > reached {
                covering.push(*one);
                reached = one.end;
            }
        }
        if reached < *end {
            return Err(format!(
                "the server keeps no summary of its log at {reached} on timeline {timeline}: it was removed (wal_summary_keep_time), or summarize_wal was off then"
            ));
        }
        // What a summary holds of a timeline beyond where it was left is none of this server's.
        reached = *end;
    }
    Ok(covering)
}

#[cfg(test)]
mod tests {
    use super::{Lsn, SummaryName, covering, parse_history};

    fn name(timeline: u32, start: u64, end: u64) -> SummaryName {
        SummaryName { timeline, start: Lsn(start), end: Lsn(end) }
    }

    #[test]
    fn names_come_back_and_others_are_none() {
        let text = "0000000200000001010000280000000A010B1D38.summary";
        let parsed = SummaryName::parse(text).unwrap();
        assert_eq!(parsed, name(2, 0x1_0100_0028, 0xA_010B_1D38));
        assert_eq!(parsed.to_string(), text);
        for other in ["temp.summary", &text[1..], &text.to_lowercase(), &text[..40], &text.replace("02", "é")] {
            assert_eq!(SummaryName::parse(other), None, "{other}");
        }
    }

    #[test]
    fn a_history_is_read_or_said_not_to_be_understood() {
        let text = "1\t0/3000000\tno recovery target specified\n\n# a remark\n2\t1/5000060\tbefore 2026-11-26\n";
        assert_eq!(parse_history(text), Ok(vec![(1, Lsn(0x300_0000)), (2, Lsn(0x1_0500_0060))]));
        assert_eq!(parse_history(""), Ok(Vec::new()));
        assert!(parse_history("1 here\n").is_err());
        assert!(parse_history("one\t0/1\n").is_err());
    }

    #[test]
    fn summaries_cover_without_a_hole_or_not_at_all() {
        let all = [name(1, 40, 60), name(1, 0, 20), name(1, 20, 40), name(1, 60, 90)];
        let from_to =
            |available: &[SummaryName], from: u64, to: u64| covering(available, &[], (1, Lsn(from)), Lsn(from), (1, Lsn(to)));
        assert_eq!(from_to(&all, 20, 60), Ok(vec![name(1, 20, 40), name(1, 40, 60)]));
        assert_eq!(from_to(&all, 25, 61), Ok(vec![name(1, 20, 40), name(1, 40, 60), name(1, 60, 90)]));
        assert_eq!(from_to(&all, 20, 20), Ok(vec![]));
        assert!(from_to(&all, 20, 91).unwrap_err().contains("0/5A"));
        assert!(from_to(&all[1..], 20, 60).unwrap_err().contains("no summary of its log at 0/28"));
        assert!(from_to(&all[..1], 20, 60).unwrap_err().contains("0/14"));
        assert!(from_to(&all, 61, 60).unwrap_err().contains("never was"));
        assert_eq!(from_to(&[name(1, 0, 30), name(1, 10, 80)], 5, 70), Ok(vec![name(1, 0, 30), name(1, 10, 80)]));
    }

    #[test]
    fn of_each_timeline_what_this_server_went_through_is_covered() {
        let history = [(1, Lsn(50)), (2, Lsn(50)), (3, Lsn(100))];
        let own = [name(1, 0, 30), name(1, 30, 70), name(3, 50, 80), name(3, 80, 100), name(4, 100, 130)];
        let until = |available: &[SummaryName], from: (u32, u64), ended| {
            covering(available, &history, (from.0, Lsn(from.1)), Lsn(ended), (4, Lsn(120)))
        };
        let all = |available: &[SummaryName], from: (u32, u64)| until(available, from, from.1);
        // A backup that went on while the server left its timeline read what never was.
        assert_eq!(until(&own, (1, 10), 50), Ok(own.to_vec()));
        assert!(until(&own, (1, 10), 51).unwrap_err().contains("ended at 0/33 on timeline 1"), "{:?}", until(&own, (1, 10), 51));
        assert!(until(&own, (4, 110), 121).is_err() && until(&own, (4, 110), 120).is_ok());
        assert_eq!(all(&own, (1, 10)), Ok(own.to_vec()));
        assert_eq!(all(&own, (3, 60)), Ok(own[2..].to_vec()));
        for without in 0..own.len() {
            let mut some = own.to_vec();
            some.remove(without);
            assert!(all(&some, (1, 10)).is_err(), "{without}");
        }
        assert!(all(&own, (1, 60)).unwrap_err().contains("never was"), "beyond where the timeline was left");
        assert!(all(&own, (5, 10)).unwrap_err().contains("never was"));
        // The first timeline's summary goes on after the second began, and says nothing of it.
        assert!(all(&[name(1, 0, 200), name(4, 100, 130)], (1, 10)).unwrap_err().contains("timeline 3"));
    }
}
