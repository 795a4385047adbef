//! A wrap: one key, once, for one recipient set. How it is named, made and opened.

use std::{
    cmp::Reverse,
    fmt,
    io::{Read, Write},
};

use age::{Identity, Recipient};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{
    Identities, Recipients, Secret, SetName,
    age_file::{check_header, decryptor},
    sha256,
};
use crate::{
    repository::{
        RepositoryError,
        error::{Result, reading},
        format::{Id, KEYS, MAX_KEY_BYTES},
        point::list_store,
    },
    stores::{GetOptions, PutOptions, SharedStore, StoreError, read_all},
};

/// What a wrapped key is for: a key of one kind is never taken for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyKind {
    /// Seals what a writer must read again.
    Catalogue,
    /// Seals the bytes of sources.
    Data,
    /// Seals files of a database's log, for a day at most.
    Log,
}

impl KeyKind {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Catalogue => "catalogue",
            Self::Data => "data",
            Self::Log => "log",
        }
    }
}

/// A stored wrap, as the name of its object tells it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WrapName {
    pub(super) kind: KeyKind,
    pub(super) id: Id,
    /// For whom it was wrapped.
    pub(super) set: SetName,
    /// Not wrapped at all: the repository is unencrypted.
    pub(super) plain: bool,
}

impl fmt::Display for WrapName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{KEYS}{}-{}", self.kind.word(), hex::encode(self.id))?;
        if self.set != SetName::FIRST {
            write!(out, ".{}", self.set)?;
        }
        out.write_str(if self.plain { ".json" } else { ".age" })
    }
}

impl WrapName {
    /// Reads the name of an object; nothing for one that is no wrap, or is written in another way than ours.
    pub fn parse(object: &str) -> Option<Self> {
        let (name, ending) = object.strip_prefix(KEYS)?.rsplit_once('.')?;
        let (kind, rest) = name.split_once('-')?;
        let kind = [KeyKind::Catalogue, KeyKind::Data, KeyKind::Log].into_iter().find(|known| known.word() == kind)?;
        let (id_text, set) = match rest.split_once('.') {
            None => (rest, SetName::FIRST),
            Some((id, set)) => (id, SetName::parse(set)?),
        };
        let mut id = Id::default();
        hex::decode_to_slice(id_text, &mut id).ok()?;
        let found = Self { kind, id, set, plain: ending == "json" };
        (found.to_string() == object).then_some(found)
    }

    /// Opens the bytes of the object of this name, which `place` names in errors.
    ///
    /// # Errors
    /// [`RepositoryError::Key`] if it is wrapped to others, [`RepositoryError::Damaged`].
    pub fn open(&self, place: &str, body: &[u8], identities: &Identities) -> Result<Secret> {
        let damaged = |detail: String| damaged_wrap(place, &detail);
        let json = if self.plain {
            Zeroizing::new(body.to_vec())
        } else {
            unwrap_age(body, identities).map_err(|error| match error {
                Unopened::WrongIdentity(detail) => RepositoryError::Key { place: place.to_owned(), detail },
                Unopened::Damaged(detail) => damaged(detail),
            })?
        };
        let wrapped: WrappedKey =
            serde_json::from_slice(&json).map_err(|error| damaged(format!("does not hold a key: {error}")))?;
        if wrapped.kind != self.kind.word() || wrapped.id != hex::encode(self.id) {
            return Err(damaged(format!("holds the {} key {} instead of what its name says", wrapped.kind, wrapped.id)));
        }
        let mut key = Secret::default();
        // Lower case only: one way to write a key down, so that every changed bit shows.
        match hex::decode_to_slice(&wrapped.key, key.as_mut_slice()) {
            Ok(()) if !wrapped.key.bytes().any(|byte| byte.is_ascii_uppercase()) => Ok(key),
            _ => Err(damaged("holds no 256-bit key".to_owned())),
        }
    }
}

/// Every wrap whose object's name begins so, the newest first.
pub(super) async fn list_wraps(store: &SharedStore, prefix: &str, plain: bool) -> Result<Vec<WrapName>> {
    let listed = list_store(store, prefix).await?;
    let mut wraps: Vec<_> =
        listed.iter().filter_map(|object| WrapName::parse(&object.key)).filter(|wrap| wrap.plain == plain).collect();
    wraps.sort_by_key(|wrap| Reverse(wrap.set));
    Ok(wraps)
}

#[derive(Serialize, Deserialize)]
struct WrappedKey {
    kind: String,
    id: String,
    key: String,
}

impl Drop for WrappedKey {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.key);
    }
}

/// Wraps a key and stores it, written once; returns the site's time of that.
///
/// # Errors
/// The store's, [`RepositoryError::Key`].
pub(super) async fn store_wrap(store: &SharedStore, name: &WrapName, key: &Secret, to: &Recipients) -> Result<DateTime<Utc>> {
    let wrapped = WrappedKey { kind: name.kind.word().to_owned(), id: hex::encode(name.id), key: hex::encode(key.as_slice()) };
    let json = Zeroizing::new(serde_json::to_vec(&wrapped).expect("three strings always serialise"));
    let body = match to {
        Recipients::Nobody => json.to_vec(),
        Recipients::Age { readers, agents } => {
            let agents = agents.iter().filter(|_| name.kind == KeyKind::Catalogue);
            let all: Vec<&dyn Recipient> = readers.iter().chain(agents).map(|recipient| recipient as &dyn Recipient).collect();
            wrap(&json, &all).map_err(|detail| RepositoryError::Key { place: name.to_string(), detail })?
        }
    };
    let sha256 = sha256(&body);
    let options = PutOptions { if_absent: true, sha256: Some(sha256), ..PutOptions::default() };
    Ok(store.put(&name.to_string(), body.into(), options).await?.modified)
}

fn wrap(plain: &[u8], to: &[&dyn Recipient]) -> std::result::Result<Vec<u8>, String> {
    let encryptor = age::Encryptor::with_recipients(to.iter().copied()).map_err(|error| format!("cannot be wrapped: {error}"))?;
    let mut out = Vec::new();
    let mut writer = encryptor.wrap_output(&mut out).map_err(|error| error.to_string())?;
    writer.write_all(plain).map_err(|error| error.to_string())?;
    writer.finish().map_err(|error| error.to_string())?;
    // Nobody could open what is refused when it is read.
    check_header(&out).map_err(|detail| format!("cannot be wrapped to {} recipients: {detail}; name fewer", to.len()))?;
    Ok(out)
}

/// Why a wrapped key did not open.
enum Unopened {
    /// It is wrapped to others.
    WrongIdentity(String),
    /// It is not what was stored.
    Damaged(String),
}

fn unwrap_age(body: &[u8], identities: &Identities) -> std::result::Result<Zeroizing<Vec<u8>>, Unopened> {
    let damaged = |error: &dyn fmt::Display| Unopened::Damaged(format!("is no sound age file ({error})"));
    let decryptor = decryptor(body).map_err(|error| damaged(&error))?;
    if identities.is_empty() {
        return Err(Unopened::WrongIdentity(
            "the repository is encrypted and no identity is at hand; give --identity FILE (or FARSHORE_IDENTITY_FILE)".to_owned(),
        ));
    }
    let mut reader =
        decryptor.decrypt(identities.iter().map(|identity| identity as &dyn Identity)).map_err(|error| match error {
            // A key whose lines for our identity were altered looks the same.
            age::DecryptError::NoMatchingKeys => Unopened::WrongIdentity(format!(
                "none of the identities at hand opens this key ({error}); give the identity of one of the recipients with --identity FILE (`farshore key list` names them); a new agent's key is made known with `farshore key rotate POLICY --identity FILE`"
            )),
            other => damaged(&other),
        })?;
    let mut plain = Zeroizing::new(Vec::new());
    reader.read_to_end(&mut plain).map_err(|error| damaged(&error))?;
    Ok(plain)
}

const NEXT_STEP: &str =
    "what was sealed under this key cannot be read without it, so put the object back from another copy of the site";

fn damaged_wrap(place: &str, detail: &str) -> RepositoryError {
    RepositoryError::Damaged { place: place.to_owned(), detail: format!("{detail}; {NEXT_STEP}") }
}

/// An object under `keys/` that is not there, said as what that means.
pub(super) fn missing_is_damage(error: RepositoryError) -> RepositoryError {
    match error {
        RepositoryError::Store(StoreError::NotFound { place }) => {
            RepositoryError::Damaged { place, detail: format!("is missing from the site; {NEXT_STEP}") }
        }
        other => other,
    }
}

/// Fetches and opens one wrap.
///
/// # Errors
/// [`RepositoryError::Key`] if it is wrapped to others, [`RepositoryError::Damaged`], the store's: among them
/// [`StoreError::NotFound`], since a rotation may have taken it away.
pub(super) async fn fetch_wrap(store: &SharedStore, name: &WrapName, identities: &Identities) -> Result<Secret> {
    let object = name.to_string();
    let place = format!("{}/{object}", store.describe());
    let body = read_all(store.as_ref(), &object, GetOptions::default(), MAX_KEY_BYTES).await.map_err(|error| match error {
        gone @ StoreError::NotFound { .. } => gone.into(),
        other => match reading(other) {
            RepositoryError::Damaged { detail, .. } => damaged_wrap(&place, &detail),
            other => other,
        },
    })?;
    name.open(&place, &body, identities)
}

/// Opens a key by the newest of its wraps that opens: those of before may be meant for us where the newest is not, and are there
/// for whoever meets a damaged one. `wraps` begin with the newest.
///
/// # Errors
/// Of the first wrap that is damaged or missing, else of the first that is wrapped to others; the store's.
pub(super) async fn fetch_any(store: &SharedStore, wraps: &[WrapName], identities: &Identities) -> Result<Secret> {
    let (mut damaged, mut locked) = (None, None);
    for wrap in wraps {
        match fetch_wrap(store, wrap, identities).await {
            Ok(secret) => {
                if let Some(error) = damaged {
                    tracing::warn!(%error, "a wrapped key was passed over, an older wrap of it opens; mend it with `farshore key rotate --anew`");
                }
                return Ok(secret);
            }
            Err(error @ RepositoryError::Key { .. }) => locked = locked.or(Some(error)),
            Err(error) if error.is_damage() => damaged = damaged.or(Some(error)),
            Err(error) => return Err(error),
        }
    }
    Err(damaged
        .or(locked)
        .unwrap_or_else(|| RepositoryError::Damaged { place: store.describe(), detail: "a key has no wrap".to_owned() }))
}

#[cfg(test)]
mod tests {
    use age::{Recipient, x25519::Identity};

    use super::{Identities, KeyKind, SetName, Unopened, WrapName, unwrap_age, wrap};

    #[test]
    fn what_is_wrapped_to_many_opens_and_to_more_than_can_be_read_is_refused_at_once() {
        let (text, _) = crate::repository::generate_identity(chrono::DateTime::UNIX_EPOCH);
        let identities = Identities::parse("x", &text).unwrap();
        let last = identities.public().unwrap();
        let others = Identity::generate().to_public();
        let to = |many: usize| -> Vec<&dyn Recipient> {
            (1..many).map(|_| &others as &dyn Recipient).chain(std::iter::once(&last as &dyn Recipient)).collect()
        };
        let wrapped = wrap(b"key", &to(250)).unwrap();
        assert!(unwrap_age(&wrapped, &identities).is_ok_and(|plain| *plain == b"key"));
        let error = wrap(b"key", &to(400)).err().unwrap();
        assert!(error.contains("cannot be wrapped to 400 recipients") && error.contains("32 KiB"), "{error}");
        assert!(matches!(unwrap_age(&wrapped, &Identities::none()), Err(Unopened::WrongIdentity(_))));
    }

    #[test]
    fn names_come_back_and_other_spellings_are_passed_over() {
        let first = WrapName { kind: KeyKind::Data, id: [0xab; 16], set: SetName::FIRST, plain: false };
        assert_eq!(first.to_string(), format!("keys/data-{}.age", "ab".repeat(16)));
        let later = WrapName { kind: KeyKind::Catalogue, set: SetName { generation: 12, id: [0xcd; 8] }, ..first.clone() };
        assert_eq!(later.to_string(), format!("keys/catalogue-{}.00000012-{}.age", "ab".repeat(16), "cd".repeat(8)));
        for name in [first, later] {
            let object = name.to_string();
            assert_eq!(WrapName::parse(&object).as_ref(), Some(&name));
            for other in
                [object.to_uppercase(), object.replace("keys/", "keys/x"), format!("{object}.tmp"), object.replace("12-", "2-")]
            {
                assert!(other == object || WrapName::parse(&other).is_none(), "{other}");
            }
        }
        assert_eq!(WrapName::parse(&format!("keys/data-{}.00000000-{}.age", "ab".repeat(16), "00".repeat(8))), None);
    }
}
