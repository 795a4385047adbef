//! `farshore key sheet`: what lies in the safe.
//!
//! Nothing is put on it that was not tried first: the identity opens the repository and every data key of the newest point.

use std::path::PathBuf;

use chrono::{DateTime, Utc};
use qrcode::{EcLevel, QrCode, render::unicode::Dense1x2};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;

use super::generate::write_new;
use crate::{
    cli::{
        CliError, Context, assemble, identity,
        place::{self, PlaceArgs},
    },
    operations::check_point_keys,
    policy::Limits,
    report::{ExitCode, count, timestamp},
    repository::{Budget, Point, Reader, is_passphrase_wrapped},
};

#[derive(Debug, clap::Args)]
pub(super) struct SheetArgs {
    /// A policy file, or the name of one in /etc/farshore/policies; not needed with an address in --site.
    policy: Option<String>,
    #[command(flatten)]
    place: PlaceArgs,
    /// The sheet; it must not exist, and only you can read it. Print it, then destroy it (`shred -u`).
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
}

/// What stands on a sheet.
struct Sheet<'a> {
    made_at: DateTime<Utc>,
    repository: &'a str,
    site: &'a str,
    public_key: &'a str,
    proof: String,
    point: Option<&'a Point>,
    /// The file's own lines.
    identity: &'a SecretString,
    wrapped: bool,
}

pub(super) async fn run(context: &Context, args: SheetArgs) -> Result<ExitCode, CliError> {
    let usage = "farshore key sheet POLICY --identity FILE --output SHEET";
    let words = args.place.words(args.policy.into_iter().collect(), 0, usage)?;
    let [file] = args.place.identity.as_slice() else {
        return Err(CliError::Usage(format!("a sheet is of one identity: {usage}")));
    };
    let place = place::find(words.policy.as_deref(), &args.place).await?;
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
            (Some(point), format!("opens the catalogue and the {} data keys of point {}", count(keys.data_keys), name.id))
        }
    };
    let bytes = identity::contents(file)?;
    let wrapped = is_passphrase_wrapped(&bytes);
    let text = std::str::from_utf8(&bytes).map_err(|_| {
        CliError::other(
            file.display().to_string(),
            "is a binary age file, which cannot be printed; make an armored one with `age -a`",
        )
    })?;
    let (public, site) = (place.identities.public_keys(), place.store.describe());
    let sheet = Sheet {
        made_at: place.clock.now(),
        repository: &repository.file().id,
        site: &site,
        public_key: public.first().map_or("", String::as_str),
        proof,
        point: point.as_ref(),
        identity: &SecretString::from(text),
        wrapped,
    };
    write_new(&args.output, sheet.text()?.expose_secret()).map_err(|error| {
        CliError::other(
            args.output.display().to_string(),
            format!("the sheet cannot be written: {error}; choose a file that does not exist"),
        )
    })?;
    let output = args.output.display().to_string();
    context.print(&json!({ "sheet": output, "public_key": sheet.public_key, "wrapped": wrapped }), |look| {
        format!("{} {output}: it holds the secret key. Print it, lock it away, and destroy the file: shred -u {output}", look.ok())
    })?;
    Ok(ExitCode::Success)
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
            "Whoever has this sheet AND its passphrase, which stands elsewhere, can read every recovery\npoint of the repository below, if he gets at the site."
        } else {
            "Whoever has this sheet can read every recovery point of the repository below, if he gets at\nthe site. Keep it in a safe, away from the site's credentials."
        };
        Ok(SecretString::from(format!(
            "FARSHORE RECOVERY SHEET\n=======================\n\n{warning}\n\n\
             Repository  {}\nSite        {}\nPublic key  {}\nTried       {}: {}\n\n\
             The identity{}:\n\n{}\n\nThe same to be scanned{}:\n\n{picture}\n\n{}",
            self.repository,
            self.site,
            self.public_key,
            timestamp(self.made_at),
            self.proof,
            if self.wrapped { ", wrapped with a passphrase (an age file; `age -d` opens it, too)" } else { "" },
            self.identity.expose_secret().trim(),
            if self.wrapped { "" } else { " (the line of the secret key)" },
            self.steps()
        )))
    }

    /// What to type.
    fn steps(&self) -> String {
        let site = self.site;
        let mut steps = format!(
            "On the bad day\n--------------\n\n\
             1. A machine that you trust, with `farshore` of any version (or Python and docs/reader/farshore_read.py\n   \
             of its sources), and the site's credentials, as the provider's own tools take them.\n\
             2. Type or scan the identity into a file that is never on a disk, end with Ctrl-D:\n\n   \
             install -m 600 /dev/stdin /dev/shm/key.txt\n\n\
             3. What is there?\n\n   farshore points --site {site} --identity /dev/shm/key.txt\n\n\
             4. Bring it back, each source to its target (`--dry-run` first):\n\n"
        );
        for snapshot in self.point.iter().flat_map(|point| &point.snapshots) {
            let target = match snapshot.kind.as_str() {
                "postgres" => "postgres://USER@HOST/DATABASE",
                "bucket" => "s3://NEW-BUCKET",
                "files" => "/DIRECTORY",
                _ => "/FILE",
            };
            steps.push_str(&format!(
                "   farshore restore --site {site} --identity /dev/shm/key.txt latest --source {} --to {target}\n",
                snapshot.source
            ));
        }
        if self.point.is_none() {
            steps.push_str(&format!(
                "   farshore restore --site {site} --identity /dev/shm/key.txt latest --source NAME --to TARGET\n"
            ));
        }
        steps.push_str("\n5. shred -u /dev/shm/key.txt\n");
        steps
    }
}
