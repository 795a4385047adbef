//! The only place that knows the time.
//!
//! Promises: [`Clock::now`] is UTC wall-clock time for timestamps; [`Clock::monotonic`] never goes back and is what durations
//! are measured with. Everything that needs either takes `&dyn Clock`, so that a test can hand in a [`FixedClock`].

use std::{
    fmt::Debug,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use chrono::{DateTime, TimeDelta, Utc};

/// A source of wall-clock and monotonic time.
pub trait Clock: Debug + Send + Sync {
    /// Wall-clock time, UTC.
    fn now(&self) -> DateTime<Utc>;
    /// Time since an arbitrary start that never goes back; for durations.
    fn monotonic(&self) -> Duration;
}

/// A clock that can be shared.
pub type SharedClock = Arc<dyn Clock>;

/// A moment by both clocks.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    wall: DateTime<Utc>,
    monotonic: Duration,
}

impl Moment {
    /// Now.
    pub fn now(clock: &SharedClock) -> Self {
        Self { wall: clock.now(), monotonic: clock.monotonic() }
    }

    /// How long ago it was, by whichever clock shows more: one may have been set back, the other stands still while a machine
    /// sleeps.
    pub fn since(&self, clock: &SharedClock) -> TimeDelta {
        let by_monotonic = clock.monotonic().saturating_sub(self.monotonic);
        TimeDelta::from_std(by_monotonic).unwrap_or(TimeDelta::MAX).max(clock.now() - self.wall)
    }

    /// How long ago it was at least: by whichever clock shows less.
    pub fn since_at_least(&self, clock: &SharedClock) -> TimeDelta {
        let by_monotonic = clock.monotonic().saturating_sub(self.monotonic);
        TimeDelta::from_std(by_monotonic).unwrap_or(TimeDelta::MAX).min((clock.now() - self.wall).max(TimeDelta::zero()))
    }
}

/// The machine's own clocks.
#[derive(Debug)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    /// A shared system clock, whose monotonic time starts now.
    pub fn shared() -> SharedClock {
        Arc::new(Self { start: Instant::now() })
    }
}

impl Clock for SystemClock {
    fn now(&self) -> DateTime<Utc> {
        Utc::now()
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }
}

/// The machine's clocks, with the monotonic time of the async runtime's timers: what they limit must be measured with them, also where a
/// test has stopped them.
#[derive(Debug)]
pub struct TimerClock {
    start: tokio::time::Instant,
}

impl TimerClock {
    /// A shared one, whose monotonic time starts now.
    pub fn shared() -> SharedClock {
        Arc::new(Self { start: tokio::time::Instant::now() })
    }
}

impl Clock for TimerClock {
    fn now(&self) -> DateTime<Utc> {
        Utc::now()
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }
}

/// A clock that stands still until it is told to move.
#[derive(Debug)]
pub struct FixedClock {
    state: Mutex<(DateTime<Utc>, Duration)>,
}

impl FixedClock {
    /// A clock that shows `now`.
    pub fn shared(now: DateTime<Utc>) -> Arc<Self> {
        Arc::new(Self { state: Mutex::new((now, Duration::ZERO)) })
    }

    /// Moves both times forward.
    pub fn advance(&self, by: Duration) {
        let mut state = self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        state.0 += by;
        state.1 += by;
    }
}

impl Clock for FixedClock {
    fn now(&self) -> DateTime<Utc> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).0
    }

    fn monotonic(&self) -> Duration {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).1
    }
}

/// Measures a wait for a process or a terminal outside of this program, which no clock of a test could speed up.
#[derive(Debug, Clone, Copy)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts now.
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Time since the start.
    pub fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}
