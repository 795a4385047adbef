//! Identities wrapped with a passphrase: an armored age file (scrypt), as `age -p` makes and `age -d` opens it.
//!
//! What lies in an escrow, or stands on paper, opens nothing by itself then. Slow on purpose: a second and 256 MiB for each
//! passphrase that is tried.

use std::io::{Read, Write};

use age::{
    armor::{ArmoredReader, ArmoredWriter, Format},
    scrypt,
};
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use super::{Identities, age_file::decryptor};
use crate::repository::{RepositoryError, error::Result};

/// log2 of scrypt's N for new files, as the age tool has it: 256 MiB of memory.
const WORK_FACTOR: u8 = 18;
/// … and the most that is accepted: 1 GiB and some seconds. A file from elsewhere must not take a machine's memory.
const MOST_WORK: u8 = 20;
/// Largest identity file, bytes of plain text.
const MAX_IDENTITY_BYTES: u64 = 1 << 20;

const ARMOR: &[u8] = b"-----BEGIN AGE ENCRYPTED FILE-----";
const BINARY: &[u8] = b"age-encryption.org/v1";

/// Whether this is an age file, and not the text of an identity.
pub fn is_passphrase_wrapped(file: &[u8]) -> bool {
    let file = file.trim_ascii_start();
    file.starts_with(ARMOR) || file.starts_with(BINARY)
}

/// Wraps the text of an identity file with a passphrase.
///
/// # Errors
/// [`RepositoryError::Key`] for an empty passphrase.
pub fn wrap_identity(text: &SecretString, passphrase: &SecretString) -> Result<String> {
    let refused = |detail: String| RepositoryError::Key { place: "passphrase".to_owned(), detail };
    if passphrase.expose_secret().is_empty() {
        return Err(refused("is empty; choose some words that nobody guesses".to_owned()));
    }
    let mut recipient = scrypt::Recipient::new(passphrase.clone());
    recipient.set_work_factor(WORK_FACTOR);
    let seal = || -> std::io::Result<Vec<u8>> {
        let encryptor =
            age::Encryptor::with_recipients(std::iter::once(&recipient as &dyn age::Recipient)).map_err(std::io::Error::other)?;
        let armor = ArmoredWriter::wrap_output(Vec::new(), Format::AsciiArmor)?;
        let mut writer = encryptor.wrap_output(armor)?;
        writer.write_all(text.expose_secret().as_bytes())?;
        writer.finish()?.finish()
    };
    let armored = seal().map_err(|error| refused(format!("the identity cannot be wrapped: {error}")))?;
    Ok(String::from_utf8(armored).expect("armor is ASCII"))
}

/// Opens a file that [`wrap_identity`] or the age tool made; armored or not. `place` names it in errors.
///
/// # Errors
/// [`RepositoryError::Key`]: another passphrase, another kind of age file, no age file at all, one that takes more than 1 GiB.
pub fn open_identities(place: &str, file: &[u8], passphrase: &SecretString) -> Result<Identities> {
    open_within(place, file, passphrase, MOST_WORK)
}

/// As [`open_identities`], for files that take at most 2^`most_work` KiB of memory.
///
/// # Errors
/// As [`open_identities`].
pub fn open_within(place: &str, file: &[u8], passphrase: &SecretString, most_work: u8) -> Result<Identities> {
    let refused = |detail: String| RepositoryError::Key { place: place.to_owned(), detail };
    let unsound = |error: &dyn std::fmt::Display| refused(format!("is no sound age file ({error}); take another copy of it"));
    let mut binary = Zeroizing::new(Vec::new());
    ArmoredReader::new(file.trim_ascii_start()).read_to_end(&mut binary).map_err(|error| unsound(&error))?;
    let decryptor = decryptor(&binary).map_err(|error| unsound(&error))?;
    if !decryptor.is_scrypt() {
        return Err(refused("is an age file that no passphrase opens; give an identity (AGE-SECRET-KEY-1…), or one wrapped by `farshore key generate --passphrase`".to_owned()));
    }
    let mut identity = scrypt::Identity::new(passphrase.clone());
    identity.set_max_work_factor(most_work);
    let reader = decryptor.decrypt(std::iter::once(&identity as &dyn age::Identity)).map_err(|error| match error {
        age::DecryptError::DecryptionFailed | age::DecryptError::KeyDecryptionFailed | age::DecryptError::NoMatchingKeys => {
            refused("the passphrase does not open this identity; type it again, or use another recipient's identity".to_owned())
        }
        age::DecryptError::ExcessiveWork { required, .. } if required > most_work => refused(format!(
            "asks for scrypt's work factor {required}, and at most {most_work} (2^{most_work} KiB of memory) is accepted: a hostile file could take all memory of this machine. Where it is your own, open it elsewhere with `age -d` and wrap what comes out anew with `age -p`"
        )),
        other => unsound(&other),
    })?;
    let mut text = Zeroizing::new(String::new());
    reader.take(MAX_IDENTITY_BYTES).read_to_string(&mut text).map_err(|error| unsound(&error))?;
    Identities::parse(place, &SecretString::from(text.as_str()))
}

#[cfg(test)]
mod tests {
    use secrecy::SecretString;

    use super::{is_passphrase_wrapped, open_identities, wrap_identity};
    use crate::repository::generate_identity;

    #[test]
    fn a_wrapped_identity_comes_back_with_its_passphrase_only() {
        let (text, public) = generate_identity(chrono::DateTime::UNIX_EPOCH);
        let right = SecretString::from("correct horse");
        let wrapped = wrap_identity(&text, &right).unwrap();
        assert!(is_passphrase_wrapped(wrapped.as_bytes()) && !wrapped.contains("SECRET"));
        assert_eq!(open_identities("f", wrapped.as_bytes(), &right).unwrap().public_keys(), [public]);
        let error = open_identities("f", wrapped.as_bytes(), &SecretString::from("wrong")).unwrap_err().to_string();
        assert!(error.contains("the passphrase does not open this identity"), "{error}");
        let error = open_identities("f", &wrapped.as_bytes()[..wrapped.len() / 2], &right).unwrap_err().to_string();
        assert!(error.contains("no sound age file"), "{error}");
        assert!(wrap_identity(&text, &SecretString::from("")).is_err());
    }

    #[test]
    fn a_file_that_asks_for_gigabytes_is_refused_at_once() {
        // What such a file says of itself is enough: nothing of it is authentic before the memory was taken.
        let file = |work: u8| {
            let (salt, key, mac) = ("A".repeat(22), "A".repeat(43), "A".repeat(43));
            format!("age-encryption.org/v1\n-> scrypt {salt} {work}\n{key}\n--- {mac}\n{}", "x".repeat(32))
        };
        for work in [21, 22, 30, 64] {
            let error = open_identities("f", file(work).as_bytes(), &SecretString::from("any")).unwrap_err().to_string();
            assert!(error.contains(&format!("work factor {work}, and at most 20")), "{error}");
        }
        // One within the bound is tried.
        let error = open_identities("f", file(10).as_bytes(), &SecretString::from("any")).unwrap_err().to_string();
        assert!(error.contains("the passphrase does not open"), "{error}");
    }
}
