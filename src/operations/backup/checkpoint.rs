//! From time to time a run stores what it has captured so far as a [`Part`], so that the next one, should this one end early, need not
//! read it again.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::site::Site;
use crate::{
    clock::SharedClock,
    repository::{EntryStream, Part, RepositoryError, Snapshot},
};

/// How long a run goes on before it stores what it has: as much work is lost at most. It waits then for the site to confirm
/// what is under way, for some seconds.
pub const CHECKPOINT_EVERY: Duration = Duration::from_secs(120);

/// Kinds of sources whose entries can be told to be unchanged one by one.
fn resumes(kind: &str) -> bool {
    matches!(kind, "bucket" | "files")
}

/// Whose entries they are.
#[derive(Debug, Clone)]
pub(super) struct Subject {
    pub(super) policy: String,
    pub(super) source: String,
    pub(super) kind: String,
    pub(super) description: String,
}

/// The parts of one source of a run.
pub(super) struct Checkpoints {
    subject: Subject,
    every: Duration,
    clock: SharedClock,
    /// What the sites had been sent when the source began.
    fresh_before: u64,
    last: Mutex<Last>,
}

/// The last part, or the beginning.
#[derive(Debug, Clone, Copy)]
struct Last {
    at: Duration,
    /// Since then.
    entries: u64,
}

impl Checkpoints {
    /// For a source; nothing for one of which a part is of no use.
    pub(super) fn of(subject: Subject, every: Duration, clock: &SharedClock, sites: &[Site<'_>]) -> Option<Self> {
        let last = Mutex::new(Last { at: clock.monotonic(), entries: 0 });
        let of_it = |subject| Self { subject, every, clock: clock.clone(), fresh_before: fresh(sites), last };
        resumes(&subject.kind).then(|| of_it(subject))
    }

    /// One more entry: whether there is something worth storing, and it is time.
    pub(super) fn is_due_after_one_more(&self, sites: &[Site<'_>]) -> bool {
        let mut last = self.last();
        last.entries += 1;
        let is_time = self.clock.monotonic().saturating_sub(last.at) >= self.every;
        drop(last);
        is_time && self.is_worth_it(sites)
    }

    /// Whether there is anything new of this source, and anything since the last part.
    pub(super) fn is_worth_it(&self, sites: &[Site<'_>]) -> bool {
        self.last().entries > 0 && fresh(sites) > self.fresh_before
    }

    fn last(&self) -> MutexGuard<'_, Last> {
        // Two numbers, each of them whole.
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stores at each site what it has. A site that fails at that is left to fail, or not, by what the run itself asks of it.
    pub(super) async fn store(&self, sites: &[Site<'_>], entries: &[EntryStream]) {
        for (site, entries) in sites.iter().zip(entries).filter(|(site, _)| site.is_living()) {
            match self.store_at(site, entries).await {
                Ok(key) => tracing::debug!(key, "what was read so far is stored"),
                Err(error) => {
                    tracing::warn!(%error, "what was read so far could not be stored; should this run end early, it is read again")
                }
            }
        }
        *self.last() = Last { at: self.clock.monotonic(), entries: 0 };
    }

    async fn store_at(&self, site: &Site<'_>, entries: &EntryStream) -> Result<String, RepositoryError> {
        let (list, entry_count, content_bytes) = entries.so_far().await?;
        site.writer.flush().await?;
        let Subject { policy, source, kind, description } = self.subject.clone();
        let mut snapshots = site.finished();
        snapshots.push(Snapshot {
            source,
            kind,
            description,
            consistent_at: None,
            entries: list,
            entry_count,
            content_bytes,
            facts: serde_json::Value::Null,
            problems: Vec::new(),
            measures: None,
        });
        let repository = site.destination.repository;
        let (run, at) = (site.run.clone(), site.next_part_at(self.clock.now()));
        repository.put_part(&Part { policy, run, at, snapshots, shard: site.shard.clone() }).await
    }
}

/// Plain bytes so far that sites did not have.
fn fresh(sites: &[Site<'_>]) -> u64 {
    sites.iter().map(|site| site.writer.summary().bytes_new).sum()
}

/// Whether what a source gave is worth keeping for a run that comes after this one.
pub(super) fn is_worth_keeping(snapshot: &Snapshot) -> bool {
    resumes(&snapshot.kind)
}
