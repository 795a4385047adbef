//! What `farshore doctor` found, and what mends it.

use std::fmt::Write as _;

use serde::Serialize;

use super::{CheckOutcome, ExitCode, Look, printable};

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What, for instance `rights`.
    pub name: String,
    /// `passed`; `note` for what works and could be better; `failed` for what keeps a backup, a restore or a drill from working.
    pub outcome: CheckOutcome,
    /// What was found.
    pub found: String,
    /// The next step, where `found` does not say it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mend: Option<String>,
}

impl Finding {
    /// As it should be.
    pub fn sound(name: impl Into<String>, found: impl Into<String>) -> Self {
        Self { name: name.into(), outcome: CheckOutcome::Passed, found: found.into(), mend: None }
    }

    /// Works, and could be better.
    pub fn note(name: impl Into<String>, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { name: name.into(), outcome: CheckOutcome::Note, found: found.into(), mend: Some(mend.into()) }
    }

    /// Does not work.
    pub fn wrong(name: impl Into<String>, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { name: name.into(), outcome: CheckOutcome::Failed, found: found.into(), mend: Some(mend.into()) }
    }

    /// Does not work, and the error says what to do.
    pub fn failed(name: impl Into<String>, error: impl ToString) -> Self {
        Self { name: name.into(), outcome: CheckOutcome::Failed, found: error.to_string(), mend: None }
    }

    /// As people read it: a line, and another one that says what mends it.
    pub fn text(&self, look: Look) -> String {
        let mark = match self.outcome {
            CheckOutcome::Passed => look.ok(),
            CheckOutcome::Note => look.note(),
            CheckOutcome::Failed => look.failed(),
        };
        let mend = self.mend.iter().map(|mend| format!("      to mend it: {}\n", printable(mend)));
        format!("  {mark} {}: {}\n{}", printable(&self.name), printable(&self.found), mend.collect::<String>())
    }

    /// Sound in these words, or the error.
    pub fn of<T, E: ToString>(name: impl Into<String>, outcome: Result<T, E>, sound: impl FnOnce(T) -> String) -> Self {
        match outcome {
            Ok(value) => Self::sound(name, sound(value)),
            Err(error) => Self::failed(name, error),
        }
    }
}

/// What belongs to one source, one site or this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Examined {
    /// `source db`, `site far`, `this machine`.
    pub subject: String,
    /// What it is, as an operator would write it down; without secrets.
    pub place: String,
    /// In the order in which they were looked at.
    pub findings: Vec<Finding>,
}

/// Everything that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DoctorReport {
    /// Name of the policy.
    pub policy: String,
    /// By subject.
    pub examined: Vec<Examined>,
}

impl DoctorReport {
    fn count(&self, outcome: CheckOutcome) -> usize {
        self.examined.iter().flat_map(|one| &one.findings).filter(|finding| finding.outcome == outcome).count()
    }

    /// 10 if anything does not work.
    pub fn exit_code(&self) -> ExitCode {
        if self.count(CheckOutcome::Failed) == 0 { ExitCode::Success } else { ExitCode::Failed }
    }

    /// As people read it.
    pub fn text(&self, look: Look) -> String {
        let mut text = String::new();
        for Examined { subject, place, findings } in &self.examined {
            let _ = writeln!(text, "{} ({})", printable(subject), printable(place));
            for finding in findings {
                text.push_str(&finding.text(look));
            }
        }
        let (passed, noted, failed) =
            (self.count(CheckOutcome::Passed), self.count(CheckOutcome::Note), self.count(CheckOutcome::Failed));
        let _ = writeln!(text, "Policy {}: {passed} sound, {noted} noted, {failed} to be mended", printable(&self.policy));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::{DoctorReport, Examined, ExitCode, Finding, Look};

    #[test]
    fn what_is_wrong_says_what_mends_it_and_decides_the_exit_code() {
        let findings = vec![
            Finding::sound("connection", "PostgreSQL 15.18"),
            Finding::note("checksums", "off", "pg_checksums --enable"),
            Finding::wrong("rights", "SELECT on 3 tables\u{7} is missing", "GRANT pg_read_all_data TO farshore"),
        ];
        let examined = Examined { subject: "source db".to_owned(), place: "postgres://farshore@db/app".to_owned(), findings };
        let mut report = DoctorReport { policy: "app".to_owned(), examined: vec![examined] };
        assert_eq!(
            report.text(Look::Ascii),
            "source db (postgres://farshore@db/app)\n  ok connection: PostgreSQL 15.18\n  note checksums: off\n      to mend it: pg_checksums --enable\n  \
             FAILED rights: SELECT on 3 tables\\u{7} is missing\n      to mend it: GRANT pg_read_all_data TO farshore\n\
             Policy app: 1 sound, 1 noted, 1 to be mended\n"
        );
        assert_eq!(report.exit_code(), ExitCode::Failed);
        report.examined[0].findings.pop();
        assert_eq!(report.exit_code(), ExitCode::Success);
        assert_eq!(Finding::of("a", Err::<(), _>("b; do c"), |()| String::new()), Finding::failed("a", "b; do c"));
    }
}
