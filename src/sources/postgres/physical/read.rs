//! Files of the server: read where they lie, if that can be done, or else over SQL, with many rows for each statement, several small
//! files or many ranges of a large one.
//!
//! One row for each statement costs the server three times as much. The rows come in COPY's binary form (PostgreSQL's manual, "COPY",
//! "Binary Format"): number of the file, offset, bytes.

use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::StreamExt;
use tokio::sync::mpsc;
use tokio_postgres::CopyOutStream;

use super::direct::{Delivery, Direct};
use crate::sources::{
    SourceError,
    postgres::{connect::Session, quote::literal},
};

/// Bytes of a row: fewer rows cost less, larger ones more memory of the server's.
pub const ROW_BYTES: u64 = 128 << 10;
/// Pieces read ahead, so that the server does not wait while the last one is being looked at.
const READ_AHEAD_PIECES: usize = 3;
/// How COPY's binary form begins: signature, flags, length of an extension.
const BEGINNING: &[u8; 19] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

/// A range of a file to be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The file's path, relative to the data directory.
    pub path: String,
    /// Where it begins, bytes.
    pub offset: u64,
    /// So many bytes, or as many as are there; rounded up to whole rows.
    pub bytes: u64,
}

/// A row: where its bytes lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Which of the wanted ranges.
    pub wanted: usize,
    /// Offset in its file, bytes.
    pub offset: u64,
    /// Whether the file is there at all.
    pub is_there: bool,
}

/// Files that are being read.
pub struct Reading<'a>(Way<'a>);

/// How.
enum Way<'a> {
    Rows(Rows<'a>),
    /// What is delivered, and what of the present row was not taken yet.
    Files(Delivery, Bytes),
}

impl<'a> Reading<'a> {
    /// Begins to read: from the data directory, if it is at hand.
    ///
    /// # Errors
    /// The server's, as soon as it says them.
    pub async fn begin(session: &'a Session, direct: Option<&Arc<Direct>>, wanted: &[Wanted]) -> Result<Self, SourceError> {
        let files = match direct {
            Some(direct) => direct.read(wanted).await,
            None => None,
        };
        Ok(Self(match files {
            Some(files) => Way::Files(files, Bytes::new()),
            None => Way::Rows(Rows::begin(session, wanted).await?),
        }))
    }

    /// The next row; its bytes have to be taken by [`Self::bytes`] first.
    ///
    /// # Errors
    /// The server's, a connection that broke, or rows that nobody asked for.
    pub async fn next(&mut self) -> Result<Option<Row>, SourceError> {
        match &mut self.0 {
            Way::Rows(rows) => rows.next().await,
            Way::Files(files, rest) => Ok(files.next().await?.map(|(row, bytes)| {
                *rest = bytes;
                row
            })),
        }
    }

    /// More bytes of the present row; none at its end.
    ///
    /// # Errors
    /// A connection that broke.
    pub async fn bytes(&mut self) -> Result<Option<Bytes>, SourceError> {
        match &mut self.0 {
            Way::Rows(rows) => rows.bytes().await,
            Way::Files(_, rest) => Ok(Some(std::mem::take(rest)).filter(|bytes| !bytes.is_empty())),
        }
    }
}

/// Files that are being read over SQL.
struct Rows<'a> {
    session: &'a Session,
    doing: String,
    /// Where the wanted ranges begin.
    offsets: Vec<u64>,
    pieces: mpsc::Receiver<Bytes>,
    piece: Bytes,
    answer: std::pin::Pin<Box<CopyOutStream>>,
    last: Option<(usize, u64)>,
    /// Bytes of the present row that are still to come.
    remaining: usize,
}

/// The statement that reads these ranges, in their order.
fn statement(wanted: &[Wanted]) -> String {
    let row = |(number, one): (usize, &Wanted)| {
        let last = one.offset + one.bytes.saturating_sub(1);
        format!("({number}, {}, {}::bigint, {last}::bigint)", literal(&one.path), one.offset)
    };
    let rows: Vec<String> = wanted.iter().enumerate().map(row).collect();
    format!(
        "COPY (SELECT f.n, r.o, pg_catalog.pg_read_binary_file(f.p, r.o, {ROW_BYTES}, true) FROM (VALUES {}) AS f(n, p, a, z) \
         CROSS JOIN LATERAL pg_catalog.generate_series(f.a, f.z, {ROW_BYTES}) AS r(o)) TO STDOUT (FORMAT binary)",
        rows.join(", ")
    )
}

impl<'a> Rows<'a> {
    async fn begin(session: &'a Session, wanted: &[Wanted]) -> Result<Self, SourceError> {
        let others = |first: &Wanted| wanted.iter().any(|one| one.path != first.path);
        let doing = match wanted {
            [first, ..] if others(first) => format!("reading {} and more files", first.path),
            [first, ..] => format!("reading {}", first.path),
            [] => "reading nothing".to_owned(),
        };
        let (sender, pieces) = mpsc::channel(READ_AHEAD_PIECES);
        session.rows.divert(sender);
        let answer = session.client.copy_out(&statement(wanted)).await.map_err(|error| {
            session.rows.take();
            session.failed(&doing, &error)
        })?;
        let answer = Box::pin(answer);
        let offsets = wanted.iter().map(|one| one.offset).collect();
        let mut reading = Self { session, doing, offsets, pieces, piece: Bytes::new(), answer, last: None, remaining: 0 };
        let beginning = reading.take(BEGINNING.len()).await?;
        if beginning.as_ref() != BEGINNING {
            return Err(reading.malformed("it does not begin as COPY's binary form does"));
        }
        Ok(reading)
    }

    async fn next(&mut self) -> Result<Option<Row>, SourceError> {
        while self.bytes().await?.is_some() {}
        match self.take(2).await?.get_i16() {
            -1 => return self.end().await.map(|()| None),
            3 => {}
            _ => return Err(self.malformed("a row has other columns than were asked for")),
        }
        let mut head = self.take(4 + 4 + 4 + 8 + 4).await?;
        let sound_number = head.get_i32() == 4;
        let wanted = usize::try_from(head.get_i32()).unwrap_or(usize::MAX);
        let sound_offset = head.get_i32() == 8;
        let offset = u64::try_from(head.get_i64()).unwrap_or(u64::MAX);
        let length = head.get_i32();
        let follows = match self.last {
            Some((last, at)) if wanted == last => offset == at + ROW_BYTES,
            Some((last, _)) => wanted == last + 1 && self.offsets.get(wanted) == Some(&offset),
            None => wanted == 0 && self.offsets.first() == Some(&offset),
        };
        if !(sound_number && sound_offset && follows && i64::from(length) <= ROW_BYTES as i64) {
            return Err(self.malformed("a row came that was not asked for"));
        }
        self.last = Some((wanted, offset));
        self.remaining = usize::try_from(length).unwrap_or(0);
        Ok(Some(Row { wanted, offset, is_there: length >= 0 }))
    }

    async fn bytes(&mut self) -> Result<Option<Bytes>, SourceError> {
        if self.remaining == 0 {
            return Ok(None);
        }
        self.fill().await?;
        let part = self.remaining.min(self.piece.len());
        self.remaining -= part;
        Ok(Some(self.piece.split_to(part)))
    }

    /// Exactly so many bytes.
    async fn take(&mut self, count: usize) -> Result<Bytes, SourceError> {
        self.fill().await?;
        if self.piece.len() >= count {
            return Ok(self.piece.split_to(count));
        }
        let mut taken = BytesMut::with_capacity(count);
        while taken.len() < count {
            self.fill().await?;
            let part = (count - taken.len()).min(self.piece.len());
            taken.extend_from_slice(&self.piece.split_to(part));
        }
        Ok(taken.freeze())
    }

    /// Sees to it that there are bytes.
    async fn fill(&mut self) -> Result<(), SourceError> {
        while self.piece.is_empty() {
            match self.pieces.recv().await {
                Some(piece) => self.piece = piece,
                // The rows end when the connection does, or with the server's error: the driver knows which.
                None => {
                    self.end().await?;
                    return Err(self.malformed("it ends within a row"));
                }
            }
        }
        Ok(())
    }

    /// Hears the server out.
    async fn end(&mut self) -> Result<(), SourceError> {
        match self.answer.next().await {
            None => Ok(()),
            Some(Err(error)) => Err(self.session.failed(&self.doing, &error)),
            Some(Ok(_)) => Err(self.malformed("a defect: rows went past the tap")),
        }
    }

    fn malformed(&self, detail: &str) -> SourceError {
        SourceError::io(format!("{}: the server's answer", self.doing))(std::io::Error::other(detail.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::{Wanted, statement};

    #[test]
    fn a_statement_names_each_range_and_quotes_its_file() {
        let wanted = [("base/5/1", 131_072, 8192), ("log/o'clock", 0, 0)];
        let wanted = wanted.map(|(path, offset, bytes)| Wanted { path: path.to_owned(), offset, bytes });
        let statement = statement(&wanted);
        let rows = "(VALUES (0, 'base/5/1', 131072::bigint, 139263::bigint), (1, 'log/o''clock', 0::bigint, 0::bigint))";
        assert!(statement.contains(rows), "{statement}");
    }
}
