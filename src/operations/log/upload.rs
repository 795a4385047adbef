//! Emptying the spool: every file to every site, in order, several at once; and beside it segments that the server has ready and will push next.
//!
//! Each site goes its own pace: one that is down keeps files in the spool, and no other site from having them. What a site has confirmed
//! is known while the process lives; after that files are pushed once more, and found to be there.
//!
//! Where another server's log is stored under the same names, nothing of this one is mixed into it: of a timeline that was not met before the
//! first file goes alone; later, of several that go at once, first those of which the site has one of this name.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, future::join_all, stream};

use super::{
    SiteState, Spool, UploadError, UploadState, another_is_archived, off_thread,
    ready::{Identity, Ready},
    spool::{Held, Waiting},
};
use crate::{
    clock::SharedClock,
    operations::OperationError,
    repository::{LogName, LogPut, LogWriter, Pool},
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
/// What the server has ready is taken while no more files wait in the spool: those go first.
const MOST_BEFORE_READY: usize = 8;
/// And while any wait, if the sites take one in less: a push must not wait for a slow site.
const SLOW: Duration = Duration::from_millis(500);
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
        Ready(&request.spool).clean();
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
    /// What files were read into, by the site that they went to.
    buffers: Vec<Pool<Vec<u8>>>,
}

struct Known {
    state: UploadState,
    /// Which sites, by their place in the request, have what still waits.
    confirmed: HashMap<LogName, HashSet<usize>>,
    /// What is taken from where the server has it, as it was; nothing before it was read.
    taken: HashMap<LogName, Option<Identity>>,
    /// What could not be read there; its push will say why.
    left: HashSet<LogName>,
    /// What a file took each site lately.
    pace: HashMap<usize, Duration>,
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
        let known = Known {
            state,
            confirmed: HashMap::new(),
            taken: HashMap::new(),
            left: HashSet::new(),
            pace: HashMap::new(),
            told: now,
            busy: now,
        };
        let buffers = request.sites.iter().map(|_| Pool::of(usize::try_from(MOST_AT_ONCE).unwrap_or(1))).collect();
        Self { request, held, known: Mutex::new(known), buffers }
    }

    fn ready(&self) -> Ready<'_> {
        Ready(&self.request.spool)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// One site, until there is nothing to do.
    async fn site(&self, site: usize) -> Result<UploadEnd, OperationError> {
        let request = self.request;
        let (mut writer, mut pause): (Option<LogWriter>, _) = (None, FIRST_PAUSE);
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
            let may_wait = self.may_wait();
            let waiting = off_thread(move || {
                let mut waiting = spool.waiting()?;
                if may_wait.is_some_and(|most| waiting.len() <= most) {
                    waiting.extend(Ready(&spool).waiting().into_iter().filter(|ready| !spool.holds(&ready.name)));
                    waiting.sort_by(|left, right| left.name.cmp(&right.name));
                }
                Ok(waiting)
            })
            .await?;
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
                self.buffers[site].clear();
                if let Some(writer) = &writer {
                    writer.rest();
                }
                tokio::time::sleep(LOOK_EVERY).await;
                continue;
            }
            let (began, count) = (request.clock.monotonic(), u32::try_from(files.len()).unwrap_or(u32::MAX));
            let done = match self.opened(site, &mut writer).await {
                Ok(writer) => self.store(site, writer, (files, at_once), &mut met, &mut refused).await,
                Err(error) => Err(error),
            };
            self.known().pace.insert(site, request.clock.monotonic().saturating_sub(began) / count.max(1));
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
        let mut known = self.known();
        let has = |name: &LogName| known.confirmed.get(name).is_some_and(|sites| sites.contains(&site));
        let is_left = |file: &Waiting| file.at_server && known.left.contains(&file.name);
        let is_due = |file: &Waiting| !has(&file.name) && !refused.contains(&timeline(&file.name)) && !is_left(file);
        let mut due = waiting.into_iter().filter(is_due).peekable();
        let due: Vec<Waiting> = match due.peek() {
            Some(first) if !met.contains(&timeline(&first.name)) => due.take(1).collect(),
            _ => due.take_while(|file| met.contains(&timeline(&file.name))).collect(),
        };
        let taken: Vec<&LogName> = due.iter().filter(|file| file.at_server).map(|file| &file.name).collect();
        self.ready().begin(taken.iter().copied());
        for name in taken {
            known.taken.entry(name.clone()).or_default();
        }
        due.into_iter().map(|file| file.name).collect()
    }

    /// How many files may wait in the spool for what the server has ready to be taken; nothing while a site takes none at all.
    fn may_wait(&self) -> Option<usize> {
        let known = self.known();
        let is_sound = known.state.error.is_none() && known.state.sites.values().all(|site| site.error.is_none());
        is_sound.then(|| if known.pace.values().all(|pace| *pace < SLOW) { MOST_BEFORE_READY } else { 0 })
    }

    /// What was to be taken from the server is left for its push.
    fn leave(&self, known: &mut Known, name: &LogName) {
        known.taken.remove(name);
        known.confirmed.remove(name);
        self.ready().end(name);
    }

    async fn store(
        &self,
        site: usize,
        writer: &LogWriter,
        (files, at_once): (Vec<LogName>, usize),
        met: &mut HashSet<(u64, u32)>,
        refused: &mut HashSet<(u64, u32)>,
    ) -> Result<(), OperationError> {
        // One alone is its own look.
        let listed = if files.len() < 2 { HashSet::new() } else { writer.repository().listed(&files).await? };
        let (there, new): (Vec<_>, Vec<_>) = files.into_iter().partition(|name| listed.contains(name));
        for mut files in [there, new] {
            files.retain(|name| !refused.contains(&timeline(name)));
            let mut stored = stream::iter(files).map(|name| self.put(site, writer, name)).buffer_unordered(at_once);
            while let Some(outcome) = stored.next().await {
                let (name, put, identity) = outcome?;
                let Some(put) = put else { continue };
                let LogPut::Other { place } = put else {
                    met.insert(timeline(&name));
                    self.confirmed(site, &name, identity)?;
                    continue;
                };
                refused.insert(timeline(&name));
                let message = another_is_archived(place, &name).to_string();
                self.failed(site, message, Some(timeline(&name)))?;
            }
        }
        Ok(())
    }

    /// What became of one file, and as what it was taken from the server; nothing where every site has it by now, or its push will bring it.
    async fn put(
        &self,
        site: usize,
        writer: &LogWriter,
        name: LogName,
    ) -> Result<(LogName, Option<LogPut>, Option<Identity>), OperationError> {
        let Some((bytes, written_at, identity)) = self.read(site, &name).await? else { return Ok((name, None, None)) };
        let put = writer.put_ended(&name, bytes.clone(), Some(written_at.into())).await?;
        self.buffers[site].reuse(bytes);
        Ok((name, Some(put), identity))
    }

    /// The bytes of a file, and when the server wrote the last of them: from the spool, or, if it is not there, from where the server has it,
    /// and as what. Nothing if it is at neither.
    async fn read(&self, site: usize, name: &LogName) -> Result<Option<(Bytes, SystemTime, Option<Identity>)>, OperationError> {
        let (spool, wanted, mut buffer) = (Arc::clone(&self.request.spool), name.clone(), self.buffers[site].buffer());
        let (written_at, buffer) = off_thread(move || Ok((spool.read(&wanted, &mut buffer)?, buffer))).await?;
        if let Some(written_at) = written_at {
            return Ok(Some((buffer.into(), written_at, None)));
        }
        if !self.known().taken.contains_key(name) {
            return Ok(None);
        }
        let (spool, wanted) = (Arc::clone(&self.request.spool), name.clone());
        let read = off_thread(move || Ready(&spool).read(&wanted, buffer)).await.unwrap_or_else(|error| {
            tracing::debug!(%error, "not taken from the server");
            None
        });
        let Some((bytes, written_at, identity)) = read else {
            let mut known = self.known();
            known.left.insert(name.clone());
            self.leave(&mut known, name);
            return Ok(None);
        };
        Ok(Some((bytes.into(), written_at, Some(identity))))
    }

    /// A site has a file; one that was taken from the server, as it was there.
    fn confirmed(&self, site: usize, name: &LogName, identity: Option<Identity>) -> Result<(), OperationError> {
        let mut known = self.known();
        if let Some(identity) = identity {
            let is_same = match known.taken.get_mut(name) {
                Some(Some(other)) => *other == identity,
                Some(unread) => {
                    *unread = Some(identity);
                    true
                }
                None => false,
            };
            if !is_same {
                self.leave(&mut known, name);
                return Ok(());
            }
        }
        let sites = known.confirmed.entry(name.clone()).or_default();
        sites.insert(site);
        if sites.len() == self.request.sites.len() {
            match known.taken.remove(name) {
                Some(Some(identity)) => self.ready().stored(name, &identity)?,
                // It came into the spool meanwhile.
                Some(None) => self.ready().end(name),
                None => {}
            }
            self.request.spool.remove(name)?;
            known.confirmed.remove(name);
            known.left.remove(name);
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
        let taken: Vec<LogName> = known.taken.keys().cloned().collect();
        taken.iter().for_each(|name| self.leave(&mut known, name));
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
