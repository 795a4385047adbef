//! Reading rows by COPY, in large pieces, past the driver.

use bytes::Bytes;
use futures_util::StreamExt;
use tokio::sync::mpsc;

use super::connect::Session;
use crate::sources::{ContentWriter, SourceError};

/// Pieces read ahead, so that the server does not wait while the last one is being cut and hashed.
const READ_AHEAD_PIECES: usize = 3;

/// Runs a `COPY … TO STDOUT` and writes its bytes; returns how many rows and bytes there were.
///
/// The rows are counted as lines: in COPY's text form a line break in the data is written `\n`, so that each line is one row.
/// (The driver does not hand on the server's own count.)
pub(super) async fn copy_out(
    session: &Session,
    doing: &str,
    statement: &str,
    writer: &mut dyn ContentWriter,
    mut count: impl FnMut(u64),
) -> Result<(u64, u64), SourceError> {
    let (sender, mut pieces) = mpsc::channel::<Bytes>(READ_AHEAD_PIECES);
    session.rows.divert(sender);
    let answer = session.client.copy_out(statement).await.map_err(|error| {
        session.rows.take();
        session.failed(doing, &error)
    })?;
    let (mut rows, mut bytes) = (0, 0);
    while let Some(piece) = pieces.recv().await {
        rows += memchr::memchr_iter(b'\n', &piece).count() as u64;
        bytes += piece.len() as u64;
        count(piece.len() as u64);
        writer.write(piece).await?;
    }
    // The rows also end when the connection does: only the driver knows whether the server came to the end.
    match std::pin::pin!(answer).next().await {
        None => Ok((rows, bytes)),
        Some(Err(error)) => Err(session.failed(doing, &error)),
        Some(Ok(_)) => Err(SourceError::io(doing)(std::io::Error::other("a defect: rows went past the tap"))),
    }
}
