//! `farshore permissions`.

use serde::Serialize;

use super::{CliError, Context, place, sites};
use crate::{
    policy::{Policy, S3Policy, SitePolicy, SourceKind, StorePolicy},
    report::ExitCode,
    stores::{Role, S3Place, S3Source, azure_permissions, s3_permissions, s3_source_permissions},
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A policy file, or the name of one in /etc/farshore/policies.
    policy: String,
    /// Only this site of the policy.
    #[arg(long, value_name = "NAME")]
    site: Option<String>,
}

/// What one identity must be allowed at a site, or in a bucket that is protected.
#[derive(Debug, Serialize)]
pub(super) struct Permissions {
    /// The site, or nothing for a source.
    #[serde(skip_serializing_if = "Option::is_none")]
    site: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    role: &'static str,
    /// What the provider calls such a document.
    kind: &'static str,
    /// An IAM policy document (S3), or the definition of a role (Azure).
    document: serde_json::Value,
}

/// What each identity must be allowed at a site; nothing for a directory, where the file system decides.
pub(super) fn of(site: &SitePolicy) -> Vec<Permissions> {
    let locked = site.lock.is_some();
    let of_role = |role: Role| {
        let (kind, document) = match &site.store {
            StorePolicy::Filesystem(_) => return None,
            StorePolicy::S3(s3) => ("IAM policy document", s3_permissions(role, place_of(s3), locked)),
            StorePolicy::Azure(azure) => {
                ("Azure role definition", azure_permissions(role, &azure.account, &azure.container, locked))
            }
        };
        Some(Permissions { site: Some(site.name.clone()), source: None, role: role.word(), kind, document })
    };
    Role::ALL.into_iter().filter_map(of_role).collect()
}

fn place_of(s3: &S3Policy) -> S3Place<'_> {
    S3Place { bucket: &s3.bucket, prefix: &s3.prefix, key: s3.kms_key() }
}

/// What the agent must be allowed in the buckets on S3 that a policy protects.
fn of_sources(policy: &Policy) -> Vec<Permissions> {
    let of_source = |(name, kind): (&String, &SourceKind)| match kind {
        SourceKind::Bucket(bucket) => match &bucket.store {
            StorePolicy::S3(s3) => Some(Permissions {
                site: None,
                source: Some(name.clone()),
                role: "source",
                kind: "IAM policy document",
                document: s3_source_permissions(
                    place_of(s3),
                    S3Source { locks: bucket.locks, rehydrates: bucket.rehydrate.is_some() },
                ),
            }),
            StorePolicy::Filesystem(_) | StorePolicy::Azure(_) => None,
        },
        _ => None,
    };
    policy.sources.iter().map(|source| (&source.name, &source.kind)).filter_map(of_source).collect()
}

/// As text: a heading and the document, to be handed to the provider.
pub(super) fn text(permissions: &[Permissions]) -> String {
    let one = |permissions: &Permissions| {
        let Permissions { site, source, role, kind, document } = permissions;
        let heading = match (site, source) {
            (Some(site), _) => format!("site {site}, {role}"),
            (None, source) => format!("source {}, the agent", source.as_deref().unwrap_or_default()),
        };
        format!("{heading} ({kind}):\n{document:#}\n")
    };
    permissions.iter().map(one).collect()
}

pub(super) fn run(context: &Context, args: Args) -> Result<ExitCode, CliError> {
    let policy = place::load_policy(&args.policy)?;
    let mut all: Vec<Permissions> = sites::meant(&policy, args.site.as_deref())?.into_iter().flat_map(of).collect();
    if args.site.is_none() {
        all.extend(of_sources(&policy));
    }
    if all.is_empty() {
        return Err(CliError::Usage(
            "no site or source of this policy is a bucket or a container: at a directory the file system's owner and mode decide who may write and delete"
                .to_owned(),
        ));
    }
    context.print(&all, |_| text(&all))?;
    Ok(ExitCode::Success)
}
