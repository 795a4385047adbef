//! Handing a file of the log to a server that recovers.

use std::{
    cell::Cell,
    fs::{self, File},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use super::{
    archives::{Answer, Archives},
    in_place::keep_in_place,
    io,
    local::{check, has_itself, has_more_itself, padded},
    off_thread,
    prefetch::{Ahead, Taken, write_opened},
    refused,
};
use crate::{
    clock::SharedClock,
    operations::OperationError,
    repository::{FetchedLogFile, LogKind, LogName},
    stores::direct::write_cached,
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
    archives: impl AsyncFnOnce() -> Result<Archives, E>,
) -> Result<Delivered, E> {
    let GetRequest { name, to, in_place, start, clock } = request;
    let directory = directory_of(to)?;
    let ahead = Ahead::beside(directory);
    let mut archives = Some(archives);
    let mut at_hand = None;
    if in_place && let Some(archives) = archives.take() {
        at_hand = Some(archives().await?);
    }
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
    let archives = match (at_hand, archives) {
        (Some(archives), _) => archives,
        (None, Some(archives)) => archives().await?,
        (None, None) => return Err(refused(name.file(), "there is no site to fetch it from").into()),
    };
    // Whoever fetches ahead makes itself ready while this file is opened. What goes wrong here, and not with the file, no other site mends.
    let taken = async |file: FetchedLogFile| {
        follow();
        let (name, to) = (name.clone(), to.to_owned());
        if !in_place {
            return off_thread(move || Ok(write_opened(&file, &name, &to, Lasting::of(&to)))).await.and_then(of_here);
        }
        let place = file.place().to_owned();
        let bytes = file.whole().await?;
        check(&name, &bytes).map_err(|detail| refused(place, detail))?;
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

/// Tells what went wrong with a file that was fetched from what went wrong with writing it down here, which no other site's file mends.
pub(super) fn of_here(written: Result<(), OperationError>) -> Result<Result<(), OperationError>, OperationError> {
    match written {
        Err(error) if !matches!(error, OperationError::Io { .. }) => Err(error),
        written => Ok(written),
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

fn directory_of(to: &Path) -> Result<&Path, OperationError> {
    match (to.parent(), to.file_name()) {
        (Some(parent), Some(_)) if parent.as_os_str().is_empty() => Ok(Path::new(".")),
        (Some(parent), Some(_)) => Ok(parent),
        _ => Err(refused(to.display().to_string(), "is no path of a file; write %p in restore_command")),
    }
}

/// Names of files that are being written begin so.
const TEMPORARY: &str = ".farshore-";

/// Whether this is the name of a file that is being written.
pub(super) fn is_temporary(name: &str) -> bool {
    name.starts_with(TEMPORARY)
}

/// A file that is taken away again, unless it got its name.
struct Temporary(Option<PathBuf>);

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            let _ = fs::remove_file(path);
        }
    }
}

/// Whether a file has to outlive a crash of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lasting {
    /// It is on the disk when it gets its name.
    Synced,
    /// Nobody looks at it after a crash.
    Cached,
}

impl Lasting {
    /// PostgreSQL asks for a file under such a name, removes what lies there before it asks, and puts on the disk what it keeps
    /// (`RestoreArchivedFile`, `KeepFileRestoredFromArchive`).
    fn of(to: &Path) -> Self {
        match to.file_name().is_some_and(|name| name == "RECOVERYXLOG" || name == "RECOVERYHISTORY") {
            true => Self::Cached,
            false => Self::Synced,
        }
    }
}

/// Writes a file that is whole when it gets its name.
pub(super) fn write(to: &Path, bytes: &[u8], lasting: Lasting) -> Result<(), OperationError> {
    write_by(to, lasting, |file| write_cached(file, bytes).map_err(io(to.display().to_string())))
}

/// Writes a file that gets its name when `fill` has ended well.
pub(super) fn write_by(
    to: &Path,
    lasting: Lasting,
    fill: impl FnOnce(&mut File) -> Result<(), OperationError>,
) -> Result<(), OperationError> {
    let place = to.display().to_string();
    let directory = directory_of(to)?;
    let path = directory.join(format!("{TEMPORARY}{:016x}", rand::random::<u64>()));
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(&path).map_err(io(&place))?;
    let mut temporary = Temporary(Some(path.clone()));
    fill(&mut file)?;
    let written = match lasting {
        Lasting::Synced => file.sync_all(),
        Lasting::Cached => Ok(()),
    };
    written.and_then(|()| fs::rename(&path, to)).map_err(io(&place))?;
    temporary.0 = None;
    if lasting == Lasting::Cached {
        return Ok(());
    }
    // Whoever cannot sync a directory has the file all the same, and asks again after a crash.
    let _ = File::open(directory).and_then(|directory| directory.sync_all());
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::{Lasting, fs, refused, write_by};

    #[test]
    fn of_a_file_that_could_not_be_filled_nothing_is_left() {
        let place = tempfile::tempdir().unwrap();
        let to = place.path().join("RECOVERYXLOG");
        for lasting in [Lasting::Cached, Lasting::Synced] {
            let error = write_by(&to, lasting, |file| {
                file.write_all(b"half of it").unwrap();
                Err(refused("the other half", "is damaged"))
            });
            assert!(error.unwrap_err().to_string().contains("the other half"));
            assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
        }
        write_by(&to, Lasting::Cached, |file| {
            file.write_all(b"all").unwrap();
            Ok(())
        })
        .unwrap();
        assert_eq!((fs::read(&to).unwrap(), fs::read_dir(place.path()).unwrap().count()), (b"all".to_vec(), 1));
    }
}
