//! What a backup did.

use std::fmt::Write as _;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{
    Align, Anomaly, ExitCode, Look, Problem, Table, bytes, count, counted, printable, problem::problem_lines, seconds, timestamp,
};

/// What a backup did. A point exists exactly if there is a report: a backup that fails is an error.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BackupReport {
    /// The policy's name.
    pub policy: String,
    /// The region it protects.
    pub region: Option<String>,
    /// Where it went, as an operator would write it down.
    pub site: String,
    /// The recovery point.
    pub point_id: String,
    /// The time T that the point shows.
    pub consistent_at: DateTime<Utc>,
    /// When the backup began.
    pub started_at: DateTime<Utc>,
    /// How long it took.
    pub seconds: f64,
    /// Each source, in the order of the policy.
    pub sources: Vec<SourceReport>,
    /// Bytes sent to the site.
    pub bytes_stored: u64,
    /// Packs written.
    pub packs_written: u64,
    /// Chunks that were stored.
    pub chunks_new: u64,
    /// Chunks that were there already.
    pub chunks_known: u64,
    /// Who can read it: `2 recipients`, or `none`.
    pub encryption: String,
    /// In what it is far from the points before it; each is among `problems`, too.
    #[serde(default)]
    pub anomalies: Vec<Anomaly>,
    /// Names of the policy's sites that should have got the point and did not.
    #[serde(default)]
    pub missing_at: Vec<String>,
    /// Problems that belong to no source.
    pub problems: Vec<Problem>,
}

/// What a backup did with one source.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SourceReport {
    /// The source's name.
    pub name: String,
    /// `postgres`, `bucket`, `files` or `command`.
    pub kind: String,
    /// Entries in the snapshot.
    pub items: u64,
    /// Entries that had not changed and were not read.
    pub items_unchanged: u64,
    /// Plain bytes read.
    pub bytes_read: u64,
    /// How long it took.
    pub seconds: f64,
    /// What is worth knowing in one line: `PostgreSQL 17.2, LSN 0/3A000148`. Empty if there is nothing.
    pub summary: String,
    /// How it was read, where that is worth a word: what it is incremental on, or why everything was read. Empty otherwise.
    #[serde(default)]
    pub note: String,
    /// What went wrong without stopping the work.
    pub problems: Vec<Problem>,
}

impl BackupReport {
    /// All problems, those of the sources with the source's name before the subject.
    pub fn all_problems(&self) -> Vec<Problem> {
        let of_sources = self.sources.iter().flat_map(|source| {
            let named = |problem: &Problem| Problem::new(format!("{}: {}", source.name, problem.subject), problem.message.clone());
            source.problems.iter().map(named)
        });
        of_sources.chain(self.problems.iter().cloned()).collect()
    }

    /// Plain bytes read from all sources.
    pub fn bytes_read(&self) -> u64 {
        self.sources.iter().map(|source| source.bytes_read).sum()
    }

    /// [`ExitCode::Success`], or [`ExitCode::Problems`].
    pub fn exit_code(&self) -> ExitCode {
        if self.all_problems().is_empty() { ExitCode::Success } else { ExitCode::Problems }
    }

    /// As people read it.
    pub fn text(&self, look: Look) -> String {
        let problems = self.all_problems();
        let mut text = String::new();
        let mark = if problems.is_empty() && self.missing_at.is_empty() { look.ok() } else { look.note() };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{mark} Recovery point {} of {}", printable(&self.point_id), printable(&self.policy));
        for anomaly in &self.anomalies {
            let _ = writeln!(text, "{} ANOMALOUS: {}: {}", look.failed(), printable(&anomaly.source), printable(&anomaly.message));
        }
        let _ = writeln!(text, "  consistent at  {}", timestamp(self.consistent_at));
        let _ = writeln!(text, "  site           {}", printable(&self.site));
        if !self.missing_at.is_empty() {
            let names = self.missing_at.iter().map(|name| printable(name)).collect::<Vec<_>>().join(", ");
            let _ = writeln!(
                text,
                "  NOT AT         {names}; the next backup catches up, and `farshore copy` brings this very point there"
            );
        }
        let _ = writeln!(text, "  encryption     {}", encryption_words(&self.encryption));
        let _ = writeln!(text, "  took           {}\n", seconds(self.seconds));
        let mut table = Table::new(&[
            ("source", Align::Left),
            ("kind", Align::Left),
            ("items", Align::Right),
            ("unchanged", Align::Right),
            ("read", Align::Right),
            ("time", Align::Right),
            ("", Align::Left),
        ]);
        for source in &self.sources {
            table.row(vec![
                source.name.clone(),
                source.kind.clone(),
                count(source.items),
                count(source.items_unchanged),
                bytes(source.bytes_read),
                seconds(source.seconds),
                source.summary.clone(),
            ]);
        }
        let _ = writeln!(text, "{table}");
        for source in self.sources.iter().filter(|source| !source.note.is_empty()) {
            let _ = writeln!(text, "  {}: {}", printable(&source.name), printable(&source.note));
        }
        let _ = writeln!(
            text,
            "  {} read, {} stored in {}; {} new, {} known",
            bytes(self.bytes_read()),
            bytes(self.bytes_stored),
            counted(self.packs_written, "pack"),
            counted(self.chunks_new, "chunk"),
            count(self.chunks_known),
        );
        text.push_str(&problem_lines(&problems));
        text
    }
}

/// An unencrypted repository is named as such in every report.
pub(super) fn encryption_words(encryption: &str) -> String {
    if encryption == "none" { "NONE: everybody who can read the site can read the data".to_owned() } else { printable(encryption) }
}

#[cfg(test)]
mod tests {
    use super::{Anomaly, BackupReport, DateTime, ExitCode, Look, Problem, SourceReport};
    use crate::report::AnomalyKind;

    fn report() -> BackupReport {
        BackupReport {
            policy: "mattermost-eu".into(),
            region: Some("eu-central-1".into()),
            site: "s3://dr-us-east-1/mattermost-eu".into(),
            point_id: "20261123T020003Z-4f2a".into(),
            consistent_at: DateTime::from_timestamp(1_795_399_203, 0).unwrap(),
            started_at: DateTime::from_timestamp(1_795_399_200, 0).unwrap(),
            seconds: 312.4,
            sources: vec![
                SourceReport {
                    name: "db".into(),
                    kind: "postgres".into(),
                    items: 214,
                    items_unchanged: 0,
                    bytes_read: 5 << 30,
                    seconds: 240.0,
                    summary: "PostgreSQL 17.2".into(),
                    note: "everything was read: the server keeps no summaries of its log".into(),
                    problems: vec![],
                },
                SourceReport {
                    name: "attachments".into(),
                    kind: "bucket".into(),
                    items: 200_000,
                    items_unchanged: 199_990,
                    bytes_read: 3_000_000,
                    seconds: 60.2,
                    summary: String::new(),
                    note: String::new(),
                    problems: vec![],
                },
            ],
            bytes_stored: 1_500_000_000,
            packs_written: 47,
            chunks_new: 5_400,
            chunks_known: 120,
            encryption: "2 recipients".into(),
            anomalies: vec![],
            missing_at: vec![],
            problems: vec![],
        }
    }

    #[test]
    fn a_backup_reads_as_its_point_its_sources_and_what_was_stored() {
        assert_eq!(
            report().text(Look::Unicode),
            "✓ Recovery point 20261123T020003Z-4f2a of mattermost-eu\n  \
               consistent at  2026-11-23 02:00:03 UTC\n  \
               site           s3://dr-us-east-1/mattermost-eu\n  \
               encryption     2 recipients\n  \
               took           5 min 12 s\n\n  \
               source       kind        items  unchanged     read   time\n  \
               db           postgres      214          0  5.0 GiB  4 min  PostgreSQL 17.2\n  \
               attachments  bucket    200,000    199,990  2.9 MiB  1 min\n\n  \
               db: everything was read: the server keeps no summaries of its log\n  \
               5.0 GiB read, 1.4 GiB stored in 47 packs; 5,400 chunks new, 120 known\n"
        );
        assert_eq!(report().exit_code(), ExitCode::Success);
    }

    #[test]
    fn problems_of_a_source_are_named_counted_and_change_the_exit_code() {
        let mut report = report();
        report.sources[1]
            .problems
            .push(Problem::new("a\u{1b}[31m/b.png", "vanished while it was read; nothing to do if it was deleted"));
        report.encryption = "none".into();
        let text = report.text(Look::Ascii);
        assert!(text.starts_with("note Recovery point"), "{text}");
        assert!(
            text.ends_with(
                "\n1 problem:\n  attachments: a\\u{1b}[31m/b.png: vanished while it was read; nothing to do if it was deleted\n"
            ),
            "{text}"
        );
        assert!(text.contains("encryption     NONE: everybody"), "{text}");
        assert_eq!(report.exit_code(), ExitCode::Problems);
    }

    #[test]
    fn an_anomaly_stands_right_below_the_first_line() {
        let mut report = report();
        let message = "84 % of 200,000 objects of the point before are gone".to_owned();
        report.anomalies.push(Anomaly { source: "attachments".into(), kind: AnomalyKind::MassDeletion, message });
        let text = report.text(Look::Unicode);
        let second = text.lines().nth(1);
        assert_eq!(second, Some("✗ ANOMALOUS: attachments: 84 % of 200,000 objects of the point before are gone"));
    }

    #[test]
    fn sites_that_did_not_get_the_point_are_named() {
        let mut report = report();
        report.missing_at = vec!["eu".to_owned(), "asia".to_owned()];
        assert!(
            report.text(Look::Unicode).contains("\n  NOT AT         eu, asia; the next backup"),
            "{}",
            report.text(Look::Unicode)
        );
    }

    #[test]
    fn json_comes_back_as_it_was() {
        let report = report();
        let json = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<BackupReport>(&json).unwrap(), report);
    }
}
