//! RPO and RTO as measured, beside what was wanted.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// Data lost, three ways. Seconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RpoFigures {
    /// The policy's objective.
    pub configured_seconds: Option<f64>,
    /// From [`Self::restored_to`] to the moment of the (supposed) loss: the start of the drill.
    pub achieved_seconds: f64,
    /// The moment up to which everything came back: the consistency time of the point, or, with the log, the earliest that any of its sources
    /// was taken to. Nothing in evidence of versions that went by the point alone.
    #[serde(default)]
    pub restored_to: Option<DateTime<Utc>>,
    /// The longest time in the period during which no newer point existed: what a loss at the worst moment would have cost without the log.
    pub worst_seconds: Option<f64>,
    /// The beginning of the period that `worst_seconds` looks at: the oldest point there is.
    pub period_start: Option<DateTime<Utc>>,
}

/// By how much clocks may differ.
const FUTURE_SECONDS: f64 = 300.0;

impl RpoFigures {
    /// Measures: `lost_at` is the moment of the supposed loss, `restored` the moment up to which everything came back, `points` the
    /// consistency times of all points, in any order; those after `lost_at` do not count.
    pub fn measure(
        configured_seconds: Option<f64>,
        lost_at: DateTime<Utc>,
        restored: DateTime<Utc>,
        points: &[DateTime<Utc>],
    ) -> Self {
        let mut times: Vec<DateTime<Utc>> = points.iter().copied().filter(|time| *time <= lost_at).collect();
        times.sort_unstable();
        let ends = times.iter().copied().skip(1).chain([lost_at]);
        let gaps = times.iter().zip(ends).map(|(from, to)| between(*from, to));
        Self {
            configured_seconds,
            achieved_seconds: between(restored, lost_at),
            restored_to: Some(restored),
            worst_seconds: gaps.reduce(f64::max),
            period_start: times.first().copied(),
        }
    }

    /// The moment up to which a point came back whose sources were taken along their logs: for each of them how far, nothing for one that is
    /// as of the point. `now` is when that was found. What reached the archive after the
    /// loss does not count for a source; a little more than nothing lost is a difference of clocks.
    pub fn restored_to(
        point: DateTime<Utc>,
        sources: impl IntoIterator<Item = Option<DateTime<Utc>>>,
        lost_at: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> DateTime<Utc> {
        let each = sources.into_iter().map(|source| source.map_or(point, |reached| reached.max(point)));
        let reached = each.min().unwrap_or(point);
        let is_later = reached > lost_at && point <= lost_at && between(now, reached) <= FUTURE_SECONDS;
        if is_later { lost_at } else { reached }
    }

    /// Whether more was lost than the objective allows; or the point shows what is still to come: then a clock is wrong, and nobody
    /// knows how much was lost.
    pub fn missed(&self) -> bool {
        self.is_from_the_future() || self.configured_seconds.is_some_and(|configured| self.achieved_seconds > configured)
    }

    /// Whether the point that was restored is dated later than the drill, by more than clocks may differ.
    pub fn is_from_the_future(&self) -> bool {
        self.achieved_seconds < -FUTURE_SECONDS
    }

    /// Whether more would have been lost at the worst moment of the period. This does not fail a drill, which shows the present,
    /// but is said.
    pub fn worst_missed(&self) -> bool {
        matches!((self.configured_seconds, self.worst_seconds), (Some(configured), Some(worst)) if worst > configured)
    }
}

fn between(from: DateTime<Utc>, to: DateTime<Utc>) -> f64 {
    // Milliseconds of any two times of this millennium fit an f64 exactly.
    (to - from).num_milliseconds() as f64 / 1000.0
}

/// Time until service. Seconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RtoFigures {
    /// The policy's objective.
    pub objective_seconds: Option<f64>,
    /// What the restore took, on the monotonic clock, without the clean-up.
    pub measured_seconds: f64,
}

impl RtoFigures {
    /// Whether it took longer than the objective allows.
    pub fn missed(&self) -> bool {
        self.objective_seconds.is_some_and(|objective| self.measured_seconds > objective)
    }
}

#[cfg(test)]
mod tests {
    use super::{DateTime, RpoFigures, RtoFigures, Utc};

    fn at(hour: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + hour * 3600, 0).unwrap()
    }

    #[test]
    fn the_worst_loss_is_the_longest_gap_between_points_up_to_the_loss() {
        let figures = RpoFigures::measure(Some(26.0 * 3600.0), at(100), at(96), &[at(48), at(0), at(96), at(24), at(120)]);
        assert_eq!(figures.achieved_seconds, 4.0 * 3600.0);
        assert_eq!(figures.worst_seconds, Some(48.0 * 3600.0));
        assert_eq!(figures.period_start, Some(at(0)));
        assert!(!figures.missed());
        assert!(figures.worst_missed());
    }

    #[test]
    fn the_time_since_the_newest_point_counts_as_a_gap_too() {
        let figures = RpoFigures::measure(Some(3600.0), at(50), at(1), &[at(0), at(1)]);
        assert_eq!(figures.worst_seconds, Some(49.0 * 3600.0));
        assert!(figures.missed());
    }

    #[test]
    fn a_point_came_back_up_to_the_earliest_that_its_sources_were_taken_to() {
        let second = |second: i64| at(0) + chrono::TimeDelta::seconds(second);
        // The point shows 0, the loss was supposed at 100, and the drill has found out by 160.
        let restored = |sources: &[Option<i64>]| {
            RpoFigures::restored_to(second(0), sources.iter().map(|source| source.map(second)), second(100), second(160))
        };
        assert_eq!(restored(&[]), second(0));
        assert_eq!(restored(&[Some(70)]), second(70));
        assert_eq!(restored(&[Some(90), Some(40), Some(70)]), second(40));
        assert_eq!(restored(&[Some(90), None]), second(0), "a bucket is as of the point");
        assert_eq!(restored(&[Some(-5)]), second(0), "nothing was committed since");
        assert_eq!(restored(&[Some(150)]), second(100), "the drill took a while, and the log went on");
        let ahead = restored(&[Some(160 + 301)]);
        assert!(RpoFigures::measure(None, second(100), ahead, &[]).missed(), "a clock is wrong: {ahead}");
        let figures = RpoFigures::measure(Some(60.0), second(100), restored(&[Some(70)]), &[second(0)]);
        assert_eq!((figures.achieved_seconds, figures.restored_to, figures.missed()), (30.0, Some(second(70)), false));
        assert!(RpoFigures::measure(Some(60.0), second(100), restored(&[None]), &[second(0)]).missed());
    }

    #[test]
    fn without_an_objective_nothing_is_missed() {
        let figures = RpoFigures::measure(None, at(50), at(1), &[]);
        assert_eq!((figures.missed(), figures.worst_missed(), figures.worst_seconds), (false, false, None));
        assert!(!RtoFigures { objective_seconds: None, measured_seconds: 1e9 }.missed());
        assert!(RtoFigures { objective_seconds: Some(10.0), measured_seconds: 10.5 }.missed());
    }
}
