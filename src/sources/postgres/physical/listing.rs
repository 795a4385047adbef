//! What lies in the data directory, as the server itself lists it.

use std::collections::HashSet;

use chrono::{DateTime, Utc};

use super::{
    select::{Fate, Fork, Relation, fate, is_database},
    server::Server,
};
use crate::sources::{SourceError, postgres::connect::Session};

/// A file or directory to be captured.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// Relative to the data directory.
    pub path: String,
    /// Bytes, when it was listed.
    pub bytes: u64,
    /// Last change.
    pub modified: Option<DateTime<Utc>>,
    /// Whether it is a directory.
    pub is_directory: bool,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Listing {
    /// In ascending byte order of their paths.
    pub items: Vec<Item>,
    /// Relations without a log of their own: they come back empty.
    pub unlogged: u64,
}

/// A name in a directory.
struct Name {
    name: String,
    item: Item,
}

/// Lists the data directory with all that belongs into a backup. Memory: some hundred bytes for each file.
///
/// # Errors
/// The server's.
pub async fn list(session: &Session, server: &Server) -> Result<Listing, SourceError> {
    let mut listing = Listing::default();
    let mut directories = vec![String::new()];
    let statement = session.client.prepare(NAMES).await.map_err(|error| session.failed("listing the data directory", &error))?;
    while let Some(directory) = directories.pop() {
        let names = names(session, &statement, &directory).await?;
        take(server, &directory, names, &mut listing, &mut directories);
    }
    listing.items.sort_by(|left, right| left.path.cmp(&right.path));
    Ok(listing)
}

/// Takes the directory's path, and what stands before the names in it: that path with a `/`, or nothing for the data directory itself.
const NAMES: &str = "SELECT d.name, s.size, extract(epoch FROM s.modification)::float8, s.isdir \
                     FROM pg_catalog.pg_ls_dir($1, true, false) AS d(name), \
                     LATERAL pg_catalog.pg_stat_file($2 || d.name, true) AS s WHERE s.size IS NOT NULL";

async fn names(session: &Session, statement: &tokio_postgres::Statement, directory: &str) -> Result<Vec<Name>, SourceError> {
    let (listed, prefix) = match directory {
        "" => (".".to_owned(), String::new()),
        other => (other.to_owned(), format!("{other}/")),
    };
    let doing = format!("listing {listed} in the data directory");
    let rows = session.client.query(statement, &[&listed, &prefix]).await.map_err(|error| session.failed(&doing, &error))?;
    let name = |row: &tokio_postgres::Row| {
        let name: String = row.get(0);
        #[allow(clippy::cast_possible_truncation, reason = "seconds since 1970 fit")]
        let modified = DateTime::from_timestamp(row.get::<_, f64>(2) as i64, 0);
        let item = Item {
            path: format!("{prefix}{name}"),
            bytes: u64::try_from(row.get::<_, i64>(1)).unwrap_or(0),
            modified,
            is_directory: row.get(3),
        };
        Name { name, item }
    };
    Ok(rows.iter().map(name).collect())
}

/// Chooses among the names of one directory.
fn take(server: &Server, directory: &str, names: Vec<Name>, listing: &mut Listing, directories: &mut Vec<String>) {
    let relation = |name: &Name| Relation::parse(&name.name).filter(|_| !name.item.is_directory && is_database(directory));
    let unlogged: HashSet<u32> =
        names.iter().filter_map(relation).filter(|one| one.fork == Fork::Init && one.segment == 0).map(|one| one.number).collect();
    listing.unlogged += unlogged.len() as u64;
    for name in names {
        let kept = relation(&name).is_none_or(|one| one.fork == Fork::Init || !unlogged.contains(&one.number));
        match fate(directory, &name.name, name.item.is_directory, &server.version_directory) {
            Fate::Taken if kept => {
                if name.item.is_directory {
                    directories.push(name.item.path.clone());
                }
                listing.items.push(name.item);
            }
            Fate::Emptied => listing.items.push(name.item),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Item, Listing, Name, Server, take};
    use crate::sources::postgres::physical::wal::Layout;

    #[test]
    fn of_an_unlogged_relation_only_what_it_is_after_a_crash_is_taken() {
        let server = Server {
            version: 150_000,
            layout: Layout { segment_bytes: 16 << 20, system: 1 },
            page_bytes: 8192,
            checksums: true,
            version_directory: "PG_15_1".to_owned(),
            data_directory: "/data".to_owned(),
            mode: 0o700,
            tablespaces: Vec::new(),
            direct: None,
        };
        let name = |name: &str, is_directory| Name {
            name: name.to_owned(),
            item: Item { path: format!("base/5/{name}"), bytes: 1, modified: None, is_directory },
        };
        let names = ["16384", "16384.1", "16384_fsm", "16384_vm", "16384_init", "16385", "163840", "PG_VERSION", "t1_16384"];
        let (mut listing, mut directories) = (Listing::default(), Vec::new());
        take(&server, "base/5", names.into_iter().map(|one| name(one, false)).collect(), &mut listing, &mut directories);
        let taken: Vec<_> = listing.items.iter().map(|item| item.path.trim_start_matches("base/5/")).collect();
        assert_eq!(taken, ["16384_init", "16385", "163840", "PG_VERSION"]);
        assert_eq!((listing.unlogged, directories.len()), (1, 0));
    }
}
