//! The archive of a cluster's log: pushed by `archive_command`, fetched by `restore_command`.
//!
//! Promises:
//! * A file that was pushed with success is on the disk of the spool, or confirmed by every site. It leaves the spool only when every
//!   site has confirmed it. A crash anywhere loses nothing that was acknowledged.
//! * The same file again is a success, another one of the same name is an error, in the spool and at the sites.
//! * What belongs to another cluster, or is not what its name says, is refused.
//! * *Absent* is said only where every site has answered, has no such file, and none of the timeline that comes later. Everything else
//!   that is not the file is an error: the server would end its recovery, and become a primary that lacks what was committed.
//! * Pruning deletes only what lies before the beginning of every recovery point that is there, whoever made it.
//!
//! * What is received from the server beside that ([`receive`]) is stored at every site before its slot lets go of it.
//!
//! Leaves out on purpose: recovery itself.

mod archives;
mod beyond;
mod copy;
mod coverage;
mod deliver;
mod ended;
mod in_place;
mod local;
mod prefetch;
mod prune;
mod push;
mod ready;
mod receive;
mod spool;
mod status;
mod upload;
mod written;

pub use archives::{Archives, OpenArchive};
pub use beyond::look_beyond;
pub(super) use copy::{LogCopyRequest, copy_log, plan_log};
pub use deliver::{Delivered, GetRequest, deliver};
pub(super) use ended::{log_ended_at, log_ended_before};
pub use local::system_below;
pub use prefetch::{PrefetchRequest, prefetch};
pub use prune::{LogPruneRequest, prune_log};
pub use push::{PushRequest, Pushed, push};
pub use receive::{ReceiveBy, ReceiveRequest, receive};
pub use spool::{SiteState, Spool, UploadError, UploadState};
pub use status::{LogStatusRequest, log_server, log_status};
pub use upload::{OpenLogSite, UploadEnd, UploadRequest, upload};

use super::OperationError;
use crate::repository::LogName;

/// An error of a local file.
fn io(subject: impl Into<String>) -> impl FnOnce(std::io::Error) -> OperationError {
    let subject = subject.into();
    move |source| OperationError::Io { subject, source }
}

fn refused(subject: impl Into<String>, detail: impl Into<String>) -> OperationError {
    OperationError::Refused { subject: subject.into(), detail: detail.into() }
}

/// The error for a file of whose name another one is archived at `place`.
fn another_is_archived(place: String, name: &LogName) -> OperationError {
    let detail = format!(
        "another file of this name with other bytes is archived, so that nothing more of timeline {} is: two servers with one identity write to this archive, as after a fail-over when the old primary still runs. Stop the wrong one; if this is the right one, archive it to another site",
        name.timeline()
    );
    refused(place, detail)
}

/// Runs what waits for disks off the async threads.
async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, OperationError> + Send + 'static,
) -> Result<T, OperationError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(refused("the log", format!("a defect: {error}"))))
}
