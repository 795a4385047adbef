//! Which policy, source and spool a push means.

use std::path::{Path, PathBuf};

use crate::{
    cli::{CliError, place},
    operations::Spool,
    policy::{Policy, PostgresMethod, PostgresPolicy, SourceKind, WalPolicy},
};

/// The file of the policy that a word means; without one the only policy that there is.
pub(super) fn policy_path(word: Option<&str>) -> Result<PathBuf, CliError> {
    let path = word.map_or_else(place::only_policy, |word| Ok(place::policy_path(word)))?;
    // What is started from here does not run where we do.
    std::path::absolute(&path).map_err(|error| CliError::setting(path.display().to_string(), error))
}

/// Reads the policy in a file.
pub(super) fn read(path: &Path) -> Result<Policy, CliError> {
    place::load_policy(&path.display().to_string())
}

/// How the log of a policy's cluster is archived: see [`cluster_of`].
pub(super) fn wal_of<'a>(policy: &'a Policy, source: Option<&str>) -> Result<&'a WalPolicy, CliError> {
    Ok(&cluster_of(policy, source)?.1.wal)
}

/// The clusters of a policy whose logs can be archived, with the names of their sources.
pub(super) fn clusters(policy: &Policy) -> impl Iterator<Item = (&str, &PostgresPolicy)> {
    policy.sources.iter().filter_map(|source| match &source.kind {
        SourceKind::Postgres(postgres) if postgres.method == PostgresMethod::Physical => Some((source.name.as_str(), postgres)),
        _ => None,
    })
}

/// The policy's cluster, and the name of its source: the source of this name, else its only one of method "physical".
pub(super) fn cluster_of<'a>(policy: &'a Policy, source: Option<&str>) -> Result<(&'a str, &'a PostgresPolicy), CliError> {
    let physical: Vec<(&str, &PostgresPolicy)> =
        clusters(policy).filter(|(name, _)| source.is_none_or(|source| source == *name)).collect();
    match (physical.as_slice(), source) {
        ([cluster], _) => Ok(*cluster),
        ([], Some(source)) => Err(CliError::Usage(format!(
            "policy {} has no source {source:?} of kind \"postgres\" and method \"physical\"",
            policy.name
        ))),
        ([], None) => Err(CliError::Usage(format!(
            "policy {} has no source of kind \"postgres\" and method \"physical\", whose log could be archived",
            policy.name
        ))),
        (many, _) => {
            let names: Vec<&str> = many.iter().map(|(name, _)| *name).collect();
            Err(CliError::Usage(format!(
                "policy {} has several clusters; say which with --source: {}",
                policy.name,
                names.join(", ")
            )))
        }
    }
}

/// Where spools are that no policy names.
const SPOOLS: &str = "/var/spool/farshore";

/// The spool of a policy's cluster.
pub(super) fn spool_of(policy: &Policy, wal: &WalPolicy) -> Spool {
    let directory = wal.spool.clone().unwrap_or_else(|| Path::new(SPOOLS).join(&policy.name));
    Spool::new(directory, wal.limit_bytes)
}
