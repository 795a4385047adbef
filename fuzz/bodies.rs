//! What is thrown at every decoder of foreign bytes: by libFuzzer (`make fuzz`), and by the hermetic tests, which share this file. No
//! body may panic, and none may take more memory than [`bound`] of its input.
//!
//! What lies behind a seal is tried without it: a thief of the catalogue key can seal anything.

use std::sync::LazyLock;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use farshore::{
    policy::Policy,
    report::{DrillReport, VerifyReport},
    repository::{
        ChunkId, ChunkList, Claim, DoomRecord, EntryRecord, EvidenceName, Identities, LogHead, LogName, MAX_LOG_FILE_BYTES, Mark,
        Part, PinRecord, Plan, Point, PointName, RecipientSet, RepositoryError, RepositoryFile, SetName,
        decoding::{
            Catalogue, Desk, Encoding, Header, Kind, LogSealing, OpeningKey, Place, SealingKey, Secret, Tail, WrapName, dated_name,
            open_frame, open_log_file, open_within, parse_chunk, parse_dated_name, parse_directory, parse_index, parse_mark_key,
            parse_part_key, parse_pin_key, parse_refs, parse_set_key, seal_chunk, split_records,
        },
        is_passphrase_wrapped, parse_public_key,
    },
    sources::{
        Entry,
        bucket::BucketAttributes,
        files::FileAttributes,
        postgres::{
            PostgresConfig,
            facts::PostgresFacts,
            large_objects::{BatchAttributes, Frames},
            physical::{Changes, summary::SummaryReader},
            tables::SegmentAttributes,
        },
    },
    stores::Location,
};
use futures_util::{FutureExt, StreamExt, stream};
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
    ("chunk", chunk),
    ("wrap", wrap),
    ("set", set),
    ("names", names),
    ("identity", identity),
    ("objects", objects),
    ("summary", summary),
    ("log", log),
];

/// Most plain bytes of a frame here.
const FRAME_BYTES: usize = 4 << 20;

/// Most memory that one decoding may hold at a time, bytes. What JSON and MessagePack become in memory is up to some hundred times as
/// long as they are; everything else grows with its input alone. A frame may hold what comes out of it, twice.
pub fn bound(name: &str, input_bytes: usize) -> usize {
    match name {
        "frame" => (2 << 20) + 64 * input_bytes + 2 * FRAME_BYTES,
        // Its plain bytes, which are at most 8 MiB, and three copies of what it is sealed from.
        "chunk" => (9 << 20) + 4 * input_bytes,
        // scrypt takes what WORK allows, and age's measurement of this machine, which comes first, 1 MiB.
        "identity" => (1 << 20) + (1 << (10 + WORK)) + 256 * input_bytes,
        "wrap" | "set" | "objects" | "point" | "record" | "evidence" | "attributes" | "entries" | "list" => {
            // serde makes room for 1 MiB ahead of a list, however long that says it is; the rest of a value comes beside it.
            (1 << 20) + (4 << 10) + 256 * input_bytes
        }
        // Its plain bytes, twice while they grow; a block of them; and what it is sealed from.
        "log" => 2 * MAX_LOG_FILE_BYTES as usize + (12 << 20) + 8 * input_bytes,
        // The text is parsed into a document with places, checked against a schema, and told about with every problem.
        "policy" => (8 << 20) + 4096 * input_bytes,
        _ => (1 << 20) + 16 * input_bytes,
    }
}

fn header(bytes: &[u8]) {
    let kinds = [
        Kind::DataPack,
        Kind::Index,
        Kind::Point,
        Kind::Evidence,
        Kind::Pin,
        Kind::Doom,
        Kind::RecipientSet,
        Kind::Mark,
        Kind::LogFile,
        Kind::Part,
    ];
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
    json::<RepositoryFile>(bytes);
    json::<Part>(bytes);
    json::<(String, Claim)>(bytes);
    if let Some((_, plan)) = json::<(String, Plan)>(bytes) {
        assert!(plan.run_of(0).len() >= 8);
    }
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

fn chunk(bytes: &[u8]) {
    if let Some(Ok(plain)) = open_sealed_chunk(bytes) {
        assert_eq!(plain.len(), u32::from_le_bytes(bytes[1..5].try_into().expect("four bytes")) as usize);
        assert!(bytes[0] == Encoding::Zstd as u8 || plain == bytes[5..]);
    }
}

/// The number of an encoding, how many plain bytes there are, and the encoded bytes: sealed first, as a thief of the key would.
pub fn open_sealed_chunk(bytes: &[u8]) -> Option<Result<Vec<u8>, String>> {
    let ([number, length @ ..], encoded) = bytes.split_first_chunk::<5>()?;
    let (encoding, plain_bytes) = (Encoding::from_number(*number)?, u32::from_le_bytes(*length));
    let id = ChunkId([7; 32]);
    let mut sealed = Vec::new();
    seal_chunk(&SealingKey::new(&[7; 32]), &id, encoding, plain_bytes, encoded, &mut sealed);
    let place = Place { id, offset: 64, sealed_bytes: sealed.len() as u32, plain_bytes, encoding };
    let mut plain = Vec::new();
    let mut desk = Desk::new(3).expect("there is memory for zstd");
    Some(desk.open_chunk(&OpeningKey::new(&[7; 32]), &place, &sealed, &mut plain, 0).map(|()| plain))
}

fn wrap(bytes: &[u8]) {
    let _ = open_named_wrap(bytes);
}

/// The identity of the golden repository, which protects nothing.
static GOLDEN: LazyLock<Identities> = LazyLock::new(|| {
    Identities::parse("golden", &include_str!("../tests/golden/v1/identity").into()).expect("its own tests read it, too")
});

/// The name of a wrap, the end of a line, and the bytes of the object.
pub fn open_named_wrap(bytes: &[u8]) -> Option<Result<Secret, RepositoryError>> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let name = WrapName::parse(std::str::from_utf8(&bytes[..end]).ok()?)?;
    Some(name.open("fuzz", &bytes[end + 1..], &GOLDEN))
}

fn set(bytes: &[u8]) {
    if let Ok(set) = parse_set(bytes) {
        assert_eq!(set.keys().map(|keys| keys.len()), set.recipients.map(|members| members.len()));
    }
}

/// A set of generation 7.
pub fn parse_set(bytes: &[u8]) -> Result<RecipientSet, RepositoryError> {
    RecipientSet::parse("fuzz", SetName { generation: 7, id: [7; 8] }, bytes)
}

/// The keys of objects: what is taken is written as we write it, so that no object has two names.
fn names(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let is_text = |again: String| assert_eq!(again, text);
    if let Some((time, id)) = parse_dated_name(text) {
        is_text(dated_name(time, id));
    }
    if let Some(point) = PointName::parse(text) {
        is_text(format!("points/{}/{}", point.policy, dated_name(point.time, &point.id)));
    }
    if let Some(evidence) = EvidenceName::parse(text) {
        is_text(format!("evidence/{}", dated_name(evidence.time, &evidence.id)));
    }
    if let Some((point, time, id)) = parse_pin_key(text) {
        is_text(format!("pins/{point}/{}", dated_name(time, id)));
    }
    if let Some((policy, run, time)) = parse_part_key(text) {
        assert!(text.starts_with(&format!("parts/{policy}/{run}/{}", time.format("%Y"))), "{text}");
    }
    if let Some((object, time)) = parse_mark_key(text) {
        assert!(text.starts_with(&format!("damaged/{object}/{}", dated_name(time, ""))));
    }
    if let Some(generation) = parse_set_key(text) {
        is_text(format!("recipients/{generation:08}"));
    }
    if let Some(wrap) = WrapName::parse(text) {
        is_text(wrap.to_string());
    }
    if let Some(file) = LogName::parse(text) {
        is_text(file.to_string());
    }
    if let Some(set) = SetName::parse(text) {
        is_text(set.to_string());
    }
}

/// Most work of a passphrase here: 1 MiB. What the program itself accepts takes seconds.
const WORK: u8 = 10;

fn log(bytes: &[u8]) {
    if let Some(Ok(plain)) = open_sealed_log(bytes) {
        assert!(plain.len() as u64 <= MAX_LOG_FILE_BYTES);
    }
    let (name, catalogue) = log_parts();
    assert!(LogHead::read("fuzz", &name, bytes, &catalogue).is_err(), "nobody knows this key");
}

/// The file that all of these are, and the catalogue key.
fn log_parts() -> (LogName, Catalogue) {
    let name = LogName::new(7, "000000010000000000000001").expect("a segment's name");
    (name, Catalogue::new([1; 16], Secret::new([2; 32]), &[3; 16]))
}

/// A line with the head, then blocks: the number of an encoding, how many plain bytes there are (4 bytes), how many encoded (2 bytes), and
/// these. Sealed first, as a thief of all keys would.
pub fn open_sealed_log(bytes: &[u8]) -> Option<Result<Vec<u8>, RepositoryError>> {
    let end = bytes.iter().position(|byte| *byte == b'\n').filter(|end| *end < 4000)?;
    let (name, catalogue) = log_parts();
    let key = SealingKey::new(&[7; 32]);
    let mut sealing = LogSealing::begin(&catalogue, &name, (&[4; 16], &key), &bytes[..end]);
    let mut rest = &bytes[end + 1..];
    while let Some(([number, plain @ .., low, high], after)) = rest.split_first_chunk::<7>() {
        let length = usize::from(u16::from_le_bytes([*low, *high])).min(after.len());
        let encoded;
        (encoded, rest) = after.split_at(length);
        let plain_bytes = u32::from_le_bytes(*plain);
        sealing.block(Encoding::from_number(*number)?, plain_bytes, encoded, rest.len() < 7);
    }
    let object = sealing.finish();
    let opened = LogHead::read("fuzz", &name, &object, &catalogue)
        .and_then(|head| open_log_file("fuzz", &name, &head, &object, &OpeningKey::new(&[7; 32]), &catalogue));
    Some(opened)
}

fn identity(bytes: &[u8]) {
    if let Ok(identities) = open_identity(bytes) {
        assert!(!identities.is_empty());
    }
}

/// A file wrapped with the passphrase `fuzz`.
pub fn open_identity(bytes: &[u8]) -> Result<Identities, RepositoryError> {
    open_within("fuzz", bytes, &"fuzz".into(), WORK)
}

fn objects(bytes: &[u8]) {
    if let Some((_, passed)) = read_objects(bytes) {
        assert!(passed < bytes.len());
    }
}

/// An entry of large objects, whose bytes come in pieces of 1 to 256 bytes, as the first byte says: how many there are, and how long
/// all of them are together.
pub fn read_objects(bytes: &[u8]) -> Option<(usize, usize)> {
    let (length, bytes) = bytes.split_first()?;
    let pieces = bytes.chunks(usize::from(*length) + 1).map(|piece| Ok(Bytes::copy_from_slice(piece)));
    let mut frames = Frames::of("fuzz".to_owned(), stream::iter(pieces.collect::<Vec<_>>()).boxed());
    let reading = async {
        let (mut objects, mut passed) = (0, 0);
        while frames.header().await.ok()?.is_some() {
            while let Some(piece) = frames.piece().await.ok()? {
                passed += piece.len();
            }
            objects += 1;
        }
        Some((objects, passed))
    };
    reading.now_or_never().expect("what is in memory is never waited for")
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

fn summary(bytes: &[u8]) {
    read_summary(bytes);
}

/// A summary of the log whose bytes come in pieces of 1 to 256 bytes, as the first byte says, and what it comes to: how many changes
/// there are in it, if it is whole.
pub fn read_summary(bytes: &[u8]) -> Option<usize> {
    let (length, bytes) = bytes.split_first()?;
    let (mut reader, mut changes, mut told) = (SummaryReader::default(), Changes::new(8192), 0);
    for piece in bytes.chunks(usize::from(*length) + 1) {
        let note = &mut |locator, fork, change| {
            told += 1;
            changes.note(locator, fork, change);
        };
        reader.feed(piece, note).ok()?;
    }
    reader.finish().ok()?;
    Some(told)
}
