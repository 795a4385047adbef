//! PostgreSQL: source kind `postgres`, method `physical`: the whole cluster, file by file, over ordinary SQL connections.
//!
//! Promises:
//! * No superuser, no access to the server's files, and for a backup no replication connection: a role with a handful of rights is enough, and one that
//!   lacks some is refused with the statements that grant them.
//! * A snapshot restores by itself: it holds the log from the beginning of the backup to its end, each segment looked at, and what
//!   `pg_backup_stop` handed over byte for byte. It is complete or there is none.
//! * Checksums of pages are looked at in passing; a wrong one is read once more, and then named.
//! * The log is followed record by record, from the first that is replayed to the last ([`records`]).
//! * Nothing that is restored or recovered writes to the directory of a tablespace that its log makes ([`in_place`]).
//! * Where the server keeps summaries of its log (17 and newer), only what changed since an earlier snapshot is read ([`incremental`]).
//!   A snapshot has all of its contents all the same, and depends on no other.
//! * Of a restored cluster that runs for us, each database is looked at once: whether this machine has its libraries and extensions and
//!   sorts as the captured one did, and which tables came back empty ([`databases`]).
//! * Of one that a drill recovered, the rows of all tables can be counted, for so long ([`rows`]).
//! * A restore writes `global/pg_control` last: a data directory that is half there cannot be started.
//!
//! Assumes: PostgreSQL 14 or newer, on a little-endian machine.
//!
//! Leaves out on purpose: what `basebackup.c` leaves out ([`select`]), and the log beyond the end of the backup.
//!
//! Entries of a snapshot, in order:
//!
//! | path | kind | content |
//! |---|---|---|
//! | `config/<path>` | `config` | a configuration file that lies outside of the data directory, by its absolute path |
//! | `data/<path>` | `file`, `directory` | what lies in the data directory; a tablespace below `data/pg_tblspc/<oid>` |
//! | `label/backup_label`, `label/tablespace_map` | `label` | as the server handed them over |
//! | `pg_control` | `control` | `global/pg_control`, read last |
//! | `wal/<name>` | `wal` | segments and timeline histories |

mod archiving;
mod capture;
mod changes;
mod checking;
mod collations;
mod configured;
mod control;
mod data;
mod databases;
mod direct;
mod examine;
mod examine_machine;
mod examine_server;
mod existing;
pub mod facts;
mod filled;
mod follow;
mod handed;
mod history;
mod in_place;
mod incremental;
mod label;
mod libraries;
mod lineage;
mod listing;
mod log;
mod outside;
mod page;
mod part;
mod read;
mod records;
mod recovery;
pub mod replication;
mod restored;
mod room;
mod rows;
mod scratch;
mod select;
mod server;
mod start;
pub mod summary;
mod tablespace;
mod target;
mod unlogged;
mod wal;

pub use archiving::{LogOptions, Streamed};
pub use capture::{PhysicalOptions, PostgresPhysical, ReadBy};
pub use changes::{Changes, PIECE_BYTES};
pub use control::Control;
pub use filled::filled;
pub use follow::{Follower, Held, Receiving, Slot, Stand, receiving};
pub use in_place::{empty as empty_paths, needs_before};
pub use label::Lsn;
pub use lineage::Lineage;
pub use records::Records;
pub use recovery::{Action, Fetch, Recovery, RecoveryTarget, Timeline};
pub use rows::{Counted, RowCount};
pub use scratch::PhysicalScratch;
pub use start::Start;
pub use target::{PhysicalTarget, PhysicalTargetOptions};
pub use wal::{FirstPage, Layout, Segment, SegmentCheck};

/// Where the entries of each kind lie in a snapshot.
const CONFIG: &str = "config/";
const DATA: &str = "data/";
const LABEL: &str = "label/backup_label";
const MAP: &str = "label/tablespace_map";
const CONTROL: &str = "pg_control";
/// Where the server keeps it, below the data directory.
pub const CONTROL_FILE: &str = "global/pg_control";
const WAL: &str = "wal/";
