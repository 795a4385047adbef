//! What ties a password exchange to the TLS connection below it: `tls-server-end-point` (RFC 5929, section 4), the hash of the server's
//! certificate by the function of its own signature.

use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256, Sha384, Sha512};
use x509_cert::{
    Certificate,
    der::{
        Decode,
        oid::db::rfc5912::{
            ECDSA_WITH_SHA_256, ECDSA_WITH_SHA_384, ECDSA_WITH_SHA_512, SHA_1_WITH_RSA_ENCRYPTION, SHA_256_WITH_RSA_ENCRYPTION,
            SHA_384_WITH_RSA_ENCRYPTION, SHA_512_WITH_RSA_ENCRYPTION,
        },
    },
};

/// The hash; nothing where the signature has no single function that hashes (Ed25519, RSA-PSS): RFC 5929 leaves those open.
pub(super) fn end_point(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let signature = Certificate::from_der(certificate).ok()?.signature_algorithm.oid;
    match signature {
        // SHA-1 counts as SHA-256, by the RFC.
        SHA_1_WITH_RSA_ENCRYPTION | SHA_256_WITH_RSA_ENCRYPTION | ECDSA_WITH_SHA_256 => Some(Sha256::digest(certificate).to_vec()),
        SHA_384_WITH_RSA_ENCRYPTION | ECDSA_WITH_SHA_384 => Some(Sha384::digest(certificate).to_vec()),
        SHA_512_WITH_RSA_ENCRYPTION | ECDSA_WITH_SHA_512 => Some(Sha512::digest(certificate).to_vec()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{CertificateDer, end_point};

    #[test]
    fn what_is_no_certificate_binds_nothing() {
        for bytes in [&b""[..], b"0", b"0\x82\xff\xff", &[0x30; 64]] {
            assert_eq!(end_point(&CertificateDer::from(bytes)), None);
        }
    }
}
