//! Values as they travel in S3's headers and lists: checksums, escaped keys.

use base64::{Engine, engine::general_purpose::STANDARD};
use percent_encoding::percent_decode_str;

/// A key as a listing with `encoding-type=url` gives it. `None` if it is not UTF-8.
pub(super) fn decode_key(key: &str) -> Option<String> {
    let spaced = key.replace('+', " ");
    percent_decode_str(&spaced).decode_utf8().ok().map(|key| key.into_owned())
}

/// A checksum as S3 writes it.
pub(super) fn encode_sha256(sha256: &[u8; 32]) -> String {
    STANDARD.encode(sha256)
}

/// The checksum of a whole object; `None` for the composite one of a multipart object (`…-3`), which is that of its parts' checksums.
pub(super) fn decode_sha256(checksum: Option<&str>) -> Option<[u8; 32]> {
    STANDARD.decode(checksum?).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::{decode_key, decode_sha256, encode_sha256};

    #[test]
    fn composite_checksums_are_not_taken_for_whole_ones() {
        let whole = encode_sha256(&[7; 32]);
        assert_eq!(decode_sha256(Some(&whole)), Some([7; 32]));
        assert_eq!(decode_sha256(Some(&format!("{whole}-3"))), None);
    }

    #[test]
    fn listed_keys_are_decoded() {
        assert_eq!(decode_key("a+b%2Bc%0A%C3%BC").as_deref(), Some("a b+c\nü"));
        assert_eq!(decode_key("%FF"), None);
    }
}
