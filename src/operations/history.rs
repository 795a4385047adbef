//! What the site keeps of drills and verifications: the record that makes a point a *verified* one.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::OperationError;
use crate::repository::{Repository, RepositoryError};

/// What every piece of evidence says, whatever else is in it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// `drill` or `verification`.
    pub kind: String,
    /// The policy.
    pub policy: String,
    /// Points that were found sound, by id.
    #[serde(default)]
    pub points: BTreeSet<String>,
    /// Whether everything was as it should be.
    pub passed: bool,
    /// When it was written.
    pub at: DateTime<Utc>,
    /// SHA-256 of the stored object of the record before this one, so that none can be taken away unseen.
    #[serde(default)]
    pub previous: Option<String>,
    /// The report itself.
    #[serde(default)]
    pub report: serde_json::Value,
}

/// All records, oldest first, each with the SHA-256 of its stored object; those that cannot be read are named instead.
///
/// # Errors
/// The store's.
pub async fn records(repository: &Repository) -> Result<(Vec<(Record, String)>, Vec<String>), OperationError> {
    let (mut all, mut unreadable) = (Vec::new(), Vec::new());
    for name in repository.evidence_names().await? {
        match repository.evidence(&name).await {
            Ok((plain, hash)) => match serde_json::from_slice(&plain) {
                Ok(record) => all.push((record, hash)),
                Err(error) => unreadable.push(format!("{}: {error}", name.key)),
            },
            Err(error @ RepositoryError::Damaged { .. }) => unreadable.push(error.to_string()),
            Err(error) => return Err(error.into()),
        }
    }
    Ok((all, unreadable))
}

/// When each point was last found sound, by id.
pub fn verified_points(records: &[(Record, String)]) -> BTreeMap<String, DateTime<Utc>> {
    let mut verified = BTreeMap::new();
    for (record, _) in records.iter().filter(|(record, _)| record.passed) {
        for point in &record.points {
            verified.insert(point.clone(), record.at);
        }
    }
    verified
}

/// Stores a record, chained to the newest one.
///
/// # Errors
/// The store's.
pub(super) async fn keep(repository: &Repository, mut record: Record, last: Option<String>) -> Result<String, OperationError> {
    record.previous = last;
    let json = serde_json::to_vec(&record).map_err(|error| OperationError::Refused {
        subject: "evidence".to_owned(),
        detail: format!("a defect: cannot be written down: {error}"),
    })?;
    let (name, _) = repository.put_evidence(&json).await?;
    Ok(name.key)
}
