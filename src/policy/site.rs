//! Where recovery points go, and how a store is named in a policy.

use std::path::PathBuf;

use super::{BandwidthHours, Encryption, PlainOrSecret, Retention, SecretReference};

/// One `[[site]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SitePolicy {
    /// Unique within the policy; `[a-z0-9._-]`, begins with a letter or digit.
    pub name: String,
    /// Where its repository lies.
    pub store: StorePolicy,
    /// How firmly and how long the site itself keeps what a backup stores; `None`: not at all.
    pub lock: Option<LockPolicy>,
    /// How long points are kept here: the policy's retention, where the site says nothing else.
    pub retention: Retention,
    /// Who can read it: as for the policy, with the site's own recipients where it has some.
    pub encryption: Encryption,
    /// How many bytes may go there and come from there in a second; of several the first that fits holds, and without one there is no limit.
    pub bandwidth: Vec<BandwidthHours>,
}

/// `lock` of a `[[site]]`: Object Lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LockPolicy {
    /// Who can lift a lock before its time.
    pub mode: LockModePolicy,
    /// Every recovery point, and all that a restore of it needs, is locked at least so many days from its backup on. At least
    /// as long as `keep_within`.
    pub days: u32,
}

/// Who can lift a lock before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockModePolicy {
    /// Identities with a right of their own for that.
    Governance,
    /// Nobody.
    Compliance,
}

/// A place that holds objects: at a site, or a bucket that is protected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StorePolicy {
    /// A directory.
    Filesystem(FilesystemPolicy),
    /// A bucket, or a prefix of one, on S3 or a compatible server.
    S3(S3Policy),
    /// A container, or a prefix of one, of Azure Blob Storage.
    Azure(AzurePolicy),
}

/// A directory that holds objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilesystemPolicy {
    /// Absolute.
    pub path: PathBuf,
}

/// A bucket on S3 or a compatible server. What is left out is found as the provider's own tools find it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct S3Policy {
    /// The bucket's name.
    pub bucket: String,
    /// Keys begin with this and a `/`. Without leading or trailing `/`; empty for the whole bucket.
    pub prefix: String,
    /// The region.
    pub region: Option<String>,
    /// `http://` or `https://` address of a compatible server.
    pub endpoint: Option<String>,
    /// Address buckets by path (`endpoint/bucket/key`) rather than by host name. Default: true with an endpoint.
    pub path_style: bool,
    /// Access key id; with `secret_key`, or neither.
    pub access_key: Option<PlainOrSecret>,
    /// Secret access key.
    pub secret_key: Option<SecretReference>,
    /// Session token of temporary credentials.
    pub session_token: Option<SecretReference>,
    /// A profile of the provider's own configuration files.
    pub profile: Option<String>,
    /// What the server is told to encrypt with; otherwise the bucket's default holds. Of a bucket that is only read: the key that opens it.
    pub encryption: Option<ServerEncryption>,
    /// Whoever asks pays, and not the bucket's owner.
    pub requester_pays: bool,
}

/// What an S3 server encrypts with. What Farshore stores at a site is sealed before, whatever stands here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerEncryption {
    /// Keys that S3 keeps itself.
    SseS3,
    /// A key of KMS.
    SseKms {
        /// Its ARN; without one the account's own for S3.
        key: Option<String>,
        /// Whether S3 asks KMS per bucket and while rather than per object; left out, as the bucket says.
        bucket_key: Option<bool>,
    },
}

impl S3Policy {
    /// ARN of the KMS key that is named.
    pub fn kms_key(&self) -> Option<&str> {
        match &self.encryption {
            Some(ServerEncryption::SseKms { key, .. }) => key.as_deref(),
            Some(ServerEncryption::SseS3) | None => None,
        }
    }
}

/// A container of Azure Blob Storage. At most one of the three secrets; without one, the workload's or the machine's identity.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AzurePolicy {
    /// The storage account's name.
    pub account: String,
    /// The container's name.
    pub container: String,
    /// Keys begin with this and a `/`. Without leading or trailing `/`; empty for the whole container.
    pub prefix: String,
    /// `http://` or `https://` address of the account's blob service, where it is not the public cloud's.
    pub endpoint: Option<String>,
    /// A connection string.
    pub connection_string: Option<SecretReference>,
    /// A key of the account.
    pub account_key: Option<SecretReference>,
    /// A shared access signature.
    pub sas: Option<SecretReference>,
}

impl StorePolicy {
    /// The place as an operator would write it down: `s3://bucket/prefix`, `azure://account/container/prefix`, or a directory. Never holds a secret.
    pub fn place(&self) -> String {
        match self {
            Self::Filesystem(filesystem) => filesystem.path.display().to_string(),
            Self::S3(s3) if s3.prefix.is_empty() => format!("s3://{}", s3.bucket),
            Self::S3(s3) => format!("s3://{}/{}", s3.bucket, s3.prefix),
            Self::Azure(azure) if azure.prefix.is_empty() => format!("azure://{}/{}", azure.account, azure.container),
            Self::Azure(azure) => format!("azure://{}/{}/{}", azure.account, azure.container, azure.prefix),
        }
    }
}
