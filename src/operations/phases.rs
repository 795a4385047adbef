//! Phases of a restore on the monotonic clock.

use std::time::Duration;

use crate::{
    clock::SharedClock,
    progress::{PhaseTime, SharedObserver},
};

/// Times phases one after the other.
#[derive(Debug)]
pub struct Phases {
    clock: SharedClock,
    observer: SharedObserver,
    done: Vec<PhaseTime>,
}

impl Phases {
    /// None yet.
    pub fn new(clock: SharedClock, observer: SharedObserver) -> Self {
        Self { clock, observer, done: Vec::new() }
    }

    /// Times `work` as the phase `name`; a name that comes again adds up.
    pub async fn time<T>(&mut self, name: &str, work: impl Future<Output = T>) -> T {
        self.observer.phase(name, None);
        let start = self.clock.monotonic();
        let done = work.await;
        self.add(name, self.clock.monotonic().saturating_sub(start));
        done
    }

    /// Adds a phase that was timed elsewhere.
    pub fn add(&mut self, name: &str, time: Duration) {
        match self.done.iter_mut().find(|phase| phase.name == name) {
            Some(phase) => phase.seconds += time.as_secs_f64(),
            None => self.done.push(PhaseTime { name: name.to_owned(), seconds: time.as_secs_f64() }),
        }
    }

    /// Adds phases that a source timed.
    pub fn extend(&mut self, phases: &[PhaseTime]) {
        for phase in phases {
            self.add(&phase.name, Duration::try_from_secs_f64(phase.seconds).unwrap_or_default());
        }
    }

    /// The phases in the order in which they began.
    pub fn finish(self) -> Vec<PhaseTime> {
        self.done
    }
}
