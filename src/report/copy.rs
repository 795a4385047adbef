//! What a copy of recovery points did.

use std::fmt::Write as _;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{
    Align, ExitCode, Look, Problem, Table, backup::encryption_words, bytes, count, printable, problem::problem_lines, seconds,
    timestamp,
};

/// What a copy did. Every point in `points` exists at the target.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CopyReport {
    /// Where the points came from, as an operator would write it down.
    pub from: String,
    /// Where they went.
    pub to: String,
    /// When the copy began.
    pub started_at: DateTime<Utc>,
    /// How long it took.
    pub seconds: f64,
    /// Who can read the copies: `2 recipients`, or `none`.
    pub encryption: String,
    /// What was copied, oldest first.
    pub points: Vec<CopiedPoint>,
    /// Ids of points that the target had already.
    pub present: Vec<String>,
    /// The archived log, of each cluster, where it was to be copied.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log: Vec<CopiedLog>,
    /// Points, and files of the log, that could not be copied because something at the source is damaged.
    pub damaged: Vec<Problem>,
    /// What went wrong without stopping the work.
    pub problems: Vec<Problem>,
}

/// A point that was copied.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CopiedPoint {
    /// Its id, the same at both sites.
    pub id: String,
    /// T.
    pub time: DateTime<Utc>,
    /// Its entries.
    pub items: u64,
    /// Those whose bytes the target had in an earlier point that both sites have, so that they were not read.
    pub items_adopted: u64,
    /// Plain bytes of its contents.
    pub bytes: u64,
    /// Plain bytes that were read at the source.
    pub bytes_read: u64,
    /// Bytes sent to the target.
    pub bytes_stored: u64,
    /// Packs written.
    pub packs_written: u64,
    /// Chunks that were stored.
    pub chunks_new: u64,
    /// Chunks that the target had already.
    pub chunks_known: u64,
    /// How long it took.
    pub seconds: f64,
}

/// The log of a cluster that was copied, or would be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopiedLog {
    /// The cluster's system identifier.
    pub system: String,
    /// The first segment that the source has of what the points need.
    pub first: Option<String>,
    /// The last one.
    pub last: Option<String>,
    /// Files that were copied.
    pub files: u64,
    /// Their bytes: plain ones of what was copied, those of the objects in a plan.
    pub bytes: u64,
    /// Files that the target had already.
    pub present: u64,
}

impl CopiedLog {
    /// On one line, as people read it.
    pub fn text(&self) -> String {
        let range = match (&self.first, &self.last) {
            (Some(first), Some(last)) => format!("{} to {}", printable(first), printable(last)),
            _ => "no whole segment".to_owned(),
        };
        format!(
            "log of cluster {}, {range}: {} files ({}), {} are there already",
            printable(&self.system),
            count(self.files),
            bytes(self.bytes),
            count(self.present)
        )
    }
}

impl CopyReport {
    /// [`ExitCode::Damaged`] if a point or a file of the log could not be copied, else [`ExitCode::Problems`] if there were any.
    pub fn exit_code(&self) -> ExitCode {
        match (self.damaged.is_empty(), self.problems.is_empty()) {
            (false, _) => ExitCode::Damaged,
            (true, false) => ExitCode::Problems,
            (true, true) => ExitCode::Success,
        }
    }

    /// As people read it.
    pub fn text(&self, look: Look) -> String {
        let mark = match self.exit_code() {
            ExitCode::Success => look.ok(),
            ExitCode::Damaged => look.failed(),
            _ => look.note(),
        };
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{mark} {} recovery points copied", count(self.points.len() as u64));
        let _ = writeln!(text, "  from           {}", printable(&self.from));
        let _ = writeln!(text, "  to             {}", printable(&self.to));
        let _ = writeln!(text, "  encryption     {}", encryption_words(&self.encryption));
        let _ = writeln!(text, "  took           {}", seconds(self.seconds));
        for id in &self.present {
            let _ = writeln!(text, "  {} is there already", printable(id));
        }
        for log in &self.log {
            let _ = writeln!(text, "  {}", log.text());
        }
        if !self.points.is_empty() {
            let mut table = Table::new(&[
                ("point", Align::Left),
                ("consistent at", Align::Left),
                ("items", Align::Right),
                ("unchanged", Align::Right),
                ("read", Align::Right),
                ("stored", Align::Right),
                ("time", Align::Right),
            ]);
            for point in &self.points {
                table.row(vec![
                    point.id.clone(),
                    timestamp(point.time),
                    count(point.items),
                    count(point.items_adopted),
                    bytes(point.bytes_read),
                    bytes(point.bytes_stored),
                    seconds(point.seconds),
                ]);
            }
            let _ = writeln!(text, "\n{table}");
        }
        for damaged in &self.damaged {
            let _ = writeln!(text, "\n{} {}: {}", look.failed(), printable(&damaged.subject), printable(&damaged.message));
        }
        text.push_str(&problem_lines(&self.problems));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::{CopiedLog, CopiedPoint, CopyReport, ExitCode, Look, Problem};

    fn report() -> CopyReport {
        CopyReport {
            from: "s3://far/p".into(),
            to: "/mnt/new".into(),
            started_at: "2026-11-23T02:00:00Z".parse().unwrap(),
            seconds: 12.0,
            encryption: "2 recipients".into(),
            points: vec![CopiedPoint { id: "4f2a".into(), items: 1200, items_adopted: 1100, ..CopiedPoint::default() }],
            present: vec!["11aa".into()],
            log: vec![CopiedLog { system: "7".into(), files: 3, bytes: 3 << 24, present: 1200, ..CopiedLog::default() }],
            damaged: vec![],
            problems: vec![],
        }
    }

    #[test]
    fn a_copy_reads_as_what_was_copied_and_what_was_there() {
        let text = report().text(Look::Ascii);
        assert!(
            text.starts_with("ok 1 recovery points copied\n  from           s3://far/p\n  to             /mnt/new\n"),
            "{text}"
        );
        assert!(text.contains("\n  log of cluster 7, no whole segment: 3 files (48.0 MiB), 1,200 are there already\n"), "{text}");
        assert!(text.contains("\n  11aa is there already\n") && text.contains("1,200      1,100"), "{text}");
        assert_eq!(report().exit_code(), ExitCode::Success);
    }

    #[test]
    fn a_point_that_is_damaged_at_the_source_is_named_and_decides_the_exit_code() {
        let damaged = vec![Problem::new("point 33bb", "was not copied: a chunk is missing")];
        let report = CopyReport { damaged, problems: vec![Problem::new("a", "b")], ..report() };
        assert!(report.text(Look::Ascii).contains("point 33bb: was not copied: a chunk is missing\n"));
        assert_eq!(report.exit_code(), ExitCode::Damaged);
    }
}
