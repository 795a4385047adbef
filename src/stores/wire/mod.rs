//! The way of requests to a server, one for all stores that speak HTTP: connections, TLS, deadlines.
//!
//! Promises:
//! * Every request ends. [`Deadlines`] bounds the connection (with its TLS handshake), the pause between two pieces of a body in either
//!   direction, and the whole, which grows with the bytes of the body at a least speed.
//! * A connection on which nothing moves is dropped, and so are all idle ones beside it: what is tried again goes over a new one.
//! * Time that a reader of a body takes for itself, or that a limit of bandwidth takes, is not the server's.
//!
//! Also in the kernel: sent bytes that nobody acknowledges for as long as a stall may last end a connection (`TCP_USER_TIMEOUT`), and
//! so does a peer that is gone while its answer is waited for (keep-alive probes). So a path that swallows packets is noticed as early
//! as a stalled body, even where a whole request fits into the socket's buffer.
//!
//! Follows no redirect, decompresses nothing, makes nothing twice (`retry` does).

mod connect;
mod deadlines;
mod incoming;
mod meter;
mod outgoing;

use std::{
    error::Error,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use hyper_util::client::legacy;

use super::bandwidth::Bandwidth;
use crate::clock::{SharedClock, TimerClock};
use connect::Connector;
use meter::Meter;

pub use deadlines::Deadlines;
pub(super) use incoming::Incoming;
use outgoing::Outgoing;

/// Why a body could not be had from its maker.
type BoxError = Box<dyn Error + Send + Sync>;

type Client = legacy::Client<Connector, Outgoing>;

/// How a store that speaks HTTP reaches its server, beside the address.
#[derive(Debug, Clone, Default)]
pub struct WireConfig {
    /// How long things may take.
    pub deadlines: Deadlines,
    /// How many bytes may go there and come from there in a second.
    pub bandwidth: Option<Arc<Bandwidth>>,
}

/// Connections to servers.
pub(super) struct Wire {
    config: WireConfig,
    connector: Connector,
    client: Mutex<Client>,
    clock: SharedClock,
}

/// Why there is no answer, or no more of it.
#[derive(Debug, thiserror::Error)]
pub(super) enum WireError {
    /// Nothing moved, or too slowly.
    #[error("{0}")]
    Overdue(String),
    /// No connection came about.
    #[error("no connection")]
    NoConnection(#[source] legacy::Error),
    /// The connection broke before the answer began.
    #[error("no answer")]
    NoAnswer(#[source] legacy::Error),
    /// The connection broke within the answer.
    #[error("the body broke off")]
    BrokeOff(#[source] hyper::Error),
}

impl Wire {
    /// Fails with the reason where TLS cannot be set up. A system without certificates is found out by the first TLS handshake, because
    /// plain HTTP needs none.
    pub(super) fn new(config: WireConfig) -> Result<Arc<Self>, String> {
        let connector = Connector::new(&config.deadlines)?;
        let client = Mutex::new(connect::client(&connector, config.bandwidth.is_some()));
        Ok(Arc::new(Self { config, connector, client, clock: TimerClock::shared() }))
    }

    /// Sends a request. `answer`, where given, is how long the server may think about it, instead of [`Deadlines::answer`].
    pub(super) async fn send<B>(
        &self,
        request: http::Request<B>,
        answer: Option<Duration>,
    ) -> Result<http::Response<Incoming>, WireError>
    where
        B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        let size = request.body().size_hint().lower();
        let deadlines = Deadlines { answer: answer.unwrap_or(self.config.deadlines.answer), ..self.config.deadlines };
        let meter = Arc::new(Meter::new(self.clock.clone(), deadlines, size));
        let request = request.map(|body| Outgoing::new(body, Arc::clone(&meter), self.config.bandwidth.clone()));
        let client = self.client.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut sent = std::pin::pin!(client.request(request));
        let response = loop {
            let left = match meter.left() {
                Ok(left) => left,
                Err(overdue) => {
                    // Others that lie idle may lead nowhere as well. Those in use go on.
                    self.forget_idle();
                    return Err(WireError::Overdue(overdue));
                }
            };
            if let Ok(answered) = tokio::time::timeout(left, &mut sent).await {
                break answered;
            }
        };
        match response {
            Ok(response) => {
                Ok(response.map(|body| Incoming::new(body, deadlines, self.clock.clone(), self.config.bandwidth.clone())))
            }
            Err(error) if error.is_connect() => Err(WireError::NoConnection(error)),
            Err(error) => Err(WireError::NoAnswer(error)),
        }
    }

    fn forget_idle(&self) {
        *self.client.lock().unwrap_or_else(PoisonError::into_inner) =
            connect::client(&self.connector, self.config.bandwidth.is_some());
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Wire").field("config", &self.config).finish_non_exhaustive()
    }
}
