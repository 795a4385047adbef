//! A store that fails on command: the faults that networks and servers really have, queued per kind of call or drawn from a seed.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use farshore::stores::{
    Download, GetOptions, Holds, Lock, LockSupport, ObjectAttributes, ObjectStat, Page, PutOptions, SharedStore, Store, StoreError,
    UploadedPart, VersionCursor, VersionPage, Versioning,
};
use futures_util::{StreamExt, stream};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::sync::Notify;

/// A kind of call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Call {
    Put,
    Get,
    Stat,
    List,
    Delete,
    BeginUpload,
    UploadPart,
    CompleteUpload,
    AbortUpload,
    Create,
    Lock,
    Time,
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The connection is refused; nothing was done.
    RefusedBefore,
    /// The call is carried out and its answer lost.
    AnswerLost,
    /// The server asks to slow down; nothing was done.
    Throttled,
    /// A checksum does not match; nothing was done.
    Corrupt,
    /// A body breaks after so many bytes (elsewhere: as [`Fault::RefusedBefore`]).
    BodyBreaks(u64),
    /// A body ends after so many bytes as if it were complete (elsewhere: as [`Fault::RefusedBefore`]).
    BodyEndsEarly(u64),
    /// The object is gone; nothing was done.
    Gone,
    /// The call takes long, and is carried out at the end of that time: see [`FaultyStore::while_slow`].
    SlowBefore,
    /// The call is carried out, and its answer takes long: see [`FaultyStore::while_slow`].
    SlowAfter,
    /// Nobody may do this; nothing was done, and it does not pass.
    Denied,
    /// No fault.
    None,
}

/// A store that fails on command.
#[derive(Debug)]
pub struct FaultyStore {
    inner: SharedStore,
    state: Mutex<State>,
    /// A slow call has come.
    slow_came: Notify,
    /// It has lasted long enough.
    slow_ends: Notify,
}

#[derive(Debug, Default)]
struct State {
    queued: HashMap<Call, VecDeque<Fault>>,
    calls: HashMap<Call, u64>,
    drawn: Option<(StdRng, f64)>,
    forgets_locks: bool,
    is_silent: bool,
    /// Calls that are still carried out before the connection breaks for good.
    left: Option<u64>,
    /// What was stored less than so long ago is in no listing.
    lag: Option<TimeDelta>,
    /// Of what is too young for a listing, this part is in it all the same: drawn for each object, always the same.
    lag_spares: Option<(u64, f64)>,
    /// What was deleted, and when: it is listed for as long as new objects are not.
    deleted: BTreeMap<String, (ObjectStat, DateTime<Utc>)>,
    /// Keys that no listing shows.
    hidden: BTreeSet<String>,
    /// When a fault was last met.
    struck_at: Option<DateTime<Utc>>,
}

impl FaultyStore {
    /// Fails only as queued.
    pub fn over(inner: SharedStore) -> Arc<Self> {
        Self::with_state(inner, State::default())
    }

    /// Fails at random, with this probability, the same way for the same seed.
    pub fn seeded(inner: SharedStore, seed: u64, probability: f64) -> Arc<Self> {
        let drawn = Some((StdRng::seed_from_u64(seed), probability));
        Self::with_state(inner, State { drawn, ..State::default() })
    }

    fn with_state(inner: SharedStore, state: State) -> Arc<Self> {
        Arc::new(Self { inner, state: Mutex::new(state), slow_came: Notify::new(), slow_ends: Notify::new() })
    }

    /// The next calls of this kind fail so, one after the other.
    pub fn queue(&self, call: Call, faults: impl IntoIterator<Item = Fault>) {
        self.state.lock().unwrap().queued.entry(call).or_default().extend(faults);
    }

    /// After so many more calls of this kind the next one fails so.
    pub fn queue_after(&self, calls: u64, call: Call, fault: Fault) {
        self.queue(call, (0..calls).map(|_| Fault::None).chain([fault]));
    }

    /// After so many more calls the connection breaks for good: who uses it might as well have been killed.
    pub fn break_after(&self, calls: u64) {
        self.state.lock().unwrap().left = Some(calls);
    }

    /// From now on puts answer as if they locked, and do not.
    pub fn forget_locks(&self) {
        self.state.lock().unwrap().forgets_locks = true;
    }

    /// From now on it does not tell its time: for a test whose clock goes on while a real server's does not.
    pub fn hide_time(&self) {
        self.state.lock().unwrap().is_silent = true;
    }

    /// From now on listings lack what was stored less than so long ago, by the store's own clock, and show what was deleted through
    /// this store since.
    pub fn lag_listings(&self, by: TimeDelta) {
        self.state.lock().unwrap().lag = Some(by);
    }

    /// From now on no listing shows these.
    pub fn hide(&self, keys: impl IntoIterator<Item = String>) {
        self.state.lock().unwrap().hidden.extend(keys);
    }

    /// As [`Self::lag_listings`], but for this part of what is new: which objects that are hangs on the seed and on their names.
    pub fn lag_some(&self, by: TimeDelta, seed: u64, spared: f64) {
        let mut state = self.state.lock().unwrap();
        (state.lag, state.lag_spares) = (Some(by), Some((seed, spared)));
    }

    /// Does `operation`; as soon as it comes to a slow call, `meanwhile`, and then lets it go on. Whether it came to one.
    pub async fn while_slow<T>(&self, operation: impl Future<Output = T>, meanwhile: impl Future<Output = ()>) -> (T, bool) {
        let mut operation = std::pin::pin!(operation);
        let came = AtomicBool::new(false);
        let waiting = async {
            self.slow_came.notified().await;
            came.store(true, Ordering::SeqCst);
            meanwhile.await;
            self.slow_ends.notify_one();
        };
        let done = tokio::select! {
            done = &mut operation => done,
            () = waiting => operation.await,
        };
        (done, came.load(Ordering::SeqCst))
    }

    async fn be_slow(&self) {
        self.slow_came.notify_one();
        self.slow_ends.notified().await;
    }

    /// When a fault was last met, by the clock of this machine.
    pub fn struck_at(&self) -> Option<DateTime<Utc>> {
        self.state.lock().unwrap().struck_at
    }

    /// How many calls of this kind were made.
    pub fn calls(&self, call: Call) -> u64 {
        self.state.lock().unwrap().calls.get(&call).copied().unwrap_or(0)
    }

    fn next(&self, call: Call) -> Fault {
        let mut state = self.state.lock().unwrap();
        *state.calls.entry(call).or_default() += 1;
        if let Some(left) = &mut state.left {
            if *left == 0 {
                return Fault::RefusedBefore;
            }
            *left -= 1;
        }
        if let Some(fault) = state.queued.get_mut(&call).and_then(VecDeque::pop_front) {
            if fault != Fault::None {
                state.struck_at = Some(Utc::now());
            }
            return fault;
        }
        let Some((random, probability)) = &mut state.drawn else {
            return Fault::None;
        };
        if !random.random_bool(*probability) {
            return Fault::None;
        }
        let bytes = random.random_range(0..100_000);
        let faults =
            [Fault::RefusedBefore, Fault::AnswerLost, Fault::Throttled, Fault::BodyBreaks(bytes), Fault::BodyEndsEarly(bytes)];
        faults[random.random_range(0..faults.len())]
    }

    fn unavailable(detail: &str) -> StoreError {
        StoreError::Unavailable { place: "faulty".to_owned(), detail: detail.to_owned() }
    }

    fn gone() -> StoreError {
        StoreError::NotFound { place: "faulty".to_owned() }
    }

    fn denied() -> StoreError {
        StoreError::Denied { place: "faulty".to_owned(), action: "do this", detail: "nobody may".to_owned() }
    }

    async fn faulty<T>(
        &self,
        call: Call,
        carried_out: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        match self.next(call) {
            Fault::None => carried_out.await,
            Fault::RefusedBefore | Fault::BodyBreaks(_) | Fault::BodyEndsEarly(_) => Err(Self::unavailable("refused before")),
            Fault::Throttled => {
                Err(StoreError::Throttled { place: "faulty".to_owned(), detail: "slow down".to_owned(), after: None })
            }
            Fault::Corrupt => Err(StoreError::Corrupt { place: "faulty".to_owned(), detail: "checksum".to_owned() }),
            Fault::Gone => Err(Self::gone()),
            Fault::Denied => Err(Self::denied()),
            Fault::SlowBefore => {
                self.be_slow().await;
                carried_out.await
            }
            Fault::SlowAfter => {
                let done = carried_out.await;
                self.be_slow().await;
                done
            }
            Fault::AnswerLost => {
                carried_out.await?;
                Err(Self::unavailable("the answer was lost"))
            }
        }
    }
}

/// A number from 0 to 1 for a name.
fn drawn_for(key: &str, seed: u64) -> f64 {
    let start = key.bytes().fold(seed, |sum, byte| sum.wrapping_mul(1_099_511_628_211) ^ u64::from(byte));
    StdRng::seed_from_u64(start).random_range(0.0..1.0)
}

/// Cuts a body off after so many bytes, and then breaks or just ends.
fn cut_off(download: Download, bytes: u64, breaks: bool) -> Download {
    let Download { stat, attributes, body } = download;
    let cut = stream::unfold(Some((body, bytes)), move |state| async move {
        let (mut body, left) = state?;
        let broken = || breaks.then(|| (Err(FaultyStore::unavailable("the body broke")), None));
        match body.next().await {
            _ if left == 0 => broken(),
            Some(Ok(piece)) => {
                let kept = usize::try_from(left).unwrap_or(usize::MAX).min(piece.len());
                Some((Ok(piece.slice(..kept)), Some((body, left - kept as u64))))
            }
            Some(Err(error)) => Some((Err(error), None)),
            None => None,
        }
    });
    Download { stat, attributes, body: cut.boxed() }
}

#[async_trait]
impl Store for FaultyStore {
    fn describe(&self) -> String {
        self.inner.describe()
    }

    async fn put(&self, key: &str, body: Bytes, options: PutOptions) -> Result<ObjectStat, StoreError> {
        let mut options = options;
        if self.state.lock().unwrap().forgets_locks {
            options.lock = None;
            options.attributes = options.attributes.held_by(Holds::default());
        }
        self.faulty(Call::Put, self.inner.put(key, body, options)).await
    }

    async fn get(&self, key: &str, options: GetOptions) -> Result<Download, StoreError> {
        match self.next(Call::Get) {
            Fault::None => self.inner.get(key, options).await,
            Fault::BodyBreaks(after) => Ok(cut_off(self.inner.get(key, options).await?, after, true)),
            Fault::BodyEndsEarly(after) => Ok(cut_off(self.inner.get(key, options).await?, after, false)),
            Fault::Throttled => {
                Err(StoreError::Throttled { place: "faulty".to_owned(), detail: "slow down".to_owned(), after: None })
            }
            Fault::Corrupt => Err(StoreError::Corrupt { place: "faulty".to_owned(), detail: "checksum".to_owned() }),
            Fault::Gone => Err(Self::gone()),
            Fault::Denied => Err(Self::denied()),
            Fault::SlowBefore => {
                self.be_slow().await;
                self.inner.get(key, options).await
            }
            Fault::SlowAfter => {
                let download = self.inner.get(key, options).await;
                self.be_slow().await;
                download
            }
            Fault::RefusedBefore | Fault::AnswerLost => Err(Self::unavailable("no answer")),
        }
    }

    async fn stat(&self, key: &str) -> Result<ObjectStat, StoreError> {
        self.faulty(Call::Stat, self.inner.stat(key)).await
    }

    async fn list(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> Result<Page, StoreError> {
        let mut page = self.faulty(Call::List, self.inner.list(prefix, start_after, limit)).await?;
        page.objects.retain(|object| !self.state.lock().unwrap().hidden.contains(&object.key));
        let Some(lag) = self.state.lock().unwrap().lag else { return Ok(page) };
        let until = self.inner.time().await? - lag;
        let state = self.state.lock().unwrap();
        let spared = |key: &str| state.lag_spares.is_some_and(|(seed, part)| drawn_for(key, seed) < part);
        let shown = |object: &ObjectStat| object.modified <= until || spared(&object.key);
        let mut objects: Vec<ObjectStat> = page.objects.into_iter().filter(shown).collect();
        let still = state.deleted.values().filter(|(object, at)| *at > until && object.modified <= until);
        let here = still.filter(|(object, _)| object.key.starts_with(prefix) && start_after.is_none_or(|key| *object.key > *key));
        objects.extend(here.map(|(object, _)| object.clone()));
        objects.sort_by(|left, right| left.key.cmp(&right.key));
        objects.dedup_by(|left, right| left.key == right.key);
        Ok(Page { objects, more: page.more })
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        let is_lagging = self.state.lock().unwrap().lag.is_some();
        let before = if is_lagging { self.inner.stat(key).await.ok() } else { None };
        self.faulty(Call::Delete, self.inner.delete(key)).await?;
        if let Some(before) = before {
            let now = self.inner.time().await?;
            self.state.lock().unwrap().deleted.insert(key.to_owned(), (before, now));
        }
        Ok(())
    }

    async fn begin_upload(&self, key: &str, attributes: ObjectAttributes) -> Result<String, StoreError> {
        self.faulty(Call::BeginUpload, self.inner.begin_upload(key, attributes)).await
    }

    async fn upload_part(&self, key: &str, upload: &str, number: u32, body: Bytes) -> Result<UploadedPart, StoreError> {
        self.faulty(Call::UploadPart, self.inner.upload_part(key, upload, number, body)).await
    }

    async fn complete_upload(
        &self,
        key: &str,
        upload: &str,
        parts: &[UploadedPart],
        if_absent: bool,
    ) -> Result<ObjectStat, StoreError> {
        self.faulty(Call::CompleteUpload, self.inner.complete_upload(key, upload, parts, if_absent)).await
    }

    async fn abort_upload(&self, key: &str, upload: &str) -> Result<(), StoreError> {
        self.faulty(Call::AbortUpload, self.inner.abort_upload(key, upload)).await
    }

    async fn time(&self) -> Result<DateTime<Utc>, StoreError> {
        if self.state.lock().unwrap().is_silent {
            return Err(StoreError::Unsupported { place: self.describe(), what: "telling its time" });
        }
        self.faulty(Call::Time, self.inner.time()).await
    }

    async fn create(&self) -> Result<(), StoreError> {
        self.faulty(Call::Create, self.inner.create()).await
    }

    async fn create_locking(&self) -> Result<(), StoreError> {
        self.faulty(Call::Create, self.inner.create_locking()).await
    }

    async fn lock_support(&self) -> Result<LockSupport, StoreError> {
        self.faulty(Call::Lock, self.inner.lock_support()).await
    }

    async fn lock_of(&self, key: &str) -> Result<Option<Lock>, StoreError> {
        self.faulty(Call::Lock, self.inner.lock_of(key)).await
    }

    async fn holds(&self, key: &str, version: Option<&str>, shown: Option<Holds>) -> Result<Holds, StoreError> {
        self.faulty(Call::Lock, self.inner.holds(key, version, shown)).await
    }

    async fn set_lock(&self, key: &str, lock: Lock) -> Result<(), StoreError> {
        self.faulty(Call::Lock, self.inner.set_lock(key, lock)).await
    }

    async fn extend_lock(&self, key: &str, lock: Lock) -> Result<Lock, StoreError> {
        self.faulty(Call::Lock, self.inner.extend_lock(key, lock)).await
    }

    async fn delete_versions(&self, key: &str) -> Result<(), StoreError> {
        self.faulty(Call::Delete, self.inner.delete_versions(key)).await
    }

    async fn versioning(&self) -> Result<Versioning, StoreError> {
        self.faulty(Call::List, self.inner.versioning()).await
    }

    async fn list_versions(&self, prefix: &str, from: Option<&VersionCursor>, limit: usize) -> Result<VersionPage, StoreError> {
        self.faulty(Call::List, self.inner.list_versions(prefix, from, limit)).await
    }
}
