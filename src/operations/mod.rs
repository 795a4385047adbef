//! Backup, copy, restore, verify, drill: the only place where sources and repository meet.
//!
//! Each operation takes a request (values and open things, nothing to be looked up) and returns a report. What would change
//! something is first planned as a plain value, which `--dry-run` prints.
//!
//! Leaves out on purpose: flags, printing, and building stores and sources from a policy (`cli`).

mod anomaly;
mod archived;
mod backup;
mod browse;
mod copy;
mod density;
mod doctor;
mod drill;
mod error;
mod exchange;
mod history;
mod keys;
mod log;
mod phases;
mod pins;
mod prune;
mod repair;
mod restore;
mod retention;
mod verify;

pub use archived::{InArchive, lists_in_archive};
pub use backup::{
    Backed, BackupPlan, BackupRequest, CHECKPOINT_EVERY, Destination, NamedSource, ShardNumber, backup, backup_shard,
    commit_shards, plan_backup,
};
pub use browse::{DiffLine, Listing, PointSummary, diff, list_entries, open_content, point_summaries};
pub use copy::{CopyRequest, CopyStep, copy, plan_copied_log, plan_copy};
pub use doctor::{MachineExamination, SiteExamination, examine_machine, examine_site, examine_sources};
pub use drill::{DrillRequest, Drilled, drill};
pub use error::OperationError;
pub use history::{Reading, Record, records, select_point, verified_points};
pub use keys::{PointKeys, check_point_keys, expected_of, open_point};
pub use log::{
    Archives, Delivered, GetRequest, LogPruneRequest, LogStatusRequest, OpenArchive, OpenLogSite, PrefetchRequest, PushRequest,
    Pushed, ReceiveBy, ReceiveRequest, SiteState, Spool, UploadEnd, UploadError, UploadRequest, UploadState, deliver, log_server,
    log_status, look_beyond, prefetch, prune_log, push, receive, system_below, upload,
};
pub use phases::Phases;
pub use pins::{PinRequest, PinSummary, pin, pinned};
pub use prune::{GiveUpRequest, GivenUp, PruneRequest, UndeleteRequest, give_up, prune, undelete};
pub use repair::{RepairRequest, repair};
pub use restore::{RestoreRequest, RestoreStep, restore};
pub use retention::{facts, planned_retention};
pub use verify::{VerifyLevel, VerifyRequest, verify};
