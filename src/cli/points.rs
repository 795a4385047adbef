//! `farshore points`.

use super::{
    CliError, Context,
    place::{self, PlaceArgs},
};
use crate::{
    operations::{PointSummary, point_summaries},
    report::{Align, ExitCode, Table, bytes, count, timestamp},
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A policy file, or the name of one in /etc/farshore/policies; not needed with an address in --site.
    policy: Option<String>,
    #[command(flatten)]
    place: PlaceArgs,
}

pub(super) async fn run(context: &Context, args: Args) -> Result<ExitCode, CliError> {
    let words =
        args.place.words(args.policy.into_iter().collect(), 0, "farshore points POLICY, or farshore points --site ADDRESS")?;
    let place = place::find(words.policy.as_deref(), &args.place).await?;
    let repository = place.open(&context.cache_dir).await?;
    let points = point_summaries(&repository, place.policy_name()).await?;
    let damaged = points.iter().any(|point| point.unreadable.is_some());
    context.print(&points, |_| {
        let unencrypted = if repository.is_unencrypted() {
            "\nEncryption: NONE: everybody who can read the site can read the data\n"
        } else {
            ""
        };
        format!("{}{unencrypted}", text(&points))
    })?;
    Ok(if damaged { ExitCode::Damaged } else { ExitCode::Success })
}

fn text(points: &[PointSummary]) -> String {
    if points.is_empty() {
        return "No recovery points yet; `farshore backup` makes one.".to_owned();
    }
    let mut table = Table::new(&[
        ("point", Align::Left),
        ("consistent at", Align::Left),
        ("policy", Align::Left),
        ("items", Align::Right),
        ("size", Align::Right),
        ("verified", Align::Left),
        ("", Align::Left),
    ]);
    for point in points {
        let remark = match (&point.unreadable, point.problems) {
            (Some(_), _) => "DAMAGED".to_owned(),
            (None, 0) => String::new(),
            (None, 1) => "1 problem".to_owned(),
            (None, many) => format!("{many} problems"),
        };
        table.row(vec![
            point.id.clone(),
            timestamp(point.time),
            point.policy.clone(),
            count(point.entries),
            bytes(point.bytes),
            point.verified.map_or_else(|| "never".to_owned(), timestamp),
            remark,
        ]);
    }
    let broken: String =
        points.iter().filter_map(|point| point.unreadable.as_ref()).map(|detail| format!("\n{detail}\n")).collect();
    format!("{table}{broken}")
}
