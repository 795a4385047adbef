//! The catalogue key, opened, and everything that is derived from it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use zeroize::Zeroizing;

use super::{
    Identities, Recipients, Secret, SetName, random,
    wrap::{KeyKind, WrapName, fetch_any, list_wraps, missing_is_damage, store_wrap},
};
use crate::{
    repository::{
        ChunkId, Class,
        error::Result,
        format::{Id, KEYS},
        seal::{OpeningKey, SealingKey, derive},
    },
    stores::SharedStore,
};

/// The catalogue key, opened, and what is derived from it.
pub struct Catalogue {
    /// Its name.
    pub id: Id,
    secret: Secret,
    data_chunk_ids: Secret,
    catalogue_chunk_ids: Secret,
    repository_file: Secret,
    log_ids: Secret,
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
    pub fn new(id: Id, secret: Secret, repository: &Id) -> Self {
        let data_chunk_ids = Zeroizing::new(derive(&secret, repository, "farshore 1 data chunk id"));
        let catalogue_chunk_ids = Zeroizing::new(derive(&secret, repository, "farshore 1 catalogue chunk id"));
        let repository_file = Zeroizing::new(derive(&secret, repository, "farshore 1 repository file"));
        let log_ids = Zeroizing::new(derive(&secret, repository, "farshore 1 log id"));
        let cut_seed = u64::from_le_bytes(derive(&secret, repository, "farshore 1 cut seed"));
        Self { id, secret, data_chunk_ids, catalogue_chunk_ids, repository_file, log_ids, cut_seed, openers: Mutex::default() }
    }

    /// Makes a new catalogue key and stores it wrapped.
    ///
    /// # Errors
    /// The store's, and [`RepositoryError::Key`](crate::repository::RepositoryError::Key) if it cannot be wrapped.
    pub async fn create(store: &SharedStore, repository: &Id, to: &Recipients) -> Result<Self> {
        let (id, secret) = (random(), Zeroizing::new(random()));
        let name = WrapName { kind: KeyKind::Catalogue, id, set: SetName::FIRST, plain: matches!(to, Recipients::Nobody) };
        store_wrap(store, &name, &secret, to).await?;
        Ok(Self::new(id, secret, repository))
    }

    /// Opens the stored catalogue key, by the newest of its wraps that opens.
    ///
    /// # Errors
    /// [`RepositoryError::Key`](crate::repository::RepositoryError::Key) if no identity at hand opens it.
    pub async fn open(store: &SharedStore, id: &Id, repository: &Id, plain: bool, identities: &Identities) -> Result<Self> {
        let mut wraps = list_wraps(store, &format!("{KEYS}catalogue-{}.", hex::encode(id)), plain).await?;
        if wraps.is_empty() {
            // Its name says what is missing.
            wraps.push(WrapName { kind: KeyKind::Catalogue, id: *id, set: SetName::FIRST, plain });
        }
        let secret = fetch_any(store, &wraps, identities).await.map_err(missing_is_damage)?;
        Ok(Self::new(*id, secret, repository))
    }

    /// The key itself, to be wrapped anew.
    pub(super) fn secret(&self) -> &Secret {
        &self.secret
    }

    /// The id of a chunk: BLAKE3 of its plain bytes, keyed by class.
    pub fn chunk_id(&self, class: Class, plain: &[u8]) -> ChunkId {
        let key = match class {
            Class::Data => &self.data_chunk_ids,
            Class::Catalogue => &self.catalogue_chunk_ids,
        };
        ChunkId(*blake3::keyed_hash(key, plain).as_bytes())
    }

    /// What binds `repository.json` to this key: keyed BLAKE3.
    pub fn repository_seal(&self, fields: &[u8]) -> [u8; 32] {
        *blake3::keyed_hash(&self.repository_file, fields).as_bytes()
    }

    /// What tells whether two files of a log hold the same bytes: keyed BLAKE3 of them.
    pub fn log_id(&self, plain: &[u8]) -> [u8; 32] {
        *blake3::keyed_hash(&self.log_ids, plain).as_bytes()
    }

    /// For [`Self::log_id`] of what comes in pieces.
    pub fn log_hasher(&self) -> blake3::Hasher {
        blake3::Hasher::new_keyed(&self.log_ids)
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
