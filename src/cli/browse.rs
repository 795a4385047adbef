//! `farshore show`, `ls`, `cat`, `diff`: looking without restoring.

use futures_util::TryStreamExt;
use tokio::io::AsyncWriteExt;

use super::{
    CliError, Context, assemble,
    place::{self, Place, PlaceArgs},
    terminal,
};
use crate::{
    operations::{self, PinSummary, list_entries, open_content},
    policy::Limits,
    report::{ExitCode, Look, printable, timestamp},
    repository::{Budget, Point, Reader, Repository, Snapshot},
};

#[derive(Debug, clap::Args)]
pub(super) struct ShowArgs {
    /// POLICY POINT; with an address in --site only POINT. POINT is an id, an unambiguous beginning of one, or `latest`.
    #[arg(value_name = "POLICY POINT", num_args = 1..=2, required = true)]
    words: Vec<String>,
    #[command(flatten)]
    place: PlaceArgs,
    /// Print the policy file that is stored in the point, and nothing else.
    #[arg(long)]
    policy: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct LsArgs {
    /// POLICY POINT[:SOURCE[/PATH]]; with an address in --site only the second.
    #[arg(value_name = "POLICY POINT[:SOURCE[/PATH]]", num_args = 1..=2, required = true)]
    words: Vec<String>,
    #[command(flatten)]
    place: PlaceArgs,
}

#[derive(Debug, clap::Args)]
pub(super) struct CatArgs {
    /// POLICY POINT:SOURCE/PATH; with an address in --site only the second.
    #[arg(value_name = "POLICY POINT:SOURCE/PATH", num_args = 1..=2, required = true)]
    words: Vec<String>,
    #[command(flatten)]
    place: PlaceArgs,
}

#[derive(Debug, clap::Args)]
pub(super) struct DiffArgs {
    /// POLICY POINT POINT; with an address in --site only the two points.
    #[arg(value_name = "POLICY POINT POINT", num_args = 2..=3, required = true)]
    words: Vec<String>,
    #[command(flatten)]
    place: PlaceArgs,
}

struct Opened {
    place: Place,
    repository: Repository,
}

async fn open(context: &Context, policy: Option<&str>, args: &PlaceArgs) -> Result<Opened, CliError> {
    let place = place::find(policy, args).await?;
    let repository = place.open(&context.cache_dir).await?;
    Ok(Opened { place, repository })
}

impl Opened {
    async fn point(&self, wanted: &str) -> Result<Point, CliError> {
        let name = operations::select_point(&self.repository, self.place.policy_name(), wanted).await?;
        Ok(self.repository.point(&name).await?)
    }

    async fn reader(&self) -> Result<Reader, CliError> {
        let limits = self.place.policy.as_ref().map_or_else(Limits::default, |policy| policy.limits);
        Ok(Reader::open(&self.repository, assemble::workers(&limits)?, Budget::new(limits.memory_bytes)).await?)
    }
}

pub(super) async fn show(context: &Context, args: ShowArgs) -> Result<ExitCode, CliError> {
    let words = args.place.words(args.words, 1, "farshore show POLICY POINT")?;
    let opened = open(context, words.policy.as_deref(), &args.place).await?;
    let point = opened.point(&words.rest[0]).await?;
    if args.policy {
        context.print(&serde_json::json!({ "policy_text": point.policy_text }), |_| {
            let line = |line: &str| line.split('\t').map(printable).collect::<Vec<_>>().join("\t");
            point.policy_text.lines().map(line).collect::<Vec<_>>().join("\n")
        })?;
        return Ok(ExitCode::Success);
    }
    let pinned = operations::pinned(&opened.repository, &point.id).await?;
    let mut shown = serde_json::to_value(&point).map_err(|error| CliError::other("point", error))?;
    if let Some(fields) = shown.as_object_mut() {
        fields.insert("pinned".to_owned(), serde_json::json!(pinned));
    }
    // Chunk lists are for machines that read the repository, not for those that read reports.
    for snapshot in shown.get_mut("snapshots").and_then(serde_json::Value::as_array_mut).into_iter().flatten() {
        if let Some(fields) = snapshot.as_object_mut() {
            fields.remove("entries");
        }
    }
    context.print(&shown, |look| show_text(&point, pinned.as_ref(), look))?;
    Ok(ExitCode::Success)
}

fn show_text(point: &Point, pinned: Option<&PinSummary>, look: Look) -> String {
    let mut text = format!(
        "Recovery point {} of {}\n  consistent at  {}\n  written        {} to {} by {} (farshore {})\n  encryption     {}\n",
        point.id,
        printable(&point.policy),
        timestamp(point.consistent_at),
        timestamp(point.started_at),
        timestamp(point.finished_at),
        printable(&point.agent.host),
        printable(&point.agent.version),
        printable(&point.encryption),
    );
    if let Some(pin) = pinned {
        let until = pin.until.map_or_else(|| "for ever".to_owned(), |until| format!("until {}", timestamp(until)));
        let by = pin.by.as_deref().map_or_else(String::new, |by| format!(" (by {} at {})", printable(by), timestamp(pin.at)));
        text.push_str(&format!("  pinned         {until}: {}{by}\n", printable(&pin.reason)));
    }
    if !point.missing_at.is_empty() {
        let names = point.missing_at.iter().map(|name| printable(name)).collect::<Vec<_>>().join(", ");
        text.push_str(&format!("  not at         {names}\n"));
    }
    for anomaly in &point.anomalies {
        let (source, message) = (printable(&anomaly.source), printable(&anomaly.message));
        text.push_str(&format!("  {} ANOMALOUS    {source}: {message}\n", look.failed()));
    }
    for snapshot in &point.snapshots {
        text.push_str(&format!(
            "\n  {} ({}): {}\n    {} items, {}\n",
            snapshot.source,
            snapshot.kind,
            printable(&snapshot.description),
            crate::report::count(snapshot.entry_count),
            terminal::size(snapshot.content_bytes),
        ));
        for problem in &snapshot.problems {
            text.push_str(&format!("    {} {}: {}\n", look.note(), printable(&problem.subject), printable(&problem.message)));
        }
    }
    text
}

/// `POINT[:SOURCE[/PATH]]`.
fn split(word: &str) -> (&str, Option<&str>, Option<&str>) {
    let Some((point, rest)) = word.split_once(':') else { return (word, None, None) };
    match rest.split_once('/') {
        Some((source, path)) => (point, Some(source), Some(path).filter(|path| !path.is_empty())),
        None => (point, Some(rest).filter(|source| !source.is_empty()), None),
    }
}

pub(super) async fn ls(context: &Context, args: LsArgs) -> Result<ExitCode, CliError> {
    let words = args.place.words(args.words, 1, "farshore ls POLICY POINT[:SOURCE[/PATH]]")?;
    let opened = open(context, words.policy.as_deref(), &args.place).await?;
    let (wanted, source, path) = split(&words.rest[0]);
    let (point, reader) = (opened.point(wanted).await?, opened.reader().await?);
    let snapshots: Vec<&Snapshot> = match source {
        Some(source) => vec![point.snapshot(source)?],
        None => point.snapshots.iter().collect(),
    };
    for snapshot in snapshots {
        let mut entries = list_entries(&reader, snapshot, path.map(|path| path.as_bytes().to_vec()));
        while let Some(entry) = entries.try_next().await? {
            if context.json {
                // One object a line: a listing may be longer than memory.
                let line = serde_json::json!({ "source": snapshot.source, "entry": entry });
                terminal::print(&line.to_string());
            } else {
                let modified = entry.modified.map_or_else(|| " ".repeat(23), timestamp);
                terminal::print(&format!(
                    "{:>12}  {modified}  {:<10} {}/{}",
                    entry.size,
                    entry.kind,
                    snapshot.source,
                    printable(&entry.path)
                ));
            }
        }
    }
    Ok(ExitCode::Success)
}

pub(super) async fn cat(context: &Context, args: CatArgs) -> Result<ExitCode, CliError> {
    let words = args.place.words(args.words, 1, "farshore cat POLICY POINT:SOURCE/PATH")?;
    let (wanted, Some(source), Some(path)) = split(&words.rest[0]) else {
        return Err(CliError::Usage("expected: farshore cat POLICY POINT:SOURCE/PATH".to_owned()));
    };
    let opened = open(context, words.policy.as_deref(), &args.place).await?;
    let (point, reader) = (opened.point(wanted).await?, opened.reader().await?);
    let mut bytes = open_content(&reader, point.snapshot(source)?, path.as_bytes()).await?;
    let mut out = tokio::io::stdout();
    let failed = |error| CliError::other("standard output", error);
    while let Some(piece) = bytes.try_next().await? {
        out.write_all(&piece).await.map_err(failed)?;
    }
    out.flush().await.map_err(failed)?;
    Ok(ExitCode::Success)
}

/// A source that only one of two points has.
fn print_source(context: &Context, change: &str, source: &str) {
    if context.json {
        terminal::print(&serde_json::json!({ "source": source, "change": change }).to_string());
    } else {
        terminal::print(&format!("{change:<8} source {source}"));
    }
}

pub(super) async fn diff(context: &Context, args: DiffArgs) -> Result<ExitCode, CliError> {
    let words = args.place.words(args.words, 2, "farshore diff POLICY POINT POINT")?;
    let opened = open(context, words.policy.as_deref(), &args.place).await?;
    let (before, after) = (opened.point(&words.rest[0]).await?, opened.point(&words.rest[1]).await?);
    let reader = opened.reader().await?;
    for snapshot in &after.snapshots {
        let Ok(old) = before.snapshot(&snapshot.source) else {
            print_source(context, "added", &snapshot.source);
            continue;
        };
        let mut lines = operations::diff(&reader, old, snapshot);
        while let Some(line) = lines.try_next().await? {
            if context.json {
                terminal::print(&serde_json::json!({ "source": snapshot.source, "difference": line }).to_string());
            } else {
                let size = |size: Option<u64>| size.map_or_else(|| "-".to_owned(), terminal::size);
                let sizes = format!("{} → {}", size(line.size_before), size(line.size_after));
                terminal::print(&format!("{:<8} {}/{}  {sizes}", line.change, snapshot.source, printable(&line.path)));
            }
        }
    }
    for gone in before.snapshots.iter().filter(|old| after.snapshot(&old.source).is_err()) {
        print_source(context, "removed", &gone.source);
    }
    Ok(ExitCode::Success)
}
