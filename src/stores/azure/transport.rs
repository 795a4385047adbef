//! The SDK's transport over the HTTP and TLS stack that the S3 store uses too: the SDK's own would bring a second HTTP client.

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
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};

/// A connection that takes longer is tried again. Far regions answer within a second.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Idle connections are closed before a load balancer forgets them, because the first request on a forgotten one hangs.
const IDLE_TIMEOUT: Duration = Duration::from_secs(15);

/// One HTTP client; follows no redirect, decompresses nothing.
#[derive(Debug)]
pub(super) struct HyperTransport {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl HyperTransport {
    /// Fails with the reason where TLS cannot be set up. A system without certificates is found out by the first TLS handshake, because
    /// plain HTTP needs none.
    pub(super) fn new() -> Result<Arc<Self>, String> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let tls = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| format!("TLS cannot be set up: {error}"))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_connect_timeout(Some(CONNECT_TIMEOUT));
        http.set_nodelay(true);
        let https = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(http);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .build(https);
        Ok(Arc::new(Self { client }))
    }
}

#[async_trait]
impl HttpClient for HyperTransport {
    async fn execute_request(&self, request: &Request) -> azure_core::Result<AsyncRawResponse> {
        let Body::Bytes(body) = request.body() else {
            return Err(Error::with_message(ErrorKind::Other, "a body that is a stream is never sent"));
        };
        let mut builder = hyper::Request::builder().method(request.method().as_str()).uri(request.url().as_str());
        for (name, value) in request.headers().iter() {
            builder = builder.header(name.as_str(), value.as_str());
        }
        let built = builder.body(Full::new(body.clone()));
        let built = built.map_err(|error| Error::with_error(ErrorKind::DataConversion, error, "the request cannot be written"))?;
        let response = self.client.request(built).await.map_err(|error| {
            let kind = if error.is_connect() { ErrorKind::Connection } else { ErrorKind::Io };
            Error::with_error(kind, error, "no answer")
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
