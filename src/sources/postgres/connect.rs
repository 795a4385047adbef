//! Connections.

use std::{fmt, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use secrecy::{ExposeSecret, SecretString};
use serde::de::DeserializeOwned;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, UnixStream};
use tokio_postgres::{Client, NoTls, tls::MakeTlsConnect, types::ToSql};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_util::{either::Either, task::AbortOnDropHandle};

use super::{
    address::{Address, SslMode},
    failure::{self, Side},
    passfile,
    tap::{Switch, Tap, Tapped},
    tls,
};
use crate::sources::SourceError;

/// How to reach one database: libpq's URL, with what libpq's environment variables and password file add to it.
#[derive(Clone)]
pub struct PostgresConfig {
    address: Address,
}

impl fmt::Debug for PostgresConfig {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("PostgresConfig").field(&self.describe()).finish()
    }
}

impl PostgresConfig {
    /// Reads a URL as libpq does (`postgres://user@host:port/database?sslmode=verify-full&sslrootcert=…`, or `postgres://user@/db?host=/socket/dir`).
    /// `password` wins over one in the URL, which wins over `PGPASSWORD`, then the password file. Known parameters: host,
    /// port, user, password, dbname, passfile, sslmode, sslrootcert (a file or `system`), sslcert, sslkey, connect_timeout, options.
    ///
    /// # Errors
    /// [`SourceError::Unfit`], never with the URL's password in it.
    pub fn parse(url: &str, password: Option<SecretString>) -> Result<Self, SourceError> {
        let mut address = Address::parse(url, |name| std::env::var(name).ok())
            .map_err(|detail| SourceError::Unfit { subject: "the PostgreSQL URL".to_owned(), detail })?;
        if password.is_some() {
            address.password = password;
        }
        Ok(Self { address })
    }

    /// The same server and role, another database.
    #[must_use]
    pub fn with_database(&self, name: &str) -> Self {
        let mut address = self.address.clone();
        address.database = name.to_owned();
        Self { address }
    }

    /// The database's name.
    pub fn database(&self) -> &str {
        &self.address.database
    }

    /// `postgres://user@host:port/database`, without the password.
    pub fn describe(&self) -> String {
        self.address.describe()
    }

    pub(super) fn address(&self) -> &Address {
        &self.address
    }

    /// The password in force, if there is one.
    pub(super) fn password(&self) -> Option<SecretString> {
        let address = &self.address;
        address.password.clone().or_else(|| {
            let file = passfile::location(address.passfile.as_deref())?;
            address.hosts.iter().find_map(|(host, port)| passfile::look_up(&file, host, *port, &address.database, &address.user))
        })
    }

    /// Connects.
    pub(super) async fn connect(&self, side: Side) -> Result<Session, SourceError> {
        self.attempts(side).await.map_err(|attempt| match attempt {
            Attempt::Refused(error) => failure::connecting(&self.address, &error),
            Attempt::Other(error) => error,
        })
    }

    /// Whether a server that was started a while ago lets us in.
    pub(super) async fn knock(&self) -> Knock {
        match self.attempts(Side::Target).await {
            Ok(session) => {
                session.close().await;
                Knock::In
            }
            Err(Attempt::Refused(error)) if failure::will_not_pass(&error) => {
                Knock::Never(failure::connecting(&self.address, &error))
            }
            Err(_) => Knock::NotYet,
        }
    }

    async fn attempts(&self, side: Side) -> Result<Session, Attempt> {
        use tokio_postgres::config::SslMode as Plain;
        let address = &self.address;
        let local = address.hosts.iter().all(|(host, _)| host.starts_with('/'));
        let attempts: &[Plain] = match address.tls.mode {
            _ if local => &[Plain::Disable],
            SslMode::Disable => &[Plain::Disable],
            SslMode::Allow => &[Plain::Disable, Plain::Require],
            SslMode::Prefer => &[Plain::Prefer, Plain::Disable],
            SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => &[Plain::Require],
        };
        let password = self.password();
        for (number, mode) in attempts.iter().enumerate() {
            match self.attempt(*mode, password.as_ref(), side).await {
                Ok(session) => return Ok(session),
                Err(Attempt::Refused(error)) if number + 1 < attempts.len() && failure::refused_this_way(&error) => {}
                Err(attempt) => return Err(attempt),
            }
        }
        unreachable!("the last attempt returns")
    }

    async fn attempt(
        &self,
        mode: tokio_postgres::config::SslMode,
        password: Option<&SecretString>,
        side: Side,
    ) -> Result<Session, Attempt> {
        let address = &self.address;
        let mut config = tokio_postgres::Config::new();
        config.user(&address.user).dbname(&address.database).application_name("farshore").ssl_mode(mode);
        if let Some(password) = password {
            config.password(password.expose_secret());
        }
        if let Some(options) = &address.options {
            config.options(options);
        }
        let unreachable = |detail: String| Attempt::Other(SourceError::Unreachable { subject: self.describe(), detail });
        let connector = if mode == tokio_postgres::config::SslMode::Disable {
            None
        } else {
            Some(tls::connector(&address.tls).map_err(unreachable)?)
        };
        // The hosts in turn, as libpq has it; the last one's error is the one that is told.
        let mut last = unreachable("the URL names no host".to_owned());
        for (host, port) in &address.hosts {
            let connecting = self.connect_to(host, *port, &config, connector.clone(), side);
            // A server that takes the connection and never answers is as bad as one that is not there.
            let limit = address.connect_timeout + Duration::from_secs(5);
            last = match tokio::time::timeout(limit, connecting).await {
                Ok(Ok(session)) => return Ok(session),
                Ok(Err(error)) => error,
                Err(_) => unreachable(too_slow(limit)),
            };
        }
        Err(last)
    }

    async fn connect_to(
        &self,
        host: &str,
        port: u16,
        config: &tokio_postgres::Config,
        connector: Option<MakeRustlsConnect>,
        side: Side,
    ) -> Result<Session, Attempt> {
        let timeout = self.address.connect_timeout;
        let unreached = |error: std::io::Error| {
            let detail = format!("error connecting to server: {error}: check host, port, firewall, and that the server runs");
            Attempt::Other(SourceError::Unreachable { subject: self.describe(), detail })
        };
        let opening = tokio::time::timeout(timeout, socket(host, port)).await;
        let socket = opening.map_err(|_| unreached(std::io::ErrorKind::TimedOut.into()))?.map_err(unreached)?;
        let rows = Arc::new(Switch::default());
        let tap = Tap::new(socket, Arc::clone(&rows), connector.is_some());
        let (client, connection) = match connector {
            None => {
                let (client, connection) = config.connect_raw(tap, NoTls).await.map_err(Attempt::Refused)?;
                (client, tokio::spawn(run(connection)))
            }
            Some(mut connector) => {
                let tls = MakeTlsConnect::<Socket>::make_tls_connect(&mut connector, host);
                let tls = tls.map_err(|error| unreached(std::io::Error::other(error)))?;
                let (client, connection) = config.connect_raw(tap, Tapped(tls)).await.map_err(Attempt::Refused)?;
                (client, tokio::spawn(run(connection)))
            }
        };
        Ok(Session { client, rows, connection: AbortOnDropHandle::new(connection), subject: self.describe(), side })
    }
}

type Socket = Either<TcpStream, UnixStream>;

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

enum Attempt {
    Refused(tokio_postgres::Error),
    Other(SourceError),
}

/// What a server says to whoever wants in.
pub(super) enum Knock {
    /// It takes connections.
    In,
    /// It is not there, or is starting.
    NotYet,
    /// It is there, and refuses for a reason that waiting does not change.
    Never(SourceError),
}

fn too_slow(limit: Duration) -> String {
    format!("no answer within {} s: check host, port and firewall, or raise connect_timeout in the URL", limit.as_secs())
}

async fn run(connection: impl Future<Output = Result<(), tokio_postgres::Error>>) {
    // Whoever waits for an answer gets the error; nobody else needs it.
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a PostgreSQL connection ended");
    }
}

/// A connection. Dropping it cuts the line, which ends what the server was doing; [`Session::close`] takes leave politely.
pub(super) struct Session {
    pub(super) client: Client,
    /// Where the rows of a COPY go.
    pub(super) rows: Arc<Switch>,
    connection: AbortOnDropHandle<()>,
    pub(super) subject: String,
    side: Side,
}

/// What every session sets, as `pg_dump` does: nothing of the role's, the database's or the server's settings may change what
/// the data look like or cut the work short.
const SAFE_SETTINGS: &str = "SET search_path = ''; SET client_encoding = 'UTF8'; SET datestyle = 'ISO'; SET intervalstyle = 'postgres'; \
     SET extra_float_digits = 3; SET bytea_output = 'hex'; SET xmloption = 'content'; SET statement_timeout = 0; \
     SET idle_in_transaction_session_timeout = 0; SET synchronize_seqscans = off; SET row_security = off; \
     SET standard_conforming_strings = on; SET default_transaction_read_only = off; SET client_min_messages = warning; \
     SET check_function_bodies = off; SET TimeZone = 'UTC'; SET quote_all_identifiers = off";

impl Session {
    /// The error for a statement that failed.
    pub(super) fn failed(&self, doing: &str, error: &tokio_postgres::Error) -> SourceError {
        failure::statement(self.side, &self.subject, doing, error)
    }

    /// Runs statements without results.
    pub(super) async fn execute(&self, doing: &str, sql: &str) -> Result<(), SourceError> {
        self.client.batch_execute(sql).await.map_err(|error| self.failed(doing, &error))
    }

    /// Settings that make sessions alike; `lock_timeout` is how long to wait for a table's lock.
    pub(super) async fn settle(&self, lock_timeout: Duration) -> Result<(), SourceError> {
        self.execute("setting up the session", SAFE_SETTINGS).await?;
        self.execute("setting up the session", &format!("SET lock_timeout = {}", lock_timeout.as_millis())).await?;
        // Newer servers' settings, by name, where the server has them.
        let newer =
            "SELECT set_config(name, '0', false) FROM pg_settings WHERE name IN ('idle_session_timeout', 'transaction_timeout')";
        self.client.query(newer, &[]).await.map_err(|error| self.failed("setting up the session", &error))?;
        Ok(())
    }

    /// One value of one row.
    pub(super) async fn one<T>(&self, doing: &str, sql: &str, values: &[&(dyn ToSql + Sync)]) -> Result<T, SourceError>
    where
        T: for<'a> tokio_postgres::types::FromSql<'a>,
    {
        let row = self.client.query_one(sql, values).await.map_err(|error| self.failed(doing, &error))?;
        row.try_get(0).map_err(|error| self.failed(doing, &error))
    }

    /// The server's time.
    pub(super) async fn now(&self, doing: &str) -> Result<DateTime<Utc>, SourceError> {
        let seconds: f64 = self.one(doing, "SELECT extract(epoch FROM clock_timestamp())::float8", &[]).await?;
        #[allow(clippy::cast_possible_truncation, reason = "microseconds since 1970 fit for 290,000 years")]
        let micros = (seconds * 1e6).round() as i64;
        Ok(DateTime::from_timestamp_micros(micros).unwrap_or_default())
    }

    /// Rows of one JSON column, read into `T`. Whole rows of the catalogues as JSON let one query serve every server version:
    /// columns that a version lacks are absent.
    pub(super) async fn json<T: DeserializeOwned>(
        &self,
        doing: &str,
        sql: &str,
        values: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<T>, SourceError> {
        let rows = self.client.query(sql, values).await.map_err(|error| self.failed(doing, &error))?;
        let mut all = Vec::with_capacity(rows.len());
        for row in rows {
            let value: serde_json::Value = row.try_get(0).map_err(|error| self.failed(doing, &error))?;
            let read = serde_json::from_value(value).map_err(|error| {
                self.side.unfit(
                    self.subject.clone(),
                    format!("{doing}: the catalogue's answer was not understood: {error}; is the server newer than this program?"),
                )
            })?;
            all.push(read);
        }
        Ok(all)
    }

    /// The server's version as a number: 150018 is 15.18.
    pub(super) async fn version(&self) -> Result<u32, SourceError> {
        let version: i32 = self.one("asking for the version", "SELECT current_setting('server_version_num')::int", &[]).await?;
        Ok(u32::try_from(version).unwrap_or_default())
    }

    /// Ends the session politely.
    pub(super) async fn close(self) {
        let Self { client, connection, .. } = self;
        drop(client);
        // The connection's task ends once it has said goodbye; a server that does not listen any more must not hold us up.
        let _ = tokio::time::timeout(Duration::from_secs(2), connection).await;
    }
}
