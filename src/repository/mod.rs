//! Everything Farshore keeps under one prefix at a site: chunks, packs, indexes, keys, recovery points.
//!
//! Invariants (normative text: `docs/format.md`):
//! * Every object is written once, only-if-absent, never overwritten, never renamed.
//! * Order of writes of a backup: the data key → packs → the index that names them → … → the recovery point. The point's
//!   existence is the commit; a crash anywhere before it leaves at worst packs that nothing refers to, which the next run finds
//!   through their partial indexes and uses.
//! * Nothing that was read is used before its authentication tag verified, and no chunk before its keyed hash did.
//! * No locks: any number of writers, readers and prunes. What is deleted was doomed first: see [`trash`].
//!
//! Leaves out on purpose: what the bytes mean (that is the sources' affair).

mod cache;
mod chunk;
mod compare;
mod compressors;
pub mod decoding;
mod entry;
mod error;
mod evidence;
mod format;
mod index;
mod json_record;
mod keys;
mod local_state;
mod lock;
mod log;
mod marks;
mod memory;
mod pack;
mod parts;
mod pins;
mod plan;
mod point;
mod pool;
mod probe;
mod reach;
mod reached;
mod reader;
mod rebuild;
mod recent;
mod seal;
mod site_clock;
mod structure;
mod trash;
mod workers;
mod writer;

use std::{
    path::PathBuf,
    sync::{Arc, Weak},
};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

pub use cache::{ChunkCache, PackRecord, Seen};
pub use chunk::{ChunkId, ChunkList, ChunkRef, Class, REF_BYTES, parse_refs};
pub use compare::Differing;
pub use entry::EntryRecord;
pub use error::RepositoryError;
pub use evidence::EvidenceName;
pub use format::{Id, index_key, pack_key};
pub use keys::{
    Holder, Identities, KeyHolders, RecipientSet, Recipients, RotationPlan, RotationRequest, RotationSummary, SetMember, SetName,
    data_key_id, data_key_object, generate_identity, is_passphrase_wrapped, open_identities, parse_public_key, random, sha256,
    wrap_identity,
};
pub use lock::LockTerm;
pub use log::{
    FetchedLogFile, LaterLog, LogAnswer, LogHead, LogKey, LogKeys, LogKind, LogName, LogPut, LogReader, LogRemoved, LogWriter,
    Looked, MAX_LOG_FILE_BYTES, SealedLog, StoredLog,
};
pub use marks::{Mark, MarkState, Marks};
pub use memory::Budget;
pub use parts::{Part, ShardMark, StoredPart};
pub use pins::{PinAction, PinRecord, StoredPin};
pub use plan::{Claim, Plan, PlanName, Planned, SharedSource};
pub(crate) use point::one_policy;
pub use point::{Agent, Measures, Point, PointName, Snapshot};
pub(crate) use pool::{Pool, processors};
pub use probe::examine_store;
pub use reach::{Needed, Reach};
pub use reached::Reached;
pub use reader::{ArchivedPack, Piece, Reader, Undelivered};
pub use rebuild::Rebuilt;
pub use recent::Recent;
pub use site_clock::site_time;
pub use structure::{KeyCheck, PackCheck, StoredPack, StructureReport, Survey};
pub use trash::{
    CLOCK_TOLERANCE, COMMIT_MARGIN, DoomRecord, Dooms, LEAST_GRACE, LOOK_LASTS, PackFacts, PackVerdict, RecordFacts, Removal,
    Removed, Repacked, SPARED_RECORD_STAYS, StoredDoom, look_holds, may_be_unseen, may_commit, must_look_whole, pin_holds,
    was_in_time,
};
pub use workers::Workers;
pub use writer::{ContentStream, Cutting, EntryStream, WriteSummary, Writer};

use crate::{
    clock::SharedClock,
    progress::Finding,
    repository::{
        error::Result,
        format::{FORMAT, REPOSITORY_FILE},
        keys::{Catalogue, DataKeys},
    },
    stores::{GetOptions, PutOptions, SharedStore, StoreError, read_all},
};

/// `repository.json`: the only object in plain text. It says where to begin; `seal` binds all of it to the catalogue key.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RepositoryFile {
    /// Always `farshore`.
    pub product: String,
    /// Number of the format.
    pub format: u64,
    /// The repository's id, hexadecimal.
    pub id: String,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// `aes-256-gcm`, with keys wrapped by `age`; or `none`: the keys lie beside the data in plain text.
    pub encryption: String,
    /// Id of the catalogue key, hexadecimal.
    pub catalogue_key: String,
    /// What `init` found out: `exclusive` (if-absent writes have one winner) or `last-writer-wins`.
    pub writes: String,
    /// The public keys (`age1…`, sorted) that the catalogue key is wrapped to, and every data key must be until a recipient set
    /// says otherwise. Absent in an unencrypted repository.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recipients: Vec<String>,
    /// Public keys (`age1…`) of the agents that the catalogue key is wrapped to. Absent in an unencrypted repository, and in those
    /// made before it was recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agents: Option<Vec<String>>,
    /// What `init` found out where the policy asked for locks: the mode (`governance` or `compliance`) that the site kept when it was
    /// tried out. Absent where nobody asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locks: Option<String>,
    /// Keyed hash of everything else in it (also of what later versions add), hexadecimal.
    pub seal: String,
}

/// What the caller knows of a repository before it is opened. Without it a hostile site could answer with a repository of its
/// own whose keys lie beside the data, and be sent everything in the clear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// The policy names recipients, or an identity was given: an unencrypted repository is refused.
    Encrypted,
    /// The policy says `encryption = "none"`: an encrypted repository is refused.
    Unencrypted,
    /// Nothing is known: no policy, no identity. Only an unencrypted repository can be opened then, and every report says so.
    Unknown,
}

/// `encryption` of a repository whose keys are not wrapped.
pub const UNENCRYPTED: &str = "none";
/// `encryption` of a repository whose keys are wrapped by `age`.
pub const ENCRYPTED: &str = "aes-256-gcm";

/// A repository whose catalogue key is open.
#[derive(Debug)]
pub struct Repository {
    store: SharedStore,
    clock: SharedClock,
    file: RepositoryFile,
    catalogue: Arc<Catalogue>,
    identities: Identities,
    cache_directory: PathBuf,
    /// The same store as `store`, where what is written is locked.
    locking: Option<Arc<lock::Locking>>,
    /// The local index while somebody uses it: a second opening of the same file would have to do with a private copy.
    cache: Mutex<Weak<ChunkCache>>,
}

/// What `init` found and made.
#[derive(Debug, Clone, Serialize)]
pub struct Initialised {
    /// The repository's id, hexadecimal.
    pub id: String,
    /// See [`RepositoryFile::writes`].
    pub writes: String,
    /// See [`RepositoryFile::encryption`].
    pub encryption: String,
    /// What was probed and found.
    pub findings: Vec<Finding>,
}

fn parse_id(place: &str, text: &str) -> Result<Id> {
    let mut id = Id::default();
    hex::decode_to_slice(text, &mut id)
        .map_err(|_| RepositoryError::Damaged { place: place.to_owned(), detail: format!("{text:?} is no id of 16 bytes") })?;
    Ok(id)
}

/// The `seal` of `repository.json`: over the compact JSON of its other fields, sorted by name.
fn repository_seal(catalogue: &Catalogue, mut file: serde_json::Value) -> String {
    if let Some(fields) = file.as_object_mut() {
        fields.remove("seal");
    }
    hex::encode(catalogue.repository_seal(file.to_string().as_bytes()))
}

impl Expected {
    /// Refuses an `encryption` that is unknown, or not what the caller was told of by somebody else than the site.
    fn check(self, place: &str, encryption: &str) -> Result<()> {
        let detail = match (self, encryption) {
            (Self::Encrypted | Self::Unknown, ENCRYPTED) | (Self::Unencrypted | Self::Unknown, UNENCRYPTED) => return Ok(()),
            (Self::Encrypted, UNENCRYPTED) => {
                "says that it is not encrypted, where the policy names recipients or an identity was given: either this is another repository than you think, or somebody replaced it. Write nothing to it; compare with another copy. If it is meant to be unencrypted, say encryption = \"none\" in the policy, or leave --identity away"
            }
            (Self::Unencrypted, ENCRYPTED) => {
                "is encrypted, where the policy says encryption = \"none\"; mend [encryption] in the policy, or choose another prefix and run `farshore init`"
            }
            (_, other) => {
                let detail = format!("names the unknown encryption {other:?}");
                return Err(RepositoryError::Damaged { place: place.to_owned(), detail });
            }
        };
        Err(RepositoryError::Key { place: place.to_owned(), detail: detail.to_owned() })
    }
}

impl Repository {
    /// Makes a new repository, after probing what the store really does.
    ///
    /// # Errors
    /// [`RepositoryError::AlreadyThere`], the store's, [`RepositoryError::Key`].
    pub async fn init(store: &SharedStore, clock: &SharedClock, recipients: &Recipients) -> Result<Initialised> {
        Self::init_locked(store, clock, recipients, None).await
    }

    /// As [`Self::init`], and with a term everything is locked from the beginning, after probing that locks are really kept.
    ///
    /// # Errors
    /// As [`Self::init`]; [`RepositoryError::Refused`] for a site that cannot do what the term asks for.
    pub async fn init_locked(
        store: &SharedStore,
        clock: &SharedClock,
        recipients: &Recipients,
        term: Option<LockTerm>,
    ) -> Result<Initialised> {
        // Listed, not looked up: a HEAD cannot tell a missing bucket from a missing object, and there are servers that make a
        // missing bucket on the first write.
        if !store.list(REPOSITORY_FILE, None, 1).await?.objects.is_empty() {
            return Err(RepositoryError::AlreadyThere { place: store.describe() });
        }
        let mut found = probe::probe(store, term.is_some()).await?;
        if let Some(term) = term {
            site_clock::site_time(store, clock).await?;
            found.findings.push(probe::probe_locks(store, term.mode).await?);
        }
        let locked: SharedStore;
        let store = match term {
            None => store,
            Some(term) => {
                locked = lock::Locking::over(store.clone(), term, clock.clone());
                &locked
            }
        };
        let id: Id = random();
        let catalogue = Catalogue::create(store, &id, recipients).await?;
        let file = RepositoryFile {
            product: "farshore".to_owned(),
            format: FORMAT.into(),
            id: hex::encode(id),
            created_at: clock.now(),
            encryption: if matches!(recipients, Recipients::Nobody) { UNENCRYPTED } else { ENCRYPTED }.to_owned(),
            catalogue_key: hex::encode(catalogue.id),
            writes: found.writes.clone(),
            recipients: recipients.public_keys(),
            agents: (!matches!(recipients, Recipients::Nobody)).then(|| recipients.agents()),
            locks: term.map(|term| term.mode.to_string()),
            seal: String::new(),
        };
        let unsealed = serde_json::to_value(&file).expect("strings and a number always serialise");
        let file = RepositoryFile { seal: repository_seal(&catalogue, unsealed), ..file };
        let body = serde_json::to_vec_pretty(&file).expect("strings and a number always serialise");
        let options = PutOptions { if_absent: true, sha256: Some(sha256(&body)), ..PutOptions::default() };
        store.put(REPOSITORY_FILE, body.into(), options).await.map_err(|error| match error {
            StoreError::AlreadyExists { .. } => RepositoryError::AlreadyThere { place: store.describe() },
            other => other.into(),
        })?;
        Ok(Initialised { id: file.id, writes: file.writes, encryption: file.encryption, findings: found.findings })
    }

    /// Opens a repository with the identities at hand. `cache_root` is the directory under which local indexes live.
    ///
    /// # Errors
    /// [`RepositoryError::NoRepository`], [`RepositoryError::UnknownFormat`], [`RepositoryError::Damaged`], the store's;
    /// [`RepositoryError::Key`], also for a repository that is not as `expected`.
    pub async fn open(
        store: SharedStore,
        clock: SharedClock,
        identities: &Identities,
        expected: Expected,
        cache_root: &std::path::Path,
    ) -> Result<Self> {
        let place = format!("{}/{REPOSITORY_FILE}", store.describe());
        let body =
            read_all(store.as_ref(), REPOSITORY_FILE, GetOptions::default(), 1 << 20).await.map_err(|error| match error {
                StoreError::NotFound { .. } => RepositoryError::NoRepository { place: store.describe() },
                other => other.into(),
            })?;
        let damaged = |detail: String| RepositoryError::Damaged { place: place.clone(), detail };
        let read: serde_json::Value = serde_json::from_slice(&body).map_err(|error| damaged(error.to_string()))?;
        let file = RepositoryFile::deserialize(&read).map_err(|error| damaged(error.to_string()))?;
        if file.product != "farshore" {
            return Err(damaged(format!("belongs to {:?}", file.product)));
        }
        if file.format != u64::from(FORMAT) {
            return Err(RepositoryError::UnknownFormat { place, found: file.format, known: FORMAT.into() });
        }
        let (id, key) = (parse_id(&place, &file.id)?, parse_id(&place, &file.catalogue_key)?);
        expected.check(&place, &file.encryption)?;
        let catalogue = Catalogue::open(&store, &key, &id, file.encryption == UNENCRYPTED, identities).await?;
        // Without this, one changed digit of the id would derive other chunk ids: a backup would go on, and nobody find its chunks.
        if file.seal != repository_seal(&catalogue, read) {
            return Err(damaged("its seal does not match what it says".to_owned()));
        }
        // Named by id and key: a site that lies about either never meets the cache of another repository.
        let cache_directory = cache_root.join(format!("{}-{}", hex::encode(id), hex::encode(&key[..4])));
        let catalogue = Arc::new(catalogue);
        Ok(Self {
            store,
            clock,
            file,
            catalogue,
            identities: identities.clone(),
            cache_directory,
            locking: None,
            cache: Mutex::default(),
        })
    }

    /// What `repository.json` says.
    pub fn file(&self) -> &RepositoryFile {
        &self.file
    }

    /// The store it lies in.
    pub fn store(&self) -> &SharedStore {
        &self.store
    }

    /// Whether the keys lie beside the data; every report repeats it.
    pub fn is_unencrypted(&self) -> bool {
        self.file.encryption == UNENCRYPTED
    }

    fn data_keys(&self) -> DataKeys {
        DataKeys::new(self.store.clone(), self.is_unencrypted(), self.identities.clone())
    }

    /// Opens the local index and brings it up to date with the site's.
    ///
    /// # Errors
    /// The store's, [`RepositoryError::Damaged`] for an index that is, [`RepositoryError::Cache`].
    pub async fn chunks(&self) -> Result<Arc<cache::ChunkCache>> {
        Ok(self.survey().await?.0)
    }

    /// As [`Self::chunks`]; also what the look at the site showed to be there.
    ///
    /// # Errors
    /// As [`Self::chunks`].
    pub async fn survey(&self) -> Result<(Arc<cache::ChunkCache>, Survey)> {
        structure::synchronise(self).await
    }
}
