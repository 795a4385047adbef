//! What is looked at in a restored cluster that runs: the checksum of every page on disk, and what visibility maps promise.
//!
//! A visibility map that promises too much makes queries miss rows or find deleted ones, and no checksum shows it: pages that were
//! read at different times must have come together again.

use std::{
    fs::File,
    io::Read,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use super::{
    checking::{NEVER, PageCheck},
    facts::PhysicalFacts,
    select::{Relation, is_database},
};
use crate::{
    progress::Check,
    sources::{
        SourceError,
        postgres::{PostgresConfig, connect::Session, failure::Side, quote::identifier},
    },
};

/// Read at once from a file, bytes.
const READ_BYTES: usize = 1 << 20;
/// Things that are named; the others are counted.
const NAMED: usize = 5;
/// Where the extension is put, and taken away again.
const SCHEMA: &str = "farshore_visibility";

/// For sessions that make extensions: the cluster's event triggers, whatever they do, are not for us. Those that are enabled `ALWAYS` only
/// 17 and newer can be told to leave alone.
pub const QUIET: &str = "session_replication_role=replica";

/// Looks at every page of the data directory of a running server that nobody writes to, as pg_checksums does.
///
/// # Errors
/// The server's; [`SourceError::Io`].
pub async fn checksums(config: &PostgresConfig, data: &Path, facts: &PhysicalFacts) -> Result<Check, SourceError> {
    let name = "checksums of all pages on disk";
    if !facts.checksums {
        return Ok(Check::note(name, "right", "not looked at: the cluster's pages carry none"));
    }
    let session = config.connect(Side::Target).await?;
    // What replay left in memory.
    session.execute("writing everything to disk", "CHECKPOINT").await?;
    session.close().await;
    let (data, page_bytes) = (data.to_owned(), facts.page_bytes);
    let looked = tokio::task::spawn_blocking(move || {
        let mut looked = Looked::default();
        look_below(&data, "", page_bytes, &mut looked).map(|()| looked)
    });
    let looked = looked.await.map_err(|error| SourceError::io("looking at pages")(std::io::Error::other(error)))?;
    let Looked { pages, damaged } = looked?;
    let right = format!("{pages} pages are right");
    Ok(match damaged.as_slice() {
        [] => Check::equal(name, &right, &right),
        some => Check::equal(name, right, format!("{} are not: {}", some.len(), first(some))),
    })
}

fn first(all: &[String]) -> String {
    let more = if all.len() > NAMED { ", …" } else { "" };
    format!("{}{more}", all[..all.len().min(NAMED)].join(", "))
}

#[derive(Debug, Default)]
struct Looked {
    pages: u64,
    damaged: Vec<String>,
}

/// Looks at the relations below a directory, whose path within the data directory is `within`.
fn look_below(directory: &Path, within: &str, page_bytes: u32, looked: &mut Looked) -> Result<(), SourceError> {
    let io = |path: &Path| SourceError::io(path.display().to_string());
    for entry in std::fs::read_dir(directory).map_err(io(directory))? {
        let entry = entry.map_err(io(directory))?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let path = if within.is_empty() { name } else { format!("{within}/{name}") };
        // Tablespaces lie behind links.
        if entry.path().is_dir() {
            let holds_relations =
                matches!(path.as_str(), "base" | "global" | "pg_tblspc") || path.starts_with("pg_tblspc/") || is_database(&path);
            if holds_relations {
                look_below(&entry.path(), &path, page_bytes, looked)?;
            }
        } else if let Some(relation) = Relation::of(&path) {
            look_at(entry.path(), &path, relation, page_bytes, looked)?;
        }
    }
    Ok(())
}

fn look_at(file: PathBuf, path: &str, relation: Relation, page_bytes: u32, looked: &mut Looked) -> Result<(), SourceError> {
    let io = || SourceError::io(file.display().to_string());
    let mut open = File::open(&file).map_err(io())?;
    let mut check = PageCheck::new(relation.segment, page_bytes);
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match open.read(&mut buffer).map_err(io())? {
            0 => break,
            count => check.take(&buffer[..count]),
        }
    }
    looked.pages += check.pages();
    let judge = PageCheck::new(relation.segment, page_bytes);
    for block in check.suspects() {
        // The server may have been writing hint bits right then.
        let mut page = vec![0; page_bytes as usize];
        open.read_exact_at(&mut page, u64::from(judge.offset_of(block))).map_err(io())?;
        if judge.is_damaged(&page, block, &NEVER) {
            looked.damaged.push(format!("block {block} of {path}"));
        }
    }
    Ok(())
}

/// What visibility maps promise, held against the tables of all databases.
#[derive(Debug, Default)]
pub struct Maps {
    wrong: Vec<String>,
    is_missing: bool,
}

impl Maps {
    /// Looks at the database that the session is connected to. The extension that does it is made in a transaction that is rolled back with
    /// the session, so that probes that come later see the databases as they were.
    pub async fn look(&mut self, session: &Session, database: &str) {
        match tables_with_wrong_maps(session).await {
            Ok(Some(some)) => self.wrong.extend(some.into_iter().map(|table| format!("{table} in {database}"))),
            Ok(None) => self.is_missing = true,
            Err(error) => self.wrong.push(error.to_string()),
        }
    }

    /// Whether all are right.
    pub fn check(&self) -> Check {
        let (name, expected) = ("visibility maps of all tables", "promise nothing that is not so");
        match self.wrong.as_slice() {
            [] if self.is_missing => {
                Check::note(name, expected, "not looked at: the extension pg_visibility is not installed beside the server")
            }
            [] => Check::equal(name, expected, expected),
            some => Check::equal(name, expected, format!("wrong: {}", first(some))),
        }
    }
}

/// Tables whose maps are wrong; nothing without the extension.
async fn tables_with_wrong_maps(session: &Session) -> Result<Option<Vec<String>>, SourceError> {
    let doing = "looking at visibility maps";
    let sql = "SELECT EXISTS (SELECT FROM pg_catalog.pg_available_extensions WHERE name = 'pg_visibility')";
    if !session.one::<bool>(doing, sql, &[]).await? {
        return Ok(None);
    }
    let sql = "SELECT (SELECT n.nspname::text FROM pg_catalog.pg_extension AS e JOIN pg_catalog.pg_namespace AS n ON n.oid = e.extnamespace \
               WHERE e.extname = 'pg_visibility')";
    let there: Option<String> = session.one(doing, sql, &[]).await?;
    let schema = match there {
        Some(schema) => schema,
        None => {
            let sql = format!("BEGIN; CREATE SCHEMA {SCHEMA}; CREATE EXTENSION pg_visibility WITH SCHEMA {SCHEMA}");
            session.execute(doing, &sql).await?;
            SCHEMA.to_owned()
        }
    };
    let schema = identifier(&schema);
    // Temporary tables of sessions that are gone are in the catalogue, and their files in no backup.
    let sql = format!(
        "SELECT c.oid::pg_catalog.regclass::text FROM pg_catalog.pg_class AS c WHERE c.relkind IN ('r', 't', 'm') AND c.relpersistence <> 't' \
         AND (EXISTS (SELECT {schema}.pg_check_visible(c.oid)) OR EXISTS (SELECT {schema}.pg_check_frozen(c.oid)))"
    );
    let rows = session.client.query(&sql, &[]).await.map_err(|error| session.failed(doing, &error))?;
    Ok(Some(rows.iter().map(|row| row.get(0)).collect()))
}
