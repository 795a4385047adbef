//! The SDK's transport over the way to servers that all stores have in common.

use std::{sync::Arc, time::Duration};

use aws_smithy_runtime_api::client::{
    http::{HttpConnector, HttpConnectorFuture, SharedHttpClient, SharedHttpConnector, http_client_fn},
    orchestrator::{HttpRequest, HttpResponse},
    result::ConnectorError,
};
use aws_smithy_types::body::SdkBody;

use crate::stores::wire::{Wire, WireError};

/// A client of the SDK. Of the SDK's own time limits it heeds only the read timeout: how long this server may think.
pub(super) fn http_client(wire: Arc<Wire>) -> SharedHttpClient {
    http_client_fn(move |settings, _| SharedHttpConnector::new(Sender { wire: Arc::clone(&wire), answer: settings.read_timeout() }))
}

#[derive(Debug)]
struct Sender {
    wire: Arc<Wire>,
    answer: Option<Duration>,
}

impl HttpConnector for Sender {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let (wire, answer) = (Arc::clone(&self.wire), self.answer);
        HttpConnectorFuture::new(async move {
            let request = request.try_into_http1x().map_err(|error| ConnectorError::user(error.into()))?;
            let response = wire.send(request, answer).await.map_err(|error| match error {
                WireError::Overdue(_) => ConnectorError::timeout(error.into()),
                WireError::NoConnection(_) | WireError::NoAnswer(_) | WireError::BrokeOff(_) => ConnectorError::io(error.into()),
            })?;
            HttpResponse::try_from(response.map(SdkBody::from_body_1_x)).map_err(|error| ConnectorError::other(error.into(), None))
        })
    }
}
