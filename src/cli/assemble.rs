//! From a policy's words to open stores, sources and targets.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use secrecy::{ExposeSecret, SecretString};

use super::{CliError, exposed::warn_if_exposed, place};
use crate::{
    clock::SharedClock,
    operations::NamedSource,
    policy::{
        AzurePolicy, BandwidthHours, DayTime, Encryption, Limits, LockModePolicy, LockPolicy, PlainOrSecret, Policy,
        PostgresMethod, PostgresPolicy, PostgresReadBy, PostgresReceiveBy, RehydratePolicy, RetrievalSpeed, SecretReference,
        ServerEncryption, SitePolicy, SourceKind, StorePolicy,
    },
    report::Agent,
    repository::{LockTerm, MAX_LOG_FILE_BYTES, Recipients, Workers},
    sources::{
        Capture,
        bucket::{BucketOptions, BucketSource},
        command::{CommandOptions, CommandSource},
        files::{FilesOptions, FilesSource},
        postgres::{
            LogicalOptions, PostgresConfig, PostgresLogical,
            physical::{LogOptions, PhysicalOptions, PostgresPhysical, ReadBy, Streamed},
        },
    },
    stores::{
        AzureConfig, AzureCredential, AzureStore, Bandwidth, FilesystemStore, Hours, Limit, LockMode, Retrieval, RetrievalPriority,
        Retry, RetryPolicy, S3Config, S3Encryption, S3Store, SharedStore, StoreError, TimeOfDay, WireConfig, Zone,
    },
};

/// Without a word in the policy, no store has more requests under way.
const MOST_REQUESTS: usize = 256;
/// What the connection of a request takes at most, with what it has read and not handed on. Bytes.
const REQUEST_BYTES: u64 = 1 << 20;
/// Calls under way in a directory: they end in threads.
const MOST_FILE_CALLS: usize = 64;

/// The way to a store, beside its address.
#[derive(Debug, Clone)]
pub(super) struct Way {
    /// Most requests under way at once.
    requests: usize,
    /// How many bytes may go there and come from there in a second.
    bandwidth: Option<Arc<Bandwidth>>,
}

impl Way {
    /// To a site of a policy.
    pub(super) fn to_site(limits: &Limits, site: &SitePolicy, clock: &SharedClock) -> Self {
        Self { bandwidth: bandwidth(&site.bandwidth, clock), ..Self::to_place(limits) }
    }

    /// To a place that no policy names.
    pub(super) fn to_place(limits: &Limits) -> Self {
        let by_memory = usize::try_from(limits.memory_bytes / REQUEST_BYTES).unwrap_or(MOST_REQUESTS).clamp(16, MOST_REQUESTS);
        Self { requests: limits.requests.unwrap_or(by_memory), bandwidth: None }
    }

    /// To a bucket that is protected: a policy that says how many readers there are means them as well.
    fn to_source(limits: &Limits) -> Self {
        let Self { requests, bandwidth } = Self::to_place(limits);
        Self { requests: limits.parallelism.map_or(requests, |readers| readers.min(requests)), bandwidth }
    }
}

/// Reads a secret from where the policy says it is.
pub(super) fn secret(reference: &SecretReference) -> Result<SecretString, CliError> {
    let from_file = |path: &PathBuf| {
        warn_if_exposed(path);
        std::fs::read_to_string(path).map_err(|error| {
            CliError::setting(reference.to_string(), format!("the secret cannot be read ({}): {error}", path.display()))
        })
    };
    let text = match reference {
        SecretReference::File(path) => from_file(path)?,
        SecretReference::Env(name) => std::env::var(name).map_err(|_| {
            CliError::setting(reference.to_string(), "is not set; set it, or name another place for the secret in the policy")
        })?,
        SecretReference::Credential(name) => {
            let directory = std::env::var_os("CREDENTIALS_DIRECTORY").ok_or_else(|| {
                CliError::setting(
                    reference.to_string(),
                    "systemd credentials exist only within a unit; start it with systemctl, or use { file = … } by hand",
                )
            })?;
            from_file(&PathBuf::from(directory).join(name))?
        }
    };
    // The units hand over an empty line for a credential that is not there; a variable may be set to nothing. Both would otherwise
    // reach a server as a wrong password, or be taken for no password at all.
    if text.trim().is_empty() {
        return Err(CliError::setting(
            reference.to_string(),
            "the secret is missing: nothing but white space is there; put the secret in, or name another place for it in the policy",
        ));
    }
    Ok(SecretString::from(text.strip_suffix('\n').unwrap_or(&text).to_owned()))
}

fn plain_or_secret(value: &PlainOrSecret) -> Result<String, CliError> {
    match value {
        PlainOrSecret::Plain(text) => Ok(text.clone()),
        PlainOrSecret::Secret(reference) => Ok(secret(reference)?.expose_secret().to_owned()),
    }
}

/// Puts the wrappers over a bare store: as many requests at once as pay, each retried where that makes sense.
pub(super) fn wrap(store: SharedStore, way: &Way, clock: &SharedClock) -> SharedStore {
    Retry::over(Limit::over(store, way.requests), RetryPolicy::default(), clock.clone())
}

/// Opens the store that a policy names; with `first_versions` to read what it stored first of each object.
pub(super) async fn store(
    policy: &StorePolicy,
    way: &Way,
    first_versions: bool,
    clock: &SharedClock,
) -> Result<SharedStore, CliError> {
    let bare: SharedStore = match policy {
        StorePolicy::Filesystem(_) if first_versions => {
            return Err(StoreError::Unsupported { place: policy.place(), what: "reading earlier versions" }.into());
        }
        StorePolicy::Filesystem(filesystem) => {
            let store = FilesystemStore::new(filesystem.path.clone());
            let limited = Limit::over_line(store, way.requests.min(MOST_FILE_CALLS), way.bandwidth.clone());
            return Ok(Retry::over(limited, RetryPolicy::default(), clock.clone()));
        }
        StorePolicy::S3(s3) => Arc::new(
            S3Store::connect(S3Config {
                bucket: s3.bucket.clone(),
                prefix: s3.prefix.clone(),
                region: s3.region.clone(),
                endpoint: s3.endpoint.clone(),
                path_style: s3.path_style,
                access_key: s3.access_key.as_ref().map(plain_or_secret).transpose()?,
                secret_key: s3.secret_key.as_ref().map(secret).transpose()?,
                session_token: s3.session_token.as_ref().map(secret).transpose()?,
                profile: s3.profile.clone(),
                encryption: s3.encryption.as_ref().map(server_encryption),
                requester_pays: s3.requester_pays,
                first_versions,
                wire: wire(way),
            })
            .await?,
        ),
        StorePolicy::Azure(azure) => Arc::new(
            AzureStore::connect(AzureConfig {
                account: azure.account.clone(),
                container: azure.container.clone(),
                prefix: azure.prefix.clone(),
                endpoint: azure.endpoint.clone(),
                credential: azure_credential(azure)?,
                first_versions,
                wire: wire(way),
            })
            .await?,
        ),
    };
    Ok(wrap(bare, way, clock))
}

fn server_encryption(policy: &ServerEncryption) -> S3Encryption {
    match policy {
        ServerEncryption::SseS3 => S3Encryption::S3,
        ServerEncryption::SseKms { key, bucket_key } => S3Encryption::Kms { key: key.clone(), bucket_key: *bucket_key },
    }
}

fn wire(way: &Way) -> WireConfig {
    WireConfig { bandwidth: way.bandwidth.clone(), ..WireConfig::default() }
}

/// A site's limit, where it has one.
pub(super) fn bandwidth(policy: &[BandwidthHours], clock: &SharedClock) -> Option<Arc<Bandwidth>> {
    let time = |time: DayTime| TimeOfDay::new(time.hour, time.minute);
    let hours = |hours: &BandwidthHours| Hours {
        window: hours
            .window
            .and_then(|(from, until)| Some((time(from)?, time(until)?, if from.is_utc { Zone::Utc } else { Zone::Local }))),
        upload: hours.upload,
        download: hours.download,
    };
    (!policy.is_empty()).then(|| Bandwidth::new(policy.iter().map(hours).collect(), clock.clone()))
}

/// What the policy names, and nothing of the environment but an identity.
fn azure_credential(azure: &AzurePolicy) -> Result<AzureCredential, CliError> {
    Ok(match (&azure.connection_string, &azure.account_key, &azure.sas) {
        (Some(reference), _, _) => AzureCredential::ConnectionString(secret(reference)?),
        (None, Some(reference), _) => AzureCredential::AccountKey(secret(reference)?),
        (None, None, Some(reference)) => AzureCredential::Sas(secret(reference)?),
        (None, None, None) => AzureCredential::Identity,
    })
}

/// How firmly and how long a site keeps what is stored, as its repository wants it said.
pub(super) fn lock_term(policy: LockPolicy) -> LockTerm {
    let mode = match policy.mode {
        LockModePolicy::Governance => LockMode::Governance,
        LockModePolicy::Compliance => LockMode::Compliance,
    };
    LockTerm { mode, days: policy.days }
}

/// A directory as a store.
pub(super) fn directory(path: PathBuf) -> SharedStore {
    FilesystemStore::new(path)
}

/// How to reach a policy's database.
pub(super) fn postgres(name: &str, policy: &PostgresPolicy) -> Result<PostgresConfig, CliError> {
    let password = policy.password.as_ref().map(secret).transpose()?;
    PostgresConfig::parse(&policy.url, password).map_err(|error| CliError::setting(format!("source {name}"), error))
}

/// How objects are brought back, in the stores' words.
fn retrieval(policy: RehydratePolicy) -> Retrieval {
    let priority = match policy.speed {
        RetrievalSpeed::Bulk => RetrievalPriority::Bulk,
        RetrievalSpeed::Standard => RetrievalPriority::Standard,
        RetrievalSpeed::High => RetrievalPriority::High,
    };
    Retrieval { priority, days: policy.days }
}

/// Opens every source of a policy.
pub(super) async fn sources(policy: &Policy, clock: &SharedClock) -> Result<Vec<NamedSource>, CliError> {
    let mut all = Vec::new();
    for source in &policy.sources {
        let capture: Arc<dyn Capture> = match &source.kind {
            SourceKind::Postgres(database) => {
                let config = postgres(&source.name, database)?;
                match database.method {
                    PostgresMethod::Logical => {
                        let options = LogicalOptions { bin_directory: database.bin_directory.clone(), ..LogicalOptions::default() };
                        Arc::new(PostgresLogical::new(config, options))
                    }
                    PostgresMethod::Physical => {
                        let read_by = match database.read_by {
                            PostgresReadBy::Auto => ReadBy::Auto,
                            PostgresReadBy::Sql => ReadBy::Sql,
                            PostgresReadBy::Files => ReadBy::Files,
                        };
                        let bin_directory = database.bin_directory.clone();
                        let log = LogOptions {
                            slot: database.wal.slot_name(&policy.name),
                            hold_bytes: database.wal.hold_bytes,
                            most_file_bytes: MAX_LOG_FILE_BYTES,
                            is_wanted: database.wal.is_wanted,
                            stream: match database.wal.receive_by {
                                PostgresReceiveBy::Auto => Some(Streamed::Preferred),
                                PostgresReceiveBy::Stream => Some(Streamed::Required),
                                PostgresReceiveBy::Sql => None,
                            },
                        };
                        let options = PhysicalOptions { bin_directory, read_by, log, ..PhysicalOptions::default() };
                        Arc::new(PostgresPhysical::new(config, options))
                    }
                }
            }
            SourceKind::Bucket(bucket) => Arc::new(BucketSource::new(
                store(&bucket.store, &Way::to_source(&policy.limits), false, clock).await?,
                BucketOptions { rehydrate: bucket.rehydrate.map(retrieval), locks: bucket.locks, ..BucketOptions::default() },
            )),
            SourceKind::Files(files) => Arc::new(FilesSource::new(FilesOptions {
                paths: files.paths.clone(),
                include: files.include.clone(),
                exclude: files.exclude.clone(),
                one_file_system: files.one_file_system,
            })),
            SourceKind::Command(command) => {
                let environment: Result<BTreeMap<_, _>, CliError> =
                    command.environment.iter().map(|(name, value)| Ok((name.clone(), plain_or_secret(value)?))).collect();
                Arc::new(CommandSource::new(CommandOptions {
                    capture: command.capture.clone(),
                    timeout: Some(command.timeout),
                    environment: environment?,
                    directory: None,
                }))
            }
        };
        all.push(NamedSource { name: source.name.clone(), capture });
    }
    Ok(all)
}

/// To whom a policy wraps its keys at one of its sites.
pub(super) fn recipients(policy: &Policy, encryption: &Encryption) -> Result<Recipients, CliError> {
    match encryption {
        Encryption::None => Ok(Recipients::Nobody),
        Encryption::Recipients(recipients) => {
            Ok(Recipients::parse(&recipients.recipients, &place::agent_identity(policy)?.public_keys())?)
        }
    }
}

/// How many readers or writers run at once: one more than there are processors, since one always waits for what it read last to
/// be stored.
pub(super) fn parallelism(limits: &Limits) -> usize {
    limits.parallelism.unwrap_or_else(|| processors() + 1)
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from)
}

/// Starts the threads for CPU work.
pub(super) fn workers(limits: &Limits) -> Result<Arc<Workers>, CliError> {
    Workers::start(limits.parallelism.unwrap_or_else(processors), limits.compression_level)
        .map_err(|error| CliError::other("worker threads", error))
}

/// Who we are.
pub(super) fn agent() -> Agent {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let user = std::env::var("USER")
        .or_else(|_| std::env::var("LOGNAME"))
        .unwrap_or_else(|_| format!("uid {}", rustix::process::getuid().as_raw()));
    Agent { host, user, version: env!("CARGO_PKG_VERSION").to_owned() }
}
