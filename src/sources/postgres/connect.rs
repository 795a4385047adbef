//! Connections.

use std::{fmt, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use secrecy::{ExposeSecret, SecretString};
use serde::de::DeserializeOwned;
use tokio_postgres::{Client, NoTls, tls::MakeTlsConnect, types::ToSql};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_util::task::AbortOnDropHandle;

use super::{
    address::Address,
    failure::{self, Said, Side},
    line::{self, Attempt, Encryption, Line, Opening, Socket},
    passfile,
    tap::{Switch, Tap, Tapped},
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

    /// Whether a URL has a password in it.
    pub fn has_password(url: &str) -> bool {
        Address::parse(url, |_| None).is_ok_and(|address| address.password.is_some())
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

    /// Only this one of its hosts.
    pub(super) fn only(&self, place: &(String, u16)) -> Self {
        let mut address = self.address.clone();
        address.hosts = vec![place.clone()];
        Self { address }
    }

    /// Connects.
    pub(super) async fn connect(&self, side: Side) -> Result<Session, SourceError> {
        self.reach(side).await.map_err(|error| match error {
            Attempt::Refused(said) => failure::connecting(side, &self.address, &said),
            Attempt::Other(error) => error,
        })
    }

    /// Whether a server that was started a while ago lets us in.
    pub(super) async fn knock(&self) -> Knock {
        match self.reach(Side::Target).await {
            Ok(session) => {
                session.close().await;
                Knock::In
            }
            Err(Attempt::Refused(said)) if failure::will_not_pass(&said) => {
                Knock::Never(failure::connecting(Side::Target, &self.address, &said))
            }
            Err(_) => Knock::NotYet,
        }
    }

    async fn reach(&self, side: Side) -> Result<Session, Attempt> {
        line::reach(&self.address, &Driven { config: self, password: self.password(), side }).await
    }
}

/// A line that the driver speaks over.
struct Driven<'a> {
    config: &'a PostgresConfig,
    password: Option<SecretString>,
    side: Side,
}

impl Opening for Driven<'_> {
    type Opened = Session;

    async fn open(&self, line: Line) -> Result<Session, Attempt> {
        use tokio_postgres::config::SslMode;
        let address = &self.config.address;
        let mut config = tokio_postgres::Config::new();
        config.user(&address.user).dbname(&address.database).application_name("farshore");
        config.ssl_mode(match line.encryption {
            Encryption::Without => SslMode::Disable,
            Encryption::Prefer => SslMode::Prefer,
            Encryption::Require => SslMode::Require,
        });
        if let Some(password) = &self.password {
            config.password(password.expose_secret());
        }
        if let Some(options) = &address.options {
            config.options(options);
        }
        let refused = |error: tokio_postgres::Error| Attempt::Refused(Said::from(&error));
        let rows = Arc::new(Switch::default());
        let tap = Tap::new(line.socket, Arc::clone(&rows), line.tls.is_some());
        let (client, connection) = match line.tls {
            None => {
                let (client, connection) = config.connect_raw(tap, NoTls).await.map_err(refused)?;
                (client, tokio::spawn(run(connection)))
            }
            Some(settings) => {
                let tls = MakeTlsConnect::<Socket>::make_tls_connect(&mut MakeRustlsConnect::new(settings), &line.host);
                let Ok(tls) = tls;
                let (client, connection) = config.connect_raw(tap, Tapped(tls)).await.map_err(refused)?;
                (client, tokio::spawn(run(connection)))
            }
        };
        Ok(Session {
            client,
            rows,
            connection: AbortOnDropHandle::new(connection),
            subject: self.config.describe(),
            place: (line.host, line.port),
            side: self.side,
        })
    }
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
    /// The one of the hosts that it leads to.
    pub(super) place: (String, u16),
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
