//! What the site keeps of drills and verifications: the record that makes a point a *verified* one, and the trend of drills.
//!
//! Each record is one JSON object with a `kind`; a drill's is its report (`docs/evidence.md`). Records are chained: each names
//! the one before it with the SHA-256 of its stored object, so that none can be taken away or changed unseen.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::OperationError;
use crate::{
    report::{DrillReport, EvidenceLink, Verdict, VerifyReport},
    repository::{PointName, Repository, RepositoryError},
};

/// One piece of evidence, as far as this program understands it.
#[derive(Debug, Clone)]
pub struct Record {
    /// Where it is, and its hash.
    pub link: EvidenceLink,
    /// When it was made.
    pub at: DateTime<Utc>,
    /// Points that it shows to be sound.
    pub sound: BTreeSet<String>,
    /// The drill, if it is one's.
    pub drill: Option<DrillReport>,
    /// The record before it.
    pub previous: Option<EvidenceLink>,
}

/// The record of a verification that read everything.
#[derive(Debug, Serialize, Deserialize)]
struct Verification {
    at: DateTime<Utc>,
    /// Points whose every chunk was authenticated.
    points: BTreeSet<String>,
    previous: Option<EvidenceLink>,
    report: VerifyReport,
}

fn parse(link: EvidenceLink, plain: &[u8]) -> Result<Record, serde_json::Error> {
    let value: Value = serde_json::from_slice(plain)?;
    if value.get("kind").and_then(Value::as_str) == Some("verification") {
        let verification: Verification = serde_json::from_value(value)?;
        return Ok(Record { link, at: verification.at, sound: verification.points, drill: None, previous: verification.previous });
    }
    let drill: DrillReport = serde_json::from_value(value)?;
    let passed = drill.verdict == Verdict::Passed;
    let sound = drill.point.iter().filter(|_| passed).map(|point| point.id.clone()).collect();
    Ok(Record { link, at: drill.finished_at, sound, previous: drill.previous.clone(), drill: Some(drill) })
}

/// All records, oldest first; those that cannot be read are named instead.
///
/// # Errors
/// The store's.
pub async fn records(repository: &Repository) -> Result<(Vec<Record>, Vec<String>), OperationError> {
    let (mut all, mut unreadable) = (Vec::new(), Vec::new());
    for name in repository.evidence_names().await? {
        match repository.evidence(&name).await {
            Ok((plain, sha256)) => match parse(EvidenceLink { key: name.key.clone(), sha256 }, &plain) {
                Ok(record) => all.push(record),
                Err(error) => unreadable.push(format!("{}: {error}", name.key)),
            },
            Err(error) if error.is_damage() => unreadable.push(error.to_string()),
            Err(error) => return Err(error.into()),
        }
    }
    Ok((all, unreadable))
}

/// When each point was last found sound, by id.
pub fn verified_points(records: &[Record]) -> BTreeMap<String, DateTime<Utc>> {
    records.iter().flat_map(|record| record.sound.iter().map(|point| (point.clone(), record.at))).collect()
}

async fn keep(repository: &Repository, kind: &str, record: &impl Serialize) -> Result<String, OperationError> {
    let defect = |error: serde_json::Error| OperationError::Refused {
        subject: "evidence".to_owned(),
        detail: format!("a defect: cannot be written down: {error}"),
    };
    let mut value = serde_json::to_value(record).map_err(defect)?;
    if let Value::Object(fields) = &mut value {
        fields.insert("kind".to_owned(), kind.into());
    }
    let (name, _) = repository.put_evidence(&serde_json::to_vec(&value).map_err(defect)?).await?;
    Ok(name.key)
}

/// Stores a drill's report; returns its key.
pub(super) async fn keep_drill(repository: &Repository, report: &DrillReport) -> Result<String, OperationError> {
    keep(repository, "drill", report).await
}

/// Stores that `points` were found sound; returns the key of the record.
pub(super) async fn keep_verification(
    repository: &Repository,
    at: DateTime<Utc>,
    points: BTreeSet<String>,
    report: &VerifyReport,
) -> Result<String, OperationError> {
    let previous = newest_link(repository).await?;
    keep(repository, "verification", &Verification { at, points, previous, report: report.clone() }).await
}

/// The newest record, for the next to be chained to.
pub(super) async fn newest_link(repository: &Repository) -> Result<Option<EvidenceLink>, OperationError> {
    let Some(name) = repository.evidence_names().await?.pop() else { return Ok(None) };
    Ok(Some(EvidenceLink { sha256: repository.evidence_hash(&name).await?, key: name.key }))
}

/// The point that a word names: an id, an unambiguous beginning of one, `latest`, or `latest-verified`.
///
/// # Errors
/// [`RepositoryError::NoSuchPoint`], saying what there is; the store's.
pub async fn select_point(repository: &Repository, policy: Option<&str>, wanted: &str) -> Result<PointName, OperationError> {
    if wanted != "latest-verified" {
        return Ok(repository.find_point(policy, wanted).await?);
    }
    let (records, _) = records(repository).await?;
    let verified = verified_points(&records);
    let newest = repository.point_names(policy).await?.into_iter().rfind(|name| verified.contains_key(&name.id));
    newest.ok_or_else(|| {
        OperationError::Repository(RepositoryError::NoSuchPoint {
            wanted: wanted.to_owned(),
            detail: "no recovery point was verified yet; `farshore drill` or `farshore verify --read-data` does that, or choose `latest`".to_owned(),
        })
    })
}
