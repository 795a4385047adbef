//! TLS as libpq's `sslmode` and `sslrootcert` mean it, on rustls.
//!
//! `verify-full` checks chain and host name, `verify-ca` the chain alone, `require` (and weaker) only encrypts, unless a root
//! certificate file exists: then `require` checks the chain as `verify-ca` does, which is libpq's rule. Different from libpq in
//! two points: a certificate without a subject alternative name is refused by `verify-full` (the common name has not counted
//! since RFC 6125), and revocation lists are not read.

use std::{
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    server::ParsedCertificate,
};
use tempfile::{NamedTempFile, TempPath};

use super::address::{SslMode, Tls};

/// What the roots are taken from.
enum Roots {
    File(PathBuf),
    System,
    Absent,
}

fn home_file(name: &str) -> Option<PathBuf> {
    std::env::home_dir().map(|home| home.join(".postgresql").join(name))
}

fn roots(tls: &Tls) -> Result<Roots, String> {
    match &tls.root {
        Some(root) if root.as_os_str() == "system" => Ok(Roots::System),
        given => {
            let file = given.clone().or_else(|| home_file("root.crt"));
            match file {
                Some(file) if file.exists() => Ok(Roots::File(file)),
                _ if tls.mode == SslMode::VerifyCa || tls.mode == SslMode::VerifyFull => Err(format!(
                    "sslmode={} needs the root certificate, and {} does not exist: add sslrootcert=FILE to the URL, or \
                     sslrootcert=system for a certificate that the system trusts",
                    tls.mode.word(),
                    file.unwrap_or_else(|| PathBuf::from("~/.postgresql/root.crt")).display(),
                )),
                _ => Ok(Roots::Absent),
            }
        }
    }
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let certificates = read.map_err(|error| format!("{}: {error}: it must hold PEM certificates", file.display()))?;
    if certificates.is_empty() {
        return Err(format!("{}: no certificate in it: it must hold PEM certificates", file.display()));
    }
    Ok(certificates)
}

fn system_certificates() -> Result<Vec<CertificateDer<'static>>, String> {
    let found = rustls_native_certs::load_native_certs();
    if found.certs.is_empty() {
        return Err("the system trusts no certificate: install ca-certificates, or give sslrootcert=FILE".to_owned());
    }
    Ok(found.certs)
}

/// TLS by these settings.
///
/// # Errors
/// What is wrong with them (a missing or unreadable file), with the next step.
pub(super) fn settings(tls: &Tls) -> Result<ClientConfig, String> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let trusted = match roots(tls)? {
        Roots::File(file) => Some(certificates(&file)?),
        Roots::System => Some(system_certificates()?),
        Roots::Absent => None,
    };
    let level = match (tls.mode, trusted) {
        (SslMode::VerifyFull, Some(trusted)) => Level::Full(chain(trusted, &provider)?),
        (SslMode::VerifyCa | SslMode::Require, Some(trusted)) => Level::Chain(chain(trusted, &provider)?),
        // `prefer` and `allow` fall back to plain text anyway: verifying would protect nothing.
        _ => Level::Encrypt,
    };
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier { level, provider }));
    match client_certificate(tls)? {
        Some((chain, key)) => {
            builder.with_client_auth_cert(chain, key).map_err(|error| format!("sslcert and sslkey cannot be used: {error}"))
        }
        None => Ok(builder.with_no_client_auth()),
    }
}

type ClientCertificate = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn client_certificate(tls: &Tls) -> Result<Option<ClientCertificate>, String> {
    let certificate = tls.certificate.clone().or_else(|| home_file("postgresql.crt").filter(|file| file.exists()));
    let Some(certificate) = certificate else { return Ok(None) };
    let key = tls.key.clone().or_else(|| home_file("postgresql.key")).ok_or("sslcert is given without sslkey")?;
    let secret = PrivateKeyDer::from_pem_file(&key).map_err(|error| format!("sslkey {}: {error}", key.display()))?;
    Ok(Some((certificates(&certificate)?, secret)))
}

/// A root certificate file for programs that are started: older libpq does not know `sslrootcert=system`, so the system's
/// certificates are written out for it. The file goes when the path is dropped.
pub(super) fn root_file_for_programs(tls: &Tls) -> Result<Option<TempPath>, String> {
    if tls.root.as_deref().is_none_or(|root| root.as_os_str() != "system") {
        return Ok(None);
    }
    use base64::Engine as _;
    let mut text = String::new();
    for certificate in system_certificates()? {
        let body = base64::engine::general_purpose::STANDARD.encode(certificate.as_ref());
        text.push_str("-----BEGIN CERTIFICATE-----\n");
        for line in body.as_bytes().chunks(64) {
            text.push_str(&String::from_utf8_lossy(line));
            text.push('\n');
        }
        text.push_str("-----END CERTIFICATE-----\n");
    }
    let written = NamedTempFile::with_prefix("farshore-roots-").and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.flush()?;
        Ok(file.into_temp_path())
    });
    written.map(Some).map_err(|error| format!("the temporary root certificate file: {error}"))
}

#[derive(Debug)]
struct Chain {
    verifier: Arc<WebPkiServerVerifier>,
    trusted: Vec<CertificateDer<'static>>,
}

fn chain(trusted: Vec<CertificateDer<'static>>, provider: &Arc<CryptoProvider>) -> Result<Chain, String> {
    let mut store = RootCertStore::empty();
    let (added, _) = store.add_parsable_certificates(trusted.iter().cloned());
    if added == 0 {
        return Err("no usable root certificate (version 3, with a subject) in sslrootcert".to_owned());
    }
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider.clone())
        .build()
        .map_err(|error| format!("sslrootcert: {error}"))?;
    Ok(Chain { verifier, trusted })
}

#[derive(Debug)]
enum Level {
    Encrypt,
    Chain(Chain),
    Full(Chain),
}

#[derive(Debug)]
struct Verifier {
    level: Level,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let (chain, full) = match &self.level {
            Level::Encrypt => return Ok(ServerCertVerified::assertion()),
            Level::Chain(chain) => (chain, false),
            Level::Full(chain) => (chain, true),
        };
        match chain.verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // The name is compared after the chain has been found good.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !full => Ok(ServerCertVerified::assertion()),
            // A server's own self-signed certificate given as the root, which is how many a PostgreSQL is set up: OpenSSL takes it,
            // webpki does not want an authority as the server's certificate. It is that very certificate, byte for byte.
            Err(rustls::Error::InvalidCertificate(error))
                if !matches!(error, CertificateError::Expired | CertificateError::ExpiredContext { .. })
                    && chain.trusted.iter().any(|root| root == end_entity) =>
            {
                if full {
                    verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                }
                Ok(ServerCertVerified::assertion())
            }
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
