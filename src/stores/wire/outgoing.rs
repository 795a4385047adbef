//! The body of a request on its way out.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, combinators::UnsyncBoxBody};
use tokio::time::{Sleep, sleep};

use super::{BoxError, Meter};
use crate::stores::bandwidth::{Bandwidth, Direction};

/// A body goes out in pieces of at most so many bytes: each tells that the connection still moves.
const PIECE_BYTES: usize = 64 << 10;

/// Any body, in small pieces, each of which is reported. Nothing is copied.
pub(super) struct Outgoing {
    inner: UnsyncBoxBody<Bytes, BoxError>,
    /// Of the piece that the body gave last.
    rest: Bytes,
    meter: Arc<Meter>,
    bandwidth: Option<Arc<Bandwidth>>,
    /// How much of the rest may go when that is over.
    leave: Option<(usize, Pin<Box<Sleep>>)>,
}

impl Outgoing {
    pub(super) fn new<B>(body: B, meter: Arc<Meter>, bandwidth: Option<Arc<Bandwidth>>) -> Self
    where
        B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        Self { inner: body.map_err(Into::into).boxed_unsync(), rest: Bytes::new(), meter, bandwidth, leave: None }
    }
}

impl Outgoing {
    /// The next piece of the rest, when it may go.
    fn piece(&mut self, context: &mut Context<'_>) -> Poll<Bytes> {
        let Some(bandwidth) = &self.bandwidth else {
            return Poll::Ready(self.rest.split_to(self.rest.len().min(PIECE_BYTES)));
        };
        let (size, mut over) = self.leave.take().unwrap_or_else(|| {
            let size = self.rest.len().min(bandwidth.piece(Direction::Up));
            (size, Box::pin(sleep(bandwidth.book(Direction::Up, size))))
        });
        if over.as_mut().poll(context).is_pending() {
            self.meter.pause();
            self.leave = Some((size, over));
            return Poll::Pending;
        }
        Poll::Ready(self.rest.split_to(size))
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        loop {
            if !this.rest.is_empty() {
                let piece = ready!(this.piece(context));
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
