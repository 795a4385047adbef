//! Parts of a snapshot, as files below a directory.

use std::{fs::File, sync::Arc};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, future::BoxFuture, stream::BoxStream};

use crate::sources::{
    self, Content, Entry, ExchangeError, Origin, Piece, SourceError,
    files::{DIRECTORY, FILE, FileAttributes, Instant},
};

/// How what is restored looks.
#[derive(Debug, Clone, Copy)]
pub struct Made {
    /// User and group.
    pub owner: (u32, u32),
    /// Of directories; files have the same without the right to enter.
    pub mode: u32,
}

/// A part of a snapshot, as files below a directory.
#[derive(Debug, Clone)]
pub struct Part {
    /// What lies below this path; it is not part of the restored paths.
    pub prefix: Vec<u8>,
    /// Of that, what is left out: these, and all that lies below them.
    pub without: Vec<Vec<u8>>,
    /// How it is made.
    pub made: Made,
}

impl Part {
    fn take(&self, mut entry: Entry) -> Result<Option<Entry>, SourceError> {
        let Some(path) = entry.path.strip_prefix(self.prefix.as_slice()) else { return Ok(None) };
        let is_left =
            |left: &Vec<u8>| path.strip_prefix(left.as_slice()).is_some_and(|rest| rest.first().is_none_or(|next| *next == b'/'));
        if self.without.iter().any(is_left) {
            return Ok(None);
        }
        let path = path.to_vec();
        let is_directory = entry.kind == DIRECTORY;
        let mtime = entry.modified.map_or_else(Instant::default, |at| Instant { seconds: at.timestamp(), nanoseconds: 0 });
        let attributes = FileAttributes {
            mode: if is_directory { self.made.mode } else { self.made.mode & 0o666 },
            uid: self.made.owner.0,
            gid: self.made.owner.1,
            mtime,
            size: entry.size(),
            ..FileAttributes::default()
        };
        entry.kind = if is_directory { DIRECTORY } else { FILE }.to_owned();
        entry.path = path;
        entry.set_attributes(&attributes)?;
        Ok(Some(entry))
    }
}

/// Shows a part of a snapshot as files.
pub struct Selected {
    /// The snapshot.
    pub origin: Arc<dyn Origin>,
    /// The part.
    pub part: Part,
}

impl Origin for Selected {
    fn entries(&self) -> BoxStream<'_, Result<Entry, ExchangeError>> {
        let take = |entry| std::future::ready(self.part.take(entry).map_err(|error| ExchangeError(Box::new(error))));
        self.origin.entries().try_filter_map(take).boxed()
    }

    fn read(&self, content: &Content) -> BoxStream<'static, Result<Bytes, ExchangeError>> {
        self.origin.read(content)
    }

    fn deliver(&self, wanted: Vec<Content>) -> BoxStream<'static, Result<Piece, ExchangeError>> {
        self.origin.deliver(wanted)
    }

    fn differing(&self, content: &Content, file: Arc<File>) -> BoxFuture<'static, Result<Vec<sources::Part>, ExchangeError>> {
        self.origin.differing(content, file)
    }
}
