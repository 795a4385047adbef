//! What the operator wants: one TOML file, understood in full before anything is done.
//!
//! Promises:
//! * Pure: no I/O, no clock, no environment. Secrets are references ([`SecretReference`]); the command line resolves them.
//! * [`Policy::parse`] reports every problem in a file at once, each with its line, column and key, and what would be right.
//!   (After a line that is not even TOML, what can still be told.) Unknown keys are refused everywhere: a misspelt key must
//!   not silently leave a default in its place.
//! * What comes out is valid as far as the file alone can show: names resolve, durations are durations, recipients are keys.
//!
//! Two layers: `typed` is what may be written (and the one source of the JSON Schema), the types exported here are what is
//! meant. `structure` holds a document against the typed layer, `meaning` turns one into the other.
//!
//! What the rules of `[retention]` mean for given points is decided here too ([`plan_retention`]): plain values in and out.
//!
//! Leaves out on purpose: whether anything named in the file exists or answers; that is for `init` and `doctor`-like checks.

mod bandwidth;
mod connection;
mod consistency;
mod document;
mod meaning;
mod problem;
mod reading;
mod retention;
mod retention_reason;
mod schema;
mod secret;
mod settings;
mod site;
mod source;
mod source_meaning;
mod structure;
mod typed;

pub use bandwidth::{BandwidthHours, DayTime};
pub use problem::{PolicyErrors, PolicyProblem};
pub use retention::{Condition, Decision, PinnedUntil, PointFacts, RetentionPlan, plan_retention};
pub use retention_reason::{Period, Reason};
pub use schema::schema;
pub use secret::{PlainOrSecret, SecretReference};
pub use settings::{CrossCheck, DrillPolicy, Encryption, Limits, Objectives, Probe, Recipients, Retention};
pub use site::{AzurePolicy, FilesystemPolicy, LockModePolicy, LockPolicy, S3Policy, ServerEncryption, SitePolicy, StorePolicy};
pub use source::{
    BucketPolicy, CommandPolicy, FilesPolicy, PostgresMethod, PostgresPolicy, PostgresReadBy, PostgresReceiveBy, RehydratePolicy,
    RetrievalSpeed, SourceKind, SourcePolicy, WalPolicy,
};

/// A valid policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Its name: the folder of its points in a repository, and the instance of its systemd units.
    pub name: String,
    /// The region it protects, for reports.
    pub region: Option<String>,
    /// What a drill is measured against.
    pub objectives: Objectives,
    /// What is protected, in the order of the file; at least one, names unique.
    pub sources: Vec<SourcePolicy>,
    /// Where it goes, in the order of the file; at least one, names unique.
    pub sites: Vec<SitePolicy>,
    /// Who can read it.
    pub encryption: Encryption,
    /// How long it is kept.
    pub retention: Retention,
    /// What the agent may use.
    pub limits: Limits,
    /// Rows held against objects.
    pub cross_checks: Vec<CrossCheck>,
    /// Where and how drills run.
    pub drill: DrillPolicy,
    /// The file as it was; stored in every recovery point, so that a restore needs nothing but the site.
    pub text: String,
}

impl Policy {
    /// The source called `name`.
    pub fn source(&self, name: &str) -> Option<&SourcePolicy> {
        self.sources.iter().find(|source| source.name == name)
    }

    /// The site called `name`.
    pub fn site(&self, name: &str) -> Option<&SitePolicy> {
        self.sites.iter().find(|site| site.name == name)
    }
}
