//! Wrapped keys: who can read, who can only write.
//!
//! Two kinds of key lie under `keys/`, each in an age file (or, in a repository with `encryption = "none"`, in plain JSON, so
//! that the rest of the format is the same and its tags still detect damage):
//! * the *catalogue key*, wrapped to every recipient **and** to the agent: chunk ids, indexes, entry lists, points;
//! * one *data key* per backup run, wrapped to the recipients only and forgotten when the run ends.
//!
//! So an agent's own files open the catalogue, and no earlier data.

use std::{
    collections::HashMap,
    io::{Read, Write},
    iter,
    sync::{Arc, Mutex},
};

use age::{Identity, Recipient};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{
    RepositoryError,
    error::{Result, reading},
    format::{Id, KEYS, MAX_KEY_BYTES},
    seal::{OpeningKey, SealingKey, derive},
};
use crate::stores::{GetOptions, PutOptions, SharedStore, read_all};

/// A 256-bit key, wiped when dropped.
pub type Secret = Zeroizing<[u8; 32]>;

/// Fresh randomness.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0u8; N];
    aws_lc_rs::rand::fill(&mut bytes).expect("the operating system always gives randomness");
    bytes
}

/// To whom the keys of a repository are wrapped.
#[derive(Clone)]
pub enum Recipients {
    /// age public keys.
    Age {
        /// Those who can restore.
        readers: Vec<age::x25519::Recipient>,
        /// The agent, which opens the catalogue key and nothing else.
        agent: Option<age::x25519::Recipient>,
    },
    /// `encryption = "none"`, said in words by the policy: keys lie beside the data.
    Nobody,
}

impl std::fmt::Debug for Recipients {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Age { readers, agent } => write!(out, "Age({} readers, agent: {})", readers.len(), agent.is_some()),
            Self::Nobody => out.write_str("Nobody"),
        }
    }
}

impl Recipients {
    /// The readers' public keys, sorted; none for [`Self::Nobody`].
    pub fn public_keys(&self) -> Vec<String> {
        let mut keys = match self {
            Self::Age { readers, .. } => readers.iter().map(ToString::to_string).collect(),
            Self::Nobody => Vec::new(),
        };
        keys.sort();
        keys
    }

    /// Reads age public keys (`age1…`).
    ///
    /// # Errors
    /// [`RepositoryError::Key`] naming the one that is none.
    pub fn parse(readers: &[String], agent: Option<age::x25519::Recipient>) -> Result<Self> {
        let readers = readers
            .iter()
            .map(|text| {
                text.parse().map_err(|error: &str| RepositoryError::Key {
                    place: text.clone(),
                    detail: format!("not an age public key ({error}); it looks like age1… and comes from `farshore key generate`"),
                })
            })
            .collect::<Result<_>>()?;
        Ok(Self::Age { readers, agent })
    }
}

/// The age identities at hand: an operator's, an escrow's, or the agent's own.
#[derive(Clone, Default)]
pub struct Identities(Vec<Arc<age::x25519::Identity>>);

impl std::fmt::Debug for Identities {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Identities({})", self.0.len())
    }
}

impl Identities {
    /// None at hand: enough for an unencrypted repository only.
    pub fn none() -> Self {
        Self::default()
    }

    /// Reads an identity file: lines `AGE-SECRET-KEY-1…`, comments with `#`. `place` names it in errors.
    ///
    /// # Errors
    /// [`RepositoryError::Key`] with the line that is no key (its contents are not repeated).
    pub fn parse(place: &str, text: &SecretString) -> Result<Self> {
        let refused = |detail: String| RepositoryError::Key { place: place.to_owned(), detail };
        let mut all = Vec::new();
        for (number, line) in text.expose_secret().lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let identity = line.parse::<age::x25519::Identity>().map_err(|error| {
                refused(format!(
                    "line {} is no age secret key ({error}); expected a file made by `farshore key generate`, with a line AGE-SECRET-KEY-1…",
                    number + 1
                ))
            })?;
            all.push(Arc::new(identity));
        }
        if all.is_empty() {
            return Err(refused("holds no age secret key; expected a line AGE-SECRET-KEY-1…".to_owned()));
        }
        Ok(Self(all))
    }

    /// Both together.
    pub fn and(mut self, other: &Self) -> Self {
        self.0.extend(other.0.iter().cloned());
        self
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The public half of the first identity.
    pub fn public(&self) -> Option<age::x25519::Recipient> {
        self.0.first().map(|identity| identity.to_public())
    }
}

/// A new identity: the file's text (with its public key in a comment) and the public key.
pub fn generate_identity(created: chrono::DateTime<chrono::Utc>) -> (SecretString, String) {
    let identity = age::x25519::Identity::generate();
    let public = identity.to_public().to_string();
    let text = format!(
        "# farshore identity, created {}\n# public key: {public}\n{}\n",
        created.to_rfc3339_opts(chrono::SecondsFormat::Secs, true),
        identity.to_string().expose_secret()
    );
    (text.into(), public)
}

#[derive(Serialize, Deserialize)]
struct WrappedKey {
    /// `catalogue` or `data`: a key of one kind is never taken for the other.
    kind: String,
    id: String,
    key: String,
}

impl Drop for WrappedKey {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.key);
    }
}

fn key_object(kind: &str, id: &Id, plain: bool) -> String {
    format!("{KEYS}{kind}-{}.{}", hex::encode(id), if plain { "json" } else { "age" })
}

/// Wraps a key and stores it, written once.
async fn store_key(store: &SharedStore, kind: &str, id: &Id, key: &Secret, to: &Recipients) -> Result<()> {
    let wrapped = WrappedKey { kind: kind.to_owned(), id: hex::encode(id), key: hex::encode(key.as_slice()) };
    let json = Zeroizing::new(serde_json::to_vec(&wrapped).expect("three strings always serialise"));
    let (body, plain) = match to {
        Recipients::Nobody => (json.to_vec(), true),
        Recipients::Age { readers, agent } => {
            let agent = agent.iter().filter(|_| kind == "catalogue");
            let all: Vec<&dyn Recipient> = readers.iter().chain(agent).map(|recipient| recipient as &dyn Recipient).collect();
            (wrap(&json, &all).map_err(|detail| RepositoryError::Key { place: key_object(kind, id, false), detail })?, false)
        }
    };
    let sha256 = sha256(&body);
    let options = PutOptions { if_absent: true, sha256: Some(sha256), ..PutOptions::default() };
    store.put(&key_object(kind, id, plain), body.into(), options).await?;
    Ok(())
}

fn wrap(plain: &[u8], to: &[&dyn Recipient]) -> std::result::Result<Vec<u8>, String> {
    let encryptor = age::Encryptor::with_recipients(to.iter().copied()).map_err(|error| format!("cannot be wrapped: {error}"))?;
    let mut out = Vec::new();
    let mut writer = encryptor.wrap_output(&mut out).map_err(|error| error.to_string())?;
    writer.write_all(plain).map_err(|error| error.to_string())?;
    writer.finish().map_err(|error| error.to_string())?;
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
    let damaged = |error: &dyn std::fmt::Display| Unopened::Damaged(format!("is no sound age file ({error})"));
    let decryptor = age::Decryptor::new(body).map_err(|error| damaged(&error))?;
    if identities.is_empty() {
        return Err(Unopened::WrongIdentity(
            "the repository is encrypted and no identity is at hand; give --identity FILE (or FARSHORE_IDENTITY_FILE)".to_owned(),
        ));
    }
    let mut reader =
        decryptor.decrypt(identities.0.iter().map(|identity| identity.as_ref() as &dyn Identity)).map_err(|error| match error {
            // A key whose lines for our identity were altered looks the same.
            age::DecryptError::NoMatchingKeys => Unopened::WrongIdentity(format!(
                "none of the identities at hand opens this key ({error}); give the identity of one of the policy's recipients with --identity FILE"
            )),
            other => damaged(&other),
        })?;
    let mut plain = Zeroizing::new(Vec::new());
    reader.read_to_end(&mut plain).map_err(|error| damaged(&error))?;
    Ok(plain)
}

/// Fetches and unwraps a key.
async fn fetch_key(store: &SharedStore, kind: &str, id: &Id, plain: bool, identities: &Identities) -> Result<Secret> {
    let name = key_object(kind, id, plain);
    let place = format!("{}/{name}", store.describe());
    let damaged = |detail: String| RepositoryError::Damaged {
        place: place.clone(),
        detail: format!(
            "{detail}; what was sealed under this key cannot be read without it, so put the object back from another copy of the site"
        ),
    };
    let body =
        read_all(store.as_ref(), &name, GetOptions::default(), MAX_KEY_BYTES).await.map_err(|error| match reading(error) {
            RepositoryError::Damaged { detail, .. } => damaged(detail),
            other => other,
        })?;
    let json = if plain {
        Zeroizing::new(body.to_vec())
    } else {
        unwrap_age(&body, identities).map_err(|error| match error {
            Unopened::WrongIdentity(detail) => RepositoryError::Key { place: place.clone(), detail },
            Unopened::Damaged(detail) => damaged(detail),
        })?
    };
    let wrapped: WrappedKey = serde_json::from_slice(&json).map_err(|error| damaged(format!("does not hold a key: {error}")))?;
    if wrapped.kind != kind || wrapped.id != hex::encode(id) {
        return Err(damaged(format!("holds the {} key {} instead of what its name says", wrapped.kind, wrapped.id)));
    }
    let mut key = Secret::default();
    // Lower case only: one way to write a key down, so that every changed bit shows.
    match hex::decode_to_slice(&wrapped.key, key.as_mut_slice()) {
        Ok(()) if !wrapped.key.bytes().any(|byte| byte.is_ascii_uppercase()) => Ok(key),
        _ => Err(damaged("holds no 256-bit key".to_owned())),
    }
}

/// SHA-256 of bytes.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).into()
}

/// The catalogue key, opened, and what is derived from it.
pub struct Catalogue {
    /// Its name.
    pub id: Id,
    secret: Secret,
    data_chunk_ids: Secret,
    catalogue_chunk_ids: Secret,
    repository_file: Secret,
    /// Seeds the content-defined cutter, so that cut positions say nothing about known files.
    pub cut_seed: u64,
    openers: Mutex<HashMap<Id, Arc<OpeningKey>>>,
}

impl std::fmt::Debug for Catalogue {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Catalogue({})", hex::encode(self.id))
    }
}

const RUN_PURPOSE: &str = "farshore 1 catalogue run";

impl Catalogue {
    /// What is derived from this key in this repository.
    pub(super) fn new(id: Id, secret: Secret, repository: &Id) -> Self {
        let data_chunk_ids = Zeroizing::new(derive(&secret, repository, "farshore 1 data chunk id"));
        let catalogue_chunk_ids = Zeroizing::new(derive(&secret, repository, "farshore 1 catalogue chunk id"));
        let repository_file = Zeroizing::new(derive(&secret, repository, "farshore 1 repository file"));
        let cut_seed = u64::from_le_bytes(derive(&secret, repository, "farshore 1 cut seed"));
        Self { id, secret, data_chunk_ids, catalogue_chunk_ids, repository_file, cut_seed, openers: Mutex::default() }
    }

    /// Makes a new catalogue key and stores it wrapped.
    ///
    /// # Errors
    /// The store's, and [`RepositoryError::Key`] if it cannot be wrapped.
    pub async fn create(store: &SharedStore, repository: &Id, to: &Recipients) -> Result<Self> {
        let (id, secret) = (random(), Zeroizing::new(random()));
        store_key(store, "catalogue", &id, &secret, to).await?;
        Ok(Self::new(id, secret, repository))
    }

    /// Opens the stored catalogue key.
    ///
    /// # Errors
    /// [`RepositoryError::Key`] if no identity at hand opens it.
    pub async fn open(store: &SharedStore, id: &Id, repository: &Id, plain: bool, identities: &Identities) -> Result<Self> {
        let secret = fetch_key(store, "catalogue", id, plain, identities).await?;
        Ok(Self::new(*id, secret, repository))
    }

    /// The id of a chunk: BLAKE3 of its plain bytes, keyed by class.
    pub fn chunk_id(&self, class: super::Class, plain: &[u8]) -> super::ChunkId {
        let key = match class {
            super::Class::Data => &self.data_chunk_ids,
            super::Class::Catalogue => &self.catalogue_chunk_ids,
        };
        super::ChunkId(*blake3::keyed_hash(key, plain).as_bytes())
    }

    /// What binds `repository.json` to this key: keyed BLAKE3.
    pub fn repository_seal(&self, fields: &[u8]) -> [u8; 32] {
        *blake3::keyed_hash(&self.repository_file, fields).as_bytes()
    }

    /// The key under which a new run seals its catalogue objects. `run` must be fresh.
    pub fn sealing_key(&self, run: &Id) -> SealingKey {
        SealingKey::new(&Zeroizing::new(derive(&self.secret, run, RUN_PURPOSE)))
    }

    /// The key that opens the catalogue objects of a run.
    pub fn opening_key(&self, run: &Id) -> Arc<OpeningKey> {
        let mut openers = self.openers.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let opener = openers.entry(*run).or_insert_with(|| {
            let key: Secret = Zeroizing::new(derive(&self.secret, run, RUN_PURPOSE));
            Arc::new(OpeningKey::new(&key))
        });
        Arc::clone(opener)
    }
}

/// Makes a run's data key and stores it wrapped to the readers.
///
/// # Errors
/// The store's, and [`RepositoryError::Key`].
pub async fn create_data_key(store: &SharedStore, to: &Recipients) -> Result<(Id, SealingKey)> {
    let (id, secret): (Id, Secret) = (random(), Zeroizing::new(random()));
    store_key(store, "data", &id, &secret, to).await?;
    Ok((id, SealingKey::new(&secret)))
}

/// The id of the data key that an object under `keys/` holds, if it is one.
pub fn data_key_id(object: &str, plain: bool) -> Option<Id> {
    let name = object.strip_prefix(KEYS)?.strip_prefix("data-")?;
    let mut id = Id::default();
    hex::decode_to_slice(name.strip_suffix(if plain { ".json" } else { ".age" })?, &mut id).ok()?;
    Some(id)
}

/// The name of the object that holds a data key.
pub fn data_key_object(id: &Id, plain: bool) -> String {
    key_object("data", id, plain)
}

/// Fetches and unwraps the data key of this id.
///
/// # Errors
/// [`RepositoryError::Key`] if it is missing or none of the identities opens it; the store's.
pub async fn fetch_data_key(store: &SharedStore, id: &Id, plain: bool, identities: &Identities) -> Result<Secret> {
    fetch_key(store, "data", id, plain, identities).await
}

/// The data keys of earlier runs, unwrapped when first needed.
#[derive(Debug)]
pub struct DataKeys {
    store: SharedStore,
    plain: bool,
    identities: Identities,
    open: tokio::sync::Mutex<HashMap<Id, Arc<OpeningKey>>>,
}

impl DataKeys {
    /// None opened yet.
    pub fn new(store: SharedStore, plain: bool, identities: Identities) -> Self {
        Self { store, plain, identities, open: tokio::sync::Mutex::default() }
    }

    /// The key of this id.
    ///
    /// # Errors
    /// [`RepositoryError::Key`] if it is missing or none of the identities opens it.
    pub async fn get(&self, id: &Id) -> Result<Arc<OpeningKey>> {
        // Held across the fetch on purpose: ten requests for one key fetch it once.
        let mut open = self.open.lock().await;
        if let Some(key) = open.get(id) {
            return Ok(Arc::clone(key));
        }
        let secret = fetch_key(&self.store, "data", id, self.plain, &self.identities).await?;
        let key = Arc::new(OpeningKey::new(&secret));
        open.extend(iter::once((*id, Arc::clone(&key))));
        Ok(key)
    }
}
