//! What the site keeps of drills and verifications: the record that makes a point a *verified* one, and the trend of drills.
//!
//! Each record is one JSON object with a `kind`; a drill's is its report (`docs/evidence.md`). Records are chained: each names
//! the one before it with the SHA-256 of its stored object, so that none can be taken away or changed unseen.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{OperationError, anomaly::Shape};
use crate::{
    report::{Damage, DatabaseRows, DrillReport, EvidenceLink, ReadPart, Verdict, VerifyReport},
    repository::{EvidenceName, PointName, Repository, RepositoryError, one_policy},
};

/// Records and points read at once.
const READS: usize = 8;

/// One piece of evidence, as far as this program understands it.
#[derive(Debug, Clone)]
pub struct Record {
    /// Where it is, and its hash.
    pub link: EvidenceLink,
    /// When it was made.
    pub at: DateTime<Utc>,
    /// Points that it shows to be sound.
    pub sound: BTreeSet<String>,
    /// Points that it shows to be hurt.
    pub hurt: BTreeSet<String>,
    /// What it read, if it is a verification's.
    pub reading: Option<Reading>,
    /// The drill, if it is one's.
    pub drill: Option<DrillReport>,
    /// The record before it.
    pub previous: Option<EvidenceLink>,
}

/// What a verification read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// Which part of all packs.
    pub part: ReadPart,
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// Points all of whose packs in that part were read and are sound, and whose list of entries is.
    pub points: BTreeSet<String>,
}

/// The record of a verification that read everything, or one part of everything.
#[derive(Debug, Serialize, Deserialize)]
struct Verification {
    at: DateTime<Utc>,
    /// Points whose every pack was read: by this verification, or by it and earlier ones together.
    points: BTreeSet<String>,
    /// Of a part only: points all of whose packs in that part were read and are sound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    part_points: Option<BTreeSet<String>>,
    previous: Option<EvidenceLink>,
    report: VerifyReport,
}

fn parse(link: EvidenceLink, plain: &[u8]) -> Result<Record, serde_json::Error> {
    let value: Value = serde_json::from_slice(plain)?;
    if value.get("kind").and_then(Value::as_str) == Some("verification") {
        let verification: Verification = serde_json::from_value(value)?;
        let part = verification.report.part.unwrap_or(ReadPart { number: 1, of: 1 });
        if !(1..=part.of).contains(&part.number) {
            return Err(serde::de::Error::custom(format!("there is no part {} of {}", part.number, part.of)));
        }
        let started_at = verification.report.started_at;
        let hurt = verification.report.damage.into_iter().flat_map(|damage| damage.points).collect();
        let Verification { at, points, part_points, previous, .. } = verification;
        let reading = Reading { part, started_at, points: part_points.unwrap_or_else(|| points.clone()) };
        return Ok(Record { link, at, sound: points, hurt, reading: Some(reading), drill: None, previous });
    }
    let drill: DrillReport = serde_json::from_value(value)?;
    let passed = drill.verdict == Verdict::Passed;
    let sound = drill.point.iter().filter(|_| passed).map(|point| point.id.clone()).collect();
    // A drill that failed may have failed for want of time, or of room in its target: that says nothing about the point.
    let hurt = BTreeSet::new();
    Ok(Record { link, at: drill.finished_at, sound, hurt, reading: None, previous: drill.previous.clone(), drill: Some(drill) })
}

/// All records, oldest first; those that cannot be read are named instead, each with the reason.
///
/// # Errors
/// The store's.
pub async fn records(repository: &Repository) -> Result<(Vec<Record>, Vec<(String, String)>), OperationError> {
    let read = stream::iter(repository.evidence_names().await?).map(|name| record(repository, name));
    let mut read = read.buffered(READS);
    let (mut all, mut unreadable) = (Vec::new(), Vec::new());
    while let Some(found) = read.try_next().await? {
        match found {
            Ok(record) => all.push(record),
            Err(flaw) => unreadable.push(flaw),
        }
    }
    Ok((all, unreadable))
}

/// One record; or its key, and why it cannot be read.
async fn record(repository: &Repository, name: EvidenceName) -> Result<Result<Record, (String, String)>, OperationError> {
    match repository.evidence(&name).await {
        Ok((plain, sha256)) => {
            let parsed = parse(EvidenceLink { key: name.key.clone(), sha256 }, &plain);
            Ok(parsed.map_err(|error| (name.key, error.to_string())))
        }
        Err(error) if error.is_damage() => Ok(Err((name.key, error.to_string()))),
        Err(error) => Err(error.into()),
    }
}

/// So many records are looked through for rows that were counted before.
const LOOKED_BACK: usize = 200;

/// The rows of a source of a policy that the newest drill of a point that is not newer than `consistent_at` has counted, and when it began. What cannot be read
/// is passed over.
///
/// # Errors
/// The store's.
pub(super) async fn rows_before(
    repository: &Repository,
    policy: &str,
    source: &str,
    consistent_at: DateTime<Utc>,
) -> Result<Option<(DateTime<Utc>, Vec<DatabaseRows>)>, OperationError> {
    let names = repository.evidence_names().await?.into_iter().rev().take(LOOKED_BACK);
    let mut read = stream::iter(names).map(|name| record(repository, name)).buffered(READS);
    while let Some(found) = read.try_next().await? {
        let Some(drill) = found.ok().and_then(|record| record.drill) else { continue };
        let is_of_then = drill.point.as_ref().is_some_and(|point| point.consistent_at <= consistent_at);
        if drill.policy != policy || !is_of_then {
            continue;
        }
        let counted = drill.sources.into_iter().find(|one| one.name == source && !one.rows.is_empty());
        if let Some(counted) = counted {
            return Ok(Some((drill.started_at, counted.rows)));
        }
    }
    Ok(None)
}

/// What is wrong with the evidence: records that cannot be read, and links of the chain that lead nowhere or to another record.
pub(super) fn flaws(records: &[Record], unreadable: &[(String, String)]) -> Vec<(String, String)> {
    let mut flaws = unreadable.to_vec();
    let hashes: BTreeMap<&str, &str> =
        records.iter().map(|record| (record.link.key.as_str(), record.link.sha256.as_str())).collect();
    let unreadable: BTreeSet<String> = flaws.iter().map(|(key, _)| key.clone()).collect();
    for record in records {
        let Some(previous) = &record.previous else { continue };
        match hashes.get(previous.key.as_str()) {
            Some(hash) if *hash == previous.sha256 => {}
            Some(_) => flaws.push((previous.key.clone(), format!("is not the record that {} was written after", record.link.key))),
            None if unreadable.contains(&previous.key) => {}
            None => flaws.push((previous.key.clone(), format!("is missing; {} was written after it", record.link.key))),
        }
    }
    flaws
}

/// When each point was last found sound, by id; without those that a later record (they come oldest first) found hurt.
pub fn verified_points(records: &[Record]) -> BTreeMap<String, DateTime<Utc>> {
    let mut verified = BTreeMap::new();
    for record in records {
        verified.extend(record.sound.iter().map(|point| (point.clone(), record.at)));
        verified.retain(|point, _| !record.hurt.contains(point));
    }
    verified
}

/// What `points`, `latest-verified` and retention mean by a verified point: one pass over the evidence.
///
/// # Errors
/// The store's.
pub(super) async fn verified(repository: &Repository) -> Result<BTreeMap<String, DateTime<Utc>>, OperationError> {
    Ok(verified_points(&records(repository).await?.0))
}

/// What the sources (by name and kind) of the newest points of a policy looked like, oldest first. Points that cannot be read are
/// passed over.
///
/// # Errors
/// The store's.
pub(super) async fn recent_shapes(
    repository: &Repository,
    policy: &str,
    points: usize,
) -> Result<BTreeMap<(String, String), Vec<Shape>>, OperationError> {
    let names = repository.point_names(Some(policy)).await?;
    let newest = names[names.len().saturating_sub(points)..].iter();
    let mut read = stream::iter(newest).map(|name| repository.point(name)).buffered(READS);
    let mut shapes: BTreeMap<(String, String), Vec<Shape>> = BTreeMap::new();
    while let Some(point) = read.next().await {
        let point = match point {
            Ok(point) => point,
            Err(error) if error.is_damage() => continue,
            Err(error) => return Err(error.into()),
        };
        for snapshot in &point.snapshots {
            shapes.entry((snapshot.source.clone(), snapshot.kind.clone())).or_default().push(snapshot.into());
        }
    }
    Ok(shapes)
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

/// Stores what a verification read: `points` were read completely, by it and earlier ones; `part_points` as in [`Reading`], where it
/// read a part. Returns the key of the record.
pub(super) async fn keep_verification(
    repository: &Repository,
    at: DateTime<Utc>,
    points: BTreeSet<String>,
    part_points: Option<BTreeSet<String>>,
    report: &VerifyReport,
) -> Result<String, OperationError> {
    let previous = newest_link(repository).await?;
    let mut report = report.clone();
    condense(&mut report.damage);
    condense(&mut report.known);
    keep(repository, "verification", &Verification { at, points, part_points, previous, report }).await
}

/// Objects that are named in a record one by one.
const NAMED: usize = 1000;

/// Leaves a list so short that its record can be read again, whatever was lost: behind the first objects the others are one, and each point that
/// any of them hurts is named once.
fn condense(damage: &mut Vec<Damage>) {
    if damage.len() <= NAMED + 1 {
        return;
    }
    let rest = damage.split_off(NAMED);
    let (first, count) = (rest.first().map(|first| first.object.clone()), rest.len());
    let points: BTreeSet<String> = rest.into_iter().flat_map(|damage| damage.points).collect();
    damage.push(Damage {
        object: first.unwrap_or_default(),
        detail: format!("and {} more objects, which the report of that run named", count - 1),
        points: points.into_iter().collect(),
    });
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
    let verified = verified(repository).await?;
    let mut names = repository.point_names(policy).await?;
    names.retain(|name| verified.contains_key(&name.id));
    one_policy(&names, wanted)?;
    names.pop().ok_or_else(|| {
        OperationError::Repository(RepositoryError::NoSuchPoint {
            wanted: wanted.to_owned(),
            detail: "no recovery point was verified yet; `farshore drill` or `farshore verify --read-data` does that, or choose `latest`".to_owned(),
        })
    })
}
