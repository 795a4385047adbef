//! Which files of a data directory belong into a backup: what `basebackup.c` takes, told apart by exact names.

use super::summary::Locator;

/// OIDs of the tablespaces `pg_default` and `pg_global`.
const DEFAULT_TABLESPACE: u32 = 1663;
const GLOBAL_TABLESPACE: u32 = 1664;
/// Directories directly below the data directory whose contents a starting server makes anew; they themselves are kept.
const EMPTIED: [&str; 8] =
    ["pg_wal", "pg_replslot", "pg_dynshmem", "pg_notify", "pg_serial", "pg_snapshots", "pg_stat_tmp", "pg_subtrans"];
/// Files directly below the data directory that belong to the running server, or to another backup.
const LEFT_OUT: [&str; 7] = [
    "backup_label",
    "backup_manifest",
    "current_logfiles.tmp",
    "postgresql.auto.conf.tmp",
    "postmaster.opts",
    "postmaster.pid",
    "tablespace_map",
];

/// What becomes of a name in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is captured; a directory with all that is below it.
    Taken,
    /// A directory that is kept and whose contents are not.
    Emptied,
    /// It is left out.
    Left,
}

/// Decides for a name in `parent`, a path relative to the data directory (empty for itself). `version_directory` is the one that
/// belongs to this server within a tablespace: `PG_15_202209061`.
pub fn fate(parent: &str, name: &str, is_directory: bool, version_directory: &str) -> Fate {
    if name.starts_with("pgsql_tmp") {
        return Fate::Left;
    }
    if parent.is_empty() {
        return match is_directory {
            true if EMPTIED.contains(&name) => Fate::Emptied,
            false if LEFT_OUT.contains(&name) || name.starts_with(".s.PGSQL.") => Fate::Left,
            _ => Fate::Taken,
        };
    }
    if !is_directory && (is_relcache(name) || is_database(parent) && is_temporary(name)) {
        return Fate::Left;
    }
    let in_tablespace = parent.strip_prefix("pg_tblspc/").is_some_and(|rest| !rest.is_empty() && !rest.contains('/'));
    if in_tablespace && name != version_directory { Fate::Left } else { Fate::Taken }
}

/// `pg_internal.init`, or what is being written to take its place: `pg_internal.init.4711`.
fn is_relcache(name: &str) -> bool {
    name.strip_prefix("pg_internal.init").is_some_and(|rest| rest.is_empty() || rest.strip_prefix('.').is_some_and(is_number))
}

/// Whether a directory holds the relations of one database: `base/5`, `pg_tblspc/16400/PG_15_202209061/5`.
pub fn is_database(directory: &str) -> bool {
    let parts: Vec<&str> = directory.split('/').collect();
    match parts.as_slice() {
        ["base", database] => is_number(database),
        ["pg_tblspc", tablespace, version, database] => is_number(tablespace) && version.starts_with("PG_") && is_number(database),
        _ => false,
    }
}

/// A relation of a session's own: `t3_16384`, with a fork and a segment as others have.
fn is_temporary(name: &str) -> bool {
    let backend = name.strip_prefix('t').and_then(|rest| rest.split_once('_'));
    backend.is_some_and(|(backend, relation)| is_number(backend) && Relation::parse(relation).is_some())
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Which part of a relation a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fork {
    /// Its rows.
    Main,
    /// Its free space.
    FreeSpace,
    /// Which of its pages all can see.
    Visibility,
    /// What an unlogged relation is after a crash.
    Init,
}

/// The name of a relation's file: `16384`, `16384.3`, `16384_vm`, `16384_fsm.1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Relation {
    /// Its file number.
    pub number: u32,
    /// Which part.
    pub fork: Fork,
    /// Which segment of it.
    pub segment: u32,
}

impl Relation {
    /// Reads a name, which has to be written exactly as the server writes it.
    pub fn parse(name: &str) -> Option<Self> {
        let (stem, segment) = match name.split_once('.') {
            Some((stem, segment)) => (stem, exact(segment).filter(|segment| *segment > 0)?),
            None => (name, 0),
        };
        let (number, fork) = match stem.split_once('_') {
            None => (stem, Fork::Main),
            Some((number, "fsm")) => (number, Fork::FreeSpace),
            Some((number, "vm")) => (number, Fork::Visibility),
            Some((number, "init")) => (number, Fork::Init),
            Some(_) => return None,
        };
        Some(Self { number: exact(number)?, fork, segment })
    }

    /// Whether a file below the data directory is a relation's, and which: only in databases and among the shared ones.
    pub fn of(path: &str) -> Option<Self> {
        let (directory, name) = path.rsplit_once('/')?;
        if directory == "global" || is_database(directory) { Self::parse(name) } else { None }
    }
}

/// Where the log says that a relation's file is.
pub fn locator(path: &str) -> Option<Locator> {
    let number = Relation::of(path)?.number;
    let parts: Vec<&str> = path.split('/').collect();
    let (tablespace, database) = match parts.as_slice() {
        ["global", _] => (GLOBAL_TABLESPACE, 0),
        ["base", database, _] => (DEFAULT_TABLESPACE, exact(database)?),
        ["pg_tblspc", tablespace, _, database, _] => (exact(tablespace)?, exact(database)?),
        _ => return None,
    };
    Some(Locator { tablespace, database, number })
}

/// A number without leading zeros.
fn exact(text: &str) -> Option<u32> {
    let plain = is_number(text) && (text == "0" || !text.starts_with('0'));
    plain.then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::{Fate, Fork, Locator, Relation, fate, locator};

    const VERSION: &str = "PG_15_202209061";

    #[test]
    fn names_are_told_apart_exactly() {
        let table = [
            ("", "base", true, Fate::Taken),
            ("", "pg_wal", true, Fate::Emptied),
            ("", "pg_replslot", true, Fate::Emptied),
            ("", "pg_subtrans", true, Fate::Emptied),
            ("", "pg_xact", true, Fate::Taken),
            ("", "pg_stat", true, Fate::Taken),
            ("", "pg_wal", false, Fate::Taken),
            ("", "PG_VERSION", false, Fate::Taken),
            ("", "postmaster.pid", false, Fate::Left),
            ("", "postmaster.pid.old", false, Fate::Taken),
            ("", "backup_label", false, Fate::Left),
            ("", "backup_label.old", false, Fate::Taken),
            ("", "tablespace_map", false, Fate::Left),
            ("", "postgresql.auto.conf", false, Fate::Taken),
            ("", "postgresql.auto.conf.tmp", false, Fate::Left),
            ("", ".s.PGSQL.5432", false, Fate::Left),
            ("global", "pg_internal.init", false, Fate::Left),
            ("base/5", "pg_internal.init.4711", false, Fate::Left),
            ("base/5", "pg_internal.initial", false, Fate::Taken),
            ("base", "pgsql_tmp", true, Fate::Left),
            ("base/pgsql_tmp", "pgsql_tmp42.0", false, Fate::Left),
            ("base/5", "16384", false, Fate::Taken),
            ("base/5", "t3_16384", false, Fate::Left),
            ("base/5", "t3_16384_fsm.1", false, Fate::Left),
            ("base/5", "t3_16384_other", false, Fate::Taken),
            ("base/5", "table", false, Fate::Taken),
            ("pg_tblspc", "16400", true, Fate::Taken),
            ("pg_tblspc/16400", VERSION, true, Fate::Taken),
            ("pg_tblspc/16400", "PG_14_202107181", true, Fate::Left),
            ("pg_tblspc/16400", "lost+found", true, Fate::Left),
            ("pg_tblspc/16400/PG_15_202209061/5", "t1_2", false, Fate::Left),
            ("log", "t3_16384", false, Fate::Taken),
            ("log", "postmaster.pid", false, Fate::Taken),
        ];
        for (parent, name, is_directory, expected) in table {
            assert_eq!(fate(parent, name, is_directory, VERSION), expected, "{parent}/{name}");
        }
    }

    #[test]
    fn relations_are_known_by_their_names_and_their_directories() {
        let relation = |number, fork, segment| Some(Relation { number, fork, segment });
        let table = [
            ("base/5/16384", relation(16_384, Fork::Main, 0)),
            ("base/5/16384.12", relation(16_384, Fork::Main, 12)),
            ("base/5/16384_vm", relation(16_384, Fork::Visibility, 0)),
            ("global/1262_fsm", relation(1262, Fork::FreeSpace, 0)),
            ("pg_tblspc/16400/PG_15_202209061/5/9_init.1", relation(9, Fork::Init, 1)),
            ("base/5/016384", None),
            ("base/5/16384.0", None),
            ("base/5/16384.01", None),
            ("base/5/16384_xx", None),
            ("base/5/PG_VERSION", None),
            ("base/5/99999999999", None),
            ("global/pg_control", None),
            ("pg_xact/0000", None),
            ("log/16384", None),
        ];
        for (path, expected) in table {
            assert_eq!(Relation::of(path), expected, "{path}");
        }
    }

    #[test]
    fn the_log_names_a_file_by_tablespace_database_and_number() {
        let at = |tablespace, database, number| Some(Locator { tablespace, database, number });
        let table = [
            ("base/5/16384", at(1663, 5, 16_384)),
            ("base/5/16384.12", at(1663, 5, 16_384)),
            ("global/1262", at(1664, 0, 1262)),
            ("pg_tblspc/16400/PG_18_202506291/5/9_vm", at(16_400, 5, 9)),
            ("base/05/16384", None),
            ("base/5/PG_VERSION", None),
            ("pg_xact/0000", None),
        ];
        for (path, expected) in table {
            assert_eq!(locator(path), expected, "{path}");
        }
    }
}
