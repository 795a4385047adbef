//! Whether text is sorted on this machine as it was where indexes were built.
//!
//! A collation is the C library's or ICU's, and may sort otherwise in another version of it. An index that was built by one and is read
//! by another misses rows, and lets in twice what is unique; a restored cluster brings its indexes as they were, and the versions with them.

use serde::Deserialize;

use crate::{
    progress::{Check, CheckOutcome, Problem, SharedObserver},
    sources::{
        SourceError,
        postgres::{connect::Session, facts::Named, quote::identifier},
    },
};

/// The first version that records the version of a database's own collation, as `server_version_num`.
const OWN_VERSIONS_FROM: u32 = 150_000;
/// Indexes that are named of a collation; beyond that the whole database is to be rebuilt.
const NAMED: usize = 10;
/// Databases that are told of in one check.
const MOST_TOLD: usize = 10;

/// What is known of the order of indexes, whose collation is of another version here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Every entry of every B-tree index was held against its neighbours.
    Shown,
    /// It should have been shown, and was not.
    NotShown,
    /// Nobody looks: it is told, and fails nothing.
    NotLookedAt,
}

/// A collation by which indexes are sorted, or partitions divided.
#[derive(Debug, Clone, Deserialize)]
struct Collation {
    /// Its quoted name; nothing for the database's own.
    name: Option<String>,
    /// `c` (libc), `i` (ICU), `b` (builtin).
    provider: String,
    /// Of libc, the locale; the database's own has one of any provider.
    locale: String,
    /// The version by which indexes were built.
    recorded: Option<String>,
    /// The version here.
    actual: Option<String>,
    /// Indexes that sort by it.
    indexes: Named,
    /// Partitioned tables whose partitions are ranges of it.
    tables: Named,
}

/// The collations of a database that indexes or partitions depend on.
///
/// # Errors
/// The server's.
async fn used(session: &Session, version: u32) -> Result<Vec<Collation>, SourceError> {
    let own = match version < OWN_VERSIONS_FROM {
        true => "NULL::text",
        false => "pg_database_collation_actual_version(d.oid)",
    };
    let named = |filter: &str| {
        format!(
            "jsonb_build_object('count', count(DISTINCT r.oid) FILTER (WHERE {filter}), 'first', coalesce(to_jsonb(\
             (array_agg(DISTINCT format('%I.%I', n.nspname, r.relname)) FILTER (WHERE {filter}))[1:{NAMED}]), '[]'))"
        )
    };
    // What a collation is by itself, and what a database's own is; an expression's is a dependency.
    let sql = format!(
        "WITH uses AS (SELECT x.indexrelid AS relation, u.oid, false AS divides FROM pg_index x CROSS JOIN LATERAL unnest(x.indcollation) AS u(oid) \
           UNION SELECT e.objid, e.refobjid, false FROM pg_depend e JOIN pg_index x ON x.indexrelid = e.objid \
             WHERE e.classid = 'pg_class'::regclass AND e.refclassid = 'pg_collation'::regclass \
           UNION SELECT p.partrelid, u.oid, true FROM pg_partitioned_table p CROSS JOIN LATERAL unnest(p.partcollation) AS u(oid) WHERE p.partstrat = 'r'), \
         known AS (SELECT c.oid, format('%I.%I', n.nspname, c.collname) AS name, c.collprovider::text AS provider, coalesce(c.collcollate::text, '') AS locale, \
             c.collversion::text AS recorded, pg_collation_actual_version(c.oid) AS actual \
             FROM pg_collation c JOIN pg_namespace n ON n.oid = c.collnamespace WHERE c.collprovider <> 'd' AND c.oid IN (SELECT oid FROM uses) \
           UNION ALL SELECT 100, NULL, coalesce(to_jsonb(d) ->> 'datlocprovider', 'c'), \
             coalesce(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale', d.datcollate::text), to_jsonb(d) ->> 'datcollversion', {own} \
             FROM pg_database d WHERE d.datname = current_database()) \
         SELECT jsonb_build_object('name', k.name, 'provider', k.provider, 'locale', k.locale, 'recorded', k.recorded, 'actual', k.actual, \
           'indexes', {}, 'tables', {}) \
         FROM known k JOIN uses u ON u.oid = k.oid JOIN pg_class r ON r.oid = u.relation JOIN pg_namespace n ON n.oid = r.relnamespace \
         WHERE r.relpersistence <> 't' AND (u.divides OR r.relkind = 'i') \
         GROUP BY k.oid, k.name, k.provider, k.locale, k.recorded, k.actual ORDER BY k.name NULLS FIRST",
        named("NOT u.divides"),
        named("u.divides")
    );
    session.json("comparing versions of collations", &sql, &[]).await
}

impl Collation {
    /// Of libc these sort by the numbers of characters, whatever its version.
    fn is_fixed(&self) -> bool {
        let locale = self.locale.split('.').next().unwrap_or_default();
        self.provider == "c" && (locale.eq_ignore_ascii_case("C") || locale.eq_ignore_ascii_case("POSIX"))
    }

    fn what(&self) -> String {
        match &self.name {
            Some(name) => format!("collation {name}"),
            None => format!("the database's own collation, {}", self.locale),
        }
    }

    fn uses(&self) -> String {
        let some = |count: u64, what: &str, named: &Named| match count {
            0 => String::new(),
            _ if count > named.first.len() as u64 => format!("{count} {what} ({}, …)", named.first.join(", ")),
            _ => format!("{count} {what} ({})", named.first.join(", ")),
        };
        let indexes = some(self.indexes.count, "indexes", &self.indexes);
        let tables = some(self.tables.count, "partitioned tables", &self.tables);
        let and = if indexes.is_empty() || tables.is_empty() { "" } else { " and " };
        format!("{indexes}{and}{tables}")
    }

    /// The statements after which all is sorted by the version that is here.
    fn mend(&self, database: &str) -> String {
        let all = self.indexes.count > self.indexes.first.len() as u64;
        let mut statements: Vec<String> = match all {
            true => vec![format!("REINDEX DATABASE {}", identifier(database))],
            false => self.indexes.first.iter().map(|index| format!("REINDEX INDEX {index}")).collect(),
        };
        statements.push(match &self.name {
            Some(name) => format!("ALTER COLLATION {name} REFRESH VERSION"),
            None => format!("ALTER DATABASE {} REFRESH COLLATION VERSION", identifier(database)),
        });
        let tables = match self.tables.count {
            0 => "",
            _ => "; and load the partitioned tables anew: rows may lie in the wrong partition",
        };
        format!("{}{tables}", statements.join("; "))
    }
}

/// What was found in the databases of a cluster.
#[derive(Debug, Default)]
pub struct Collations {
    /// By database: what differs, and what mends it.
    other: Vec<(String, String)>,
    /// What has no version to compare.
    untold: Vec<String>,
}

impl Collations {
    /// Looks at the database that the session is connected to.
    ///
    /// # Errors
    /// The server's.
    pub async fn look(&mut self, session: &Session, database: &str, version: u32) -> Result<(), SourceError> {
        for collation in used(session, version).await? {
            self.take(database, &collation);
        }
        Ok(())
    }

    fn take(&mut self, database: &str, collation: &Collation) {
        let (what, uses) = (collation.what(), collation.uses());
        match (&collation.recorded, &collation.actual) {
            (Some(recorded), Some(actual)) if recorded == actual => {}
            (None, None) if collation.is_fixed() => {}
            (Some(recorded), actual) => {
                let here = actual.as_ref().map_or_else(|| "without one here".to_owned(), |actual| format!("{actual} here"));
                let text = format!("{uses} of database {database} were built by {what}, of version {recorded}, which is {here}");
                let mend = collation.mend(database);
                self.other.push((database.to_owned(), format!("{text}; before it goes live, in that database: {mend}")));
            }
            (None, _) => self.untold.push(format!("{uses} of database {database}, by {what}")),
        }
    }

    /// Whether all is sorted as it was. What differs is a problem, too, so that it does not pass among what is noted.
    pub fn check(&self, order: Order, observer: &SharedObserver) -> Check {
        let (name, expected) = ("versions of collations", "those by which indexes were built");
        let joined = |all: &mut dyn Iterator<Item = &str>| {
            let all: Vec<&str> = all.collect();
            let more = if all.len() > MOST_TOLD { "; …" } else { "" };
            format!("{}{more}", all[..all.len().min(MOST_TOLD)].join("; "))
        };
        let untold = match self.untold.as_slice() {
            [] => String::new(),
            some => format!(
                "no version was recorded for {}: it cannot be told whether the captured server sorted as this one does; if its C library or ICU was another, REINDEX",
                joined(&mut some.iter().map(String::as_str))
            ),
        };
        if self.other.is_empty() {
            return match untold.is_empty() {
                true => Check::equal(name, expected, expected),
                false => Check::note(name, expected, untold),
            };
        }
        for (database, text) in &self.other {
            observer.problem(Problem::new(format!("database {database}"), text.clone()));
        }
        let mut actual = joined(&mut self.other.iter().map(|(_, text)| text.as_str()));
        if order == Order::Shown {
            actual.push_str("; pg_amcheck found every B-tree index in order here all the same");
        }
        if !untold.is_empty() {
            actual = format!("{actual}; {untold}");
        }
        let outcome = if order == Order::NotShown { CheckOutcome::Failed } else { CheckOutcome::Note };
        Check { name: name.to_owned(), expected: expected.to_owned(), actual, outcome }
    }
}

#[cfg(test)]
mod tests {
    use super::{Collation, Collations, NAMED, Order};
    use crate::{
        progress::{CheckOutcome, SharedObserver, Tally},
        sources::postgres::facts::Named,
    };

    fn collation(name: Option<&str>, locale: &str, recorded: Option<&str>, actual: Option<&str>) -> Collation {
        Collation {
            name: name.map(str::to_owned),
            provider: "c".to_owned(),
            locale: locale.to_owned(),
            recorded: recorded.map(str::to_owned),
            actual: actual.map(str::to_owned),
            indexes: Named { count: 1, first: vec!["public.i".to_owned()] },
            tables: Named::default(),
        }
    }

    fn check(collations: &[Collation], order: Order) -> (CheckOutcome, String, usize) {
        let tally = Tally::alone();
        let mut found = Collations::default();
        for collation in collations {
            found.take("app", collation);
        }
        let observer: SharedObserver = tally.clone();
        let check = found.check(order, &observer);
        (check.outcome, check.actual, tally.problems().len())
    }

    #[test]
    fn another_version_is_told_with_what_mends_it_and_fails_where_nobody_showed_the_order() {
        let other = || collation(None, "de_DE.UTF-8", Some("2.31"), Some("2.36"));
        for (order, outcome) in
            [(Order::Shown, CheckOutcome::Note), (Order::NotShown, CheckOutcome::Failed), (Order::NotLookedAt, CheckOutcome::Note)]
        {
            let (found, said, problems) = check(&[other()], order);
            assert_eq!((found, problems), (outcome, 1), "{order:?}");
            assert!(said.contains("of version 2.31, which is 2.36 here"), "{said}");
            assert!(said.contains("REINDEX INDEX public.i; ALTER DATABASE \"app\" REFRESH COLLATION VERSION"), "{said}");
            assert_eq!(said.contains("in order here all the same"), order == Order::Shown, "{said}");
        }
        let (_, said, _) = check(&[collation(Some("public.de"), "de_DE", Some("2.31"), None)], Order::Shown);
        assert!(said.contains("without one here") && said.contains("ALTER COLLATION public.de REFRESH VERSION"), "{said}");
        let mut many = other();
        many.indexes = Named { count: NAMED as u64 + 1, first: vec!["public.i".to_owned(); NAMED] };
        many.tables = Named { count: 1, first: vec!["public.p".to_owned()] };
        let (_, said, _) = check(&[many], Order::Shown);
        assert!(said.contains("11 indexes (public.i, ") && said.contains(", …) and 1 partitioned tables (public.p)"), "{said}");
        assert!(said.contains("REINDEX DATABASE \"app\"; ALTER DATABASE") && said.contains("in the wrong partition"), "{said}");
    }

    #[test]
    fn the_same_version_passes_and_one_that_was_not_recorded_cannot_be_told() {
        let same = [
            collation(None, "de_DE", Some("2.36"), Some("2.36")),
            collation(None, "C", None, None),
            collation(None, "POSIX", None, None),
            collation(Some("pg_catalog.\"C.utf8\""), "C.utf8", None, None),
        ];
        assert_eq!(check(&same, Order::NotShown), (CheckOutcome::Passed, "those by which indexes were built".to_owned(), 0));
        for untold in [collation(None, "de_DE", None, Some("2.36")), collation(None, "de_DE", None, None)] {
            let (outcome, said, problems) = check(&[untold], Order::NotShown);
            assert_eq!((outcome, problems), (CheckOutcome::Note, 0));
            assert!(said.contains("cannot be told") && said.contains("public.i"), "{said}");
        }
    }
}
