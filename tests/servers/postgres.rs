//! What the tests of PostgreSQL share: servers, databases of their own, and PostgreSQL's programs.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use farshore::sources::postgres::{LogicalOptions, PostgresConfig, PostgresLogical, PostgresTarget, TargetOptions};

use crate::support::server;

/// A version that the testbed has. Of 15 and 18 it has started a server, of the others only the programs are there.
#[derive(Clone, Copy)]
pub enum Server {
    Fourteen,
    Fifteen,
    Sixteen,
    Seventeen,
    Eighteen,
}

static NEXT: AtomicU32 = AtomicU32::new(0);

impl Server {
    pub fn number(self) -> u32 {
        match self {
            Self::Fourteen => 14,
            Self::Fifteen => 15,
            Self::Sixteen => 16,
            Self::Seventeen => 17,
            Self::Eighteen => 18,
        }
    }

    /// Whether it can keep summaries of its log.
    pub fn summarises(self) -> bool {
        self.number() >= 17
    }

    /// Its programs.
    pub fn bin(self) -> PathBuf {
        server(&format!("FARSHORE_TEST_POSTGRES_{}_BIN", self.number())).into()
    }

    /// The URL of a database on it, as its superuser.
    pub fn url(self, database: &str) -> String {
        let url = server(&format!("FARSHORE_TEST_POSTGRES_{}_URL", self.number()));
        let (place, parameters) = url.split_once('?').unwrap_or((&url, ""));
        let (place, _) = place.rsplit_once('/').unwrap();
        format!("{place}/{database}?{parameters}")
    }

    /// The same as another role.
    pub fn url_as(self, role: &str, database: &str) -> String {
        self.url(database).replace("postgres://postgres@", &format!("postgres://{role}@"))
    }

    /// A new database; it is dropped again with what is returned.
    pub fn database(self) -> Database {
        let name = self.fresh_name("db");
        self.psql("postgres", &format!("CREATE DATABASE \"{name}\" TEMPLATE template0"));
        Database { server: self, name }
    }

    /// A name that nothing has yet; what is made under it is dropped with what is returned.
    pub fn absent_database(self) -> Database {
        Database { server: self, name: self.fresh_name("restored") }
    }

    pub fn fresh_name(self, what: &str) -> String {
        format!("t_{what}_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::SeqCst))
    }

    /// Runs SQL and returns what it yields, unaligned.
    ///
    /// # Panics
    /// If it fails.
    pub fn psql(self, database: &str, sql: &str) -> String {
        self.psql_as("postgres", database, sql)
    }

    pub fn psql_as(self, role: &str, database: &str, sql: &str) -> String {
        let mut command = Command::new(self.bin().join("psql"));
        command.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-d", &self.url_as(role, database), "-c", sql]);
        run(command)
    }

    /// Runs a file of SQL.
    pub fn psql_file(self, database: &str, file: &str) -> String {
        let mut command = Command::new(self.bin().join("psql"));
        command.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-d", &self.url(database), "-f", file]);
        run(command)
    }

    /// `pg_dump` of a database, as text.
    pub fn pg_dump(self, database: &str, arguments: &[&str]) -> String {
        let mut command = Command::new(self.bin().join("pg_dump"));
        command.args(arguments).args(["-d", &self.url(database)]);
        run(command)
    }

    pub fn database_exists(self, name: &str) -> bool {
        self.psql("postgres", &format!("SELECT count(*) FROM pg_database WHERE datname = '{name}'")) == "1"
    }
}

pub fn run(mut command: Command) -> String {
    // Some test databases are read only by default.
    let output = command.env("PGOPTIONS", "-c default_transaction_read_only=off").output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

/// A database of one test.
pub struct Database {
    pub server: Server,
    pub name: String,
}

impl Database {
    pub fn config(&self) -> PostgresConfig {
        PostgresConfig::parse(&self.server.url(&self.name), None).unwrap()
    }

    pub fn config_as(&self, role: &str) -> PostgresConfig {
        PostgresConfig::parse(&self.server.url_as(role, &self.name), None).unwrap()
    }

    pub fn psql(&self, sql: &str) -> String {
        self.server.psql(&self.name, sql)
    }

    pub fn options(&self) -> LogicalOptions {
        LogicalOptions { bin_directory: Some(self.server.bin()), ..LogicalOptions::default() }
    }

    pub fn source(&self) -> PostgresLogical {
        PostgresLogical::new(self.config(), self.options())
    }

    pub fn source_as(&self, role: &str) -> PostgresLogical {
        PostgresLogical::new(self.config_as(role), self.options())
    }

    pub fn target(&self) -> PostgresTarget {
        PostgresTarget::new(self.config(), TargetOptions { bin_directory: Some(self.server.bin()), ..TargetOptions::default() })
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // During a panic a second one would abort and hide the first.
        if !std::thread::panicking() {
            // A subscription would hold the database fast.
            let drop = "SELECT format('ALTER SUBSCRIPTION %1$I DISABLE; \
                        ALTER SUBSCRIPTION %1$I SET (slot_name = NONE); DROP SUBSCRIPTION %1$I', subname) FROM pg_subscription s \
                        JOIN pg_database d ON d.oid = s.subdbid WHERE d.datname = ";
            for statements in self.server.psql("postgres", &format!("{drop}'{}'", self.name)).lines() {
                self.psql(statements);
            }
            self.server.psql("postgres", &format!("DROP DATABASE IF EXISTS \"{}\" WITH (FORCE)", self.name));
        }
    }
}
