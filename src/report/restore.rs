//! What a restore did.

use std::fmt::Write as _;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{
    Align, Check, DatabaseRows, ExitCode, Look, PhaseTime, Problem, Table, backup::encryption_words, bytes, check::check_lines,
    count, phase::phase_table, printable, problem::problem_lines, seconds, timestamp,
};

/// What a restore did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RestoreReport {
    /// The policy whose point it was.
    pub policy: String,
    /// Where it came from, as an operator would write it down.
    pub site: String,
    /// The recovery point.
    pub point_id: String,
    /// The time T that the point shows.
    pub consistent_at: DateTime<Utc>,
    /// When the restore began.
    pub started_at: DateTime<Utc>,
    /// How long it took, on the monotonic clock.
    pub seconds: f64,
    /// Who could read it: `2 recipients`, or `none`.
    pub encryption: String,
    /// Each source that was restored.
    pub sources: Vec<RestoredSource>,
    /// How long each phase took.
    pub phases: Vec<PhaseTime>,
    /// Problems that belong to no source.
    pub problems: Vec<Problem>,
}

/// What a restore did with one source.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RestoredSource {
    /// The source's name.
    pub name: String,
    /// `postgres`, `bucket`, `files` or `command`.
    pub kind: String,
    /// Where it was restored to, without secrets.
    pub target: String,
    /// Entries written.
    pub items: u64,
    /// Entries that were there and matched already.
    pub items_kept: u64,
    /// Plain bytes written.
    pub bytes: u64,
    /// How long it took.
    pub seconds: f64,
    /// The moment up to which nothing is missing, where a log was replayed beyond the point: of the last commit, or, where there was no
    /// more of it, of its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovered_to: Option<DateTime<Utc>>,
    /// The rows of each database of a cluster, where a drill counted them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rows: Vec<DatabaseRows>,
    /// What was compared.
    pub checks: Vec<Check>,
    /// What went wrong without stopping the work.
    pub problems: Vec<Problem>,
}

impl RestoreReport {
    /// All checks of all sources.
    pub fn checks(&self) -> Vec<Check> {
        self.sources.iter().flat_map(|source| source.checks.iter().cloned()).collect()
    }

    /// All problems, those of the sources with the source's name before the subject.
    pub fn all_problems(&self) -> Vec<Problem> {
        source_problems(&self.sources).into_iter().chain(self.problems.iter().cloned()).collect()
    }

    /// [`ExitCode::Failed`] if a check failed, else [`ExitCode::Problems`] if there were any, else [`ExitCode::Success`].
    pub fn exit_code(&self) -> ExitCode {
        if self.checks().iter().any(Check::failed) {
            ExitCode::Failed
        } else if self.all_problems().is_empty() {
            ExitCode::Success
        } else {
            ExitCode::Problems
        }
    }

    /// As people read it.
    pub fn text(&self, look: Look) -> String {
        let mark = match self.exit_code() {
            ExitCode::Success => look.ok(),
            ExitCode::Failed => look.failed(),
            _ => look.note(),
        };
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{mark} Restored {} of {}", printable(&self.point_id), printable(&self.policy));
        let _ = writeln!(text, "  consistent at  {}", timestamp(self.consistent_at));
        let _ = writeln!(text, "  from           {}", printable(&self.site));
        let _ = writeln!(text, "  encryption     {}", encryption_words(&self.encryption));
        let _ = writeln!(text, "  took           {}\n", seconds(self.seconds));
        let _ = writeln!(text, "{}", source_table(&self.sources));
        text.push_str(&phase_table(&self.phases));
        text.push_str(&check_lines(&self.checks(), look));
        text.push_str(&problem_lines(&self.all_problems()));
        text
    }
}

pub(super) fn source_problems(sources: &[RestoredSource]) -> Vec<Problem> {
    let named = |source: &RestoredSource| {
        let name = source.name.clone();
        source
            .problems
            .clone()
            .into_iter()
            .map(move |problem| Problem::new(format!("{name}: {}", problem.subject), problem.message))
    };
    sources.iter().flat_map(named).collect()
}

pub(super) fn source_table(sources: &[RestoredSource]) -> Table {
    let mut table = Table::new(&[
        ("source", Align::Left),
        ("kind", Align::Left),
        ("written", Align::Right),
        ("kept", Align::Right),
        ("bytes", Align::Right),
        ("time", Align::Right),
        ("to", Align::Left),
    ]);
    for source in sources {
        table.row(vec![
            source.name.clone(),
            source.kind.clone(),
            count(source.items),
            count(source.items_kept),
            bytes(source.bytes),
            seconds(source.seconds),
            source.target.clone(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::{Check, DateTime, ExitCode, Look, Problem, RestoreReport, RestoredSource};
    use crate::report::Phase;

    fn report() -> RestoreReport {
        RestoreReport {
            policy: "demo".into(),
            site: "/far".into(),
            point_id: "20261123T020003Z-4f2a".into(),
            consistent_at: DateTime::from_timestamp(1_795_399_203, 0).unwrap(),
            started_at: DateTime::from_timestamp(1_795_400_000, 0).unwrap(),
            seconds: 14.2,
            encryption: "none".into(),
            sources: vec![RestoredSource {
                name: "db".into(),
                kind: "postgres".into(),
                target: "postgres:///copy".into(),
                items: 12,
                items_kept: 0,
                bytes: 1 << 20,
                seconds: 13.0,
                recovered_to: None,
                rows: vec![],
                checks: vec![Check::equal("db: rows of public.posts", 100, 100)],
                problems: vec![],
            }],
            phases: vec![Phase::ObtainKeys.took(0.2), Phase::DatabaseTransfer.took(9.0), Phase::DatabaseRecovery.took(5.0)],
            problems: vec![],
        }
    }

    #[test]
    fn a_restore_reads_as_its_point_its_targets_its_phases_and_its_checks() {
        assert_eq!(
            report().text(Look::Unicode),
            "✓ Restored 20261123T020003Z-4f2a of demo\n  \
               consistent at  2026-11-23 02:00:03 UTC\n  \
               from           /far\n  \
               encryption     NONE: everybody who can read the site can read the data\n  \
               took           14.2 s\n\n  \
               source  kind      written  kept    bytes    time  to\n  \
               db      postgres       12     0  1.0 MiB  13.0 s  postgres:///copy\n\n  \
               phase               time\n  \
               obtain keys        0.2 s\n  \
               database transfer  9.0 s\n  \
               database recovery  5.0 s\n\n\
             Checks: 1 passed, 0 failed, 0 noted\n  ✓ db: rows of public.posts: 100\n"
        );
    }

    #[test]
    fn a_failed_check_decides_the_exit_code_before_problems_do() {
        let mut report = report();
        assert_eq!(report.exit_code(), ExitCode::Success);
        report.sources[0].problems.push(Problem::new("role app", "was there already; its password was kept"));
        assert_eq!(report.exit_code(), ExitCode::Problems);
        assert!(report.text(Look::Ascii).contains("\n1 problem:\n  db: role app: was there already"));
        report.sources[0].checks.push(Check::equal("db: rows of public.users", 2, 1));
        assert_eq!(report.exit_code(), ExitCode::Failed);
        assert!(report.text(Look::Ascii).starts_with("FAILED Restored"));
    }
}
