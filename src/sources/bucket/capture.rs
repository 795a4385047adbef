//! From a store into a sink: the listing merged with the newest point's entries.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::{
    FutureExt, StreamExt, TryStreamExt,
    future::{BoxFuture, Either, Ready, ready},
    stream::{self, BoxStream},
};
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::{
    Fingerprint,
    archived::{self, Archived},
    as_of::Window,
    listing::Listing,
    locks::{self, Asking},
    pages::Manner,
    read::{ByVersion, Outcome, read_object},
    reading::Reading,
    shards::{Common, plan, span},
};
use crate::{
    clock::SharedClock,
    progress::{Finding, Problem, SharedObserver},
    sources::{
        Capture, CaptureContext, Captured, Entry, Examination, OBJECT_PART_BYTES, ShardPlan, ShardPlanning, Sink, SourceError,
        earlier::Earlier, entry::unpack,
    },
    stores::{GetOptions, NULL_VERSION, ObjectStat, Retrieval, SharedStore, StoreError, read_all},
};

/// Entries that may wait for the sink.
const ENTRIES_WAITING: usize = 256;

/// How a bucket is captured.
#[derive(Debug, Clone, Default)]
pub struct BucketOptions {
    /// Read every object again, whatever the newest point says; for a store whose ETags are not to be trusted.
    pub read_unchanged: bool,
    /// How objects are asked for that lie in an archive; without it they are reported and left there.
    pub rehydrate: Option<Retrieval>,
    /// Ask what holds each object, Object Lock's retention or a legal hold, whether the object has changed or not.
    pub locks: bool,
}

/// Captures all objects of a store.
#[derive(Debug)]
pub struct BucketSource {
    store: SharedStore,
    options: BucketOptions,
}

impl BucketSource {
    /// A source of everything below the store's prefix.
    pub fn new(store: SharedStore, options: BucketOptions) -> Self {
        Self { store, options }
    }

    /// Reads the beginning of a version by its id, where that is how objects are read; a finding if it may not be read.
    async fn examine_version(&self, reading: &Reading, first: &ObjectStat) -> Option<Finding> {
        let listed = if reading.is_as_of() { self.store.list_versions(&first.key, None, 1).await } else { return None };
        let found = match listed {
            Ok(page) => page.versions.into_iter().find(|version| !version.marker)?,
            Err(error) => return Some(Finding::failed("versions", error)),
        };
        let options = GetOptions {
            range: (found.stat.size > 0).then_some(0..1),
            attributes: true,
            version: found.stat.version,
            ..GetOptions::default()
        };
        match read_all(self.store.as_ref(), &found.stat.key, options, 1).await {
            Ok(_) | Err(StoreError::NotFound { .. }) => None,
            Err(error) => Some(Reading::finding_of_reading(&error)),
        }
    }
}

/// What the listing and the newest point say together of one object.
enum Planned {
    /// The version is the listed one.
    Unchanged(Entry, Option<String>),
    Read(ObjectStat),
}

/// The ordered merge of listing and newest point.
struct Merge<'a> {
    listing: Listing,
    earlier: Earlier<'a>,
    read_unchanged: bool,
    window: Window,
    /// Whether the listing shows what was there in it, and not what is there now.
    as_of: bool,
    clock: SharedClock,
    waited: Duration,
    versioned: bool,
    modified_after: u64,
}

impl Merge<'_> {
    async fn next(&mut self) -> Result<Option<Planned>, SourceError> {
        // Not the clock twice per object: only a page that is not there yet is worth timing.
        let listed = match self.listing.next().now_or_never() {
            Some(ready) => ready,
            None => {
                let before = self.clock.monotonic();
                let listed = self.listing.next().await;
                self.waited += self.clock.monotonic().saturating_sub(before);
                listed
            }
        };
        let Some(stat) = listed? else { return Ok(None) };
        self.versioned |= stat.version.is_some();
        self.modified_after += u64::from(!self.as_of && self.window.may_be_later(stat.modified));
        let earlier = self.earlier.find(stat.key.as_bytes()).await?;
        Ok(Some(match earlier {
            Some(entry) if !self.read_unchanged && self.unchanged(&entry, &stat) => Planned::Unchanged(entry, stat.version),
            _ => Planned::Read(stat),
        }))
    }

    fn unchanged(&mut self, entry: &Entry, stat: &ObjectStat) -> bool {
        if entry.content.is_none() || entry.size() != stat.size || stat.etag.is_empty() {
            return false;
        }
        let Ok(was) = unpack::<Fingerprint<'_>>(&entry.attributes) else { return false };
        self.versioned |= was.version.is_some();
        // Many listings do not show the version; the ETag alone decides then.
        let version = stat.version.as_deref();
        was.etag == stat.etag
            && (version.is_none() || was.version == version || (version == Some(NULL_VERSION) && was.version.is_none()))
    }
}

/// What became of every object, in order, several being read at once.
fn look_at_all<'a>(
    merge: &'a mut Merge<'_>,
    store: &'a SharedStore,
    versions: Option<&'a ByVersion>,
    asking: Option<&'a Asking>,
    sink: &'a dyn Sink,
    observer: &'a SharedObserver,
    (rehydrate, parallelism): (Option<Retrieval>, usize),
) -> BoxStream<'a, Result<Outcome, SourceError>> {
    // Of whatever is being read no more is held than the sink has room for: large objects are fewer at once.
    let room = Room { bytes: sink.room(), left: Arc::new(Semaphore::new(sink.room() as usize)) };
    stream::try_unfold(merge, |merge| async move { Ok::<_, SourceError>(merge.next().await?.map(|next| (next, merge))) })
        .map_ok(move |planned| look_at(planned, store, versions, asking, sink, observer, (rehydrate, room.clone())))
        .try_buffered(parallelism)
        .boxed()
}

/// Known at once, or after reading.
type Look<'a> = Either<Ready<Result<Outcome, SourceError>>, BoxFuture<'a, Result<Outcome, SourceError>>>;

/// A reader's state is boxed apart, so that an unchanged object does not pay for its size.
fn look_at<'a>(
    planned: Planned,
    store: &'a SharedStore,
    versions: Option<&'a ByVersion>,
    asking: Option<&'a Asking>,
    sink: &'a dyn Sink,
    observer: &'a SharedObserver,
    (rehydrate, room): (Option<Retrieval>, Room),
) -> Look<'a> {
    match planned {
        Planned::Unchanged(entry, version) => match asking {
            None => Either::Left(ready(Ok(Outcome::Unchanged { entry }))),
            Some(asking) => Either::Right(
                async move { Ok(Outcome::Unchanged { entry: asking.unchanged(entry, version.as_deref()).await? }) }.boxed(),
            ),
        },
        Planned::Read(stat) => Either::Right(
            async move {
                let _held = room.take(stat.size).await;
                match (read_object(store, stat, versions, sink, observer).await?, asking) {
                    (Outcome::Read { entry, reread, versioned }, Some(asking)) => {
                        Ok(Outcome::Read { entry: asking.read(entry).await?, reread, versioned })
                    }
                    (outcome, _) => Ok(archived::ask(store, outcome, rehydrate).await),
                }
            }
            .boxed(),
        ),
    }
}

/// Room for what is read, shared by all objects that are being read.
#[derive(Clone)]
struct Room {
    bytes: u32,
    left: Arc<Semaphore>,
}

impl Room {
    /// Waits until an object of this size has room, or a part of a large one. Held until all of it was handed over.
    async fn take(&self, size: u64) -> OwnedSemaphorePermit {
        let wanted = u32::try_from(size).unwrap_or(u32::MAX).clamp(1, OBJECT_PART_BYTES.min(self.bytes));
        let permit = Arc::clone(&self.left).acquire_many_owned(wanted).await;
        permit.expect("the semaphore is never closed")
    }
}

/// What the capture counts.
#[derive(Default)]
struct Counts {
    objects: u64,
    bytes: u64,
    unchanged: u64,
    unchanged_bytes: u64,
    reread: u64,
    vanished: u64,
    unreadable: u64,
    /// In an archive tier, and not in the point.
    archived: Archived,
    versioned: bool,
    last_error: Option<StoreError>,
}

#[async_trait]
impl Capture for BucketSource {
    fn kind(&self) -> &'static str {
        "bucket"
    }

    fn describe(&self) -> String {
        self.store.describe()
    }

    /// Asks whether versions are kept, lists the first object, and reads the beginning of it.
    async fn examine(&self, _: &Examination) -> Vec<Finding> {
        let page = match self.store.list("", None, 1).await {
            Ok(page) => page,
            Err(error) => return vec![Finding::failed("listing", error)],
        };
        let Some(first) = page.objects.first() else {
            let mend = "see whether bucket and prefix are the ones that you mean";
            return vec![Finding::note("listing", "there is no object", mend)];
        };
        let options = GetOptions { range: (first.size > 0).then_some(0..1), attributes: true, ..GetOptions::default() };
        let read = read_all(self.store.as_ref(), &first.key, options, 1).await;
        let versions = match Reading::look(&self.store).await {
            Ok(reading) => self.examine_version(&reading, first).await.unwrap_or_else(|| reading.finding()),
            Err(error) => Finding::failed("versions", error),
        };
        let mut findings = vec![
            Finding::sound("listing", "allowed"),
            Finding::of("reading", read, |_| "allowed, with headers and tags (tried with one object)".to_owned()),
            versions,
        ];
        if self.options.locks {
            findings.extend(locks::examine(&self.store, &first.key).await);
        }
        findings
    }

    async fn plan_shards(&self, planning: ShardPlanning<'_>) -> Result<Option<ShardPlan>, SourceError> {
        plan(&self.store, planning).await.map(Some)
    }

    async fn capture(&self, context: CaptureContext<'_>) -> Result<Captured, SourceError> {
        let CaptureContext { sink, earlier, observer, clock, parallelism, consistent_at, shard, .. } = context;
        observer.phase(&format!("bucket {}", self.describe()), None);
        let (started, listed_at) = (clock.monotonic(), clock.now());
        let manner = Reading::look(&self.store).await?;
        let common = match &shard {
            Some(shard) => Common::of(shard)?,
            None => Common::found(&self.store, &manner, consistent_at, &clock).await?,
        };
        let window = common.window;
        if let Some(problem) = manner.problem(self.describe()) {
            observer.problem(problem);
        }
        let by_version = manner.is_as_of().then(ByVersion::default);
        let asking = self.options.locks.then(|| Asking::of(&self.store));
        let mut merge = Merge {
            listing: Listing::of(
                self.store.clone(),
                if manner.is_as_of() { Manner::AsOf(window) } else { Manner::Present },
                shard.as_ref().map(span).transpose()?.unwrap_or_default(),
            ),
            earlier: Earlier::new(earlier),
            read_unchanged: self.options.read_unchanged,
            window,
            as_of: manner.is_as_of(),
            clock: clock.clone(),
            waited: Duration::ZERO,
            versioned: false,
            modified_after: 0,
        };
        let rehydrate = self.options.rehydrate;
        let (sender, mut outcomes) = mpsc::channel(ENTRIES_WAITING);
        let at_once = (rehydrate, parallelism.max(self.store.requests()));
        let looked_at = look_at_all(&mut merge, &self.store, by_version.as_ref(), asking.as_ref(), sink, &observer, at_once);
        let reading = async move {
            let mut looked_at = looked_at;
            while let Some(outcome) = looked_at.next().await {
                let outcome = match outcome {
                    Ok(outcome) => outcome,
                    // What was read before it is handed over all the same: the next run need not read it again.
                    Err(error) => return Ok(Some(error)),
                };
                // The receiver only goes away with an error of its own, which is the one that is reported.
                if sender.send(outcome).await.is_err() {
                    break;
                }
            }
            Ok::<Option<SourceError>, SourceError>(None)
        };
        let handing_over = async {
            let mut counts = Counts::default();
            while let Some(outcome) = outcomes.recv().await {
                let entry = match outcome {
                    Outcome::Unchanged { entry } => {
                        counts.unchanged += 1;
                        counts.unchanged_bytes += entry.size();
                        observer.bytes(entry.size());
                        entry
                    }
                    Outcome::Read { entry, reread, versioned } => {
                        counts.reread += u64::from(reread);
                        counts.versioned |= versioned;
                        entry
                    }
                    Outcome::Vanished { key } => {
                        counts.vanished += 1;
                        observer.problem(Problem::new(
                            key,
                            "vanished after it was listed and is not in this point; if a row still names it, the next backup settles which is right",
                        ));
                        continue;
                    }
                    Outcome::Archived(object) => {
                        counts.last_error = Some(counts.archived.add(object, rehydrate));
                        continue;
                    }
                    Outcome::Unreadable { key, error } => {
                        counts.unreadable += 1;
                        observer.problem(Problem::new(key, format!("could not be read and is not in this point: {error}")));
                        counts.last_error = Some(error);
                        continue;
                    }
                };
                counts.objects += 1;
                counts.bytes += entry.size();
                observer.items(1);
                sink.entry(entry).await?;
            }
            Ok::<_, SourceError>(counts)
        };
        // An error of the sink ends both.
        let (broken_off, counts) = futures_util::future::try_join(reading, handing_over).await?;
        if let Some(error) = broken_off {
            return Err(error);
        }
        if counts.objects == 0
            && let Some(error) = counts.last_error
        {
            // Not one of them: that is a missing right or a wrong key, not a few bad objects.
            return Err(error.into());
        }
        if let Some(problem) = counts.archived.problem(self.describe()) {
            observer.problem(problem);
        }
        let (waited, versioned) = (merge.waited, merge.versioned || counts.versioned);
        let later = merge.listing.later();
        let modified_after = merge.modified_after + later.keys;
        let read_as_present = by_version.as_ref().map_or(0, ByVersion::denied);
        if read_as_present > 0 {
            observer.problem(Reading::problem_of_reading(self.describe(), read_as_present));
        }
        if let Some(problem) = asking.as_ref().and_then(|asking| asking.problem(self.describe())) {
            observer.problem(problem);
        }
        let [locks_asked, locked, held] = asking.as_ref().map_or([None; 3], |asking| asking.counts().map(Some));
        let gone = merge.earlier.gone().await?;
        let facts = json!({
            "place": self.describe(),
            "objects": counts.objects,
            "bytes": counts.bytes,
            "unchanged_objects": counts.unchanged,
            "unchanged_bytes": counts.unchanged_bytes,
            "read_objects": counts.objects - counts.unchanged,
            "read_bytes": counts.bytes - counts.unchanged_bytes,
            "reread": counts.reread,
            "vanished": counts.vanished,
            "unreadable": counts.unreadable,
            "archived": counts.archived.objects,
            "archived_bytes": counts.archived.bytes,
            "archived_coming": counts.archived.coming,
            "gone": gone,
            "modified_after_consistency": modified_after,
            "versioning": manner.word(),
            "as_of": manner.is_as_of().then(|| json!({ "from": window.from, "until": window.until })),
            "covered": later.covered,
            "read_as_present": read_as_present,
            "locks_asked": locks_asked,
            "locked_objects": locked,
            "held_objects": held,
            "reading": manner.note(common.at, common.is_asked_for, modified_after),
            "versioned": versioned,
            "listed_at": listed_at,
            "listing_seconds": waited.as_secs_f64(),
            "seconds": clock.monotonic().saturating_sub(started).as_secs_f64(),
        });
        Ok(Captured { facts, consistent_at: None })
    }
}
