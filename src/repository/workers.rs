//! Threads for CPU work: hashing, compressing, sealing and their way back. Async tasks only move bytes.
//!
//! Work that other work waits for (cutting) goes before the rest. Each thread keeps its zstd contexts, which are costly to make.

use std::{
    fmt,
    io::Cursor,
    sync::Arc,
    thread::{self, JoinHandle},
};

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::{
    RepositoryError,
    chunk::{Encoding, open_chunk},
    compressors::AdaptiveCompressor,
    error,
    format::MAX_CHUNK_BYTES,
    pack::Place,
    seal::OpeningKey,
};

/// What a job may use of its thread.
pub struct Desk {
    compressor: zstd::bulk::Compressor<'static>,
    /// For pages of databases.
    pages: AdaptiveCompressor,
    /// For what changes them.
    log: AdaptiveCompressor,
    /// For samples: a context that goes back and forth between small and large input clears its tables each time.
    sampler: zstd::bulk::Compressor<'static>,
    /// What came last did not compress.
    doubts: bool,
    decompressor: zstd::bulk::Decompressor<'static>,
    /// Scratch space that keeps its capacity.
    pub scratch: Vec<u8>,
    /// Sealed bytes that came in several pieces, joined; keeps its capacity, too.
    pub joined: Vec<u8>,
}

impl Desk {
    /// One that compresses at zstd `level`.
    ///
    /// # Errors
    /// The operating system's, if it gives no memory for contexts.
    pub fn new(level: i32) -> std::io::Result<Self> {
        Ok(Self {
            compressor: zstd::bulk::Compressor::new(level)?,
            pages: AdaptiveCompressor::for_pages(level)?,
            log: AdaptiveCompressor::for_log(level)?,
            sampler: zstd::bulk::Compressor::new(level)?,
            doubts: true,
            decompressor: zstd::bulk::Decompressor::new()?,
            scratch: Vec::new(),
            joined: Vec::new(),
        })
    }
}

type Job = Box<dyn FnOnce(&mut Desk) + Send>;

/// A fixed number of threads. Dropping it lets queued work finish, then joins them.
pub struct Workers {
    urgent: Option<Sender<Job>>,
    usual: Option<Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

impl fmt::Debug for Workers {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Workers({})", self.threads.len())
    }
}

impl Workers {
    /// `count` threads that compress at zstd `level`.
    ///
    /// # Errors
    /// The operating system's, if it gives no thread or no memory for contexts.
    pub fn start(count: usize, level: i32) -> std::io::Result<Arc<Self>> {
        let (urgent, urgent_jobs) = unbounded::<Job>();
        let (usual, usual_jobs) = unbounded::<Job>();
        let threads = (0..count.max(1))
            .map(|number| {
                let (urgent_jobs, usual_jobs) = (urgent_jobs.clone(), usual_jobs.clone());
                let mut desk = Desk::new(level)?;
                thread::Builder::new().name(format!("worker-{number}")).spawn(move || work(&mut desk, &urgent_jobs, &usual_jobs))
            })
            .collect::<std::io::Result<_>>()?;
        Ok(Arc::new(Self { urgent: Some(urgent), usual: Some(usual), threads }))
    }

    /// How many threads there are.
    pub fn count(&self) -> usize {
        self.threads.len()
    }

    /// Queues a job. The caller bounds how much is queued (by the memory budget).
    pub fn run(&self, job: impl FnOnce(&mut Desk) + Send + 'static) {
        send(self.usual.as_ref(), Box::new(job));
    }

    /// Queues a job before the usual ones.
    pub fn run_first(&self, job: impl FnOnce(&mut Desk) + Send + 'static) {
        send(self.urgent.as_ref(), Box::new(job));
    }
}

fn send(queue: Option<&Sender<Job>>, job: Job) {
    let queue = queue.expect("the queue is only taken away when the workers are dropped");
    assert!(queue.send(job).is_ok(), "a worker thread catches every panic of its jobs, so none has gone");
}

fn work(desk: &mut Desk, urgent: &Receiver<Job>, usual: &Receiver<Job>) {
    loop {
        let job = urgent.try_recv().or_else(|_| {
            crossbeam_channel::select! {
                recv(urgent) -> job => job,
                recv(usual) -> job => job,
            }
        });
        // Both queues are closed together; what is still queued is done first.
        let Ok(job) = job.or_else(|_| urgent.recv()).or_else(|_| usual.recv()) else { return };
        // A job that panics must not take the thread with it: its own reply channel is dropped, which its owner notices.
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| job(desk))).is_err() {
            tracing::error!("a worker's job panicked; the operation that it belonged to fails");
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        (self.urgent, self.usual) = (None, None);
        for thread in self.threads.drain(..) {
            // The last reference may be dropped by a job itself: a thread cannot join itself.
            if thread.thread().id() != thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}

/// Runs work that blocks, off the async threads and not on the workers: they may all be waiting for an upload, which may wait
/// for this.
///
/// # Errors
/// Those of the work; [`RepositoryError::Refused`] if it panicked.
pub(super) async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> error::Result<T> + Send + 'static) -> error::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        Err(RepositoryError::Refused { subject: "local index".to_owned(), detail: format!("a defect: {error}") })
    })
}

/// Chunks shorter than this are compressed without a test. Bytes.
const TEST_FROM_BYTES: usize = 64 << 10;
/// And those shorter than this, too, while what comes compresses: of a piece of a relation the test is a tenth. Bytes.
const TRUST_BELOW_BYTES: usize = 512 << 10;
/// Chunks up to this are compressed as pages are: pieces of relations, and small files. Bytes.
const PAGES_BYTES: usize = 128 << 10;
/// How much of a chunk the test compresses, three times. Bytes.
const SAMPLE_BYTES: usize = 4 << 10;

/// What is known of what is compressed.
enum Content {
    File,
    Pages,
    Log,
}

impl Desk {
    /// Compresses `plain` into `scratch` if that pays; says which encoding the bytes to seal have.
    ///
    /// Incompressible data (media, archives, encrypted files) is recognised by compressing three small samples, which costs a
    /// hundredth of compressing it all in vain; what saves less than a fiftieth is stored as it is, too.
    pub fn encode(&mut self, plain: &[u8]) -> Encoding {
        self.encode_as(plain, if plain.len() <= PAGES_BYTES { Content::Pages } else { Content::File })
    }

    /// The same for a piece of a database's log, of any size.
    pub fn encode_log(&mut self, plain: &[u8]) -> Encoding {
        self.encode_as(plain, Content::Log)
    }

    fn encode_as(&mut self, plain: &[u8], content: Content) -> Encoding {
        let is_tested = plain.len() >= if self.doubts { TEST_FROM_BYTES } else { TRUST_BELOW_BYTES };
        if is_tested && !self.samples_compress(plain) {
            self.doubts = true;
            return Encoding::Plain;
        }
        self.scratch.clear();
        self.scratch.reserve(zstd::zstd_safe::compress_bound(plain.len()));
        let compressed = match content {
            Content::File => self.compressor.compress_to_buffer(plain, &mut self.scratch),
            Content::Pages => self.pages.compress(plain, &mut self.scratch),
            Content::Log => self.log.compress(plain, &mut self.scratch),
        };
        // zstd fails only for want of memory; the bytes as they are, are right as well.
        self.doubts = !compressed.is_ok_and(|length| length + plain.len() / 50 < plain.len());
        if self.doubts { Encoding::Plain } else { Encoding::Zstd }
    }

    fn samples_compress(&mut self, plain: &[u8]) -> bool {
        let last = plain.len() - SAMPLE_BYTES;
        let mut compressed = 0;
        for start in [last / 8, last / 2, last - last / 8] {
            self.scratch.clear();
            self.scratch.reserve(zstd::zstd_safe::compress_bound(SAMPLE_BYTES));
            match self.sampler.compress_to_buffer(&plain[start..start + SAMPLE_BYTES], &mut self.scratch) {
                Ok(length) => compressed += length,
                Err(_) => return true,
            }
        }
        compressed < 3 * SAMPLE_BYTES * 97 / 100
    }

    /// Opens a sealed chunk into `plain` from `start` on, whose contents are replaced: tag, decoding, length. Whether the bytes are those that
    /// its id names is the caller's to find out.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn open_chunk(
        &mut self,
        key: &OpeningKey,
        chunk: &Place,
        sealed: &[u8],
        plain: &mut Vec<u8>,
        start: usize,
    ) -> Result<(), String> {
        let length = chunk.plain_bytes as usize;
        if length > MAX_CHUNK_BYTES {
            return Err(format!("says {length} plain bytes"));
        }
        let (encoded, at) = if chunk.encoding == Encoding::Plain { (&mut *plain, start) } else { (&mut self.scratch, 0) };
        open_chunk(key, &chunk.id, chunk.encoding, chunk.plain_bytes, sealed, encoded, at).map_err(|error| error.to_string())?;
        if chunk.encoding == Encoding::Zstd {
            plain.resize(start, 0);
            plain.reserve(length);
            let mut rest = Cursor::new(&mut *plain);
            rest.set_position(start as u64);
            self.decompressor
                .decompress_to_buffer(&self.scratch, &mut rest)
                .map_err(|error| format!("does not decompress: {error}"))?;
        }
        if plain.len() != start + length {
            return Err(format!("has {} plain bytes instead of {length}", plain.len().saturating_sub(start)));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Desk, Encoding, PAGES_BYTES, TEST_FROM_BYTES, TRUST_BELOW_BYTES};
    use crate::repository::compressors::tests::rows;

    #[test]
    fn pages_and_logs_come_back_and_take_hardly_more_room_than_the_level_says() {
        for level in [1, 3, 9] {
            let mut desk = Desk::new(level).unwrap();
            for bytes in [1, 8192, PAGES_BYTES, PAGES_BYTES + 1, 4 << 20] {
                let plain = rows(bytes, 0);
                for encode in [Desk::encode, Desk::encode_log] {
                    let Encoding::Zstd = encode(&mut desk, &plain) else {
                        assert_eq!(bytes, 1, "level {level}");
                        continue;
                    };
                    assert!(zstd::bulk::decompress(&desk.scratch, bytes).unwrap() == plain, "{bytes} bytes at level {level}");
                    let usual = zstd::bulk::compress(&plain, level).unwrap().len();
                    assert!(
                        desk.scratch.len() <= usual + usual / 50,
                        "{bytes} bytes at level {level}: {}, {usual}",
                        desk.scratch.len()
                    );
                }
            }
        }
    }

    #[test]
    fn a_small_table_is_for_pages_and_logs_at_level_3_alone() {
        let usual = |plain: &[u8], level| zstd::bulk::compress(plain, level).unwrap();
        let (file, pages) = (rows(4 << 20, 0), rows(PAGES_BYTES, 0));
        for (level, is_other) in [(1, false), (3, true), (4, false)] {
            let mut desk = Desk::new(level).unwrap();
            desk.encode(&file);
            assert!(desk.scratch == usual(&file, level), "a chunk of a file at level {level}");
            desk.encode(&pages);
            assert_eq!(desk.scratch != usual(&pages, level), is_other, "a piece of a relation at level {level}");
            desk.encode_log(&file);
            assert_eq!(desk.scratch != usual(&file, level), is_other, "a block of a log at level {level}");
        }
    }

    #[test]
    fn what_does_not_compress_is_stored_as_it_is_whatever_came_before() {
        let text = |bytes: usize| b"a row of text that repeats itself, more or less; ".repeat(bytes / 49 + 1)[..bytes].to_vec();
        let noise = |bytes: usize| {
            let mut out = vec![0; bytes];
            blake3::Hasher::new().finalize_xof().fill(&mut out);
            out
        };
        let mut desk = Desk::new(1).unwrap();
        for bytes in [TEST_FROM_BYTES - 1, TEST_FROM_BYTES, TRUST_BELOW_BYTES - 1, TRUST_BELOW_BYTES, 1 << 20] {
            for _ in 0..2 {
                assert_eq!(desk.encode(&text(bytes)), Encoding::Zstd, "{bytes}");
                assert!(desk.scratch.len() < bytes / 4, "{bytes}: {}", desk.scratch.len());
                // The first is compressed in vain, below the size that is always tested; the others are not.
                for _ in 0..3 {
                    assert_eq!(desk.encode(&noise(bytes)), Encoding::Plain, "{bytes}");
                }
            }
        }
    }
}
