//! How much of what is read could be compressed: by samples, on its way into the repository.
//!
//! Whether a chunk was compressed is known only for chunks that are new, and only to the writer; an estimate over everything
//! that is read tells what a source is made of, whatever of it was stored before. A sample costs some microseconds in 256 KiB.

use std::sync::atomic::{AtomicU64, Ordering};

/// A sample speaks for so many bytes. Bytes.
const WINDOW_BYTES: u64 = 256 << 10;

/// A sample is at most this long. Bytes.
const SAMPLE_BYTES: usize = 4096;

/// A shorter one says nothing: of 1,024 random bytes, 7.8 bits of each are seen; of 256 only 7.2. Bytes.
const LEAST_SAMPLE_BYTES: usize = 1024;

/// At this many bits of entropy per byte, counted by single bytes, there is nothing left to compress. Encrypted, compressed and
/// media data have 7.8 and more, executables about 6, texts and tables less than 5.5.
const DENSE_BITS: f64 = 7.5;

/// What was looked at so far. Shared by all contents of a source.
#[derive(Debug, Default)]
pub(super) struct Density {
    sampled_bytes: AtomicU64,
    dense_bytes: AtomicU64,
}

impl Density {
    /// Plain bytes that were looked at.
    pub(super) fn sampled_bytes(&self) -> u64 {
        self.sampled_bytes.load(Ordering::Relaxed)
    }

    /// Those of them that nothing would make shorter.
    pub(super) fn dense_bytes(&self) -> u64 {
        self.dense_bytes.load(Ordering::Relaxed)
    }
}

/// Looks at one content.
#[derive(Debug, Default)]
pub(super) struct Sampler {
    /// Bytes until the next sample is due.
    until_next: u64,
    /// What the last sample said.
    dense: Option<bool>,
}

impl Sampler {
    /// Takes note of the next bytes of the content. Those before the first sample are not counted.
    pub(super) fn look(&mut self, bytes: &[u8], density: &Density) {
        let length = bytes.len() as u64;
        if self.until_next == 0 && bytes.len() >= LEAST_SAMPLE_BYTES {
            // From the middle: a header in plain text must not speak for what follows it.
            let sample = bytes.len().min(SAMPLE_BYTES);
            let start = (bytes.len() - sample) / 2;
            self.dense = Some(entropy(&bytes[start..start + sample]) >= DENSE_BITS);
            self.until_next = WINDOW_BYTES;
        }
        self.until_next = self.until_next.saturating_sub(length);
        if let Some(dense) = self.dense {
            density.sampled_bytes.fetch_add(length, Ordering::Relaxed);
            density.dense_bytes.fetch_add(if dense { length } else { 0 }, Ordering::Relaxed);
        }
    }
}

/// Shannon's entropy of single bytes, in bits per byte.
fn entropy(bytes: &[u8]) -> f64 {
    let mut counts = [0_u32; 256];
    for byte in bytes {
        counts[usize::from(*byte)] += 1;
    }
    let total = bytes.len() as f64;
    let bits = |count: u32| {
        let share = f64::from(count) / total;
        -share * share.log2()
    };
    counts.into_iter().filter(|count| *count > 0).map(bits).sum()
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng, rngs::SmallRng};

    use super::{Density, Sampler};

    fn noise(bytes: usize) -> Vec<u8> {
        let mut out = vec![0; bytes];
        SmallRng::seed_from_u64(7).fill_bytes(&mut out);
        out
    }

    fn looked(bytes: &[u8], piece: usize) -> (u64, u64) {
        let (density, mut sampler) = (Density::default(), Sampler::default());
        bytes.chunks(piece).for_each(|piece| sampler.look(piece, &density));
        (density.sampled_bytes(), density.dense_bytes())
    }

    #[test]
    fn noise_is_dense_and_text_is_not_however_it_arrives() {
        let (noise, text) = (noise(2 << 20), b"listen = 8065, and some more of it\n".repeat(60_000));
        for piece in [1024, 8192, 1 << 20] {
            assert_eq!(looked(&noise, piece), (2 << 20, 2 << 20), "{piece}");
            assert_eq!(looked(&text, piece), (text.len() as u64, 0), "{piece}");
        }
        assert_eq!(looked(&noise, 1000), (0, 0), "too little of it at a time to tell");
    }

    #[test]
    fn a_plain_header_does_not_speak_for_what_follows_it() {
        let mut disguised = b"%PDF-1.7 ".repeat(200);
        disguised.extend_from_slice(&noise(1 << 20));
        let (sampled, dense) = looked(&disguised, 64 << 10);
        assert_eq!(sampled, dense);
    }
}
