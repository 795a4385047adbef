//! Recovery points: the commit, and the root from which everything else is found.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, NaiveDateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};

use super::{
    ChunkList, Repository, RepositoryError,
    error::{Result, reading},
    format::{Header, Id, Kind, MAX_POINT_BYTES, POINTS},
    index::{open_object, seal_object},
    keys::{random, sha256},
};
use crate::{
    progress::{Anomaly, Problem},
    stores::{GetOptions, ObjectStat, PutOptions, SharedStore, read_all},
};

/// Who wrote a point.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agent {
    /// Of the program.
    pub version: String,
    /// Name of the machine.
    pub host: String,
}

/// What one source looked like at one time.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Snapshot {
    /// Name of the source in the policy.
    pub source: String,
    /// `postgres`, `bucket`, `files`, `command`.
    pub kind: String,
    /// What was captured, as an operator would write it down.
    pub description: String,
    /// The instant it shows, where there is exactly one.
    #[serde(default)]
    pub consistent_at: Option<DateTime<Utc>>,
    /// The entry stream.
    pub entries: ChunkList,
    /// How many entries it has.
    pub entry_count: u64,
    /// Plain bytes of all contents.
    pub content_bytes: u64,
    /// What rebuilding and checking need beside the entries.
    pub facts: serde_json::Value,
    /// What could not be captured as it should.
    #[serde(default)]
    pub problems: Vec<Problem>,
    /// What capturing it showed of its bytes; absent in points of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measures: Option<Measures>,
}

/// What capturing a source showed of its bytes: later backups are held against it. Statistics, not promises.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measures {
    /// Plain bytes of chunks that the repository did not have.
    pub new_bytes: u64,
    /// Plain bytes that were read and looked at (by samples).
    pub sampled_bytes: u64,
    /// Those among them that no compression would make shorter.
    pub dense_bytes: u64,
}

impl Measures {
    /// Of both together.
    pub fn and(self, other: Self) -> Self {
        Self {
            new_bytes: self.new_bytes + other.new_bytes,
            sampled_bytes: self.sampled_bytes + other.sampled_bytes,
            dense_bytes: self.dense_bytes + other.dense_bytes,
        }
    }
}

/// One snapshot of every source of a policy.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Point {
    /// Its id, 16 hexadecimal digits.
    pub id: String,
    /// Name of the policy.
    pub policy: String,
    /// Region of the agent, where the policy names one.
    #[serde(default)]
    pub region: Option<String>,
    /// T: what was committed before it is in the point.
    pub consistent_at: DateTime<Utc>,
    /// When the backup began.
    pub started_at: DateTime<Utc>,
    /// When the last byte was confirmed by the site.
    pub finished_at: DateTime<Utc>,
    /// Who wrote it.
    pub agent: Agent,
    /// The policy file as it was: a restore needs no other copy.
    pub policy_text: String,
    /// `aes-256-gcm` or `none`.
    pub encryption: String,
    /// By name of the source, in the policy's order.
    pub snapshots: Vec<Snapshot>,
    /// In what it is far from the points before it; empty for a usual one, and in points of earlier versions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub anomalies: Vec<Anomaly>,
    /// Names of the sites that should have got it from the same backup and did not, as far as that was known when it was committed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing_at: Vec<String>,
    /// What later versions add.
    #[serde(flatten)]
    pub more: BTreeMap<String, serde_json::Value>,
}

impl Point {
    /// The key of its object: policy, T to the second, id.
    pub fn object_key(&self) -> String {
        Repository::point_object(&self.policy, self.consistent_at, &self.id)
    }

    /// The snapshot of a source.
    ///
    /// # Errors
    /// [`RepositoryError::NoSuchPoint`] naming the sources that there are.
    pub fn snapshot(&self, source: &str) -> Result<&Snapshot> {
        self.snapshots.iter().find(|snapshot| snapshot.source == source).ok_or_else(|| RepositoryError::NoSuchPoint {
            wanted: format!("source {source}"),
            detail: format!(
                "point {} has no such source; it has {}",
                self.id,
                self.snapshots.iter().map(|snapshot| snapshot.source.as_str()).collect::<Vec<_>>().join(", ")
            ),
        })
    }

    /// Problems of all sources, each naming its source.
    pub fn problems(&self) -> Vec<Problem> {
        let of = |snapshot: &Snapshot| {
            let source = snapshot.source.clone();
            snapshot
                .problems
                .clone()
                .into_iter()
                .map(move |problem| Problem::new(format!("{source}: {}", problem.subject), problem.message))
        };
        self.snapshots.iter().flat_map(of).collect()
    }
}

/// What a point's object name says; listing needs no more.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct PointName {
    /// T, to the second.
    pub time: DateTime<Utc>,
    /// 16 hexadecimal digits.
    pub id: String,
    /// Name of the policy.
    pub policy: String,
    /// Key of the object.
    pub key: String,
}

const TIME_FORMAT: &str = "%Y%m%dT%H%M%SZ";

/// A fresh id of a point or a piece of evidence.
pub fn fresh_id() -> String {
    hex::encode(random::<8>())
}

/// `<UTC>-<id>`.
pub fn dated_name(time: DateTime<Utc>, id: &str) -> String {
    format!("{}-{id}", time.format(TIME_FORMAT))
}

/// Reads `<UTC>-<id>`; nothing for what is written in another way than ours.
pub fn parse_dated_name(name: &str) -> Option<(DateTime<Utc>, &str)> {
    let (time, id) = name.split_once('-')?;
    let time = NaiveDateTime::parse_from_str(time, TIME_FORMAT).ok()?.and_utc();
    let sound = id.len() == 16 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    (sound && dated_name(time, id) == name).then_some((time, id))
}

impl PointName {
    /// Reads the key of an object; nothing for one that is no point, or is written in another way than ours.
    pub fn parse(key: &str) -> Option<Self> {
        let (policy, name) = key.strip_prefix(POINTS)?.split_once('/')?;
        let (time, id) = parse_dated_name(name)?;
        Some(Self { time, id: id.to_owned(), policy: policy.to_owned(), key: key.to_owned() })
    }
}

/// Lists a prefix to its end.
pub async fn list_all(repository: &Repository, prefix: &str) -> Result<Vec<ObjectStat>> {
    list_store(&repository.store, prefix).await
}

/// Lists a prefix to its end, before the repository is open.
pub async fn list_store(store: &SharedStore, prefix: &str) -> Result<Vec<ObjectStat>> {
    let mut all: Vec<ObjectStat> = Vec::new();
    loop {
        let after = all.last().map(|object| object.key.clone());
        let page = store.list(prefix, after.as_deref(), 1000).await?;
        // A site that gives the same page again and again must not keep us for ever.
        if page.objects.first().is_some_and(|object| after.is_some_and(|after| object.key <= after)) {
            return Err(RepositoryError::Damaged {
                place: format!("{}/{prefix}", store.describe()),
                detail: "the site lists the same objects again and again".to_owned(),
            });
        }
        let done = !page.more || page.objects.is_empty();
        all.extend(page.objects);
        if done {
            return Ok(all);
        }
    }
}

/// Refuses a word for the newest among points of which it would be mere chance whose is the newest.
///
/// # Errors
/// [`RepositoryError::NoSuchPoint`], with the policies.
pub(crate) fn one_policy(names: &[PointName], wanted: &str) -> Result<()> {
    let policies: BTreeSet<&str> = names.iter().map(|name| name.policy.as_str()).collect();
    if policies.len() < 2 {
        return Ok(());
    }
    let listed = policies.into_iter().collect::<Vec<_>>().join(", ");
    Err(RepositoryError::NoSuchPoint {
        wanted: wanted.to_owned(),
        detail: format!(
            "points of several policies lie here ({listed}): write the id of the one that you mean; `farshore points` lists them"
        ),
    })
}

impl Repository {
    /// The key of a point's object: policy, T to the second, id.
    pub fn point_object(policy: &str, consistent_at: DateTime<Utc>, id: &str) -> String {
        format!("{POINTS}{policy}/{}", dated_name(consistent_at, id))
    }

    /// All points (of one policy, or of all), oldest first. Nothing is downloaded.
    ///
    /// # Errors
    /// The store's.
    pub async fn point_names(&self, policy: Option<&str>) -> Result<Vec<PointName>> {
        Ok(self.stored_points(policy).await?.into_iter().map(|(name, _)| name).collect())
    }

    /// Like [`Self::point_names`], each with the time at which the site stored it, by the site's own clock.
    ///
    /// # Errors
    /// The store's.
    pub async fn stored_points(&self, policy: Option<&str>) -> Result<Vec<(PointName, DateTime<Utc>)>> {
        let prefix = policy.map_or_else(|| POINTS.to_owned(), |policy| format!("{POINTS}{policy}/"));
        let mut names: Vec<_> = list_all(self, &prefix)
            .await?
            .into_iter()
            .filter_map(|object| Some((PointName::parse(&object.key)?, object.modified)))
            .collect();
        // No point shows what was still to come when it was stored: whose T says so was made by a wrong clock, or by a thief who wants
        // to be the newest. Two points of one second: the site knows which was stored first.
        names.sort_by(|(left, left_stored), (right, right_stored)| {
            let (left_time, right_time) = (left.time.min(*left_stored), right.time.min(*right_stored));
            (left_time, left_stored, &left.key).cmp(&(right_time, right_stored, &right.key))
        });
        Ok(names)
    }

    /// The point that `wanted` names: an id, an unambiguous beginning of one, or `latest`.
    ///
    /// # Errors
    /// [`RepositoryError::NoSuchPoint`], saying what there is.
    pub async fn find_point(&self, policy: Option<&str>, wanted: &str) -> Result<PointName> {
        let names = self.point_names(policy).await?;
        let none = |detail: String| RepositoryError::NoSuchPoint { wanted: wanted.to_owned(), detail };
        let Some(newest) = names.last() else {
            let whose = policy.map_or_else(String::new, |policy| format!(" of policy {policy}"));
            return Err(none(format!(
                "{} holds no recovery point{whose} yet; make one with `farshore backup`",
                self.store.describe()
            )));
        };
        if wanted == "latest" {
            one_policy(&names, wanted)?;
            return Ok(newest.clone());
        }
        let matching: Vec<_> =
            names.iter().filter(|name| !wanted.is_empty() && name.id.starts_with(&wanted.to_lowercase())).collect();
        match matching.as_slice() {
            [one] => Ok((*one).clone()),
            [] => Err(none("no recovery point has this id; `farshore points` lists them".to_owned())),
            [first, second, ..] => {
                Err(none(format!("more than one point begins so ({}, {} …); give more digits", first.id, second.id)))
            }
        }
    }

    /// Reads a point.
    ///
    /// # Errors
    /// The store's; [`RepositoryError::Damaged`], also if its contents are not what its name says.
    pub async fn point(&self, name: &PointName) -> Result<Point> {
        let place = format!("{}/{}", self.store.describe(), name.key);
        let bytes = read_all(self.store.as_ref(), &name.key, GetOptions::default(), MAX_POINT_BYTES).await.map_err(reading)?;
        let (_, plain) = open_object(&place, &bytes, Kind::Point, &self.catalogue)?;
        let damaged = |detail: String| RepositoryError::Damaged { place: place.clone(), detail };
        let point: Point = serde_json::from_slice(&plain).map_err(|error| damaged(error.to_string()))?;
        if point.object_key() != name.key {
            return Err(damaged(format!("holds the point whose name is {} instead", point.object_key())));
        }
        Ok(point)
    }

    /// SHA-256 of a point's stored object: through it, everything in the point is fixed (its root hash).
    ///
    /// # Errors
    /// The store's.
    pub async fn root_hash(&self, name: &PointName) -> Result<String> {
        let bytes = read_all(self.store.as_ref(), &name.key, GetOptions::default(), MAX_POINT_BYTES).await.map_err(reading)?;
        Ok(hex::encode(sha256(&bytes)))
    }
}

/// Writes the point: the commit. Everything that it refers to must be confirmed by the site.
/// Returns also when the site stored it, by its own clock.
pub async fn commit(
    repository: &Repository,
    run: &Id,
    key: &super::seal::SealingKey,
    point: &Point,
) -> Result<(PointName, DateTime<Utc>)> {
    let object = point.object_key();
    // First: a point under a name that nobody lists must not be written.
    let name = PointName::parse(&object).ok_or_else(|| RepositoryError::Refused {
        subject: point.policy.clone(),
        detail: format!(
            "cannot be part of an object's name together with {}",
            point.consistent_at.to_rfc3339_opts(SecondsFormat::Secs, true)
        ),
    })?;
    let header = Header { kind: Kind::Point, catalogue_key: repository.catalogue.id, run: *run, data_key: [0; 16] };
    let plain = serde_json::to_vec(point).expect("strings, numbers and JSON values always serialise");
    let bytes = seal_object(&header, key, &plain);
    let options = PutOptions { if_absent: true, sha256: Some(sha256(&bytes)), ..PutOptions::default() };
    let stored = repository.store.put(&object, bytes.into(), options).await?;
    Ok((name, stored.modified))
}
