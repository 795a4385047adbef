//! Lines to a server: its hosts in turn, over TCP or a unix socket, with and without TLS as `sslmode` has it, each try bounded in time.

use std::time::Duration;

use rustls::ClientConfig;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, UnixStream};
use tokio_util::either::Either;

use super::{
    address::{Address, SslMode},
    failure::{self, Said},
    tls,
};
use crate::sources::SourceError;

/// What bytes go over.
pub(super) type Socket = Either<TcpStream, UnixStream>;

/// What a line is asked for. `Prefer` takes what the server offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encryption {
    Without,
    Prefer,
    Require,
}

/// A fresh connection to one host, on which nothing was said yet.
pub(super) struct Line {
    pub(super) socket: Socket,
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) encryption: Encryption,
    /// How TLS is to be; nothing without.
    pub(super) tls: Option<ClientConfig>,
}

/// Why a try came to nothing.
pub(super) enum Attempt {
    /// The server, or what came of speaking with it.
    Refused(Said),
    Other(SourceError),
}

/// What is said first over a line.
pub(super) trait Opening: Sync {
    /// What a line becomes.
    type Opened;

    fn open(&self, line: Line) -> impl Future<Output = Result<Self::Opened, Attempt>> + Send;
}

/// Opens a line as the address has it.
///
/// # Errors
/// The last try's.
pub(super) async fn reach<O: Opening>(address: &Address, opening: &O) -> Result<O::Opened, Attempt> {
    let local = address.hosts.iter().all(|(host, _)| host.starts_with('/'));
    let attempts: &[Encryption] = match address.tls.mode {
        _ if local => &[Encryption::Without],
        SslMode::Disable => &[Encryption::Without],
        SslMode::Allow => &[Encryption::Without, Encryption::Require],
        SslMode::Prefer => &[Encryption::Prefer, Encryption::Without],
        SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => &[Encryption::Require],
    };
    for (number, encryption) in attempts.iter().enumerate() {
        match attempt(address, *encryption, opening).await {
            Err(Attempt::Refused(said)) if number + 1 < attempts.len() && failure::refused_this_way(&said) => {}
            other => return other,
        }
    }
    unreachable!("the last attempt returns")
}

async fn attempt<O: Opening>(address: &Address, encryption: Encryption, opening: &O) -> Result<O::Opened, Attempt> {
    let unreachable = |detail: String| Attempt::Other(SourceError::Unreachable { subject: address.describe(), detail });
    let tls = match encryption {
        Encryption::Without => None,
        Encryption::Prefer | Encryption::Require => Some(tls::settings(&address.tls).map_err(unreachable)?),
    };
    // The hosts in turn, as libpq has it; the last one's error is the one that is told.
    let mut last = unreachable("the URL names no host".to_owned());
    for (host, port) in &address.hosts {
        let opened = async {
            let timeout = address.connect_timeout;
            let unreached = |error: std::io::Error| {
                unreachable(format!("error connecting to server: {error}: check host, port, firewall, and that the server runs"))
            };
            let connecting = tokio::time::timeout(timeout, socket(host, *port)).await;
            let socket = connecting.map_err(|_| unreached(std::io::ErrorKind::TimedOut.into()))?.map_err(unreached)?;
            opening.open(Line { socket, host: host.clone(), port: *port, encryption, tls: tls.clone() }).await
        };
        // A server that takes the connection and never answers is as bad as one that is not there.
        let limit = address.connect_timeout + Duration::from_secs(5);
        last = match tokio::time::timeout(limit, opened).await {
            Ok(Ok(opened)) => return Ok(opened),
            Ok(Err(error)) => error,
            Err(_) => unreachable(too_slow(limit)),
        };
    }
    Err(last)
}

/// A connection to a host, or to the socket in a directory.
async fn socket(host: &str, port: u16) -> std::io::Result<Socket> {
    if host.starts_with('/') {
        return Ok(Either::Right(UnixStream::connect(format!("{host}/.s.PGSQL.{port}")).await?));
    }
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    // The session that holds the snapshot is idle for as long as the data take; firewalls and load balancers forget a
    // connection that is silent for four minutes.
    let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(15)).with_retries(4);
    SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
    Ok(Either::Left(stream))
}

fn too_slow(limit: Duration) -> String {
    format!("no answer within {} s: check host, port and firewall, or raise connect_timeout in the URL", limit.as_secs())
}
