//! Recipients change, and everything that can come in between. A site that stops, refuses or waits where the test wants it.

mod damage;
mod interrupted;
mod racing;

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicI64, Ordering},
};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::DateTime;
use farshore::{
    operations::OperationError,
    progress::Tally,
    repository::{Identities, Recipients, RotationRequest, RotationSummary, generate_identity},
    stores::{
        Download, GetOptions, MemoryStore, ObjectAttributes, ObjectStat, Page, PutOptions, SharedStore, Store, StoreError,
        UploadedPart,
    },
};
use tokio::sync::{Barrier, Notify};

use crate::support::recovery::{Objects, Recovery, noise, objects, store_of};

/// Somebody with an identity.
#[derive(Clone)]
struct Person {
    identity: Identities,
    public: String,
}

impl Person {
    fn new() -> Self {
        let (secret, public) = generate_identity(DateTime::UNIX_EPOCH);
        Self { identity: Identities::parse("test", &secret).unwrap(), public }
    }
}

/// Ann and Bob are the recipients, Cid shall become one, and the agent works every night.
struct Team {
    recovery: Recovery,
    ann: Person,
    bob: Person,
    cid: Person,
    agent: Person,
}

impl Team {
    fn new() -> Self {
        let mut recovery = Recovery::new(true);
        let [ann, bob, cid, agent] = std::array::from_fn(|_| Person::new());
        recovery.recipients =
            Recipients::parse(&[ann.public.clone(), bob.public.clone()], std::slice::from_ref(&agent.public)).unwrap();
        recovery.identities = agent.identity.clone();
        Self { recovery, ann, bob, cid, agent }
    }

    /// A site with two points; what each of them gives back.
    async fn begun(&self) -> (Objects, [Objects; 2]) {
        let store: SharedStore = store_of(&Objects::new()).await;
        self.recovery.init(&store).await;
        let cache = self.recovery.fresh_cache();
        self.recovery.put("first", noise(60_000, 1)).await;
        self.recovery.backup(store.clone(), &cache).await.unwrap();
        let then = objects(self.recovery.source.as_ref()).await;
        self.recovery.put("second", noise(70_000, 2)).await;
        self.recovery.backup(store.clone(), &cache).await.unwrap();
        (objects(store.as_ref()).await, [then, objects(self.recovery.source.as_ref()).await])
    }

    /// Those whom a policy with these readers names.
    fn named(&self, readers: &[&Person]) -> Recipients {
        let keys: Vec<_> = readers.iter().map(|person| person.public.clone()).collect();
        Recipients::parse(&keys, std::slice::from_ref(&self.agent.public)).unwrap()
    }

    fn request(&self, readers: &[&Person]) -> RotationRequest {
        RotationRequest { readers: readers.iter().map(|person| person.public.clone()).collect(), ..RotationRequest::default() }
    }

    async fn rotate(&self, who: &Person, store: SharedStore, request: &RotationRequest) -> Result<RotationSummary, OperationError> {
        let repository = self.recovery.open_with(&who.identity, store, &self.recovery.fresh_cache()).await?;
        Ok(repository.rotate(request, Tally::alone().as_ref()).await?)
    }

    /// What this person alone gets back from the n-th point, the oldest first.
    async fn restore(&self, who: &Person, store: SharedStore, number: usize) -> Result<Objects, OperationError> {
        let cache = self.recovery.fresh_cache();
        let ids: Vec<_> = {
            let repository = self.recovery.open_with(&who.identity, store.clone(), &cache).await?;
            repository.point_names(Some("p")).await?.into_iter().map(|name| name.id).collect()
        };
        self.recovery.restore_with(&who.identity, store, &cache, &ids[number]).await
    }

    async fn assert_opens_everything(&self, who: &Person, store: &SharedStore, contents: &[Objects], what: &str) {
        for (number, content) in contents.iter().enumerate() {
            let restored = self.restore(who, store.clone(), number).await;
            assert!(restored.unwrap_or_else(|error| panic!("{what}, point {number}: {error}")) == *content, "{what}");
        }
        let verified = self.recovery.verify_with(&who.identity, store.clone(), &self.recovery.fresh_cache()).await.unwrap();
        assert_eq!(verified.damage, [], "{what}");
    }
}

/// A site that does as the test says.
#[derive(Debug)]
pub(crate) struct Staged {
    pub(crate) inner: Arc<MemoryStore>,
    /// Writes and deletes that are carried out before the connection breaks for good.
    writes_left: AtomicI64,
    denies_deletes: AtomicBool,
    /// Answers if-absent writes and does not honour them.
    overwrites: bool,
    /// Those who write a recipient set wait for one another, before and after.
    meeting: Option<Barrier>,
    /// The first pack waits: that it came, and that it may go on.
    pub(crate) pack_came: Notify,
    pub(crate) pack_may_go: Option<Notify>,
}

impl Staged {
    pub(crate) fn over(inner: Arc<MemoryStore>) -> Self {
        Self {
            inner,
            writes_left: AtomicI64::new(i64::MAX),
            denies_deletes: AtomicBool::new(false),
            overwrites: false,
            meeting: None,
            pack_came: Notify::new(),
            pack_may_go: None,
        }
    }

    fn written(&self) -> i64 {
        i64::MAX - self.writes_left.load(Ordering::SeqCst)
    }

    fn write(&self) -> Result<(), StoreError> {
        if self.writes_left.fetch_sub(1, Ordering::SeqCst) > 0 {
            return Ok(());
        }
        Err(StoreError::Unavailable { place: "staged".to_owned(), detail: "the connection broke".to_owned() })
    }
}

#[async_trait]
impl Store for Staged {
    fn describe(&self) -> String {
        self.inner.describe()
    }
    async fn put(&self, key: &str, body: Bytes, mut options: PutOptions) -> Result<ObjectStat, StoreError> {
        self.write()?;
        if let Some(may_go) = self.pack_may_go.as_ref().filter(|_| key.starts_with("packs/")) {
            self.pack_came.notify_one();
            may_go.notified().await;
            may_go.notify_one();
        }
        let meeting = self.meeting.as_ref().filter(|_| key.starts_with("recipients/"));
        if let Some(meeting) = meeting {
            meeting.wait().await;
            options.if_absent &= !self.overwrites;
        }
        let stored = self.inner.put(key, body, options).await;
        if let Some(meeting) = meeting {
            meeting.wait().await;
        }
        stored
    }
    async fn get(&self, key: &str, options: GetOptions) -> Result<Download, StoreError> {
        self.inner.get(key, options).await
    }
    async fn stat(&self, key: &str) -> Result<ObjectStat, StoreError> {
        self.inner.stat(key).await
    }
    async fn list(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> Result<Page, StoreError> {
        self.inner.list(prefix, start_after, limit).await
    }
    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        if self.denies_deletes.load(Ordering::SeqCst) {
            let (place, detail) = (key.to_owned(), "it is locked".to_owned());
            return Err(StoreError::Denied { place, action: "delete", detail });
        }
        self.write()?;
        self.inner.delete(key).await
    }
    async fn begin_upload(&self, key: &str, _: ObjectAttributes) -> Result<String, StoreError> {
        panic!("nothing here is large enough for a multipart upload, and {key} is")
    }
    async fn upload_part(&self, key: &str, _: &str, _: u32, _: Bytes) -> Result<UploadedPart, StoreError> {
        panic!("nothing here is large enough for a multipart upload, and {key} is")
    }
    async fn complete_upload(&self, key: &str, _: &str, _: &[UploadedPart], _: bool) -> Result<ObjectStat, StoreError> {
        panic!("nothing here is large enough for a multipart upload, and {key} is")
    }
    async fn abort_upload(&self, key: &str, _: &str) -> Result<(), StoreError> {
        panic!("nothing here is large enough for a multipart upload, and {key} is")
    }
    async fn create(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

/// The objects whose keys begin so.
fn below(all: &Objects, prefix: &str) -> Objects {
    all.iter().filter(|(key, _)| key.starts_with(prefix)).map(|(key, body)| (key.clone(), body.clone())).collect()
}
