//! Values as they travel in S3's headers and lists: checksums, escaped keys.

use aws_sdk_s3::types::ChecksumAlgorithm;
use base64::{Engine, engine::general_purpose::STANDARD};
use crc_fast::{CrcAlgorithm, checksum};
use percent_encoding::percent_decode_str;

/// A key as a listing with `encoding-type=url` gives it. `None` if it is not UTF-8.
pub(super) fn decode_key(key: &str) -> Option<String> {
    let spaced = key.replace('+', " ");
    percent_decode_str(&spaced).decode_utf8().ok().map(|key| key.into_owned())
}

/// The checksum that an upload brings, for the server to verify.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Checksum {
    /// SHA-256: the server keeps it, and says it of the object.
    Sha256([u8; 32]),
    /// CRC-32C, of bytes that are authenticated whenever they are read. It takes a tenth of the time, here and at the server.
    Crc32C(u32),
}

impl Checksum {
    pub(super) fn algorithm(self) -> ChecksumAlgorithm {
        match self {
            Self::Sha256(_) => ChecksumAlgorithm::Sha256,
            Self::Crc32C(_) => ChecksumAlgorithm::Crc32C,
        }
    }

    pub(super) fn sha256(self) -> Option<[u8; 32]> {
        match self {
            Self::Sha256(sha256) => Some(sha256),
            Self::Crc32C(_) => None,
        }
    }

    pub(super) fn crc32c(self) -> Option<u32> {
        match self {
            Self::Sha256(_) => None,
            Self::Crc32C(crc) => Some(crc),
        }
    }
}

/// CRC-32C (RFC 3720, 12.1; S3's `CRC32C`).
pub(super) fn crc32c(body: &[u8]) -> u32 {
    // The crate gives every width in 64 bits; of this algorithm the upper half is empty.
    checksum(CrcAlgorithm::Crc32Iscsi, body) as u32
}

/// A CRC-32C as S3 writes it: the bytes of the number in big-endian order.
pub(super) fn encode_crc32c(crc: u32) -> String {
    STANDARD.encode(crc.to_be_bytes())
}

/// A SHA-256 as S3 writes it.
pub(super) fn encode_sha256(sha256: &[u8; 32]) -> String {
    STANDARD.encode(sha256)
}

/// The checksum of a whole object; `None` for the composite one of a multipart object (`…-3`), which is that of its parts' checksums.
pub(super) fn decode_sha256(checksum: Option<&str>) -> Option<[u8; 32]> {
    STANDARD.decode(checksum?).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::{crc32c, decode_key, decode_sha256, encode_crc32c, encode_sha256};

    #[test]
    fn the_crc_is_that_of_the_standard() {
        // RFC 3720, B.4: 32 bytes of zeros, 32 of ones, 0 to 31.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(&(0..32).collect::<Vec<u8>>()), 0x46dd_794e);
        // The check value 0xe3069283, big-endian, in base64.
        assert_eq!(encode_crc32c(crc32c(b"123456789")), "4waSgw==");
    }

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
