//! The archive of clusters' logs: how it stands, and what a prune took from it.

use std::fmt::Write as _;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{
    Align, Amount, ExitCode, Look, Problem, Table, bytes, count, counted, printable, problem::problem_lines, seconds, timestamp,
};

/// How an archive stands: the spool on this machine, and the sites.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LogStatusReport {
    /// What waits on this machine; nothing where there is no spool.
    pub spool: Option<SpoolReport>,
    /// The server itself, where a policy names one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<LogServerReport>,
    /// Each site that answered.
    pub sites: Vec<LogSiteReport>,
}

/// What the server says of its log, and of who receives it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogServerReport {
    /// `postgres://user@host:port/database`.
    pub server: String,
    /// Why it could not be asked; whatever follows is not known then.
    pub unanswered: Option<String>,
    /// Its system identifier.
    pub system: Option<String>,
    /// The timeline that it is on.
    pub timeline: Option<u32>,
    /// As far as its log is on its disk.
    pub end_lsn: Option<String>,
    /// The slot of `wal receive`.
    pub slot: String,
    /// From where on the slot holds the log; nothing where there is none, or it was lost.
    pub holds_from_lsn: Option<String>,
    /// The server has given the slot up.
    pub is_lost: bool,
    /// Receivers that are connected to it.
    pub receivers: u64,
    /// The file that it could not archive, where none was archived since: it keeps all that comes after.
    #[serde(default)]
    pub unarchived: Option<String>,
}

impl LogServerReport {
    /// The slot waits, and nobody receives.
    pub fn is_unreceived(&self) -> bool {
        self.holds_from_lsn.is_some() && self.receivers == 0
    }

    fn text(&self, look: Look) -> String {
        let server = printable(&self.server);
        let (Some(end), None) = (&self.end_lsn, &self.unanswered) else {
            let why = self.unanswered.as_deref().unwrap_or("it does not say how far its log goes");
            return format!(
                "{} server {server} was not asked, so that nobody knows whether it is idle: {}\n",
                look.note(),
                printable(why)
            );
        };
        let slot = printable(&self.slot);
        let (mark, receiver) = match (self.is_lost, self.is_unreceived(), self.receivers) {
            (true, ..) => (
                look.failed(),
                format!(
                    "the server has given up the slot {slot}: the archive has a gap. Start `farshore wal receive`, and make a backup at once"
                ),
            ),
            (_, true, _) => {
                (look.failed(), format!("nobody receives, and the slot {slot} holds its log: start `farshore wal receive`"))
            }
            (.., 0) => (look.ok(), "nobody receives it".to_owned()),
            _ => (look.ok(), "it is received".to_owned()),
        };
        let (mark, unarchived) = match &self.unarchived {
            None => (mark, String::new()),
            Some(file) => (
                look.failed(),
                format!(
                    "; it could not archive {}, and keeps it and all that comes after until its disk is full: the server's log says why",
                    printable(file)
                ),
            ),
        };
        format!("{mark} server {server}: its log ends at {end}; {receiver}{unarchived}\n")
    }
}

/// What waits on the server's machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SpoolReport {
    /// Where it is.
    pub directory: String,
    /// Files that wait.
    pub files: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// So many may wait.
    pub limit_bytes: u64,
    /// How long the oldest has waited.
    pub oldest_seconds: Option<f64>,
    /// Whether a process empties it.
    pub is_emptied: bool,
    /// What that process complains of.
    pub errors: Vec<String>,
    /// Files have waited for too long, or cannot be stored.
    pub is_stuck: bool,
}

/// The archive at a site.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LogSiteReport {
    /// The site, as an operator would write it down.
    pub site: String,
    /// The site's time.
    pub site_time: DateTime<Utc>,
    /// Clusters.
    pub systems: Vec<LogSystem>,
    /// What is wrong with it.
    pub problems: Vec<Problem>,
}

/// A cluster's log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LogSystem {
    /// The system identifier.
    pub system: String,
    /// Bytes of a segment; nothing where there is none.
    pub segment_bytes: Option<u64>,
    /// Files at the site, and their bytes there.
    pub stored: Amount,
    /// Those of them that are parts of segments, stored while the server was still writing them.
    #[serde(default)]
    pub parts: Amount,
    /// When the site stored the newest segment, or part of one.
    pub newest_at: Option<DateTime<Utc>>,
    /// How much would be lost if the server were lost now, at most: nothing where the server has no more; else since the log ended where
    /// the archive does (by the file there, or when it was stored), or since the newest point of the policy, if that is later.
    pub rpo_seconds: Option<f64>,
    /// What may be lost, as the policy says; nothing where it does not, or the cluster is not the policy's any more.
    #[serde(default)]
    pub rpo_objective_seconds: Option<f64>,
    /// As far as the newest segment, or part of one, goes.
    #[serde(default)]
    pub end_lsn: Option<String>,
    /// What the server has beyond that; nothing where it was not asked, or is another cluster's. A server that is idle has nothing.
    #[serde(default)]
    pub behind_bytes: Option<u64>,
    /// Timelines.
    pub timelines: Vec<LogTimeline>,
    /// Recovery points of the cluster, oldest first.
    pub points: Vec<LogPoint>,
}

/// A timeline of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogTimeline {
    /// Its number.
    pub timeline: u32,
    /// The first segment.
    pub first: String,
    /// The last segment.
    pub last: String,
    /// Segments that are there.
    pub segments: u64,
    /// What is missing in between.
    pub gaps: Vec<LogGap>,
}

/// Segments that are missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogGap {
    /// The first.
    pub from: String,
    /// The last.
    pub to: String,
    /// How many.
    pub segments: u64,
    /// Later ones came only just now, so that these may be on their way: several are stored at once.
    #[serde(default)]
    pub is_awaited: bool,
}

impl LogGap {
    fn words(&self) -> String {
        let awaited = if self.is_awaited { ", may be on the way" } else { "" };
        match self.segments {
            1 => format!("{}{awaited}", self.from),
            many => format!("{} to {} ({}{awaited})", self.from, self.to, count(many)),
        }
    }
}

/// A recovery point that the log can take further.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogPoint {
    /// Its id.
    pub point: String,
    /// Its T, to the second.
    pub time: DateTime<Utc>,
    /// The first segment that replay beyond it needs.
    pub needs: String,
    /// The last one that replay reaches without a gap; nothing if it does not leave the point.
    pub reaches: Option<String>,
    /// Later segments are there, and replay does not reach them.
    pub is_cut_off: bool,
}

impl LogStatusReport {
    /// [`ExitCode::Problems`] or [`ExitCode::Success`].
    pub fn exit_code(&self) -> ExitCode {
        let spool = self.spool.as_ref().is_some_and(|spool| spool.is_stuck)
            || self.server.as_ref().is_some_and(|server| server.is_lost || server.is_unreceived() || server.unarchived.is_some());
        let site = |site: &LogSiteReport| !site.problems.is_empty();
        if spool || self.sites.iter().any(site) { ExitCode::Problems } else { ExitCode::Success }
    }

    /// As people read it.
    pub fn text(&self, look: Look) -> String {
        let spool = self.spool.as_ref().map(|spool| spool.text(look));
        let server = self.server.as_ref().map(|server| server.text(look));
        spool.into_iter().chain(server).chain(self.sites.iter().map(|site| site.text(look))).collect()
    }
}

impl SpoolReport {
    fn text(&self, look: Look) -> String {
        let mark = if self.is_stuck { look.failed() } else { look.ok() };
        let oldest = self.oldest_seconds.map_or_else(String::new, |oldest| format!(", the oldest for {}", seconds(oldest)));
        let mut text = format!(
            "{mark} spool {}: {} wait ({} of {}){oldest}{}\n",
            printable(&self.directory),
            counted(self.files, "file"),
            bytes(self.bytes),
            bytes(self.limit_bytes),
            if self.is_emptied || self.files == 0 { "" } else { "; nobody empties it: the next push starts that" }
        );
        for error in &self.errors {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "  {} {}", look.failed(), printable(error));
        }
        text
    }
}

impl LogSiteReport {
    fn text(&self, look: Look) -> String {
        let mark = if self.problems.is_empty() { look.ok() } else { look.failed() };
        let mut text = format!("{mark} {}: the log of {}\n", printable(&self.site), counted(self.systems.len() as u64, "cluster"));
        for system in &self.systems {
            let age = |at: DateTime<Utc>| seconds((self.site_time - at).as_seconds_f64().max(0.0));
            let newest = system.newest_at.map_or_else(String::new, |at| format!(", the newest stored {} ago", age(at)));
            let rpo = match (system.rpo_seconds, system.rpo_objective_seconds) {
                (Some(rpo), Some(objective)) => format!(", RPO {} (objective {})", seconds(rpo), seconds(objective)),
                (Some(rpo), None) => format!(", RPO {}", seconds(rpo)),
                (None, _) => String::new(),
            };
            let behind = match system.behind_bytes {
                None => String::new(),
                Some(0) => ", and the server has no more".to_owned(),
                Some(behind) => format!(", {} behind the server", bytes(behind)),
            };
            let parts = match system.parts.objects {
                0 => String::new(),
                many => format!(", {} of segments that were still being written", counted(many, "part")),
            };
            let (files, stored) = (counted(system.stored.objects, "file"), bytes(system.stored.bytes));
            let _ = writeln!(text, "  cluster {}: {files} ({stored}{parts}){newest}{behind}{rpo}", system.system);
            let mut table = Table::new(&[
                ("timeline", Align::Right),
                ("first", Align::Left),
                ("last", Align::Left),
                ("segments", Align::Right),
                ("missing", Align::Left),
            ]);
            for timeline in &system.timelines {
                let gaps = timeline.gaps.iter().map(LogGap::words);
                table.row(vec![
                    timeline.timeline.to_string(),
                    timeline.first.clone(),
                    timeline.last.clone(),
                    count(timeline.segments),
                    gaps.collect::<Vec<_>>().join(", "),
                ]);
            }
            if !table.is_empty() {
                let _ = writeln!(text, "{table}");
            }
            if let Some(point) = system.points.last() {
                let _ = match &point.reaches {
                    Some(last) => writeln!(
                        text,
                        "  from point {} of {} the log can be replayed to the end of {last}",
                        point.point,
                        timestamp(point.time)
                    ),
                    None => writeln!(
                        text,
                        "  point {} of {} cannot be taken further: {} is not there",
                        point.point,
                        timestamp(point.time),
                        point.needs
                    ),
                };
            }
        }
        text.push_str(&problem_lines(&self.problems));
        text
    }
}

/// What a prune took from the archive of logs, or would take.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LogPruneReport {
    /// The site, as an operator would write it down.
    pub site: String,
    /// Nothing was deleted.
    pub dry_run: bool,
    /// How long it took.
    pub seconds: f64,
    /// Files that are there, before.
    pub files: Amount,
    /// Files that were deleted.
    pub deleted: Amount,
    /// Keys that were deleted, since no file is sealed under them.
    pub keys_deleted: u64,
    /// Objects that were to be deleted and that a lock of the site holds: a later prune deletes them.
    pub locked: u64,
    /// When the first of these locks ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub locked_until: Option<DateTime<Utc>>,
    /// Clusters of which no recovery point is there, so that all of their logs stay.
    pub without_point: Vec<String>,
    /// What kept it from deleting.
    pub problems: Vec<Problem>,
}

impl LogPruneReport {
    /// [`ExitCode::Problems`] or [`ExitCode::Success`].
    pub fn exit_code(&self) -> ExitCode {
        if self.problems.is_empty() { ExitCode::Success } else { ExitCode::Problems }
    }

    /// As people read it, when it stands alone.
    pub fn text(&self, look: Look) -> String {
        let mark = if self.problems.is_empty() { look.ok() } else { look.failed() };
        let title = if self.dry_run { "the log would be pruned so" } else { "the log was pruned" };
        let mut text = format!("{mark} {}: {title} ({})\n", printable(&self.site), seconds(self.seconds));
        text.push_str(&self.lines());
        text.push_str(&problem_lines(&self.problems));
        text
    }

    /// What was done, a line each.
    pub(super) fn lines(&self) -> String {
        let mut text = String::new();
        let would = if self.dry_run { "would be deleted" } else { "deleted" };
        if self.deleted.objects + self.keys_deleted > 0 {
            let (files, keys) = (counted(self.deleted.objects, "file"), counted(self.keys_deleted, "key"));
            let _ = writeln!(text, "  {would} of the log: {files} ({}), {keys}", bytes(self.deleted.bytes));
        }
        if self.locked > 0 {
            let until = self.locked_until.map_or_else(String::new, |until| format!(", the first until {}", timestamp(until)));
            let _ = writeln!(text, "  later, of the log: {} that a lock of the site holds{until}", counted(self.locked, "object"));
        }
        for system in &self.without_point {
            let _ = writeln!(text, "  all of the log of cluster {system} stays: no recovery point of it is there");
        }
        let stays = Amount {
            objects: self.files.objects - self.deleted.objects.min(self.files.objects),
            bytes: self.files.bytes - self.deleted.bytes.min(self.files.bytes),
        };
        let _ = writeln!(text, "  {} of the log ({}) stay", counted(stays.objects, "file"), bytes(stays.bytes));
        text
    }
}
