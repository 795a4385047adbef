//! The way in: who may begin a request, and what became of it.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{StoreError, window::Window};
use crate::clock::{SharedClock, TimerClock};

/// Lets requests begin, as many at once as the window says; in the order in which they came, while nothing is refused.
#[derive(Debug)]
pub(super) struct Gate {
    permits: Arc<Semaphore>,
    state: Mutex<State>,
    /// Calls that wait for leave.
    waiting: AtomicUsize,
    clock: SharedClock,
    most: usize,
}

#[derive(Debug)]
struct State {
    window: Window,
    /// Permits that there are, in use or not, beside those that are owed.
    permits: usize,
    /// Permits in use that go when they come back.
    owed: usize,
}

impl Gate {
    pub(super) fn new(most: usize) -> Arc<Self> {
        let clock = TimerClock::shared();
        let window = Window::new(most, clock.monotonic());
        let permits = window.requests();
        let state = Mutex::new(State { window, permits, owed: 0 });
        Arc::new(Self { permits: Arc::new(Semaphore::new(permits)), state, waiting: AtomicUsize::new(0), clock, most })
    }

    /// The window is never larger.
    pub(super) fn most(&self) -> usize {
        self.most
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Counts that are changed together; a panic between two of them is a defect that ends the process's work anyway.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a request may begin.
    pub(super) async fn enter(self: &Arc<Self>) -> Pass {
        let _waiting = Waiting::new(&self.waiting);
        loop {
            let permit = Arc::clone(&self.permits).acquire_owned().await.expect("the semaphore is never closed");
            let mut pass = Pass { gate: Arc::clone(self), permit: Some(permit), begun: Duration::ZERO, under_way: 0, bytes: 0 };
            let now = self.clock.monotonic();
            let pause = self.state().window.pause(now);
            if pause.is_zero() {
                pass.begun = now;
                pass.under_way = self.under_way();
                return pass;
            }
            // The permit goes back meanwhile: there may be fewer of them after the pause.
            drop(pass);
            tokio::time::sleep(pause).await;
        }
    }

    fn under_way(&self) -> usize {
        let state = self.state();
        (state.permits + state.owed).saturating_sub(self.permits.available_permits())
    }
}

impl State {
    /// Makes the permits fit the window.
    fn settle(&mut self, semaphore: &Semaphore) {
        let wanted = self.window.requests();
        if wanted != self.permits {
            tracing::debug!(requests = wanted, before = self.permits, "requests under way");
        }
        if wanted > self.permits {
            let more = wanted - self.permits;
            let kept = more.min(self.owed);
            self.owed -= kept;
            semaphore.add_permits(more - kept);
        } else {
            let fewer = self.permits - wanted;
            self.owed += fewer - semaphore.forget_permits(fewer);
        }
        self.permits = wanted;
    }
}

/// Counts a call that waits, until it may begin or is given up.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Leave for one request; given back when dropped.
#[derive(Debug)]
pub(super) struct Pass {
    gate: Arc<Gate>,
    permit: Option<OwnedSemaphorePermit>,
    begun: Duration,
    under_way: usize,
    bytes: u64,
}

impl Pass {
    /// So many bytes of a body passed.
    pub(super) fn bytes(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }

    /// Takes note of what the server said: done, or an error.
    pub(super) fn note(&self, error: Option<&StoreError>) {
        let now = self.gate.clock.monotonic();
        let mut state = self.gate.state();
        if self.gate.waiting.load(Ordering::Relaxed) > 0 {
            state.window.full();
        }
        match error {
            Some(StoreError::Throttled { after, .. }) => {
                state.window.refused(self.begun, now, self.under_way, *after);
                tracing::debug!(requests = state.window.requests(), "the server asks to slow down");
            }
            // Nobody answered, which says nothing of how busy the server is.
            Some(StoreError::Unavailable { .. }) => {}
            _ => state.window.done(self.begun, now, self.bytes),
        }
        state.settle(&self.gate.permits);
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut state = self.gate.state();
        if let Some(permit) = self.permit.take()
            && state.owed > 0
        {
            state.owed -= 1;
            permit.forget();
        }
    }
}
