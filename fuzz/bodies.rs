//! What is thrown at every decoder of foreign bytes: by `cargo fuzz` (`make fuzz`), and by the hermetic tests, which share this file. No
//! body may panic, and none may take more memory than [`bound`] of its input.
//!
//! What lies behind a seal is tried without it: a thief of the catalogue key can seal anything.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use farshore::{
    policy::Policy,
    report::{DrillReport, VerifyReport},
    repository::{
        ChunkList, DoomRecord, EntryRecord, Identities, Mark, PinRecord, Point, RepositoryError, SetName,
        decoding::{Header, Kind, Place, Tail, open_frame, parse_chunk, parse_directory, parse_index, parse_refs, split_records},
        is_passphrase_wrapped, parse_public_key,
    },
    sources::{
        Entry,
        bucket::BucketAttributes,
        files::FileAttributes,
        postgres::{PostgresConfig, facts::PostgresFacts, large_objects::BatchAttributes, tables::SegmentAttributes},
    },
    stores::Location,
};
use serde::{Serialize, de::DeserializeOwned};

/// A decoder's name, and what is done with it.
pub type Body = (&'static str, fn(&[u8]));

/// All of them.
pub const ALL: &[Body] = &[
    ("header", header),
    ("trailer", trailer),
    ("directory", directory),
    ("index", index),
    ("frame", frame),
    ("entries", entries),
    ("list", list),
    ("attributes", attributes),
    ("point", point),
    ("record", record),
    ("evidence", evidence),
    ("policy", policy),
    ("words", words),
];

/// Tries one decoder.
///
/// # Panics
/// If it has a defect, or there is none of that name.
#[allow(dead_code, reason = "the tests go through all of them")]
pub fn run(name: &str, bytes: &[u8]) {
    let (_, body) = ALL.iter().find(|(other, _)| *other == name).expect("a name of ALL");
    body(bytes);
}

/// Most plain bytes of a frame here.
const FRAME_BYTES: usize = 4 << 20;

/// Most memory that one decoding may hold at a time, bytes. What JSON and MessagePack become in memory is up to some hundred times as
/// long as they are; everything else grows with its input alone. A frame may hold what comes out of it, twice.
#[allow(dead_code, reason = "cargo fuzz keeps no books")]
pub fn bound(name: &str, input_bytes: usize) -> usize {
    match name {
        "frame" => (2 << 20) + 64 * input_bytes + 2 * FRAME_BYTES,
        "point" | "record" | "evidence" | "attributes" | "entries" | "list" => (1 << 20) + 256 * input_bytes,
        // The text is parsed into a document with places, checked against a schema, and told about with every problem.
        "policy" => (8 << 20) + 4096 * input_bytes,
        _ => (1 << 20) + 16 * input_bytes,
    }
}

fn header(bytes: &[u8]) {
    let kinds = [Kind::DataPack, Kind::Index, Kind::Point, Kind::Evidence, Kind::Pin, Kind::Doom, Kind::RecipientSet, Kind::Mark];
    if let Ok(header) = Header::decode("fuzz", bytes, &kinds) {
        assert_eq!(header.encode()[..], bytes[..64], "a header is written down in one way only");
    }
}

fn trailer(bytes: &[u8]) {
    for size in [bytes.len() as u64, 0, u64::from(u32::MAX), u64::MAX] {
        if let Ok(tail) = Tail::parse("fuzz", bytes, size) {
            assert!(tail.directory_bytes() <= size);
        }
    }
}

fn directory(bytes: &[u8]) {
    let Ok(places) = parse_directory("fuzz", bytes, 128 << 20) else { return };
    let mut again = Vec::new();
    places.iter().for_each(|place| place.encode(&mut again));
    assert_eq!(again, bytes);
    for place in places {
        assert!(place.plain_bytes <= 8 << 20 && place.offset >= 64, "{place:?}");
    }
}

fn index(bytes: &[u8]) {
    let Ok(packs) = parse_index("fuzz", bytes) else { return };
    let records: usize = packs.iter().map(|pack| pack.places.len()).sum();
    assert_eq!(packs.len() * 73 + records * 45, bytes.len());
    let ends = |place: &Place| u64::from(place.offset) + u64::from(place.sealed_bytes);
    assert!(packs.iter().all(|pack| pack.places.iter().all(|place| ends(place) <= u64::from(pack.size))));
}

fn frame(bytes: &[u8]) {
    if let Ok(plain) = open_frame(bytes, FRAME_BYTES) {
        assert!(plain.len() <= FRAME_BYTES);
    }
}

fn entries(bytes: &[u8]) {
    let whole = Bytes::copy_from_slice(bytes);
    let mut last = None;
    let parsed = parse_chunk(&whole, &mut last);
    let split: Result<Vec<&[u8]>, RepositoryError> = split_records(bytes).collect();
    if let Ok(records) = parsed {
        assert_eq!(split.expect("what can be parsed can be split").len(), records.len());
        assert!(records.is_sorted_by(|left, right| left.path < right.path));
        assert_eq!(last, records.last().map(|record| record.path.clone()));
        for record in records {
            let again: EntryRecord = reread(&record);
            assert_eq!(again, record);
        }
    }
}

fn list(bytes: &[u8]) {
    if let Ok(list) = ChunkList::decode(bytes)
        && let Ok(chunks) = list.chunks()
    {
        assert_eq!(chunks.count() * 36, list.refs.len());
    }
    if let Ok(refs) = parse_refs(bytes) {
        assert_eq!(refs.count() * 36, bytes.len());
    }
}

fn attributes(bytes: &[u8]) {
    let entry = Entry { path: b"p".to_vec(), kind: "k".to_owned(), modified: None, content: None, attributes: bytes.to_vec() };
    let _ = entry.attributes::<FileAttributes>();
    let _ = entry.attributes::<BucketAttributes>();
    let _ = entry.attributes::<BatchAttributes>();
    let _ = entry.attributes::<SegmentAttributes>();
}

fn point(bytes: &[u8]) {
    if let Some(point) = json::<Point>(bytes) {
        let _ = point.object_key();
        for snapshot in &point.snapshots {
            let _ = serde_json::from_value::<PostgresFacts>(snapshot.facts.clone());
            let _ = snapshot.entries.chunks().map(Iterator::count);
        }
    }
}

fn record(bytes: &[u8]) {
    json::<PinRecord>(bytes);
    json::<Mark>(bytes);
    json::<DoomRecord>(bytes);
}

fn evidence(bytes: &[u8]) {
    json::<DrillReport>(bytes);
    json::<VerifyReport>(bytes);
}

fn policy(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match Policy::parse(text, "fuzz.toml") {
        Ok(policy) => assert_eq!(policy.text, text),
        Err(error) => assert!(error.to_string().contains("fuzz.toml"), "each problem says where it is"),
    }
}

fn words(bytes: &[u8]) {
    let _ = is_passphrase_wrapped(bytes);
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _ = Location::parse(text);
    let _ = PostgresConfig::parse(text, None);
    let _ = parse_public_key(text);
    let _ = Identities::parse("fuzz", &text.to_owned().into());
    let _ = SetName::parse(text);
    let _ = text.parse::<DateTime<Utc>>();
}

/// What decodes can be written down again, and that can be read. (Not to the letter: the last digit of a fraction may change.)
fn json<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let value: T = serde_json::from_slice(bytes).ok()?;
    let again = serde_json::to_vec(&value).expect("what was read can be written");
    let reread: Result<T, _> = serde_json::from_slice(&again);
    assert!(reread.is_ok(), "{:?}: {}", reread.err(), String::from_utf8_lossy(&again));
    Some(value)
}

fn reread<T: Serialize + DeserializeOwned>(value: &T) -> T {
    rmp_serde::from_slice(&rmp_serde::to_vec_named(value).expect("what was read can be written")).expect("and read again")
}
