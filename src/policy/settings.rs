//! Everything in a policy that is neither source nor site.

use std::{path::PathBuf, time::Duration};

use super::SecretReference;

/// What a drill is measured against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Objectives {
    /// Data lost at most.
    pub rpo: Option<Duration>,
    /// Time until service at most.
    pub rto: Option<Duration>,
}

/// Who can read the repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Encryption {
    /// Whoever holds an identity of one of these.
    Recipients(Recipients),
    /// Everybody who can read the site. Only if the policy says so in words.
    None,
}

/// Whose keys open the repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipients {
    /// Public keys (`age1…`), at least one, none twice.
    pub recipients: Vec<String>,
    /// The agent's own identity, which opens the catalogue key and nothing else.
    pub agent: Option<SecretReference>,
}

/// How long recovery points are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Every point younger than this is kept. Default 30 days.
    pub keep_within: Duration,
    /// So many of the newest points are kept. Default 0, as for those that follow.
    pub keep_last: u32,
    /// The newest point of so many hours, of those that have one.
    pub keep_hourly: u32,
    /// The newest point of so many days.
    pub keep_daily: u32,
    /// The newest point of so many ISO weeks.
    pub keep_weekly: u32,
    /// The newest point of so many months.
    pub keep_monthly: u32,
    /// The newest point of so many years.
    pub keep_yearly: u32,
    /// The floor: so many of the newest verified points stay, whatever else is said. Default 2, at least 1.
    pub keep_verified: u32,
    /// What prune dooms is deleted so much later, at the earliest. Default 26 hours; no backup may take longer.
    pub grace: Duration,
    /// So many hundredths of the bytes in packs that stay may be unneeded; beyond that, the emptiest are emptied into new ones. Default
    /// 10; 100 never.
    pub max_unused: u32,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            keep_within: Duration::from_secs(30 * 24 * 3600),
            keep_last: 0,
            keep_hourly: 0,
            keep_daily: 0,
            keep_weekly: 0,
            keep_monthly: 0,
            keep_yearly: 0,
            keep_verified: 2,
            grace: Duration::from_secs(26 * 3600),
            max_unused: 10,
        }
    }
}

/// What the agent may use of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of memory for the data under way, whatever the size of the sources. Default 256 MiB, at least 64 MiB.
    pub memory_bytes: u64,
    /// Readers and CPU workers at once; without it, as many workers as there are processors, and one reader more.
    pub parallelism: Option<usize>,
    /// Most requests under way at once to one store; without it, one for each MiB of memory, at most 256. How many there are is found out.
    pub requests: Option<usize>,
    /// zstd level, 1 to 19. Default 1.
    pub compression_level: i32,
    /// The longest a backup may take; without it, no bound.
    pub backup_time: Option<Duration>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { memory_bytes: 256 << 20, parallelism: None, requests: None, compression_level: 1, backup_time: None }
    }
}

/// One `[[cross_check]]`: every key that the query yields must be among the restored objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CrossCheck {
    /// A `postgres` source of this policy.
    pub source: String,
    /// SQL that yields one column of object keys.
    pub query: String,
    /// A `bucket` source of this policy.
    pub objects: String,
}

/// Where and how drills run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DrillPolicy {
    /// Scratch clusters and objects; absolute; what a drill makes there it removes.
    pub directory: PathBuf,
    /// A server on which scratch databases are made (a connection URI without a password); without it, a scratch cluster is
    /// started.
    pub server: Option<String>,
    /// The password for `server`.
    pub server_password: Option<SecretReference>,
    /// SQL whose answer is known.
    pub probes: Vec<Probe>,
}

impl DrillPolicy {
    /// Where drills run if the policy does not say: under the systemd unit's `StateDirectory`.
    pub const DEFAULT_DIRECTORY: &str = "/var/lib/farshore/drill";
}

impl Default for DrillPolicy {
    fn default() -> Self {
        Self { directory: PathBuf::from(Self::DEFAULT_DIRECTORY), server: None, server_password: None, probes: Vec::new() }
    }
}

/// One `[[drill.probe]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// A `postgres` source of this policy.
    pub source: String,
    /// SQL that yields one row of one column.
    pub query: String,
    /// That value as PostgreSQL writes it as text: `t`, `42`.
    pub expect: String,
}
