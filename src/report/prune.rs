//! What a prune did, or would do.

use std::fmt::Write as _;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{
    Align, ExitCode, LogPruneReport, Look, Problem, Table, bytes, count, counted, printable, problem::problem_lines, seconds,
    timestamp,
};

/// What becomes of a recovery point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointVerdict {
    /// Its id.
    pub point: String,
    /// When the site stored it.
    pub stored: DateTime<Utc>,
    /// Whether retention keeps it.
    pub keep: bool,
    /// Everything that keeps it, or why nothing does.
    pub why: String,
    /// It is doomed: when it may be deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub doomed_until: Option<DateTime<Utc>>,
    /// It was deleted by this prune.
    pub deleted: bool,
}

/// So many objects, and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amount {
    /// Objects.
    pub objects: u64,
    /// Their bytes at the site.
    pub bytes: u64,
}

impl Amount {
    /// One more.
    pub fn add(&mut self, bytes: u64) {
        self.objects += 1;
        self.bytes += bytes;
    }
}

/// What a prune did, or would do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PruneReport {
    /// The site, as an operator would write it down.
    pub site: String,
    /// The policy whose retention was applied.
    pub policy: String,
    /// Nothing was written or deleted.
    pub dry_run: bool,
    /// The site's time.
    pub site_time: DateTime<Utc>,
    /// How long it took.
    pub seconds: f64,
    /// Everything is as the last prune left it, and that found nothing to do: the site was only listed.
    pub unchanged: bool,
    /// Every point of the policy.
    pub points: Vec<PointVerdict>,
    /// Points that were doomed now.
    pub points_doomed: u64,
    /// Points that were deleted.
    pub points_deleted: u64,
    /// Packs at the site.
    pub packs: Amount,
    /// Bytes of sealed chunks that points which stay need.
    pub bytes_needed: u64,
    /// Packs that were doomed now.
    pub packs_doomed: Amount,
    /// Packs that are doomed and wait for the end of their grace, or of the points that need them.
    pub packs_waiting: Amount,
    /// Packs that were doomed and are needed again.
    pub packs_spared: u64,
    /// Packs that were deleted.
    pub packs_deleted: Amount,
    /// Packs of which little was needed, and that part was moved (on a dry run: would be).
    pub packs_emptied: Amount,
    /// Packs that took that up.
    pub packs_filled: Amount,
    /// Data keys that were doomed now.
    pub keys_doomed: u64,
    /// Data keys that were deleted.
    pub keys_deleted: u64,
    /// Parts of runs that were deleted: what long runs had read so far.
    #[serde(default)]
    pub parts_deleted: u64,
    /// Objects that were to be deleted and that a lock of the site holds: a later prune deletes them.
    pub locked: u64,
    /// When the first of these locks ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub locked_until: Option<DateTime<Utc>>,
    /// When the next of what is doomed may be deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_at: Option<DateTime<Utc>>,
    /// What became of clusters' logs; nothing where none is archived.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<LogPruneReport>,
    /// What kept it from pruning all it could, and other oddities.
    pub problems: Vec<Problem>,
}

impl PruneReport {
    /// [`ExitCode::Problems`] or [`ExitCode::Success`].
    pub fn exit_code(&self) -> ExitCode {
        if self.problems.is_empty() { ExitCode::Success } else { ExitCode::Problems }
    }

    /// As people read it.
    pub fn text(&self, look: Look) -> String {
        let mut text = String::new();
        let kept = self.points.iter().filter(|point| point.keep).count() as u64;
        let mark = if self.problems.is_empty() { look.ok() } else { look.failed() };
        let title = if self.dry_run { "would be pruned so" } else { "pruned" };
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{mark} {}: {title}; {} of {} points of {} stay ({})",
            printable(&self.site),
            count(kept),
            count(self.points.len() as u64),
            printable(&self.policy),
            seconds(self.seconds)
        );
        if self.dry_run && !self.points.is_empty() {
            let columns = [("point", Align::Left), ("stored at", Align::Left), ("", Align::Left), ("why", Align::Left)];
            let mut table = Table::new(&columns);
            for point in &self.points {
                let verdict = if point.keep { "keep" } else { "remove" };
                table.row(vec![point.point.clone(), timestamp(point.stored), verdict.to_owned(), point.why.clone()]);
            }
            let _ = writeln!(text, "{table}");
        }
        if self.unchanged {
            let _ = writeln!(text, "  nothing has changed since the last prune, which found nothing to do");
        }
        let would = |done: &'static str, planned: &'static str| if self.dry_run { planned } else { done };
        let mut line = |points: u64, packs: Amount, keys: u64, what: &str| {
            if points + packs.objects + keys > 0 {
                let (points, objects, keys) = (counted(points, "point"), counted(packs.objects, "pack"), counted(keys, "data key"));
                let _ = writeln!(text, "  {what}: {points}, {objects} ({}), {keys}", bytes(packs.bytes));
            }
        };
        line(self.points_deleted, self.packs_deleted, self.keys_deleted, would("deleted", "would be deleted"));
        line(self.points_doomed, self.packs_doomed, self.keys_doomed, would("doomed", "would be doomed"));
        if self.parts_deleted > 0 {
            let parts = counted(self.parts_deleted, "part");
            let _ = writeln!(text, "  {}: {parts} of runs, older than the grace", would("deleted", "would be deleted"));
        }
        if self.packs_waiting.objects > 0 {
            let (objects, size) = (counted(self.packs_waiting.objects, "pack"), bytes(self.packs_waiting.bytes));
            let _ = writeln!(text, "  doomed before, and waiting: {objects} ({size})");
        }
        if self.packs_emptied.objects > 0 {
            let (objects, size) = (counted(self.packs_emptied.objects, "pack"), bytes(self.packs_emptied.bytes));
            let _ = match self.dry_run {
                true => writeln!(text, "  what is needed of {objects} ({size}) would be moved to new ones"),
                false => writeln!(
                    text,
                    "  what is needed of {objects} ({size}) was moved to {} new ones ({})",
                    count(self.packs_filled.objects),
                    bytes(self.packs_filled.bytes)
                ),
            };
        }
        if self.packs_spared > 0 {
            let _ = writeln!(text, "  needed again: {}, doomed before", counted(self.packs_spared, "pack"));
        }
        if self.locked > 0 {
            let until = self.locked_until.map_or_else(String::new, |until| format!(", the first until {}", timestamp(until)));
            let _ = writeln!(text, "  later: {} that a lock of the site holds{until}", counted(self.locked, "object"));
        }
        if let Some(next) = self.next_at {
            let _ = writeln!(
                text,
                "  what is doomed may be deleted from {} on; until then `farshore undelete` brings points back",
                timestamp(next)
            );
        }
        let (packs, size) = (counted(self.packs.objects, "pack"), bytes(self.packs.bytes));
        if !self.unchanged {
            let _ = writeln!(text, "  {packs} ({size}) at the site, {} of them needed", bytes(self.bytes_needed));
        }
        if let Some(log) = &self.log {
            text.push_str(&log.lines());
        }
        text.push_str(&problem_lines(&self.problems));
        text
    }
}
