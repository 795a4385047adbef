//! Packs that a restore needs and that lie in an archive: how many there are, how long they take, and how they are brought back.
//!
//! Promises:
//! * What lies in an archive is known from the listing that every opening of a repository makes, and looked at one by one before anything is asked
//!   for: what was brought back already costs nothing.
//! * Nothing is brought back that nobody said yes to ([`RestoreRequest::retrieval`]): it costs money.
//! * Everything is asked for before anything is waited for; lists of entries first, since only they tell what data is needed.
//! * What was asked for stays asked for: whoever is interrupted runs the restore again.

use std::{collections::BTreeSet, time::Duration};

use futures_util::{StreamExt, stream};
use serde::Serialize;

use super::{OperationError, RestoreRequest, exchange::lies_below};
use crate::{
    progress::Observer,
    repository::{ArchivedPack, Reader, Repository},
    stores::{Archive, Availability, Retrieval, RetrievalPriority, SharedStore, StoreError},
};

/// Packs that are still on their way before a look around ends: those asked for later come later.
const LOOKED_AT_IN_VAIN: usize = 32;
/// First pause between two looks; each is twice the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// Longest pause between two looks.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// What lies in an archive of what a restore needs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct InArchive {
    /// Packs that cannot be read now.
    pub packs: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Those of them that were asked for and are on their way.
    pub coming: u64,
    /// Whether lists are among them, so that only those tell what data is needed: then all data in the archive is counted, whoever needs it.
    pub is_most: bool,
    /// The longest that it typically takes by each priority, in seconds. Lists come first: the time counts twice where `is_most`.
    pub bulk_seconds: u64,
    /// Likewise.
    pub standard_seconds: u64,
    /// Likewise.
    pub high_seconds: u64,
}

impl InArchive {
    fn add(&mut self, pack: &ArchivedPack, archive: Archive, is_coming: bool) {
        self.packs += 1;
        self.bytes += u64::from(pack.size);
        self.coming += u64::from(is_coming);
        let longer = |seconds: &mut u64, priority| *seconds = (*seconds).max(archive.takes(priority).as_secs());
        longer(&mut self.bulk_seconds, RetrievalPriority::Bulk);
        longer(&mut self.standard_seconds, RetrievalPriority::Standard);
        longer(&mut self.high_seconds, RetrievalPriority::High);
    }

    fn join(&mut self, other: &Self) {
        self.packs += other.packs;
        self.bytes += other.bytes;
        self.coming += other.coming;
        self.bulk_seconds = self.bulk_seconds.max(other.bulk_seconds);
        self.standard_seconds = self.standard_seconds.max(other.standard_seconds);
        self.high_seconds = self.high_seconds.max(other.high_seconds);
    }

    /// As a sentence: how much, and how long it typically takes.
    pub fn describe(&self) -> String {
        let time = |priority| in_words(self.takes(priority));
        format!(
            "{}{} packs of {} bytes lie in an archive, {} of them on their way. Bringing them back typically takes up to {}, with `--rehydrate=high` {}, with `--rehydrate=bulk` {}",
            if self.is_most { "at most " } else { "" },
            self.packs,
            self.bytes,
            self.coming,
            time(RetrievalPriority::Standard),
            time(RetrievalPriority::High),
            time(RetrievalPriority::Bulk),
        )
    }

    /// Why a restore that needs it does not begin.
    pub fn refusal(&self, site: String) -> OperationError {
        let detail = format!(
            "{}. Nothing was written: run the restore with --rehydrate, which brings back what it needs and waits for it; that costs what the provider takes for it",
            self.describe()
        );
        OperationError::Refused { subject: site, detail }
    }

    /// The longest that it typically takes, by a priority.
    pub fn takes(&self, priority: RetrievalPriority) -> Duration {
        let seconds = match priority {
            RetrievalPriority::Bulk => self.bulk_seconds,
            RetrievalPriority::Standard => self.standard_seconds,
            RetrievalPriority::High => self.high_seconds,
        };
        Duration::from_secs(if self.is_most { 2 * seconds } else { seconds })
    }
}

/// Minutes up to an hour, else hours.
fn in_words(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..3600 => format!("{} minutes", seconds.div_ceil(60)),
        seconds => format!("{} h", seconds.div_ceil(3600)),
    }
}

/// What is in an archive of some packs, whose listed class is one of an archive.
async fn look(store: &SharedStore, packs: &BTreeSet<ArchivedPack>) -> Result<InArchive, StoreError> {
    let mut found = InArchive::default();
    let mut states = stream::iter(packs)
        .map(|pack| async move { (pack, store.availability(&pack.key, None).await) })
        .buffered(store.requests().max(1));
    while let Some((pack, state)) = states.next().await {
        match state {
            Ok(Availability::Readable) => {}
            Ok(Availability::Coming(archive)) => found.add(pack, archive, true),
            Ok(Availability::Archived(archive)) => found.add(pack, archive, false),
            // That it is gone is for the reading to say.
            Err(StoreError::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// Asks for packs, and waits until all of them can be read.
async fn bring_back(
    store: &SharedStore,
    packs: BTreeSet<ArchivedPack>,
    how: Retrieval,
    observer: &dyn Observer,
) -> Result<(), StoreError> {
    let total = packs.iter().map(|pack| u64::from(pack.size)).sum();
    observer.phase("retrieval", Some(total));
    let mut coming = Vec::new();
    let mut asked = stream::iter(packs)
        .map(|pack| async move {
            let state = store.bring_back(&pack.key, None, how).await;
            (pack, state)
        })
        .buffered(store.requests().max(1));
    while let Some((pack, state)) = asked.next().await {
        match state {
            Ok(Availability::Readable) | Err(StoreError::NotFound { .. }) => observer.bytes(u64::from(pack.size)),
            Ok(Availability::Coming(_) | Availability::Archived(_)) => coming.push(pack),
            Err(error) => return Err(error),
        }
    }
    drop(asked);
    let mut pause = FIRST_PAUSE;
    while !coming.is_empty() {
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
        coming = still_coming(store, coming, how, observer).await?;
    }
    Ok(())
}

/// Looks at packs in the order in which they were asked for, until so many were met that are not there yet; returns what is still to come.
async fn still_coming(
    store: &SharedStore,
    packs: Vec<ArchivedPack>,
    how: Retrieval,
    observer: &dyn Observer,
) -> Result<Vec<ArchivedPack>, StoreError> {
    let mut waiting = Vec::new();
    let mut rest = packs.into_iter();
    while waiting.len() < LOOKED_AT_IN_VAIN {
        let some: Vec<_> = rest.by_ref().take(store.requests().clamp(1, LOOKED_AT_IN_VAIN)).collect();
        if some.is_empty() {
            break;
        }
        // Asked for again where it is archived once more: its days were over before the last ones came.
        let states = stream::iter(&some).map(|pack| store.bring_back(&pack.key, None, how)).buffered(some.len());
        let states: Vec<_> = states.collect().await;
        for (pack, state) in some.into_iter().zip(states) {
            match state {
                Ok(Availability::Readable) | Err(StoreError::NotFound { .. }) => observer.bytes(u64::from(pack.size)),
                Ok(Availability::Coming(_) | Availability::Archived(_)) => waiting.push(pack),
                // Hours are waited for: a network that is away for minutes of them is no reason to give up.
                Err(error) if error.is_transient() => {
                    tracing::warn!(%error, key = pack.key, "looked for again later");
                    waiting.push(pack);
                }
                Err(error) => return Err(error),
            }
        }
    }
    waiting.extend(rest);
    Ok(waiting)
}

/// What lies in an archive of the lists that tell what a point needs, with all data that does; nothing if every list can be read. With `retrieval`
/// the lists are brought back and waited for before that is said.
///
/// # Errors
/// [`OperationError::Repository`].
pub async fn lists_in_archive(
    repository: &Repository,
    reader: &Reader,
    retrieval: Option<Retrieval>,
    observer: &dyn Observer,
) -> Result<Option<InArchive>, OperationError> {
    let store = repository.store();
    let lists = reader.archived_lists()?;
    if let Some(how) = retrieval {
        bring_back(store, lists, how, observer).await?;
        return Ok(None);
    }
    let mut found = look(store, &lists).await?;
    if found.packs == 0 {
        return Ok(None);
    }
    found.join(&look(store, &reader.archived_data()?).await?);
    found.is_most = true;
    Ok(Some(found))
}

impl RestoreRequest<'_> {
    /// Packs of data that are read for a source, as far as they are listed in a class that is an archive.
    async fn archived_packs(&self, source: &str) -> Result<BTreeSet<ArchivedPack>, OperationError> {
        if self.reader.archived_data()?.is_empty() {
            return Ok(BTreeSet::new());
        }
        let wanted = |path: &[u8]| self.below.as_ref().is_none_or(|below| lies_below(path, below));
        Ok(self.reader.archived_packs_of(self.point.snapshot(source)?, wanted).await?)
    }

    /// The data that a source needs and that cannot be read now, because it lies in an archive; nothing if there is none.
    pub(super) async fn in_archive(&self, source: &str) -> Result<Option<InArchive>, OperationError> {
        let found = look(self.repository.store(), &self.archived_packs(source).await?).await?;
        Ok((found.packs > 0).then_some(found))
    }

    /// Sees to it that all data can be read that this restore needs: brings it back where that is wanted, and waits. Whether there was anything
    /// in an archive class.
    ///
    /// # Errors
    /// [`OperationError::Refused`] if something lies in an archive and nobody said that it may be brought back; [`OperationError::Repository`].
    pub(super) async fn retrieve(&self) -> Result<bool, OperationError> {
        let store = self.repository.store();
        let mut packs = BTreeSet::new();
        for (name, _) in &self.targets {
            packs.extend(self.archived_packs(name).await?);
        }
        if packs.is_empty() {
            return Ok(false);
        }
        match self.retrieval {
            Some(how) => bring_back(store, packs, how, self.observer.as_ref()).await?,
            None => {
                let found = look(store, &packs).await?;
                if found.packs > 0 {
                    return Err(found.refusal(store.describe()));
                }
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::{Archive, ArchivedPack, Duration, InArchive, RetrievalPriority, in_words};

    #[test]
    fn the_slowest_decides_and_lists_count_twice() {
        let pack = ArchivedPack { key: "packs/a".to_owned(), size: 5 };
        let mut found = InArchive::default();
        found.add(&pack, Archive::Flexible, false);
        found.add(&pack, Archive::Deep, true);
        assert_eq!((found.packs, found.bytes, found.coming), (2, 10, 1));
        assert_eq!(found.takes(RetrievalPriority::Standard), Duration::from_secs(12 * 3600));
        found.is_most = true;
        assert_eq!(found.takes(RetrievalPriority::Bulk), Duration::from_secs(96 * 3600));
        assert!(
            found.describe().contains("up to 24 h, with `--rehydrate=high` 24 h, with `--rehydrate=bulk` 96 h"),
            "{}",
            found.describe()
        );
        assert_eq!(
            [60, 300, 3599, 3600].map(|seconds| in_words(Duration::from_secs(seconds))),
            ["1 minutes", "5 minutes", "60 minutes", "1 h"]
        );
    }
}
