//! The SDK's transport over the way to servers that all stores have in common.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use azure_core::{
    Bytes,
    error::{Error, ErrorKind},
    http::{
        AsyncRawResponse, HttpClient, Request, StatusCode,
        headers::{HeaderName, HeaderValue, Headers},
        request::Body,
    },
};
use futures_util::{StreamExt, TryStreamExt};
use http_body_util::{BodyDataStream, Full};

use crate::stores::wire::{Wire, WireError};

tokio::task_local! {
    /// How long the server may think about the requests made within, where that is not the usual time: the SDK hands no such thing on.
    pub(super) static ANSWER: Duration;
}

/// Sends what the SDK's pipeline made.
#[derive(Debug)]
pub(super) struct Sender(pub(super) Arc<Wire>);

#[async_trait]
impl HttpClient for Sender {
    async fn execute_request(&self, request: &Request) -> azure_core::Result<AsyncRawResponse> {
        let Body::Bytes(body) = request.body() else {
            return Err(Error::with_message(ErrorKind::Other, "a body that is a stream is never sent"));
        };
        let mut builder = http::Request::builder().method(request.method().as_str()).uri(request.url().as_str());
        for (name, value) in request.headers().iter() {
            builder = builder.header(name.as_str(), value.as_str());
        }
        let built = builder.body(Full::<Bytes>::new(body.clone()));
        let built = built.map_err(|error| Error::with_error(ErrorKind::DataConversion, error, "the request cannot be written"))?;
        let response = self.0.send(built, ANSWER.try_get().ok()).await.map_err(|error| match error {
            WireError::NoConnection(_) => Error::with_error(ErrorKind::Connection, error, "no answer"),
            error => Error::with_error(ErrorKind::Io, error, "no answer"),
        })?;
        let (head, body) = response.into_parts();
        let mut headers = Headers::new();
        for (name, value) in &head.headers {
            // What is no text is none of the headers that are read here.
            if let Ok(value) = value.to_str() {
                headers.insert(HeaderName::from(name.as_str().to_owned()), HeaderValue::from(value.to_owned()));
            }
        }
        let pieces = BodyDataStream::new(body).map_err(|error| Error::with_error(ErrorKind::Io, error, "the body broke off"));
        Ok(AsyncRawResponse::new(StatusCode::from(head.status.as_u16()), headers, pieces.boxed()))
    }
}
