//! The end of a run: a last look at what it relies on, and the point.

use std::{collections::HashSet, sync::Arc};

use chrono::{DateTime, TimeDelta, Utc};

use super::Writer;
use crate::repository::{
    Dooms, MarkState, Point, PointName, Repository, RepositoryError, error::Result, lock::Relied, may_commit, point,
    structure::list_packs, was_in_time, workers::off_thread,
};

impl Writer {
    /// Flushes, looks once more whether all that the point relies on will stay, then stores the point: the commit.
    ///
    /// # Errors
    /// The first error of the run, or the store's; [`RepositoryError::Refused`] for a run that took so long that prune may delete
    /// what it relies on.
    pub async fn commit(&self, repository: &Repository, point: &Point) -> Result<PointName> {
        self.flush().await?;
        self.shared.all_stored()?;
        let found = std::mem::take(&mut *self.shared.found.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
        let own = std::mem::take(&mut *self.shared.own.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
        let (cache, numbers) = (Arc::clone(&self.shared.cache), found.clone());
        let packs: HashSet<[u8; 32]> = off_thread(move || {
            let found = numbers.iter().map(|number| cache.pack(*number).map(|record| record.sha256));
            found.chain(own.into_iter().map(Ok)).collect()
        })
        .await?;
        let relied = Relied { packs: found, data_key: self.shared.data_key, recipient_set: self.shared.recipient_set };
        let extended = repository.cover(&self.shared.cache, relied).await?;
        tracing::debug!(extended, "locks were extended");
        let clock = &repository.clock;
        let (looked, start) = (clock.now(), clock.monotonic());
        let deadline = self.deadline(repository, &packs).await?;
        if !may_commit(clock.now(), deadline) {
            return Err(RepositoryError::Refused {
                subject: repository.store.describe(),
                detail: "a prune doomed what this backup relies on, and may delete it soon: no point was made. The backup took longer than retention.grace allows: run it again (what it stored and is not doomed is used), and give the policy a longer grace if this happens again".to_owned(),
            });
        }
        let (name, stored_at) = point::commit(repository, &self.shared.run, &self.shared.catalogue_sealing, point).await?;
        // By whichever clock shows more: one may have been set back, the other stands still while a machine sleeps.
        let waited =
            TimeDelta::from_std(clock.monotonic().saturating_sub(start)).unwrap_or(TimeDelta::MAX).max(clock.now() - looked);
        if !was_in_time(stored_at, stored_at - waited, deadline) {
            self.look_again(repository, &packs, &name, stored_at).await?;
        }
        let cache = Arc::clone(&self.shared.cache);
        // Only the next run's speed hangs on it.
        if let Err(error) = tokio::task::spawn_blocking(move || cache.persist()).await.unwrap_or(Ok(())) {
            tracing::warn!(%error, "the local index was not saved; the next run rebuilds it");
        }
        Ok(name)
    }

    /// When the earliest doom record matures that names something this run relies on.
    async fn deadline(&self, repository: &Repository, packs: &HashSet<[u8; 32]>) -> Result<Option<DateTime<Utc>>> {
        let dooms = Dooms::of(&repository.doom_records().await?);
        Ok(packs.iter().filter_map(|pack| dooms.pack(pack)).chain(dooms.key(&self.shared.data_key)).min())
    }

    /// After a commit that came so late (a machine that slept in between) that a prune may not have seen it: holds everything
    /// against what is there. A point with a hole is taken back.
    async fn look_again(
        &self,
        repository: &Repository,
        packs: &HashSet<[u8; 32]>,
        name: &PointName,
        stored_at: DateTime<Utc>,
    ) -> Result<()> {
        let deadline = self.deadline(repository, packs).await?;
        let there = list_packs(repository).await?;
        let whole = packs.iter().all(|pack| there.contains_key(pack));
        if whole && deadline.is_none_or(|deadline| stored_at < deadline) {
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
}
