//! What is protected.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use super::{PlainOrSecret, SecretReference, StorePolicy};

/// One `[[source]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourcePolicy {
    /// Unique within the policy; `[a-z0-9._-]`, begins with a letter or digit.
    pub name: String,
    /// What kind it is, and the settings of that kind.
    pub kind: SourceKind,
}

/// A kind of source with its settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceKind {
    /// A PostgreSQL database.
    Postgres(PostgresPolicy),
    /// The objects of a bucket, or of a prefix of one.
    Bucket(BucketPolicy),
    /// Directories and files.
    Files(FilesPolicy),
    /// The standard output of a program.
    Command(CommandPolicy),
}

impl SourceKind {
    /// The word in the policy: `postgres`, `bucket`, `files`, `command`.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Postgres(_) => "postgres",
            Self::Bucket(_) => "bucket",
            Self::Files(_) => "files",
            Self::Command(_) => "command",
        }
    }
}

/// How a PostgreSQL database is captured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PostgresMethod {
    /// Schema by `pg_dump`, rows by `COPY`, in one exported snapshot.
    #[default]
    Logical,
    /// The whole cluster, file by file, with the log that makes it consistent.
    Physical,
}

/// How a cluster's files are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PostgresReadBy {
    /// From the data directory where this machine has it and it may be read, else over SQL.
    #[default]
    Auto,
    /// Over SQL.
    Sql,
    /// From the data directory.
    Files,
}

/// A PostgreSQL database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostgresPolicy {
    /// How it is captured.
    pub method: PostgresMethod,
    /// A connection URI as libpq takes it (`postgres://…`), with a database, and never with a password.
    pub url: String,
    /// Its password; without one, `PGPASSFILE` and the server's own ways (peer, certificate) apply.
    pub password: Option<SecretReference>,
    /// Where `pg_dump` and its kin are; absolute. Without it they are looked for on the machine.
    pub bin_directory: Option<PathBuf>,
    /// How its files are read; for a physical source.
    pub read_by: PostgresReadBy,
    /// How its write-ahead log is archived; for a physical source.
    pub wal: WalPolicy,
}

/// How a cluster's log is received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PostgresReceiveBy {
    /// Streamed where the server lets that through, else over SQL.
    Auto,
    /// Streamed.
    Stream,
    /// Over SQL.
    Sql,
}

/// How a cluster's write-ahead log is archived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalPolicy {
    /// Whether the policy has a table for the log, so that it is meant to be archived.
    pub is_wanted: bool,
    /// Where files wait until all sites have them; without it a directory of the policy's name.
    pub spool: Option<PathBuf>,
    /// So many bytes may wait there.
    pub limit_bytes: u64,
    /// Whether the server is told only when all sites have a file.
    pub synchronous: bool,
    /// The replication slot of `wal receive`; without it one of the policy's name.
    pub slot: Option<String>,
    /// How `wal receive` gets what is new.
    pub receive_by: PostgresReceiveBy,
    /// So many bytes of log it may hold at the server.
    pub hold_bytes: u64,
}

impl Default for WalPolicy {
    fn default() -> Self {
        Self {
            is_wanted: false,
            spool: None,
            limit_bytes: Self::DEFAULT_LIMIT_BYTES,
            synchronous: false,
            slot: None,
            receive_by: PostgresReceiveBy::Auto,
            hold_bytes: Self::DEFAULT_HOLD_BYTES,
        }
    }
}

impl WalPolicy {
    /// What may wait where the policy gives no limit: some sixty segments, minutes of a busy server.
    pub const DEFAULT_LIMIT_BYTES: u64 = 1 << 30;
    /// A limit below this would not hold the segments that are on their way at once.
    pub const LEAST_LIMIT_BYTES: u64 = 64 << 20;
    /// What a slot may hold where the policy says nothing: a site may be away for hours.
    pub const DEFAULT_HOLD_BYTES: u64 = 10 << 30;
    /// Less would be exceeded by a checkpoint's worth of log.
    pub const LEAST_HOLD_BYTES: u64 = 64 << 20;

    /// The name of the slot, for this policy: of what the server allows in such names.
    pub fn slot_name(&self, policy: &str) -> String {
        let allowed = |letter: char| if matches!(letter, 'a'..='z' | '0'..='9') { letter } else { '_' };
        let own = || format!("farshore_{policy}").chars().map(allowed).take(MOST_SLOT_LETTERS).collect();
        self.slot.clone().unwrap_or_else(own)
    }
}

/// `NAMEDATALEN` without its end.
const MOST_SLOT_LETTERS: usize = 63;

/// Whether the server takes this for the name of a slot.
pub fn is_slot_name(text: &str) -> bool {
    (1..=MOST_SLOT_LETTERS).contains(&text.len()) && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'))
}

/// The objects of a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketPolicy {
    /// The bucket, container or directory.
    pub store: StorePolicy,
    /// Every backup asks what holds each object, whether the object changed or not.
    pub locks: bool,
    /// How objects are asked for that lie in an archive; without it they are left there.
    pub rehydrate: Option<RehydratePolicy>,
}

/// How soon what lies in an archive is brought back, and for how much money.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetrievalSpeed {
    /// As cheap as can be.
    Bulk,
    /// What the provider does where nothing is said.
    Standard,
    /// As soon as can be.
    High,
}

/// How objects are brought back from an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RehydratePolicy {
    /// How soon.
    pub speed: RetrievalSpeed,
    /// For so many days they can be read, where the provider makes a copy.
    pub days: u16,
}

impl RehydratePolicy {
    /// What holds where the policy says nothing: a backup that fails once or twice meanwhile still finds them.
    pub const DEFAULT_DAYS: u16 = 3;
}

/// Directories and files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilesPolicy {
    /// Absolute paths, at least one, none within another.
    pub paths: Vec<PathBuf>,
    /// Patterns in the language of `.gitignore`; if there are any, only what matches one is captured.
    pub include: Vec<String>,
    /// Patterns in the language of `.gitignore` that are left out.
    pub exclude: Vec<String>,
    /// Stay on the file systems of `paths`.
    pub one_file_system: bool,
}

/// The standard output of a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandPolicy {
    /// The program and its arguments; no shell is involved.
    pub capture: Vec<String>,
    /// It is stopped, and the capture fails, after this long. Default five minutes.
    pub timeout: Duration,
    /// Added to its environment.
    pub environment: BTreeMap<String, PlainOrSecret>,
    /// A program that takes the output on its standard input and restores it.
    pub restore: Option<Vec<String>>,
}

impl CommandPolicy {
    /// The time limit where the policy gives none. Cluster-state dumps take seconds; a hanging API server must not hold up the
    /// night's recovery point.
    pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(300);
}
