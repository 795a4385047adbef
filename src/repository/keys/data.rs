//! Data keys: one made for each run, and those of earlier runs opened when they are needed; keys of the log are opened alike.

use std::{collections::HashMap, sync::Arc};

use chrono::{DateTime, Utc};
use zeroize::Zeroizing;

use super::{
    Identities, Recipients, Secret, SetName, random,
    wrap::{KeyKind, WrapName, fetch_any, list_wraps, missing_is_damage, store_wrap},
};
use crate::{
    repository::{
        RepositoryError,
        error::Result,
        format::{Id, KEYS},
        seal::{OpeningKey, SealingKey},
    },
    stores::{SharedStore, StoreError},
};

/// Makes a run's data key and stores it wrapped to the readers of the recipient set `set`; returns also when that was, by the site's
/// clock.
///
/// # Errors
/// The store's, and [`RepositoryError::Key`].
pub async fn create_data_key(store: &SharedStore, to: &Recipients, set: SetName) -> Result<(Id, SealingKey, DateTime<Utc>)> {
    let (id, secret): (Id, Secret) = (random(), Zeroizing::new(random()));
    let plain = matches!(to, Recipients::Nobody);
    let stored_at = store_wrap(store, &WrapName { kind: KeyKind::Data, id, set, plain }, &secret, to).await?;
    Ok((id, SealingKey::new(&secret), stored_at))
}

/// The id of the data key that an object under `keys/` holds, if it is one. Several objects may hold one key, each wrapped for
/// another recipient set.
pub fn data_key_id(object: &str, plain: bool) -> Option<Id> {
    let name = WrapName::parse(object)?;
    (name.kind == KeyKind::Data && name.plain == plain).then_some(name.id)
}

/// The name of the object that holds a data key as the first recipient set has it.
pub fn data_key_object(id: &Id, plain: bool) -> String {
    WrapName { kind: KeyKind::Data, id: *id, set: SetName::FIRST, plain }.to_string()
}

/// The data keys of earlier runs, unwrapped when first needed.
#[derive(Debug)]
pub struct DataKeys {
    store: SharedStore,
    kind: KeyKind,
    plain: bool,
    identities: Identities,
    state: tokio::sync::Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    open: HashMap<Id, Arc<OpeningKey>>,
    /// What wraps there are, the newest of each key first; nothing before they were listed.
    wraps: Option<HashMap<Id, Vec<WrapName>>>,
}

impl DataKeys {
    /// None opened yet.
    pub fn new(store: SharedStore, plain: bool, identities: Identities) -> Self {
        Self { store, kind: KeyKind::Data, plain, identities, state: tokio::sync::Mutex::default() }
    }

    /// The same for keys of the log.
    pub fn of_log(store: SharedStore, plain: bool, identities: Identities) -> Self {
        Self { kind: KeyKind::Log, ..Self::new(store, plain, identities) }
    }

    async fn list(&self) -> Result<HashMap<Id, Vec<WrapName>>> {
        let mut by_id: HashMap<Id, Vec<WrapName>> = HashMap::new();
        for wrap in list_wraps(&self.store, &format!("{KEYS}{}-", self.kind.word()), self.plain).await? {
            by_id.entry(wrap.id).or_default().push(wrap);
        }
        Ok(by_id)
    }

    /// The wraps of a key; where there is none, the name that says what is missing.
    fn wraps_of(&self, listed: &HashMap<Id, Vec<WrapName>>, id: &Id) -> Vec<WrapName> {
        let missing = || vec![WrapName { kind: self.kind, id: *id, set: SetName::FIRST, plain: self.plain }];
        listed.get(id).cloned().unwrap_or_else(missing)
    }

    /// The key of this id.
    ///
    /// # Errors
    /// [`RepositoryError::Key`] if none of the identities opens it;
    /// [`RepositoryError::Damaged`], also if it is missing; the store's.
    pub async fn get(&self, id: &Id) -> Result<Arc<OpeningKey>> {
        // Held across the fetch on purpose: ten requests for one key fetch it once.
        let mut state = self.state.lock().await;
        if let Some(key) = state.open.get(id) {
            return Ok(Arc::clone(key));
        }
        let listed = match state.wraps.take() {
            Some(listed) => listed,
            None => self.list().await?,
        };
        let known = self.wraps_of(&listed, id);
        let mut fetched = fetch_any(&self.store, &known, &self.identities).await;
        state.wraps = Some(listed);
        let others = |error: &RepositoryError| {
            matches!(error, RepositoryError::Key { .. } | RepositoryError::Store(StoreError::NotFound { .. }))
        };
        if fetched.as_ref().err().is_some_and(others) {
            // A rotation may have stored a newer wrap and taken the older one away since they were listed.
            let listed = self.list().await?;
            let now = self.wraps_of(&listed, id);
            state.wraps = Some(listed);
            if now != known {
                fetched = fetch_any(&self.store, &now, &self.identities).await;
            }
        }
        let secret = fetched.map_err(missing_is_damage)?;
        let key = Arc::new(OpeningKey::new(&secret));
        state.open.insert(*id, Arc::clone(&key));
        Ok(key)
    }
}
