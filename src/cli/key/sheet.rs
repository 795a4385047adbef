//! `farshore key sheet`: what lies in the safe.
//!
//! Nothing is put on it that was not tried first: the identity opens the repository and every data key of the newest point.

use std::{collections::BTreeSet, path::PathBuf};

use chrono::{DateTime, Utc};
use qrcode::{EcLevel, QrCode, render::unicode::Dense1x2};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;

use super::generate::write_new;
use crate::{
    cli::{
        CliError, Context, assemble, identity,
        place::{self, EACH_SITE, PlaceArgs},
        sites,
    },
    clock::SystemClock,
    operations::check_point_keys,
    policy::{Encryption, Limits, SitePolicy},
    report::{ExitCode, counted, printable, timestamp},
    repository::{Budget, Identities, Point, Reader, RepositoryError, Snapshot, is_passphrase_wrapped},
    sources::postgres::physical::facts::{PhysicalFacts, TablespaceFacts, is_physical},
};

#[derive(Debug, clap::Args)]
#[command(mut_arg("site", |site| site.help(EACH_SITE)))]
pub(super) struct SheetArgs {
    /// A policy file, or the name of one in /etc/farshore/policies; not needed with an address in --site.
    policy: Option<String>,
    #[command(flatten)]
    place: PlaceArgs,
    /// The sheet; it must not exist, and only you can read it. Print it, then destroy it (`shred -u`).
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
}

/// A site, and what the identity was found to open there.
struct Site {
    /// Its name in the policy; empty for a bare address.
    name: String,
    place: String,
    state: State,
}

enum State {
    /// The identity opens it.
    Opened(Box<Opened>),
    /// The policy has other readers there.
    Foreign,
    /// It could not be tried, and why.
    Untried(String),
}

struct Opened {
    repository: String,
    public_key: String,
    proof: String,
    point: Option<Point>,
}

/// What stands on a sheet.
struct Sheet<'a> {
    made_at: DateTime<Utc>,
    sites: &'a [Site],
    /// Where the commands go to: the first site that the identity opens.
    address: &'a str,
    opened: &'a Opened,
    /// The file's own lines.
    identity: &'a SecretString,
    wrapped: bool,
}

/// The sites that a sheet names: all of the policy, or the one that is meant.
fn wanted(policy: Option<&str>, place: &PlaceArgs) -> Result<Vec<(PlaceArgs, Option<SitePolicy>)>, CliError> {
    let Some(policy) = policy else { return Ok(vec![(place.clone(), None)]) };
    let policy = place::load_policy(policy)?;
    let sites = sites::meant(&policy, place.site.as_deref())?;
    Ok(sites.into_iter().map(|site| (PlaceArgs { site: Some(site.name.clone()), ..place.clone() }, Some(site.clone()))).collect())
}

/// Opens the newest point of a site, as far as it takes to be sure.
async fn attempt(
    context: &Context,
    policy: Option<&str>,
    args: &PlaceArgs,
    identities: &Identities,
) -> Result<(String, Opened), CliError> {
    let place = place::find_with(policy, args, identities.clone()).await?;
    let repository = place.open(&context.cache_dir).await?;
    let (point, proof) = match repository.point_names(place.policy_name()).await?.pop() {
        None => (None, "opens the catalogue; there was no recovery point yet to try".to_owned()),
        Some(name) => {
            let limits = place.policy.as_ref().map_or_else(Limits::default, |policy| policy.limits);
            let reader = Reader::open(&repository, assemble::workers(&limits)?, Budget::new(limits.memory_bytes)).await?;
            let point = repository.point(&name).await?;
            let mut keys = check_point_keys(&repository, &reader, &point).await?;
            if !keys.closed.is_empty() {
                // A sheet that opens nothing would only be found out on the day.
                return Err(keys.closed.swap_remove(0).1.into());
            }
            (Some(point), format!("opens the catalogue and the {} of point {}", counted(keys.data_keys, "data key"), name.id))
        }
    };
    let public_key = place.identities.public_keys().into_iter().next().unwrap_or_default();
    Ok((place.store.describe(), Opened { repository: repository.file().id.clone(), public_key, proof, point }))
}

/// Whether the policy lets these identities restore from a site.
fn is_reader(site: &SitePolicy, identities: &Identities) -> bool {
    match &site.encryption {
        Encryption::Recipients(readers) => identities.public_keys().iter().any(|key| readers.recipients.contains(key)),
        Encryption::None => true,
    }
}

pub(super) async fn run(context: &Context, args: SheetArgs) -> Result<ExitCode, CliError> {
    let usage = "farshore key sheet POLICY --identity FILE --output SHEET";
    let words = args.place.words(args.policy.into_iter().collect(), 0, usage)?;
    let [file] = args.place.identity.as_slice() else {
        return Err(CliError::Usage(format!("a sheet is of one identity: {usage}")));
    };
    let bytes = identity::contents(file)?;
    let identities = identity::read(vec![file.clone()]).await?;
    let wanted = wanted(words.policy.as_deref(), &args.place)?;
    let (mut all, mut code, alone) = (Vec::new(), ExitCode::Success, wanted.len() == 1);
    for (place, site) in wanted {
        let state = match attempt(context, words.policy.as_deref(), &place, &identities).await {
            Ok((address, opened)) => {
                all.push(Site {
                    name: site.map_or_else(String::new, |site| site.name),
                    place: address,
                    state: State::Opened(Box::new(opened)),
                });
                continue;
            }
            Err(error) if alone => return Err(error),
            Err(error) => match &site {
                Some(site) if error.exit_code() == ExitCode::Keys && !is_reader(site, &identities) => State::Foreign,
                // Whom the policy names and the site does not let in would stand before it with a useless sheet.
                _ if error.exit_code() == ExitCode::Keys => return Err(error),
                _ => {
                    context.terminal.aside(|| error.print(context.json));
                    code = code.worse(error.exit_code());
                    State::Untried(error.to_string())
                }
            },
        };
        all.extend(site.map(|site| Site { place: site.store.place(), name: site.name, state }));
    }
    let first = all.iter().find_map(|site| match &site.state {
        State::Opened(opened) => Some((site.place.as_str(), opened.as_ref())),
        _ => None,
    });
    let Some((address, opened)) = first else {
        if code != ExitCode::Success {
            // Why none could be tried is said already.
            return Ok(code);
        }
        let detail = "is the identity of none of the recipients that the policy names for its sites".to_owned();
        return Err(RepositoryError::Key { place: file.display().to_string(), detail }.into());
    };
    let wrapped = is_passphrase_wrapped(&bytes);
    let text = std::str::from_utf8(&bytes).map_err(|_| {
        CliError::other(
            file.display().to_string(),
            "is a binary age file, which cannot be printed; make an armored one with `age -a`",
        )
    })?;
    let made_at = SystemClock::shared().now();
    let sheet = Sheet { made_at, sites: &all, address, opened, identity: &SecretString::from(text), wrapped };
    write_new(&args.output, sheet.text()?.expose_secret()).map_err(|error| {
        CliError::other(
            args.output.display().to_string(),
            format!("the sheet cannot be written: {error}; choose a file that does not exist"),
        )
    })?;
    let output = args.output.display().to_string();
    let named: Vec<&str> = all.iter().map(|site| site.place.as_str()).collect();
    context.print(&json!({ "sheet": output, "public_key": opened.public_key, "wrapped": wrapped, "sites": named }), |look| {
        format!("{} {output}: it holds the secret key. Print it, lock it away, and destroy the file: shred -u {output}", look.ok())
    })?;
    Ok(code)
}

impl Site {
    /// Its lines.
    fn text(&self) -> String {
        let name = if self.name.is_empty() { String::new() } else { format!("{}: ", self.name) };
        match &self.state {
            State::Opened(opened) => {
                let Opened { repository, proof, .. } = opened.as_ref();
                format!("  {name}{}\n    repository {repository}\n    tried: {proof}\n", self.place)
            }
            State::Foreign => format!("  {name}{}\n    has other readers: this identity opens nothing there\n", self.place),
            State::Untried(why) => format!("  {name}{}\n    NOT TRIED: {}\n", self.place, printable(why)),
        }
    }
}

/// A tablespace as a shell takes it: by its name, or, where that would have to be quoted, by its number.
fn typed(tablespace: &TablespaceFacts) -> String {
    let is_plain = tablespace.name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_');
    if is_plain { tablespace.name.clone() } else { tablespace.oid.to_string() }
}

/// What a snapshot says of a whole cluster, if it is one's.
fn cluster(snapshot: &Snapshot) -> Option<PhysicalFacts> {
    PhysicalFacts::read(&snapshot.facts).ok().filter(|_| is_physical(&snapshot.facts))
}

impl Sheet<'_> {
    /// What a QR code holds: the line of the secret key, or the whole wrapped file.
    fn code(&self) -> &str {
        let text = self.identity.expose_secret().trim();
        if self.wrapped { text } else { text.lines().find(|line| line.starts_with("AGE-SECRET-KEY-")).unwrap_or(text) }
    }

    fn text(&self) -> Result<SecretString, CliError> {
        let code = QrCode::with_error_correction_level(self.code(), EcLevel::M)
            .map_err(|error| CliError::other("QR code", format!("the identity does not fit into one: {error}")))?;
        // Dark on light, as paper has it; a reader of codes needs the quiet zone around.
        let picture = code.render::<Dense1x2>().quiet_zone(true).build();
        let warning = if self.wrapped {
            "Whoever has this sheet AND its passphrase, which stands elsewhere, can read every recovery\npoint of the repositories below, if he gets at a site."
        } else {
            "Whoever has this sheet can read every recovery point of the repositories below, if he gets\nat a site. Keep it in a safe, away from the sites' credentials."
        };
        let sites: String = self.sites.iter().map(Site::text).collect();
        Ok(SecretString::from(format!(
            "FARSHORE RECOVERY SHEET\n=======================\n\n{warning}\n\n\
             Made        {}\nPublic key  {}\n\nWhere recovery points are:\n\n{sites}\n\
             The identity{}:\n\n{}\n\nThe same to be scanned{}:\n\n{picture}\n\n{}",
            timestamp(self.made_at),
            self.opened.public_key,
            if self.wrapped { ", wrapped with a passphrase (an age file; `age -d` opens it, too)" } else { "" },
            self.identity.expose_secret().trim(),
            if self.wrapped { "" } else { " (the line of the secret key)" },
            self.steps()
        )))
    }

    /// What to type.
    fn steps(&self) -> String {
        let site = self.address;
        let snapshots = || self.opened.point.iter().flat_map(|point| &point.snapshots);
        let clusters: Vec<PhysicalFacts> = snapshots().filter_map(cluster).collect();
        let versions: BTreeSet<u32> = clusters.iter().map(PhysicalFacts::major).collect();
        let servers: String = versions.iter().map(|major| format!(", PostgreSQL {major}")).collect();
        let mut steps = format!(
            "On the bad day\n--------------\n\n\
             1. A machine that you trust{servers}, with `farshore` of any version (or Python and docs/reader/farshore_read.py\n   \
             of its sources), and the site's credentials, as the provider's own tools take them.\n\
             2. Type or scan the identity into a file that is never on a disk, end with Ctrl-D:\n\n   \
             install -m 600 /dev/stdin /dev/shm/key.txt\n\n"
        );
        if self.wrapped && !clusters.is_empty() {
            steps.push_str(
                "   A server that fetches its log cannot be asked for the passphrase: open the identity first, with `age`,\n   \
                 and give open.txt instead of key.txt.\n\n   \
                 (umask 077; age -d -o /dev/shm/open.txt /dev/shm/key.txt)\n\n",
            );
        }
        steps.push_str(&format!(
            "3. What is there?\n\n   farshore points --site {site} --identity /dev/shm/key.txt\n\n   \
             Points of several policies? Write the id of the one that you mean instead of `latest`.\n\n\
             4. Bring it back, each source to its target (`--dry-run` first):\n\n"
        ));
        for snapshot in snapshots() {
            let target = match (snapshot.kind.as_str(), cluster(snapshot)) {
                (_, Some(facts)) => {
                    let elsewhere = facts.tablespaces.iter().map(|one| format!(" --tablespace {}=/DIRECTORY", typed(one)));
                    format!("/var/lib/postgresql/{}/main{} --to-latest --start", facts.major(), elsewhere.collect::<String>())
                }
                ("postgres", None) => "postgres://USER@HOST/DATABASE".to_owned(),
                ("bucket", None) => "s3://NEW-BUCKET".to_owned(),
                ("files", None) => "/DIRECTORY".to_owned(),
                _ => "/FILE".to_owned(),
            };
            steps.push_str(&format!(
                "   farshore restore --site {site} --identity /dev/shm/key.txt latest --source {} --to {target}\n",
                snapshot.source
            ));
        }
        if !clusters.is_empty() {
            steps.push_str(
                "\n   A cluster goes into an empty directory of the server's user, with all of its log that is archived: leave out\n   \
                 --to-latest if none is. The server runs `farshore` itself: neither that nor the identity may lie below /root.\n",
            );
        }
        if self.opened.point.is_none() {
            steps.push_str(&format!(
                "   farshore restore --site {site} --identity /dev/shm/key.txt latest --source NAME --to TARGET\n"
            ));
        }
        if self.sites.iter().any(|other| other.place != site && !matches!(other.state, State::Foreign)) {
            steps.push_str(
                "\n   If that site is gone, or a point is not there: the same with --site and another place of the list above.\n",
            );
        }
        steps.push_str(if self.wrapped && !clusters.is_empty() {
            "\n5. shred -u /dev/shm/key.txt /dev/shm/open.txt\n"
        } else {
            "\n5. shred -u /dev/shm/key.txt\n"
        });
        steps
    }
}
