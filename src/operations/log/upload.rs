//! Emptying the spool: every file to every site, in order, several at once.
//!
//! Each site goes its own pace: one that is down keeps files in the spool, and no other site from having them. What a site has confirmed
//! is known while the process lives; after that files are pushed once more, and found to be there.
//!
//! Of a timeline that was not met before the first file goes alone: where another server's log is stored under the same names, nothing of
//! this one is mixed into it.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::{StreamExt, future::join_all, stream};

use super::{
    SiteState, Spool, UploadError, UploadState, another_is_archived, off_thread,
    spool::{Held, Waiting},
};
use crate::{
    clock::SharedClock,
    operations::OperationError,
    repository::{LogName, LogPut, LogWriter},
};

/// How often the spool is looked at while it is empty.
const LOOK_EVERY: Duration = Duration::from_millis(25);
/// A site that failed is tried again after this, and then after ever longer.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// A file is held as it is and as it is sealed, and zstd needs some room.
const COPIES: u64 = 3;
/// More files at once make no site faster.
const MOST_AT_ONCE: u64 = 8;
/// How often progress is written down.
const TELL_EVERY: Duration = Duration::from_secs(2);
/// How long one that has just been started waits for another that is about to end.
const HOLD_TRIES: u32 = 40;

/// A site that can be opened.
#[async_trait]
pub trait OpenLogSite: Send + Sync {
    /// Its name in the policy.
    fn name(&self) -> &str;
    /// Opens it: anew after each error, so that what an operator has mended counts.
    async fn open(&self) -> Result<LogWriter, OperationError>;
}

/// What it takes to empty a spool.
pub struct UploadRequest<'a> {
    /// Which one.
    pub spool: Arc<Spool>,
    /// Where everything goes; at least one.
    pub sites: Vec<Arc<dyn OpenLogSite>>,
    /// What the files on their way to one site may take together, bytes.
    pub memory_bytes: u64,
    /// It ends when the spool was empty for so long.
    pub idle: Duration,
    /// Whether the policy is another one than it was, and must be read again.
    pub changed: &'a (dyn Fn() -> bool + Sync),
    /// The time.
    pub clock: SharedClock,
}

/// Why it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UploadEnd {
    /// Nothing was to be done for a while.
    Idle,
    /// Another process does it.
    Held,
    /// The policy is another one.
    Changed,
}

/// Empties a spool until there is nothing to do.
///
/// # Errors
/// Of the spool. Those of sites are kept in its state, and tried again.
pub async fn upload(request: UploadRequest<'_>) -> Result<UploadEnd, OperationError> {
    request.spool.prepare()?;
    let Some(mut held) = take(&request.spool).await? else { return Ok(UploadEnd::Held) };
    loop {
        request.spool.clean(request.clock.now())?;
        let work = Work::begin(&request, &held);
        work.tell()?;
        let ends = join_all((0..request.sites.len()).map(|site| work.site(site))).await;
        if !request.spool.is_still(&held) {
            return Ok(UploadEnd::Idle);
        }
        work.tell()?;
        let end = ends.into_iter().collect::<Result<Vec<_>, _>>()?.into_iter().max_by_key(|end| *end == UploadEnd::Changed);
        let end = end.unwrap_or(UploadEnd::Idle);
        drop(held);
        if end == UploadEnd::Changed || request.spool.waiting()?.is_empty() {
            return Ok(end);
        }
        // A push may have seen the lock just before it went.
        held = match take(&request.spool).await? {
            Some(held) => held,
            None => return Ok(UploadEnd::Held),
        };
    }
}

/// The lock; whoever looks whether it is held has it for an instant.
async fn take(spool: &Spool) -> Result<Option<Held>, OperationError> {
    for _ in 0..HOLD_TRIES {
        if let Some(held) = spool.hold()? {
            return Ok(Some(held));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(None)
}

/// What is known while one process empties a spool.
struct Work<'a> {
    request: &'a UploadRequest<'a>,
    held: &'a Held,
    known: Mutex<Known>,
}

struct Known {
    state: UploadState,
    /// Which sites, by their place in the request, have what still waits.
    confirmed: HashMap<LogName, HashSet<usize>>,
    told: Duration,
    /// When there was something to do last.
    busy: Duration,
}

impl<'a> Work<'a> {
    fn begin(request: &'a UploadRequest<'a>, held: &'a Held) -> Self {
        let now = request.clock.monotonic();
        // What was wrong before stays so until it is known to be right.
        let before = request.spool.state();
        let keep = |site: &Arc<dyn OpenLogSite>| {
            let error = before.sites.get(site.name()).and_then(|state| state.error.clone());
            (site.name().to_owned(), SiteState { error, ..SiteState::default() })
        };
        let state = UploadState { sites: request.sites.iter().map(keep).collect(), error: None };
        Self { request, held, known: Mutex::new(Known { state, confirmed: HashMap::new(), told: now, busy: now }) }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// One site, until there is nothing to do.
    async fn site(&self, site: usize) -> Result<UploadEnd, OperationError> {
        let request = self.request;
        let (mut writer, mut pause) = (None, FIRST_PAUSE);
        // Timelines of which this site has taken a file, and of which it has another server's.
        let (mut met, mut refused) = (HashSet::new(), HashSet::new());
        let mut refused_at = request.clock.monotonic();
        loop {
            // An operator may have put it right meanwhile.
            if request.clock.monotonic().saturating_sub(refused_at) >= LONGEST_PAUSE {
                refused_at = request.clock.monotonic();
                met.retain(|timeline| !refused.contains(timeline));
                refused.clear();
            }
            if (request.changed)() {
                return Ok(UploadEnd::Changed);
            }
            let spool = Arc::clone(&request.spool);
            if !spool.is_still(self.held) {
                // Somebody took it away, and a push makes it anew; another process has that one.
                return Ok(UploadEnd::Idle);
            }
            let waiting = off_thread(move || spool.waiting()).await?;
            let now = request.clock.monotonic();
            if !waiting.is_empty() {
                self.known().busy = now;
            } else if now.saturating_sub(self.known().busy) >= request.idle {
                return Ok(UploadEnd::Idle);
            }
            let largest = waiting.iter().map(|waiting| waiting.bytes).max().unwrap_or(0).max(1);
            let at_once = (request.memory_bytes / (COPIES * largest)).clamp(1, MOST_AT_ONCE) as usize;
            let files = self.due(site, waiting, &met, &refused);
            if files.is_empty() {
                tokio::time::sleep(LOOK_EVERY).await;
                continue;
            }
            let done = match self.opened(site, &mut writer).await {
                Ok(writer) => self.store(site, writer, (files, at_once), &mut met, &mut refused).await,
                Err(error) => Err(error),
            };
            match done {
                Ok(()) => pause = FIRST_PAUSE,
                Err(error) => {
                    writer = None;
                    self.failed(site, error.to_string(), None)?;
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    async fn opened<'w>(&self, site: usize, writer: &'w mut Option<LogWriter>) -> Result<&'w LogWriter, OperationError> {
        let opened = match writer.take() {
            Some(opened) => opened,
            None => self.request.sites[site].open().await?,
        };
        Ok(writer.insert(opened))
    }

    /// What is to be stored at a site next.
    fn due(&self, site: usize, waiting: Vec<Waiting>, met: &HashSet<(u64, u32)>, refused: &HashSet<(u64, u32)>) -> Vec<LogName> {
        let known = self.known();
        let has = |name: &LogName| known.confirmed.get(name).is_some_and(|sites| sites.contains(&site));
        let names = waiting.into_iter().map(|waiting| waiting.name);
        let mut due = names.filter(|name| !has(name) && !refused.contains(&timeline(name))).peekable();
        match due.peek() {
            Some(first) if !met.contains(&timeline(first)) => due.take(1).collect(),
            _ => due.take_while(|name| met.contains(&timeline(name))).collect(),
        }
    }

    async fn store(
        &self,
        site: usize,
        writer: &LogWriter,
        (files, at_once): (Vec<LogName>, usize),
        met: &mut HashSet<(u64, u32)>,
        refused: &mut HashSet<(u64, u32)>,
    ) -> Result<(), OperationError> {
        let spool = &self.request.spool;
        let mut stored = stream::iter(files)
            .map(|name| async move {
                let (reading, wanted) = (Arc::clone(spool), name.clone());
                let Some(bytes) = off_thread(move || reading.read(&wanted)).await? else { return Ok((name, LogPut::There)) };
                let put = writer.put(&name, bytes.into()).await?;
                Ok::<_, OperationError>((name, put))
            })
            .buffer_unordered(at_once);
        while let Some(outcome) = stored.next().await {
            let (name, put) = outcome?;
            let LogPut::Other { place } = put else {
                met.insert(timeline(&name));
                self.confirmed(site, &name)?;
                continue;
            };
            refused.insert(timeline(&name));
            let message = another_is_archived(place, &name).to_string();
            self.failed(site, message, Some(timeline(&name)))?;
        }
        Ok(())
    }

    /// A site has a file.
    fn confirmed(&self, site: usize, name: &LogName) -> Result<(), OperationError> {
        let mut known = self.known();
        let sites = known.confirmed.entry(name.clone()).or_default();
        sites.insert(site);
        if sites.len() == self.request.sites.len() {
            self.request.spool.remove(name)?;
            known.confirmed.remove(name);
        }
        let now = self.request.clock.now();
        let state = known.state.sites.entry(self.request.sites[site].name().to_owned()).or_default();
        state.confirmed += 1;
        state.confirmed_at = Some(now);
        // Another server's log in place of ours does not pass by itself.
        let mended = state.error.take_if(|error| error.conflict.is_none_or(|own| own == timeline(name))).is_some();
        let late = self.request.clock.monotonic().saturating_sub(known.told) >= TELL_EVERY;
        drop(known);
        if mended || late { self.tell() } else { Ok(()) }
    }

    fn failed(&self, site: usize, message: String, conflict: Option<(u64, u32)>) -> Result<(), OperationError> {
        let name = self.request.sites[site].name();
        tracing::warn!(site = name, "{message}");
        let mut known = self.known();
        let state = known.state.sites.entry(name.to_owned()).or_default();
        let since = state.error.as_ref().map_or_else(|| self.request.clock.now(), |error| error.since);
        if state.error.as_ref().is_none_or(|error| error.conflict.is_none() || conflict.is_some()) {
            state.error = Some(UploadError { message, since, conflict });
        }
        drop(known);
        self.tell()
    }

    /// Writes down how it stands.
    fn tell(&self) -> Result<(), OperationError> {
        let mut known = self.known();
        known.told = self.request.clock.monotonic();
        self.request.spool.keep_state(&known.state)
    }
}

fn timeline(name: &LogName) -> (u64, u32) {
    (name.system(), name.timeline())
}
