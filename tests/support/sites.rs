//! Several repositories in memory, and what is done to more than one of them: backups from one read, and copies.

use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::DateTime;
use farshore::{
    operations::{Backed, BackupRequest, CopyRequest, Destination, NamedSource, OperationError, backup, copy},
    progress::Tally,
    report::CopyReport,
    repository::{Agent, Identities, Recipients, Repository, generate_identity},
    sources::{
        Capture,
        bucket::{BucketOptions, BucketSource},
    },
    stores::{Download, GetOptions, ObjectAttributes, ObjectStat, Page, PutOptions, SharedStore, Store, StoreError, UploadedPart},
};
use secrecy::SecretString;

use super::recovery::Recovery;

/// A site with those who can read there.
#[derive(Clone)]
pub struct Far {
    pub name: &'static str,
    pub store: SharedStore,
    pub recipients: Recipients,
    pub identities: Identities,
}

/// A pair of keys that nothing else in a test has.
pub fn fresh_reader() -> (Identities, Recipients) {
    let (secret, public) = generate_identity(DateTime::UNIX_EPOCH);
    let identities = Identities::parse("fresh", &SecretString::from(secret)).unwrap();
    (identities, Recipients::parse(&[public], &[]).unwrap())
}

impl Recovery {
    /// A site whose readers are the usual ones.
    pub fn far(&self, name: &'static str, store: SharedStore) -> Far {
        Far { name, store, recipients: self.recipients.clone(), identities: self.identities.clone() }
    }

    async fn open_far(&self, far: &Far, cache: &Path) -> Result<Repository, OperationError> {
        self.open_with(&far.identities, far.store.clone(), cache).await
    }

    /// A point later than the last one, of `source`, at all sites that can be opened.
    pub async fn backup_to(&self, source: SharedStore, sites: &[Far], cache: &Path) -> Result<Backed, OperationError> {
        self.capture_to(Arc::new(BucketSource::new(source, BucketOptions::default())), sites, cache).await
    }

    /// The same of any kind of source.
    pub async fn capture_to(&self, capture: Arc<dyn Capture>, sites: &[Far], cache: &Path) -> Result<Backed, OperationError> {
        self.clock.advance(Duration::from_secs(60));
        let (mut open, mut failed) = (Vec::new(), Vec::new());
        for far in sites {
            match self.open_far(far, cache).await {
                Ok(repository) => open.push((far, repository)),
                Err(error) => failed.push((far.name.to_owned(), error)),
            }
        }
        let destination = |(far, repository)| {
            let (far, repository): (&Far, _) = (far, repository);
            Destination { name: far.name.to_owned(), repository, recipients: &far.recipients }
        };
        let backed = backup(BackupRequest {
            checkpoint_every: self.checkpoint_every,
            policy: &self.policy,
            sources: vec![NamedSource { name: "b".to_owned(), capture }],
            destinations: open.iter().map(|(far, repository)| destination((far, repository))).collect(),
            unreachable: failed.iter().map(|(name, _)| name.clone()).collect(),
            workers: Arc::clone(&self.workers),
            observer: Tally::alone(),
            clock: self.shared_clock(),
            agent: Agent { version: "0".to_owned(), host: "test".to_owned() },
            parallelism: 2,
            time_limit: Some(Duration::from_secs(60)),
        })
        .await?;
        failed.extend(backed.failed);
        Ok(Backed { failed, ..backed })
    }

    /// Copies the points that `wanted` names, or all.
    pub async fn copy(&self, from: &Far, to: &Far, wanted: Option<&str>, cache: &Path) -> Result<CopyReport, OperationError> {
        let source = Arc::new(self.open_far(from, cache).await?);
        let target = Arc::new(self.open_far(to, cache).await?);
        let points = match wanted {
            Some(wanted) => vec![source.find_point(Some(&self.policy.name), wanted).await?],
            None => source.point_names(Some(&self.policy.name)).await?,
        };
        copy(&CopyRequest {
            from: &source,
            to: &target,
            to_name: Some(to.name),
            recipients: &to.recipients,
            points,
            log_of: Some(&self.policy.name),
            compression_level: 1,
            workers: Arc::clone(&self.workers),
            memory_bytes: 0,
            parallelism: 2,
            observer: Tally::alone(),
            clock: self.shared_clock(),
        })
        .await
    }
}

/// What was written where, in order: number of the store, key, bytes.
pub type Log = Arc<Mutex<Vec<(usize, String, Bytes)>>>;

/// Remembers in a log, which others may share, what was written.
#[derive(Debug)]
pub struct Logged {
    pub number: usize,
    pub inner: SharedStore,
    pub log: Log,
}

#[async_trait]
impl Store for Logged {
    fn describe(&self) -> String {
        self.inner.describe()
    }
    async fn put(&self, key: &str, body: Bytes, options: PutOptions) -> Result<ObjectStat, StoreError> {
        let stat = self.inner.put(key, body.clone(), options).await?;
        self.log.lock().unwrap().push((self.number, key.to_owned(), body));
        Ok(stat)
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
        panic!("neither backup nor copy deletes, and this one deletes {key}")
    }
    async fn begin_upload(&self, key: &str, _: ObjectAttributes) -> Result<String, StoreError> {
        panic!("this test does not record the multipart upload of {key}")
    }
    async fn upload_part(&self, key: &str, _: &str, _: u32, _: Bytes) -> Result<UploadedPart, StoreError> {
        panic!("this test does not record the multipart upload of {key}")
    }
    async fn complete_upload(&self, key: &str, _: &str, _: &[UploadedPart], _: bool) -> Result<ObjectStat, StoreError> {
        panic!("this test does not record the multipart upload of {key}")
    }
    async fn abort_upload(&self, key: &str, _: &str) -> Result<(), StoreError> {
        panic!("this test does not record the multipart upload of {key}")
    }
    async fn create(&self) -> Result<(), StoreError> {
        Ok(())
    }
}
