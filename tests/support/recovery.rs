//! A repository in memory, with everything that can be done to it: for tests that break it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use chrono::DateTime;
use farshore::{
    clock::{FixedClock, SharedClock, SystemClock},
    operations::{
        BackupRequest, CHECKPOINT_EVERY, Destination, NamedSource, OperationError, Phases, PinRequest, PointSummary, PruneRequest,
        RepairRequest, RestoreRequest, UndeleteRequest, VerifyLevel, VerifyRequest, backup, open_point, pin, point_summaries,
        prune, repair, restore, undelete, verify,
    },
    policy::{Policy, Retention},
    progress::Tally,
    report::{BackupReport, Hurt, PruneReport, RepairReport, VerifyReport},
    repository::{
        Agent, Budget, Expected, Identities, LockTerm, PinAction, PinRecord, Reader, Recipients, Repository, Workers,
        generate_identity,
    },
    sources::bucket::{BucketOptions, BucketSource, BucketTarget},
    stores::{GetOptions, MemoryStore, PutOptions, Retry, RetryPolicy, SharedStore, Store, read_all},
};
use secrecy::SecretString;

/// Objects by key.
pub type Objects = BTreeMap<String, Bytes>;

/// A bucket, a policy, keys; and what it takes to back the bucket up to any store, and back.
pub struct Recovery {
    pub clock: Arc<FixedClock>,
    pub source: Arc<MemoryStore>,
    pub identities: Identities,
    /// Open the catalogue and no data, where the repository is encrypted.
    pub agent: Identities,
    pub recipients: Recipients,
    pub expected: Expected,
    /// How the policy has the site lock what is stored.
    pub lock: Option<LockTerm>,
    /// What retention keeps.
    pub retention: Retention,
    pub workers: Arc<Workers>,
    pub policy: Policy,
    /// The longest a backup may take.
    pub time_limit: Duration,
    /// How often a backup stores what it has read so far.
    pub checkpoint_every: Duration,
    directory: tempfile::TempDir,
}

/// All objects of a store.
pub async fn objects(store: &dyn Store) -> Objects {
    let mut all = Objects::new();
    for object in store.list("", None, 100_000).await.unwrap().objects {
        let body = read_all(store, &object.key, GetOptions::default(), u64::MAX).await.unwrap();
        all.insert(object.key, body);
    }
    all
}

/// A store that holds these objects.
pub async fn store_of(objects: &Objects) -> Arc<MemoryStore> {
    let store = MemoryStore::new("site");
    for (key, body) in objects {
        store.put(key, body.clone(), PutOptions::default()).await.unwrap();
    }
    store
}

/// The store with retries that do not wait long.
pub fn patient(store: SharedStore) -> SharedStore {
    let pauses = Duration::from_millis(1);
    let policy = RetryPolicy { first_pause: pauses, longest_pause: pauses, ..RetryPolicy::default() };
    Retry::over(store, policy, SystemClock::shared())
}

/// So many bytes that do not compress, always the same for the same seed.
pub fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    use rand::{Rng, SeedableRng, rngs::StdRng};
    let mut out = vec![0; bytes];
    StdRng::seed_from_u64(seed).fill_bytes(&mut out);
    out
}

impl Recovery {
    /// With an encrypted repository, or one without.
    pub fn new(encrypted: bool) -> Self {
        let clock = FixedClock::shared(DateTime::from_timestamp(1_795_000_000, 0).unwrap());
        let (identities, agent, recipients, said) = if encrypted {
            let (secret, public) = generate_identity(DateTime::UNIX_EPOCH);
            let text = SecretString::from(secret);
            let (agent, agent_public) = generate_identity(DateTime::UNIX_EPOCH);
            let agent = Identities::parse("agent", &SecretString::from(agent)).unwrap();
            let recipients = Recipients::parse(std::slice::from_ref(&public), &[agent_public]).unwrap();
            (Identities::parse("test", &text).unwrap(), agent, recipients, format!("[encryption]\nrecipients = [\"{public}\"]\n"))
        } else {
            (Identities::none(), Identities::none(), Recipients::Nobody, String::new())
        };
        let head = if encrypted { "" } else { "encryption = \"none\"\n" };
        let text = format!(
            "name = \"p\"\n{head}[[source]]\nname = \"b\"\nkind = \"bucket\"\nstore = {{ kind = \"filesystem\", path = \"/nowhere\" }}\n\
             [[site]]\nname = \"s\"\nstore = {{ kind = \"filesystem\", path = \"/nowhere-else\" }}\n{said}"
        );
        let policy = Policy::parse(&text, "test").unwrap();
        Self {
            retention: policy.retention,
            source: MemoryStore::new("source"),
            clock,
            identities,
            agent,
            recipients,
            expected: if encrypted { Expected::Encrypted } else { Expected::Unencrypted },
            lock: None,
            workers: Workers::start(2, 1).unwrap(),
            policy,
            time_limit: Duration::from_secs(60),
            checkpoint_every: CHECKPOINT_EVERY,
            directory: tempfile::tempdir().unwrap(),
        }
    }

    /// Another policy with the same keys and on the same clock, for a site that both share; its bucket is another.
    pub fn beside(&self, name: &str) -> Self {
        let text = self.policy.text.replacen("name = \"p\"", &format!("name = \"{name}\""), 1);
        Self {
            clock: Arc::clone(&self.clock),
            source: MemoryStore::new("source"),
            identities: self.identities.clone(),
            agent: self.agent.clone(),
            recipients: self.recipients.clone(),
            expected: self.expected,
            lock: self.lock,
            retention: self.retention,
            workers: Arc::clone(&self.workers),
            policy: Policy::parse(&text, "test").unwrap(),
            time_limit: self.time_limit,
            checkpoint_every: self.checkpoint_every,
            directory: tempfile::tempdir().unwrap(),
        }
    }

    pub async fn put(&self, key: &str, body: Vec<u8>) {
        self.source.put(key, body.into(), PutOptions::default()).await.unwrap();
    }

    pub fn shared_clock(&self) -> SharedClock {
        self.clock.clone()
    }

    /// A directory for a local index that nobody used before.
    pub fn fresh_cache(&self) -> PathBuf {
        tempfile::tempdir_in(self.directory.path()).unwrap().keep()
    }

    /// A store on this clock that holds these objects, all stored now.
    pub async fn site_of(&self, objects: &Objects) -> Arc<MemoryStore> {
        let store = MemoryStore::with_clock("site", self.clock.clone());
        for (key, body) in objects {
            store.put(key, body.clone(), PutOptions::default()).await.unwrap();
        }
        store
    }

    pub async fn init(&self, store: &SharedStore) {
        Repository::init_locked(store, &self.shared_clock(), &self.recipients, self.lock).await.unwrap();
    }

    pub async fn open(&self, store: SharedStore, cache: &Path) -> Result<Repository, OperationError> {
        self.open_with(&self.identities, store, cache).await
    }

    pub async fn open_with(&self, identities: &Identities, store: SharedStore, cache: &Path) -> Result<Repository, OperationError> {
        let repository = Repository::open(store, self.shared_clock(), identities, self.expected, cache).await?;
        Ok(match self.lock {
            Some(term) => repository.with_lock(term),
            None => repository,
        })
    }

    pub async fn reader(&self, repository: &Repository) -> Result<Reader, OperationError> {
        Ok(Reader::open(repository, Arc::clone(&self.workers), Budget::new(0)).await?)
    }

    /// A point later than the last one.
    pub async fn backup(&self, store: SharedStore, cache: &Path) -> Result<BackupReport, OperationError> {
        self.backup_of(self.source.clone(), store, cache).await
    }

    /// A point of another bucket.
    pub async fn backup_of(
        &self,
        source: Arc<MemoryStore>,
        store: SharedStore,
        cache: &Path,
    ) -> Result<BackupReport, OperationError> {
        self.clock.advance(Duration::from_secs(60));
        let repository = self.open(store, cache).await?;
        let destinations = vec![Destination { name: "s".to_owned(), repository: &repository, recipients: &self.recipients }];
        let mut backed = backup(BackupRequest {
            checkpoint_every: self.checkpoint_every,
            policy: &self.policy,
            sources: vec![NamedSource {
                name: "b".to_owned(),
                capture: Arc::new(BucketSource::new(source, BucketOptions::default())),
            }],
            destinations,
            unreachable: Vec::new(),
            workers: Arc::clone(&self.workers),
            observer: Tally::alone(),
            clock: self.shared_clock(),
            agent: Agent { version: "0".to_owned(), host: "test".to_owned() },
            parallelism: 2,
            time_limit: Some(self.time_limit),
        })
        .await?;
        match backed.failed.pop() {
            Some((_, error)) => Err(error),
            None => Ok(backed.reports.remove(0)),
        }
    }

    pub async fn points(&self, store: SharedStore, cache: &Path) -> Result<Vec<PointSummary>, OperationError> {
        point_summaries(&self.open(store, cache).await?, Some(&self.policy.name)).await
    }

    /// What a point gives back.
    pub async fn restore(&self, store: SharedStore, cache: &Path, wanted: &str) -> Result<Objects, OperationError> {
        self.restore_with(&self.identities, store, cache, wanted).await
    }

    /// What a point gives back to the holder of these identities alone.
    pub async fn restore_with(
        &self,
        identities: &Identities,
        store: SharedStore,
        cache: &Path,
        wanted: &str,
    ) -> Result<Objects, OperationError> {
        let repository = self.open_with(identities, store, cache).await?;
        let point = repository.point(&repository.find_point(Some(&self.policy.name), wanted).await?).await?;
        let reader = self.reader(&repository).await?;
        open_point(&repository, &reader, &point).await?;
        let target = MemoryStore::new("target");
        let request = RestoreRequest {
            repository: &repository,
            reader,
            point: &point,
            targets: vec![("b".to_owned(), Arc::new(BucketTarget::new(target.clone())))],
            below: None,
            into_existing: false,
            lost_at: None,
            retrieval: None,
            observer: Tally::alone(),
            clock: self.shared_clock(),
            parallelism: 2,
        };
        restore(&request, Phases::new(self.shared_clock(), Tally::alone())).await?;
        Ok(objects(target.as_ref()).await)
    }

    /// Prunes with the agent's key alone, a minute later.
    pub async fn prune(&self, store: SharedStore, cache: &Path) -> Result<PruneReport, OperationError> {
        self.prune_so(store, cache, false).await
    }

    /// Prunes, or says what it would do.
    pub async fn prune_so(&self, store: SharedStore, cache: &Path, dry_run: bool) -> Result<PruneReport, OperationError> {
        self.clock.advance(Duration::from_secs(60));
        let repository = self.open_with(&self.agent, store, cache).await?;
        prune(PruneRequest {
            policy: &self.policy,
            retention: &self.retention,
            repository: &repository,
            workers: Arc::clone(&self.workers),
            budget: Budget::new(0),
            dry_run,
            observer: Tally::alone(),
            clock: self.shared_clock(),
        })
        .await
    }

    /// Brings a doomed point back, and pins it for ever.
    pub async fn undelete(&self, store: SharedStore, cache: &Path, wanted: &str) -> Result<PinRecord, OperationError> {
        let repository = self.open_with(&self.agent, store, cache).await?;
        let point = repository.find_point(Some(&self.policy.name), wanted).await?;
        let agent = farshore::report::Agent { user: "u".to_owned(), host: "h".to_owned(), version: "0".to_owned() };
        let now = self.shared_clock().now();
        undelete(&UndeleteRequest { repository: &repository, point: &point, until: None, reason: "needed", agent: &agent, now })
            .await
    }

    /// Pins a point for ever.
    pub async fn pin(&self, store: SharedStore, cache: &Path, wanted: &str) -> Result<PinRecord, OperationError> {
        let repository = self.open_with(&self.agent, store, cache).await?;
        let point = repository.find_point(Some(&self.policy.name), wanted).await?;
        let agent = farshore::report::Agent { user: "u".to_owned(), host: "h".to_owned(), version: "0".to_owned() };
        let (action, now) = (PinAction::Pin, self.shared_clock().now());
        pin(&PinRequest { repository: &repository, point: &point, action, until: None, reason: "needed", agent: &agent, now }).await
    }

    /// Repairs, and tells of everything that is hurt.
    pub async fn repair(
        &self,
        store: SharedStore,
        cache: &Path,
        dry_run: bool,
        hurt: &(dyn Fn(&Hurt) + Send + Sync),
    ) -> Result<RepairReport, OperationError> {
        self.clock.advance(Duration::from_secs(60));
        repair(RepairRequest {
            repository: &self.open(store, cache).await?,
            workers: Arc::clone(&self.workers),
            budget: Budget::new(0),
            dry_run,
            hurt,
            observer: Tally::alone(),
            clock: self.shared_clock(),
        })
        .await
    }

    /// Reads everything.
    pub async fn verify(&self, store: SharedStore, cache: &Path) -> Result<VerifyReport, OperationError> {
        self.verify_with(&self.identities, store, cache).await
    }

    /// Reads everything, with other identities.
    pub async fn verify_with(
        &self,
        identities: &Identities,
        store: SharedStore,
        cache: &Path,
    ) -> Result<VerifyReport, OperationError> {
        self.verify_so_far(identities, store, cache, VerifyLevel::ReadData(100.0)).await
    }

    /// Verifies as far as said.
    pub async fn verify_at(&self, store: SharedStore, cache: &Path, level: VerifyLevel) -> Result<VerifyReport, OperationError> {
        self.verify_so_far(&self.identities, store, cache, level).await
    }

    /// Verifies as far as said, in no time.
    pub async fn verify_now(&self, store: SharedStore, cache: &Path, level: VerifyLevel) -> Result<VerifyReport, OperationError> {
        self.verifies(&self.identities, store, cache, level).await
    }

    /// Verifies as far as said, with other identities, a minute later.
    pub async fn verify_so_far(
        &self,
        identities: &Identities,
        store: SharedStore,
        cache: &Path,
        level: VerifyLevel,
    ) -> Result<VerifyReport, OperationError> {
        self.clock.advance(Duration::from_secs(60));
        self.verifies(identities, store, cache, level).await
    }

    async fn verifies(
        &self,
        identities: &Identities,
        store: SharedStore,
        cache: &Path,
        level: VerifyLevel,
    ) -> Result<VerifyReport, OperationError> {
        let repository = self.open_with(identities, store, cache).await?;
        verify(VerifyRequest {
            repository: &repository,
            workers: Arc::clone(&self.workers),
            budget: Budget::new(0),
            policy: None,
            level,
            window: chrono::TimeDelta::days(45),
            observer: Tally::alone(),
            clock: self.shared_clock(),
        })
        .await
    }
}
