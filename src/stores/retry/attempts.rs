//! When a call is made again, and when it is given up.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::StoreError;
use crate::clock::SharedClock;

/// How often and for how long a call is repeated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Most attempts of one call, the first one included.
    pub attempts: u32,
    /// Most attempts that end in [`StoreError::Corrupt`]: damage in transfer passes, damage in storage does not.
    pub corrupt_attempts: u32,
    /// The longest pause after the first failure; it doubles with each further one.
    pub first_pause: Duration,
    /// No pause is longer.
    pub longest_pause: Duration,
    /// No attempt begins later than this after the first one. (How long an attempt may take is the store's own limit.)
    pub deadline: Duration,
    /// The same for a store that has not answered a single call yet: a wrong endpoint or a closed firewall does not pass, and
    /// whoever sits before it wants to know at once.
    pub first_contact: Duration,
}

impl Default for RetryPolicy {
    /// Rides out some minutes of a server's restart or a network's outage, which a nightly backup should.
    fn default() -> Self {
        Self {
            attempts: 10,
            corrupt_attempts: 3,
            first_pause: Duration::from_millis(200),
            longest_pause: Duration::from_secs(30),
            deadline: Duration::from_secs(600),
            first_contact: Duration::from_secs(10),
        }
    }
}

impl RetryPolicy {
    /// The longest pause after so many failures.
    fn most_pause(&self, failures: u32) -> Duration {
        let doubled = self.first_pause.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1)));
        doubled.min(self.longest_pause)
    }
}

/// The attempts of one call so far.
#[derive(Debug)]
pub(super) struct Attempts {
    policy: RetryPolicy,
    clock: SharedClock,
    /// Whether the store has ever answered; shared by all calls of one store.
    answered: Arc<AtomicBool>,
    started: Duration,
    /// When it failed first: a call may wait for leave, or for its bytes to leave, for as long as that takes.
    first_failure: Option<Duration>,
    failed: u32,
    corrupt: u32,
}

impl Attempts {
    pub(super) fn new(policy: RetryPolicy, clock: SharedClock, answered: Arc<AtomicBool>) -> Self {
        Self { policy, started: clock.monotonic(), clock, answered, first_failure: None, failed: 0, corrupt: 0 }
    }

    /// Whether an earlier attempt may have been carried out without our learning of it.
    pub(super) fn uncertain(&self) -> bool {
        self.failed > 0
    }

    /// Forgets the failures so far: something was achieved since.
    pub(super) fn renew(&mut self) {
        *self = Self::new(self.policy.clone(), self.clock.clone(), Arc::clone(&self.answered));
    }

    /// Pauses until the call may be made again.
    ///
    /// # Errors
    /// Gives the error back if it is final, or if enough was tried.
    pub(super) async fn again(&mut self, error: StoreError) -> Result<(), StoreError> {
        if !error.is_transient() {
            return Err(error);
        }
        self.failed += 1;
        self.corrupt += u32::from(matches!(error, StoreError::Corrupt { .. }));
        // Full jitter: many agents that failed together must not come back together.
        let pause = self.policy.most_pause(self.failed).mul_f64(rand::random::<f64>());
        let now = self.clock.monotonic();
        let first_failure = *self.first_failure.get_or_insert(now);
        let answered = self.answered.load(Ordering::Relaxed);
        let elapsed = now.saturating_sub(if answered { first_failure } else { self.started });
        let deadline = if answered { self.policy.deadline } else { self.policy.first_contact.min(self.policy.deadline) };
        let enough = self.failed >= self.policy.attempts
            || (self.corrupt > 0 && self.corrupt >= self.policy.corrupt_attempts)
            || elapsed + pause > deadline;
        if enough {
            return Err(self.given_up(error, elapsed));
        }
        tracing::debug!(%error, failed = self.failed, ?pause, "the request is made again");
        tokio::time::sleep(pause).await;
        Ok(())
    }

    fn given_up(&self, error: StoreError, elapsed: Duration) -> StoreError {
        let tried = |detail| match self.failed {
            1 => detail,
            failed => format!("{detail}; tried {failed} times in {} s", elapsed.as_secs()),
        };
        match error {
            StoreError::Throttled { place, detail, after } => StoreError::Throttled { place, detail: tried(detail), after },
            StoreError::Unavailable { place, detail } => StoreError::Unavailable { place, detail: tried(detail) },
            StoreError::Corrupt { place, detail } => StoreError::Corrupt { place, detail: tried(detail) },
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::{Arc, AtomicBool, Attempts, Duration, RetryPolicy, StoreError};
    use crate::clock::FixedClock;

    fn unavailable() -> StoreError {
        StoreError::Unavailable { place: "s3://b/k".to_owned(), detail: "reset".to_owned() }
    }

    fn known() -> Arc<AtomicBool> {
        Arc::new(AtomicBool::new(true))
    }

    fn quick() -> RetryPolicy {
        RetryPolicy { first_pause: Duration::from_micros(1), ..RetryPolicy::default() }
    }

    #[test]
    fn pauses_double_up_to_the_longest() {
        let policy = RetryPolicy::default();
        assert_eq!(policy.most_pause(1), Duration::from_millis(200));
        assert_eq!(policy.most_pause(3), Duration::from_millis(800));
        assert_eq!(policy.most_pause(9), Duration::from_secs(30));
        assert_eq!(policy.most_pause(u32::MAX), Duration::from_secs(30));
    }

    #[tokio::test]
    async fn the_last_error_says_how_often_it_was_tried() {
        let clock = FixedClock::shared(DateTime::UNIX_EPOCH);
        let mut attempts = Attempts::new(RetryPolicy { attempts: 3, ..quick() }, clock.clone(), known());
        attempts.again(unavailable()).await.unwrap();
        attempts.again(unavailable()).await.unwrap();
        clock.advance(Duration::from_secs(7));
        let error = attempts.again(unavailable()).await.unwrap_err().to_string();
        assert!(error.contains("reset; tried 3 times in 7 s"), "{error}");
    }

    #[tokio::test]
    async fn nothing_is_tried_after_the_deadline_which_begins_with_the_first_failure() {
        let clock = FixedClock::shared(DateTime::UNIX_EPOCH);
        let mut attempts = Attempts::new(RetryPolicy { deadline: Duration::from_secs(60), ..quick() }, clock.clone(), known());
        // It waited for leave, and for its bytes to go.
        clock.advance(Duration::from_secs(3600));
        attempts.again(unavailable()).await.unwrap();
        clock.advance(Duration::from_secs(59));
        attempts.again(unavailable()).await.unwrap();
        clock.advance(Duration::from_secs(2));
        attempts.again(unavailable()).await.unwrap_err();
    }

    #[tokio::test]
    async fn damage_is_tried_a_few_times_only_and_a_final_error_never() {
        let clock = FixedClock::shared(DateTime::UNIX_EPOCH);
        let corrupt = || StoreError::Corrupt { place: "k".to_owned(), detail: "sum".to_owned() };
        let mut attempts = Attempts::new(quick(), clock.clone(), known());
        attempts.again(corrupt()).await.unwrap();
        attempts.again(corrupt()).await.unwrap();
        attempts.again(corrupt()).await.unwrap_err();
        let mut attempts = Attempts::new(quick(), clock, known());
        attempts.again(StoreError::NotFound { place: "k".to_owned() }).await.unwrap_err();
    }

    #[tokio::test]
    async fn a_store_that_never_answered_is_given_up_early() {
        let clock = FixedClock::shared(DateTime::UNIX_EPOCH);
        let policy = RetryPolicy { first_contact: Duration::from_secs(5), ..quick() };
        for (answered, expected) in [(false, false), (true, true)] {
            let answered = Arc::new(AtomicBool::new(answered));
            let mut attempts = Attempts::new(policy.clone(), clock.clone(), answered);
            clock.advance(Duration::from_secs(6));
            assert_eq!(attempts.again(unavailable()).await.is_ok(), expected);
        }
    }
}
