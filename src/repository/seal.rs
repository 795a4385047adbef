//! AES-256-GCM over chunks and catalogue objects.
//!
//! Sealed bytes are `nonce (12) || ciphertext || tag (16)`. Nonces never repeat under a key: a [`SealingKey`] that can seal is
//! made once per run from fresh randomness (a data key) or from the catalogue key and the run's fresh 128-bit id, lives in one
//! process, and counts its nonces up from zero with an atomic counter that refuses to wrap.

use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    hkdf,
};

/// Bytes that sealing adds.
pub const OVERHEAD_BYTES: usize = NONCE_BYTES + TAG_BYTES;
/// Bytes before the ciphertext.
pub const NONCE_BYTES: usize = 12;
const TAG_BYTES: usize = 16;

/// Opens what was sealed under one key.
#[derive(Debug)]
pub struct OpeningKey(LessSafeKey);

/// Seals under one key, with nonces that never repeat; one per run.
#[derive(Debug)]
pub struct SealingKey {
    key: LessSafeKey,
    next_nonce: AtomicU64,
}

/// The authentication tag did not match: other bytes, another key, or other associated data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the authentication tag does not match")]
pub struct Forged;

fn aes(key: &[u8; 32]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).expect("the key has the 32 bytes that AES-256 takes"))
}

impl OpeningKey {
    /// A key that only opens.
    pub fn new(key: &[u8; 32]) -> Self {
        Self(aes(key))
    }

    /// Opens `sealed` into `plain`, whose contents are replaced. What was read is opened where it lies: no copy is made of it.
    ///
    /// # Errors
    /// [`Forged`]; `plain` is empty then.
    pub fn open(&self, associated: &[u8], sealed: &[u8], plain: &mut Vec<u8>) -> Result<(), Forged> {
        self.open_at(associated, sealed, plain, 0)
    }

    /// The same, from `start` on; what lies before it means nothing.
    ///
    /// # Errors
    /// [`Forged`]; `plain` is empty then.
    pub fn open_at(&self, associated: &[u8], sealed: &[u8], plain: &mut Vec<u8>, start: usize) -> Result<(), Forged> {
        let length = sealed.len().checked_sub(OVERHEAD_BYTES).ok_or(Forged)?;
        let (nonce, rest) = sealed.split_at(NONCE_BYTES);
        let (ciphertext, tag) = rest.split_at(length);
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| Forged)?;
        // Of a used buffer only what it grows by is cleared.
        plain.resize(start + length, 0);
        self.0.open_separate_gather(nonce, Aad::from(associated), ciphertext, tag, &mut plain[start..]).map_err(|_| {
            plain.clear();
            Forged
        })
    }
}

impl SealingKey {
    /// A key that seals. `key` must be fresh: never given to another `SealingKey`.
    pub fn new(fresh: &[u8; 32]) -> Self {
        Self { key: aes(fresh), next_nonce: AtomicU64::new(0) }
    }

    /// Seals `plain` and appends nonce, ciphertext and tag to `out`.
    pub fn seal_into(&self, associated: &[u8], plain: &[u8], out: &mut Vec<u8>) {
        let number = self.next_nonce.fetch_add(1, Ordering::Relaxed);
        assert!(number < u64::MAX / 2, "a run cannot seal 2^63 times");
        let mut nonce = [0u8; NONCE_BYTES];
        nonce[4..].copy_from_slice(&number.to_be_bytes());
        out.reserve(plain.len() + OVERHEAD_BYTES);
        out.extend_from_slice(&nonce);
        let start = out.len();
        out.extend_from_slice(plain);
        let tag = self
            .key
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(associated), &mut out[start..])
            .expect("AES-GCM seals anything shorter than 64 GiB, and a chunk is at most 8 MiB");
        out.extend_from_slice(tag.as_ref());
    }
}

struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

/// HKDF-SHA256 (RFC 5869): `N` bytes from `secret`, separated by `salt` and `purpose`.
pub fn derive<const N: usize>(secret: &[u8; 32], salt: &[u8], purpose: &str) -> [u8; N] {
    let mut out = [0u8; N];
    hkdf::Salt::new(hkdf::HKDF_SHA256, salt)
        .extract(secret)
        .expand(&[purpose.as_bytes()], Length(N))
        .and_then(|okm| okm.fill(&mut out))
        .expect("HKDF yields up to 8,160 bytes, and at most 32 are asked for");
    out
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, sync::Arc};

    use super::{NONCE_BYTES, OpeningKey, SealingKey};

    #[test]
    fn what_is_sealed_opens_only_with_the_same_key_and_associated_data() {
        let mut sealed = Vec::new();
        SealingKey::new(&[7; 32]).seal_into(b"id", b"hello", &mut sealed);
        let mut plain = b"a used buffer, longer than what comes".to_vec();
        OpeningKey::new(&[7; 32]).open(b"id", &sealed, &mut plain).unwrap();
        assert_eq!(plain, b"hello");
        assert!(OpeningKey::new(&[8; 32]).open(b"id", &sealed, &mut plain).is_err());
        assert!(OpeningKey::new(&[7; 32]).open(b"ie", &sealed, &mut plain).is_err());
        assert!(OpeningKey::new(&[7; 32]).open(b"id", &sealed[..20], &mut plain).is_err());
        for bit in 0..sealed.len() * 8 {
            let mut broken = sealed.clone();
            broken[bit / 8] ^= 1 << (bit % 8);
            assert!(OpeningKey::new(&[7; 32]).open(b"id", &broken, &mut plain).is_err(), "bit {bit}");
            assert!(plain.is_empty(), "bit {bit}: nothing that was not authenticated is left");
        }
    }

    #[test]
    fn nonces_do_not_repeat_across_threads() {
        // A repeated nonce under AES-GCM gives away the XOR of two plaintexts and the authentication key.
        let key = Arc::new(SealingKey::new(&[7; 32]));
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let key = Arc::clone(&key);
                std::thread::spawn(move || {
                    (0..1000)
                        .map(|_| {
                            let mut sealed = Vec::new();
                            key.seal_into(b"", b"", &mut sealed);
                            sealed[..NONCE_BYTES].to_vec()
                        })
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        let all: HashSet<_> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        assert_eq!(all.len(), 4000);
    }
}
