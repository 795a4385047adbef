//! A server's log as it streams it: PostgreSQL's replication protocol, physical, as a small client of our own on `postgres-protocol`. The
//! driver does not speak it.
//!
//! Promises:
//! * Host, user, password, TLS and time limits are those of any other session ([`line`](super::super::line)); the password is in no error.
//! * What comes over the line is bounded before it is kept: a message that says to be longer than any server's is an error, and so is
//!   one that makes no sense.
//! * Whoever reads slowly slows the server down, and nothing is kept in between but what one read brought.
//! * [`Replication::next`] may be given up at any time, and loses nothing.
//!
//! Leaves out on purpose: `TIMELINE_HISTORY`, slots and whatever else an ordinary session can ask; base backups; logical replication.

mod binding;
mod login;
mod message;
mod refusal;
mod wire;

use std::time::Duration;

use bytes::{Buf, BytesMut};
use chrono::{DateTime, Utc};
use postgres_protocol::message::{backend::Message, frontend};
use secrecy::SecretString;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio_postgres::error::SqlState;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::either::Either;

pub use self::{
    message::{Event, Progress},
    refusal::Unstreamed,
};
use self::{
    message::{MOST_STREAMED_BYTES, Streamed},
    wire::{MOST_ANSWER_BYTES, Wire, made_no_sense},
};
use super::label::Lsn;
use crate::sources::{
    SourceError,
    postgres::{
        PostgresConfig,
        failure::{Cause, Said},
        line::{self, Attempt, Encryption, Line, Opening, Socket},
    },
};

/// The server answers nothing for so long: it, or the way to it, is gone.
const PATIENCE: Duration = Duration::from_secs(60);

type Way = Either<Socket, TlsStream<Socket>>;

/// A replication connection.
pub struct Replication {
    wire: Wire<Way>,
    subject: String,
}

/// What came of asking for the stream.
#[derive(Debug, PartialEq, Eq)]
pub enum Started {
    /// It comes.
    Streams,
    /// There is nothing more on this timeline: it was left at this place, for another one.
    Ended,
}

impl Replication {
    /// Connects to the first of the configuration's hosts that answers; the server knows the session by `name`.
    ///
    /// # Errors
    /// [`Unstreamed::Refused`] where the server, or what stands in between, does not let a replication connection through.
    pub async fn connect(config: &PostgresConfig, name: &str) -> Result<Self, Unstreamed> {
        let opening = Streaming { config, password: config.password(), name };
        let wire = line::reach(config.address(), &opening).await.map_err(|error| match error {
            Attempt::Refused(said) => refusal::of(config, said),
            Attempt::Other(error) => Unstreamed::Broken(error),
        })?;
        Ok(Self { wire, subject: config.describe() })
    }

    /// The cluster's system identifier.
    ///
    /// # Errors
    /// The server's.
    pub async fn identify(&mut self) -> Result<u64, SourceError> {
        let doing = "asking which cluster it is";
        let system = in_time(async {
            self.wire.query("IDENTIFY_SYSTEM").await?;
            let rows = rows(&mut self.wire).await?;
            let first = rows.first().and_then(|row| row.first()).cloned().flatten();
            first.and_then(|text| text.parse().ok()).ok_or_else(|| made_no_sense("it names no system identifier"))
        });
        system.await.map_err(|said| self.failed(doing, &said))
    }

    /// Asks for the log from a place on, on a timeline, held by a slot. Afterwards [`Self::next`] gives it.
    ///
    /// # Errors
    /// The server's.
    pub async fn start(&mut self, slot: &str, from: Lsn, timeline: u32) -> Result<Started, SourceError> {
        let doing = "asking for the log";
        let started = in_time(async {
            let slot = slot.replace('"', "\"\"");
            self.wire.query(&format!("START_REPLICATION SLOT \"{slot}\" PHYSICAL {from} TIMELINE {timeline}")).await?;
            loop {
                let mut frame = self.wire.frame(MOST_ANSWER_BYTES).await?;
                // CopyBothResponse, which the crate does not know; what it says of columns means nothing here.
                if frame.first() == Some(&b'W') {
                    return Ok(Started::Streams);
                }
                match parsed(&mut frame)? {
                    Message::RowDescription(_) => {
                        rows(&mut self.wire).await?;
                        return Ok(Started::Ended);
                    }
                    Message::NoticeResponse(_) | Message::ParameterStatus(_) => {}
                    other => return Err(unexpected(&other)),
                }
            }
        });
        started.await.map_err(|said| self.failed(doing, &said))
    }

    /// What comes next. It waits for as long as nothing does.
    ///
    /// # Errors
    /// The server's, and those of the line; the stream is at its end then.
    pub async fn next(&mut self) -> Result<Event, SourceError> {
        let event = async {
            loop {
                let mut frame = self.wire.frame(MOST_STREAMED_BYTES).await?;
                if frame.first() == Some(&b'd') {
                    frame.advance(wire::HEADER_BYTES);
                    return Ok(match message::read(frame.freeze()).ok_or_else(|| made_no_sense("a message of the stream"))? {
                        Streamed::Log { at, bytes } => Event::Log { at, bytes },
                        Streamed::Alive { is_asked } => Event::Alive { is_asked },
                    });
                }
                match parsed(&mut frame)? {
                    Message::CopyDone => return Ok(Event::Ended),
                    Message::NoticeResponse(_) | Message::ParameterStatus(_) => {}
                    other => return Err(unexpected(&other)),
                }
            }
        };
        event.await.map_err(|said| self.failed("receiving the log", &said))
    }

    /// After [`Event::Ended`]: takes leave of the stream, and lets go of the slot, which is free when this returns.
    ///
    /// # Errors
    /// The server's.
    pub async fn end(&mut self) -> Result<(), SourceError> {
        let ended = in_time(async {
            let mut bytes = BytesMut::new();
            frontend::copy_done(&mut bytes);
            self.wire.send(&bytes).await?;
            rows(&mut self.wire).await
        });
        ended.await.map(drop).map_err(|said| self.failed("ending a timeline", &said))
    }

    /// Whether the next event has come whole already.
    pub fn has_more(&self) -> bool {
        self.wire.has_frame()
    }

    /// Tells the server how far we are; it answers with [`Event::Alive`] if it is asked to.
    ///
    /// # Errors
    /// Those of the line.
    pub async fn report(&mut self, progress: Progress, at: DateTime<Utc>, is_asking: bool) -> Result<(), SourceError> {
        let bytes = message::report(progress, at, is_asking);
        let told = in_time(self.wire.send(&bytes));
        told.await.map_err(|said| self.failed("telling how far the log is stored", &said))
    }

    /// Says goodbye.
    pub async fn leave(mut self) {
        let mut bytes = BytesMut::new();
        frontend::terminate(&mut bytes);
        // A server that does not listen any more must not hold us up.
        let _ = tokio::time::timeout(Duration::from_secs(2), self.wire.send(&bytes)).await;
    }

    fn failed(&self, doing: &str, said: &Said) -> SourceError {
        let (subject, words) = (self.subject.clone(), &said.words);
        match &said.cause {
            Cause::Server(code) if *code == SqlState::INSUFFICIENT_PRIVILEGE => {
                SourceError::Denied { subject, detail: format!("{doing}: {words}; grant it to the role, or use another") }
            }
            // A receiver that was killed is missed by the server a moment later, or when it has said nothing for long enough.
            Cause::Server(code) if *code == SqlState::OBJECT_IN_USE => SourceError::Unreachable {
                subject,
                detail: format!(
                    "{doing}: {words}; one that was cut off ends by itself (wal_sender_timeout), another one has to be stopped"
                ),
            },
            Cause::Server(code) if !code.code().starts_with("57P") => {
                SourceError::Unfit { subject, detail: format!("{doing}: {words}; see the server's log") }
            }
            _ => SourceError::Unreachable {
                subject,
                detail: format!("the replication connection broke while {doing}: {words}; see the server's log"),
            },
        }
    }
}

/// A line that is opened for replication.
struct Streaming<'a> {
    config: &'a PostgresConfig,
    password: Option<SecretString>,
    name: &'a str,
}

impl Opening for Streaming<'_> {
    type Opened = Wire<Way>;

    async fn open(&self, line: Line) -> Result<Wire<Way>, Attempt> {
        let way = encrypted(line).await.map_err(Attempt::Refused)?;
        let binding = match &way {
            Either::Left(_) => None,
            Either::Right(tls) => tls.get_ref().1.peer_certificates().and_then(|chain| binding::end_point(chain.first()?)),
        };
        let mut wire = Wire::new(way);
        let address = self.config.address();
        let login = login::Login {
            user: &address.user,
            password: self.password.as_ref(),
            name: self.name,
            options: address.options.as_deref(),
            binding,
        };
        login::login(&mut wire, login).await.map_err(Attempt::Refused)?;
        Ok(wire)
    }
}

/// The line with TLS in it, where it is to be and the server has it.
async fn encrypted(line: Line) -> Result<Way, Said> {
    let mut socket = line.socket;
    let Some(settings) = line.tls else { return Ok(Either::Left(socket)) };
    let tls = |words: String| Said { cause: Cause::Tls, words: format!("error performing TLS handshake: {words}") };
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    socket.write_all(&request).await.map_err(wire::broken)?;
    // One byte without a frame. What follows it is TLS's: nothing may be read ahead.
    let answer = tokio::io::AsyncReadExt::read_u8(&mut socket).await.map_err(wire::broken)?;
    match (answer, line.encryption) {
        (b'S', _) => {}
        (_, Encryption::Require) => return Err(tls("server does not support TLS".to_owned())),
        _ => return Ok(Either::Left(socket)),
    }
    let host = rustls::pki_types::ServerName::try_from(line.host).map_err(|error| tls(error.to_string()))?;
    let connected = TlsConnector::from(std::sync::Arc::new(settings)).connect(host, socket).await;
    Ok(Either::Right(connected.map_err(|error| tls(error.to_string()))?))
}

/// The rows of an answer, as text, up to where the server is ready again.
async fn rows<S: AsyncRead + AsyncWrite + Unpin>(wire: &mut Wire<S>) -> Result<Vec<Vec<Option<String>>>, Said> {
    use fallible_iterator::FallibleIterator;
    /// More than any command answers with.
    const MOST_ROWS: usize = 16;
    let mut rows = Vec::new();
    loop {
        match parsed(&mut wire.frame(MOST_ANSWER_BYTES).await?)? {
            Message::DataRow(row) if rows.len() < MOST_ROWS => {
                let ranges: Vec<_> = row.ranges().collect().map_err(wire::broken)?;
                let text =
                    |range: Option<std::ops::Range<usize>>| Some(String::from_utf8_lossy(row.buffer().get(range?)?).into_owned());
                rows.push(ranges.into_iter().map(text).collect());
            }
            Message::ReadyForQuery(_) => return Ok(rows),
            Message::RowDescription(_) | Message::CommandComplete(_) | Message::NoticeResponse(_) | Message::ParameterStatus(_) => {
            }
            other => return Err(unexpected(&other)),
        }
    }
}

/// A message in its whole frame. An error of the server's is one.
fn parsed(frame: &mut BytesMut) -> Result<Message, Said> {
    match Message::parse(frame).map_err(wire::broken)? {
        Some(Message::ErrorResponse(body)) => Err(wire::said(&body)),
        Some(message) => Ok(message),
        None => Err(made_no_sense("a message")),
    }
}

fn unexpected(_: &Message) -> Said {
    made_no_sense("a message that has no place here")
}

async fn in_time<T>(work: impl Future<Output = Result<T, Said>>) -> Result<T, Said> {
    tokio::time::timeout(PATIENCE, work)
        .await
        .unwrap_or_else(|_| Err(Said { cause: Cause::Line, words: format!("no answer within {} s", PATIENCE.as_secs()) }))
}
