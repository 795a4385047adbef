//! Reading one regular file.

use std::{
    collections::VecDeque,
    ffi::OsStr,
    fs::File,
    io,
    os::unix::{ffi::OsStrExt, fs::FileExt},
    sync::Arc,
};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use rustix::{
    fs::{Mode, OFlags, Stat, fstat, open},
    io::Errno,
};

use super::{
    FILE,
    attributes::{FileAttributes, ctime, mtime, size},
    metadata::{absolute, kind, of_stat, xattrs_of_file},
    owners::Owners,
    sparse,
};
use crate::{
    progress::SharedObserver,
    sources::{Cut, Entry, Sink, SourceError},
};

/// Bytes read at once.
const PIECE_BYTES: usize = 1 << 20;

/// Between a file's last change and its reading, for its times to show any later change: the kernel's clock for them ticks
/// some hundred times a second, and some file systems keep whole (FAT: even) seconds.
const FINE_TICK_MILLISECONDS: i64 = 100;
const COARSE_TICK_MILLISECONDS: i64 = 2100;

/// What became of a file.
pub(super) enum Outcome {
    /// It was read; `changed` if not all of it may show the same instant; `partial` names what could not be read of it.
    Read { entry: Entry, several_names: bool, changed: bool, partial: Option<String> },
    /// It could not be read, or not to its end.
    Unreadable { path: Vec<u8>, error: io::Error },
}

/// Reads a file into the sink; an error is one that ends the capture.
pub(super) async fn read_file(
    path: Vec<u8>,
    size_hint: u64,
    sink: &dyn Sink,
    observer: &SharedObserver,
    owners: &Arc<Owners>,
    now: DateTime<Utc>,
) -> Result<Outcome, SourceError> {
    let mut writer = sink.content(Cut::ContentDefined, Some(size_hint)).await?;
    let opened = {
        let (path, owners) = (path.clone(), Arc::clone(owners));
        blocking(move || Reader::open(&path, &owners, now).and_then(Reader::piece)).await
    };
    let (mut reader, mut piece) = match opened {
        Ok(opened) => opened,
        Err(error) => return Ok(Outcome::Unreadable { path, error }),
    };
    while !piece.is_empty() {
        observer.bytes(piece.len() as u64);
        if reader.ended() {
            writer.write(std::mem::take(&mut piece)).await?;
            break;
        }
        // The next piece is read while this one is written.
        let next = tokio::task::spawn_blocking(move || reader.piece());
        writer.write(std::mem::take(&mut piece)).await?;
        (reader, piece) = match next.await.map_err(io::Error::other).flatten() {
            Ok(next) => next,
            Err(error) => return Ok(Outcome::Unreadable { path, error }),
        };
    }
    let (attributes, changed, partial) = match blocking(move || reader.close()).await {
        Ok(closed) => closed,
        Err(error) => return Ok(Outcome::Unreadable { path, error }),
    };
    let mut entry = Entry::new(path, FILE);
    entry.modified = attributes.mtime.timestamp();
    entry.content = Some(writer.finish().await?);
    entry.set_attributes(&attributes)?;
    Ok(Outcome::Read { entry, several_names: attributes.links > 1, changed, partial })
}

/// An open file, part of it read.
struct Reader {
    file: File,
    before: Stat,
    attributes: FileAttributes,
    /// What is still to be read, as (offset, length).
    rest: VecDeque<(u64, u64)>,
    read: u64,
    short: bool,
    partial: Option<String>,
}

impl Reader {
    fn open(path: &[u8], owners: &Owners, now: DateTime<Utc>) -> io::Result<Self> {
        let full = absolute(path);
        // Not following a link, nor waiting at a fifo, that came into the file's place since the walk saw it.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        // Reading should not count as a use of the file; only its owner and root may ask for that.
        let file = match open(OsStr::from_bytes(&full), flags | OFlags::NOATIME, Mode::empty()) {
            Err(Errno::PERM) => open(OsStr::from_bytes(&full), flags, Mode::empty()),
            other => other,
        }?;
        let file = File::from(file);
        let before = fstat(&file)?;
        if kind(&before) != Some(FILE) {
            return Err(io::Error::other("it was replaced by something that is not a file"));
        }
        let mut attributes = of_stat(&before, owners);
        attributes.size = size(&before);
        attributes.settled = settled(&before, now);
        let mut partial = None;
        match xattrs_of_file(&file) {
            Ok(xattrs) => attributes.xattrs = xattrs,
            Err(error) => partial = Some(format!("its extended attributes could not be read ({error})")),
        }
        // st_blocks counts 512 bytes each.
        let allocated = u64::try_from(before.st_blocks).unwrap_or(u64::MAX).saturating_mul(512);
        if allocated < attributes.size {
            attributes.data = sparse::segments(&file, attributes.size)?;
        }
        let rest = match &attributes.data {
            Some(segments) => segments.iter().copied().collect(),
            None => VecDeque::from([(0, attributes.size)]),
        };
        Ok(Self { file, before, attributes, rest, read: 0, short: false, partial })
    }

    fn ended(&self) -> bool {
        self.rest.iter().all(|(_, length)| *length == 0)
    }

    /// The next piece, empty at the end. No more than the size at opening is read: a log that grows is stored up to there.
    fn piece(mut self) -> io::Result<(Self, Bytes)> {
        let wanted = self.rest.iter().map(|(_, length)| *length).sum::<u64>().min(PIECE_BYTES as u64);
        let mut buffer = vec![0; usize::try_from(wanted).map_err(io::Error::other)?];
        let mut filled = 0;
        while filled < buffer.len() {
            let Some((offset, length)) = self.rest.front_mut() else { break };
            if *length == 0 {
                self.rest.pop_front();
                continue;
            }
            let most = (buffer.len() - filled).min(usize::try_from(*length).unwrap_or(usize::MAX));
            let count = match self.file.read_at(&mut buffer[filled..filled + most], *offset) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if count == 0 {
                // It became shorter.
                self.short = true;
                self.rest.clear();
                break;
            }
            *offset += count as u64;
            *length -= count as u64;
            filled += count;
        }
        buffer.truncate(filled);
        self.read += filled as u64;
        Ok((self, buffer.into()))
    }

    /// The attributes to store, whether the file changed meanwhile, and what could not be read of it.
    fn close(mut self) -> io::Result<(FileAttributes, bool, Option<String>)> {
        let after = fstat(&self.file)?;
        let changed = self.short
            || size(&after) != size(&self.before)
            || mtime(&after) != mtime(&self.before)
            // Without a new mtime a new ctime is a change of mode or names, not of bytes — or of bytes with the mtime put back.
            || ctime(&after) != ctime(&self.before);
        if changed {
            self.attributes.settled = false;
        }
        if self.short {
            match &mut self.attributes.data {
                // Keep what the stored bytes cover.
                Some(segments) => {
                    let mut left = self.read;
                    segments.retain_mut(|(_, length)| {
                        *length = left.min(*length);
                        left -= *length;
                        *length > 0
                    });
                }
                None => self.attributes.size = self.read,
            }
        }
        Ok((self.attributes, changed, self.partial))
    }
}

fn settled(stat: &Stat, now: DateTime<Utc>) -> bool {
    let changed = ctime(stat);
    let tick = if changed.nanoseconds == 0 { COARSE_TICK_MILLISECONDS } else { FINE_TICK_MILLISECONDS };
    changed.timestamp().is_some_and(|changed| now - changed > chrono::Duration::milliseconds(tick))
}

/// Runs work that waits for a disk where waiting is allowed.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other).flatten()
}
