//! What a cluster's own files say: whose log it is, and whether a file of it is what its name says.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use super::{io, refused};
use crate::{
    operations::OperationError,
    repository::{LogKind, LogName, MAX_LOG_FILE_BYTES},
    sources::postgres::physical::{CONTROL_FILE, Control, FirstPage, Lineage, filled},
};

/// A server writes the file in one piece; whoever reads it in between looks again.
const LOOKS: usize = 20;
const BETWEEN_LOOKS: Duration = Duration::from_millis(10);
/// Bytes of `pg_control` that matter.
const CONTROL_BYTES: u64 = 8192;
/// More than the header of a segment.
const HEADER_BYTES: u64 = 64;

/// The system identifier of the data directory `below`.
///
/// # Errors
/// [`OperationError::Refused`] if there is none, or its control file is damaged.
pub fn system_below(below: &Path) -> Result<u64, OperationError> {
    let path = control_below(below);
    let place = path.display().to_string();
    for look in 0..LOOKS {
        if look > 0 {
            std::thread::sleep(BETWEEN_LOOKS);
        }
        let mut bytes = Vec::new();
        let read = File::open(&path).and_then(|file| file.take(CONTROL_BYTES).read_to_end(&mut bytes));
        read.map_err(|error| {
            refused(&place, format!("the cluster's control file cannot be read: {error}; run this in the data directory, as the server's user (PostgreSQL does)"))
        })?;
        if let Some(control) = Control::parse(&bytes) {
            return Ok(control.system);
        }
    }
    Err(refused(place, "is no sound control file of a cluster: its checksum is wrong"))
}

/// Where the control file of a data directory lies.
pub fn control_below(below: &Path) -> PathBuf {
    below.join(CONTROL_FILE)
}

/// The system identifier of the cluster that a file in its `pg_wal` belongs to: of the data directory around it, else of the directory
/// that we are in, which is where the server runs its commands.
pub(super) fn system_around(path: &Path) -> Result<u64, OperationError> {
    let around = path.parent().and_then(Path::parent).filter(|around| control_below(around).exists());
    system_below(around.unwrap_or(Path::new("")))
}

/// A file of a log, read and found to be what its name says.
pub(super) struct Examined {
    pub(super) name: LogName,
    pub(super) bytes: Vec<u8>,
    /// When the server wrote to it last: there its log ended then, and went on in the next.
    pub(super) written_at: SystemTime,
    /// It is the beginning of a segment, in which its timeline was left: nothing is lost without it.
    pub(super) is_left: bool,
}

/// Reads a file of the log of the cluster `system`.
///
/// # Errors
/// [`OperationError::Refused`] for one that belongs to another cluster or is not what its name says.
pub(super) fn examine(path: &Path, system: u64) -> Result<Examined, OperationError> {
    examine_into(Vec::new(), path, system)
}

/// The same, into an empty buffer that was used before.
///
/// # Errors
/// As above.
pub(super) fn examine_into(mut bytes: Vec<u8>, path: &Path, system: u64) -> Result<Examined, OperationError> {
    let place = path.display().to_string();
    let file_name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let Some(name) = LogName::new(system, file_name) else {
        return Err(refused(
            place,
            "is no file that PostgreSQL archives: expected a segment (24 digits), or what ends in .history, .backup or .partial; write %p in archive_command",
        ));
    };
    let file = File::open(path).map_err(io(&place))?;
    let found = file.metadata().map_err(io(&place))?;
    let (length, written_at) = (found.len(), found.modified().map_err(io(&place))?);
    if length > MAX_LOG_FILE_BYTES {
        return Err(refused(
            place,
            format!(
                "has {length} bytes, and no more than {} MiB are taken: clusters with larger segments (initdb --wal-segsize) cannot be archived",
                MAX_LOG_FILE_BYTES >> 20
            ),
        ));
    }
    bytes.reserve_exact(usize::try_from(length).unwrap_or(0));
    file.take(MAX_LOG_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(io(&place))?;
    check(&name, &bytes).map_err(|detail| {
        refused(
            &place,
            format!("{detail}; it is not archived. See whether this is the right data directory, and whether its disk is sound"),
        )
    })?;
    let beginning = if name.kind() == LogKind::Segment { filled(&bytes).err() } else { None };
    let is_left = beginning.is_some() && was_left_in(path);
    match beginning {
        Some(detail) if !is_left => Err(refused(
            place,
            format!(
                "{detail}: it is the beginning of a segment, as `farshore wal get` hands it to a standby while the primary has not finished it, and is not archived as if it were whole. It is by itself once the standby has fetched the whole one. What a lost server left unfinished, copy to pg_wal of the one that recovers"
            ),
        )),
        _ => Ok(Examined { name, bytes, written_at, is_left }),
    }
}

/// Whether a segment is the one in which its timeline was left, as the history of a later one beside it says. The later one begins with a copy of what
/// was written of it, and a standby that archives as well (`archive_mode = always`) has it archived as it is.
fn was_left_in(path: &Path) -> bool {
    let parts = || {
        let (directory, name) = (path.parent()?, path.file_name()?.to_str()?);
        let mut header = Vec::new();
        File::open(path).ok()?.take(HEADER_BYTES).read_to_end(&mut header).ok()?;
        let layout = FirstPage::read(&header)?.layout;
        let segment = layout.parse(name)?;
        let left_here = |entry: std::fs::DirEntry| {
            let later = u32::from_str_radix(entry.file_name().to_str()?.strip_suffix(".history")?, 16).ok()?;
            let mut history = Vec::new();
            File::open(entry.path()).ok()?.take(MAX_LOG_FILE_BYTES).read_to_end(&mut history).ok()?;
            let left = Lineage::parse(later, Some(&history))?.left_at(segment.timeline)?;
            Some(layout.segment_of(left) == segment.number)
        };
        Some(std::fs::read_dir(directory).ok()?.flatten().filter_map(left_here).any(|is_here| is_here))
    };
    parts().unwrap_or(false)
}

/// Whether a file is what its name says, as far as its bytes tell.
///
/// # Errors
/// What is wrong, in words.
pub(super) fn check(name: &LogName, bytes: &[u8]) -> Result<(), String> {
    check_beginning(name, bytes, bytes.len() as u64)
}

/// The same for a file of so many bytes, of which these are the first: its header at least.
///
/// # Errors
/// What is wrong, in words.
pub(super) fn check_beginning(name: &LogName, beginning: &[u8], bytes: u64) -> Result<(), String> {
    match (name.kind(), name.segment()) {
        (LogKind::Segment | LogKind::Partial, Some(segment)) => {
            let page = FirstPage::read(beginning).ok_or_else(|| "does not begin with the header of a segment".to_owned())?;
            page.check(segment, name.system(), bytes).map(|_| ())
        }
        _ if bytes == 0 => Err("is empty".to_owned()),
        _ => Ok(()),
    }
}

/// The whole segment that begins with these bytes, with zeros for those that are not known: replay ends where they begin. Nothing if they
/// are too few to tell how long it is.
///
/// # Errors
/// In words, if they are no such beginning.
pub(super) fn padded(name: &LogName, mut bytes: Vec<u8>) -> Result<Option<Vec<u8>>, String> {
    let Some(page) = FirstPage::read(&bytes) else { return Ok(None) };
    let whole = usize::try_from(page.layout.segment_bytes).unwrap_or(usize::MAX);
    if bytes.len() > whole || whole as u64 > MAX_LOG_FILE_BYTES {
        return Err(format!("has parts of {} bytes, and its header says {whole}", bytes.len()));
    }
    bytes.resize(whole, 0);
    check(name, &bytes).map(|()| Some(bytes))
}

/// Whether a server has all of `ours` of this segment itself, and more: then its own takes it further.
pub(super) fn has_more_itself(directory: &Path, name: &LogName, ours: &[u8]) -> bool {
    let Ok(own) = std::fs::read(directory.join(name.file())) else { return false };
    // What is known ends where there are only zeros.
    let known = ours.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let begins_alike = own.len() == ours.len() && own.get(..known) == ours.get(..known);
    begins_alike && own[known..].iter().any(|byte| *byte != 0)
}

/// Whether a server has this segment itself, and a later one of its timeline as well, so that it is whole.
pub(super) fn has_itself(directory: &Path, name: &LogName) -> bool {
    let Some(own) = name.segment().filter(|_| name.kind() == LogKind::Segment) else { return false };
    let holds = |segment: &str| {
        let mut header = Vec::new();
        let read = File::open(directory.join(segment)).and_then(|file| {
            let length = file.metadata()?.len();
            file.take(HEADER_BYTES).read_to_end(&mut header)?;
            Ok(length)
        });
        read.is_ok_and(|length| FirstPage::read(&header).is_some_and(|page| page.check(segment, name.system(), length).is_ok()))
    };
    let Ok(there) = std::fs::read_dir(directory) else { return false };
    let names = there.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut later = names.filter(|other| other.len() == 24 && other[..8] == own[..8] && other.as_str() > own);
    holds(own) && later.any(|other| holds(&other))
}
