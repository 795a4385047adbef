//! Handing a file of the log to a server that recovers.

use std::{cell::Cell, fs, path::Path, time::Duration};

use super::{
    archives::{Answer, Archives, whole},
    coverage::is_recent,
    in_place::keep_in_place,
    io,
    local::{has_itself, has_more_itself, padded},
    off_thread,
    prefetch::{Ahead, Taken},
    refused,
    written::{Lasting, directory_of, write, write_opened},
};
use crate::{
    clock::SharedClock,
    operations::OperationError,
    repository::{FetchedLogFile, LaterLog, LogKind, LogName},
};

/// How often a file is looked for that may be on its way.
const LOOK_AGAIN_EVERY: Duration = Duration::from_secs(1);
/// And how long at most, where the site's time does not go on.
const PATIENCE: Duration = Duration::from_secs(90);

/// Starts the process that fetches ahead into this directory.
pub type StartPrefetch<'a> = dyn Fn(&Path) -> std::io::Result<()> + Sync + 'a;

/// What a delivery needs.
pub struct GetRequest<'a> {
    /// Which file.
    pub name: &'a LogName,
    /// Where the server wants it.
    pub to: &'a Path,
    /// Tablespaces that the log makes are kept in the data directory: for a recovery beside whatever else is there. A standby gets the log as it
    /// was written.
    pub in_place: bool,
    /// Starts the process that fetches what comes next; nothing if none is to run.
    pub start: Option<&'a StartPrefetch<'a>>,
    /// The time.
    pub clock: SharedClock,
}

/// How a delivery ended that did not fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delivered {
    /// The file is there, whole.
    File,
    /// It is proven that there is no such file, and nothing of its timeline that comes later.
    Absent,
    /// The archive has later ones, and the server has this one and what follows it itself.
    AtHand,
}

/// Delivers a file: under a name of its own first, and whole under the one that the server wants. Where the archive ends in parts of a segment, that segment is
/// delivered with zeros for what is not known.
///
/// Where the archive has later files that came only just now, it is waited for: several are stored at once, and this one may be on its way.
///
/// `archives` says where it may come from. Most files were fetched ahead, and a server waits for each: it is asked only for those that were not, and
/// where what the log makes is kept in place, which may take a look at the file before.
///
/// # Errors
/// Everything but a proof that there is no such file. A server must not take it for the end of the log.
pub async fn deliver<E: From<OperationError>>(
    request: GetRequest<'_>,
    archives: impl AsyncFn() -> Result<Archives, E>,
) -> Result<Delivered, E> {
    let GetRequest { name, to, in_place, start, clock } = request;
    let directory = directory_of(to)?;
    let ahead = Ahead::beside(directory);
    let at_hand = if in_place { Some(archives().await?) } else { None };
    let taken = ahead.take(name, to, &clock).await?;
    let is_followed = Cell::new(false);
    let follow = || {
        // What comes next is a matter of speed alone.
        if let Some(start) = start.filter(|_| name.kind() == LogKind::Segment && !is_followed.replace(true))
            && let Err(error) = ahead.follow(name, start, taken != Taken::InVain)
        {
            tracing::warn!(%error, "what comes next is not fetched ahead");
        }
    };
    if taken == Taken::File {
        if let Some(archives) = at_hand.filter(|_| name.kind() == LogKind::Segment) {
            let from = to.to_owned();
            let bytes = off_thread(move || fs::read(&from).map_err(io(from.display().to_string()))).await?;
            if let (bytes, true) = keep_in_place(name, bytes, directory, &archives).await? {
                let to = to.to_owned();
                off_thread(move || write(&to, &bytes, Lasting::of(&to))).await?;
            }
        }
        follow();
        return Ok(Delivered::File);
    }
    let archives = match at_hand {
        Some(archives) => archives,
        None => archives().await?,
    };
    // Whoever fetches ahead makes itself ready while this file is opened. What goes wrong here, and not with the file, no other site mends.
    let taken = async |file: FetchedLogFile| {
        follow();
        let (name, to) = (name.clone(), to.to_owned());
        if !in_place {
            return off_thread(move || write_opened(&file, &name, &to, Lasting::of(&to))).await;
        }
        let bytes = whole(&name, file).await?;
        let kept = async {
            let (bytes, _) = keep_in_place(&name, bytes, directory, &archives).await?;
            off_thread(move || write(&to, &bytes, Lasting::of(&to))).await
        };
        Ok(kept.await)
    };
    let began = clock.monotonic();
    loop {
        let (later, site) = match archives.fetch_by(name, &taken).await? {
            Answer::File(outcome) => return Ok(outcome.map(|()| Delivered::File)?),
            Answer::Absent => {
                // The end of the log, after which the server asks for its last segment again, and then for the next timeline's history:
                // what was fetched ahead is of no use any more.
                ahead.discard();
                match beginning(&archives, name).await? {
                    Answer::Absent => return Ok(Delivered::Absent),
                    Answer::File(bytes) => return Ok(hand_over(name, bytes, to, in_place.then_some(&archives)).await?),
                    Answer::Gap { later, site } => (later, site),
                }
            }
            Answer::Gap { later, site } => (later, site),
        };
        if has_itself(directory, name) {
            return Ok(Delivered::AtHand);
        }
        let waited = clock.monotonic().saturating_sub(began);
        if waited >= PATIENCE || !is_recent(later.since, later.now) {
            return Err(missing(name, &later, &site).into());
        }
        if waited < LOOK_AGAIN_EVERY {
            tracing::info!(
                site,
                "{} is not there, and {} came only just now: it may be on its way, and is waited for",
                name.file(),
                later.next.file()
            );
        }
        tokio::time::sleep(LOOK_AGAIN_EVERY).await;
    }
}

/// The error for a file before which the archive goes no further, and behind which it goes on.
fn missing(name: &LogName, later: &LaterLog, site: &str) -> OperationError {
    let detail = format!(
        "is missing in the archive, and {} at {site} comes after it: the log has a gap, and replay must not end here as if it were complete. Look at `farshore wal status`; if that part of the log is lost, restore to a time before the gap, or from a later point",
        later.next.file()
    );
    refused(name.file(), detail)
}

/// Delivers the last segment, unless the server has more of it itself; kept in place with the help of these archives, where it is to be.
async fn hand_over(
    name: &LogName,
    mut bytes: Vec<u8>,
    to: &Path,
    in_place: Option<&Archives>,
) -> Result<Delivered, OperationError> {
    let directory = directory_of(to)?;
    if let Some(archives) = in_place {
        bytes = keep_in_place(name, bytes, directory, archives).await?.0;
    }
    if has_more_itself(directory, name, &bytes) {
        return Ok(Delivered::AtHand);
    }
    let to = to.to_owned();
    off_thread(move || write(&to, &bytes, Lasting::of(&to))).await?;
    Ok(Delivered::File)
}

/// A segment of which only parts are archived, padded to its length; absent if not even its header is. If it is stored whole meanwhile, that;
/// and the log may have gone on.
///
/// # Errors
/// Those of the sites.
async fn beginning(archives: &Archives, name: &LogName) -> Result<Answer<Vec<u8>>, OperationError> {
    if name.kind() != LogKind::Segment {
        return Ok(Answer::Absent);
    }
    let Some(bytes) = archives.parts(name).await? else { return Ok(Answer::Absent) };
    match archives.fetch(name).await? {
        Answer::Absent => {
            let padded = padded(name, bytes).map_err(|detail| refused(name.file(), detail))?;
            Ok(padded.map_or(Answer::Absent, Answer::File))
        }
        other => Ok(other),
    }
}
