//! Checks and timed phases, as restores and drills record them.

use serde::{Deserialize, Serialize};

use super::{Look, printable};

/// One thing that was compared after a restore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What was compared, for instance `db: rows of public.posts`.
    pub name: String,
    /// What it should be.
    pub expected: String,
    /// What it was.
    pub actual: String,
    /// The verdict: `passed`, `failed`, or `note` for what is worth saying and does not fail a drill.
    pub outcome: CheckOutcome,
}

/// The verdict of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckOutcome {
    /// As expected.
    Passed,
    /// Not as expected.
    Failed,
    /// Worth saying; does not fail.
    Note,
}

impl Check {
    /// A check that passes if both are equal.
    pub fn equal(name: impl Into<String>, expected: impl ToString, actual: impl ToString) -> Self {
        let (expected, actual) = (expected.to_string(), actual.to_string());
        let outcome = if expected == actual { CheckOutcome::Passed } else { CheckOutcome::Failed };
        Self { name: name.into(), expected, actual, outcome }
    }

    /// Something worth saying.
    pub fn note(name: impl Into<String>, expected: impl ToString, actual: impl ToString) -> Self {
        Self { name: name.into(), expected: expected.to_string(), actual: actual.to_string(), outcome: CheckOutcome::Note }
    }

    /// Whether it failed.
    pub fn failed(&self) -> bool {
        self.outcome == CheckOutcome::Failed
    }
}

/// How long a phase of a restore took, on the monotonic clock.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PhaseTime {
    /// One of [`super::PHASES`], or a source's own word: `select point`, `obtain keys`, `database transfer` …
    pub name: String,
    /// Seconds.
    pub seconds: f64,
}

/// Checks that passed are shown up to this number; beyond it only what failed and what is noted.
const MOST_PASSED_SHOWN: usize = 30;

/// The checks as lines of a text: how many, and each one that is worth a look; nothing if there are none.
pub(super) fn check_lines(checks: &[Check], look: Look) -> String {
    if checks.is_empty() {
        return String::new();
    }
    let of = |outcome: CheckOutcome| checks.iter().filter(|check| check.outcome == outcome).count();
    let (passed, failed, notes) = (of(CheckOutcome::Passed), of(CheckOutcome::Failed), of(CheckOutcome::Note));
    let mut lines = format!("\nChecks: {passed} passed, {failed} failed, {notes} noted\n");
    let mut shown: Vec<&Check> =
        checks.iter().filter(|check| check.outcome != CheckOutcome::Passed || passed <= MOST_PASSED_SHOWN).collect();
    // What failed must not scroll away: it comes last.
    shown.sort_by_key(|check| match check.outcome {
        CheckOutcome::Passed => 0,
        CheckOutcome::Note => 1,
        CheckOutcome::Failed => 2,
    });
    for check in shown {
        let (mark, name) = (mark(check.outcome, look), printable(&check.name));
        let (expected, actual) = (printable(&check.expected), printable(&check.actual));
        lines.push_str(&match check.outcome {
            CheckOutcome::Passed => format!("  {mark} {name}: {actual}\n"),
            CheckOutcome::Failed | CheckOutcome::Note => format!("  {mark} {name}: expected {expected}, found {actual}\n"),
        });
    }
    lines
}

fn mark(outcome: CheckOutcome, look: Look) -> &'static str {
    match outcome {
        CheckOutcome::Passed => look.ok(),
        CheckOutcome::Failed => look.failed(),
        CheckOutcome::Note => look.note(),
    }
}

#[cfg(test)]
mod tests {
    use super::{Check, Look, check_lines};

    #[test]
    fn what_failed_comes_last_and_says_what_was_expected() {
        let checks = [
            Check::equal("db: rows of public.posts", 100, 99),
            Check::note("db: collation", "153.14", "153.15"),
            Check::equal("db: rows of public.users", 7, 7),
        ];
        assert_eq!(
            check_lines(&checks, Look::Ascii),
            "\nChecks: 1 passed, 1 failed, 1 noted\n  ok db: rows of public.users: 7\n  note db: collation: expected 153.14, found 153.15\n  \
             FAILED db: rows of public.posts: expected 100, found 99\n"
        );
        assert!(check_lines(&checks, Look::Unicode).contains("  ✗ db: rows of public.posts"));
    }

    #[test]
    fn hundreds_of_passed_checks_are_only_counted() {
        let mut checks: Vec<_> = (0..200).map(|table| Check::equal(format!("rows of t{table}"), 1, 1)).collect();
        checks.push(Check::equal("rows of u", 1, 2));
        assert_eq!(
            check_lines(&checks, Look::Unicode),
            "\nChecks: 200 passed, 1 failed, 0 noted\n  ✗ rows of u: expected 1, found 2\n"
        );
    }
}
