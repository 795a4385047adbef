//! The SDK's transport over the way to servers that all stores have in common.

use std::{sync::Arc, time::Duration};

use aws_smithy_runtime_api::client::{
    http::{HttpConnector, HttpConnectorFuture, SharedHttpClient, SharedHttpConnector, http_client_fn},
    orchestrator::{HttpRequest, HttpResponse},
    result::ConnectorError,
};
use aws_smithy_types::body::SdkBody;

use crate::stores::wire::{Wire, WireError};

/// A client of the SDK. The store's requests have no time limits of the SDK but the read timeout, where this is how long the server may
/// think. Requests for credentials have: nobody may be at the address where a machine in the cloud has its identity.
pub(super) fn http_client(wire: Arc<Wire>) -> SharedHttpClient {
    http_client_fn(move |settings, _| {
        let (connect, answer) = (settings.connect_timeout(), settings.read_timeout());
        SharedHttpConnector::new(Sender { wire: Arc::clone(&wire), connect, answer })
    })
}

#[derive(Debug)]
struct Sender {
    wire: Arc<Wire>,
    connect: Option<Duration>,
    answer: Option<Duration>,
}

impl HttpConnector for Sender {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let (wire, answer) = (Arc::clone(&self.wire), self.answer);
        // To a connection and an answer together, where both are said.
        let limit = self.connect.zip(answer).map_or(Duration::MAX, |(connect, answer)| connect + answer);
        HttpConnectorFuture::new(async move {
            let request = request.try_into_http1x().map_err(|error| ConnectorError::user(error.into()))?;
            let sent = tokio::time::timeout(limit, wire.send(request, answer)).await;
            let sent = sent.map_err(|late| ConnectorError::timeout(late.into()))?;
            let response = sent.map_err(|error| match error {
                WireError::Overdue(_) => ConnectorError::timeout(error.into()),
                WireError::NoConnection(_) | WireError::NoAnswer(_) | WireError::BrokeOff(_) => ConnectorError::io(error.into()),
            })?;
            HttpResponse::try_from(response.map(SdkBody::from_body_1_x)).map_err(|error| ConnectorError::other(error.into(), None))
        })
    }
}
