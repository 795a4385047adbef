//! Entries that are finished in any order reach the sink in the order of their paths.

use std::{collections::BTreeMap, sync::Mutex};

use crate::sources::{Entry, ExchangeError, Sink};

/// Holds finished entries back until all before them are finished too. The biggest tables are read first, so nearly all may
/// wait: entries are small, and as many as there are segments, whose list is in memory anyway.
pub(super) struct InOrder<'a> {
    sink: &'a dyn Sink,
    /// The next position, and what is known of those after it: an entry, or that there is none.
    waiting: Mutex<(usize, BTreeMap<usize, Option<Entry>>)>,
    /// One at a time hands entries over; held across the sink's wait, hence tokio's.
    handing_over: tokio::sync::Mutex<()>,
}

impl<'a> InOrder<'a> {
    pub(super) fn into(sink: &'a dyn Sink) -> Self {
        Self { sink, waiting: Mutex::default(), handing_over: tokio::sync::Mutex::new(()) }
    }

    /// The entry at `position`, counted from 0 without gaps; none if what was to be read is gone.
    pub(super) async fn settled(&self, position: usize, entry: Option<Entry>) -> Result<(), ExchangeError> {
        self.lock().1.insert(position, entry);
        let _turn = self.handing_over.lock().await;
        while let Some(settled) = self.take_next() {
            if let Some(entry) = settled {
                self.sink.entry(entry).await?;
            }
        }
        Ok(())
    }

    fn take_next(&self) -> Option<Option<Entry>> {
        let mut waiting = self.lock();
        let (next, settled) = &mut *waiting;
        let entry = settled.remove(next)?;
        *next += 1;
        Some(entry)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, (usize, BTreeMap<usize, Option<Entry>>)> {
        self.waiting.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
