//! Takes the rows of a COPY out of the connection before the driver sees them.
//!
//! The server sends each row as a message of its own, and the driver hands each on through a channel to another task: for narrow
//! rows that costs more than compressing them. [`Tap`] lies between the driver and the line, reads large pieces, follows the
//! protocol's framing (a kind of one byte, a big-endian length of four that counts itself; PostgreSQL's manual, "Message
//! Formats") and, when told to by [`Switch::divert`], joins the contents of `CopyData` messages into pieces of its own. Everything
//! else, errors and the end of the COPY among it, reaches the driver unchanged.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::mpsc,
};
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};
use tokio_util::sync::PollSender;

/// Pieces handed on, bytes: the pipeline behind likes 64 KiB to 1 MiB.
pub(super) const PIECE_BYTES: usize = 512 << 10;
/// What is read from the line at once, bytes. A socket's own buffer holds about twice as much.
const READ_BYTES: usize = 128 << 10;
/// Kind and length of a message.
const HEADER_BYTES: usize = 5;

/// Says whether rows are wanted, from the side of whoever runs the COPY.
#[derive(Debug, Default)]
pub(super) struct Switch(Mutex<Option<mpsc::Sender<Bytes>>>);

impl Switch {
    /// From now on and until one COPY has ended, its rows go to `pieces`, which is closed then. Call it before the statement
    /// is sent.
    pub(super) fn divert(&self, pieces: mpsc::Sender<Bytes>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(pieces);
    }

    /// Forgets a [`Switch::divert`] that no COPY followed.
    pub(super) fn take(&self) -> Option<mpsc::Sender<Bytes>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Closes the channel of a COPY that the connection did not live to begin.
#[derive(Debug)]
struct End(Arc<Switch>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.take();
    }
}

/// A line that rows can be taken from.
pub(super) struct Tap<S> {
    inner: S,
    end: End,
    /// The next byte is the answer to a request for TLS, which has no frame; nothing beyond it may be read ahead.
    negotiating: bool,
    buffer: Vec<u8>,
    /// What of `buffer` was read and not yet handed on.
    unread: std::ops::Range<usize>,
    /// Bytes of the present message that are still to come.
    remaining: usize,
    diverted: bool,
    gathered: Vec<u8>,
    pieces: Option<PollSender<Bytes>>,
}

impl<S> Tap<S> {
    /// Over a fresh connection; `negotiating` if the driver will ask for TLS on it.
    pub(super) fn new(inner: S, switch: Arc<Switch>, negotiating: bool) -> Self {
        Self {
            inner,
            end: End(switch),
            negotiating,
            buffer: vec![0; READ_BYTES],
            unread: 0..0,
            remaining: 0,
            diverted: false,
            gathered: Vec::new(),
            pieces: None,
        }
    }

    /// Whether the rows that begin now are wanted.
    fn is_wanted(&mut self) -> bool {
        if self.pieces.is_none() {
            self.pieces = self.end.0.take().map(PollSender::new);
        }
        self.pieces.is_some()
    }

    /// Hands on what was gathered. Where nobody listens any more, it is dropped: the server has to be heard out all the same.
    fn poll_hand_on(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if let Some(pieces) = self.pieces.as_mut().filter(|_| !self.gathered.is_empty()) {
            if ready!(pieces.poll_reserve(context)).is_ok() {
                let _ = pieces.send_item(Bytes::from(std::mem::take(&mut self.gathered)));
            }
            self.gathered.clear();
        }
        Poll::Ready(())
    }

    /// The COPY has ended, well or not.
    fn stop(&mut self) {
        self.pieces = None;
        self.end.0.take();
    }
}

impl<S: AsyncRead + Unpin> Tap<S> {
    /// Reads what the line has; false at its end.
    fn poll_fill(&mut self, context: &mut Context<'_>) -> Poll<io::Result<bool>> {
        self.buffer.copy_within(self.unread.clone(), 0);
        self.unread = 0..self.unread.len();
        let mut room = ReadBuf::new(&mut self.buffer[self.unread.end..]);
        ready!(Pin::new(&mut self.inner).poll_read(context, &mut room))?;
        let read = room.filled().len();
        self.unread.end += read;
        Poll::Ready(Ok(read > 0))
    }

    /// Begins the message whose header lies at the front of what is unread.
    fn poll_begin(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let header = &self.buffer[self.unread.start..self.unread.start + HEADER_BYTES];
        let (kind, length) = (header[0], u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize);
        if length < HEADER_BYTES - 1 {
            let detail = format!("a message of kind {kind:#04x} says that it is {length} bytes long");
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, detail)));
        }
        self.diverted = kind == b'd' && self.is_wanted();
        if self.diverted {
            self.unread.start += HEADER_BYTES;
            self.remaining = length + 1 - HEADER_BYTES;
        } else {
            // CopyDone and ErrorResponse end a COPY.
            if kind == b'c' || kind == b'E' {
                ready!(self.poll_hand_on(context));
                self.stop();
            }
            self.remaining = length + 1;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Tap<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.negotiating {
            let mut answer = [0];
            let mut one = ReadBuf::new(&mut answer);
            ready!(Pin::new(&mut this.inner).poll_read(context, &mut one))?;
            this.negotiating = false;
            out.put_slice(one.filled());
            return Poll::Ready(Ok(()));
        }
        let before = out.filled().len();
        loop {
            let unread = this.unread.len();
            let step = if this.remaining == 0 && unread >= HEADER_BYTES {
                this.poll_begin(context)
            } else if this.remaining > 0 && unread > 0 {
                let part =
                    unread.min(this.remaining).min(if this.diverted { PIECE_BYTES - this.gathered.len() } else { out.remaining() });
                let bytes = &this.buffer[this.unread.start..this.unread.start + part];
                if this.diverted {
                    if this.gathered.capacity() == 0 {
                        this.gathered.reserve_exact(PIECE_BYTES);
                    }
                    this.gathered.extend_from_slice(bytes);
                } else if part == 0 {
                    return Poll::Ready(Ok(()));
                } else {
                    out.put_slice(bytes);
                }
                this.unread.start += part;
                this.remaining -= part;
                if this.gathered.len() == PIECE_BYTES { this.poll_hand_on(context).map(Ok) } else { Poll::Ready(Ok(())) }
            } else if out.filled().len() > before {
                return Poll::Ready(Ok(()));
            } else {
                match this.poll_fill(context) {
                    Poll::Ready(Ok(false)) => {
                        ready!(this.poll_hand_on(context));
                        this.stop();
                        return Poll::Ready(Ok(()));
                    }
                    step => step.map_ok(|_| ()),
                }
            };
            match step {
                Poll::Ready(Ok(())) => {}
                // What was handed on already comes first.
                Poll::Pending if out.filled().len() > before => return Poll::Ready(Ok(())),
                other => return other,
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Tap<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(context)
    }
}

impl<S: TlsStream + Unpin> TlsStream for Tap<S> {
    fn channel_binding(&self) -> ChannelBinding {
        self.inner.channel_binding()
    }
}

/// A TLS connector whose lines can be tapped, inside of the encryption.
pub(super) struct Tapped<C>(pub(super) C);

impl<S, C> TlsConnect<Tap<S>> for Tapped<C>
where
    S: Send + 'static,
    C: TlsConnect<S> + Send + 'static,
    C::Future: Send,
    C::Stream: Unpin,
{
    type Stream = Tap<C::Stream>;
    type Error = C::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Stream, C::Error>> + Send>>;

    fn connect(self, line: Tap<S>) -> Self::Future {
        let switch = Arc::clone(&line.end.0);
        let connecting = self.0.connect(line.inner);
        Box::pin(async move { Ok(Tap::new(connecting.await?, switch, false)) })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, duplex},
        sync::mpsc,
    };

    use super::{PIECE_BYTES, Switch, Tap};

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let mut all = vec![kind];
        all.extend_from_slice(&(u32::try_from(body.len()).unwrap() + 4).to_be_bytes());
        all.extend_from_slice(body);
        all
    }

    /// What the driver and the listener get of `sent`, which the line brings in pieces of `step` bytes.
    async fn through(sent: Vec<u8>, step: usize, wanted: bool) -> (Vec<u8>, Vec<u8>) {
        let (mut server, line) = duplex(step);
        let switch = Arc::new(Switch::default());
        let (sender, mut receiver) = mpsc::channel::<Bytes>(1);
        if wanted {
            switch.divert(sender);
        } else {
            drop(sender);
        }
        let mut tap = Tap::new(line, switch, false);
        let server = tokio::spawn(async move {
            server.write_all(&sent).await.unwrap();
        });
        let listener = tokio::spawn(async move {
            let mut all = Vec::new();
            while let Some(piece) = receiver.recv().await {
                assert!(piece.len() <= PIECE_BYTES);
                all.extend_from_slice(&piece);
            }
            all
        });
        let mut forwarded = Vec::new();
        tap.read_to_end(&mut forwarded).await.unwrap();
        drop(tap);
        server.await.unwrap();
        (forwarded, listener.await.unwrap())
    }

    fn conversation() -> (Vec<u8>, Vec<u8>, Vec<u8>) {
        let (mut all, mut rows, mut rest) = (Vec::new(), Vec::new(), Vec::new());
        let other = |kind: u8, body: &[u8], all: &mut Vec<u8>, rest: &mut Vec<u8>| {
            all.extend(message(kind, body));
            rest.extend(message(kind, body));
        };
        other(b'2', b"", &mut all, &mut rest);
        other(b'H', b"\0\0\0", &mut all, &mut rest);
        for row in 0..3000_usize {
            let body = vec![row as u8; row % 1500];
            all.extend(message(b'd', &body));
            rows.extend(body);
            if row == 1000 {
                other(b'N', b"a notice in between", &mut all, &mut rest);
            }
        }
        other(b'c', b"", &mut all, &mut rest);
        other(b'C', b"COPY 3000\0", &mut all, &mut rest);
        // A second COPY, which nobody asked for.
        other(b'd', b"for the driver", &mut all, &mut rest);
        other(b'Z', b"I", &mut all, &mut rest);
        (all, rows, rest)
    }

    #[tokio::test]
    async fn rows_are_taken_out_and_all_else_goes_on_wherever_the_line_cuts() {
        let (all, rows, rest) = conversation();
        for step in [3, 4096, 1 << 20] {
            let (forwarded, taken) = through(all.clone(), step, true).await;
            assert!(forwarded == rest && taken == rows, "cut every {step} bytes");
        }
    }

    #[tokio::test]
    async fn nothing_is_taken_that_was_not_asked_for() {
        let (all, ..) = conversation();
        assert!(through(all.clone(), 4096, false).await == (all, Vec::new()));
    }

    #[tokio::test]
    async fn a_line_that_breaks_ends_the_rows() {
        let (all, rows, rest) = conversation();
        let (forwarded, taken) = through(all[..all.len() / 2].to_vec(), 4096, true).await;
        assert!(rest.starts_with(&forwarded) && rows.starts_with(&taken));
    }

    #[tokio::test]
    async fn a_length_that_cannot_be_is_an_error() {
        let mut tap = Tap::new(&b"d\0\0\0\x03xx"[..], Arc::default(), false);
        assert!(tap.read_u8().await.is_err());
    }

    #[tokio::test]
    async fn the_answer_to_a_request_for_tls_has_no_frame() {
        let mut tap = Tap::new(&b"N"[..], Arc::default(), true);
        assert_eq!(tap.read_u8().await.unwrap(), b'N');
    }
}
