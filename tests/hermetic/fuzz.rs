//! Every decoder of foreign bytes against the kept corpus and seeded mutations of it, on the allocator's books: no panic, and no more
//! memory than the stated bound. The bodies are those of `make fuzz`.

#[path = "../../fuzz/bodies.rs"]
mod bodies;

#[path = "../../fuzz/ledger.rs"]
mod ledger;

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use farshore::repository::{PointName, decoding::open_frame};
use ledger::{hold_to_bound, most_held};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::support::soak;

fn corpus(name: &str) -> Vec<(String, Vec<u8>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let files = fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{name} has no corpus");
    files.into_iter().map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(&path).unwrap())).collect()
}

/// One of the things that go wrong with bytes, and that somebody may do to them.
fn mutate(bytes: &mut Vec<u8>, other: &[u8], random: &mut StdRng) {
    if bytes.is_empty() {
        bytes.extend_from_slice(other);
        return;
    }
    let at = random.random_range(0..bytes.len());
    match random.random_range(0..7) {
        0 => bytes[at] ^= 1 << random.random_range(0..8),
        1 => bytes[at] = random.random(),
        2 => bytes.truncate(at),
        3 => {
            let number: u32 = [0, 1, 127, 128, 0xffff, 0x7fff_ffff, u32::MAX][random.random_range(0..7)];
            let number = if random.random() { number.to_le_bytes() } else { number.to_be_bytes() };
            let end = bytes.len().min(at + 4);
            bytes[at..end].copy_from_slice(&number[..end - at]);
        }
        4 => {
            let piece = bytes[at..bytes.len().min(at + random.random_range(1..64))].to_vec();
            let times = random.random_range(1..40);
            bytes.splice(at..at, piece.repeat(times));
        }
        5 if !other.is_empty() => {
            let from = random.random_range(0..other.len());
            bytes.splice(at.., other[from..].iter().copied());
        }
        _ => drop(bytes.remove(at)),
    }
}

#[test]
fn no_decoder_panics_or_takes_more_memory_than_its_bound() {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    for body in bodies::ALL {
        let began = Instant::now();
        let corpus = corpus(body.0);
        for (file, bytes) in &corpus {
            hold_to_bound(*body, file, bytes);
        }
        for number in 0..soak(400) {
            let pick = |random: &mut StdRng| corpus[random.random_range(0..corpus.len())].1.clone();
            let (mut bytes, other) = (pick(&mut random), pick(&mut random));
            for _ in 0..random.random_range(1..6) {
                mutate(&mut bytes, &other, &mut random);
            }
            bytes.truncate(256 << 10);
            hold_to_bound(*body, &format!("mutation {number} of seed {seed}"), &bytes);
        }
        println!("{} {:?}", body.0, began.elapsed());
    }
}

#[test]
fn the_valid_ones_of_the_corpus_are_taken() {
    // Otherwise the mutations would begin at nothing.
    let text = |name: &str, file: &str| corpus(name).into_iter().find(|(other, _)| other == file).unwrap().1;
    farshore::repository::decoding::parse_index("x", &text("index", "golden")).unwrap();
    farshore::repository::decoding::parse_chunk(&text("entries", "golden").into(), &mut None).unwrap();
    serde_json::from_slice::<farshore::repository::Point>(&text("point", "golden")).unwrap();
    farshore::policy::Policy::parse(std::str::from_utf8(&text("policy", "laptop-demo")).unwrap(), "x").unwrap();
    assert_eq!(open_frame(&text("frame", "golden"), 1 << 20).unwrap(), text("index", "golden"));
    assert_eq!(bodies::open_sealed_chunk(&text("chunk", "zstd")).unwrap().unwrap().len(), 390);
    assert!(bodies::open_sealed_chunk(&text("chunk", "bomb")).unwrap().unwrap_err().contains("does not decompress"));
    for (file, taken) in [("golden-catalogue", true), ("golden-data", true), ("plain", true), ("plain-upper-case", false)] {
        assert_eq!(bodies::open_named_wrap(&text("wrap", file)).unwrap().is_ok(), taken, "{file}");
    }
    bodies::parse_set(&text("set", "sound")).unwrap();
    assert!(bodies::parse_set(&text("set", "another-generation")).is_err());
    assert!(PointName::parse(std::str::from_utf8(&text("names", "name-01")).unwrap()).is_some());
    for file in ["armored", "binary", "most-work"] {
        bodies::open_identity(&text("identity", file)).unwrap();
    }
    assert!(bodies::open_identity(&text("identity", "gigabytes")).unwrap_err().to_string().contains("work factor 22"));
    assert_eq!(bodies::open_sealed_log(&text("log", "two-blocks")).unwrap().unwrap().len(), 105);
    for (file, said) in [
        ("bomb", "does not decompress"),
        ("other-hash", "other bytes"),
        ("too-long", "impossible lengths"),
        ("no-block", "block 0"),
    ] {
        let error = bodies::open_sealed_log(&text("log", file)).unwrap().unwrap_err().to_string();
        assert!(error.contains(said), "{file}: {error}");
    }
    assert_eq!(bodies::read_objects(&text("objects", "two")), Some((2, 23)));
    assert_eq!(bodies::read_objects(&text("objects", "two-bytewise")), Some((2, 23)));
    assert_eq!(bodies::read_objects(&text("objects", "no-end")), None);
    for (file, told) in [("two-forks-bytewise", Some(2)), ("bitmap", Some(3)), ("of-a-server", Some(103)), ("no-end", None)] {
        assert_eq!(bodies::read_summary(&text("summary", file)), told, "{file}");
    }
}

#[test]
fn a_frame_that_says_half_a_gigabyte_and_holds_nothing_takes_next_to_none() {
    // A frame of a few bytes; its stated length, four bytes at the end of its header, is another's.
    let mut lie = zstd::bulk::compress(&vec![7; 100_000], 1).unwrap();
    let stated = 100_000_u32.to_le_bytes();
    let at = lie.windows(4).position(|window| window == stated).expect("the length is in the header");
    lie[at..at + 4].copy_from_slice(&(512_u32 << 20).to_le_bytes());
    let held = most_held(|| {
        let refused = open_frame(&lie, 512 << 20).unwrap_err();
        assert!(refused.contains("as it says") || refused.contains("decompress"), "{refused}");
    });
    assert!(held < 3 << 20, "{held} bytes");
    // Less than what zstd refuses by itself: the window, in zstd's own memory, would be as large as the frame says.
    let mut window = lie.clone();
    window[at..at + 4].copy_from_slice(&(100_u32 << 20).to_le_bytes());
    let refused = open_frame(&window, 512 << 20).unwrap_err();
    assert!(refused.contains("too much memory"), "{refused}");
    let mut more = lie.clone();
    more[at..at + 4].copy_from_slice(&(513_u32 << 20).to_le_bytes());
    assert!(open_frame(&more, 512 << 20).unwrap_err().contains("no sane length"));
    // And what is as long as it says comes out, however well it was compressed.
    let zeros = zstd::bulk::compress(&vec![0; 20 << 20], 1).unwrap();
    assert!(zeros.len() < 10_000 && open_frame(&zeros, 32 << 20).unwrap() == vec![0; 20 << 20]);
}

#[test]
fn the_header_of_a_wrapped_key_cannot_keep_a_reader_busy() {
    // The worst that is read, and what a site can write without any key.
    let wrap = |stanzas: usize, stanza: &str| {
        let name = format!("keys/data-{}.age", "ab".repeat(16));
        let end = format!("--- {}\n{}", "A".repeat(43), "x".repeat(32));
        format!("{name}\nage-encryption.org/v1\n{}{end}", stanza.repeat(stanzas)).into_bytes()
    };
    let began = Instant::now();
    for (worst, refused) in [(wrap(511, &format!("-> X {}\n\n", "X".repeat(56))), false), (wrap(170_000, "-> X\n\n"), true)] {
        let error = bodies::open_named_wrap(&worst).unwrap().err().unwrap().to_string();
        assert_eq!(error.contains("more than 32 KiB"), refused, "{error}");
    }
    println!("{:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}
