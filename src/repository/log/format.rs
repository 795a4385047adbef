//! The object of one file of the log.
//!
//! ```text
//! header (64) | sealed length u32 | sealed( JSON ) | block …
//! block: sealed length u32 | plain length u32 | encoding u8 | sealed( … )
//! ```
//!
//! The JSON is sealed under the run's catalogue key: whoever writes must be able to tell what is there already. The blocks are sealed
//! under a key of the log, each bound to the header, its number, whether it is the last, and the object's key.

use std::{io::Cursor, sync::Arc};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::LogName;
use crate::repository::{
    RepositoryError,
    chunk::Encoding,
    error::Result,
    format::{HEADER_BYTES, Header, Id, Kind},
    keys::{Catalogue, random},
    seal::{OVERHEAD_BYTES, OpeningKey, SealingKey},
    workers::Desk,
};

/// Largest file of a log that is taken, plain bytes. (A segment has 16 MiB, unless a cluster was made with another size.)
pub const MAX_LOG_FILE_BYTES: u64 = 128 << 20;
/// Plain bytes of a block, but for the last.
pub const MAX_LOG_BLOCK_BYTES: usize = 4 << 20;
/// Largest sealed JSON, bytes: a few fields.
const MAX_META_BYTES: usize = 4 << 10;
/// Bytes from which everything but the blocks can be read.
pub(super) const HEAD_BYTES: u64 = (HEADER_BYTES + 4 + MAX_META_BYTES) as u64;
/// Before each sealed block.
const BLOCK_HEAD_BYTES: usize = 4 + 4 + 1;
/// Largest object, bytes.
pub(super) const MAX_OBJECT_BYTES: u64 = HEAD_BYTES
    + MAX_LOG_FILE_BYTES
    + (MAX_LOG_FILE_BYTES / MAX_LOG_BLOCK_BYTES as u64 + 1) * (BLOCK_HEAD_BYTES + OVERHEAD_BYTES) as u64;

/// What is sealed in front of the blocks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Meta {
    /// The object's key.
    object: String,
    /// Plain bytes.
    size: u64,
    /// Keyed BLAKE3 of them, hexadecimal.
    hash: String,
    /// When the server's log ended where this file does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ended_at: Option<DateTime<Utc>>,
}

/// What can be read of an object without the key that opens its blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogHead {
    header: Header,
    /// Where the blocks begin.
    blocks_at: usize,
    /// Plain bytes of the file.
    pub size: u64,
    /// [`Catalogue::log_id`] of them.
    pub hash: [u8; 32],
    /// When the server's log ended where this file does, by the clock of the machine that saw it: what was committed until then is in the
    /// log up to here. Nothing where nobody knew.
    pub ended_at: Option<DateTime<Utc>>,
}

fn word(bytes: &[u8], at: usize) -> Option<usize> {
    let word = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(word.try_into().ok()?) as usize)
}

impl LogHead {
    /// Reads the beginning of the object of this name; all of the object need not be there. `place` names it in errors.
    ///
    /// # Errors
    /// [`RepositoryError::Damaged`], [`RepositoryError::UnknownFormat`].
    pub fn read(place: &str, name: &LogName, bytes: &[u8], catalogue: &Catalogue) -> Result<Self> {
        let damaged = |detail: &str| RepositoryError::Damaged { place: place.to_owned(), detail: detail.to_owned() };
        let header = Header::decode(place, bytes, &[Kind::LogFile])?;
        if header.catalogue_key != catalogue.id {
            return Err(damaged("is sealed under another catalogue key than this repository's"));
        }
        let length = word(bytes, HEADER_BYTES).ok_or_else(|| damaged("ends within its head"))?;
        if length > MAX_META_BYTES {
            return Err(damaged("says an impossible length of its head"));
        }
        let blocks_at = HEADER_BYTES + 4 + length;
        let sealed = bytes.get(HEADER_BYTES + 4..blocks_at).ok_or_else(|| damaged("ends within its head"))?;
        let mut plain = Vec::new();
        let opened = catalogue.opening_key(&header.run).open(&bytes[..HEADER_BYTES], sealed, &mut plain);
        opened.map_err(|error| damaged(&error.to_string()))?;
        let meta: Meta = serde_json::from_slice(&plain).map_err(|error| damaged(&error.to_string()))?;
        if meta.object != name.to_string() {
            return Err(damaged(&format!("holds {} instead", meta.object)));
        }
        let mut hash = [0; 32];
        if hex::decode_to_slice(&meta.hash, &mut hash).is_err() || meta.size > MAX_LOG_FILE_BYTES {
            return Err(damaged("says an impossible size or hash"));
        }
        Ok(Self { header, blocks_at, size: meta.size, hash, ended_at: meta.ended_at })
    }

    /// The key that its blocks are sealed under.
    pub fn log_key(&self) -> Id {
        self.header.data_key
    }
}

/// The key that the blocks of an object are sealed under, by its first bytes alone.
///
/// # Errors
/// [`RepositoryError::Damaged`], [`RepositoryError::UnknownFormat`].
pub(super) fn key_of(place: &str, bytes: &[u8]) -> Result<Id> {
    Ok(Header::decode(place, bytes, &[Kind::LogFile])?.data_key)
}

/// What a block is bound to.
fn associated(header: &[u8], name: &str, number: u32, plain_bytes: u32, encoding: Encoding, is_last: bool) -> Vec<u8> {
    let mut out = header.to_vec();
    out.extend_from_slice(&number.to_le_bytes());
    out.extend_from_slice(&plain_bytes.to_le_bytes());
    out.push(encoding as u8);
    out.push(u8::from(is_last));
    out.extend_from_slice(name.as_bytes());
    out
}

/// An object as it is made, from a head and blocks.
pub struct LogSealing<'a> {
    key: &'a SealingKey,
    object: String,
    run: Id,
    header: [u8; HEADER_BYTES],
    blocks: u32,
    out: Vec<u8>,
}

impl<'a> LogSealing<'a> {
    /// Begins the object of this name with its head, a JSON text. The key of the log is `(id, key)`.
    pub fn begin(catalogue: &Catalogue, name: &LogName, key: (&Id, &'a SealingKey), json: &[u8]) -> Self {
        Self::with_room(Vec::new(), catalogue, name, key, json.len()).with_head(catalogue, json)
    }

    /// Begins it in an empty buffer that was used before, with room for a head of so many bytes.
    fn with_room(
        mut out: Vec<u8>,
        catalogue: &Catalogue,
        name: &LogName,
        (id, key): (&Id, &'a SealingKey),
        head_bytes: usize,
    ) -> Self {
        let run: Id = random();
        let header = Header { kind: Kind::LogFile, catalogue_key: catalogue.id, run, data_key: *id }.encode();
        out.extend_from_slice(&header);
        out.extend_from_slice(&length(head_bytes + OVERHEAD_BYTES));
        out.resize(out.len() + head_bytes + OVERHEAD_BYTES, 0);
        Self { key, object: name.to_string(), run, header, blocks: 0, out }
    }

    /// Puts the head into the room that was left for it.
    fn with_head(mut self, catalogue: &Catalogue, json: &[u8]) -> Self {
        let mut sealed = Vec::new();
        // Like a piece of evidence, a file is a run of its own with one seal.
        catalogue.sealing_key(&self.run).seal_into(&self.header, json, &mut sealed);
        let from = HEADER_BYTES + 4;
        assert_eq!(self.out[HEADER_BYTES..from], length(sealed.len()), "a head is as long as the room that was left for it");
        self.out[from..from + sealed.len()].copy_from_slice(&sealed);
        self
    }

    /// Adds a block.
    pub fn block(&mut self, encoding: Encoding, plain_bytes: u32, encoded: &[u8], is_last: bool) {
        self.out.extend_from_slice(&length(encoded.len() + OVERHEAD_BYTES));
        self.out.extend_from_slice(&plain_bytes.to_le_bytes());
        self.out.push(encoding as u8);
        let bound = associated(&self.header, &self.object, self.blocks, plain_bytes, encoding, is_last);
        self.key.seal_into(&bound, encoded, &mut self.out);
        self.blocks += 1;
    }

    /// The object.
    pub fn finish(self) -> Vec<u8> {
        self.out
    }
}

/// Makes the object of a file in an empty buffer, compressing by `desk`.
pub(super) fn seal_log_file(
    catalogue: &Catalogue,
    name: &LogName,
    key: (&Id, &SealingKey),
    (plain, ended_at): (&[u8], Option<DateTime<Utc>>),
    desk: &mut Desk,
    out: Vec<u8>,
) -> Vec<u8> {
    let json = |hash: &[u8; 32]| {
        let meta = Meta { object: name.to_string(), size: plain.len() as u64, hash: hex::encode(hash), ended_at };
        serde_json::to_vec(&meta).expect("strings, a number and a time always serialise")
    };
    // Every hash is as long as every other.
    let mut sealing = LogSealing::with_room(out, catalogue, name, key, json(&[0; 32]).len());
    sealing.out.reserve(plain.len() / 4);
    let mut hasher = catalogue.log_hasher();
    // A file without bytes has one block without bytes.
    let blocks = plain.len().div_ceil(MAX_LOG_BLOCK_BYTES).max(1);
    for number in 0..blocks {
        let from = number * MAX_LOG_BLOCK_BYTES;
        let block = &plain[from..plain.len().min(from + MAX_LOG_BLOCK_BYTES)];
        // Block by block: what was hashed is in the processor's caches when it is compressed.
        hasher.update(block);
        let encoding = desk.encode_log(block);
        let encoded = if encoding == Encoding::Zstd { &desk.scratch } else { block };
        sealing.block(encoding, block.len() as u32, encoded, number + 1 == blocks);
    }
    sealing.with_head(catalogue, &json(hasher.finalize().as_bytes())).finish()
}

fn length(bytes: usize) -> [u8; 4] {
    u32::try_from(bytes).expect("a block and a head have a few MiB at most").to_le_bytes()
}

/// Opens the blocks of a whole object; returns the file, which is what it was when it was sealed.
///
/// # Errors
/// [`RepositoryError::Damaged`].
pub fn open_log_file(
    place: &str,
    name: &LogName,
    head: &LogHead,
    bytes: &[u8],
    key: &OpeningKey,
    catalogue: &Catalogue,
) -> Result<Vec<u8>> {
    let mut room = LogRoom::new(place)?;
    // The head is authentic, and says no more than `MAX_LOG_FILE_BYTES`.
    room.plain.reserve_exact(usize::try_from(head.size).unwrap_or(0));
    let mut blocks = Blocks::of(place, name, head, bytes);
    let mut hasher = catalogue.log_hasher();
    while let Some(from) = blocks.next(key, &mut room)? {
        hasher.update(&room.plain[from..]);
    }
    blocks.end(hasher)?;
    Ok(room.plain)
}

/// The same, a block at a time: each goes to `take`. What was taken is the file only if this returns no error.
///
/// # Errors
/// [`RepositoryError::Damaged`], and those of `take`.
pub(super) fn open_log_blocks<E: From<RepositoryError>>(
    sealed: &SealedLogFile,
    catalogue: &Catalogue,
    room: &mut LogRoom,
    mut take: impl FnMut(&[u8]) -> std::result::Result<(), E>,
) -> std::result::Result<(), E> {
    let SealedLogFile { place, name, head, bytes, key } = sealed;
    let mut blocks = Blocks::of(place, name, head, bytes);
    let mut hasher = catalogue.log_hasher();
    room.plain.clear();
    while blocks.next(key, room)?.is_some() {
        hasher.update(&room.plain);
        take(&room.plain)?;
        room.plain.clear();
    }
    Ok(blocks.end(hasher)?)
}

/// What opening takes: costly to make, and used again.
pub(super) struct LogRoom {
    decompressor: zstd::bulk::Decompressor<'static>,
    encoded: Vec<u8>,
    plain: Vec<u8>,
}

impl LogRoom {
    pub(super) fn new(place: &str) -> Result<Self> {
        let decompressor = zstd::bulk::Decompressor::new().map_err(|error| RepositoryError::Damaged {
            place: place.to_owned(),
            detail: format!("cannot be opened: zstd has no memory: {error}"),
        })?;
        Ok(Self { decompressor, encoded: Vec::new(), plain: Vec::new() })
    }
}

/// An object as it was fetched, whose head and key are known.
pub(super) struct SealedLogFile {
    pub(super) place: String,
    pub(super) name: LogName,
    pub(super) head: LogHead,
    pub(super) bytes: Bytes,
    pub(super) key: Arc<OpeningKey>,
}

/// Where the opening of an object has come to.
struct Blocks<'a> {
    place: &'a str,
    object: String,
    head: &'a LogHead,
    bytes: &'a [u8],
    at: usize,
    number: u32,
    /// Plain bytes so far.
    opened: u64,
}

impl<'a> Blocks<'a> {
    fn of(place: &'a str, name: &LogName, head: &'a LogHead, bytes: &'a [u8]) -> Self {
        Self { place, object: name.to_string(), head, bytes, at: head.blocks_at, number: 0, opened: 0 }
    }

    fn damaged(&self, detail: String) -> RepositoryError {
        RepositoryError::Damaged { place: self.place.to_owned(), detail }
    }

    /// Opens the next block onto the end of `room.plain`; returns where it begins there, and nothing after the last.
    fn next(&mut self, key: &OpeningKey, room: &mut LogRoom) -> Result<Option<usize>> {
        if self.number > 0 && self.at == self.bytes.len() {
            return Ok(None);
        }
        let (bytes, number) = (self.bytes, self.number);
        let broken = |detail: &str| self.damaged(format!("block {number} {detail}"));
        let (Some(sealed_bytes), Some(plain_bytes)) = (word(bytes, self.at), word(bytes, self.at + 4)) else {
            return Err(broken("is cut off"));
        };
        let encoding = bytes.get(self.at + 8).and_then(|number| Encoding::from_number(*number));
        let encoding = encoding.ok_or_else(|| broken("has an unknown encoding"))?;
        let possible = match encoding {
            Encoding::Plain => sealed_bytes == plain_bytes + OVERHEAD_BYTES,
            Encoding::Zstd => sealed_bytes < plain_bytes + OVERHEAD_BYTES,
        };
        if plain_bytes > MAX_LOG_BLOCK_BYTES || !possible || self.opened + plain_bytes as u64 > self.head.size {
            return Err(broken("says impossible lengths"));
        }
        let from = self.at + BLOCK_HEAD_BYTES;
        let sealed = bytes.get(from..from + sealed_bytes).ok_or_else(|| broken("is cut off"))?;
        let end = from + sealed_bytes;
        let bound = associated(&bytes[..HEADER_BYTES], &self.object, number, plain_bytes as u32, encoding, end == bytes.len());
        key.open(&bound, sealed, &mut room.encoded).map_err(|error| broken(&error.to_string()))?;
        let before = room.plain.len();
        match encoding {
            Encoding::Plain => room.plain.extend_from_slice(&room.encoded),
            // Onto the end of what is there, into room for just what the block says to hold.
            Encoding::Zstd => {
                room.plain.reserve(plain_bytes);
                let mut after = Cursor::new(&mut room.plain);
                after.set_position(before as u64);
                let opened = room.decompressor.decompress_to_buffer(&room.encoded, &mut after);
                opened.map_err(|error| broken(&format!("does not decompress: {error}")))?;
            }
        }
        if room.plain.len() - before != plain_bytes {
            return Err(broken("has another length than it says"));
        }
        (self.at, self.number, self.opened) = (end, number + 1, self.opened + plain_bytes as u64);
        Ok(Some(before))
    }

    /// Whether this is all of the file that was meant.
    fn end(&self, hasher: blake3::Hasher) -> Result<()> {
        if self.opened != self.head.size {
            return Err(self.damaged(format!("has {} bytes instead of {}", self.opened, self.head.size)));
        }
        // The tags show that a holder of the key wrote it, only this that it is the file that was meant.
        if *hasher.finalize().as_bytes() != self.head.hash {
            return Err(self.damaged("holds other bytes than its head says".to_owned()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::{
        Arc, Bytes, Catalogue, DateTime, Desk, LogHead, LogName, LogRoom, MAX_LOG_BLOCK_BYTES, OpeningKey, RepositoryError, Result,
        SealedLogFile, SealingKey, Utc, open_log_blocks, open_log_file, seal_log_file,
    };

    fn catalogue() -> Catalogue {
        Catalogue::new([1; 16], Zeroizing::new([2; 32]), &[3; 16])
    }

    fn name(number: u8) -> LogName {
        LogName::new(42, &format!("0000000100000000000000{number:02X}")).unwrap()
    }

    fn ended() -> DateTime<Utc> {
        DateTime::from_timestamp(1_764_154_800, 250_000_000).unwrap()
    }

    fn sealed(plain: &[u8]) -> Vec<u8> {
        sealed_at(1, plain)
    }

    fn sealed_at(level: i32, plain: &[u8]) -> Vec<u8> {
        let mut desk = Desk::new(level).unwrap();
        seal_log_file(&catalogue(), &name(1), (&[4; 16], &SealingKey::new(&[5; 32])), (plain, Some(ended())), &mut desk, Vec::new())
    }

    /// At once and a block at a time, which must end alike.
    fn opened(of: u8, bytes: &[u8]) -> Result<Vec<u8>> {
        let (name, catalogue) = (name(of), catalogue());
        let head = LogHead::read("x", &name, bytes, &catalogue)?;
        let whole = open_log_file("x", &name, &head, bytes, &OpeningKey::new(&[5; 32]), &catalogue);
        let key = Arc::new(OpeningKey::new(&[5; 32]));
        let sealed = SealedLogFile { place: "x".to_owned(), name, head, bytes: Bytes::copy_from_slice(bytes), key };
        let (mut room, mut taken) = (LogRoom::new("x").unwrap(), Vec::new());
        let ended = open_log_blocks(&sealed, &catalogue, &mut room, |block| {
            assert!(block.len() <= MAX_LOG_BLOCK_BYTES);
            taken.extend_from_slice(block);
            Ok::<_, RepositoryError>(())
        });
        match (&whole, ended) {
            (Ok(whole), Ok(())) => assert!(*whole == taken),
            (Err(one), Err(other)) => assert_eq!(one.to_string(), other.to_string()),
            (whole, ended) => panic!("{:?}, and by blocks {ended:?}", whole.as_ref().map(Vec::len)),
        }
        whole
    }

    #[test]
    fn a_file_comes_back_whatever_its_size() {
        let noise = |bytes: usize| (0..bytes).map(|at| blake3::hash(&at.to_le_bytes()).as_bytes()[0]).collect::<Vec<u8>>();
        for plain in [vec![], vec![7], noise(100_000), vec![0; MAX_LOG_BLOCK_BYTES], vec![1; 2 * MAX_LOG_BLOCK_BYTES + 1]] {
            for level in [1, 3, 9] {
                assert!(opened(1, &sealed_at(level, &plain)).unwrap() == plain, "{} bytes at level {level}", plain.len());
            }
        }
    }

    #[test]
    fn whoever_takes_blocks_ends_it() {
        let bytes = sealed(&vec![3; 3 * MAX_LOG_BLOCK_BYTES]);
        let (name, catalogue) = (name(1), catalogue());
        let head = LogHead::read("x", &name, &bytes, &catalogue).unwrap();
        let key = Arc::new(OpeningKey::new(&[5; 32]));
        let sealed = SealedLogFile { place: "x".to_owned(), name, head, bytes: bytes.into(), key };
        let (mut room, mut taken) = (LogRoom::new("x").unwrap(), 0);
        let full = || RepositoryError::Refused { subject: "disk".to_owned(), detail: "is full".to_owned() };
        let ended = open_log_blocks(&sealed, &catalogue, &mut room, |_| {
            taken += 1;
            if taken == 2 { Err(full()) } else { Ok(()) }
        });
        assert_eq!((ended.unwrap_err().to_string(), taken), (full().to_string(), 2));
        // What it worked with is as good as new.
        let mut again = Vec::new();
        let take = |block: &[u8]| {
            again.extend_from_slice(block);
            Ok::<_, RepositoryError>(())
        };
        open_log_blocks(&sealed, &catalogue, &mut room, take).unwrap();
        assert!(again == vec![3; 3 * MAX_LOG_BLOCK_BYTES]);
    }

    #[test]
    fn a_flipped_bit_a_missing_end_or_another_name_is_refused() {
        let plain = [vec![3; MAX_LOG_BLOCK_BYTES], b"the end".to_vec()].concat();
        let bytes = sealed(&plain);
        assert!(bytes.len() < 2000, "{}", bytes.len());
        for bit in 0..bytes.len() * 8 {
            let mut broken = bytes.clone();
            broken[bit / 8] ^= 1 << (bit % 8);
            assert!(opened(1, &broken).is_err(), "bit {bit}");
        }
        for length in 0..bytes.len() {
            assert!(opened(1, &bytes[..length]).is_err(), "{length} bytes");
        }
        assert!(opened(1, &[bytes.as_slice(), &[0]].concat()).is_err());
        assert!(opened(2, &bytes).unwrap_err().to_string().contains("holds wal/42/"));
    }

    #[test]
    fn a_head_that_is_sealed_anew_does_not_give_blocks_another_name_or_end() {
        // Whoever has the agent's key can seal heads.
        let plain = [vec![3; MAX_LOG_BLOCK_BYTES], b"the end".to_vec()].concat();
        let (bytes, catalogue) = (sealed(&plain), catalogue());
        let head = LogHead::read("x", &name(1), &bytes, &catalogue).unwrap();
        let forge = |object: String, plain: &[u8], blocks: &[u8]| {
            let meta = super::Meta { object, size: plain.len() as u64, hash: hex::encode(catalogue.log_id(plain)), ended_at: None };
            let mut sealed = Vec::new();
            catalogue.sealing_key(&head.header.run).seal_into(&bytes[..64], &serde_json::to_vec(&meta).unwrap(), &mut sealed);
            [&bytes[..64], &super::length(sealed.len()), &sealed, blocks].concat()
        };
        let blocks = &bytes[head.blocks_at..];
        let first = super::BLOCK_HEAD_BYTES + super::word(blocks, 0).unwrap();
        assert!(opened(1, &forge(name(1).to_string(), &plain, blocks)).is_ok());
        for (of, forged) in [
            (2, forge(name(2).to_string(), &plain, blocks)),
            (1, forge(name(1).to_string(), &plain[..MAX_LOG_BLOCK_BYTES], &blocks[..first])),
            (1, forge(name(1).to_string(), b"the end", &blocks[first..])),
            (
                1,
                forge(
                    name(1).to_string(),
                    &[b"the end", &plain[..MAX_LOG_BLOCK_BYTES]].concat(),
                    &[&blocks[first..], &blocks[..first]].concat(),
                ),
            ),
        ] {
            assert!(opened(of, &forged).unwrap_err().to_string().contains("tag does not match"), "{of}");
        }
        assert!(opened(1, &forge(name(1).to_string(), &[&plain[..MAX_LOG_BLOCK_BYTES], b"THE END"].concat(), blocks)).is_err());
    }
}
