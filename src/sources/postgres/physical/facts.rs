//! What a physical snapshot says of itself.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::incremental::{End, Mark};
use crate::sources::SourceError;

/// The word that tells these facts from a logical snapshot's.
pub const METHOD: &str = "physical";

/// Whether the facts of a snapshot of kind `postgres` are a cluster's.
pub fn is_physical(facts: &serde_json::Value) -> bool {
    facts.get("method").and_then(serde_json::Value::as_str) == Some(METHOD)
}

/// The facts of a physical snapshot. Of bounded size, without secrets.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PhysicalFacts {
    /// [`METHOD`].
    pub method: String,
    /// As `server_version_num`: 150018 is 15.18.
    pub server_version_num: u32,
    /// The cluster: a number too large for some readers of JSON, hence text.
    pub system_identifier: String,
    /// The timeline on which the backup began.
    pub timeline: u32,
    /// Where replay begins.
    pub start_lsn: String,
    /// As far as the log has to be replayed for the cluster to be consistent.
    pub stop_lsn: String,
    /// Whether it was taken from a standby.
    pub from_standby: bool,
    /// Bytes of a segment of the log.
    pub wal_segment_bytes: u64,
    /// Segments that the snapshot holds.
    pub wal_segments: u64,
    /// Bytes of a page.
    pub page_bytes: u32,
    /// Whether pages carry checksums; each was looked at then.
    pub checksums: bool,
    /// Pages whose checksum was looked at.
    pub pages_checked: u64,
    /// Pages whose checksum is wrong.
    pub pages_damaged: u64,
    /// Where the data were.
    pub data_directory: String,
    /// Permissions of the data directory, octal: `700` or `750`.
    pub data_directory_mode: String,
    /// Tablespaces that lie elsewhere.
    pub tablespaces: Vec<TablespaceFacts>,
    /// Tablespaces that the log makes and does not drop again. A restore keeps them in the data directory, unless they are given a place.
    #[serde(default)]
    pub made_tablespaces: Vec<TablespaceFacts>,
    /// Records in the log that name a directory for a tablespace; nothing where nobody looked as far as a server replays.
    #[serde(default)]
    pub tablespaces_in_log: Option<u64>,
    /// Names of the databases.
    pub databases: Vec<String>,
    /// The database that the policy names.
    pub database: String,
    /// Name of a role that may do everything: the cluster's own superuser, unless only another may log in.
    pub superuser: String,
    /// Settings that a server which replays the log must have as large, or as they were; and those that say what it loads, as the captured
    /// one ran with them.
    pub settings: BTreeMap<String, String>,
    /// Unlogged relations, indexes among them: they come back empty. Their names are in a restored cluster's catalogue.
    pub unlogged_relations: u64,
    /// Files below the data directory, of relations that turned out to be unlogged while the backup ran: a restore leaves them out.
    #[serde(default)]
    pub unlogged_meanwhile: Vec<String>,
    /// How the files were read: `sql`, or `files` from the data directory itself.
    pub read_by: String,
    /// For people: what this is incremental on, or why everything was read.
    #[serde(default)]
    pub reading: String,
    /// Where the backup began from whose snapshot unchanged pieces were taken; nothing if everything was read.
    #[serde(default)]
    pub built_on: Option<String>,
    /// By which the next backup knows that the server went through the same log.
    #[serde(default)]
    pub mark: Option<Mark>,
    /// By which the next backup knows that the server went on from where this one ended.
    #[serde(default)]
    pub end: Option<End>,
    /// Files.
    pub files: u64,
    /// Those of them that had not changed, and were not read.
    #[serde(default)]
    pub unchanged_files: u64,
    /// Directories.
    pub directories: u64,
    /// Plain bytes of the files, without the log.
    pub bytes: u64,
    /// Bytes that were read from the server, the log among them.
    #[serde(default)]
    pub read_bytes: u64,
    /// Of `bytes`, those that an earlier snapshot had and that were not read.
    #[serde(default)]
    pub kept_bytes: u64,
    /// Files that were gone when they were to be read: replay does without them.
    pub vanished: u64,
}

impl PhysicalFacts {
    /// The server's major version.
    pub fn major(&self) -> u32 {
        self.server_version_num / 10_000
    }

    /// Reads the facts of a snapshot.
    ///
    /// # Errors
    /// [`SourceError::Malformed`].
    pub fn read(facts: &serde_json::Value) -> Result<Self, SourceError> {
        serde_json::from_value(facts.clone())
            .map_err(|error| SourceError::Malformed { subject: "the snapshot's facts".to_owned(), detail: error.to_string() })
    }
}

/// A tablespace that lies outside of the data directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TablespaceFacts {
    /// Its OID: the name of its link in `pg_tblspc`.
    pub oid: u32,
    /// Its name.
    pub name: String,
    /// The directory it was in.
    pub location: String,
}

#[cfg(test)]
pub(super) mod tests {
    use super::PhysicalFacts;

    /// Those of a snapshot that ends at 0/3000100.
    pub fn facts() -> PhysicalFacts {
        let text = r#"{"method": "physical", "server_version_num": 150018, "system_identifier": "1", "timeline": 1, "start_lsn": "0/2000028",
            "stop_lsn": "0/3000100", "from_standby": false, "wal_segment_bytes": 16777216, "wal_segments": 1, "page_bytes": 8192, "checksums": true,
            "pages_checked": 0, "pages_damaged": 0, "data_directory": "/d", "data_directory_mode": "700", "tablespaces": [], "databases": [],
            "database": "a", "superuser": "postgres", "settings": {}, "unlogged_relations": 0, "read_by": "sql", "files": 0, "directories": 0,
            "bytes": 0, "vanished": 0}"#;
        serde_json::from_str(text).unwrap()
    }
}
