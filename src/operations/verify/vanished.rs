//! What a prune took away while a verification was at work: no damage, for nothing that is there needs it.
//!
//! Looked at once more, and only where something was found: which points there are, and which packs indexes name. A prune lets an
//! index go before the packs it names, and a key after the last pack under it. So a pack that is missing and that an index still
//! names is missing, whoever took it.

use std::collections::{BTreeMap, HashSet};

use super::{OperationError, walk::Walk};
use crate::{
    progress::Tally,
    repository::{Class, Id, PointName, data_key_id},
};

impl Walk<'_> {
    /// Drops what was found of points, packs and keys that are not there any more and that nothing needs. A point that could not be
    /// followed is followed once more: its lists may lie elsewhere by now. Points of which something was moved to packs that this
    /// verification has not read do not count as read.
    ///
    /// # Errors
    /// The store's.
    pub(super) async fn pass_over_what_vanished(&mut self, tally: &Tally) -> Result<(), OperationError> {
        if self.damage.is_empty() && self.broken.is_empty() && self.keys.is_empty() {
            return Ok(());
        }
        let repository = self.request.repository;
        // In the order in which they go, so that whatever goes now is known to be wanted by nobody.
        let cache = repository.chunks().await?;
        let named = cache.packs()?;
        let packs: HashSet<[u8; 32]> = named.iter().map(|(_, record)| record.sha256).collect();
        let needed: HashSet<Id> =
            named.iter().filter(|(_, record)| record.class == Class::Data).map(|(_, record)| record.data_key).collect();
        let keys = repository.stored_data_keys().await?;
        let points: BTreeMap<String, PointName> =
            repository.point_names(None).await?.into_iter().map(|name| (name.key.clone(), name)).collect();
        for (number, object) in self.objects.clone().into_iter().enumerate() {
            let before = self.damage.len();
            let Some(name) = points.get(&object) else {
                tracing::debug!(object, "a prune deleted the point while it was verified");
                self.vanished.insert(number);
                continue;
            };
            self.damage.retain(|damage| damage.object != object);
            if self.damage.len() < before {
                self.follow_by_name(name, number, tally).await?;
                if self.sound.contains(number) {
                    self.moved.insert(number);
                }
            }
        }
        for needing in self.needs.points_mut() {
            needing.remove_all(&self.vanished);
        }
        let is_withdrawn = |number: &&u32| self.packs.get(number).is_some_and(|record| !packs.contains(&record.sha256));
        let withdrawn: Vec<u32> = self.broken.keys().filter(is_withdrawn).copied().collect();
        for number in withdrawn {
            self.broken.remove(&number);
            if let Some(needing) = self.needs.take(number) {
                self.moved.add_all(&needing);
            }
        }
        let key_is_gone = |id: &Id| !needed.contains(id) && !keys.contains_key(id);
        self.keys.retain(|id, _| !key_is_gone(id));
        let plain = repository.is_unencrypted();
        self.damage.retain(|damage| match damage.object.split('/').next() {
            Some("points") => points.contains_key(&damage.object),
            Some("keys") => !data_key_id(&damage.object, plain).is_some_and(|id| key_is_gone(&id)),
            _ => true,
        });
        Ok(())
    }
}
