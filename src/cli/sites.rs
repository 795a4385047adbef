//! A command that goes through the sites of a policy, one after another.

use serde::Serialize;

use super::{CliError, Context, place};
use crate::{
    policy::{Policy, SitePolicy},
    report::{ExitCode, Look},
};

/// The sites that are meant: the one that is named, else all of the policy.
pub(super) fn meant<'a>(policy: &'a Policy, name: Option<&str>) -> Result<Vec<&'a SitePolicy>, CliError> {
    match name {
        Some(name) => Ok(vec![place::choose_site(policy, Some(name))?]),
        None => Ok(policy.sites.iter().collect()),
    }
}

/// What became of the sites so far. One that is down does not keep the others from their turn.
pub(super) struct Sites<R> {
    reports: Vec<R>,
    code: ExitCode,
}

impl<R> Sites<R> {
    pub(super) fn new() -> Self {
        Self { reports: Vec::new(), code: ExitCode::Success }
    }

    /// One site's report, or its error, which is printed at once: the next site may take hours.
    pub(super) fn take(&mut self, context: &Context, outcome: Result<R, CliError>, code: impl FnOnce(&R) -> ExitCode) {
        match outcome {
            Ok(report) => {
                self.code = self.code.worse(code(&report));
                self.reports.push(report);
            }
            Err(error) => {
                context.terminal.aside(|| error.print(context.json));
                self.code = self.code.worse(error.exit_code());
            }
        }
    }

    /// Prints the reports, if there are any; the worst code of all.
    pub(super) fn finish(self, context: &Context, text: impl Fn(&R, Look) -> String) -> Result<ExitCode, CliError>
    where
        R: Serialize,
    {
        if !self.reports.is_empty() {
            context.print(&self.reports, |look| self.reports.iter().map(|report| text(report, look)).collect())?;
        }
        Ok(self.code)
    }
}
