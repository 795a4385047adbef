//! The end of a run: a last look at what it relies on, and the point.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use chrono::{DateTime, Utc};

use super::Writer;
use crate::{
    clock::Moment,
    repository::{
        Class, Dooms, Id, MarkState, Point, PointName, Repository, RepositoryError,
        error::Result,
        lock::Relied,
        may_commit, must_look_whole, point,
        structure::{list_data_keys, list_packs},
        was_in_time,
        workers::off_thread,
    },
};

/// What must stay for the sake of a point.
struct Needs {
    packs: HashSet<[u8; 32]>,
    data_keys: HashSet<Id>,
}

impl Writer {
    /// Flushes, looks once more whether all that the point relies on will stay, then stores the point: the commit.
    /// `storing` is set right before the site is asked to: from then on the point may be there, and who gives this call up
    /// keeps it from being taken back.
    ///
    /// # Errors
    /// The first error of the run, or the store's; [`RepositoryError::Refused`] for a run that took so long that prune may delete
    /// what it relies on.
    pub async fn commit(&self, repository: &Repository, point: &Point, storing: &AtomicBool) -> Result<PointName> {
        self.settle().await?;
        let found = std::mem::take(&mut *self.shared.found.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
        let own = std::mem::take(&mut *self.shared.own.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
        let (cache, numbers) = (Arc::clone(&self.shared.cache), found.clone());
        let data_key = self.shared.data_key;
        let needs = off_thread(move || {
            let mut needs = Needs { packs: own.into_iter().collect(), data_keys: HashSet::from([data_key]) };
            for number in &numbers {
                let record = cache.pack(*number)?;
                needs.packs.insert(record.sha256);
                if record.class == Class::Data {
                    needs.data_keys.insert(record.data_key);
                }
            }
            Ok(needs)
        })
        .await?;
        let relied = Relied { packs: found, data_key: self.shared.data_key, recipient_set: self.shared.recipient_set };
        let extended = repository.cover(&self.shared.cache, relied).await?;
        tracing::debug!(extended, "locks were extended");
        // What is in it is at the site. Only the next run's speed hangs on it, so that this one goes on meanwhile.
        let cache = Arc::clone(&self.shared.cache);
        let saved = tokio::task::spawn_blocking(move || {
            if let Err(error) = cache.persist() {
                tracing::warn!(%error, "the local index was not saved; the next run rebuilds it");
            }
        });
        let clock = &repository.clock;
        let looked = Moment::now(clock);
        let deadline = needs.deadline(repository).await?;
        // Measured after the look: what it may not show any more is what was doomed, deleted and done with before it ended.
        let is_long = must_look_whole(self.shared.begun.since(clock));
        let is_whole = !is_long || needs.are_there(repository).await?;
        if !is_whole || !may_commit(clock.now(), deadline) {
            return Err(RepositoryError::Refused {
                subject: repository.store.describe(),
                detail: "a prune doomed what this backup relies on, and may delete it soon or has done so: no point was made. The backup took longer than retention.grace allows: run it again (what it stored and is not doomed is used), and give the policy a longer grace if this happens again".to_owned(),
            });
        }
        storing.store(true, Ordering::Relaxed);
        let (name, stored_at) = point::commit(repository, &self.shared.run, &self.shared.catalogue_sealing, point).await?;
        // Both clocks of this machine may have stood still; the site's did not. And a site may date an object by when its bytes came, and
        // show it later (a directory does: the time of the write, not of the renaming).
        let committed = stored_at.max(self.shared.begun_at_site + self.shared.begun.since(clock));
        let was_long = !is_long && must_look_whole(committed - self.shared.begun_at_site);
        if was_long || !was_in_time(committed, committed - looked.since(clock), deadline) {
            look_again(repository, &needs, &name, committed).await?;
        }
        // A defect in there is logged by whoever catches panics, and costs the next run its time.
        let _ = saved.await;
        Ok(name)
    }
}

impl Needs {
    /// When the earliest doom record matures that names any of it.
    async fn deadline(&self, repository: &Repository) -> Result<Option<DateTime<Utc>>> {
        let dooms = Dooms::of(&repository.doom_records().await?);
        let packs = self.packs.iter().filter_map(|pack| dooms.pack(pack));
        Ok(packs.chain(self.data_keys.iter().filter_map(|key| dooms.key(key))).min())
    }

    /// Whether the site has all of it. Packs first: a key goes after the packs that need it.
    async fn are_there(&self, repository: &Repository) -> Result<bool> {
        let packs = list_packs(repository).await?;
        let keys = list_data_keys(repository).await?;
        Ok(self.packs.iter().all(|pack| packs.contains_key(pack)) && self.data_keys.iter().all(|key| keys.contains_key(key)))
    }
}

/// After a commit that came so late (a machine that slept in between) that a prune may not have seen it: holds everything
/// against what is there. A point with a hole is taken back.
async fn look_again(repository: &Repository, needs: &Needs, name: &PointName, committed: DateTime<Utc>) -> Result<()> {
    // The records first: one that is gone by now was carried out before.
    let deadline = needs.deadline(repository).await?;
    let is_whole = needs.are_there(repository).await?;
    if is_whole && was_in_time(committed, committed, deadline) {
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
