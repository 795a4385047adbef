//! How many bytes may go to a site, and come from it, in a second: one limit over all connections, by the time of day.
//!
//! Whoever has a piece of a body asks when it may go; pieces are small, so that the bytes leave evenly and not pack by pack. Each direction has
//! its own limit. The time of day is looked at for each piece: a change holds from the next piece on.
//!
//! Counted are the bytes of bodies, not what TLS, TCP and headers add.

mod hours;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use crate::clock::{SharedClock, TimerClock};

pub use hours::{Hours, TimeOfDay, Zone};

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// To the site.
    Up,
    /// From the site.
    Down,
}

/// After a pause so much may go at once: what the limit gives in this time.
const SLACK: Duration = Duration::from_millis(50);
/// A piece is what the limit gives in a part of a second, within bounds. Bytes.
const PIECES_PER_SECOND: u64 = 50;
const LEAST_PIECE_BYTES: u64 = 4 << 10;
const MOST_PIECE_BYTES: u64 = 64 << 10;

/// The limit of one site, shared by all that goes there.
#[derive(Debug)]
pub struct Bandwidth {
    /// The first that holds decides.
    hours: Vec<Hours>,
    clock: SharedClock,
    timer: SharedClock,
    up: Mutex<Duration>,
    down: Mutex<Duration>,
}

impl Bandwidth {
    /// By the time of day of `clock`. Where none of `hours` holds there is no limit.
    pub fn new(hours: Vec<Hours>, clock: SharedClock) -> Arc<Self> {
        Arc::new(Self { hours, clock, timer: TimerClock::shared(), up: Mutex::default(), down: Mutex::default() })
    }

    /// Bytes in a second that may go now; `None` for as many as do.
    pub fn rate(&self, direction: Direction) -> Option<u64> {
        let now = self.clock.now();
        let hours = self.hours.iter().find(|hours| hours.hold_at(now))?;
        match direction {
            Direction::Up => hours.upload,
            Direction::Down => hours.download,
        }
    }

    /// What goes at once at most, bytes.
    pub(super) fn piece(&self, direction: Direction) -> usize {
        let piece = self.rate(direction).map_or(MOST_PIECE_BYTES, |rate| rate / PIECES_PER_SECOND);
        // At most 64 KiB.
        piece.clamp(LEAST_PIECE_BYTES, MOST_PIECE_BYTES) as usize
    }

    /// Books so many bytes, behind all that were booked before: how long until they may go.
    pub(super) fn book(&self, direction: Direction, bytes: usize) -> Duration {
        let Some(rate) = self.rate(direction) else { return Duration::ZERO };
        let now = self.timer.monotonic();
        let booked = match direction {
            Direction::Up => &self.up,
            Direction::Down => &self.down,
        };
        let mut until = booked.lock().unwrap_or_else(PoisonError::into_inner);
        let start = (*until).max(now.saturating_sub(SLACK));
        *until = start + Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64);
        start.saturating_sub(now)
    }

    /// Waits until so many bytes may have gone, piece by piece.
    pub(super) async fn pass(&self, direction: Direction, bytes: usize) {
        let mut left = bytes;
        while left > 0 {
            let piece = self.piece(direction).min(left);
            tokio::time::sleep(self.book(direction, piece)).await;
            left -= piece;
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, Utc};

    use super::{Arc, Bandwidth, Direction, Duration, Hours, TimeOfDay, TimerClock, Zone};
    use crate::clock::FixedClock;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn by_day() -> (Arc<FixedClock>, Arc<Bandwidth>) {
        let clock = FixedClock::shared(at("2026-11-23T17:59:00Z"));
        let day = Some((TimeOfDay::new(8, 0).unwrap(), TimeOfDay::new(18, 0).unwrap(), Zone::Utc));
        let hours = vec![
            Hours { window: day, upload: Some(1_000_000), download: None },
            Hours { window: None, upload: Some(10_000_000), download: Some(5_000_000) },
        ];
        (clock.clone(), Bandwidth::new(hours, clock))
    }

    #[test]
    fn the_first_hours_that_hold_decide_for_each_direction() {
        let (clock, bandwidth) = by_day();
        assert_eq!((bandwidth.rate(Direction::Up), bandwidth.rate(Direction::Down)), (Some(1_000_000), None));
        clock.advance(Duration::from_secs(60));
        assert_eq!((bandwidth.rate(Direction::Up), bandwidth.rate(Direction::Down)), (Some(10_000_000), Some(5_000_000)));
    }

    #[tokio::test(start_paused = true)]
    async fn many_at_once_have_the_rate_together_and_a_change_of_hours_holds_from_the_next_piece_on() {
        let (clock, bandwidth) = by_day();
        let send = |megabytes: usize| {
            let bandwidth = Arc::clone(&bandwidth);
            async move {
                let timer = TimerClock::shared();
                let each = (0..10).map(|_| bandwidth.pass(Direction::Up, megabytes * 100_000));
                futures_util::future::join_all(each).await;
                timer.monotonic().as_secs_f64()
            }
        };
        let slow = send(5).await;
        assert!((4.8..5.1).contains(&slow), "{slow}");
        clock.advance(Duration::from_secs(60));
        let fast = send(50).await;
        assert!((4.8..5.1).contains(&fast), "{fast}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_of_hours_takes_effect_within_one_body() {
        let (clock, bandwidth) = by_day();
        let timer = TimerClock::shared();
        let body = bandwidth.pass(Direction::Up, 11_000_000);
        let later = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            clock.advance(Duration::from_secs(60));
        };
        tokio::join!(body, later);
        let took = timer.monotonic().as_secs_f64();
        // A second at 1 MB/s, a second at 10.
        assert!((1.9..2.1).contains(&took), "{took}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_site_does_not_save_up() {
        let (_, bandwidth) = by_day();
        tokio::time::sleep(Duration::from_secs(3600)).await;
        let timer = TimerClock::shared();
        bandwidth.pass(Direction::Up, 1_000_000).await;
        assert!(timer.monotonic() >= Duration::from_millis(900), "{:?}", timer.monotonic());
    }
}
