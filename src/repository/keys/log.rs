//! Keys of a database's log: one for each process that stores it, for a day at most. They are opened as data keys are.
//!
//! A key in the header of each file could never be wrapped for others, since what is stored is never changed; so they lie where all
//! keys lie, and rotation finds them (`docs/decisions/0026-log-keys-lie-with-the-other-keys.md`).

use chrono::{DateTime, Utc};
use zeroize::Zeroizing;

use super::{
    Recipients, Secret, SetName, random,
    wrap::{KeyKind, WrapName, store_wrap},
};
use crate::{
    repository::{error::Result, format::Id, seal::SealingKey},
    stores::SharedStore,
};

/// Makes a key of the log and stores it wrapped to the readers of the recipient set `set`; returns also when that was, by the site's
/// clock.
///
/// # Errors
/// The store's, and [`RepositoryError::Key`](crate::repository::RepositoryError::Key).
pub async fn create_log_key(store: &SharedStore, to: &Recipients, set: SetName) -> Result<(Id, SealingKey, DateTime<Utc>)> {
    let (id, secret): (Id, Secret) = (random(), Zeroizing::new(random()));
    let plain = matches!(to, Recipients::Nobody);
    let stored_at = store_wrap(store, &WrapName { kind: KeyKind::Log, id, set, plain }, &secret, to).await?;
    Ok((id, SealingKey::new(&secret), stored_at))
}

/// The id of the log's key that an object under `keys/` holds, if it is one.
pub fn log_key_id(object: &str, plain: bool) -> Option<Id> {
    let name = WrapName::parse(object)?;
    (name.kind == KeyKind::Log && name.plain == plain).then_some(name.id)
}
