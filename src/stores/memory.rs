//! A store in memory: the model of the contract, for tests; with [`MemoryStore::locking`] also of a versioned bucket with locks.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard},
};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::{StreamExt, stream};

use super::{
    Download, GetOptions, Holds, Lock, LockSupport, NULL_VERSION, ObjectAttributes, ObjectStat, ObjectVersion, Page, PutOptions,
    Store, StoreError, UploadedPart, VersionCursor, VersionPage, Versioning,
    bounds::{check_body, check_key, object_place, resolve_range, sha256},
    no_locks,
};
use crate::clock::{SharedClock, SystemClock};

/// Bytes that one piece of a body has at most.
const PIECE_BYTES: usize = 256 << 10;

/// A store that keeps everything in memory and forgets it when it is dropped.
pub struct MemoryStore {
    name: String,
    clock: SharedClock,
    /// Whether it plays a versioned bucket with Object Lock.
    locking: bool,
    /// Whether it says what its clock shows.
    tells_time: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Object>,
    /// Where it is versioned: what was overwritten, or hidden by a delete marker; the oldest first.
    earlier: BTreeMap<String, Vec<Object>>,
    uploads: BTreeMap<String, Upload>,
    keeps_versions: bool,
    /// Counts writes: every etag and upload id is another.
    writes: u64,
}

impl State {
    /// Takes an object away; where it is versioned, it stays among the earlier ones, under a delete marker of this time if there is one.
    fn hide(&mut self, key: &str, deleted: Option<DateTime<Utc>>) {
        let Some(object) = self.objects.remove(key).filter(|_| self.keeps_versions) else { return };
        let deleted = deleted.map(|time| {
            self.writes += 1;
            (time, self.writes.to_string())
        });
        self.earlier.entry(key.to_owned()).or_default().push(Object { deleted, ..object });
    }

    /// The object, or the version of it that is wanted.
    fn find(&self, key: &str, version: Option<&str>) -> Option<&Object> {
        let Some(version) = version else { return self.objects.get(key) };
        let all = self.objects.get(key).into_iter().chain(self.earlier.get(key).into_iter().flatten());
        all.into_iter().find(|object| object.version() == version)
    }

    /// Versions and markers of a key, newest first.
    fn versions(&self, key: &str) -> Vec<ObjectVersion> {
        let mut all = Vec::new();
        for object in self.objects.get(key).into_iter().chain(self.earlier.get(key).into_iter().flatten().rev()) {
            if let Some((time, id)) = &object.deleted {
                let stat =
                    ObjectStat { size: 0, modified: *time, etag: String::new(), version: Some(id.clone()), ..object.stat.clone() };
                all.push(ObjectVersion { stat, marker: true, latest: all.is_empty() });
            }
            let stat = ObjectStat { version: Some(object.version().to_owned()), ..object.stat.clone() };
            all.push(ObjectVersion { stat, marker: false, latest: all.is_empty() });
        }
        for version in &mut all {
            version.stat.sha256 = None;
        }
        all
    }
}

impl Object {
    fn version(&self) -> &str {
        self.stat.version.as_deref().unwrap_or(NULL_VERSION)
    }
}

#[derive(Clone)]
struct Object {
    body: Bytes,
    stat: ObjectStat,
    attributes: ObjectAttributes,
    lock: Option<Lock>,
    /// Where it is one of the earlier ones: when a delete marker was put over it, and the marker's id.
    deleted: Option<(DateTime<Utc>, String)>,
}

struct Upload {
    key: String,
    attributes: ObjectAttributes,
    parts: BTreeMap<u32, (Bytes, UploadedPart)>,
}

impl MemoryStore {
    /// An empty store that describes itself as `memory://name`, stamps objects with the machine's time, and does not tell its time.
    pub fn new(name: &str) -> Arc<Self> {
        Self::on(name, SystemClock::shared(), false, false)
    }

    fn on(name: &str, clock: SharedClock, locking: bool, tells_time: bool) -> Arc<Self> {
        let state = State { keeps_versions: locking, ..State::default() };
        Arc::new(Self { name: name.to_owned(), clock, locking, tells_time, state: Mutex::new(state) })
    }

    /// An empty store whose objects are stamped with the time of `clock`, which plays the site's clock.
    pub fn with_clock(name: &str, clock: SharedClock) -> Arc<Self> {
        Self::on(name, clock, false, true)
    }

    /// From now on it keeps what is overwritten or deleted, as a bucket whose versioning is switched on.
    pub fn keep_versions(&self) {
        self.state().keeps_versions = true;
    }

    /// An empty store that plays a versioned bucket with Object Lock, on the time of `clock`.
    pub fn locking(name: &str, clock: SharedClock) -> Arc<Self> {
        Self::on(name, clock, true, true)
    }

    /// The version of each object that was stored first, as another store: what a reader of versions sees that overwriting and
    /// delete markers do not touch.
    pub fn first_versions(&self) -> Arc<Self> {
        let state = self.state();
        let mut objects = state.objects.clone();
        objects.extend(state.earlier.iter().filter_map(|(key, versions)| Some((key.clone(), versions.first()?.clone()))));
        let first = Self::on(&self.name, self.clock.clone(), self.locking, self.tells_time);
        *first.state() = State { objects, writes: state.writes, keeps_versions: state.keeps_versions, ..State::default() };
        first
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change below is complete before anything that could panic, so a poisoned lock guards a whole state.
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn place(&self, key: &str) -> String {
        object_place(&self.describe(), key)
    }

    fn not_found(&self, key: &str) -> StoreError {
        StoreError::NotFound { place: self.place(key) }
    }

    fn store(
        &self,
        state: &mut State,
        key: &str,
        body: Bytes,
        attributes: ObjectAttributes,
        lock: Option<Lock>,
        if_absent: bool,
    ) -> Result<ObjectStat, StoreError> {
        let lock = lock.or(attributes.lock);
        if (lock.is_some() || attributes.legal_hold) && !self.locking {
            return Err(no_locks(self.describe()));
        }
        let attributes = ObjectAttributes { lock: None, ..attributes };
        if if_absent && state.objects.contains_key(key) {
            return Err(StoreError::AlreadyExists { place: self.place(key) });
        }
        state.writes += 1;
        let stat = ObjectStat {
            key: key.to_owned(),
            size: body.len() as u64,
            modified: self.clock.now(),
            etag: format!("{:016x}", state.writes),
            version: state.keeps_versions.then(|| state.writes.to_string()),
            sha256: Some(sha256(&body)),
            storage_class: attributes.storage_class.clone(),
        };
        // A copy, as every other store makes one: the caller's bytes may hold a share of a memory limit until they are dropped.
        let body = Bytes::copy_from_slice(&body);
        state.hide(key, None);
        state.objects.insert(key.to_owned(), Object { body, stat: stat.clone(), attributes, lock, deleted: None });
        Ok(stat)
    }

    fn held(&self, lock: Option<Lock>) -> Option<Lock> {
        lock.filter(|lock| lock.until > self.clock.now())
    }

    /// From now on a legal hold is on the present version of an object, or none.
    pub fn set_legal_hold(&self, key: &str, held: bool) {
        if let Some(object) = self.state().objects.get_mut(key) {
            object.attributes.legal_hold = held;
        }
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "MemoryStore({})", self.name)
    }
}

#[async_trait]
impl Store for MemoryStore {
    fn describe(&self) -> String {
        format!("memory://{}", self.name)
    }

    async fn put(&self, key: &str, body: Bytes, options: PutOptions) -> Result<ObjectStat, StoreError> {
        check_key(&self.describe(), key, "put")?;
        check_body(&self.describe(), key, &body, options.sha256)?;
        self.store(&mut self.state(), key, body, options.attributes, options.lock, options.if_absent)
    }

    async fn get(&self, key: &str, options: GetOptions) -> Result<Download, StoreError> {
        check_key(&self.describe(), key, "get")?;
        let Object { body, stat, mut attributes, lock, .. } =
            self.state().find(key, options.version.as_deref()).cloned().ok_or_else(|| self.not_found(key))?;
        attributes.lock = self.held(lock);
        if options.if_match.is_some_and(|etag| etag != stat.etag) {
            return Err(StoreError::Changed { place: self.place(key) });
        }
        let range = resolve_range(&self.describe(), key, options.range.as_ref(), stat.size)?;
        if !options.attributes {
            attributes.tags.clear();
        }
        // The object is in memory, so its size is one of usize.
        let wanted = body.slice(range.start as usize..range.end as usize);
        let pieces: Vec<_> = (0..wanted.len())
            .step_by(PIECE_BYTES)
            .map(|start| Ok(wanted.slice(start..wanted.len().min(start + PIECE_BYTES))))
            .collect();
        Ok(Download { stat, attributes, body: stream::iter(pieces).boxed() })
    }

    async fn stat(&self, key: &str) -> Result<ObjectStat, StoreError> {
        check_key(&self.describe(), key, "stat")?;
        self.state().objects.get(key).map(|object| object.stat.clone()).ok_or_else(|| self.not_found(key))
    }

    fn seeks(&self) -> bool {
        true
    }

    async fn list(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> Result<Page, StoreError> {
        let start = match start_after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let state = self.state();
        let mut found = state
            .objects
            .range::<str, _>((start, Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(_, object)| ObjectStat { sha256: None, ..object.stat.clone() });
        let objects: Vec<_> = found.by_ref().take(limit).collect();
        Ok(Page { objects, more: found.next().is_some() })
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        check_key(&self.describe(), key, "delete")?;
        self.state().hide(key, Some(self.clock.now()));
        Ok(())
    }

    async fn begin_upload(&self, key: &str, attributes: ObjectAttributes) -> Result<String, StoreError> {
        check_key(&self.describe(), key, "begin an upload")?;
        let mut state = self.state();
        state.writes += 1;
        let id = format!("upload-{}", state.writes);
        state.uploads.insert(id.clone(), Upload { key: key.to_owned(), attributes, parts: BTreeMap::new() });
        Ok(id)
    }

    async fn upload_part(&self, key: &str, upload: &str, number: u32, body: Bytes) -> Result<UploadedPart, StoreError> {
        let mut state = self.state();
        let found = state.uploads.get_mut(upload).filter(|found| found.key == key).ok_or_else(|| self.not_found(key))?;
        let sha256 = sha256(&body);
        let part = UploadedPart { number, etag: hex::encode(sha256), sha256 };
        found.parts.insert(number, (Bytes::copy_from_slice(&body), part.clone()));
        Ok(part)
    }

    async fn complete_upload(
        &self,
        key: &str,
        upload: &str,
        parts: &[UploadedPart],
        if_absent: bool,
    ) -> Result<ObjectStat, StoreError> {
        let mut state = self.state();
        let found = state.uploads.get(upload).filter(|found| found.key == key).ok_or_else(|| self.not_found(key))?;
        let mut joined = Vec::new();
        let mut last = 0;
        for part in parts {
            let stored = found.parts.get(&part.number).filter(|(_, stored)| stored == part && part.number > last);
            let Some((body, _)) = stored else {
                let detail = format!("part {} was not uploaded like this, or the parts are not in ascending order", part.number);
                return Err(StoreError::Other { place: self.place(key), action: "complete an upload", detail });
            };
            last = part.number;
            joined.extend_from_slice(body);
        }
        let attributes = found.attributes.clone();
        let stat = self.store(&mut state, key, joined.into(), attributes, None, if_absent)?;
        state.uploads.remove(upload);
        Ok(stat)
    }

    async fn abort_upload(&self, _key: &str, upload: &str) -> Result<(), StoreError> {
        self.state().uploads.remove(upload);
        Ok(())
    }

    async fn time(&self) -> Result<DateTime<Utc>, StoreError> {
        if self.tells_time {
            return Ok(self.clock.now());
        }
        Err(StoreError::Unsupported { place: self.describe(), what: "telling its time" })
    }

    async fn create(&self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn create_locking(&self) -> Result<(), StoreError> {
        if self.locking { Ok(()) } else { Err(no_locks(self.describe())) }
    }

    async fn lock_support(&self) -> Result<LockSupport, StoreError> {
        Ok(LockSupport { versioned: self.locking, object_lock: self.locking, remedy: None })
    }

    async fn lock_of(&self, key: &str) -> Result<Option<Lock>, StoreError> {
        let state = self.state();
        let first = state.earlier.get(key).and_then(|earlier| earlier.first()).or_else(|| state.objects.get(key));
        Ok(self.held(first.ok_or_else(|| self.not_found(key))?.lock))
    }

    async fn holds(&self, key: &str, version: Option<&str>, _: Option<Holds>) -> Result<Holds, StoreError> {
        if !self.locking {
            return Err(no_locks(self.describe()));
        }
        let state = self.state();
        let object = state.find(key, version).ok_or_else(|| self.not_found(key))?;
        Ok(Holds { lock: self.held(object.lock), legal_hold: object.attributes.legal_hold })
    }

    async fn set_lock(&self, key: &str, lock: Lock) -> Result<(), StoreError> {
        if self.lock_of(key).await?.is_some_and(|present| !lock.covers(&present)) {
            let detail = "a lock is neither shortened nor weakened".to_owned();
            return Err(StoreError::Denied { place: self.place(key), action: "lock", detail });
        }
        self.extend_lock(key, lock).await.map(|_| ())
    }

    async fn extend_lock(&self, key: &str, lock: Lock) -> Result<Lock, StoreError> {
        if !self.locking {
            return Err(no_locks(self.describe()));
        }
        let mut state = self.state();
        let State { objects, earlier, .. } = &mut *state;
        let first = earlier.get_mut(key).and_then(|earlier| earlier.first_mut()).or_else(|| objects.get_mut(key));
        let object = first.ok_or_else(|| self.not_found(key))?;
        let wanted = match self.held(object.lock) {
            Some(present) => present.joined(&lock),
            None => lock,
        };
        object.lock = Some(wanted);
        Ok(wanted)
    }

    async fn versioning(&self) -> Result<Versioning, StoreError> {
        let off = Versioning::Off { remedy: format!("switch on the versioning of {}", self.describe()) };
        Ok(if self.state().keeps_versions { Versioning::Enabled } else { off })
    }

    async fn list_versions(&self, prefix: &str, from: Option<&VersionCursor>, limit: usize) -> Result<VersionPage, StoreError> {
        let state = self.state();
        let first = from.map_or(prefix, |from| from.key.as_str().max(prefix)).to_owned();
        let (objects, earlier) = (state.objects.range(first.clone()..), state.earlier.range(first..));
        let keys = objects.map(|(key, _)| key).chain(earlier.map(|(key, _)| key));
        let keys: BTreeSet<&String> = keys.filter(|key| key.starts_with(prefix)).collect();
        let at = |version: &ObjectVersion| VersionCursor { key: version.stat.key.clone(), version: version.stat.version.clone() };
        let mut all = keys.into_iter().flat_map(|key| state.versions(key)).peekable();
        if let Some(from) = from {
            while all.next_if(|version| version.stat.key < from.key).is_some() {}
            let mut found = false;
            while all.next_if(|version| version.stat.key == from.key && !found).is_some_and(|version| {
                found = from.version.is_some() && at(&version) == *from;
                true
            }) {}
        }
        let versions: Vec<_> = all.by_ref().take(limit).collect();
        let next = versions.last().filter(|_| all.peek().is_some()).map(at);
        Ok(VersionPage { versions, next })
    }

    async fn delete_versions(&self, key: &str) -> Result<(), StoreError> {
        check_key(&self.describe(), key, "delete")?;
        let mut state = self.state();
        let versions = state.objects.get(key).into_iter().chain(state.earlier.get(key).into_iter().flatten());
        if let Some(lock) = versions.filter_map(|object| self.held(object.lock)).max_by_key(|lock| lock.until) {
            return Err(StoreError::Locked { place: self.place(key), until: lock.until });
        }
        let mut versions = state.objects.get(key).into_iter().chain(state.earlier.get(key).into_iter().flatten());
        if versions.any(|object| object.attributes.legal_hold) {
            let detail = "a legal hold keeps it, until whoever set it takes it away".to_owned();
            return Err(StoreError::Denied { place: self.place(key), action: "delete", detail });
        }
        state.objects.remove(key);
        state.earlier.remove(key);
        Ok(())
    }
}
