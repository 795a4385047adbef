//! Messages in their frames: a kind of one byte, a big-endian length of four that counts itself (PostgreSQL's manual, "Message Formats").

use bytes::{BufMut, BytesMut};
use fallible_iterator::FallibleIterator;
use postgres_protocol::message::{backend::ErrorResponseBody, frontend};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_postgres::error::SqlState;

use crate::sources::postgres::failure::{Cause, Said};

/// Kind and length of a message.
pub(super) const HEADER_BYTES: usize = 5;
/// Longest message but those of the stream. A server's errors have some hundred bytes.
pub(super) const MOST_ANSWER_BYTES: usize = 64 << 10;
/// What is read at once, bytes.
const READ_BYTES: usize = 256 << 10;
/// So much of what a server says is told.
const MOST_SAID_LETTERS: usize = 500;

/// A line, and what came over it and was not asked for yet.
pub(super) struct Wire<S> {
    line: S,
    buffer: BytesMut,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    pub(super) fn new(line: S) -> Self {
        Self { line, buffer: BytesMut::new() }
    }

    /// The next message with its header, which may have so many bytes. Given up, it loses nothing.
    pub(super) async fn frame(&mut self, most: usize) -> Result<BytesMut, Said> {
        loop {
            if let Some(bytes) = self.length() {
                if !(HEADER_BYTES..=most).contains(&bytes) {
                    let kind = self.buffer[0];
                    return Err(made_no_sense(&format!("a message of kind {kind:#04x} says that it is {bytes} bytes long")));
                }
                if self.buffer.len() >= bytes {
                    return Ok(self.buffer.split_to(bytes));
                }
            }
            self.buffer.reserve(READ_BYTES);
            if self.line.read_buf(&mut (&mut self.buffer).limit(READ_BYTES)).await.map_err(broken)? == 0 {
                return Err(broken(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "the server closed it")));
            }
        }
    }

    /// Whether a whole message is here.
    pub(super) fn has_frame(&self) -> bool {
        self.length().is_some_and(|bytes| self.buffer.len() >= bytes)
    }

    /// Of the message that begins here, with its kind.
    fn length(&self) -> Option<usize> {
        let length: [u8; 4] = self.buffer.get(1..HEADER_BYTES)?.try_into().ok()?;
        usize::try_from(u32::from_be_bytes(length)).ok()?.checked_add(1)
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) -> Result<(), Said> {
        self.line.write_all(bytes).await.map_err(broken)?;
        self.line.flush().await.map_err(broken)
    }

    pub(super) async fn query(&mut self, text: &str) -> Result<(), Said> {
        let mut bytes = BytesMut::new();
        frontend::query(text, &mut bytes).map_err(broken)?;
        self.send(&bytes).await
    }
}

/// The line broke, or brought what cannot be read.
#[allow(clippy::needless_pass_by_value, reason = "it is what map_err hands over")]
pub(super) fn broken(error: std::io::Error) -> Said {
    Said { cause: Cause::Line, words: format!("error communicating with the server: {error}") }
}

pub(super) fn made_no_sense(what: &str) -> Said {
    Said { cause: Cause::Line, words: format!("what came makes no sense ({what}): is it a PostgreSQL server?") }
}

/// What a server's error says.
pub(super) fn said(body: &ErrorResponseBody) -> Said {
    let (mut code, mut parts, mut fields) = (String::new(), Vec::new(), body.fields());
    // What cannot be read ends it; what came before is told.
    while let Ok(Some(field)) = fields.next() {
        let text = || String::from_utf8_lossy(field.value_bytes()).chars().take(MOST_SAID_LETTERS).collect::<String>();
        match field.type_() {
            b'C' => code = text(),
            b'M' => parts.insert(0, text()),
            b'D' | b'H' => parts.push(text()),
            _ => {}
        }
    }
    if code.len() != 5 {
        return made_no_sense("an error without a code");
    }
    let message = if parts.is_empty() { String::new() } else { parts.remove(0) };
    let more: String = parts.iter().map(|part| format!("; {part}")).collect();
    Said { words: format!("{message} (SQLSTATE {code}){more}"), cause: Cause::Server(SqlState::from_code(&code)) }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncWriteExt, duplex};

    use super::{MOST_ANSWER_BYTES, Wire};

    #[tokio::test]
    async fn messages_come_whole_wherever_the_line_cuts_and_a_length_that_cannot_be_is_an_error() {
        for step in [1, 4, 4096] {
            let (mut server, line) = duplex(step);
            let sent = tokio::spawn(async move {
                server.write_all(b"k\0\0\0\x05xd\0\0\0\x04N\0\0\0\x08abcd").await.unwrap();
            });
            let mut wire = Wire::new(line);
            for expected in [&b"k\0\0\0\x05x"[..], b"d\0\0\0\x04", b"N\0\0\0\x08abcd"] {
                assert_eq!(wire.frame(MOST_ANSWER_BYTES).await.unwrap(), expected);
            }
            sent.await.unwrap();
            assert!(wire.frame(MOST_ANSWER_BYTES).await.unwrap_err().words.contains("closed"));
        }
        for wrong in [&b"d\0\0\0\x03"[..], b"d\xff\xff\xff\xff", b"d\0\x10\0\0"] {
            let (mut server, line) = duplex(64);
            server.write_all(wrong).await.unwrap();
            let error = Wire::new(line).frame(MOST_ANSWER_BYTES).await.unwrap_err();
            assert!(error.words.contains("makes no sense"), "{error:?}");
        }
    }
}
