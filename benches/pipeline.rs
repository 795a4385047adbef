//! The pipelines against the CPU work they cannot do without, as ratios in one run.
//!
//! `cargo bench --bench pipeline` — a mixed corpus (rows as text, programs, noise) goes through the backup pipeline into a store
//! that only keeps the bytes, and comes back through the restore pipeline. Measured alone, on as many threads: keyed BLAKE3,
//! zstd at the same level (not for what the pipeline recognises as incompressible), AES-256-GCM and SHA-256 of the same chunks;
//! and for the way back AES-256-GCM and zstd. Figures are medians of alternating runs; the ratio is what counts.
//!
//! `FARSHORE_BENCH_MIB` sets the size (2048), `FARSHORE_BENCH_RUNS` the number of runs (5).
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on says why by panicking")]

#[path = "support/hold.rs"]
mod hold;

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use bytes::Bytes;
use farshore::{
    clock::SystemClock,
    repository::{Budget, ChunkList, Cutting, Expected, Identities, Reader, Recipients, Repository, Workers, Writer},
    stores::SharedStore,
};
use futures_util::TryStreamExt;
use sha2::Digest;

const CHUNK: usize = 1536 << 10;
const PACK: usize = 16 << 20;

fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// Bytes that look like a table's rows.
fn rows(length: usize, random: &mut u64) -> Vec<u8> {
    const WORDS: [&str; 16] = [
        "channel",
        "message",
        "the",
        "deploy",
        "of",
        "yesterday",
        "broke",
        "nothing",
        "for",
        "once",
        "please",
        "review",
        "attached",
        "log",
        "and",
        "restart",
    ];
    let mut out = Vec::with_capacity(length + 256);
    let mut id = 0u64;
    while out.len() < length {
        id += 1;
        out.extend_from_slice(
            format!("{id}\t{:016x}\t2026-11-{:02} {:02}:{:02}:00+00\t", next(random), 1 + id % 30, id % 24, id % 60).as_bytes(),
        );
        for _ in 0..8 + next(random) % 24 {
            out.extend_from_slice(WORDS[(next(random) % 16) as usize].as_bytes());
            out.push(b' ');
        }
        out.push(b'\n');
    }
    out.truncate(length);
    out
}

fn noise(length: usize, random: &mut u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(length + 8);
    while out.len() < length {
        out.extend_from_slice(&next(random).to_le_bytes());
    }
    out.truncate(length);
    out
}

/// xorshift64*.
fn next(state: &mut u64) -> u64 {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    state.wrapping_mul(0x2545_F491_4F6C_DD1D)
}

/// Programs and libraries of this machine, each in its own copy so that none repeats.
fn programs(length: usize, random: &mut u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(length);
    let mut paths: Vec<_> = ["/usr/bin", "/usr/lib/x86_64-linux-gnu"]
        .iter()
        .flat_map(|directory| std::fs::read_dir(directory).into_iter().flatten().flatten())
        .filter(|entry| entry.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.len() > 200_000))
        .map(|entry| entry.path())
        .collect();
    paths.sort();
    let mut round = 0u8;
    while out.len() < length {
        for path in &paths {
            let mut bytes = std::fs::read(path).unwrap_or_default();
            // Later rounds differ a little everywhere, so that nothing is known already.
            if round > 0 {
                for at in (0..bytes.len()).step_by(4096) {
                    bytes[at] = next(random) as u8;
                }
            }
            out.extend_from_slice(&bytes);
            if out.len() >= length {
                break;
            }
        }
        round += 1;
        if out.is_empty() {
            return rows(length, random);
        }
    }
    out.truncate(length);
    out
}

struct Part {
    name: &'static str,
    bytes: Bytes,
    compressible: bool,
}

fn corpus(mebibytes: usize) -> Vec<Part> {
    let mut random = 42;
    let third = mebibytes * (1 << 20) / 3;
    vec![
        Part { name: "rows", bytes: rows(third, &mut random).into(), compressible: true },
        Part { name: "programs", bytes: programs(third, &mut random).into(), compressible: true },
        Part { name: "noise", bytes: noise(third, &mut random).into(), compressible: false },
    ]
}

type Encoded = Vec<(Vec<u8>, bool, usize)>;

/// Runs `work` on every chunk, on `threads` threads.
fn on_threads<T: Send>(threads: usize, items: Vec<T>, work: impl Fn(T) + Sync) -> Duration {
    let queue = Mutex::new(items.into_iter());
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let item = queue.lock().unwrap().next();
                    let Some(item) = item else { return };
                    work(item);
                }
            });
        }
    });
    start.elapsed()
}

thread_local! {
    static COMPRESSOR: std::cell::RefCell<zstd::bulk::Compressor<'static>> = std::cell::RefCell::new(zstd::bulk::Compressor::new(1).unwrap());
    static DECOMPRESSOR: std::cell::RefCell<zstd::bulk::Decompressor<'static>> = std::cell::RefCell::new(zstd::bulk::Decompressor::new().unwrap());
    static SCRATCH: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) };
}

fn aes() -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[7; 32]).unwrap())
}

/// The work that a backup cannot do without.
fn pure_backup(parts: &[Part], threads: usize) -> Duration {
    let chunks: Vec<(Bytes, bool)> = parts
        .iter()
        .flat_map(|part| {
            (0..part.bytes.len())
                .step_by(CHUNK)
                .map(|at| (part.bytes.slice(at..(at + CHUNK).min(part.bytes.len())), part.compressible))
        })
        .collect();
    // Packs are hashed as they are filled: as many bytes, in the same pieces.
    let key = aes();
    on_threads(threads, chunks, |(chunk, compressible)| {
        std::hint::black_box(blake3::keyed_hash(&[1; 32], &chunk));
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.clear();
            if compressible {
                scratch.reserve(zstd::zstd_safe::compress_bound(chunk.len()));
                COMPRESSOR.with_borrow_mut(|compressor| compressor.compress_to_buffer(&chunk, scratch)).unwrap();
            } else {
                scratch.extend_from_slice(&chunk);
            }
            let tag = key.seal_in_place_separate_tag(Nonce::assume_unique_for_key([0; 12]), Aad::empty(), scratch).unwrap();
            std::hint::black_box(tag.as_ref());
            std::hint::black_box(sha2::Sha256::digest(&*scratch));
        });
    })
}

/// Sealed chunks for the way back.
fn sealed(parts: &[Part]) -> Encoded {
    let key = aes();
    let mut compressor = zstd::bulk::Compressor::new(1).unwrap();
    let mut all = Vec::new();
    for part in parts {
        for chunk in part.bytes.chunks(CHUNK) {
            let mut bytes = if part.compressible { compressor.compress(chunk).unwrap() } else { chunk.to_vec() };
            let tag = key.seal_in_place_separate_tag(Nonce::assume_unique_for_key([0; 12]), Aad::empty(), &mut bytes).unwrap();
            bytes.extend_from_slice(tag.as_ref());
            all.push((bytes, part.compressible, chunk.len()));
        }
    }
    all
}

/// The work that a restore cannot do without.
fn pure_restore(sealed: &Encoded, threads: usize) -> Duration {
    let key = aes();
    on_threads(threads, sealed.iter().collect(), |(bytes, compressed, length)| {
        let mut bytes = bytes.clone();
        let plain = key.open_in_place(Nonce::assume_unique_for_key([0; 12]), Aad::empty(), &mut bytes).unwrap();
        if *compressed {
            std::hint::black_box(DECOMPRESSOR.with_borrow_mut(|decompressor| decompressor.decompress(plain, *length)).unwrap());
        }
    })
}

struct Stored {
    store: SharedStore,
    lists: Vec<ChunkList>,
    cache: tempfile::TempDir,
}

async fn pipeline_backup(parts: &[Part], workers: &Arc<Workers>) -> (Duration, Stored, u64) {
    let store: SharedStore = Arc::new(hold::Hold::default());
    let clock = SystemClock::shared();
    let cache = tempfile::tempdir().unwrap();
    Repository::init(&store, &clock, &Recipients::Nobody).await.unwrap();
    let repository =
        Repository::open(store.clone(), clock, &Identities::none(), Expected::Unencrypted, cache.path()).await.unwrap();
    let start = Instant::now();
    let writer = Writer::begin(&repository, &Recipients::Nobody, workers.clone(), Budget::new(256 << 20)).await.unwrap();
    let mut lists = Vec::new();
    for part in parts {
        let mut stream = writer.content(Cutting::ContentDefined, Some(part.bytes.len() as u64));
        for at in (0..part.bytes.len()).step_by(1 << 20) {
            stream.write(part.bytes.slice(at..(at + (1 << 20)).min(part.bytes.len()))).await.unwrap();
        }
        lists.push(stream.finish().await.unwrap().0);
    }
    writer.flush().await.unwrap();
    (start.elapsed(), Stored { store, lists, cache }, writer.summary().bytes_stored)
}

async fn pipeline_restore(stored: &Stored, workers: &Arc<Workers>) -> (Duration, u64) {
    let repository = Repository::open(
        stored.store.clone(),
        SystemClock::shared(),
        &Identities::none(),
        Expected::Unencrypted,
        stored.cache.path(),
    )
    .await
    .unwrap();
    let reader = Reader::open(&repository, workers.clone(), Budget::new(256 << 20)).await.unwrap();
    let start = Instant::now();
    let bytes = reader
        .deliver(stored.lists.clone())
        .try_fold(0u64, |sum, piece| std::future::ready(Ok(sum + piece.bytes.len() as u64)))
        .await
        .unwrap();
    (start.elapsed(), bytes)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let (mebibytes, runs) = (setting("FARSHORE_BENCH_MIB", 2048), setting("FARSHORE_BENCH_RUNS", 5));
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let parts = corpus(mebibytes);
    let total: usize = parts.iter().map(|part| part.bytes.len()).sum();
    let mib = total as f64 / f64::from(1 << 20);
    println!(
        "corpus: {mib:.0} MiB ({}), {threads} threads, packs of {} MiB",
        parts.iter().map(|part| part.name).collect::<Vec<_>>().join(", "),
        PACK >> 20
    );
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let workers = Workers::start(threads, 1).unwrap();
    let way_back = sealed(&parts);
    let (mut backup, mut restore) = (Vec::new(), Vec::new());
    for run in 0..=runs {
        let pure = pure_backup(&parts, threads);
        let (piped, stored, bytes) = runtime.block_on(pipeline_backup(&parts, &workers));
        let pure_back = pure_restore(&way_back, threads);
        let (piped_back, delivered) = runtime.block_on(pipeline_restore(&stored, &workers));
        assert_eq!(delivered, total as u64, "everything came back");
        if run == 0 {
            println!("stored: {:.0} MiB; the first run warms up", bytes as f64 / f64::from(1 << 20));
            continue;
        }
        let speed = |time: Duration| mib / time.as_secs_f64();
        println!(
            "run {run}: backup {:.0} MiB/s of {:.0} pure; restore {:.0} MiB/s of {:.0} pure",
            speed(piped),
            speed(pure),
            speed(piped_back),
            speed(pure_back)
        );
        backup.push(pure.as_secs_f64() / piped.as_secs_f64());
        restore.push(pure_back.as_secs_f64() / piped_back.as_secs_f64());
    }
    println!("backup pipeline / pure CPU work:  {:.2} (wanted: at least 0.80)", median(backup));
    println!("restore pipeline / pure CPU work: {:.2} (wanted: at least 0.80)", median(restore));
}
