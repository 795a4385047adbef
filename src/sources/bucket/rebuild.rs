//! The way back: objects into a store.

use std::{sync::atomic::Ordering, time::Duration};

use async_trait::async_trait;
use futures_util::{
    FutureExt, StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};

use super::{
    BucketAttributes, OBJECT, concerns_one_object,
    existing::matches,
    listing::Listing,
    read::on_its_own,
    restored_locks::RestoredLocks,
    transfer::{Transfer, Transferred, Wanted},
};
use crate::{
    progress::{Check, PhaseTime, Problem},
    sources::{Entry, ExchangeError, Rebuild, RebuildContext, Rebuilt, SourceError},
    stores::{GetOptions, MAX_KEY_BYTES, ObjectStat, SharedStore, StoreError},
};

/// Bounds of what is asked of the repository at once: enough for it to order reads by pack, little enough for memory.
const BATCH_OBJECTS: usize = 4096;
const BATCH_BYTES: u64 = 512 << 20;

/// Rebuilds a bucket's objects below the prefix of a store.
#[derive(Debug)]
pub struct BucketTarget {
    store: SharedStore,
    locks: RestoredLocks,
}

/// What is to be done about one entry.
enum Decided {
    Write(Box<Wanted>),
    Keep,
    Refused,
}

/// What the entries said, counted on the way.
#[derive(Debug, Default)]
struct Seen {
    objects: u64,
    bytes: u64,
}

/// The entries with what lies in the target under the same keys.
struct Plan<'a> {
    entries: BoxStream<'a, Result<Entry, ExchangeError>>,
    beside: Beside,
    seen: Seen,
}

impl Plan<'_> {
    async fn next(&mut self) -> Result<Option<(Entry, Option<ObjectStat>)>, SourceError> {
        let Some(entry) = self.entries.next().await.transpose()? else { return Ok(None) };
        self.seen.objects += 1;
        self.seen.bytes += entry.size();
        let there = self.beside.find(&entry.path).await?;
        Ok(Some((entry, there)))
    }
}

impl BucketTarget {
    /// A target below the store's prefix, where nothing is locked.
    pub fn new(store: SharedStore) -> Self {
        Self { store, locks: RestoredLocks::default() }
    }

    /// The same, with this done about locks and legal holds.
    #[must_use]
    pub fn with_locks(self, locks: RestoredLocks) -> Self {
        Self { locks, ..self }
    }

    async fn first_object(&self) -> Result<Option<ObjectStat>, StoreError> {
        Ok(self.store.list("", None, 1).await?.objects.into_iter().next())
    }

    fn not_empty(&self, first: &ObjectStat) -> SourceError {
        SourceError::UnfitTarget {
            subject: self.store.describe(),
            detail: format!(
                "holds objects already ({:?} for one); name an empty bucket or prefix, or say --into-existing to keep what matches and replace what differs",
                first.key
            ),
        }
    }

    async fn decide(
        &self,
        context: &RebuildContext<'_>,
        entry: Entry,
        there: Option<ObjectStat>,
        done: &Transferred,
    ) -> Result<Decided, SourceError> {
        let refuse = |why: &str| {
            context.observer.problem(Problem::new(entry.display_path(), format!("not restored: {why}")));
            Ok(Decided::Refused)
        };
        if entry.kind != OBJECT {
            return refuse("this entry is not an object; a newer farshore may have written it");
        }
        let Ok(key) = std::str::from_utf8(&entry.path) else { return refuse("its key is not UTF-8, which no bucket takes") };
        if key.is_empty() || key.len() > MAX_KEY_BYTES {
            return refuse("its key is empty or longer than 1,024 bytes, which no bucket takes");
        }
        let mut attributes: BucketAttributes = entry.attributes()?;
        let holds = self.locks.wanted(attributes.object.holds(), context.clock.now(), &done.met);
        attributes.object = attributes.object.held_by(holds);
        let attributes = match there {
            None => attributes,
            Some(there) => {
                // On a task of its own: it holds leave for one of the target's requests, and nobody asks for decisions while a batch is written
                // that waits for such leave.
                let (store, size) = (self.store.clone(), entry.size());
                let looking = on_its_own(async move {
                    let is_the_same = matches(&*store, &there, size, &attributes).await;
                    is_the_same.map(|is_the_same| (is_the_same, attributes))
                });
                match looking.await? {
                    (true, _) => return Ok(Decided::Keep),
                    (false, attributes) => attributes,
                }
            }
        };
        done.met.to_be_written(key, holds);
        let content = entry.content.unwrap_or_default();
        Ok(Decided::Write(Box::new(Wanted { key: key.to_owned(), content, attributes })))
    }

    /// What is to be done about every entry, in order, several objects of the target being looked at at once.
    fn decisions<'a>(
        &'a self,
        context: &'a RebuildContext<'a>,
        plan: &'a mut Plan<'_>,
        done: &'a Transferred,
    ) -> BoxStream<'a, Result<Decided, SourceError>> {
        stream::try_unfold(plan, |plan| async move { Ok::<_, SourceError>(plan.next().await?.map(|next| (next, plan))) })
            .map_ok(move |(entry, there)| self.decide(context, entry, there, done).boxed())
            .try_buffered(context.parallelism.max(self.store.requests()))
            .boxed()
    }

    /// Writes what is missing or differs; returns what the entries said and how many objects were kept.
    async fn transfer(&self, context: &RebuildContext<'_>, done: &Transferred) -> Result<(Seen, u64), SourceError> {
        let listing = if context.into_existing { Some(Listing::start(self.store.clone())) } else { None };
        let mut plan = Plan { entries: context.origin.entries(), beside: Beside::new(listing), seen: Seen::default() };
        let mut decided = self.decisions(context, &mut plan, done);
        let transfer = Transfer { store: &self.store, context, done };
        let (mut batch, mut batch_bytes, mut kept) = (Vec::new(), 0, 0);
        while let Some(next) = decided.next().await.transpose()? {
            match next {
                Decided::Keep => {
                    kept += 1;
                    context.observer.items(1);
                }
                Decided::Refused => {}
                Decided::Write(wanted) => {
                    batch_bytes += wanted.content.size;
                    batch.push(*wanted);
                    if batch.len() >= BATCH_OBJECTS || batch_bytes >= BATCH_BYTES {
                        transfer.batch(std::mem::take(&mut batch)).await?;
                        batch_bytes = 0;
                    }
                }
            }
        }
        transfer.batch(batch).await?;
        drop(decided);
        Ok((plan.seen, kept))
    }

    /// Says so where the source had encrypted objects with a key of its own and the target does not. One object is looked at: what a
    /// bucket encrypts with is the same for all that is written to it.
    async fn compare_encryption(&self, context: &RebuildContext<'_>, done: &Transferred) -> Result<(), SourceError> {
        let Some((key, word)) = done.first_encrypted.get() else { return Ok(()) };
        let written = match self.store.get(key, GetOptions::default()).await {
            Ok(download) => download.attributes.encryption,
            // That it is gone, or cannot be read, is for the checks to say.
            Err(error) if concerns_one_object(&error) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        if written.is_none() {
            context.observer.problem(Problem::new(
                self.describe(),
                format!(
                    "{} objects, {key:?} for one, were encrypted by their source with a key of its own ({word}), and here are not; if they must be, give the bucket a default encryption and restore into an empty prefix",
                    done.encrypted.load(Ordering::Relaxed)
                ),
            ));
        }
        Ok(())
    }

    /// Lists the target again and holds it against the entries.
    async fn check(&self, context: &RebuildContext<'_>, seen: &Seen) -> Result<Vec<Check>, SourceError> {
        let mut beside = Beside::new(Some(Listing::start(self.store.clone())));
        let (mut objects, mut bytes) = (0u64, 0u64);
        let mut entries = context.origin.entries();
        while let Some(entry) = entries.next().await.transpose()? {
            if let Some(there) = beside.find(&entry.path).await?
                && there.size == entry.size()
            {
                objects += 1;
                bytes += there.size;
            }
        }
        let others = beside.others().await?;
        let mut checks = Vec::new();
        if !context.partial {
            let captured = |name: &str| context.facts.get(name).and_then(serde_json::Value::as_u64);
            if let Some(expected) = captured("objects") {
                checks.push(Check::equal("objects in the point", expected, seen.objects));
            }
            if let Some(expected) = captured("bytes") {
                checks.push(Check::equal("object bytes in the point", expected, seen.bytes));
            }
        }
        checks.push(Check::equal("objects in the target", seen.objects, objects));
        checks.push(Check::equal("object bytes in the target", seen.bytes, bytes));
        if others > 0 {
            checks.push(Check::note("other objects in the target", 0, others));
        }
        Ok(checks)
    }
}

/// A listing walked in step with entries that are sorted by the same bytes.
struct Beside {
    listing: Option<Listing>,
    next: Option<ObjectStat>,
    passed: u64,
}

impl Beside {
    fn new(listing: Option<Listing>) -> Self {
        Self { listing, next: None, passed: 0 }
    }

    async fn find(&mut self, path: &[u8]) -> Result<Option<ObjectStat>, SourceError> {
        loop {
            if self.next.is_none() {
                let Some(listing) = &mut self.listing else { return Ok(None) };
                self.next = listing.next().await?;
            }
            match self.next.as_ref().map(|object| object.key.as_bytes().cmp(path)) {
                None => {
                    self.listing = None;
                    return Ok(None);
                }
                Some(std::cmp::Ordering::Less) => {
                    self.next = None;
                    self.passed += 1;
                }
                Some(std::cmp::Ordering::Equal) => return Ok(self.next.take()),
                Some(std::cmp::Ordering::Greater) => return Ok(None),
            }
        }
    }

    /// Objects that no entry asked for.
    async fn others(mut self) -> Result<u64, SourceError> {
        self.passed += u64::from(self.next.take().is_some());
        if let Some(mut listing) = self.listing {
            while listing.next().await?.is_some() {
                self.passed += 1;
            }
        }
        Ok(self.passed)
    }
}

#[async_trait]
impl Rebuild for BucketTarget {
    fn describe(&self) -> String {
        self.store.describe()
    }

    async fn inspect(&self, facts: &serde_json::Value, into_existing: bool) -> Result<String, SourceError> {
        let found = match self.first_object().await {
            Ok(None) => "empty",
            Ok(Some(_)) if into_existing => "holds objects; those that match are kept",
            Ok(Some(first)) => return Err(self.not_empty(&first)),
            Err(StoreError::NoSuchPlace { .. }) => "does not exist yet and will be made",
            Err(error) => return Err(error.into()),
        };
        self.locks.check(&self.store).await?;
        Ok(format!("{}: {found}{}", self.describe(), self.locks.plan(facts)))
    }

    async fn rebuild(&self, context: RebuildContext<'_>) -> Result<Rebuilt, SourceError> {
        match self.first_object().await {
            Ok(Some(first)) if !context.into_existing => return Err(self.not_empty(&first)),
            Ok(_) => self.locks.check(&self.store).await?,
            Err(StoreError::NoSuchPlace { .. }) => self.locks.create(&self.store).await?,
            Err(error) => return Err(error.into()),
        }
        let total = context.facts.get("bytes").and_then(serde_json::Value::as_u64).filter(|_| !context.partial);
        context.observer.phase("object transfer", total);
        let started = context.clock.monotonic();
        let done = Transferred::default();
        let (seen, kept) = self.transfer(&context, &done).await?;
        let transferred = context.clock.monotonic();
        self.compare_encryption(&context, &done).await?;
        context.observer.phase("verification", None);
        let mut checks = self.check(&context, &seen).await?;
        checks.extend(self.locks.checks(&self.store, &done.met).await?);
        let phase = |name: &str, time: Duration| PhaseTime { name: name.to_owned(), seconds: time.as_secs_f64() };
        Ok(Rebuilt {
            checks,
            phases: vec![
                phase("object transfer", transferred.saturating_sub(started)),
                phase("verification", context.clock.monotonic().saturating_sub(transferred)),
            ],
            items: done.objects.load(Ordering::Relaxed),
            items_kept: kept,
            bytes: done.bytes.load(Ordering::Relaxed),
            replayed: None,
        })
    }
}
