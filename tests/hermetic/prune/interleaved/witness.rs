//! Who looks over every prune's shoulder: what it deletes must be named, at that very moment, by a doom record that the site has had
//! for the whole grace. So nobody can begin to rely on it between the record's end and its own.

use chrono::TimeDelta;
use farshore::{
    repository::{LEAST_GRACE, Repository},
    stores::StoreError,
};

#[derive(Debug)]
pub(super) struct Witness {
    /// Reaches the site past the gate.
    pub(super) repository: Repository,
    /// Of all policies.
    pub(super) grace: TimeDelta,
    pub(super) seed: u64,
}

impl Witness {
    /// A prune deletes the object of this key now.
    pub(super) async fn sees_deleted(&self, key: &str) {
        let store = self.repository.store();
        if matches!(store.stat(key).await, Err(StoreError::NotFound { .. })) {
            // Another prune was faster, and may have done with the record, too.
            return;
        }
        let name = key.rsplit('/').next().unwrap_or_default();
        let data_key = key.strip_prefix("keys/data-").and_then(|rest| rest.get(..32));
        if !key.starts_with("packs/") && !key.starts_with("points/") && data_key.is_none() {
            return;
        }
        let now = store.time().await.unwrap();
        let mut named = Vec::new();
        for stored in self.repository.doom_records().await.unwrap() {
            let record = stored.record.unwrap();
            if record.packs.iter().any(|pack| pack == name)
                || record.points.iter().any(|point| point == key)
                || data_key.is_some_and(|id| record.keys.iter().any(|key| key == id))
            {
                named.push(now - stored.stored_at);
            }
        }
        let (seed, grace) = (self.seed, self.grace.max(LEAST_GRACE));
        assert!(named.iter().any(|age| *age >= grace), "seed {seed}: {key} is deleted, and records name it since {named:?}");
    }
}
