//! What happened, as plain values, and how they read.
//!
//! Promises: nothing here does I/O or knows other rooms; every value serialises to the JSON that `--json` prints and drills
//! store, and has a text for people. Field names end in their unit. Whatever comes from outside (object keys, server messages)
//! is shown without control characters. Leaves out on purpose: doing anything about it.

mod anomaly;
mod backup;
mod check;
mod copy;
mod doctor;
mod drill;
mod drill_text;
pub mod exit;
mod figures;
mod log;
mod phase;
mod problem;
mod prune;
mod recovery;
mod repair;
mod restore;
mod rows;
mod shard;
mod table;
mod verify;

pub use anomaly::{Anomaly, AnomalyKind};
pub use backup::{BackupReport, SourceReport};
pub use check::{Check, CheckOutcome, PhaseTime};
pub use copy::{CopiedLog, CopiedPoint, CopyReport};
pub use doctor::{DoctorReport, Examined, Finding};
pub use drill::{Agent, DrillReport, DrilledPoint, EVIDENCE_SCHEMA_VERSION, EvidenceLink, Isolation, TrendEntry, Verdict};
pub use exit::{ExitCode, GetCode};
pub use figures::{Look, bytes, count, counted, printable, seconds, timestamp};
pub use log::{
    LogGap, LogPoint, LogPruneReport, LogServerReport, LogSiteReport, LogStatusReport, LogSystem, LogTimeline, SpoolReport,
};
pub use phase::{PHASES, Phase, rto_seconds};
pub use problem::{Problem, problem_lines};
pub use prune::{Amount, PointVerdict, PruneReport};
pub use recovery::{RpoFigures, RtoFigures};
pub(crate) use repair::hurt_words;
pub use repair::{Hurt, HurtPoint, HurtSource, RepairReport};
pub use restore::{RestoreReport, RestoredSource};
pub use rows::{DatabaseRows, TableRows};
pub use shard::ShardReport;
pub use table::{Align, Table};
pub use verify::{Damage, ReadPart, VerifyReport};
