//! Index objects: where each chunk of some packs lies.
//!
//! ```text
//! header (64) | sealed( zstd( pack … ) )
//! pack: sha256 32 | size u32 | class u8 (1 data, 2 catalogue) | run 16 | data key 16 | count u32 | count × directory record
//! ```

use std::io::Read;

use super::{
    Class, RepositoryError,
    error::Result,
    format::{HEADER_BYTES, Header, Id, Kind, MAX_CATALOGUE_PLAIN_BYTES},
    keys::{Catalogue, sha256},
    pack::{PackEntry, Place, RECORD_BYTES},
    seal::SealingKey,
};

const PACK_BYTES: usize = 32 + 4 + 1 + 16 + 16 + 4;

/// zstd level of indexes, points and evidence: small objects, read often.
const CATALOGUE_LEVEL: i32 = 3;

/// Seals `plain` as a stand-alone catalogue object of this kind: header, then the compressed bytes, sealed.
pub fn seal_object(header: &Header, key: &SealingKey, plain: &[u8]) -> Vec<u8> {
    let compressed = zstd::bulk::compress(plain, CATALOGUE_LEVEL).expect("zstd fails only for want of memory");
    let header = header.encode();
    let mut out = header.to_vec();
    key.seal_into(&header, &compressed, &mut out);
    out
}

/// Opens what [`seal_object`] made.
///
/// # Errors
/// [`RepositoryError::Damaged`] naming `place`, [`RepositoryError::UnknownFormat`], [`RepositoryError::Key`] for another
/// repository's object.
pub fn open_object(place: &str, bytes: &[u8], kind: Kind, catalogue: &Catalogue) -> Result<(Header, Vec<u8>)> {
    let damaged = |detail: String| RepositoryError::Damaged { place: place.to_owned(), detail };
    let header = Header::decode(place, bytes, &[kind])?;
    if header.catalogue_key != catalogue.id {
        return Err(damaged(format!(
            "is sealed under the catalogue key {}, not this repository's",
            hex::encode(header.catalogue_key)
        )));
    }
    let (header_bytes, sealed) = bytes.split_at(HEADER_BYTES);
    let mut compressed = Vec::new();
    catalogue.opening_key(&header.run).open(header_bytes, sealed, &mut compressed).map_err(|error| damaged(error.to_string()))?;
    let plain = open_frame(&compressed, most_plain_bytes(kind)).map_err(damaged)?;
    Ok((header, plain))
}

/// How many plain bytes an object of a kind may have: `docs/format.md`.
pub(super) fn most_plain_bytes(kind: Kind) -> usize {
    match kind {
        Kind::Pin | Kind::Mark => 1 << 20,
        Kind::Doom | Kind::RecipientSet => 16 << 20,
        Kind::Point | Kind::Evidence | Kind::Part => 128 << 20,
        Kind::Index | Kind::DataPack | Kind::CataloguePack | Kind::LogFile => MAX_CATALOGUE_PLAIN_BYTES,
    }
}

/// Largest window of a frame that is decompressed piece by piece, as a power of two: 8 MiB. Level 3 writes 2 MiB, level 19 this.
const MAX_WINDOW_LOG: u32 = 23;

/// So much is believed of a frame that says how long its plain bytes are: beyond that, memory grows with what comes out.
fn believed_bytes(compressed: &[u8]) -> usize {
    (1 << 20) + 64 * compressed.len()
}

/// Decompresses one zstd frame, which must say how many plain bytes it has, at most `most`. Returns a buffer that never had more room
/// than twice what came out, or [`believed_bytes`].
///
/// # Errors
/// What is wrong with it.
pub fn open_frame(compressed: &[u8], most: usize) -> std::result::Result<Vec<u8>, String> {
    let stated = zstd::zstd_safe::get_frame_content_size(compressed).ok().flatten().and_then(|length| usize::try_from(length).ok());
    let stated = stated.filter(|length| *length <= most).ok_or_else(|| "says no sane length".to_owned())?;
    let failed = |error: std::io::Error| format!("does not decompress: {error}");
    if stated <= believed_bytes(compressed) {
        return zstd::bulk::decompress(compressed, stated).map_err(failed);
    }
    let mut plain = Vec::with_capacity(believed_bytes(compressed));
    let mut frame = zstd::stream::read::Decoder::with_buffer(compressed).map_err(failed)?.single_frame();
    // zstd takes a window of the size that the frame states, in memory of its own.
    frame.window_log_max(MAX_WINDOW_LOG).map_err(failed)?;
    // One more than stated shows that there is more.
    frame.take(stated as u64 + 1).read_to_end(&mut plain).map_err(failed)?;
    if plain.len() == stated { Ok(plain) } else { Err("is not as long as it says".to_owned()) }
}

/// Makes an index of `packs`; returns its bytes and their SHA-256.
pub fn encode_index(catalogue: &Catalogue, run: &Id, key: &SealingKey, packs: &[PackEntry]) -> (Vec<u8>, [u8; 32]) {
    let mut plain = Vec::new();
    for pack in packs {
        plain.extend_from_slice(&pack.sha256);
        plain.extend_from_slice(&pack.size.to_le_bytes());
        plain.push(match pack.class {
            Class::Data => 1,
            Class::Catalogue => 2,
        });
        plain.extend_from_slice(&pack.run);
        plain.extend_from_slice(&pack.data_key);
        let count = u32::try_from(pack.places.len()).expect("packs are closed far below 2^32 chunks");
        plain.extend_from_slice(&count.to_le_bytes());
        for place in &pack.places {
            place.encode(&mut plain);
        }
    }
    let header = Header { kind: Kind::Index, catalogue_key: catalogue.id, run: *run, data_key: [0; 16] };
    let bytes = seal_object(&header, key, &plain);
    let name = sha256(&bytes);
    (bytes, name)
}

/// Reads an index.
///
/// # Errors
/// [`RepositoryError::Damaged`] naming `place`.
pub fn decode_index(place: &str, name: &[u8; 32], bytes: &[u8], catalogue: &Catalogue) -> Result<Vec<PackEntry>> {
    let damaged = |detail: &str| RepositoryError::Damaged { place: place.to_owned(), detail: detail.to_owned() };
    if sha256(bytes) != *name {
        return Err(damaged("the SHA-256 of its bytes is not its name"));
    }
    let (_, plain) = open_object(place, bytes, Kind::Index, catalogue)?;
    parse_index(place, &plain)
}

/// Reads the plain text of an index.
///
/// # Errors
/// [`RepositoryError::Damaged`] naming `place`.
pub fn parse_index(place: &str, plain: &[u8]) -> Result<Vec<PackEntry>> {
    let damaged = |detail: &str| RepositoryError::Damaged { place: place.to_owned(), detail: detail.to_owned() };
    let mut rest = plain;
    let mut packs = Vec::new();
    while !rest.is_empty() {
        let (head, tail) = rest.split_at_checked(PACK_BYTES).ok_or_else(|| damaged("ends within a pack"))?;
        let number = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("four bytes"));
        let id = |at: usize| -> Id { head[at..at + 16].try_into().expect("sixteen bytes") };
        let (records, after) =
            tail.split_at_checked(number(69) as usize * RECORD_BYTES).ok_or_else(|| damaged("ends within a pack's chunks"))?;
        let places: Option<Vec<Place>> = records.chunks_exact(RECORD_BYTES).map(Place::decode).collect();
        let pack = PackEntry {
            sha256: head[..32].try_into().expect("32 bytes"),
            size: number(32),
            class: match head[36] {
                1 => Class::Data,
                2 => Class::Catalogue,
                _ => return Err(damaged("has a pack of unknown class")),
            },
            run: id(37),
            data_key: id(53),
            places: places.ok_or_else(|| damaged("has an impossible record"))?,
        };
        if !pack.is_possible() {
            return Err(damaged("says impossible sizes of a pack"));
        }
        packs.push(pack);
        rest = after;
    }
    Ok(packs)
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::{Catalogue, Class, PackEntry, Place, RepositoryError, decode_index, encode_index};
    use crate::repository::chunk::{ChunkId, Encoding};

    #[test]
    fn an_index_that_says_impossible_sizes_is_refused_whoever_sealed_it() {
        let catalogue = Catalogue::new([1; 16], Zeroizing::new([2; 32]), &[3; 16]);
        let key = catalogue.sealing_key(&[4; 16]);
        let place = |offset, sealed_bytes, plain_bytes, encoding| Place {
            id: ChunkId([5; 32]),
            offset,
            sealed_bytes,
            plain_bytes,
            encoding,
        };
        let decoded = |size, place| {
            let places = vec![place];
            let pack = PackEntry { sha256: [6; 32], size, class: Class::Data, run: [4; 16], data_key: [7; 16], places };
            let (bytes, name) = encode_index(&catalogue, &[4; 16], &key, std::slice::from_ref(&pack));
            decode_index("x", &name, &bytes, &catalogue).map(|packs| assert_eq!(packs, [pack]))
        };
        let (plain, zstd) = (Encoding::Plain, Encoding::Zstd);
        decoded(1000, place(64, 128, 100, plain)).unwrap();
        decoded(1000, place(64, 90, 100, zstd)).unwrap();
        decoded(1000, place(872, 128, 100, plain)).unwrap();
        for (size, impossible) in [
            (1000, place(63, 128, 100, plain)),
            (1000, place(873, 128, 100, plain)),
            (1000, place(u32::MAX, 128, 100, plain)),
            (1000, place(64, 129, 100, plain)),
            (1000, place(64, 128, 100, zstd)),
            (1000, place(64, 27, 100, zstd)),
            (1000, place(64, 90, u32::MAX, zstd)),
            (100 << 20, place(64, (8 << 20) + 29, (8 << 20) + 1, plain)),
            (u32::MAX, place(64, 128, 100, plain)),
        ] {
            let refused = decoded(size, impossible).unwrap_err();
            assert!(matches!(refused, RepositoryError::Damaged { .. }), "{impossible:?}: {refused}");
        }
    }
}
