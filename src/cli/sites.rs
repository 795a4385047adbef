//! A command that goes through the sites of a policy, one after another.

use serde::Serialize;

use super::{
    CliError, Context, identity,
    place::{self, Place, PlaceArgs},
};
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

/// A policy, and which of its sites a command goes through that needs the agent's key, or a reader's.
#[derive(Debug, clap::Args)]
pub(super) struct EachSite {
    /// A policy file, or the name of one in /etc/farshore/policies.
    policy: String,
    /// Only this site of the policy; without it, each in turn.
    #[arg(long, value_name = "NAME")]
    site: Option<String>,
    /// A reader's identity, where the policy names no agent key.
    #[arg(long, value_name = "FILE", env = "FARSHORE_IDENTITY_FILE", value_delimiter = ':')]
    identity: Vec<std::path::PathBuf>,
}

impl EachSite {
    /// Does `one` at each of them, and prints the reports.
    pub(super) async fn each<R: Serialize>(
        &self,
        context: &Context,
        one: impl AsyncFn(&Place) -> Result<R, CliError>,
        code: impl Fn(&R) -> ExitCode,
        text: impl Fn(&R, Look) -> String,
    ) -> Result<ExitCode, CliError> {
        let policy = place::load_policy(&self.policy)?;
        let identities = identity::read(self.identity.clone()).await?;
        let mut done = Sites::new();
        for site in meant(&policy, self.site.as_deref())? {
            let at = async {
                let place = place::find_with(Some(&self.policy), &PlaceArgs::of_site(&site.name), identities.clone()).await?;
                one(&place).await
            };
            done.take(context, at.await, &code);
        }
        done.finish(context, text)
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
