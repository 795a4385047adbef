//! Messages within the stream (PostgreSQL's manual, "Streaming Replication Protocol"); pure.

use bytes::{BufMut, Bytes, BytesMut};
use chrono::{DateTime, Utc};

use super::Lsn;

/// Longest message of a stream, with its header. A server sends 16 pages of its log at a time: 128 KiB, 1 MiB with the largest pages.
pub(super) const MOST_STREAMED_BYTES: usize = (1 << 20) + 4096;
/// 2000-01-01 in microseconds since 1970, from where the protocol counts.
const EPOCH_MICROS: i64 = 946_684_800_000_000;

/// What comes over a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A piece of the log.
    Log {
        /// Its place.
        at: Lsn,
        /// Its bytes; the server has them on its disk.
        bytes: Bytes,
    },
    /// The server lives.
    Alive {
        /// It wants to be told how far we are, now.
        is_asked: bool,
    },
    /// There is nothing more on this timeline.
    Ended,
}

/// How far we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What has come, up to here.
    pub received: Lsn,
    /// What is stored for good, up to here; 0 where that is not known.
    pub stored: Lsn,
}

/// A message, as it is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Streamed {
    Log { at: Lsn, bytes: Bytes },
    Alive { is_asked: bool },
}

/// Reads what is in a `CopyData`; nothing for what is none of them.
pub(super) fn read(bytes: Bytes) -> Option<Streamed> {
    let long = |at: usize| Some(u64::from_be_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    match *bytes.first()? {
        // Place, end of the server's log, time; bytes.
        b'w' if bytes.len() >= 25 => {
            let at = long(1)?;
            // No log is so long that its places wrap.
            at.checked_add(bytes.len() as u64)?;
            Some(Streamed::Log { at: Lsn(at), bytes: bytes.slice(25..) })
        }
        // End of the server's log, time, whether an answer is wanted.
        b'k' if bytes.len() == 18 => Some(Streamed::Alive { is_asked: bytes[17] != 0 }),
        _ => None,
    }
}

/// How far we are, for the server. Nothing is ever applied here, and nothing is said of it: a commit that waits for that
/// (`remote_apply`) is never told so by us.
pub(super) fn report(progress: Progress, at: DateTime<Utc>, is_asking: bool) -> BytesMut {
    let mut bytes = BytesMut::with_capacity(39);
    bytes.put_u8(b'd');
    bytes.put_u32(38);
    bytes.put_u8(b'r');
    bytes.put_u64(progress.received.0.max(progress.stored.0));
    bytes.put_u64(progress.stored.0);
    bytes.put_u64(0);
    bytes.put_i64(at.timestamp_micros().saturating_sub(EPOCH_MICROS));
    bytes.put_u8(is_asking.into());
    bytes
}

#[cfg(test)]
mod tests {
    use super::{Bytes, DateTime, Lsn, Progress, Streamed, read, report};

    #[test]
    fn a_piece_of_the_log_and_a_sign_of_life_are_read_and_nothing_else_is() {
        let head = [&b"w"[..], &0x1_0000_0028_u64.to_be_bytes(), &[7; 16]].concat();
        let piece = Bytes::from([&head[..], b"log"].concat());
        assert_eq!(read(piece.clone()), Some(Streamed::Log { at: Lsn(0x1_0000_0028), bytes: Bytes::from_static(b"log") }));
        let alive = Bytes::from([&b"k"[..], &[0; 16], &[1]].concat());
        assert_eq!(read(alive.clone()), Some(Streamed::Alive { is_asked: true }));
        for short in 0..25 {
            assert_eq!(read(piece.slice(..short)), None);
        }
        for wrong in [alive.slice(..17), Bytes::from([&alive[..], b"x"].concat()), Bytes::from_static(b"r"), Bytes::new()] {
            assert_eq!(read(wrong), None);
        }
        let beyond = [&b"w"[..], &u64::MAX.to_be_bytes(), &[7; 16], b"log"].concat();
        assert_eq!(read(beyond.into()), None);
    }

    #[test]
    fn what_the_server_is_told_is_laid_out_as_the_manual_has_it() {
        let at = DateTime::from_timestamp_micros(946_684_800_000_001).unwrap();
        let told = report(Progress { received: Lsn(0x20), stored: Lsn(0x10) }, at, true);
        assert_eq!(&told[..6], b"d\0\0\0\x26r");
        let longs: Vec<u64> = told[6..38].chunks(8).map(|long| u64::from_be_bytes(long.try_into().unwrap())).collect();
        assert_eq!((longs, told[38], told.len()), (vec![0x20, 0x10, 0, 1], 1, 39));
        let ahead = report(Progress { received: Lsn(1), stored: Lsn(9) }, at, false);
        assert_eq!((ahead[13], ahead[21], ahead[38]), (9, 9, 0), "what is stored was received");
    }
}
