//! Checks and timed phases, as restores and drills record them.

use serde::{Deserialize, Serialize};

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
    /// DESIGN's word for it: `select point`, `obtain keys`, `database transfer` …
    pub name: String,
    /// Seconds.
    pub seconds: f64,
}
