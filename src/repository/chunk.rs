//! Chunks: runs of plain bytes and the keyed hash that names them.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{
    RepositoryError,
    error::Result,
    seal::{Forged, OpeningKey, SealingKey},
};

/// Content-defined chunks are at least this long (except for a last one). Bytes. Half of the average: the cutter skips it unread.
pub const MIN_CUT_BYTES: usize = 512 << 10;
/// What content-defined chunks aim at. Bytes.
pub const AVERAGE_CUT_BYTES: usize = 1 << 20;
/// Content-defined chunks are at most this long. Bytes.
pub const MAX_CUT_BYTES: usize = 4 << 20;

/// Keyed BLAKE3 of a chunk's plain bytes; says nothing to those without the key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChunkId(pub [u8; 32]);

impl fmt::Debug for ChunkId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&hex::encode(&self.0[..8]))
    }
}

impl fmt::Display for ChunkId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&hex::encode(self.0))
    }
}

/// Which of the two families a chunk belongs to: sealed under a data key (only readers open it) or under the catalogue key
/// (writers open it too). Their ids are keyed differently, so that a file which looks like an entry list is not taken for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// Bytes of sources.
    Data,
    /// Entry lists and chunk lists.
    Catalogue,
}

/// A chunk as the entries refer to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkRef {
    /// Its name.
    pub id: ChunkId,
    /// Plain bytes.
    pub length: u32,
}

/// Bytes of a [`ChunkRef`] as stored.
pub const REF_BYTES: usize = 36;
/// Highest [`ChunkList::level`]. Each level holds 8,192 times as many chunks as the one below it: three are 10^8 TB.
pub const MAX_LEVEL: u8 = 3;
/// Longest list of refs, over all its chunks, bytes: 30 million chunks, 30 TB in one content. What a reader is ready to hold.
pub const MAX_LIST_BYTES: u64 = 1 << 30;

/// How the bytes of a chunk were written down before sealing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Encoding {
    /// As they are.
    Plain = 0,
    /// One zstd frame.
    Zstd = 1,
}

impl Encoding {
    /// The encoding with this number.
    pub fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            0 => Self::Plain,
            1 => Self::Zstd,
            _ => return None,
        })
    }
}

/// Where the bytes of an entry are: the list of its chunks, or, for long lists, the list of chunks that hold the list.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ChunkList {
    /// 0: `refs` are the bytes themselves. n: `refs` are catalogue chunks whose plain bytes, joined, are the refs of level n-1.
    pub level: u8,
    /// Joined 36-byte records: id, then length as u32 little-endian.
    #[serde(with = "serde_bytes")]
    pub refs: Vec<u8>,
}

impl ChunkList {
    /// Adds a chunk at the end.
    pub fn push(&mut self, chunk: ChunkRef) {
        self.refs.extend_from_slice(&chunk.id.0);
        self.refs.extend_from_slice(&chunk.length.to_le_bytes());
    }

    /// How many chunks are in it.
    pub fn len(&self) -> usize {
        self.refs.len() / REF_BYTES
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.refs.is_empty()
    }

    /// The chunks in order.
    ///
    /// # Errors
    /// [`RepositoryError::Damaged`] if the bytes are no whole number of records.
    pub fn chunks(&self) -> Result<impl Iterator<Item = ChunkRef> + '_> {
        parse_refs(&self.refs)
    }

    /// As it travels in an entry.
    pub fn encode(&self) -> Vec<u8> {
        rmp_serde::to_vec_named(self).expect("two plain fields always serialise")
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// [`RepositoryError::Damaged`].
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        unpack(bytes)
            .map_err(|error| RepositoryError::Damaged { place: "an entry's chunk list".to_owned(), detail: error.to_string() })
    }
}

/// Reads joined 36-byte records.
///
/// # Errors
/// [`RepositoryError::Damaged`] if the bytes are no whole number of records.
pub fn parse_refs(bytes: &[u8]) -> Result<impl Iterator<Item = ChunkRef> + '_> {
    if !bytes.len().is_multiple_of(REF_BYTES) {
        return Err(RepositoryError::Damaged {
            place: "a chunk list".to_owned(),
            detail: format!("{} bytes are no whole number of records", bytes.len()),
        });
    }
    Ok(bytes.chunks_exact(REF_BYTES).map(|record| {
        let (id, length) = record.split_at(32);
        ChunkRef {
            id: ChunkId(id.try_into().expect("split at 32")),
            length: u32::from_le_bytes(length.try_into().expect("36 - 32 = 4")),
        }
    }))
}

fn associated(id: &ChunkId, encoding: Encoding, plain_bytes: u32) -> [u8; 37] {
    let mut out = [0u8; 37];
    out[..32].copy_from_slice(&id.0);
    out[32] = encoding as u8;
    out[33..].copy_from_slice(&plain_bytes.to_le_bytes());
    out
}

/// Seals a chunk's encoded bytes, bound to its id, encoding and plain length, at the end of `out`.
pub fn seal_chunk(key: &SealingKey, id: &ChunkId, encoding: Encoding, plain_bytes: u32, encoded: &[u8], out: &mut Vec<u8>) {
    key.seal_into(&associated(id, encoding, plain_bytes), encoded, out);
}

/// Opens a sealed chunk into `encoded` from `start` on, whose contents are replaced.
///
/// # Errors
/// [`Forged`].
pub fn open_chunk(
    key: &OpeningKey,
    id: &ChunkId,
    encoding: Encoding,
    plain_bytes: u32,
    sealed: &[u8],
    encoded: &mut Vec<u8>,
    start: usize,
) -> Result<(), Forged> {
    key.open_at(&associated(id, encoding, plain_bytes), sealed, encoded, start)
}

/// Deepest nesting of MessagePack that is read: nothing that is stored has more than a few levels, and a reader's stack is finite.
const MAX_DEPTH: usize = 32;

/// Reads MessagePack, at most [`MAX_DEPTH`] levels deep.
pub(super) fn unpack<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> std::result::Result<T, rmp_serde::decode::Error> {
    let mut deserializer = rmp_serde::Deserializer::from_read_ref(bytes);
    deserializer.set_max_depth(MAX_DEPTH);
    T::deserialize(&mut deserializer)
}
