//! Taking a file of the log from the server.
//!
//! Order: the file is looked at → it is on the disk of the spool under its name → whoever empties the spool runs → success. With
//! `synchronous`, success waits until the file has left the spool. If we stop here, anywhere, the server pushes the file again.
//! A segment that whoever empties the spool has taken from the server already is a success as soon as every site has it.

use std::{path::Path, sync::Arc, time::Duration};

use super::{
    Spool, io,
    local::{examine, system_around},
    off_thread,
    ready::Ready,
    refused,
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

/// How long a segment that is on its way to the sites is waited for, before it is taken into the spool as well.
const COMING_LASTS: Duration = Duration::from_secs(2);
/// How often that is looked at.
const LOOK_FOR_COMING_EVERY: Duration = Duration::from_millis(3);

/// So long a process may take until it is seen to empty the spool.
const START_LASTS: Duration = Duration::from_secs(2);

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
    let system = off_thread(move || system_around(&owned)).await?;
    let began = clock.monotonic();
    if let Some(name) = path.file_name().and_then(|name| LogName::new(system, name.to_str()?))
        && is_at_the_sites(&spool, &name, path, patience.min(COMING_LASTS), &clock).await?
    {
        return Ok(Pushed { name, warnings: spool.state().errors() });
    }
    let owned = path.to_owned();
    let examined = off_thread(move || examine(&owned, system)).await?;
    let name = examined.name.clone();
    if examined.is_left {
        let said =
            format!("{name} is not archived: its timeline was left in it, and the next one begins with a copy of what it has");
        return Ok(Pushed { name, warnings: vec![said] });
    }
    spool.prepare()?;
    let state = spool.state();
    let conflict = (name.system(), name.timeline());
    for error in state.sites.values().filter_map(|site| site.error.as_ref()).chain(&state.error) {
        if error.conflict == Some(conflict) && spool.is_held()? {
            return Err(refused(name.file(), error.message.clone()));
        }
    }
    let mut starter = Starter { start, clock: &clock, started: None };
    let too_late = || clock.monotonic().saturating_sub(began) >= patience;
    let size = examined.bytes.len() as u64;
    while !spool.holds(&name) && !spool.has_room(size)? {
        starter.ensure(&spool)?;
        if too_late() {
            return Err(full(&spool, patience)?);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let (adding, target) = (Arc::clone(&spool), name.clone());
    let added = off_thread(move || adding.add(&target, &examined.bytes, examined.written_at)).await?;
    if added == Added::Other {
        return Err(refused(
            name.file(),
            format!(
                "another file of this name with other bytes waits in {}: two servers with one identity use this spool, or the file was changed after it was pushed. Give each its own policy, or, if this server is the right one, move that file away",
                spool.directory().display()
            ),
        ));
    }
    Ready(&spool).follow(system, path);
    starter.ensure(&spool)?;
    while synchronous && spool.holds(&name) {
        if too_late() {
            return Err(unconfirmed(&spool, &name, patience));
        }
        // It may end between the look at the spool and the wait for it.
        starter.ensure(&spool)?;
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(Pushed { name, warnings: spool.state().errors() })
}

/// Whether every site has this file of the server already, or will in a moment.
async fn is_at_the_sites(
    spool: &Spool,
    name: &LogName,
    path: &Path,
    patience: Duration,
    clock: &SharedClock,
) -> Result<bool, OperationError> {
    let (ready, began) = (Ready(spool), clock.monotonic());
    loop {
        // In this order: the one mark goes when the other has come.
        let is_coming = ready.is_coming(name);
        if ready.is_stored(name, path) {
            return Ok(true);
        }
        if !is_coming || clock.monotonic().saturating_sub(began) >= patience || !spool.is_held()? {
            return Ok(false);
        }
        tokio::time::sleep(LOOK_FOR_COMING_EVERY).await;
    }
}

/// Sees to it that somebody empties the spool.
struct Starter<'a> {
    start: &'a (dyn Fn() -> std::io::Result<()> + Sync),
    clock: &'a SharedClock,
    started: Option<Duration>,
}

impl Starter<'_> {
    fn ensure(&mut self, spool: &Spool) -> Result<(), OperationError> {
        let now = self.clock.monotonic();
        // One that was just started takes a moment to hold the lock.
        let is_coming = self.started.is_some_and(|started| now.saturating_sub(started) < START_LASTS);
        if is_coming || spool.is_held()? {
            return Ok(());
        }
        self.started = Some(now);
        (self.start)().map_err(io("farshore wal upload"))
    }
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
