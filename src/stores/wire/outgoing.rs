//! The body of a request on its way out.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, combinators::UnsyncBoxBody};

use super::{BoxError, Meter};

/// A body goes out in pieces of at most so many bytes: each tells that the connection still moves.
const PIECE_BYTES: usize = 64 << 10;

/// Any body, in small pieces, each of which is reported. Nothing is copied.
pub(super) struct Outgoing {
    inner: UnsyncBoxBody<Bytes, BoxError>,
    /// Of the piece that the body gave last.
    rest: Bytes,
    meter: Arc<Meter>,
}

impl Outgoing {
    pub(super) fn new<B>(body: B, meter: Arc<Meter>) -> Self
    where
        B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        Self { inner: body.map_err(Into::into).boxed_unsync(), rest: Bytes::new(), meter }
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        loop {
            if !this.rest.is_empty() {
                let piece = this.rest.split_to(this.rest.len().min(PIECE_BYTES));
                this.meter.moved(piece.len());
                if this.is_end_stream() {
                    this.meter.complete();
                }
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
            match ready!(Pin::new(&mut this.inner).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => this.rest = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => {
                    this.meter.complete();
                    return Poll::Ready(None);
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (hint, rest) = (self.inner.size_hint(), self.rest.len() as u64);
        let mut whole = SizeHint::new();
        whole.set_lower(hint.lower() + rest);
        if let Some(upper) = hint.upper() {
            whole.set_upper(upper + rest);
        }
        whole
    }
}
