//! How many requests may be under way, decided from how the last ones went. Pure: times are handed in.
//!
//! Two things move the window:
//! * *Refusals* ("slow down") halve it, at most once in a second, and stop everything for a moment; then one request tries, and a longer
//!   moment follows if that is refused as well. From there the window grows back by the clock: in each second by a tenth of where it was
//!   refused, and beyond that by a tenth of itself, so that it stands just below what the server allows and asks for more now and then.
//!   Below one request at a time the window is a part of the time: half means a pause as long as a request.
//! * *Gain*: while callers wait for leave, the window doubles, and stays so if the work done in a second grew by a tenth. So it comes to what
//!   round trips, the line and the server give, without being told any of them. When it did not pay, it is tried again later.

use std::time::Duration;

/// Requests under way in the beginning: what a server nearby is busy with.
const FIRST: f64 = 16.0;
/// The least window: a request, and then a pause of 63 times as long.
const LEAST: f64 = 1.0 / 64.0;
/// The least time over which work is measured.
const EPOCH: Duration = Duration::from_millis(250);
/// Longer than that no epoch waits for its requests to end.
const LONGEST_EPOCH: Duration = Duration::from_secs(5);
/// A larger window that did not pay is tried again after that, and each time that it does not again, after twice as long.
const TRY_AGAIN: Duration = Duration::from_secs(2);
/// But no later than that.
const LONGEST_REST: Duration = Duration::from_secs(30);
/// What a doubled window must bring.
const GAIN: f64 = 1.1;
/// A request counts as so many bytes beside its own: what a small one costs a server.
const REQUEST_BYTES: u64 = 32 << 10;
/// It is made smaller no more often.
const BETWEEN_CUTS: Duration = Duration::from_secs(1);
/// The moment that follows a refusal; it doubles with each further one.
const MOMENT: Duration = Duration::from_millis(50);
/// No moment is longer.
const LONGEST_MOMENT: Duration = Duration::from_secs(5);
/// A server that asks for a longer pause gets this one.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The window, and what decides on it.
#[derive(Debug)]
pub(super) struct Window {
    most: f64,
    size: f64,
    /// Where it was refused last, while that matters.
    refused_at: Option<f64>,
    /// When it was made smaller last.
    cut: Option<Duration>,
    /// Refusals since anything was done, those of requests that were under way together as one.
    streak: u32,
    /// The last of them.
    streak_at: Duration,
    /// When it grew back last.
    grown: Duration,
    /// Nothing may begin before.
    not_before: Duration,
    epoch: Epoch,
    trial: Trial,
    /// Requests that are not measured, because they began in the window before, or found their connections with this one.
    unmeasured: u64,
    /// How long the next rest is.
    rest: Duration,
}

/// Work done since a time.
#[derive(Debug, Default)]
struct Epoch {
    since: Duration,
    requests: u64,
    bytes: u64,
    /// Whether callers waited for leave.
    was_full: bool,
}

/// What is being found out.
#[derive(Debug)]
enum Trial {
    /// The speed of the present window.
    Measuring,
    /// Whether this window is faster than the last one was.
    Doubled { before: f64, speed: f64 },
    /// Nothing, until then.
    Resting(Duration),
}

impl Window {
    pub(super) fn new(most: usize, now: Duration) -> Self {
        let most = most.max(1) as f64;
        Self {
            most,
            size: FIRST.min(most),
            refused_at: None,
            cut: None,
            streak: 0,
            streak_at: now,
            grown: now,
            not_before: now,
            epoch: Epoch { since: now, ..Epoch::default() },
            trial: Trial::Measuring,
            unmeasured: 0,
            rest: TRY_AGAIN,
        }
    }

    /// Requests that may be under way at once.
    pub(super) fn requests(&self) -> usize {
        // One tries whether the server has recovered. Otherwise from 1 to what was a usize.
        if self.streak > 0 { 1 } else { self.size.max(1.0) as usize }
    }

    /// How long the next request must wait.
    pub(super) fn pause(&self, now: Duration) -> Duration {
        self.not_before.saturating_sub(now)
    }

    /// Somebody waits for leave.
    pub(super) fn full(&mut self) {
        self.epoch.was_full = true;
    }

    /// A request that began at `begun` was done, or failed for reasons of its own.
    pub(super) fn done(&mut self, begun: Duration, now: Duration, bytes: u64) {
        self.streak = 0;
        self.epoch.requests += 1;
        self.epoch.bytes += bytes;
        self.grow_back(now);
        if self.size < 1.0 {
            let took = now.saturating_sub(begun).max(Duration::from_millis(1));
            self.not_before = self.not_before.max(now + took.mul_f64(1.0 / self.size - 1.0).min(LONGEST_PAUSE));
        }
        self.measure(now);
    }

    /// A request that began at `begun`, when so many were under way, was refused; `after` is how long the server wants to be left alone.
    pub(super) fn refused(&mut self, begun: Duration, now: Duration, under_way: usize, after: Option<Duration>) {
        if let Some(after) = after {
            self.not_before = self.not_before.max(now + after.min(LONGEST_PAUSE));
        }
        if self.streak == 0 || begun >= self.streak_at {
            let moment = MOMENT.saturating_mul(2_u32.saturating_pow(self.streak)).min(LONGEST_MOMENT);
            self.not_before = self.not_before.max(now + moment);
            self.streak += 1;
            self.streak_at = now;
        }
        // Those that were under way at the last cut say nothing of the smaller window.
        if self.cut.is_some_and(|cut| begun < cut || now < cut + BETWEEN_CUTS) {
            return;
        }
        let used = self.size.min(under_way.max(1) as f64);
        // Below where it was refused before: the truth lies between.
        self.refused_at = Some(self.refused_at.filter(|before| used < *before).map_or(used, |before| (before + used) / 2.0));
        self.size = (used / 2.0).max(LEAST);
        self.cut = Some(now);
        self.grown = now;
        self.restart(now);
        self.trial = Trial::Measuring;
        self.unmeasured = 0;
    }

    fn restart(&mut self, now: Duration) {
        self.epoch = Epoch { since: now, ..Epoch::default() };
    }

    fn grow_back(&mut self, now: Duration) {
        let Some(refused_at) = self.refused_at else { return };
        let seconds = now.saturating_sub(self.grown).as_secs_f64().min(1.0);
        self.size = (self.size + self.size.max(refused_at) * 0.1 * seconds).min(self.most);
        self.grown = now;
        if self.size > refused_at * 1.5 || self.size >= self.most {
            self.refused_at = None;
            self.restart(now);
        }
    }

    fn measure(&mut self, now: Duration) {
        if self.unmeasured > 0 {
            self.unmeasured -= 1;
            let was_full = self.epoch.was_full;
            self.restart(now);
            self.epoch.was_full = was_full;
            return;
        }
        let took = now.saturating_sub(self.epoch.since);
        let enough = took >= EPOCH && self.epoch.requests as f64 >= self.size;
        if self.refused_at.is_some() || !(enough || took >= LONGEST_EPOCH) {
            return;
        }
        let work = self.epoch.bytes + self.epoch.requests * REQUEST_BYTES;
        let speed = work as f64 / took.as_secs_f64();
        let was_full = self.epoch.was_full;
        self.restart(now);
        tracing::trace!(requests = self.size, speed, was_full, "measured");
        match self.trial {
            // Callers that are content say nothing of what more would bring.
            _ if !was_full => {}
            Trial::Resting(until) if now < until => {}
            Trial::Doubled { before, speed: slower } if speed < slower * GAIN => {
                self.size = before;
                self.trial = Trial::Resting(now + self.rest);
                self.rest = (self.rest * 2).min(LONGEST_REST);
            }
            Trial::Measuring | Trial::Doubled { .. } | Trial::Resting(_) if self.size < self.most => {
                if matches!(self.trial, Trial::Doubled { .. }) {
                    self.rest = TRY_AGAIN;
                }
                self.trial = Trial::Doubled { before: self.size, speed };
                self.size = (self.size * 2.0).min(self.most);
                // One round of the new window.
                self.unmeasured = self.size as u64;
            }
            Trial::Measuring | Trial::Doubled { .. } | Trial::Resting(_) => self.trial = Trial::Measuring,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Duration, Window};

    /// A server and the line to it, by a clock of its own: each request takes a round trip, and the line lets through so many in a second.
    struct Line {
        now: Duration,
        round_trip: Duration,
        most_per_second: f64,
    }

    impl Line {
        /// Whole rounds of as many requests as the window allows, for so long. Returns how many were done.
        fn run(&mut self, window: &mut Window, length: Duration) -> u64 {
            let (end, mut done) = (self.now + length, 0);
            while self.now < end {
                let (begun, count) = (self.now, window.requests());
                let took = self.round_trip.as_secs_f64().max(count as f64 / self.most_per_second);
                self.now += Duration::from_secs_f64(took);
                window.full();
                (0..count).for_each(|_| window.done(begun, self.now, 1000));
                done += count as u64;
            }
            done
        }
    }

    fn line(round_trip_ms: u64, most_per_second: f64) -> Line {
        Line { now: Duration::ZERO, round_trip: Duration::from_millis(round_trip_ms), most_per_second }
    }

    #[test]
    fn a_long_way_is_filled_within_seconds_and_a_near_server_is_left_as_it_is() {
        let (mut far, mut window) = (line(80, 2000.0), Window::new(256, Duration::ZERO));
        far.run(&mut window, Duration::from_secs(3));
        assert!(window.requests() >= 128, "{}", window.requests());
        let done = far.run(&mut window, Duration::from_secs(10)) as f64;
        assert!(done >= 0.75 * 20_000.0, "{done}");
        let (mut near, mut window) = (line(2, 500.0), Window::new(256, Duration::ZERO));
        near.run(&mut window, Duration::from_secs(5));
        assert_eq!(window.requests(), 16);
    }

    #[test]
    fn the_configured_most_is_never_exceeded() {
        let (mut far, mut window) = (line(150, 1e9), Window::new(24, Duration::ZERO));
        for _ in 0..100 {
            far.run(&mut window, Duration::from_millis(300));
            assert!((1..=24).contains(&window.requests()));
        }
        assert_eq!(window.requests(), 24);
    }

    #[test]
    fn callers_that_never_wait_do_not_widen_it() {
        let mut window = Window::new(256, Duration::ZERO);
        for second in 1..60 {
            (0..50).for_each(|_| window.done(Duration::ZERO, Duration::from_secs(second), 0));
        }
        assert_eq!(window.requests(), 16);
    }

    #[test]
    fn requests_that_are_refused_together_halve_it_once() {
        let mut window = Window::new(64, Duration::ZERO);
        let (begun, now) = (Duration::from_secs(1), Duration::from_secs(2));
        (0..16).for_each(|_| window.refused(begun, now, 16, None));
        assert_eq!((window.requests(), window.size), (1, 8.0), "one tries");
        window.refused(now, Duration::from_secs(3), 8, None);
        window.done(now, Duration::from_secs(3), 0);
        assert_eq!(window.requests(), 4);
    }

    #[test]
    fn after_refusals_it_grows_back_within_a_minute() {
        let mut far = line(20, 1e9);
        let mut window = Window::new(64, Duration::ZERO);
        for second in 0..6 {
            far.now = Duration::from_secs(second + 1);
            window.refused(far.now, far.now, 16, None);
        }
        assert!(window.size < 1.0, "{}", window.size);
        let (mut pauses, end) = (Duration::ZERO, far.now + Duration::from_secs(60));
        while far.now < end {
            pauses += window.pause(far.now);
            far.now += window.pause(far.now);
            far.run(&mut window, Duration::from_millis(1));
        }
        assert!(pauses > Duration::ZERO, "below one request at a time there are pauses");
        assert_eq!(window.requests(), 64);
    }

    #[test]
    fn the_servers_wish_is_granted_up_to_a_minute() {
        let mut window = Window::new(64, Duration::ZERO);
        let now = Duration::from_secs(1);
        window.refused(now, now, 1, Some(Duration::from_secs(7)));
        assert_eq!(window.pause(now), Duration::from_secs(7));
        window.refused(now, now, 1, Some(Duration::from_secs(86_400)));
        assert_eq!(window.pause(now), Duration::from_secs(60));
    }
}
