//! What of this machine the backups, restores and drills of a cluster will need, looked at beforehand.

use std::{path::Path, process::Stdio};

use super::{
    capture::ReadBy,
    direct::{Direct, KnownBy, PROCESS_FILE},
    scratch::exactly,
    server::Server,
};
use crate::{
    progress::Finding,
    sources::{
        SourceError,
        postgres::{connect::Session, examine},
    },
};

/// Longest file that tells of the server's process. Bytes.
const MOST_PROCESS_BYTES: i64 = 4096;
/// The extension that drills hold visibility maps against tables with.
const VISIBILITY: &str = "pg_visibility";

/// PostgreSQL's own programs: for drills, and for `restore --start`.
pub(super) async fn programs(directory: Option<&Path>, major: u32, scratch_drills: bool) -> Vec<Finding> {
    let server = exactly("postgres", directory, major).await;
    // Beside the server, as a drill and a start will look for them.
    let beside = server.as_ref().ok().and_then(|program| program.path.parent()).map(Path::to_owned);
    let beside = beside.as_deref().or(directory);
    let install =
        format!("install the package postgresql-{major} with its contrib modules, or name its directory in bin_directory");
    let mut findings = Vec::new();
    let started = exactly("pg_ctl", beside, major).await;
    if scratch_drills {
        let has_extension = match &server {
            Ok(program) => program.path.parent().map(|bin| (bin.to_owned(), VISIBILITY)),
            Err(_) => None,
        };
        findings.push(examine::drills(server));
        findings.push(match exactly("pg_amcheck", beside, major).await {
            Ok(program) => {
                Finding::sound("pg_amcheck", format!("{}: drills hold every index against its table", program.path.display()))
            }
            Err(error) => Finding::note("pg_amcheck", format!("drills hold no index against its table: {error}"), &install),
        });
        let is_there = match has_extension {
            Some((bin, name)) => extension(&bin, major, name).await,
            None => false,
        };
        findings.push(match is_there {
            true => Finding::sound(VISIBILITY, "drills hold visibility maps against their tables"),
            false => {
                Finding::note(VISIBILITY, "not found beside the server's programs: drills do not look at visibility maps", &install)
            }
        });
    }
    findings.push(match started {
        Ok(program) => {
            Finding::sound("pg_ctl", format!("{}: `restore --start` can start what it restored here", program.path.display()))
        }
        Err(error) => Finding::note("pg_ctl", format!("`restore --start` cannot start what it restored here: {error}"), &install),
    });
    findings
}

/// Whether the server whose programs are in `bin` can be given an extension: where `pg_config` says that they are, or, without it, where
/// they are usually.
async fn extension(bin: &Path, major: u32, name: &str) -> bool {
    let mut asked = tokio::process::Command::new(bin.join("pg_config"));
    asked.arg("--sharedir").stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let said = asked.output().await.ok().filter(|output| output.status.success());
    let said = said.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).filter(|text| !text.is_empty());
    let places = match said {
        Some(share) => vec![share.into()],
        None => {
            vec![bin.join("../share"), bin.join("../share/postgresql"), Path::new("/usr/share/postgresql").join(major.to_string())]
        }
    };
    places.iter().any(|share: &std::path::PathBuf| share.join("extension").join(format!("{name}.control")).is_file())
}

/// Which way the server's files will be read, and whether that can be done. Nothing is changed at the server.
///
/// # Errors
/// The server's.
pub(super) async fn reading(session: &Session, server: &Server, read_by: ReadBy) -> Result<Finding, SourceError> {
    const NAME: &str = "reading";
    if read_by == ReadBy::Sql {
        return Ok(Finding::sound(NAME, "over SQL, as the policy says"));
    }
    let sql = "SELECT pg_catalog.pg_read_binary_file($1, 0, $2, true)";
    let process: Option<Vec<u8>> =
        session.one("reading the server's process file", sql, &[&PROCESS_FILE, &MOST_PROCESS_BYTES]).await?;
    let opened = Direct::open(server, KnownBy::Process(process.unwrap_or_default())).await;
    Ok(match (opened, read_by) {
        (Ok(_), _) => Finding::sound(NAME, format!("from the data directory itself, {}", server.data_directory)),
        (Err(why), ReadBy::Files) => Finding::wrong(
            NAME,
            format!("the policy says read_by = \"files\", and {why}"),
            "run the agent on the server's machine as a user who may read its data directory (the runbook's *Sources* has how), or leave read_by out",
        ),
        (Err(why), _) => Finding::sound(NAME, format!("over SQL, since {why}")),
    })
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::extension;

    #[tokio::test]
    async fn an_extension_is_looked_for_where_pg_config_says_and_else_where_it_is_usually() {
        let place = tempfile::tempdir().unwrap();
        let below = |name: &str| place.path().join(name);
        for directory in ["bin", "share/extension", "share/postgresql/extension", "elsewhere/extension"] {
            fs::create_dir_all(below(directory)).unwrap();
        }
        assert!(!extension(&below("bin"), 99, "pg_some").await);
        for (directory, name) in [("share", "one"), ("share/postgresql", "two"), ("elsewhere", "three")] {
            fs::write(below(directory).join(format!("extension/{name}.control")), b"").unwrap();
        }
        let found = async |name: &str| extension(&below("bin"), 99, name).await;
        assert!(found("one").await && found("two").await && !found("three").await);
        let script = format!("#!/bin/sh\n[ \"$1\" = --sharedir ] && echo {}\n", below("elsewhere").display());
        fs::write(below("bin/pg_config"), script).unwrap();
        fs::set_permissions(below("bin/pg_config"), fs::Permissions::from_mode(0o755)).unwrap();
        assert!(!found("one").await && found("three").await);
    }
}
