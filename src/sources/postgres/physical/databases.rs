//! The databases of a restored cluster that runs, each looked at once: what it needs of this machine and may not find, and what came back
//! otherwise than it was.
//!
//! Promises:
//! * One connection to each database, one after the other.
//! * What cannot be looked at is a failed check and ends nothing: a restore goes on to serve what it has.

use std::{collections::BTreeMap, path::Path, time::Duration};

use super::{
    collations::{Collations, Order},
    configured::Configured,
    facts::PhysicalFacts,
    libraries::{Attached, Libraries},
    restored::{Maps, QUIET},
    target::UNLOGGED,
};
use crate::{
    progress::{Check, CheckOutcome, SharedObserver},
    sources::{
        SourceError,
        postgres::{PostgresConfig, catalog, connect::Session, facts::Named, failure::Side},
    },
};

/// Nobody else is there to hold a lock.
const LOCK_TIMEOUT: Duration = Duration::from_secs(60);
/// Unlogged tables that are named of a database; things that are named in one check.
const TABLES_NAMED: usize = 10;
const NAMED: usize = 10;
/// Where extensions are looked for (18 and newer).
const EXTENSION_PATH: &str = "extension_control_path";

/// What to look at, and where.
#[derive(Debug)]
pub struct Databases<'a> {
    /// How a superuser reaches one of them.
    pub config: &'a PostgresConfig,
    /// The data directory.
    pub data: &'a Path,
    /// The snapshot's.
    pub facts: &'a PhysicalFacts,
    /// What is known of the order of indexes.
    pub order: Order,
    /// Visibility maps are held against tables, too.
    pub maps: bool,
    /// Told of problems.
    pub observer: &'a SharedObserver,
}

/// What the server has, whichever the database.
#[derive(Debug)]
struct Available {
    /// Extensions, with the version that it would make.
    extensions: BTreeMap<String, String>,
    /// The directory of its libraries.
    own: String,
    attached: Vec<Attached>,
    /// Databases that can be connected to.
    databases: Vec<String>,
}

/// What was found.
#[derive(Debug, Default)]
struct Found {
    collations: Collations,
    libraries: Libraries,
    /// Extensions that the server lacks, and that it has in another version, each with its database.
    missing: Vec<String>,
    other: Vec<String>,
    unlogged: Vec<String>,
    maps: Maps,
    unlooked: Vec<String>,
}

impl Databases<'_> {
    /// Looks at all of them, and adds to what is `said` of the cluster.
    pub async fn look(&self, said: &mut Vec<Check>) {
        let name = "databases of the cluster";
        let configured = Configured::read(self.data, self.facts);
        let available = match self.available(&configured).await {
            Ok(available) => available,
            Err(error) => return said.push(Check::equal(name, "all looked at", error)),
        };
        let libraries = Libraries::of_settings(&available.own, &configured, &available.attached, self.facts);
        let mut found = Found { libraries, ..Found::default() };
        for database in &available.databases {
            if let Err(error) = self.look_at(database, &available, &mut found).await {
                found.unlooked.push(format!("{database}: {error}"));
            }
        }
        let looked = format!("{} looked at", available.databases.len());
        match found.unlooked.as_slice() {
            [] => said.push(Check::equal(name, &looked, &looked)),
            some => said.push(Check::equal(name, looked, format!("not {}", first(some)))),
        }
        if self.maps {
            said.push(found.maps.check());
        }
        said.push(found.libraries.check());
        said.push(extensions(&found.missing, &found.other));
        said.push(found.collations.check(self.order, self.observer));
        if !found.unlogged.is_empty() {
            said.retain(|check| check.name != UNLOGGED || !found.unlooked.is_empty());
            let actual = format!("{} came back empty: nothing of them is in a physical backup", found.unlogged.join("; "));
            said.push(Check::note("unlogged tables", "empty", actual));
        }
    }

    async fn session(&self, config: &PostgresConfig) -> Result<Session, SourceError> {
        let session = config.connect(Side::Target).await?;
        session.settle(LOCK_TIMEOUT).await?;
        session.execute("keeping event triggers quiet", &format!("SET {QUIET}")).await?;
        Ok(session)
    }

    async fn available(&self, configured: &Configured) -> Result<Available, SourceError> {
        let session = self.session(self.config).await?;
        let doing = "looking at what the server has";
        let failed = |error| session.failed(doing, &error);
        // A database that was being dropped when the server crashed is there, and lets nobody in.
        let sql = "SELECT datname::text FROM pg_database WHERE datallowconn AND datconnlimit <> -2 ORDER BY datname";
        let databases = catalog::names(&session, doing, sql).await?;
        let own = session.one(doing, "SELECT setting FROM pg_config WHERE name = 'PKGLIBDIR'", &[]).await?;
        let sql = "SELECT d.datname::text, r.rolname::text, a.assignment FROM pg_db_role_setting s CROSS JOIN LATERAL unnest(s.setconfig) AS a(assignment) \
                   LEFT JOIN pg_database d ON d.oid = s.setdatabase LEFT JOIN pg_roles r ON r.oid = s.setrole ORDER BY 1, 2";
        let rows = session.client.query(sql, &[]).await.map_err(failed)?;
        let attached = rows.iter().map(|row| Attached { database: row.get(0), role: row.get(1), assignment: row.get(2) }).collect();
        // As its own configuration will have it.
        let path = configured.value(EXTENSION_PATH).map(|(value, _)| value);
        if let Some(path) = path.or_else(|| self.facts.settings.get(EXTENSION_PATH).map(String::as_str)) {
            let sql = "SELECT set_config(name, $1, false) FROM pg_settings WHERE name = $2";
            session.client.query(sql, &[&path, &EXTENSION_PATH]).await.map_err(failed)?;
        }
        let sql = "SELECT name::text, coalesce(default_version, '') FROM pg_available_extensions";
        let rows = session.client.query(sql, &[]).await.map_err(failed)?;
        let extensions = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        session.close().await;
        Ok(Available { extensions, own, attached, databases })
    }

    async fn look_at(&self, database: &str, available: &Available, found: &mut Found) -> Result<(), SourceError> {
        let session = self.session(&self.config.with_database(database)).await?;
        for extension in catalog::extensions(&session).await? {
            let (name, version) = (&extension.name, &extension.version);
            match available.extensions.get(name) {
                None => found.missing.push(format!("{name} {version} of database {database}")),
                Some(here) if here != version => found.other.push(format!("{name} {version} of database {database}, {here} here")),
                Some(_) => {}
            }
        }
        let doing = "looking at the libraries of functions";
        let sql = "SELECT p.probin, count(*), min(format('%I.%I', n.nspname, p.proname)) FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace \
                   JOIN pg_language l ON l.oid = p.prolang WHERE l.lanname = 'c' AND p.probin IS NOT NULL GROUP BY p.probin";
        let rows = session.client.query(sql, &[]).await.map_err(|error| session.failed(doing, &error))?;
        for row in rows {
            let count: i64 = row.get(1);
            found.libraries.add_functions(row.get(0), database, count.unsigned_abs(), row.get(2));
        }
        let sql = "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                   WHERE c.relpersistence = 'u' AND c.relkind = 'r'";
        let unlogged = Named::of(catalog::names(&session, "listing unlogged tables", sql).await?);
        if unlogged.count > 0 {
            let more = unlogged.count.saturating_sub(TABLES_NAMED as u64);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            let named = unlogged.first[..unlogged.first.len().min(TABLES_NAMED)].join(", ");
            found.unlogged.push(format!("{named}{more} of database {database}"));
        }
        found.collations.look(&session, database, self.facts.server_version_num).await?;
        if self.maps {
            // In a transaction that ends with the session.
            found.maps.look(&session, database).await;
        }
        session.close().await;
        Ok(())
    }
}

fn first(all: &[String]) -> String {
    let more = all.len().saturating_sub(NAMED);
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    format!("{}{more}", all[..all.len().min(NAMED)].join("; "))
}

/// An extension whose files are not there works as far as its library does, and cannot be updated, dumped or made anew. Another version is
/// worth saying: the functions may be others than the library's.
fn extensions(missing: &[String], other: &[String]) -> Check {
    let (name, expected) = ("extensions of all databases", "the server has each");
    let others = match other {
        [] => String::new(),
        some => format!("{}: ALTER EXTENSION … UPDATE, or install the version that was there", first(some)),
    };
    if missing.is_empty() {
        return match other {
            [] => Check::equal(name, expected, expected),
            _ => Check::note(name, expected, others),
        };
    }
    let others = if others.is_empty() { others } else { format!("; {others}") };
    let actual = format!("missing: {}: install their packages beside the server{others}", first(missing));
    Check { name: name.to_owned(), expected: expected.to_owned(), actual, outcome: CheckOutcome::Failed }
}
