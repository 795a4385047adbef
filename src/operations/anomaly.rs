//! Whether a backup looks like the ones before it: pure rules over plain figures.
//!
//! Each rule has a floor below which it is silent, so that small sources do not cry wolf, and all but one compare with the median
//! of the recent points, so that one odd point among them changes nothing. Recent points are taken as they are, anomalous or
//! not: a change that lasts is the new normal when it makes up half of them, and until then is said every day.

use super::density::Density;
use crate::{
    report::{Anomaly, AnomalyKind, bytes, count},
    repository::{Measures, Snapshot},
};

/// So many points of a policy are looked at: two weeks of nights.
pub(super) const RECENT: usize = 14;

/// With fewer points than this there is no telling what is usual.
const LEAST_RECENT: usize = 5;

/// Deviations from the median of so many (robust) standard deviations are far off: under a normal distribution two in a
/// thousand million.
const DEVIATIONS: f64 = 6.0;

/// The median absolute deviation of a normal distribution times this is its standard deviation (1 / Φ⁻¹(3/4)).
const DEVIATION_OF_MAD: f64 = 1.4826;

/// A difference below this is no matter, however unusual. Bytes.
const LEAST_BYTES: u64 = 8 << 20;

/// … or this. Entries.
const LEAST_ENTRIES: u64 = 1000;

/// Sizes may always differ from the median by this share of it.
const USUAL_GROWTH: f64 = 0.25;

/// Deleting more than this share of the point before is no housekeeping.
const MOST_GONE: f64 = 0.3;

/// A deletion of fewer entries is none to speak of: small directories are rearranged by hand.
const LEAST_GONE_ENTRIES: u64 = 50;

/// A share of new or dense bytes may always be greater than the median by this.
const USUAL_RISE: f64 = 0.3;

/// Below this share of dense bytes something may still be mostly text.
const DENSE_SHARE: f64 = 0.8;

/// What is read of a source must be this share of it to speak for it.
const LEAST_SHARE_READ: f64 = 0.2;

/// What one snapshot of a source looked like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    /// Its entries.
    pub(super) entries: u64,
    /// Plain bytes of their contents.
    pub(super) bytes: u64,
    /// See there; nothing in points of earlier versions.
    pub(super) measures: Option<Measures>,
}

impl From<&Snapshot> for Shape {
    fn from(snapshot: &Snapshot) -> Self {
        Self { entries: snapshot.entry_count, bytes: snapshot.content_bytes, measures: snapshot.measures }
    }
}

impl Shape {
    /// The share of its bytes that were new to the repository.
    fn change_rate(&self) -> Option<f64> {
        // The writer counts lists of entries, too.
        self.measures.filter(|_| self.bytes > 0).map(|measures| share(measures.new_bytes, self.bytes).min(1.0))
    }

    /// The share of dense bytes in what was read, where that was enough to speak for the whole.
    fn dense_share(&self) -> Option<f64> {
        let measures = self.measures?;
        let enough = measures.sampled_bytes >= LEAST_BYTES && share(measures.sampled_bytes, self.bytes) >= LEAST_SHARE_READ;
        enough.then(|| share(measures.dense_bytes, measures.sampled_bytes))
    }
}

/// What a source's bytes showed while they were captured.
pub(super) fn measured(new_bytes: u64, density: &Density) -> Measures {
    Measures { new_bytes, sampled_bytes: density.sampled_bytes(), dense_bytes: density.dense_bytes() }
}

/// In what `now` is far from the snapshots `before` it (oldest first) of the source `name` of the kind `kind`.
pub(super) fn anomalies(name: &str, kind: &str, now: &Shape, before: &[Shape]) -> Vec<Anomaly> {
    let recent = &before[before.len().saturating_sub(RECENT)..];
    let entries = if kind == "bucket" { "objects" } else { "entries" };
    let deletion = recent.last().and_then(|last| deletion(now, last, entries));
    // What is gone is not told again as what is too small.
    let size = if deletion.is_some() { None } else { size(now, recent, entries) };
    [
        (AnomalyKind::MassDeletion, deletion),
        (AnomalyKind::Size, size),
        (AnomalyKind::ChangeRate, change(now, recent)),
        (AnomalyKind::Entropy, entropy(now, recent)),
    ]
    .into_iter()
    .filter_map(|(kind, message)| Some(Anomaly { source: name.to_owned(), kind, message: message? }))
    .collect()
}

fn deletion(now: &Shape, last: &Shape, entries: &str) -> Option<String> {
    let gone = |now: u64, last: u64, least: u64| {
        let gone = last.saturating_sub(now);
        (gone >= least && share(gone, last) > MOST_GONE).then(|| percent(share(gone, last)))
    };
    if let Some(percent) = gone(now.entries, last.entries, LEAST_GONE_ENTRIES) {
        return Some(format!("{percent} of {} {entries} of the point before are gone", count(last.entries)));
    }
    let percent = gone(now.bytes, last.bytes, LEAST_BYTES)?;
    Some(format!("{percent} of the {} of the point before are gone", bytes(last.bytes)))
}

fn size(now: &Shape, recent: &[Shape], entries: &str) -> Option<String> {
    let far = |of: fn(&Shape) -> u64, least: u64| {
        let usual = Usual::of(recent.iter().map(|shape| of(shape) as f64))?;
        let distance = (of(now) as f64 - usual.median).abs();
        let bound = (DEVIATIONS * usual.deviation).max(USUAL_GROWTH * usual.median).max(least as f64);
        // Of whole numbers below 2^53, or near enough above.
        (distance > bound).then_some(usual.median as u64)
    };
    if let Some(median) = far(|shape| shape.bytes, LEAST_BYTES) {
        return Some(format!("{} where the {} points before have {} (median)", bytes(now.bytes), recent.len(), bytes(median)));
    }
    let median = far(|shape| shape.entries, LEAST_ENTRIES)?;
    let (now, median) = (count(now.entries), count(median));
    Some(format!("{now} {entries} where the {} points before have {median} (median)", recent.len()))
}

fn change(now: &Shape, recent: &[Shape]) -> Option<String> {
    let rate = now.change_rate()?;
    let usual = Usual::of(recent.iter().filter_map(Shape::change_rate))?;
    let new_bytes = now.measures?.new_bytes;
    (new_bytes >= LEAST_BYTES && rate > usual.median + usual.rise()).then(|| {
        let (rate, median) = (percent(rate), percent(usual.median));
        format!("{rate} of its {} are new, usually {median} (median of {} points)", bytes(now.bytes), usual.count)
    })
}

fn entropy(now: &Shape, recent: &[Shape]) -> Option<String> {
    let dense = now.dense_share()?;
    // One point that was read in full is enough: what a source is made of seldom changes, and is seldom read again.
    let usual = Usual::of_any(recent.iter().filter_map(Shape::dense_share).collect())?;
    let jumped = dense >= DENSE_SHARE && dense > usual.median + usual.rise();
    jumped.then(|| {
        let (dense, median) = (percent(dense), percent(usual.median));
        let read = bytes(now.measures.unwrap_or_default().sampled_bytes);
        format!("{dense} of the {read} that were read cannot be compressed, usually {median}: as if they had been encrypted")
    })
}

/// What is usual among recent points.
struct Usual {
    median: f64,
    /// An estimate of the standard deviation that a few odd points do not move.
    deviation: f64,
    count: usize,
}

impl Usual {
    fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let values: Vec<f64> = values.collect();
        if values.len() < LEAST_RECENT { None } else { Self::of_any(values) }
    }

    fn of_any(values: Vec<f64>) -> Option<Self> {
        let count = values.len();
        let median = median(values.clone())?;
        let mad = self::median(values.into_iter().map(|value| (value - median).abs()).collect())?;
        Some(Self { median, deviation: DEVIATION_OF_MAD * mad, count })
    }

    /// By how much a share may lie above the median.
    fn rise(&self) -> f64 {
        (DEVIATIONS * self.deviation).max(USUAL_RISE)
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    let lower = values[(values.len() - 1) / 2];
    Some(f64::midpoint(lower, upper))
}

/// Of counts below 2^53, or near enough above.
fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// 99.99 % of something is not all of it.
fn percent(share: f64) -> String {
    let most = if share < 1.0 { 99.0 } else { 100.0 };
    format!("{} %", (share * 100.0).round().min(most))
}

#[cfg(test)]
mod tests {
    use super::{Measures, RECENT, Shape, anomalies};

    const MIB: u64 = 1 << 20;

    /// So many entries and MiB; of these so many percent were new, of so many MiB that were read so many percent dense.
    fn shape(entries: u64, mib: u64, new_percent: u64, read_mib: u64, dense_percent: u64) -> Shape {
        let measures = Measures {
            new_bytes: mib * MIB * new_percent / 100,
            sampled_bytes: read_mib * MIB,
            dense_bytes: read_mib * MIB * dense_percent / 100,
        };
        Shape { entries, bytes: mib * MIB, measures: Some(measures) }
    }

    /// Ten nights of a source that grows and breathes a little.
    fn usual() -> Vec<Shape> {
        (0..10)
            .map(|night| shape(120_000 - night % 3, 1000 + 5 * night + 7 * (night % 2), 3 + night % 4, 1000, 10 + night % 5))
            .collect()
    }

    fn said(now: Shape, before: &[Shape]) -> Vec<String> {
        let found = anomalies("attachments", "bucket", &now, before);
        found.into_iter().map(|anomaly| format!("{:?}: {}", anomaly.kind, anomaly.message)).collect()
    }

    #[test]
    fn each_rule_speaks_beyond_its_bound_and_is_silent_within_it() {
        let none: &[&str] = &[];
        for (name, now, expected) in [
            ("as ever", shape(120_050, 1052, 5, 1000, 12), none),
            ("a little housekeeping", shape(90_000, 1000, 5, 1000, 12), none),
            (
                "mass deletion",
                shape(19_200, 1000, 5, 1000, 12),
                &["MassDeletion: 84 % of 120,000 objects of the point before are gone"],
            ),
            (
                "emptied objects",
                shape(120_000, 400, 5, 200, 12),
                &["MassDeletion: 62 % of the 1.0 GiB of the point before are gone"],
            ),
            ("everything gone", shape(0, 0, 0, 0, 0), &["MassDeletion: 100 % of 120,000 objects of the point before are gone"]),
            ("a good month's growth", shape(120_000, 1270, 25, 1000, 12), none),
            ("a flood", shape(120_000, 3000, 30, 1000, 12), &["Size: 2.9 GiB where the 10 points before have 1.0 GiB (median)"]),
            (
                "many small ones",
                shape(300_000, 1050, 5, 1000, 12),
                &["Size: 300,000 objects where the 10 points before have 119,999 (median)"],
            ),
            (
                "rewritten",
                shape(120_000, 1050, 90, 1000, 12),
                &["ChangeRate: 90 % of its 1.0 GiB are new, usually 4 % (median of 10 points)"],
            ),
            ("a large change", shape(120_000, 1050, 33, 1000, 12), none),
            (
                "encrypted where it lies",
                shape(120_000, 1050, 100, 1050, 100),
                &[
                    "ChangeRate: 100 % of its 1.0 GiB are new, usually 4 % (median of 10 points)",
                    "Entropy: 100 % of the 1.0 GiB that were read cannot be compressed, usually 12 %: as if they had been encrypted",
                ],
            ),
            ("more pictures than usual", shape(120_000, 1050, 20, 1000, 70), none),
            ("a few new pictures and nothing else read", shape(120_000, 1050, 5, 50, 100), none),
        ] {
            assert_eq!(said(now, &usual()), expected, "{name}");
        }
    }

    #[test]
    fn small_sources_do_not_cry_wolf() {
        let small: Vec<_> = (0..10).map(|_| shape(60, 1, 0, 0, 0)).collect();
        for now in [shape(11, 0, 0, 0, 0), shape(900, 7, 100, 7, 100)] {
            assert_eq!(said(now, &small), [""; 0], "{now:?}");
        }
        assert_eq!(said(shape(10, 1, 0, 0, 0), &small), ["MassDeletion: 83 % of 60 objects of the point before are gone"]);
    }

    #[test]
    fn with_little_history_only_a_deletion_and_a_jump_of_entropy_are_told() {
        let before = &usual()[..4];
        assert_eq!(said(shape(120_000, 5000, 100, 1000, 12), before), [""; 0]);
        assert_eq!(said(shape(120_000, 5000, 100, 1000, 12), &[]), [""; 0]);
        assert_eq!(said(shape(120_000, 5000, 100, 1000, 12), &usual()[..5]).len(), 2);
        assert_eq!(said(shape(1, 1000, 5, 1000, 99), &before[..1]).len(), 2, "deletion and entropy");
    }

    #[test]
    fn an_odd_point_among_the_recent_ones_hides_nothing_and_a_change_that_lasts_becomes_usual() {
        let mut points = usual();
        points[4] = shape(500_000, 9000, 100, 9000, 100);
        let rewritten = shape(120_000, 1050, 95, 1000, 95);
        assert_eq!(said(rewritten, &points).len(), 2, "{points:?}");
        assert_eq!(said(shape(120_000, 3000, 5, 1000, 12), &points).len(), 1, "too large, as it would be without the odd one");
        let mut loud = 0;
        while !said(rewritten, &points).is_empty() {
            points.push(rewritten);
            loud += 1;
        }
        assert!((6..=RECENT).contains(&loud), "{loud} points");
    }

    #[test]
    fn points_of_earlier_versions_have_no_measures_and_are_compared_by_size_alone() {
        let old: Vec<_> = usual().into_iter().map(|shape| Shape { measures: None, ..shape }).collect();
        assert_eq!(said(shape(120_000, 1050, 100, 1050, 100), &old), [""; 0]);
        assert_eq!(said(Shape { measures: None, ..shape(120_000, 3000, 0, 0, 0) }, &old).len(), 1);
    }
}
