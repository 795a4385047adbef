//! The newest point's entries of the same source, walked in step with what is there now.

use futures_util::{StreamExt, stream::BoxStream};

use super::{Entry, ExchangeError, SourceError};

/// A cursor over the earlier entries. Both sides are sorted by path, so one look ahead is all the memory it takes.
pub(super) struct Earlier<'a> {
    stream: Option<BoxStream<'a, Result<Entry, ExchangeError>>>,
    next: Option<Entry>,
    passed: u64,
}

impl<'a> Earlier<'a> {
    /// A cursor before the first entry; without a stream it finds nothing.
    pub(super) fn new(stream: Option<BoxStream<'a, Result<Entry, ExchangeError>>>) -> Self {
        Self { stream, next: None, passed: 0 }
    }

    /// Sees to it that the next entry is at hand, if there is one. Entries come many at a time: who has something else to wait for may
    /// ask for this meanwhile.
    pub(super) async fn look_ahead(&mut self) -> Result<(), SourceError> {
        if let (None, Some(stream)) = (&self.next, &mut self.stream) {
            self.next = stream.next().await.transpose()?;
            if self.next.is_none() {
                self.stream = None;
            }
        }
        Ok(())
    }

    /// The earlier entry of this path. Paths must be asked for in ascending order.
    pub(super) async fn find(&mut self, path: &[u8]) -> Result<Option<Entry>, SourceError> {
        loop {
            self.look_ahead().await?;
            match self.next.as_ref().map(|entry| entry.path.as_slice().cmp(path)) {
                None => return Ok(None),
                Some(std::cmp::Ordering::Less) => {
                    self.next = None;
                    self.passed += 1;
                }
                Some(std::cmp::Ordering::Equal) => return Ok(self.next.take()),
                Some(std::cmp::Ordering::Greater) => return Ok(None),
            }
        }
    }

    /// Walks to the end and says how many earlier entries were never asked for: they are gone.
    pub(super) async fn gone(mut self) -> Result<u64, SourceError> {
        if self.next.take().is_some() {
            self.passed += 1;
        }
        if let Some(mut stream) = self.stream.take() {
            while let Some(entry) = stream.next().await {
                entry?;
                self.passed += 1;
            }
        }
        Ok(self.passed)
    }
}
