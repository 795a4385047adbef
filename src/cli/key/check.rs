//! `farshore key list` and `farshore key check`.

use serde::Serialize;

use crate::{
    cli::{
        CliError, Context, assemble,
        place::{self, PlaceArgs},
    },
    operations::check_point_keys,
    policy::Limits,
    report::{Align, ExitCode, Look, Table, count, printable, timestamp},
    repository::{Budget, KeyHolders, Reader, RepositoryError},
};

#[derive(Debug, clap::Args)]
pub(super) struct ListArgs {
    /// A policy file, or the name of one in /etc/farshore/policies; not needed with an address in --site.
    policy: Option<String>,
    #[command(flatten)]
    place: PlaceArgs,
}

#[derive(Debug, clap::Args)]
pub(super) struct CheckArgs {
    /// A policy file, or the name of one in /etc/farshore/policies; not needed with an address in --site.
    policy: Option<String>,
    #[command(flatten)]
    place: PlaceArgs,
}

pub(super) async fn list(context: &Context, args: ListArgs) -> Result<ExitCode, CliError> {
    let usage = "farshore key list POLICY, or farshore key list --site ADDRESS";
    let words = args.place.words(args.policy.into_iter().collect(), 0, usage)?;
    let place = place::find(words.policy.as_deref(), &args.place).await?;
    let repository = place.open(&context.cache_dir).await?;
    let holders = repository.key_holders().await?;
    context.print(&holders, |look| list_text(&holders, look))?;
    let stale = holders.holders.iter().any(|holder| !holder.current);
    Ok(match (holders.damaged_sets.is_empty(), stale || holders.not_rewrapped > 0) {
        (false, _) => ExitCode::Damaged,
        (true, true) => ExitCode::Problems,
        (true, false) => ExitCode::Success,
    })
}

fn list_text(list: &KeyHolders, look: Look) -> String {
    let mut table = Table::new(&[
        ("public key", Align::Left),
        ("name", Align::Left),
        ("opens", Align::Left),
        ("since", Align::Left),
        ("", Align::Left),
    ]);
    for holder in &list.holders {
        let data =
            if holder.agent { "no data".to_owned() } else { format!("{} of {} data keys", holder.data_keys, list.data_keys) };
        table.row(vec![
            printable(&holder.key),
            holder.name.as_deref().map_or_else(|| if holder.agent { "(agent)" } else { "" }.to_owned(), printable),
            format!("{}{data}", if holder.catalogue { "catalogue, " } else { "" }),
            holder.added_at.map_or_else(String::new, timestamp),
            if holder.current { "" } else { "REMOVED" }.to_owned(),
        ]);
    }
    let mut text = format!("Recipient set {} of {}\n{table}", list.generation, timestamp(list.since));
    if list.not_rewrapped > 0 {
        let number = count(list.not_rewrapped);
        text.push_str(&format!(
            "\n{} {number} data keys are not wrapped for these recipients; `farshore key rotate POLICY --identity FILE` does it\n",
            look.failed()
        ));
    }
    if list.holders.iter().any(|holder| !holder.current) {
        text.push_str(&format!("\n{} Somebody who was removed still opens older wraps; `farshore key rotate POLICY --identity FILE` deletes them where the site lets it\n", look.failed()));
    }
    if list.unknown > 0 {
        text.push_str(&format!(
            "\n{} {} wraps are from before it was recorded whom they are for\n",
            look.note(),
            count(list.unknown)
        ));
    }
    for set in &list.damaged_sets {
        text.push_str(&format!("\n{} {}\n", look.failed(), printable(&set.detail)));
    }
    text
}

/// What was proven.
#[derive(Debug, Serialize)]
struct CheckReport {
    repository: String,
    place: String,
    /// Whose identities were tried.
    public_keys: Vec<String>,
    /// The newest point; nothing if there is none yet.
    point: Option<String>,
    data_keys: u64,
    /// Data keys that stay closed, with the reason.
    closed: Vec<(String, String)>,
    /// Keys of the archived log at the site.
    log_keys: u64,
    /// Those that stay closed, with the reason.
    closed_log: Vec<(String, String)>,
}

pub(super) async fn check(context: &Context, args: CheckArgs) -> Result<ExitCode, CliError> {
    let usage = "farshore key check POLICY --identity FILE, or farshore key check --site ADDRESS --identity FILE";
    let words = args.place.words(args.policy.into_iter().collect(), 0, usage)?;
    let place = place::find(words.policy.as_deref(), &args.place).await?;
    let repository = place.open(&context.cache_dir).await?;
    let mut report = CheckReport {
        repository: repository.file().id.clone(),
        place: place.store.describe(),
        public_keys: place.identities.public_keys(),
        point: None,
        data_keys: 0,
        closed: Vec::new(),
        log_keys: 0,
        closed_log: Vec::new(),
    };
    let mut code = ExitCode::Success;
    if let Some(name) = repository.point_names(place.policy_name()).await?.pop() {
        let limits = place.policy.as_ref().map_or_else(Limits::default, |policy| policy.limits);
        let reader = Reader::open(&repository, assemble::workers(&limits)?, Budget::new(limits.memory_bytes)).await?;
        let keys = check_point_keys(&repository, &reader, &repository.point(&name).await?).await?;
        (report.point, report.data_keys) = (Some(name.id), keys.data_keys);
        report.closed = told(keys.closed, &mut code);
    }
    let (log_keys, closed) = repository.open_log_keys().await?;
    (report.log_keys, report.closed_log) = (log_keys, told(closed, &mut code));
    context.print(&report, |look| check_text(&report, look))?;
    Ok(code)
}

/// Keys that stay closed, as they are told; the exit code is for the worst of them.
fn told(closed: Vec<([u8; 16], RepositoryError)>, code: &mut ExitCode) -> Vec<(String, String)> {
    let mut told = Vec::new();
    for (id, error) in closed {
        // A key that is damaged for everybody is worse than one that is not for us.
        let keys_only = matches!(error, RepositoryError::Key { .. }) && *code != ExitCode::Damaged;
        *code = if keys_only { ExitCode::Keys } else { ExitCode::Damaged };
        told.push((hex::encode(id), error.to_string()));
    }
    told
}

fn check_text(report: &CheckReport, look: Look) -> String {
    let whole = report.closed.is_empty();
    let mut text =
        format!("{} The identity at hand opens the catalogue of repository {} at {}\n", look.ok(), report.repository, report.place);
    match &report.point {
        None => text.push_str(&format!("{} There is no recovery point yet: no data key was tried\n", look.note())),
        Some(point) => text.push_str(&format!(
            "{} Newest point {point}: {} of {} data keys open\n",
            if whole { look.ok() } else { look.failed() },
            report.data_keys - report.closed.len() as u64,
            report.data_keys
        )),
    }
    if report.log_keys > 0 {
        text.push_str(&format!(
            "{} Archived log: {} of {} log keys open\n",
            if report.closed_log.is_empty() { look.ok() } else { look.failed() },
            report.log_keys - report.closed_log.len() as u64,
            report.log_keys
        ));
    }
    for (_, detail) in report.closed.iter().chain(&report.closed_log) {
        text.push_str(&format!("  {}\n", printable(detail)));
    }
    text
}
