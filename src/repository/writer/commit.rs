//! The end of a run: a last look at what it relies on, and the point.

use std::{collections::HashSet, sync::Arc};

use chrono::{DateTime, TimeDelta, Utc};

use super::Writer;
use crate::repository::{
    Class, Dooms, MarkState, Point, PointName, Repository, RepositoryError, error::Result, format::Id, lock::Relied, may_commit,
    must_look_at_packs, point, structure::list_packs, was_in_time, workers::off_thread,
};

/// Everything that must stay where it is for a point to be whole.
struct Needs {
    packs: HashSet<[u8; 32]>,
    keys: HashSet<Id>,
}

impl Writer {
    /// Flushes, looks once more whether all that the point relies on is there and will stay, then stores the point: the commit.
    ///
    /// # Errors
    /// The first error of the run, or the store's; [`RepositoryError::Refused`] for a run that took so long that prune may delete
    /// what it relies on, or did.
    pub async fn commit(&self, repository: &Repository, point: &Point) -> Result<PointName> {
        self.flush().await?;
        self.shared.all_stored()?;
        let found = std::mem::take(&mut *self.shared.found.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
        let needs = self.needs(found.clone()).await?;
        let relied = Relied { packs: found, data_key: self.shared.data_key, recipient_set: self.shared.recipient_set };
        let extended = repository.cover(&self.shared.cache, relied).await?;
        tracing::debug!(extended, "locks were extended");
        let (clock, began) = (&repository.clock, &self.shared.began);
        let (looked, start) = (clock.now(), clock.monotonic());
        let deadline = deadline(repository, &needs).await?;
        if !may_commit(clock.now(), deadline) {
            return Err(too_late(repository, "a prune doomed what this backup relies on, and may delete it soon"));
        }
        // By whichever clock shows more: one may have been set back, the other stands still while a machine sleeps.
        let since = |at: DateTime<Utc>, monotonic| {
            TimeDelta::from_std(clock.monotonic().saturating_sub(monotonic)).unwrap_or(TimeDelta::MAX).max(clock.now() - at)
        };
        let checked = must_look_at_packs(since(began.at, began.monotonic));
        if checked && !needs.are_there(repository).await? {
            return Err(too_late(repository, "a prune deleted what this backup relies on while it ran"));
        }
        let (name, stored_at) = point::commit(repository, &self.shared.run, &self.shared.catalogue_sealing, point).await?;
        let waited = since(looked, start);
        let slept = !checked && must_look_at_packs(stored_at - began.site_at);
        if slept || !was_in_time(stored_at, stored_at - waited, deadline) {
            look_again(repository, &needs, &name, stored_at).await?;
        }
        let cache = Arc::clone(&self.shared.cache);
        // Only the next run's speed hangs on it.
        if let Err(error) = tokio::task::spawn_blocking(move || cache.persist()).await.unwrap_or(Ok(())) {
            tracing::warn!(%error, "the local index was not saved; the next run rebuilds it");
        }
        Ok(name)
    }

    /// What this run adopted (packs by their numbers in the local index) and what it stored.
    async fn needs(&self, found: HashSet<u32>) -> Result<Needs> {
        let own = std::mem::take(&mut *self.shared.own.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
        let (cache, data_key) = (Arc::clone(&self.shared.cache), self.shared.data_key);
        off_thread(move || {
            let mut needs = Needs { packs: own.into_iter().collect(), keys: HashSet::from([data_key]) };
            for number in found {
                let record = cache.pack(number)?;
                needs.packs.insert(record.sha256);
                if record.class == Class::Data {
                    needs.keys.insert(record.data_key);
                }
            }
            Ok(needs)
        })
        .await
    }
}

impl Needs {
    async fn are_there(&self, repository: &Repository) -> Result<bool> {
        let (packs, keys) = (list_packs(repository).await?, repository.stored_data_keys().await?);
        Ok(self.packs.iter().all(|pack| packs.contains_key(pack)) && self.keys.iter().all(|key| keys.contains_key(key)))
    }
}

fn too_late(repository: &Repository, why: &str) -> RepositoryError {
    RepositoryError::Refused {
        subject: repository.store.describe(),
        detail: format!(
            "{why}: no point was made. The backup took longer than retention.grace allows: run it again (what it stored and is not doomed is used), and give the policy a longer grace if this happens again"
        ),
    }
}

/// When the earliest doom record matures that names something of this.
async fn deadline(repository: &Repository, needs: &Needs) -> Result<Option<DateTime<Utc>>> {
    let dooms = Dooms::of(&repository.doom_records().await?);
    let packs = needs.packs.iter().filter_map(|pack| dooms.pack(pack));
    Ok(packs.chain(needs.keys.iter().filter_map(|key| dooms.key(key))).min())
}

/// After a commit that came so late (a machine that slept in between) that a prune may not have seen it: holds everything against
/// what is there. A point with a hole is taken back.
async fn look_again(repository: &Repository, needs: &Needs, name: &PointName, stored_at: DateTime<Utc>) -> Result<()> {
    let deadline = deadline(repository, needs).await?;
    if needs.are_there(repository).await? && deadline.is_none_or(|deadline| stored_at < deadline) {
        return Ok(());
    }
    let lateness = "was committed when a prune may have begun to delete what it relies on";
    let withdrawn = match repository.store.delete(&name.key).await {
        Ok(()) => "it was taken back",
        Err(_) => {
            repository.put_mark(&name.key, MarkState::Damaged, lateness).await?;
            "it is marked as damaged, and counts for nothing"
        }
    };
    Err(RepositoryError::Refused {
        subject: format!("point {}", name.id),
        detail: format!("{lateness} (was this machine asleep?): {withdrawn}; run the backup again"),
    })
}
