//! Connections and their TLS.

use std::{
    io,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::future::BoxFuture;
use http::Uri;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};
use tower_service::Service;

use super::{BoxError, Client, Deadlines, meter::seconds};

/// Idle connections are closed before a load balancer forgets them (the usual limit is 60 s or more), because the first request on
/// a forgotten one hangs.
const IDLE_TIMEOUT: Duration = Duration::from_secs(15);
/// Probes of a connection on which an answer is waited for: the first after a stall's half, and then every third of the rest.
const PROBES: u32 = 3;

/// Makes connections, each within its time.
#[derive(Debug, Clone)]
pub(super) struct Connector {
    https: HttpsConnector<HttpConnector>,
    limit: Duration,
}

impl Connector {
    pub(super) fn new(deadlines: &Deadlines) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let tls = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| format!("TLS cannot be set up: {error}"))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_connect_timeout(Some(deadlines.connect));
        http.set_nodelay(true);
        http.set_tcp_user_timeout(Some(deadlines.stall));
        // The kernel counts in whole seconds.
        let second = Duration::from_secs(1);
        http.set_keepalive(Some((deadlines.stall / 2).max(second)));
        http.set_keepalive_interval(Some((deadlines.stall / 2 / PROBES).max(second)));
        http.set_keepalive_retries(Some(PROBES));
        let https = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(http);
        Ok(Self { https, limit: deadlines.connect })
    }
}

impl Service<Uri> for Connector {
    type Response = <HttpsConnector<HttpConnector> as Service<Uri>>::Response;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.https.poll_ready(context)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let (connecting, limit) = (self.https.call(uri), self.limit);
        Box::pin(async move {
            tokio::time::timeout(limit, connecting).await.unwrap_or_else(|_| {
                let late = format!("not connected within {} s", seconds(limit));
                Err(io::Error::new(io::ErrorKind::TimedOut, late).into())
            })
        })
    }
}

/// What a connection whose bandwidth is limited reads and writes at once, bytes.
const SMALL_BUFFER_BYTES: usize = 64 << 10;

/// A pool of connections.
pub(super) fn client(connector: &Connector, is_limited: bool) -> Client {
    let mut builder = legacy::Client::builder(TokioExecutor::new());
    if is_limited {
        builder.http1_max_buf_size(SMALL_BUFFER_BYTES);
    }
    builder.pool_timer(TokioTimer::new()).timer(TokioTimer::new()).pool_idle_timeout(IDLE_TIMEOUT).build(connector.clone())
}
