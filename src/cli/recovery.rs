//! How far a restored cluster replays its log, as `farshore restore` is told.

use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};

use super::{CliError, place::PlaceArgs};
use crate::{
    operations::{OperationError, look_beyond},
    repository::{Point, Repository, Snapshot, is_passphrase_wrapped},
    sources::postgres::physical::{Action, Fetch, Lsn, Recovery, RecoveryTarget, Timeline, facts::PhysicalFacts},
};

#[derive(Debug, clap::Args)]
pub(super) struct RecoveryArgs {
    /// Of a cluster: replay the archived log to its end (the least loss).
    #[arg(long, group = "target")]
    to_latest: bool,
    /// Of a cluster: replay up to this time, in RFC 3339: 2026-11-26T09:59:30Z.
    #[arg(long, group = "target", value_name = "TIME", value_parser = time)]
    to_time: Option<DateTime<Utc>>,
    /// Of a cluster: replay up to this place in the log: 16/B374D848.
    #[arg(long, group = "target", value_name = "LSN", value_parser = lsn)]
    to_lsn: Option<Lsn>,
    /// Of a cluster: replay up to the end of this transaction.
    #[arg(long, group = "target", value_name = "NUMBER")]
    to_xid: Option<u64>,
    /// Of a cluster: replay up to this restore point (SELECT pg_create_restore_point('before-upgrade')).
    #[arg(long, group = "target", value_name = "NAME", value_parser = restore_point)]
    to_name: Option<String>,
    /// Of a cluster: only to the end of the backup, with the log that the point itself holds; so it is without any of these.
    #[arg(long, group = "target")]
    to_immediate: bool,
    /// Stop just before the target: without the transaction, or the commits at that very time.
    #[arg(long)]
    exclusive: bool,
    /// Where the log forks: `latest` (the newest timeline there is), `current` (the backup's), or the number of one.
    #[arg(long, value_name = "TIMELINE", value_parser = timeline, default_value = "latest", hide_default_value = true)]
    timeline: Timeline,
    /// What the server does at the target: `promote` (becomes a primary) or `pause` (waits, readable).
    #[arg(long, value_name = "ACTION", value_parser = action, default_value = "promote", hide_default_value = true)]
    target_action: Action,
    /// The restored cluster archives as its settings say. Without this it archives nothing until somebody allows it.
    #[arg(long)]
    archive: bool,
    /// Of a cluster: recover it apart, say how far it came, and start it as its own settings say.
    #[arg(long)]
    pub(super) start: bool,
}

fn time(text: &str) -> Result<DateTime<Utc>, String> {
    DateTime::parse_from_rfc3339(text)
        .map(|time| time.to_utc())
        .map_err(|error| format!("{error}; write it as 2026-11-26T09:59:30Z, or 2026-11-26T10:59:30+01:00"))
}

fn lsn(text: &str) -> Result<Lsn, String> {
    Lsn::parse(text).ok_or_else(|| "should be two hexadecimal numbers: 16/B374D848".to_owned())
}

/// PostgreSQL cuts longer ones off.
const LONGEST_NAME_BYTES: usize = 63;

fn restore_point(text: &str) -> Result<String, String> {
    let is_fit = !text.is_empty() && text.len() <= LONGEST_NAME_BYTES && !text.chars().any(char::is_control);
    if is_fit { Ok(text.to_owned()) } else { Err(format!("should be 1 to {LONGEST_NAME_BYTES} bytes, without control characters")) }
}

fn timeline(text: &str) -> Result<Timeline, String> {
    match text {
        "latest" => Ok(Timeline::Latest),
        "current" => Ok(Timeline::Current),
        number => match number.parse() {
            Ok(number @ 1..) => Ok(Timeline::Number(number)),
            _ => Err("should be `latest`, `current` or a number from 1".to_owned()),
        },
    }
}

fn action(text: &str) -> Result<Action, String> {
    match text {
        "promote" => Ok(Action::Promote),
        "pause" => Ok(Action::Pause),
        _ => Err("should be `promote` or `pause`".to_owned()),
    }
}

impl RecoveryArgs {
    /// Whether any of them was said.
    pub(super) fn is_given(&self) -> bool {
        self.target() != RecoveryTarget::Point
            || self.to_immediate
            || self.exclusive
            || self.archive
            || self.start
            || self.timeline != Timeline::Latest
            || self.target_action != Action::Promote
    }

    fn target(&self) -> RecoveryTarget {
        let given = [
            self.to_latest.then_some(RecoveryTarget::Latest),
            self.to_time.map(RecoveryTarget::Time),
            self.to_lsn.map(RecoveryTarget::Lsn),
            self.to_xid.map(RecoveryTarget::Xid),
            self.to_name.clone().map(RecoveryTarget::Name),
        ];
        given.into_iter().flatten().next().unwrap_or_default()
    }

    /// What is meant for this snapshot of a cluster.
    ///
    /// # Errors
    /// [`CliError::Usage`] for what cannot be had from this point.
    pub(super) async fn of(
        &self,
        snapshot: &Snapshot,
        point: &Point,
        (place, policy): (&PlaceArgs, Option<&str>),
        repository: &Repository,
    ) -> Result<Recovery, CliError> {
        let facts = PhysicalFacts::read(&snapshot.facts).map_err(|error| CliError::Usage(error.to_string()))?;
        let target = self.target();
        if self.start && self.target_action == Action::Pause {
            return Err(CliError::Usage(
                "--start waits until the server can be written to, and --target-action pause keeps it from that: leave one of them out".to_owned(),
            ));
        }
        let recovery = Recovery {
            target,
            exclusive: self.exclusive,
            timeline: self.timeline,
            action: self.target_action,
            fetch: None,
            archives: self.archive,
        };
        recovery.check(&facts, point.consistent_at).map_err(|said| CliError::Usage(format!("point {}: {said}", point.id)))?;
        let fetch = match recovery.target {
            RecoveryTarget::Point => None,
            _ => {
                let found = look_beyond(repository, &facts, &recovery.target, recovery.timeline).await?;
                Some(fetch(&facts, place, policy, found.ok_or_else(|| nothing(repository, &facts))?)?)
            }
        };
        Ok(Recovery { fetch, ..recovery })
    }
}

/// The error for a cluster of whose log nothing is archived.
fn nothing(repository: &Repository, facts: &PhysicalFacts) -> OperationError {
    OperationError::Refused {
        subject: repository.store().describe(),
        detail: format!(
            "nothing of the log of this cluster ({}) is archived there: a restore ends with the backup itself. Leave out --to-…, or name the site that has the log (--site)",
            facts.system_identifier
        ),
    }
}

/// How the server will call us for each file of the log: from its own data directory, as its own user, at any time.
///
/// # Errors
/// [`CliError::Usage`] for an identity that the server cannot open by itself.
pub(super) fn fetch(facts: &PhysicalFacts, place: &PlaceArgs, policy: Option<&str>, found: String) -> Result<Fetch, CliError> {
    let absolute = |path: &Path| {
        std::path::absolute(path)
            .map(|path| path.display().to_string())
            .map_err(|error| CliError::Usage(format!("{}: {error}", path.display())))
    };
    let program = std::env::current_exe().map_err(|error| CliError::Usage(format!("where this program lies: {error}")))?;
    let mut argv = vec![absolute(&program)?, "wal".to_owned(), "get".to_owned()];
    argv.extend(["--system".to_owned(), facts.system_identifier.clone(), "--tablespaces-in-place".to_owned()]);
    if let Some(site) = &place.site {
        let is_directory = policy.is_none() && !site.contains("://");
        argv.extend(["--site".to_owned(), if is_directory { absolute(Path::new(site))? } else { site.clone() }]);
    }
    let mut identities = Vec::new();
    for identity in &place.identity {
        refuse_unreadable(identity)?;
        identities.push(PathBuf::from(absolute(identity)?));
    }
    if place.first_versions {
        argv.push("--first-versions".to_owned());
    }
    // A name is looked up at the same place by whoever calls.
    let policy = policy.map(|policy| if Path::new(policy).exists() { absolute(Path::new(policy)) } else { Ok(policy.to_owned()) });
    Ok(Fetch { argv, identities, policy: policy.transpose()?, found })
}

/// An identity that only a person can open is of no use to the server.
fn refuse_unreadable(identity: &Path) -> Result<(), CliError> {
    let stays = "the server reads it again for each file of the log, so it must be a file that stays";
    let unfit = |why: &str| CliError::Usage(format!("{}: {why}; {stays}", identity.display()));
    if !std::fs::metadata(identity).map_err(|error| unfit(&error.to_string()))?.is_file() {
        return Err(unfit("is no file"));
    }
    let text = std::fs::read(identity).map_err(|error| unfit(&error.to_string()))?;
    if is_passphrase_wrapped(&text) {
        return Err(CliError::Usage(format!(
            "{} is wrapped with a passphrase, which the server cannot be asked for when it fetches the log: open it first (`age -d -o /dev/shm/open.txt {}` asks for the passphrase; umask 077), give that file, and remove it afterwards",
            identity.display(),
            identity.display()
        )));
    }
    Ok(())
}
