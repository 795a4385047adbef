//! The rows of a restored cluster that runs, counted in each of its databases.
//!
//! Promises:
//! * Every ordinary table and materialized view is counted exactly. A partition is a table; what it is a partition of has no rows of its own.
//! * It ends in time. The smallest databases come first, and in each the smallest tables: what is not counted is the largest, and is named.
//! * Memory grows with the number of databases, and not with that of their tables.
//! * What cannot be read is said, and ends nothing.
//!
//! Leaves out on purpose: the system's own catalogues, what has no rows in a physical backup (unlogged and temporary tables, views that
//! were not populated), and what is elsewhere (foreign tables). A table of another access method than `heap` is not counted, for that
//! would be the code of a library of the cluster's.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio_postgres::error::SqlState;

use super::restored::QUIET;
use crate::{
    clock::SharedClock,
    progress::{DatabaseRows, SharedObserver, TableRows},
    sources::{
        SourceError,
        postgres::{PostgresConfig, catalog::USER_SCHEMA, connect::Session, failure::Side},
    },
};

/// Nobody else is there to hold a lock, but a prepared transaction may.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);
const LISTING: &str = "listing the tables whose rows are to be counted";
/// Tables listed at once.
const LISTED: usize = 500;
/// Tables that are kept of a database, and of all databases together (but one of each).
const KEPT: usize = 50;
const ALL_KEPT: usize = 500;
/// What could not be counted is named up to this number, and counted beyond.
const NAMED: usize = 5;

/// What to count, and for how long.
#[derive(Debug)]
pub struct RowCount<'a> {
    /// How a superuser reaches one of the databases.
    pub config: &'a PostgresConfig,
    /// For all of them together.
    pub within: Duration,
    /// Measures that.
    pub clock: &'a SharedClock,
    /// Told of each table.
    pub observer: &'a SharedObserver,
    /// What was counted earlier: each table in it is looked for.
    pub earlier: &'a [DatabaseRows],
}

/// What was counted of a database.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counted {
    /// The numbers.
    pub rows: DatabaseRows,
    /// Whether new databases are made from it.
    pub is_template: bool,
    /// Whether all its tables were listed, counted or not.
    pub is_listed: bool,
    /// Of the tables that were looked for those that are there, with their rows if they were counted.
    pub found: BTreeMap<String, Option<u64>>,
    /// Tables for which there was no time, or that a prepared transaction has locked.
    pub late: u64,
    /// The names of the largest of them, the largest last.
    pub largest_late: Vec<String>,
    /// Tables of another access method.
    pub of_other_methods: u64,
    /// What could not be read.
    pub failed: u64,
    /// The first of that, with the reason.
    pub first_failed: Vec<String>,
}

impl Counted {
    fn fails(&mut self, what: String) {
        self.failed += 1;
        if self.first_failed.len() < NAMED {
            self.first_failed.push(what);
        }
    }

    fn is_late(&mut self, table: String) {
        self.late += 1;
        self.largest_late.push(table);
        if self.largest_late.len() > NAMED {
            self.largest_late.remove(0);
        }
    }
}

impl RowCount<'_> {
    /// Counts.
    ///
    /// # Errors
    /// The server's, if it does not say which databases it has.
    pub async fn count(&self) -> Result<Vec<Counted>, SourceError> {
        let ends_at = self.clock.monotonic() + self.within;
        let session = session(self.config).await?;
        // A database that was being dropped when the server crashed is there, and lets nobody in.
        let sql = "SELECT datname::text, datistemplate FROM pg_database WHERE datallowconn AND datconnlimit <> -2 ORDER BY pg_database_size(oid), datname";
        let rows = session.client.query(sql, &[]).await.map_err(|error| session.failed("listing databases", &error))?;
        session.close().await;
        let mut all = Vec::with_capacity(rows.len());
        for row in rows {
            let database: String = row.get(0);
            let rows = DatabaseRows { database, ..DatabaseRows::default() };
            let mut counted = Counted { rows, is_template: row.get(1), ..Counted::default() };
            if let Err(error) = self.count_in(&mut counted, ends_at).await {
                counted.fails(error.to_string());
            }
            counted.rows.uncounted = counted.late + counted.of_other_methods + counted.failed;
            all.push(counted);
        }
        let each = ALL_KEPT.checked_div(all.len()).unwrap_or_default().max(1);
        all.iter_mut().for_each(|counted| counted.rows.largest.truncate(each));
        Ok(all)
    }

    async fn count_in(&self, counted: &mut Counted, ends_at: Duration) -> Result<(), SourceError> {
        let of_database = self.earlier.iter().filter(|earlier| earlier.database == counted.rows.database);
        let wanted: BTreeSet<&str> = of_database.flat_map(|earlier| &earlier.largest).map(|table| table.table.as_str()).collect();
        let session = session(&self.config.with_database(&counted.rows.database)).await?;
        // By the first file or the statistics, since `pg_relation_size` waits for locks.
        let sql = format!(
            "DECLARE tables NO SCROLL CURSOR WITH HOLD FOR SELECT format('%I.%I', n.nspname, c.relname), m.amname = 'heap' \
             FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_am m ON m.oid = c.relam \
             WHERE c.relkind IN ('r', 'm') AND c.relpersistence = 'p' AND c.relispopulated AND {USER_SCHEMA} \
             ORDER BY greatest(c.relpages::int8 * current_setting('block_size')::int8, (pg_stat_file(pg_relation_filepath(c.oid), true)).size), 1"
        );
        session.execute(LISTING, &sql).await?;
        let mut most = Most::default();
        let done = self.count_listed(&session, &wanted, counted, &mut most, ends_at).await;
        counted.rows.largest = most.tables();
        counted.is_listed = done.is_ok();
        session.close().await;
        done
    }

    async fn count_listed(
        &self,
        session: &Session,
        wanted: &BTreeSet<&str>,
        counted: &mut Counted,
        most: &mut Most,
        ends_at: Duration,
    ) -> Result<(), SourceError> {
        let mut listed = LISTED;
        while listed == LISTED {
            session.execute(LISTING, "SET statement_timeout = 0").await?;
            let fetch = format!("FETCH {LISTED} FROM tables");
            let rows = session.client.query(&fetch, &[]).await.map_err(|error| session.failed(LISTING, &error))?;
            listed = rows.len();
            for row in rows {
                let (table, is_heap): (String, bool) = (row.get(0), row.get(1));
                let left = ends_at.saturating_sub(self.clock.monotonic());
                let rows = match is_heap {
                    false => {
                        counted.of_other_methods += 1;
                        None
                    }
                    true => count_one(session, &table, left, counted).await?,
                };
                self.observer.items(1);
                if wanted.contains(table.as_str()) {
                    counted.found.insert(table.clone(), rows);
                }
                if let Some(rows) = rows {
                    counted.rows.tables += 1;
                    counted.rows.rows += rows;
                    most.add(table, rows);
                }
            }
        }
        Ok(())
    }
}

async fn session(config: &PostgresConfig) -> Result<Session, SourceError> {
    let session = config.connect(Side::Target).await?;
    session.settle(LOCK_TIMEOUT).await?;
    session.execute("keeping event triggers quiet", &format!("SET {QUIET}")).await?;
    Ok(session)
}

/// The rows of a table; nothing, and why in `counted`, if there is no time for it or it cannot be read.
///
/// # Errors
/// The connection's.
async fn count_one(session: &Session, table: &str, left: Duration, counted: &mut Counted) -> Result<Option<u64>, SourceError> {
    let millis = left.as_millis();
    if millis == 0 {
        counted.is_late(table.to_owned());
        return Ok(None);
    }
    let doing = format!("counting the rows of {table}");
    session.execute(&doing, &format!("SET statement_timeout = {millis}")).await?;
    let asked = session.client.query_one(&format!("SELECT count(*) FROM ONLY {table}"), &[]).await;
    match asked.and_then(|row| row.try_get::<_, i64>(0)) {
        Ok(rows) => return Ok(Some(rows.unsigned_abs())),
        Err(error) if [SqlState::QUERY_CANCELED, SqlState::LOCK_NOT_AVAILABLE].iter().any(|code| error.code() == Some(code)) => {
            counted.is_late(table.to_owned());
        }
        Err(error) if session.client.is_closed() => return Err(session.failed(&doing, &error)),
        Err(error) => counted.fails(session.failed(&doing, &error).to_string()),
    }
    Ok(None)
}

/// The tables that have the most rows.
#[derive(Debug, Default)]
struct Most {
    tables: BTreeSet<(u64, String)>,
}

impl Most {
    fn add(&mut self, table: String, rows: u64) {
        if rows == 0 {
            return;
        }
        self.tables.insert((rows, table));
        if self.tables.len() > KEPT {
            self.tables.pop_first();
        }
    }

    fn tables(self) -> Vec<TableRows> {
        self.tables.into_iter().rev().map(|(rows, table)| TableRows { table, rows }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{Counted, KEPT, Most, NAMED};

    #[test]
    fn the_tables_with_the_most_rows_are_kept_and_those_without_any_are_not() {
        let mut most = Most::default();
        for rows in 0..=KEPT as u64 + 3 {
            most.add(format!("public.t{rows}"), rows);
        }
        let kept: Vec<u64> = most.tables().into_iter().map(|table| table.rows).collect();
        assert_eq!(kept, (4..=KEPT as u64 + 3).rev().collect::<Vec<_>>());
        let mut most = Most::default();
        most.add("public.none".to_owned(), 0);
        assert_eq!(most.tables(), []);
    }

    #[test]
    fn of_what_there_was_no_time_for_the_largest_are_named_and_of_what_failed_the_first() {
        let mut counted = Counted::default();
        for number in 0..2 * NAMED {
            counted.is_late(format!("t{number}"));
            counted.fails(format!("f{number}"));
        }
        assert_eq!((counted.late, counted.failed), (2 * NAMED as u64, 2 * NAMED as u64));
        assert_eq!((counted.largest_late[0].as_str(), counted.largest_late.len()), ("t5", NAMED));
        assert_eq!((counted.first_failed[0].as_str(), counted.first_failed.len()), ("f0", NAMED));
    }
}
