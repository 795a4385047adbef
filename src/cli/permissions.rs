//! `farshore permissions`.

use serde::Serialize;

use super::{CliError, Context, place, sites};
use crate::{
    policy::{SitePolicy, StorePolicy},
    report::ExitCode,
    stores::{Role, azure_permissions, s3_permissions},
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A policy file, or the name of one in /etc/farshore/policies.
    policy: String,
    /// Only this site of the policy.
    #[arg(long, value_name = "NAME")]
    site: Option<String>,
}

/// What one identity must be allowed at a site.
#[derive(Debug, Serialize)]
pub(super) struct Permissions {
    site: String,
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
            StorePolicy::S3(s3) => ("IAM policy document", s3_permissions(role, &s3.bucket, &s3.prefix, locked)),
            StorePolicy::Azure(azure) => {
                ("Azure role definition", azure_permissions(role, &azure.account, &azure.container, locked))
            }
        };
        Some(Permissions { site: site.name.clone(), role: role.word(), kind, document })
    };
    Role::ALL.into_iter().filter_map(of_role).collect()
}

/// As text: a heading and the document, to be handed to the provider.
pub(super) fn text(permissions: &[Permissions]) -> String {
    let one = |permissions: &Permissions| {
        format!("site {}, {} ({}):\n{:#}\n", permissions.site, permissions.role, permissions.kind, permissions.document)
    };
    permissions.iter().map(one).collect()
}

pub(super) fn run(context: &Context, args: Args) -> Result<ExitCode, CliError> {
    let policy = place::load_policy(&args.policy)?;
    let all: Vec<Permissions> = sites::meant(&policy, args.site.as_deref())?.into_iter().flat_map(of).collect();
    if all.is_empty() {
        return Err(CliError::Usage(
            "no site of this policy is a bucket or a container: at a directory the file system's owner and mode decide who may write and delete"
                .to_owned(),
        ));
    }
    context.print(&all, |_| text(&all))?;
    Ok(ExitCode::Success)
}
