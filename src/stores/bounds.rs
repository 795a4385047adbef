//! The rules for keys, ranges and bodies that all stores hold alike, so that a caller meets the same answer everywhere.

use std::ops::Range;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::{MAX_KEY_BYTES, MAX_SINGLE_PUT_BYTES, StoreError};

/// Bodies up to this size are hashed where they stand: it takes less than a switch of threads. Bytes.
const HASHED_AT_ONCE: usize = 16 << 10;

/// Computes checksums of a body, of a large one on a thread that may work.
///
/// # Errors
/// [`StoreError::Other`] if that thread could not end its work.
pub(super) async fn hashed<T: Send + 'static>(
    place: &str,
    key: &str,
    action: &'static str,
    body: &Bytes,
    work: impl FnOnce(&Bytes) -> T + Send + 'static,
) -> Result<T, StoreError> {
    if body.len() <= HASHED_AT_ONCE {
        return Ok(work(body));
    }
    let body = body.clone();
    tokio::task::spawn_blocking(move || work(&body)).await.map_err(|error| StoreError::Other {
        place: object_place(place, key),
        action,
        detail: format!("its checksum could not be computed: {error}"),
    })
}

/// Refuses a key that is empty or longer than [`MAX_KEY_BYTES`].
///
/// # Errors
/// [`StoreError::Other`], final: such an object cannot exist.
pub(super) fn check_key(place: &str, key: &str, action: &'static str) -> Result<(), StoreError> {
    if key.is_empty() {
        return Err(StoreError::Other { place: place.to_owned(), action, detail: "the key is empty".to_owned() });
    }
    if key.len() > MAX_KEY_BYTES {
        let detail = format!("the key has {} bytes and may have at most {MAX_KEY_BYTES}", key.len());
        return Err(StoreError::Other { place: object_place(place, key), action, detail });
    }
    Ok(())
}

/// Refuses a body that is too large for one put, or whose SHA-256 is not the one the caller stated.
///
/// # Errors
/// [`StoreError::Other`] for the size, [`StoreError::Corrupt`] for the checksum.
pub(super) fn check_body(place: &str, key: &str, body: &Bytes, stated: Option<[u8; 32]>) -> Result<(), StoreError> {
    if body.len() as u64 > MAX_SINGLE_PUT_BYTES {
        let detail = format!(
            "{} bytes in one put, where at most {MAX_SINGLE_PUT_BYTES} may go; larger objects go by multipart upload",
            body.len()
        );
        return Err(StoreError::Other { place: object_place(place, key), action: "put", detail });
    }
    if let Some(stated) = stated {
        let actual = sha256(body);
        if actual != stated {
            let detail = format!("the body's SHA-256 is {} and should be {}", hex::encode(actual), hex::encode(stated));
            return Err(StoreError::Corrupt { place: object_place(place, key), detail });
        }
    }
    Ok(())
}

/// The bytes of an object of `size` bytes that a range asks for: all without one; cut off at the object's end.
///
/// # Errors
/// [`StoreError::InvalidRange`] if it is empty or begins at or beyond the end, as HTTP has it (RFC 9110, 14.1.2).
pub(super) fn resolve_range(place: &str, key: &str, range: Option<&Range<u64>>, size: u64) -> Result<Range<u64>, StoreError> {
    match range {
        None => Ok(0..size),
        Some(range) if range.start >= size || range.start >= range.end => {
            Err(StoreError::InvalidRange { place: object_place(place, key) })
        }
        Some(range) => Ok(range.start..range.end.min(size)),
    }
}

/// Some servers sort directories by their names without the slash. A reader that relies on the order would miss objects.
pub(super) fn unsorted(place: &str, prefix: &str, whose: &str, earlier: &str, later: &str) -> StoreError {
    let detail = format!(
        "the server's listing is not sorted by the bytes of its keys ({earlier:?} came before {later:?}), as {whose} is; \
         use prefixes within which it is, or another server"
    );
    StoreError::Other { place: object_place(place, prefix), action: "list", detail }
}

/// SHA-256 of bytes in memory.
pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// How an operator would write an object down: the place, a slash, the key with its control characters escaped, so that a key
/// cannot paint on a terminal.
pub(super) fn object_place(place: &str, key: &str) -> String {
    let mut written = String::with_capacity(place.len() + key.len() + 1);
    written.push_str(place);
    written.push('/');
    for character in key.chars() {
        if character.is_control() {
            written.extend(character.escape_default());
        } else {
            written.push(character);
        }
    }
    written
}
