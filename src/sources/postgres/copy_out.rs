//! Reading rows by COPY: a task of its own reads ahead and joins the server's row messages into large pieces.

use bytes::Bytes;
use futures_util::StreamExt;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::connect::Session;
use crate::sources::{ContentWriter, SourceError};

/// Pieces handed on, bytes: the pipeline behind likes 64 KiB to 1 MiB.
const PIECE_BYTES: usize = 512 << 10;
/// Room beyond it, so that the row that fills a piece rarely makes it grow.
const SLACK_BYTES: usize = 16 << 10;
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
    let stream = session.client.copy_out(statement).await.map_err(|error| session.failed(doing, &error))?;
    let (sender, mut receiver) = mpsc::channel(READ_AHEAD_PIECES);
    let reader = AbortOnDropHandle::new(tokio::spawn(read(stream, sender)));
    let (mut rows, mut bytes) = (0, 0);
    while let Some(piece) = receiver.recv().await {
        let (piece, lines) = piece.map_err(|error| session.failed(doing, &error))?;
        rows += lines;
        bytes += piece.len() as u64;
        count(piece.len() as u64);
        writer.write(piece).await?;
    }
    // The channel also ends when the task dies: only a task that came to its end has read everything.
    reader.await.map_err(|error| SourceError::io(doing)(std::io::Error::other(error)))?;
    Ok((rows, bytes))
}

type Piece = Result<(Bytes, u64), tokio_postgres::Error>;

async fn read(stream: tokio_postgres::CopyOutStream, sender: mpsc::Sender<Piece>) {
    let mut stream = std::pin::pin!(stream);
    let mut gathered: Vec<u8> = Vec::new();
    while let Some(message) = stream.next().await {
        let message = match message {
            Ok(message) => message,
            Err(error) => {
                // If nobody listens any more, nobody wants the error either.
                let _ = sender.send(Err(error)).await;
                return;
            }
        };
        if gathered.capacity() == 0 {
            gathered.reserve_exact(PIECE_BYTES + SLACK_BYTES);
        }
        if gathered.len() + message.len() > PIECE_BYTES + SLACK_BYTES
            && !gathered.is_empty()
            && !hand_on(&sender, &mut gathered).await
        {
            return;
        }
        // A huge row is handed on in slices of the message itself.
        if message.len() >= PIECE_BYTES {
            let mut rest = message;
            while !rest.is_empty() {
                let slice = rest.split_to(rest.len().min(PIECE_BYTES));
                let lines = lines(&slice);
                if sender.send(Ok((slice, lines))).await.is_err() {
                    return;
                }
            }
            continue;
        }
        gathered.extend_from_slice(&message);
        if gathered.len() >= PIECE_BYTES && !hand_on(&sender, &mut gathered).await {
            return;
        }
    }
    if !gathered.is_empty() {
        hand_on(&sender, &mut gathered).await;
    }
}

fn lines(bytes: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', bytes).count() as u64
}

async fn hand_on(sender: &mpsc::Sender<Piece>, gathered: &mut Vec<u8>) -> bool {
    let piece = Bytes::from(std::mem::take(gathered));
    let lines = lines(&piece);
    sender.send(Ok((piece, lines))).await.is_ok()
}
