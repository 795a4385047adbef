//! Handing a file of the log to a server that recovers.

use std::{cell::Cell, fs, path::Path};

use super::{
    archives::{Answer, Archives, whole},
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
    repository::{FetchedLogFile, LogKind, LogName},
};

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
    match archives.fetch_by(name, taken).await? {
        Answer::File(outcome) => Ok(outcome.map(|()| Delivered::File)?),
        Answer::Absent => {
            // The end of the log, after which the server asks for its last segment again, and then for the next timeline's history:
            // what was fetched ahead is of no use any more.
            ahead.discard();
            let beginning = if name.kind() == LogKind::Segment { beginning(&archives, name).await? } else { None };
            let Some(mut bytes) = beginning else { return Ok(Delivered::Absent) };
            if in_place {
                bytes = keep_in_place(name, bytes, directory, &archives).await?.0;
            }
            if has_more_itself(directory, name, &bytes) {
                return Ok(Delivered::AtHand);
            }
            let to = to.to_owned();
            off_thread(move || write(&to, &bytes, Lasting::of(&to))).await?;
            Ok(Delivered::File)
        }
        Answer::Gap { .. } if has_itself(directory, name) => Ok(Delivered::AtHand),
        Answer::Gap { next, site } => Err(refused(
            name.file(),
            format!(
                "is missing in the archive, and {} at {site} comes after it: the log has a gap, and replay must not end here as if it were complete. Look at `farshore wal status`; if that part of the log is lost, restore to a time before the gap, or from a later point",
                next.file()
            ),
        )
        .into()),
    }
}

/// A segment of which only parts are archived, padded to its length; nothing if not even its header is. If it is stored whole meanwhile, that.
///
/// # Errors
/// Those of the sites; if the log went on meanwhile, that it did: the server asks again.
async fn beginning(archives: &Archives, name: &LogName) -> Result<Option<Vec<u8>>, OperationError> {
    let Some(bytes) = archives.parts(name).await? else { return Ok(None) };
    match archives.fetch(name).await? {
        Answer::Absent => padded(name, bytes).map_err(|detail| refused(name.file(), detail)),
        Answer::File(whole) => Ok(Some(whole)),
        Answer::Gap { next, site } => {
            Err(refused(name.file(), format!("{} came to {site} while parts of it were fetched: try again", next.file())))
        }
    }
}
