//! Names, magic numbers and the header that every sealed object begins with. Normative text: `docs/format.md`.

use super::{RepositoryError, error::Result};

/// The format this program writes.
pub const FORMAT: u8 = 1;
/// First bytes of every object but `repository.json` and the keys.
pub const MAGIC: [u8; 8] = *b"FARSHORE";
/// Bytes of the header.
pub const HEADER_BYTES: usize = 64;
/// `repository.json`: what the repository is.
pub const REPOSITORY_FILE: &str = "repository.json";
/// Prefix of wrapped keys.
pub const KEYS: &str = "keys/";
/// Prefix of recipient sets.
pub const RECIPIENTS: &str = "recipients/";
/// Prefix of packs.
pub const PACKS: &str = "packs/";
/// Prefix of indexes.
pub const INDEXES: &str = "indexes/";
/// Prefix of recovery points.
pub const POINTS: &str = "points/";
/// Prefix of evidence.
pub const EVIDENCE: &str = "evidence/";
/// Prefix of pins.
pub const PINS: &str = "pins/";
/// Prefix of marks: which objects are known to be damaged.
pub const DAMAGED: &str = "damaged/";
/// Prefix of doom records: what prune is going to delete.
pub const DOOMED: &str = "doomed/";
/// Prefix of parts: what runs have captured that have made no point of it.
pub const PARTS: &str = "parts/";
/// Prefix of files of databases' logs.
pub const LOG: &str = "wal/";
/// Largest doom record, bytes; a prune that dooms more writes several.
pub const MAX_DOOM_BYTES: u64 = 16 << 20;
/// Largest pin or mark, bytes: a few fields and a reason.
pub const MAX_PIN_BYTES: u64 = 1 << 20;
/// Largest index object, bytes: what a reader is ready to hold.
pub const MAX_INDEX_BYTES: u64 = 256 << 20;
/// Largest plain text of an index or point after decompression, bytes.
pub const MAX_CATALOGUE_PLAIN_BYTES: usize = 512 << 20;
/// Largest point object, bytes.
pub const MAX_POINT_BYTES: u64 = 64 << 20;
/// Largest pack, bytes: writers aim at 64 MiB at most.
pub const MAX_PACK_BYTES: u32 = 128 << 20;
/// Largest wrapped key, bytes.
pub const MAX_KEY_BYTES: u64 = 1 << 20;
/// Largest plain chunk, bytes (a bucket object's part; content-defined chunks are at most half of it).
pub const MAX_CHUNK_BYTES: usize = 8 << 20;

/// 16 random bytes that name a key or a run.
pub type Id = [u8; 16];

/// What an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Chunks of sources, sealed under a data key.
    DataPack = 1,
    /// Chunks of entry streams and long chunk lists, sealed under the run's catalogue key.
    CataloguePack = 2,
    /// Where chunks lie.
    Index = 3,
    /// A recovery point.
    Point = 4,
    /// A drill's or a verification's record.
    Evidence = 5,
    /// That a point is to be kept, or no longer.
    Pin = 6,
    /// What prune is going to delete.
    Doom = 7,
    /// Who the recipients are.
    RecipientSet = 8,
    /// That an object is known to be damaged, or no longer.
    Mark = 9,
    /// A file of a database's log.
    LogFile = 10,
    /// What a run has captured so far.
    Part = 11,
}

impl Kind {
    /// The kind with this number.
    pub fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::DataPack,
            2 => Self::CataloguePack,
            3 => Self::Index,
            4 => Self::Point,
            5 => Self::Evidence,
            6 => Self::Pin,
            7 => Self::Doom,
            8 => Self::RecipientSet,
            9 => Self::Mark,
            10 => Self::LogFile,
            11 => Self::Part,
            _ => return None,
        })
    }
}

/// The first 64 bytes of every sealed object; they are associated data of what is sealed in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What it is.
    pub kind: Kind,
    /// The catalogue key it (or its directory) is sealed under.
    pub catalogue_key: Id,
    /// The run that wrote it: salt of the run's own catalogue key.
    pub run: Id,
    /// The data key its chunks are sealed under; zero where there is none.
    pub data_key: Id,
}

impl Header {
    /// As stored.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0u8; HEADER_BYTES];
        out[..8].copy_from_slice(&MAGIC);
        out[8] = FORMAT;
        out[9] = self.kind as u8;
        out[12..28].copy_from_slice(&self.catalogue_key);
        out[28..44].copy_from_slice(&self.run);
        out[44..60].copy_from_slice(&self.data_key);
        out
    }

    /// Reads the header at the start of `bytes`.
    ///
    /// # Errors
    /// [`RepositoryError::Damaged`] naming `place`; [`RepositoryError::UnknownFormat`] for another format.
    pub fn decode(place: &str, bytes: &[u8], expected: &[Kind]) -> Result<Self> {
        let damaged = |detail: &str| RepositoryError::Damaged { place: place.to_owned(), detail: detail.to_owned() };
        let header = bytes.get(..HEADER_BYTES).ok_or_else(|| damaged("shorter than its header"))?;
        if header[..8] != MAGIC {
            return Err(damaged("does not begin as a Farshore object"));
        }
        if header[8] != FORMAT {
            return Err(RepositoryError::UnknownFormat { place: place.to_owned(), found: header[8].into(), known: FORMAT.into() });
        }
        let kind = Kind::from_number(header[9]).ok_or_else(|| damaged("is of an unknown kind"))?;
        if !expected.contains(&kind) {
            return Err(damaged(&format!("is a {kind:?}, not one of {expected:?}")));
        }
        if header[10..12] != [0; 2] || header[60..] != [0; 4] {
            return Err(damaged("has a header with reserved bytes set"));
        }
        let id = |range: std::ops::Range<usize>| {
            let mut id = [0u8; 16];
            id.copy_from_slice(&header[range]);
            id
        };
        Ok(Self { kind, catalogue_key: id(12..28), run: id(28..44), data_key: id(44..60) })
    }
}

/// Key of a pack.
pub fn pack_key(sha256: &[u8; 32]) -> String {
    let name = hex::encode(sha256);
    format!("{PACKS}{}/{name}", &name[..2])
}

/// Key of an index.
pub fn index_key(sha256: &[u8; 32]) -> String {
    format!("{INDEXES}{}", hex::encode(sha256))
}

/// The SHA-256 that an object's name claims, where it has that form.
pub fn name_sha256(key: &str) -> Option<[u8; 32]> {
    let mut sha256 = [0u8; 32];
    hex::decode_to_slice(key.rsplit('/').next()?, &mut sha256).ok()?;
    Some(sha256)
}

#[cfg(test)]
mod tests {
    use super::{Header, Kind};

    #[test]
    fn a_header_comes_back_and_any_flipped_bit_of_its_fixed_part_is_refused() {
        let header = Header { kind: Kind::Index, catalogue_key: [1; 16], run: [2; 16], data_key: [0; 16] };
        let bytes = header.encode();
        assert_eq!(Header::decode("x", &bytes, &[Kind::Index]).unwrap(), header);
        for byte in (0..12).chain(60..64) {
            let mut broken = bytes;
            broken[byte] ^= 1;
            assert!(Header::decode("x", &broken, &[Kind::Index]).is_err(), "byte {byte}");
        }
        assert!(Header::decode("x", &bytes[..63], &[Kind::Index]).is_err());
    }
}
