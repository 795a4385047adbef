//! How a request gets on until its answer begins.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::Deadlines;
use crate::clock::SharedClock;

/// Shared by a request's body, which reports, and by whoever waits for the answer, who judges.
#[derive(Debug)]
pub(super) struct Meter {
    clock: SharedClock,
    deadlines: Deadlines,
    /// Bytes of the body.
    size: u64,
    started: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// When a piece went out last, by the monotonic clock; in the beginning when the request began.
    moved: Duration,
    /// Bytes that went out.
    sent: u64,
    /// Whether all did.
    complete: bool,
    /// Time spent waiting for leave to send, not for the server.
    paused: Duration,
    /// Since when it waits for leave.
    paused_since: Option<Duration>,
}

impl Meter {
    pub(super) fn new(clock: SharedClock, deadlines: Deadlines, size: u64) -> Self {
        let started = clock.monotonic();
        let state = State { moved: started, sent: 0, complete: size == 0, paused: Duration::ZERO, paused_since: None };
        Self { clock, deadlines, size, started, state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is complete in itself.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// So many bytes went out.
    pub(super) fn moved(&self, bytes: usize) {
        let now = self.clock.monotonic();
        let mut state = self.state();
        state.resume(now);
        state.moved = now;
        state.sent += bytes as u64;
    }

    /// The body has ended.
    pub(super) fn complete(&self) {
        let mut state = self.state();
        state.resume(self.clock.monotonic());
        state.complete = true;
    }

    /// It waits for leave to send.
    pub(super) fn pause(&self) {
        let now = self.clock.monotonic();
        self.state().paused_since.get_or_insert(now);
    }

    /// How long to wait before looking again, or why waiting is over.
    pub(super) fn left(&self) -> Result<Duration, String> {
        let now = self.clock.monotonic();
        let state = self.state();
        if state.paused_since.is_some() {
            return Ok(self.deadlines.stall);
        }
        let whole = self.deadlines.whole(self.size);
        let taken = now.saturating_sub(self.started).saturating_sub(state.paused);
        let rest = whole.saturating_sub(taken);
        if rest.is_zero() {
            let sent = if self.size == 0 { String::new() } else { format!("; {} of {} bytes were sent", state.sent, self.size) };
            return Err(format!("no answer within {} s{sent}", seconds(whole)));
        }
        if state.complete {
            return Ok(rest);
        }
        let quiet = now.saturating_sub(state.moved);
        let patience = self.deadlines.stall.saturating_sub(quiet);
        if patience.is_zero() {
            return Err(format!(
                "no byte could be sent for {} s, after {} of {}",
                seconds(self.deadlines.stall),
                state.sent,
                self.size
            ));
        }
        Ok(rest.min(patience))
    }
}

impl State {
    fn resume(&mut self, now: Duration) {
        if let Some(since) = self.paused_since.take() {
            self.paused += now.saturating_sub(since);
            self.moved = now;
        }
    }
}

/// As a person reads it.
pub(super) fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use chrono::DateTime;

    use super::{Deadlines, Duration, Meter};
    use crate::clock::FixedClock;

    fn meter(size: u64) -> (Arc<FixedClock>, Meter) {
        let clock = FixedClock::shared(DateTime::UNIX_EPOCH);
        let meter = Meter::new(clock.clone(), Deadlines::default(), size);
        (clock, meter)
    }

    #[test]
    fn a_body_that_stops_is_given_up_long_before_the_whole_would_be() {
        let (clock, meter) = meter(64 << 20);
        clock.advance(Duration::from_secs(19));
        meter.moved(1 << 20);
        clock.advance(Duration::from_secs(19));
        assert_eq!(meter.left().unwrap(), Duration::from_secs(1));
        clock.advance(Duration::from_secs(1));
        let overdue = meter.left().unwrap_err();
        assert!(overdue.contains("no byte could be sent for 20 s, after 1048576 of 67108864"), "{overdue}");
    }

    #[test]
    fn a_body_that_trickles_ends_at_the_least_speed() {
        let (clock, meter) = meter(1 << 20);
        // 1 MiB may take 60 s and 32 s.
        for _ in 0..9 {
            clock.advance(Duration::from_secs(10));
            meter.moved(1);
            meter.left().unwrap();
        }
        clock.advance(Duration::from_secs(2));
        let overdue = meter.left().unwrap_err();
        assert!(overdue.contains("no answer within 92 s; 9 of 1048576 bytes were sent"), "{overdue}");
    }

    #[test]
    fn the_server_may_think_once_all_was_sent() {
        let (clock, meter) = meter(10);
        meter.moved(10);
        meter.complete();
        clock.advance(Duration::from_secs(59));
        meter.left().unwrap();
        clock.advance(Duration::from_secs(2));
        meter.left().unwrap_err();
    }

    #[test]
    fn waiting_for_leave_to_send_is_not_the_servers_time() {
        let (clock, meter) = meter(1 << 20);
        meter.moved(1000);
        meter.pause();
        clock.advance(Duration::from_secs(3600));
        meter.left().unwrap();
        meter.moved(1000);
        assert_eq!(meter.left().unwrap(), Duration::from_secs(20), "a pause counts for neither deadline");
    }
}
