//! The log of clusters from one site to another: opened there, sealed here under keys of the target's own.
//!
//! Promises:
//! * Files are stored in the order of the log, one after the other: a copy that stops anywhere leaves no hole at the target, and the next one
//!   goes on.
//! * What is there is kept. Of each timeline the newest file that both sites have is read and compared before anything is stored: two
//!   servers' logs of one name never come together again, so where that is the same, all before it is.
//!
//! Order: after the points, which decide from where on the log is needed, and keep a prune of the target from it.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use futures_util::{StreamExt, stream};

use super::{
    coverage::{PhysicalPoint, physical_points},
    refused,
};
use crate::{
    operations::OperationError,
    progress::{Observer, Problem, Tally},
    report::{CopiedLog, CopyReport},
    repository::{LogAnswer, LogKey, LogKind, LogName, LogPut, LogReader, LogWriter, PointName, Recipients, Repository},
    sources::postgres::physical::Layout,
};

/// Segments that are read ahead, at most.
const MOST_AHEAD: u64 = 8;
/// A file is held as it is and as it was sealed, at both ends.
const COPIES: u64 = 4;

/// What copying a log needs.
pub(in crate::operations) struct LogCopyRequest<'a> {
    /// Where the log is. Its identities must open it.
    pub(in crate::operations) from: &'a Arc<Repository>,
    /// Where it goes.
    pub(in crate::operations) to: &'a Arc<Repository>,
    /// Who can read the copy.
    pub(in crate::operations) recipients: &'a Recipients,
    /// Whose clusters.
    pub(in crate::operations) policy: &'a str,
    /// Points that are copied, too.
    pub(in crate::operations) points: &'a [PointName],
    /// zstd level.
    pub(in crate::operations) compression_level: i32,
    /// Bytes of memory for files on their way.
    pub(in crate::operations) memory_bytes: u64,
}

/// The files of one cluster.
struct Cluster {
    layout: Layout,
    /// In the order in which they are stored.
    missing: Vec<LogName>,
    /// The newest of each timeline that both sites have.
    compared: Vec<LogName>,
    report: CopiedLog,
}

/// What would be copied of each cluster: the files and bytes of a report, as they lie at the source.
///
/// # Errors
/// The stores'.
pub(in crate::operations) async fn plan_log(
    request: &LogCopyRequest<'_>,
) -> Result<(Vec<CopiedLog>, Vec<Problem>), OperationError> {
    let (clusters, problems) = clusters(request).await?;
    Ok((clusters.into_iter().map(|cluster| cluster.report).collect(), problems))
}

/// Copies the log of the clusters whose points the target has; says what was done in the report.
///
/// # Errors
/// The stores', keys that do not open, and [`OperationError::Refused`] where the target has another file under a name. What was stored
/// before stays, and is found by the next copy.
pub(in crate::operations) async fn copy_log(
    request: &LogCopyRequest<'_>,
    tally: &Tally,
    report: &mut CopyReport,
) -> Result<(), OperationError> {
    let (clusters, problems) = clusters(request).await?;
    problems.into_iter().for_each(|problem| tally.problem(problem));
    let reader = LogReader::new(Arc::clone(request.from));
    let (to, recipients) = (Arc::clone(request.to), request.recipients.clone());
    let writer = LogWriter::new(to, recipients, LogKey::default(), request.compression_level)?;
    for mut cluster in clusters {
        tally.phase(&format!("copy the log of cluster {}", cluster.report.system), None);
        (cluster.report.files, cluster.report.bytes) = (0, 0);
        let ahead = (request.memory_bytes / (COPIES * cluster.layout.segment_bytes)).clamp(1, MOST_AHEAD);
        let reader = &reader;
        // First those that are there.
        let names: Vec<LogName> = cluster.compared.iter().chain(&cluster.missing).cloned().collect();
        let mut files = stream::iter(names)
            .map(|name| async move { (reader.fetch_ended(&name).await, name) })
            .buffered(usize::try_from(ahead).unwrap_or(1));
        while let Some((answer, name)) = files.next().await {
            let (plain, ended_at) = match answer {
                Ok((LogAnswer::File(plain), ended_at)) => (plain, ended_at),
                // A prune took it meanwhile: no point at the source needs it, or the segment is whole now.
                Ok(_) => continue,
                Err(error) if error.is_damage() => {
                    report.damaged.push(Problem::new(name.to_string(), format!("was not copied: {error}")));
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let bytes = plain.len() as u64;
            let is_compared = cluster.compared.contains(&name);
            let stored = match is_compared {
                true => writer.compare(&name, plain).await?,
                false => Some(writer.put_ended(&name, plain.into(), ended_at).await?),
            };
            match stored {
                Some(LogPut::Other { place }) => return Err(another(place, &name)),
                Some(LogPut::Stored) => {
                    cluster.report.files += 1;
                    cluster.report.bytes += bytes;
                }
                // Somebody else stored it since it was listed.
                Some(LogPut::There) if !is_compared => cluster.report.present += 1,
                Some(LogPut::There) | None => {}
            }
        }
        drop(files);
        report.log.push(cluster.report);
    }
    Ok(())
}

fn another(place: String, name: &LogName) -> OperationError {
    let detail = format!(
        "another file of this name with other bytes is there, so that nothing more of the log of cluster {} was copied: two servers with one identity wrote to these sites, as after a fail-over when the old primary still ran. Copy to another site, or take the wrong log away there",
        name.system()
    );
    refused(place, detail)
}

/// The clusters of the points, with what the target lacks of their log, from the beginning of the oldest point on.
async fn clusters(request: &LogCopyRequest<'_>) -> Result<(Vec<Cluster>, Vec<Problem>), OperationError> {
    let (mut points, mut problems) = physical_points(request.to, Some(request.policy)).await?;
    let asked: BTreeSet<&str> = request.points.iter().map(|point| point.id.as_str()).collect();
    if !asked.is_empty() {
        let (here, damaged) = physical_points(request.from, Some(request.policy)).await?;
        points.extend(here.into_iter().filter(|point| asked.contains(point.name.id.as_str())));
        problems.extend(damaged);
    }
    let mut clusters = Vec::new();
    for (layout, first) in begins(&points) {
        clusters.push(cluster(request, layout, first).await?);
    }
    Ok((clusters, problems))
}

/// Of each cluster the first segment that a point needs.
fn begins(points: &[PhysicalPoint]) -> Vec<(Layout, u64)> {
    let mut begins: BTreeMap<u64, (Layout, u64)> = BTreeMap::new();
    for point in points {
        let first = point.layout.segment_of(point.start);
        let begin = begins.entry(point.layout.system).or_insert((point.layout, first));
        begin.1 = begin.1.min(first);
    }
    begins.into_values().collect()
}

async fn cluster(request: &LogCopyRequest<'_>, layout: Layout, first: u64) -> Result<Cluster, OperationError> {
    let here = request.from.log_files(Some(layout.system)).await?;
    let there: HashSet<LogName> = request.to.log_files(Some(layout.system)).await?.into_iter().map(|file| file.name).collect();
    let whole: HashSet<String> = here
        .iter()
        .map(|file| &file.name)
        .chain(&there)
        .filter(|name| name.kind() == LogKind::Segment)
        .map(|name| name.file().to_owned())
        .collect();
    let is_needed = |name: &LogName| match name.segment() {
        None => true,
        // Of a segment that is whole nobody needs parts.
        Some(segment) if name.kind() == LogKind::Part && whole.contains(segment) => false,
        Some(segment) => layout.parse(segment).is_some_and(|segment| segment.number >= first),
    };
    let report = CopiedLog { system: layout.system.to_string(), ..CopiedLog::default() };
    let mut cluster = Cluster { layout, missing: Vec::new(), compared: Vec::new(), report };
    let mut newest: BTreeMap<u32, LogName> = BTreeMap::new();
    for file in here.into_iter().filter(|file| is_needed(&file.name)) {
        let segment = file.name.segment().filter(|_| file.name.kind() == LogKind::Segment);
        if let Some(segment) = segment {
            cluster.report.first.get_or_insert_with(|| segment.to_owned());
            cluster.report.last = Some(segment.to_owned());
        }
        if there.contains(&file.name) {
            cluster.report.present += 1;
            newest.insert(file.name.timeline(), file.name);
        } else {
            cluster.report.files += 1;
            cluster.report.bytes += file.bytes;
            cluster.missing.push(file.name);
        }
    }
    cluster.compared = newest.into_values().collect();
    Ok(cluster)
}
