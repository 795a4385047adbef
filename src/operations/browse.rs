//! Looking into points without restoring them: points, entries, differences, single contents.

use std::cmp::Ordering;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::{StreamExt, TryStreamExt, stream::BoxStream};
use serde::Serialize;

use super::{OperationError, PinSummary, exchange::lies_below, history, pins};
use crate::{
    progress::Anomaly,
    repository::{Dooms, EntryRecord, PointName, Reader, Repository, RepositoryError, Snapshot},
};

/// A point in a list.
#[derive(Debug, Clone, Serialize)]
pub struct PointSummary {
    /// Its id.
    pub id: String,
    /// T.
    pub time: DateTime<Utc>,
    /// When the site stored it, by the site's own clock.
    pub stored: DateTime<Utc>,
    /// The policy.
    pub policy: String,
    /// When it was last found sound by a drill or a reading verification.
    pub verified: Option<DateTime<Utc>>,
    /// Its pin, if one was made and not taken back; it may have run out.
    pub pinned: Option<PinSummary>,
    /// Somebody gave it up as lost: why. It counts for prune as long as that finds it to be lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub given_up: Option<String>,
    /// Prune has doomed it, and it is not pinned: from when on it may be deleted, by the site's clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub doomed: Option<DateTime<Utc>>,
    /// In what it is far from the points before it.
    pub anomalies: Vec<Anomaly>,
    /// Names of the sites that should have got it from the same backup and did not.
    pub missing_at: Vec<String>,
    /// Names of its sources; empty if the point cannot be read.
    pub sources: Vec<String>,
    /// Entries of all sources.
    pub entries: u64,
    /// Plain bytes of all sources.
    pub bytes: u64,
    /// Problems that its backup reported.
    pub problems: u64,
    /// Why it cannot be read, if so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unreadable: Option<String>,
}

/// Points read at once.
const READS: usize = 8;

/// All points (of one policy, or of all), oldest first.
///
/// # Errors
/// The store's. A damaged point is in the list, and says so.
pub async fn point_summaries(repository: &Repository, policy: Option<&str>) -> Result<Vec<PointSummary>, OperationError> {
    let names = repository.stored_points(policy).await?;
    let verified = history::verified(repository).await?;
    let records = repository.pins().await?;
    let (mut pinned, held_until) = (pins::current(&records), pins::held_until(&records));
    let mut given_up = pins::given_up(&records);
    let dooms = Dooms::since(&repository.doom_records().await?, &held_until);
    let marks = repository.marks().await?;
    let keys: Vec<String> = names.iter().map(|(name, _)| name.key.clone()).collect();
    let summaries = futures_util::stream::iter(names).map(|(name, stored)| summary(repository, name, stored)).buffered(READS);
    let mut all: Vec<PointSummary> = summaries.try_collect().await?;
    for (summary, key) in all.iter_mut().zip(keys) {
        if let Some(detail) = marks.damage(&key) {
            summary.unreadable.get_or_insert_with(|| detail.to_owned());
        }
        summary.doomed = dooms.point(&key);
        summary.verified = verified.get(&summary.id).copied();
        summary.pinned = pinned.remove(&summary.id);
        summary.given_up = given_up.remove(&summary.id);
    }
    Ok(all)
}

async fn summary(repository: &Repository, name: PointName, stored: DateTime<Utc>) -> Result<PointSummary, OperationError> {
    let mut summary = PointSummary {
        id: name.id.clone(),
        time: name.time,
        stored,
        policy: name.policy.clone(),
        verified: None,
        pinned: None,
        given_up: None,
        doomed: None,
        anomalies: Vec::new(),
        missing_at: Vec::new(),
        sources: Vec::new(),
        entries: 0,
        bytes: 0,
        problems: 0,
        unreadable: None,
    };
    match repository.point(&name).await {
        Ok(point) => {
            summary.time = point.consistent_at;
            summary.sources = point.snapshots.iter().map(|snapshot| snapshot.source.clone()).collect();
            summary.entries = point.snapshots.iter().map(|snapshot| snapshot.entry_count).sum();
            summary.bytes = point.snapshots.iter().map(|snapshot| snapshot.content_bytes).sum();
            summary.problems = point.problems().len() as u64;
            summary.anomalies = point.anomalies;
            summary.missing_at = point.missing_at;
        }
        Err(error) if error.is_damage() => {
            summary.unreadable = Some(error.to_string());
        }
        Err(error) => return Err(error.into()),
    }
    Ok(summary)
}

/// An entry in a list.
#[derive(Debug, Clone, Serialize)]
pub struct Listing {
    /// Its path; invalid UTF-8 replaced.
    pub path: String,
    /// What it is.
    pub kind: String,
    /// Plain bytes.
    pub size: u64,
    /// Its time of modification, where it has one.
    pub modified: Option<DateTime<Utc>>,
}

impl From<&EntryRecord> for Listing {
    fn from(record: &EntryRecord) -> Self {
        Self {
            path: String::from_utf8_lossy(&record.path).into_owned(),
            kind: record.kind.clone(),
            size: record.size.unwrap_or(0),
            modified: record.modified_at(),
        }
    }
}

/// The entries of a snapshot (below a path), in order.
pub fn list_entries(
    reader: &Reader,
    snapshot: &Snapshot,
    below: Option<Vec<u8>>,
) -> BoxStream<'static, Result<Listing, OperationError>> {
    reader
        .entries(snapshot)
        .try_filter(move |record| std::future::ready(below.as_ref().is_none_or(|below| lies_below(&record.path, below))))
        .map_ok(|record| Listing::from(&record))
        .map_err(Into::into)
        .boxed()
}

/// The bytes of one entry.
///
/// # Errors
/// [`RepositoryError::NoSuchPoint`] if there is no such entry, or it has no bytes; the repository's, naming the entry.
pub async fn open_content(
    reader: &Reader,
    snapshot: &Snapshot,
    path: &[u8],
) -> Result<BoxStream<'static, Result<Bytes, RepositoryError>>, OperationError> {
    let refused = |detail: &str| {
        OperationError::Repository(RepositoryError::NoSuchPoint {
            wanted: format!("{}/{}", snapshot.source, String::from_utf8_lossy(path)),
            detail: detail.to_owned(),
        })
    };
    let (source, at) = (snapshot.source.clone(), path.to_vec());
    let mut entries = reader.entries(snapshot);
    while let Some(record) = entries.try_next().await.map_err(|error| error.at_entry(&source, None))? {
        if record.path == path {
            let content = record.content.ok_or_else(|| refused(&format!("is a {} and has no bytes", record.kind)))?;
            return Ok(reader.read(&content).map_err(move |error| error.at_entry(&source, Some(&at))).boxed());
        }
    }
    Err(refused("is not in this point; `farshore ls` lists what is (paths have no slash at their beginning)"))
}

/// A difference between two snapshots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DiffLine {
    /// `added`, `removed` or `changed`.
    pub change: &'static str,
    /// Path of the entry.
    pub path: String,
    /// Plain bytes before.
    pub size_before: Option<u64>,
    /// Plain bytes after.
    pub size_after: Option<u64>,
}

/// Compares the entries of two snapshots by path and contents (chunk lists: nothing is downloaded but the lists).
pub fn diff(reader: &Reader, before: &Snapshot, after: &Snapshot) -> BoxStream<'static, Result<DiffLine, OperationError>> {
    let state = (reader.entries(before).peekable(), reader.entries(after).peekable());
    futures_util::stream::try_unfold(state, |(mut before, mut after)| async move {
        loop {
            let order = match (std::pin::Pin::new(&mut before).peek().await, std::pin::Pin::new(&mut after).peek().await) {
                (None, None) => return Ok(None),
                (Some(Err(_)), _) | (Some(_), None) => Ordering::Less,
                (_, Some(Err(_))) | (None, Some(_)) => Ordering::Greater,
                (Some(Ok(old)), Some(Ok(new))) => old.path.cmp(&new.path),
            };
            let line = |change, old: Option<&EntryRecord>, new: Option<&EntryRecord>| DiffLine {
                change,
                path: old.or(new).map_or_else(String::new, |record| String::from_utf8_lossy(&record.path).into_owned()),
                size_before: old.and_then(|record| record.size),
                size_after: new.and_then(|record| record.size),
            };
            let found = match order {
                Ordering::Less => before.try_next().await?.map(|old| line("removed", Some(&old), None)),
                Ordering::Greater => after.try_next().await?.map(|new| line("added", None, Some(&new))),
                Ordering::Equal => match (before.try_next().await?, after.try_next().await?) {
                    (Some(old), Some(new)) if old.content != new.content || old.kind != new.kind => {
                        Some(line("changed", Some(&old), Some(&new)))
                    }
                    _ => None,
                },
            };
            if let Some(found) = found {
                return Ok(Some((found, (before, after))));
            }
        }
    })
    .boxed()
}
