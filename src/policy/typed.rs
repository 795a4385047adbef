//! What may be written in a policy: the one source of the keys, their types and the JSON Schema.
//!
//! Every field is optional here, because a file with mistakes is read as far as it goes; `#[schemars(required)]` marks what
//! must be there, and `structure` checks it. The comments are what editors show.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

/// A Farshore policy: what is protected, where it goes, who can read it, how long it is kept, and what drills are measured against.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "Farshore policy")]
pub struct TypedPolicy {
    /// Name of the policy: lower-case letters, digits, `.`, `_`, `-`. Also the instance of the systemd units.
    #[schemars(required, regex(pattern = "^[a-z0-9][a-z0-9._-]{0,63}$"), example = &"mattermost-eu")]
    pub name: Option<String>,
    /// The region that is protected, for reports.
    #[schemars(example = &"eu-central-1")]
    pub region: Option<String>,
    /// What a drill is measured against.
    pub objectives: Option<TypedObjectives>,
    /// What is protected.
    #[schemars(required, length(min = 1))]
    pub source: Option<Vec<Option<TypedSource>>>,
    /// Where it goes.
    #[schemars(required, length(min = 1))]
    pub site: Option<Vec<Option<TypedSite>>>,
    /// Who can read it: a table with recipients, or the word "none".
    #[schemars(required)]
    pub encryption: Option<TypedEncryption>,
    /// How long it is kept.
    pub retention: Option<TypedRetention>,
    /// What the agent may use of the machine.
    pub limits: Option<TypedLimits>,
    /// Rows held against objects: every key that a query yields must be among the restored objects.
    pub cross_check: Option<Vec<Option<TypedCrossCheck>>>,
    /// Where and how drills run.
    pub drill: Option<TypedDrill>,
}

/// What a drill is measured against.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Objectives")]
pub struct TypedObjectives {
    /// Data lost at most: a duration with units.
    #[schemars(example = &"26h")]
    pub rpo: Option<String>,
    /// Time until service at most: a duration with units.
    #[schemars(example = &"1h")]
    pub rto: Option<String>,
}

/// Something that is protected.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
#[allow(clippy::large_enum_variant, reason = "a handful of them live for the moment of parsing")]
#[schemars(rename = "Source")]
pub enum TypedSource {
    /// A PostgreSQL database.
    Postgres {
        /// Name of the source: lower-case letters, digits, `.`, `_`, `-`.
        #[schemars(required, length(min = 1), example = &"db")]
        name: Option<String>,
        /// How it is captured. Default: "logical".
        method: Option<TypedMethod>,
        /// Connection URI, without a password.
        #[schemars(required, length(min = 1), example = &"postgres://farshore@db.internal:5432/mattermost?sslmode=verify-full")]
        url: Option<String>,
        /// Where the password is.
        password: Option<TypedSecret>,
        /// Where pg_dump and its kin are: an absolute directory.
        #[schemars(example = &"/usr/lib/postgresql/17/bin")]
        bin_directory: Option<String>,
        /// How the cluster's files are read. Only with method "physical". Default: "auto".
        read_by: Option<TypedReadBy>,
        /// How the write-ahead log is archived by `farshore wal push` and `farshore wal receive`. Only with method "physical".
        wal: Option<TypedWal>,
    },
    /// The objects of a bucket.
    Bucket {
        /// Name of the source: lower-case letters, digits, `.`, `_`, `-`.
        #[schemars(required, length(min = 1), example = &"attachments")]
        name: Option<String>,
        /// The bucket.
        #[schemars(required)]
        store: Option<TypedStore>,
        /// Ask what holds each object (Object Lock's retention, a legal hold) in every backup, one request each: they change without the
        /// object. Otherwise that is recorded as far as it shows when an object is read. Default: false.
        locks: Option<bool>,
        /// Ask for objects that lie in an archive tier, so that a later backup reads them; how soon, and for how much money. Default: they are
        /// reported and left there.
        rehydrate: Option<TypedRetrieval>,
        /// For so many days what was asked for can be read (on S3; elsewhere it is moved, and stays). Only with `rehydrate`. Default: 3.
        #[schemars(range(min = 1, max = 365))]
        rehydrate_days: Option<i64>,
    },
    /// Directories and files.
    Files {
        /// Name of the source: lower-case letters, digits, `.`, `_`, `-`.
        #[schemars(required, length(min = 1), example = &"config")]
        name: Option<String>,
        /// Absolute paths.
        #[schemars(required, length(min = 1), example = ["/etc/mattermost"])]
        paths: Option<Vec<Option<String>>>,
        /// Only what matches one of these patterns (as in .gitignore) is captured.
        include: Option<Vec<Option<String>>>,
        /// What matches one of these patterns (as in .gitignore) is left out.
        #[schemars(example = ["*.tmp"])]
        exclude: Option<Vec<Option<String>>>,
        /// Stay on the file systems of the paths. Default: false.
        one_file_system: Option<bool>,
    },
    /// The standard output of a program.
    Command {
        /// Name of the source: lower-case letters, digits, `.`, `_`, `-`.
        #[schemars(required, length(min = 1), example = &"cluster")]
        name: Option<String>,
        /// The program and its arguments; no shell is involved.
        #[schemars(required, length(min = 1), example = ["kubectl", "get", "configmap", "-o", "yaml"])]
        capture: Option<Vec<Option<String>>>,
        /// Its time limit: a duration with units. Default: "5m".
        #[schemars(example = &"2m")]
        timeout: Option<String>,
        /// Added to its environment: texts, or references to secrets.
        environment: Option<BTreeMap<String, Option<TypedPlainOrSecret>>>,
        /// A program that takes the output on its standard input and restores it.
        #[schemars(length(min = 1), example = ["kubectl", "apply", "-f", "-"])]
        restore: Option<Vec<Option<String>>>,
    },
}

/// How a PostgreSQL database is captured.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "Method")]
pub enum TypedMethod {
    /// One database: schema by pg_dump, rows by COPY, in one exported snapshot.
    Logical,
    /// The whole cluster, file by file, with the log that makes it consistent.
    Physical,
}

/// How soon objects are brought back from an archive, and for how much money.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "Retrieval")]
pub enum TypedRetrieval {
    /// As cheap as can be (S3: Bulk).
    Bulk,
    /// What the provider does where nothing is said.
    Standard,
    /// As soon as can be (S3: Expedited, Azure: High), which costs most.
    High,
}

/// How a cluster's files are read.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "ReadBy")]
pub enum TypedReadBy {
    /// From the data directory, if the agent runs on the server's machine and may read it, else over SQL.
    Auto,
    /// Over SQL: the server reads them.
    Sql,
    /// From the data directory; where that cannot be, the backup fails.
    Files,
}

/// How a cluster's log is received.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "ReceiveBy")]
pub enum TypedReceiveBy {
    /// Streamed by the server, if it lets a replication connection through, else over SQL.
    Auto,
    /// Streamed by the server; where that cannot be, it fails.
    Stream,
    /// Over SQL, once a second.
    Sql,
}

/// How a cluster's write-ahead log is archived.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Wal")]
pub struct TypedWal {
    /// Where files wait until all sites have them: an absolute directory. Default: /var/spool/farshore/ and the policy's name.
    #[schemars(length(min = 1), example = &"/var/spool/farshore/mattermost-eu")]
    pub spool: Option<String>,
    /// So much may wait there: a size with a unit. Beyond that the server keeps its log. Default: "1GiB".
    #[schemars(length(min = 1), example = &"1GiB")]
    pub limit: Option<String>,
    /// Tell the server only when all sites have a file, not when it waits in the spool. Default: false.
    pub synchronous: Option<bool>,
    /// The replication slot that `farshore wal receive` makes: lower-case letters, digits, `_`. Default: farshore_ and the policy's name.
    #[schemars(length(min = 1), example = &"farshore_mattermost_eu")]
    pub slot: Option<String>,
    /// How `farshore wal receive` gets what is new. Default: "auto".
    pub receive_by: Option<TypedReceiveBy>,
    /// So much log may that slot hold at the server while a site does not take it: a size with a unit. Beyond that it is dropped, so that
    /// the server's disk does not fill. Default: "10GiB".
    #[schemars(length(min = 1), example = &"10GiB")]
    pub hold: Option<String>,
}

/// Where recovery points go.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Site")]
pub struct TypedSite {
    /// Name of the site: lower-case letters, digits, `.`, `_`, `-`.
    #[schemars(required, length(min = 1), example = &"us")]
    pub name: Option<String>,
    /// Where its repository lies.
    #[schemars(required)]
    pub store: Option<TypedStore>,
    /// Object Lock: the site refuses to delete what a backup stored, whoever asks. A bucket on S3 that has it enabled, or (in compliance
    /// mode alone) a container on Azure with version-level immutability.
    pub lock: Option<TypedLock>,
    /// How long points are kept here. What is left out comes from the policy's own retention.
    pub retention: Option<TypedRetention>,
    /// Public keys (age1…) of those who can restore from here, instead of the policy's recipients.
    #[schemars(length(min = 1), example = ["age1…"])]
    pub recipients: Option<Vec<Option<String>>>,
    /// How many bytes may go there and come from there in a second: a speed for both directions all day, or a list by the time of day, of
    /// which the first that fits holds. Default: no limit.
    pub bandwidth: Option<TypedBandwidth>,
}

/// A limit of bandwidth.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(rename = "Bandwidth")]
pub enum TypedBandwidth {
    /// All day, in each direction.
    #[schemars(example = &"20 MB/s")]
    Rate(String),
    /// By the time of day.
    Hours(Vec<Option<TypedHours>>),
}

/// What holds in some hours of the day.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Hours")]
pub struct TypedHours {
    /// The first minute: "08:00" by this machine's clock, "08:00Z" by UTC. Default, without until: all day.
    #[schemars(length(min = 1), example = &"08:00")]
    pub from: Option<String>,
    /// The minute after the last; before from, it is the next day's.
    #[schemars(length(min = 1), example = &"18:00")]
    pub until: Option<String>,
    /// A speed for both directions: a size in a second, or "unlimited".
    #[schemars(length(min = 1), example = &"5 MB/s")]
    pub rate: Option<String>,
    /// To the site, instead of rate.
    #[schemars(length(min = 1), example = &"5 MB/s")]
    pub upload: Option<String>,
    /// From the site, instead of rate.
    #[schemars(length(min = 1), example = &"unlimited")]
    pub download: Option<String>,
}

/// How firmly and how long the site keeps what a backup stored.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Lock")]
pub struct TypedLock {
    /// `governance`: identities with a right of their own can lift it. `compliance`: nobody can.
    #[schemars(required)]
    pub mode: Option<TypedLockMode>,
    /// Days from a backup on during which nothing that a restore of it needs can be deleted; at least `keep_within`.
    #[schemars(required, range(min = 1, max = 36_500), example = &30)]
    pub days: Option<i64>,
}

/// Who can lift a lock before its time.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "LockMode")]
pub enum TypedLockMode {
    /// Identities with a right of their own for that.
    Governance,
    /// Nobody.
    Compliance,
}

/// A place that holds objects.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
#[allow(clippy::large_enum_variant, reason = "a handful of them live for the moment of parsing")]
#[schemars(rename = "Store")]
pub enum TypedStore {
    /// A directory.
    Filesystem {
        /// An absolute directory.
        #[schemars(required, length(min = 1), example = &"/mnt/far/farshore")]
        path: Option<String>,
    },
    /// A bucket on S3 or a compatible server.
    S3 {
        /// The bucket's name.
        #[schemars(required, length(min = 1), example = &"dr-us-east-1")]
        bucket: Option<String>,
        /// Keys begin with this and a slash.
        #[schemars(example = &"mattermost-eu")]
        prefix: Option<String>,
        /// The region.
        #[schemars(example = &"us-east-1")]
        region: Option<String>,
        /// Address of a compatible server.
        #[schemars(example = &"https://s3.example.org:9000")]
        endpoint: Option<String>,
        /// Address buckets by path rather than by host name. Default: true if there is an endpoint.
        path_style: Option<bool>,
        /// Access key id: a text, or a reference.
        access_key: Option<TypedPlainOrSecret>,
        /// Where the secret access key is.
        secret_key: Option<TypedSecret>,
        /// Where the session token of temporary credentials is.
        session_token: Option<TypedSecret>,
        /// A profile of the provider's own configuration files.
        #[schemars(example = &"backup")]
        profile: Option<String>,
        /// What the server encrypts with. Default: what the bucket says.
        encryption: Option<TypedServerEncryption>,
        /// Whoever asks pays for requests and transfer (a bucket with "Requester Pays"). Default: false.
        requester_pays: Option<bool>,
    },
    /// A container of Azure Blob Storage. Without credentials: the identity of the workload or of the machine.
    Azure {
        /// The storage account's name.
        #[schemars(required, length(min = 1), example = &"drnortheurope")]
        account: Option<String>,
        /// The container's name.
        #[schemars(required, length(min = 1), example = &"farshore")]
        container: Option<String>,
        /// Keys begin with this and a slash.
        #[schemars(example = &"mattermost-eu")]
        prefix: Option<String>,
        /// Address of the account's blob service. Default: the public cloud's.
        #[schemars(example = &"https://drnortheurope.blob.core.usgovcloudapi.net")]
        endpoint: Option<String>,
        /// Where a connection string is.
        connection_string: Option<TypedSecret>,
        /// Where a key of the account is.
        account_key: Option<TypedSecret>,
        /// Where a shared access signature is.
        sas: Option<TypedSecret>,
    },
}

/// What an S3 server encrypts with. What is stored at a site is sealed before, whatever stands here.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
#[schemars(rename = "ServerEncryption")]
pub enum TypedServerEncryption {
    /// Keys that S3 keeps itself.
    SseS3 {},
    /// A key of KMS.
    SseKms {
        /// ARN of the key. Default: the account's own key for S3.
        #[schemars(example = &"arn:aws:kms:us-east-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab")]
        key: Option<String>,
        /// S3 asks KMS for a key per bucket and while rather than per object, which costs less. Default: what the bucket says.
        bucket_key: Option<bool>,
    },
}

/// Where a secret is: exactly one of file, env, credential.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("minProperties" = 1, "maxProperties" = 1))]
#[schemars(rename = "Secret")]
pub struct TypedSecret {
    /// An absolute path of a file that holds it.
    #[schemars(example = &"/etc/farshore/secrets/db-password")]
    pub file: Option<String>,
    /// Name of an environment variable that holds it.
    #[schemars(example = &"DB_PASSWORD")]
    pub env: Option<String>,
    /// Name of a systemd credential (LoadCredential=).
    #[schemars(example = &"db-password")]
    pub credential: Option<String>,
}

/// A text, or where a secret is.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(rename = "PlainOrSecret")]
pub enum TypedPlainOrSecret {
    /// As written.
    Plain(String),
    /// Kept elsewhere.
    Secret(TypedSecret),
}

/// Who can read the repository.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(rename = "Encryption")]
pub enum TypedEncryption {
    /// Everybody who can read the site.
    Word(TypedNone),
    /// Whoever holds an identity of one of the recipients.
    Recipients(TypedRecipients),
}

/// The word "none".
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "None")]
pub enum TypedNone {
    /// No encryption.
    None,
}

/// Whose keys open the repository.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Recipients")]
pub struct TypedRecipients {
    /// Public keys (age1…) of those who can restore; two are advised, one of them in escrow.
    #[schemars(required, length(min = 1), example = ["age1…"])]
    pub recipients: Option<Vec<Option<String>>>,
    /// Where the agent's own key is, which opens the catalogue and nothing else.
    pub agent: Option<TypedSecret>,
}

/// How long recovery points are kept.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Retention")]
pub struct TypedRetention {
    /// Every point younger than this is kept: a duration with units. Default: "30d".
    #[schemars(example = &"30d")]
    pub keep_within: Option<String>,
    /// So many of the newest points are kept. Default: 0.
    #[schemars(range(min = 0, max = 100_000), example = 3)]
    pub keep_last: Option<i64>,
    /// The newest point of so many hours (UTC) that have one is kept. Default: 0.
    #[schemars(range(min = 0, max = 100_000), example = 24)]
    pub keep_hourly: Option<i64>,
    /// The newest point of so many days (UTC) that have one is kept. Default: 0.
    #[schemars(range(min = 0, max = 100_000), example = 7)]
    pub keep_daily: Option<i64>,
    /// The newest point of so many weeks (ISO 8601, from Monday) that have one is kept. Default: 0.
    #[schemars(range(min = 0, max = 100_000), example = 5)]
    pub keep_weekly: Option<i64>,
    /// The newest point of so many months that have one is kept. Default: 0.
    #[schemars(range(min = 0, max = 100_000), example = 12)]
    pub keep_monthly: Option<i64>,
    /// The newest point of so many years that have one is kept. Default: 0.
    #[schemars(range(min = 0, max = 100_000), example = 10)]
    pub keep_yearly: Option<i64>,
    /// So many of the newest verified points are kept, whatever else is said. Default: 2.
    #[schemars(range(min = 1, max = 100_000), example = 2)]
    pub keep_verified: Option<i64>,
    /// What prune dooms is deleted so much later: a duration with units, from 1h; not shorter than limits.backup_time. Default: "26h".
    #[schemars(example = &"26h")]
    pub grace: Option<String>,
    /// So many percent of the bytes in packs that stay may be unneeded; beyond that, the emptiest packs are emptied into new ones.
    /// Default: 10; 100 for never.
    #[schemars(range(min = 0, max = 100), example = 10)]
    pub max_unused: Option<i64>,
}

/// What the agent may use of the machine.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Limits")]
pub struct TypedLimits {
    /// Memory for the data under way: a size with units. Default: "256MiB".
    #[schemars(example = &"256MiB")]
    pub memory: Option<String>,
    /// Readers and workers at once. Default: as many workers as there are processors, and one reader more.
    #[schemars(range(min = 1, max = 256), example = 4)]
    pub parallelism: Option<i64>,
    /// Most requests under way at once to one site or bucket. How many there are below that is found out from how they go. Default: one for
    /// each MiB of memory, at most 256.
    #[schemars(range(min = 1, max = 1_024), example = 64)]
    pub requests: Option<i64>,
    /// zstd level. Default: 1.
    #[schemars(range(min = 1, max = 19), example = 1)]
    pub compression_level: Option<i64>,
    /// The longest a backup may take, a duration with units: it is given up then. Default: no bound.
    #[schemars(example = &"20h")]
    pub backup_time: Option<String>,
}

/// Rows held against objects.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "CrossCheck")]
pub struct TypedCrossCheck {
    /// Name of a postgres source.
    #[schemars(required, length(min = 1), example = &"db")]
    pub source: Option<String>,
    /// SQL that yields one column of object keys.
    #[schemars(required, length(min = 1), example = &"SELECT path FROM fileinfo WHERE deleteat = 0")]
    pub query: Option<String>,
    /// Name of the bucket source that must hold them.
    #[schemars(required, length(min = 1), example = &"attachments")]
    pub objects: Option<String>,
}

/// Where and how drills run.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Drill")]
pub struct TypedDrill {
    /// An absolute directory for scratch clusters and objects. Default: "/var/lib/farshore/drill".
    #[schemars(example = &"/var/lib/farshore/drill")]
    pub directory: Option<String>,
    /// Connection URI, without a password, of a server on which scratch databases are made. Left out: a scratch cluster is started.
    #[schemars(example = &"postgres:///postgres?host=/var/run/postgresql")]
    pub server: Option<String>,
    /// Where the password for the server is.
    pub server_password: Option<TypedSecret>,
    /// SQL whose answer is known.
    pub probe: Option<Vec<Option<TypedProbe>>>,
}

/// SQL whose answer is known.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Probe")]
pub struct TypedProbe {
    /// Name of a postgres source.
    #[schemars(required, length(min = 1), example = &"db")]
    pub source: Option<String>,
    /// SQL that yields one row of one column.
    #[schemars(required, length(min = 1), example = &"SELECT count(*) > 0 FROM users")]
    pub query: Option<String>,
    /// That value as PostgreSQL writes it as text.
    #[schemars(required, example = &"t")]
    pub expect: Option<String>,
}
