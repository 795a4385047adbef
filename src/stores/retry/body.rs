//! A body that goes on where it broke.

use bytes::Bytes;
use futures_util::{StreamExt, stream, stream::BoxStream};

use super::{GetOptions, SharedStore, StoreError, attempts::Attempts};

/// An object's bytes being read, with what is needed to ask for the rest of them.
pub(super) struct Resuming {
    pub(super) store: SharedStore,
    pub(super) key: String,
    pub(super) place: String,
    /// Of the object the first bytes came from; the rest must be of the same one.
    pub(super) etag: String,
    /// The version that was asked for, where one was.
    pub(super) version: Option<String>,
    /// The next byte wanted, within the object.
    pub(super) next: u64,
    /// The end of what is wanted, within the object.
    pub(super) end: u64,
    pub(super) body: BoxStream<'static, Result<Bytes, StoreError>>,
    pub(super) attempts: Attempts,
}

impl Resuming {
    pub(super) fn stream(self) -> BoxStream<'static, Result<Bytes, StoreError>> {
        stream::unfold(Some(self), async |state| state?.piece().await).boxed()
    }

    /// The next piece; nothing after the last one or after an error.
    async fn piece(mut self) -> Option<(Result<Bytes, StoreError>, Option<Self>)> {
        loop {
            let error = match self.body.next().await {
                Some(Ok(bytes)) if bytes.is_empty() => continue,
                Some(Ok(bytes)) => {
                    self.next += bytes.len() as u64;
                    self.attempts.renew();
                    return Some((Ok(bytes), Some(self)));
                }
                None if self.next >= self.end => return None,
                None => self.broken(format!("the body ended {} bytes short", self.end - self.next)),
                // A checksum that does not match says that bytes which were handed over already are wrong.
                Some(Err(error @ StoreError::Corrupt { .. })) => return Some((Err(error), None)),
                Some(Err(error)) if error.is_transient() && self.next >= self.end => {
                    tracing::debug!(%error, "the connection broke after the last byte");
                    return None;
                }
                Some(Err(error)) => error,
            };
            // Without an etag nothing says that the rest is of the same object.
            if self.etag.is_empty() {
                return Some((Err(error), None));
            }
            if let Err(error) = self.resume(error).await {
                return Some((Err(error), None));
            }
        }
    }

    async fn resume(&mut self, mut error: StoreError) -> Result<(), StoreError> {
        // With its connection, and its place among the requests under way.
        self.body = stream::empty().boxed();
        loop {
            self.attempts.again(error).await?;
            let rest = GetOptions {
                range: Some(self.next..self.end),
                if_match: Some(self.etag.clone()),
                version: self.version.clone(),
                attributes: false,
                // A part of it has no checksum that could be compared.
                sealed: true,
            };
            match self.store.get(&self.key, rest).await {
                Ok(download) => {
                    self.body = download.body;
                    return Ok(());
                }
                Err(failed) => error = failed,
            }
        }
    }

    fn broken(&self, detail: String) -> StoreError {
        StoreError::Unavailable { place: self.place.clone(), detail }
    }
}
