//! Entries that are finished in any order reach the sink in the order of their paths.

use std::{collections::BTreeMap, sync::Mutex};

use crate::sources::{Entry, ExchangeError, Sink};

/// Holds finished entries back until all before them are finished too. The biggest tables are read first, so nearly all may
/// wait: entries are small, and as many as there are segments, whose list is in memory anyway.
pub(super) struct InOrder<'a> {
    sink: &'a dyn Sink,
    waiting: Mutex<(usize, BTreeMap<usize, Entry>)>,
    /// One at a time hands entries over; held across the sink's wait, hence tokio's.
    handing_over: tokio::sync::Mutex<()>,
}

impl<'a> InOrder<'a> {
    pub(super) fn into(sink: &'a dyn Sink) -> Self {
        Self { sink, waiting: Mutex::default(), handing_over: tokio::sync::Mutex::new(()) }
    }

    /// The entry at `position`, counted from 0 without gaps.
    pub(super) async fn finished(&self, position: usize, entry: Entry) -> Result<(), ExchangeError> {
        self.lock().1.insert(position, entry);
        let _turn = self.handing_over.lock().await;
        while let Some(entry) = self.take_next() {
            self.sink.entry(entry).await?;
        }
        Ok(())
    }

    fn take_next(&self) -> Option<Entry> {
        let mut waiting = self.lock();
        let (next, entries) = &mut *waiting;
        let entry = entries.remove(next)?;
        *next += 1;
        Some(entry)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, (usize, BTreeMap<usize, Entry>)> {
        self.waiting.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
