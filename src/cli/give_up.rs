//! `farshore give-up`: a point that is lost, and that no rule of retention is to keep any more.

use serde_json::json;

use super::{
    CliError, Context, assemble,
    place::{self, PlaceArgs},
};
use crate::{
    operations::{self, GiveUpRequest, GivenUp},
    policy::Limits,
    report::{ExitCode, Look, printable},
    repository::{Budget, Reader},
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// POLICY POINT; with an address in --site only POINT. POINT is an id, or an unambiguous beginning of one.
    #[arg(value_name = "POLICY POINT", num_args = 1..=2, required = true)]
    words: Vec<String>,
    #[command(flatten)]
    place: PlaceArgs,
    /// Why; kept with the record, and said by every prune as long as the point is there.
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

pub(super) async fn run(context: &Context, args: Args) -> Result<ExitCode, CliError> {
    let words = args.place.words(args.words, 1, "farshore give-up POLICY POINT --reason …")?;
    let place = place::find(words.policy.as_deref(), &args.place).await?;
    let repository = place.open(&context.cache_dir).await?;
    if words.rest[0].starts_with("latest") {
        return Err(CliError::Usage("a point is given up by its id: which one is the latest may change meanwhile".to_owned()));
    }
    let point = operations::select_point(&repository, place.policy_name(), &words.rest[0]).await?;
    let limits = place.policy.as_ref().map_or_else(Limits::default, |policy| policy.limits);
    let reader = Reader::open(&repository, assemble::workers(&limits)?, Budget::new(limits.memory_bytes)).await?;
    let (now, agent) = (place.clock.now(), assemble::agent());
    let request =
        GiveUpRequest { repository: &repository, reader: &reader, point: &point, reason: &args.reason, agent: &agent, now };
    let given_up = operations::give_up(&request).await?;
    let GivenUp { record, damage } = &given_up;
    let shown = json!({
        "point": record.point, "policy": record.policy, "given_up": true, "reason": record.reason,
        "by": format!("{}@{}", record.user, record.host), "at": record.at, "damage": damage.to_string(),
    });
    context.print(&shown, |look| text(look, &given_up))?;
    Ok(ExitCode::Success)
}

fn text(look: Look, GivenUp { record, damage }: &GivenUp) -> String {
    let (point, policy, reason) = (&record.point, printable(&record.policy), printable(&record.reason));
    format!(
        "{} Point {point} of {policy} is GIVEN UP: {reason}\n  it is lost: {}\n  The next `farshore prune` dooms it, and one after the grace deletes it, with what only it needs. Until then `farshore unpin` takes this back.\n",
        look.failed(),
        printable(&damage.to_string()),
    )
}
