//! The body of an answer on its way in.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Sleep, sleep};

use super::{Deadlines, WireError, meter::seconds};
use crate::{
    clock::SharedClock,
    stores::bandwidth::{Bandwidth, Direction},
};

/// A body that may stand still only so long, and be only so slow. Only the time that its reader waits for it counts.
pub(in crate::stores) struct Incoming {
    /// `None` after an error: the connection went with it.
    inner: Option<hyper::body::Incoming>,
    deadlines: Deadlines,
    clock: SharedClock,
    /// Bytes that came.
    bytes: u64,
    /// Time that was spent waiting for them.
    waited: Duration,
    waiting: Option<Waiting>,
    bandwidth: Option<Arc<Bandwidth>>,
    /// What came, and may be handed on when that is over.
    held: Option<(Frame<Bytes>, Pin<Box<Sleep>>)>,
}

struct Waiting {
    since: Duration,
    until: Pin<Box<Sleep>>,
    /// What it means when that is over.
    overdue: String,
}

impl Incoming {
    pub(super) fn new(
        body: hyper::body::Incoming,
        deadlines: Deadlines,
        clock: SharedClock,
        bandwidth: Option<Arc<Bandwidth>>,
    ) -> Self {
        Self { inner: Some(body), deadlines, clock, bytes: 0, waited: Duration::ZERO, waiting: None, bandwidth, held: None }
    }

    /// Begins to wait for the next piece.
    fn wait(&self) -> Waiting {
        let whole = self.deadlines.whole(self.bytes);
        let rest = whole.saturating_sub(self.waited);
        let stall = self.deadlines.stall;
        let overdue = if rest < stall {
            format!("{} bytes took {} s, which is too slow", self.bytes, seconds(whole))
        } else {
            format!("no byte came for {} s, after {}", seconds(stall), self.bytes)
        };
        Waiting { since: self.clock.monotonic(), until: Box::pin(sleep(rest.min(stall))), overdue }
    }
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = WireError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, WireError>>> {
        let this = &mut *self;
        if let Some((frame, mut over)) = this.held.take() {
            if over.as_mut().poll(context).is_ready() {
                return Poll::Ready(Some(Ok(frame)));
            }
            this.held = Some((frame, over));
            return Poll::Pending;
        }
        let Some(inner) = &mut this.inner else { return Poll::Ready(None) };
        let Poll::Ready(next) = Pin::new(inner).poll_frame(context) else {
            let mut waiting = this.waiting.take().unwrap_or_else(|| this.wait());
            if waiting.until.as_mut().poll(context).is_ready() {
                // Dropping it closes the connection.
                this.inner = None;
                return Poll::Ready(Some(Err(WireError::Overdue(waiting.overdue))));
            }
            this.waiting = Some(waiting);
            return Poll::Pending;
        };
        if let Some(waiting) = this.waiting.take() {
            this.waited += this.clock.monotonic().saturating_sub(waiting.since);
        }
        match next {
            Some(Ok(frame)) => {
                let size = frame.data_ref().map_or(0, Bytes::len);
                this.bytes += size as u64;
                let leave = this.bandwidth.as_ref().map_or(Duration::ZERO, |bandwidth| bandwidth.book(Direction::Down, size));
                if leave.is_zero() {
                    return Poll::Ready(Some(Ok(frame)));
                }
                this.held = Some((frame, Box::pin(sleep(leave))));
                self.poll_frame(context)
            }
            Some(Err(error)) => {
                this.inner = None;
                Poll::Ready(Some(Err(WireError::BrokeOff(error))))
            }
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.held.is_none() && self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let held = self.held.as_ref().and_then(|(frame, _)| frame.data_ref()).map_or(0, Bytes::len) as u64;
        let hint = self.inner.as_ref().map_or_else(SizeHint::default, Body::size_hint);
        let mut whole = SizeHint::new();
        whole.set_lower(hint.lower() + held);
        if let Some(upper) = hint.upper() {
            whole.set_upper(upper + held);
        }
        whole
    }
}
