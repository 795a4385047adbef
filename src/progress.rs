//! What the work tells while it goes on: phases, counts, and problems that do not stop it.
//!
//! Promises: an [`Observer`] is cheap to call from any thread and never fails; nothing here prints by itself (the command line
//! brings the observer that draws). Problems are kept, so that the report at the end names each one.

use std::{
    fmt::Debug,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

/// The values the work hands over as it goes, from the `report` room, so that sources need not reach for it.
pub use crate::report::{Anomaly, Check, CheckOutcome, DatabaseRows, Finding, PhaseTime, Problem, TableRows};

/// Listens to the work. All methods may be called from any thread, often.
pub trait Observer: Debug + Send + Sync {
    /// A phase begins, for instance `source db: data`; the earlier phase has ended. `total_bytes` where it is known.
    fn phase(&self, name: &str, total_bytes: Option<u64>);
    /// So many more plain bytes were dealt with.
    fn bytes(&self, count: u64);
    /// So many more items (objects, files, tables) were dealt with.
    fn items(&self, count: u64);
    /// Something went wrong that does not stop the work; it is counted, shown, and changes the exit code.
    fn problem(&self, problem: Problem);
}

/// An observer that can be shared.
pub type SharedObserver = Arc<dyn Observer>;

/// Counts and keeps problems, and passes everything on to an inner observer where there is one.
#[derive(Debug, Default)]
pub struct Tally {
    inner: Option<SharedObserver>,
    bytes: AtomicU64,
    problems: Mutex<Vec<Problem>>,
    dropped: AtomicU64,
}

/// Problems kept in full; beyond this many only their number is (an unreadable tree of a million files must not fill memory).
const MOST_PROBLEMS_KEPT: usize = 1000;

impl Tally {
    /// A tally that passes everything on to `inner`.
    pub fn over(inner: SharedObserver) -> Arc<Self> {
        Arc::new(Self { inner: Some(inner), ..Self::default() })
    }

    /// A tally that listens alone.
    pub fn alone() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// Plain bytes dealt with so far.
    pub fn total_bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The problems so far (at most [`MOST_PROBLEMS_KEPT`] in full, and then one that counts the rest).
    pub fn problems(&self) -> Vec<Problem> {
        let mut all = self.problems.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone();
        let dropped = self.dropped.load(Ordering::Relaxed);
        if dropped > 0 {
            all.push(Problem::new("…", format!("{dropped} more problems were counted and not kept")));
        }
        all
    }
}

impl Observer for Tally {
    fn phase(&self, name: &str, total_bytes: Option<u64>) {
        if let Some(inner) = &self.inner {
            inner.phase(name, total_bytes);
        }
    }

    fn bytes(&self, count: u64) {
        self.bytes.fetch_add(count, Ordering::Relaxed);
        if let Some(inner) = &self.inner {
            inner.bytes(count);
        }
    }

    fn items(&self, count: u64) {
        if let Some(inner) = &self.inner {
            inner.items(count);
        }
    }

    fn problem(&self, problem: Problem) {
        if let Some(inner) = &self.inner {
            inner.problem(problem.clone());
        }
        let mut kept = self.problems.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if kept.len() < MOST_PROBLEMS_KEPT {
            kept.push(problem);
        } else {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}
