//! Packs: many sealed chunks in one immutable object, with a sealed directory and a fixed trailer.
//!
//! ```text
//! header (64) | sealed chunk … | sealed directory | directory length u32 LE | chunk count u32 LE | "FSPKEND1"
//! ```
//! The directory is sealed under the run's catalogue key with the header as associated data, so that indexes can be rebuilt
//! from packs without any data key.

use super::{
    Class, RepositoryError,
    chunk::{ChunkId, Encoding, seal_chunk},
    error::Result,
    format::{HEADER_BYTES, Header, Id, Kind, MAX_CHUNK_BYTES, MAX_PACK_BYTES},
    keys::{Catalogue, sha256},
    seal::{OVERHEAD_BYTES, SealingKey},
};

/// Bytes of one directory record: id 32, offset u32, sealed length u32, plain length u32, encoding u8; little-endian.
pub const RECORD_BYTES: usize = 45;
const TRAILER_BYTES: usize = 16;
const TRAILER_MAGIC: [u8; 8] = *b"FSPKEND1";

/// Bytes of a pack with so many chunks that are not their sealed bytes: header, sealed directory, trailer.
pub fn pack_overhead_bytes(chunks: u32) -> u64 {
    (HEADER_BYTES + OVERHEAD_BYTES + TRAILER_BYTES) as u64 + u64::from(chunks) * RECORD_BYTES as u64
}

/// Where one chunk lies in its pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The chunk.
    pub id: ChunkId,
    /// From the start of the pack, bytes.
    pub offset: u32,
    /// Sealed bytes (nonce and tag included).
    pub sealed_bytes: u32,
    /// Plain bytes.
    pub plain_bytes: u32,
    /// How the plain bytes were written down.
    pub encoding: Encoding,
}

impl Place {
    /// Appends the record.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.id.0);
        for number in [self.offset, self.sealed_bytes, self.plain_bytes] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.push(self.encoding as u8);
    }

    /// Reads a record of exactly [`RECORD_BYTES`]; refuses lengths that no chunk has, so that nobody can be made to hold more.
    pub fn decode(record: &[u8]) -> Option<Self> {
        let number = |at: usize| Some(u32::from_le_bytes(record.get(at..at + 4)?.try_into().ok()?));
        let place = Self {
            id: ChunkId(record.get(..32)?.try_into().ok()?),
            offset: number(32)?,
            sealed_bytes: number(36)?,
            plain_bytes: number(40)?,
            encoding: Encoding::from_number(*record.get(44)?)?,
        };
        let (sealed, plain) = (place.sealed_bytes as usize, place.plain_bytes as usize);
        let possible = plain <= MAX_CHUNK_BYTES
            && sealed >= OVERHEAD_BYTES
            && match place.encoding {
                Encoding::Plain => sealed == plain + OVERHEAD_BYTES,
                // Compression that does not pay is not used.
                Encoding::Zstd => sealed < plain + OVERHEAD_BYTES,
            };
        possible.then_some(place)
    }

    /// Whether it lies between header and directory of a pack whose directory begins at `end`.
    fn is_within(&self, end: u64) -> bool {
        self.offset as usize >= HEADER_BYTES && u64::from(self.offset) + u64::from(self.sealed_bytes) <= end
    }
}

/// What an index says of a pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackEntry {
    /// Its name.
    pub sha256: [u8; 32],
    /// Its size in bytes.
    pub size: u32,
    /// Which family its chunks are of.
    pub class: Class,
    /// The run that wrote it.
    pub run: Id,
    /// The data key its chunks are sealed under (zero for catalogue packs).
    pub data_key: Id,
    /// Its chunks by offset.
    pub places: Vec<Place>,
}

impl PackEntry {
    /// Whether its sizes are possible: all chunks within a pack of its size, which is no larger than a reader is ready to hold.
    pub fn is_possible(&self) -> bool {
        self.size <= MAX_PACK_BYTES && self.places.iter().all(|place| place.is_within(self.size.into()))
    }

    /// What its directory says, as one hash: tells whether an index and the pack itself say the same.
    pub fn directory_hash(&self) -> [u8; 32] {
        let mut directory = Vec::with_capacity(self.places.len() * RECORD_BYTES);
        self.places.iter().for_each(|place| place.encode(&mut directory));
        *blake3::hash(&directory).as_bytes()
    }
}

/// A pack being filled.
#[derive(Debug)]
pub struct PackBuilder {
    header: Header,
    bytes: Vec<u8>,
    places: Vec<Place>,
}

/// A pack that is whole.
#[derive(Debug)]
pub struct Pack {
    /// For the index.
    pub entry: PackEntry,
    /// What to upload.
    pub bytes: Vec<u8>,
}

impl PackBuilder {
    /// An empty pack, built in `buffer`, whose contents are discarded.
    pub fn new(header: Header, mut buffer: Vec<u8>) -> Self {
        buffer.clear();
        buffer.extend_from_slice(&header.encode());
        Self { header, bytes: buffer, places: Vec::new() }
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether no chunk is in it.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Seals a chunk's encoded bytes right into the pack.
    pub fn push(&mut self, key: &SealingKey, id: ChunkId, plain_bytes: u32, encoding: Encoding, encoded: &[u8]) {
        let start = self.bytes.len();
        seal_chunk(key, &id, encoding, plain_bytes, encoded, &mut self.bytes);
        let offset = u32::try_from(start).expect("packs are closed far below 4 GiB");
        let sealed_bytes = u32::try_from(self.bytes.len() - start).expect("chunks are at most 8 MiB");
        self.places.push(Place { id, offset, sealed_bytes, plain_bytes, encoding });
    }

    /// Takes a chunk over as it lies in another pack of the same data key: sealed, and bound to its id, not to its place.
    pub fn push_sealed(&mut self, place: &Place, sealed: &[u8]) {
        let offset = u32::try_from(self.bytes.len()).expect("packs are closed far below 4 GiB");
        self.bytes.extend_from_slice(sealed);
        self.places.push(Place { offset, ..*place });
    }

    /// Adds directory and trailer, and names the pack. Hashes all of it: CPU work.
    pub fn finish(mut self, catalogue: &SealingKey) -> Pack {
        let mut directory = Vec::with_capacity(self.places.len() * RECORD_BYTES);
        for place in &self.places {
            place.encode(&mut directory);
        }
        let start = self.bytes.len();
        catalogue.seal_into(&self.header.encode(), &directory, &mut self.bytes);
        let length = u32::try_from(self.bytes.len() - start).expect("a directory is 45 bytes a chunk");
        let count = u32::try_from(self.places.len()).expect("packs are closed far below 2^32 chunks");
        self.bytes.extend_from_slice(&length.to_le_bytes());
        self.bytes.extend_from_slice(&count.to_le_bytes());
        self.bytes.extend_from_slice(&TRAILER_MAGIC);
        let entry = PackEntry {
            sha256: sha256(&self.bytes),
            size: u32::try_from(self.bytes.len()).expect("packs are closed far below 4 GiB"),
            class: if self.header.kind == Kind::DataPack { Class::Data } else { Class::Catalogue },
            run: self.header.run,
            data_key: self.header.data_key,
            places: self.places,
        };
        Pack { entry, bytes: self.bytes }
    }
}

/// The trailer of a pack: how long its directory is.
#[derive(Debug, Clone, Copy)]
pub struct Tail {
    sealed_bytes: usize,
    records: usize,
    /// Where the directory begins in the pack.
    start: u64,
}

impl Tail {
    /// Reads the trailer at the end of `tail`, which is the end of a pack of `size` bytes.
    ///
    /// # Errors
    /// [`RepositoryError::Damaged`] naming `place`.
    pub fn parse(place: &str, tail: &[u8], size: u64) -> Result<Self> {
        let damaged = |detail: &str| RepositoryError::Damaged { place: place.to_owned(), detail: detail.to_owned() };
        let trailer_at = size.checked_sub(TRAILER_BYTES as u64).filter(|at| *at >= HEADER_BYTES as u64);
        let (trailer_at, trailer) = trailer_at.zip(tail.last_chunk::<TRAILER_BYTES>()).ok_or_else(|| damaged("too short"))?;
        if trailer[8..] != TRAILER_MAGIC {
            return Err(damaged("does not end as a pack"));
        }
        let number = |at: usize| u32::from_le_bytes(trailer[at..at + 4].try_into().expect("four bytes")) as usize;
        let start = trailer_at.checked_sub(number(0) as u64).filter(|at| *at >= HEADER_BYTES as u64);
        let start = start.ok_or_else(|| damaged("has an impossible directory"))?;
        Ok(Self { sealed_bytes: number(0), records: number(4), start })
    }

    /// Bytes of directory and trailer.
    pub fn directory_bytes(&self) -> u64 {
        (self.sealed_bytes + TRAILER_BYTES) as u64
    }
}

/// Opens a pack's directory. `header` begins with the pack's first bytes; `tail` is its end, at least directory and trailer.
///
/// # Errors
/// [`RepositoryError::Damaged`] naming `place`, for anything that does not match.
pub fn open_directory(
    place: &str,
    name: &[u8; 32],
    size: u32,
    header: &[u8],
    tail: &[u8],
    catalogue: &Catalogue,
) -> Result<PackEntry> {
    let damaged = |detail: &str| RepositoryError::Damaged { place: place.to_owned(), detail: detail.to_owned() };
    let found = Header::decode(place, header, &[Kind::DataPack, Kind::CataloguePack])?;
    let Tail { sealed_bytes, records, start } = Tail::parse(place, tail, size.into())?;
    let sealed = tail.len().checked_sub(TRAILER_BYTES + sealed_bytes).map(|from| &tail[from..from + sealed_bytes]);
    let sealed = sealed.ok_or_else(|| damaged("ends within its directory"))?;
    let mut plain = Vec::new();
    catalogue
        .opening_key(&found.run)
        .open(&header[..HEADER_BYTES], sealed, &mut plain)
        .map_err(|error| damaged(&format!("its directory: {error}")))?;
    if plain.len() != records * RECORD_BYTES {
        return Err(damaged("its directory has not the length that the trailer says"));
    }
    let places = parse_directory(place, &plain, start)?;
    let class = if found.kind == Kind::DataPack { Class::Data } else { Class::Catalogue };
    Ok(PackEntry { sha256: *name, size, class, run: found.run, data_key: found.data_key, places })
}

/// Reads the plain text of a directory that begins at `start` in its pack.
///
/// # Errors
/// [`RepositoryError::Damaged`] naming `place`.
pub fn parse_directory(place: &str, plain: &[u8], start: u64) -> Result<Vec<Place>> {
    let damaged = |detail: &str| RepositoryError::Damaged { place: place.to_owned(), detail: detail.to_owned() };
    if !plain.len().is_multiple_of(RECORD_BYTES) {
        return Err(damaged("its directory ends within a record"));
    }
    let places: Option<Vec<Place>> = plain.chunks_exact(RECORD_BYTES).map(Place::decode).collect();
    let places = places.ok_or_else(|| damaged("its directory has an impossible record"))?;
    if !places.iter().all(|place| place.is_within(start)) {
        return Err(damaged("its directory points outside of it"));
    }
    Ok(places)
}

/// Reads header and directory of a whole pack, after comparing its bytes with its name.
///
/// # Errors
/// [`RepositoryError::Damaged`] naming `place`, for anything that does not match.
pub fn read_pack(place: &str, expected: &[u8; 32], bytes: &[u8], catalogue: &Catalogue) -> Result<PackEntry> {
    let damaged = |detail: &str| RepositoryError::Damaged { place: place.to_owned(), detail: detail.to_owned() };
    if sha256(bytes) != *expected {
        return Err(damaged("the SHA-256 of its bytes is not its name"));
    }
    let size = u32::try_from(bytes.len()).map_err(|_| damaged("longer than 4 GiB"))?;
    open_directory(place, expected, size, bytes, bytes, catalogue)
}
