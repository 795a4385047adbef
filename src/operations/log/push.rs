//! Taking a file of the log from the server.
//!
//! Order: the file is looked at → it is on the disk of the spool under its name → whoever empties the spool runs → success. With
//! `synchronous`, success waits until the file has left the spool. If we stop here, anywhere, the server pushes the file again.

use std::{path::Path, sync::Arc, time::Duration};

use super::{
    Spool, io,
    local::{examine, system_around},
    off_thread, refused,
    spool::Added,
};
use crate::{
    clock::SharedClock,
    operations::OperationError,
    report::{bytes, counted},
    repository::LogName,
};

/// How often a full spool, or one that is to be emptied, is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// What a push needs.
pub struct PushRequest<'a> {
    /// Where the file waits.
    pub spool: Arc<Spool>,
    /// The file, as the server names it.
    pub path: &'a Path,
    /// Succeed only when every site has it.
    pub synchronous: bool,
    /// How long to wait for room in the spool, or for the sites.
    pub patience: Duration,
    /// Starts the process that empties the spool.
    pub start: &'a (dyn Fn() -> std::io::Result<()> + Sync),
    /// The time.
    pub clock: SharedClock,
}

/// What was pushed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// Which file.
    pub name: LogName,
    /// What the process that empties the spool complains of.
    pub warnings: Vec<String>,
}

/// Takes a file from the server. It is on the disk when this returns, and confirmed by every site if `synchronous`.
///
/// # Errors
/// [`OperationError::Refused`] for a file that is not this cluster's, for another file of the same name, and where there is no room or the
/// sites do not answer in time; [`OperationError::Io`].
pub async fn push(request: PushRequest<'_>) -> Result<Pushed, OperationError> {
    let PushRequest { spool, path, synchronous, patience, start, clock } = request;
    let owned = path.to_owned();
    let examined = off_thread(move || examine(&owned, system_around(&owned)?)).await?;
    let name = examined.name.clone();
    spool.prepare()?;
    let state = spool.state();
    let conflict = (name.system(), name.timeline());
    for error in state.sites.values().filter_map(|site| site.error.as_ref()).chain(&state.error) {
        if error.conflict == Some(conflict) && spool.is_held()? {
            return Err(refused(name.file(), error.message.clone()));
        }
    }
    let began = clock.monotonic();
    let too_late = || clock.monotonic().saturating_sub(began) >= patience;
    let size = examined.bytes.len() as u64;
    while !spool.holds(&name) && !spool.has_room(size)? {
        ensure(&spool, start)?;
        if too_late() {
            return Err(full(&spool, patience)?);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let (adding, target, content) = (Arc::clone(&spool), name.clone(), examined.bytes);
    let added = off_thread(move || adding.add(&target, &content)).await?;
    if added == Added::Other {
        return Err(refused(
            name.file(),
            format!(
                "another file of this name with other bytes waits in {}: two servers with one identity use this spool, or the file was changed after it was pushed. Give each its own policy, or, if this server is the right one, move that file away",
                spool.directory().display()
            ),
        ));
    }
    ensure(&spool, start)?;
    while synchronous && spool.holds(&name) {
        if too_late() {
            return Err(unconfirmed(&spool, &name, patience));
        }
        // It may end between the look at the spool and the wait for it.
        ensure(&spool, start)?;
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(Pushed { name, warnings: spool.state().errors() })
}

/// Sees to it that somebody empties the spool.
fn ensure(spool: &Spool, start: &(dyn Fn() -> std::io::Result<()> + Sync)) -> Result<(), OperationError> {
    if spool.is_held()? { Ok(()) } else { start().map_err(io("farshore wal upload")) }
}

/// What is said to be wrong, as the end of a sentence.
fn complaint(spool: &Spool) -> String {
    let errors = spool.state().errors();
    if errors.is_empty() { "see `farshore wal status`".to_owned() } else { format!("the last error: {}", errors.join("; ")) }
}

fn full(spool: &Spool, patience: Duration) -> Result<OperationError, OperationError> {
    let waiting = spool.waiting()?;
    let used = waiting.iter().map(|waiting| waiting.bytes).sum();
    Ok(refused(
        spool.directory().display().to_string(),
        format!(
            "the spool is full: {} ({} of {}) wait for the sites, and within {} s there was no room. The server keeps its log and tries again; {}",
            counted(waiting.len() as u64, "file"),
            bytes(used),
            bytes(spool.limit_bytes()),
            patience.as_secs(),
            complaint(spool)
        ),
    ))
}

fn unconfirmed(spool: &Spool, name: &LogName, patience: Duration) -> OperationError {
    let detail = format!(
        "was not confirmed by every site within {} s; it waits in the spool, and the server tries again; {}",
        patience.as_secs(),
        complaint(spool)
    );
    refused(name.file(), detail)
}
