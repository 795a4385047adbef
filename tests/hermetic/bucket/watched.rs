//! A store that counts what is asked of it, acts in between, and fails where it is told to.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use farshore::stores::{
    Archive, Availability, Download, GetOptions, Holds, LockSupport, ObjectAttributes, ObjectStat, Page, PutOptions, Retrieval,
    SharedStore, Store, StoreError, UploadedPart, VersionCursor, VersionPage, Versioning,
};

/// Something that happens right before a call on a key.
type Act = Box<dyn FnOnce() -> BoxFuture + Send>;
type BoxFuture = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

/// A method, the key it fails on, and the error made of the place.
type Failing = (&'static str, String, fn(String) -> StoreError);

/// A store between the code under test and another store.
#[derive(Clone)]
pub struct Watched {
    inner: SharedStore,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    calls: BTreeMap<&'static str, u64>,
    before_get: BTreeMap<String, Vec<Act>>,
    version: Option<String>,
    digests: bool,
    versions_denied: bool,
    missing: bool,
    failing: Vec<Failing>,
}

impl std::fmt::Debug for Watched {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Watched({:?})", self.inner)
    }
}

impl Watched {
    pub fn over(inner: SharedStore) -> Arc<Self> {
        Arc::new(Self { inner, seen: Arc::default() })
    }

    /// How often a method was called.
    pub fn calls(&self, method: &str) -> u64 {
        self.seen.lock().unwrap().calls.get(method).copied().unwrap_or(0)
    }

    /// Acts once, right before the next read of `key` that has no act yet.
    pub fn before_get<F: Future<Output = ()> + Send + 'static>(
        &self,
        key: &str,
        act: impl FnOnce(SharedStore) -> F + Send + 'static,
    ) {
        let inner = Arc::clone(&self.inner);
        let act: Act = Box::new(move || Box::pin(act(inner)));
        self.seen.lock().unwrap().before_get.entry(key.to_owned()).or_default().push(act);
    }

    /// Fails every call of a method on `key` (on any key, if it is empty).
    pub fn fail(&self, method: &'static str, key: &str, error: fn(String) -> StoreError) {
        self.seen.lock().unwrap().failing.push((method, key.to_owned(), error));
    }

    /// No call fails any more.
    pub fn heal(&self) {
        self.seen.lock().unwrap().failing.clear();
    }

    /// Lists every object as of this version.
    pub fn list_version(&self, version: &str) {
        self.seen.lock().unwrap().version = Some(version.to_owned());
    }

    /// Shows ETags as S3 does: 32 hexadecimal digits made from the object's bytes.
    pub fn show_digests(&self) {
        self.seen.lock().unwrap().digests = true;
    }

    /// Refuses to read any version by its id.
    pub fn deny_versions(&self) {
        self.seen.lock().unwrap().versions_denied = true;
    }

    /// There is no such place until it is made.
    pub fn remove_place(&self) {
        self.seen.lock().unwrap().missing = true;
    }

    fn made(&self) {
        self.seen.lock().unwrap().missing = false;
    }

    async fn shown(&self, mut stat: ObjectStat) -> Result<ObjectStat, StoreError> {
        if self.seen.lock().unwrap().digests {
            let digest = self.inner.stat(&stat.key).await?.sha256.expect("the memory store keeps it");
            stat.etag = hex::encode(&digest[..16]);
        }
        Ok(stat)
    }

    fn called(&self, method: &'static str, key: &str) -> Result<(), StoreError> {
        let mut seen = self.seen.lock().unwrap();
        *seen.calls.entry(method).or_default() += 1;
        if seen.missing && !method.starts_with("create") {
            return Err(StoreError::NoSuchPlace { place: "watched".to_owned() });
        }
        match seen.failing.iter().find(|(failing, on, _)| *failing == method && (on.is_empty() || on == key)) {
            Some((_, _, error)) => Err(error(format!("watched/{key}"))),
            None => Ok(()),
        }
    }
}

#[async_trait]
impl Store for Watched {
    fn describe(&self) -> String {
        self.inner.describe()
    }

    async fn put(&self, key: &str, body: Bytes, options: PutOptions) -> Result<ObjectStat, StoreError> {
        self.called("put", key)?;
        self.inner.put(key, body, options).await
    }

    async fn get(&self, key: &str, options: GetOptions) -> Result<Download, StoreError> {
        self.called("get", key)?;
        let act = {
            let mut seen = self.seen.lock().unwrap();
            seen.before_get.get_mut(key).and_then(|acts| if acts.is_empty() { None } else { Some(acts.remove(0)) })
        };
        if let Some(act) = act {
            act().await;
        }
        self.called(if options.range.is_some() { "get range" } else { "get whole" }, key)?;
        if options.version.is_some() && self.seen.lock().unwrap().versions_denied {
            return Err(StoreError::Denied { place: key.to_owned(), action: "get", detail: "AccessDenied".to_owned() });
        }
        let mut options = options;
        if self.seen.lock().unwrap().digests
            && let Some(etag) = options.if_match.take()
            && self.shown(self.inner.stat(key).await?).await?.etag != etag
        {
            return Err(StoreError::Changed { place: key.to_owned() });
        }
        let mut download = self.inner.get(key, options).await?;
        download.stat = self.shown(download.stat).await?;
        Ok(download)
    }

    async fn stat(&self, key: &str) -> Result<ObjectStat, StoreError> {
        self.called("stat", key)?;
        self.shown(self.inner.stat(key).await?).await
    }

    async fn list(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> Result<Page, StoreError> {
        self.called("list", "")?;
        let mut page = self.inner.list(prefix, start_after, limit).await?;
        let version = self.seen.lock().unwrap().version.clone();
        for object in page.objects.iter_mut().filter(|_| version.is_some()) {
            object.version.clone_from(&version);
        }
        for object in &mut page.objects {
            *object = self.shown(object.clone()).await?;
        }
        Ok(page)
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.called("delete", key)?;
        self.inner.delete(key).await
    }

    async fn begin_upload(&self, key: &str, attributes: ObjectAttributes) -> Result<String, StoreError> {
        self.called("begin_upload", key)?;
        self.inner.begin_upload(key, attributes).await
    }

    async fn upload_part(&self, key: &str, upload: &str, number: u32, body: Bytes) -> Result<UploadedPart, StoreError> {
        self.called("upload_part", key)?;
        self.inner.upload_part(key, upload, number, body).await
    }

    async fn complete_upload(
        &self,
        key: &str,
        upload: &str,
        parts: &[UploadedPart],
        if_absent: bool,
    ) -> Result<ObjectStat, StoreError> {
        self.called("complete_upload", key)?;
        self.inner.complete_upload(key, upload, parts, if_absent).await
    }

    async fn abort_upload(&self, key: &str, upload: &str) -> Result<(), StoreError> {
        self.called("abort_upload", key)?;
        self.inner.abort_upload(key, upload).await
    }

    async fn create(&self) -> Result<(), StoreError> {
        self.called("create", "")?;
        self.made();
        self.inner.create().await
    }

    async fn create_locking(&self) -> Result<(), StoreError> {
        self.called("create_locking", "")?;
        self.made();
        self.inner.create_locking().await
    }

    async fn lock_support(&self) -> Result<LockSupport, StoreError> {
        self.called("lock_support", "")?;
        self.inner.lock_support().await
    }

    async fn holds(&self, key: &str, version: Option<&str>, shown: Option<Holds>) -> Result<Holds, StoreError> {
        self.called("holds", key)?;
        self.called(if shown.is_some() { "holds after a read" } else { "holds of what was not read" }, key)?;
        self.called(if version.is_some() { "holds by version" } else { "holds of the present" }, key)?;
        self.inner.holds(key, version, shown).await
    }

    async fn time(&self) -> Result<DateTime<Utc>, StoreError> {
        self.inner.time().await
    }

    async fn bring_back(&self, key: &str, _: Option<&str>, _: Retrieval) -> Result<Availability, StoreError> {
        self.called("bring_back", key)?;
        Ok(Availability::Coming(Archive::Flexible))
    }

    async fn versioning(&self) -> Result<Versioning, StoreError> {
        self.inner.versioning().await
    }

    async fn list_versions(&self, prefix: &str, from: Option<&VersionCursor>, limit: usize) -> Result<VersionPage, StoreError> {
        self.called("list_versions", "")?;
        self.inner.list_versions(prefix, from, limit).await
    }
}
