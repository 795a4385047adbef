//! What a capture will need of a server, and of this machine, looked at beforehand.

use chrono::TimeDelta;

use super::{
    LogicalOptions, PostgresConfig, catalog::USER_SCHEMA, connect::Session, failure::Side, pooler, programs, quote::identifier,
};
use crate::{
    progress::Finding,
    sources::{Examination, SourceError},
};

/// By how much the server's clock may differ before that is worth saying: times of databases and buckets are compared.
const CLOCK_TOLERANCE: TimeDelta = TimeDelta::seconds(10);

/// Connects, and says how. The session is settled; there is none if the server cannot be reached.
pub(super) async fn connection(config: &PostgresConfig, context: &Examination) -> (Vec<Finding>, Option<Session>) {
    let (mut findings, before) = (Vec::new(), context.clock.monotonic());
    let session = match config.connect(Side::Source).await {
        Ok(session) => session,
        Err(error) => return (vec![Finding::failed("connection", error)], None),
    };
    let took = context.clock.monotonic().saturating_sub(before);
    let looked = async {
        session.settle(std::time::Duration::from_secs(60)).await?;
        let doing = "asking the server what it is";
        let version: String = session.one(doing, "SELECT current_setting('server_version')", &[]).await?;
        let role: String = session.one(doing, "SELECT current_user::text", &[]).await?;
        findings.push(Finding::sound("connection", format!("PostgreSQL {version}, as role {role}, in {} ms", took.as_millis())));
        findings.push(encryption(config, &session).await?);
        findings.push(Finding::of("pooler", pooler::refuse(config, &session).await, |()| "none that shares sessions".to_owned()));
        let ahead = session.now(doing).await? - context.clock.now();
        findings.push(match ahead.abs() > CLOCK_TOLERANCE {
            true => Finding::note(
                "clock",
                format!("the server's differs from this machine's by {} s", ahead.num_seconds()),
                "let both be kept right by chrony or systemd-timesyncd",
            ),
            false => Finding::sound("clock", "as this machine's"),
        });
        Ok::<_, SourceError>(())
    };
    match looked.await {
        Ok(()) => (findings, Some(session)),
        Err(error) => {
            findings.push(Finding::failed("connection", error));
            (findings, None)
        }
    }
}

async fn encryption(config: &PostgresConfig, session: &Session) -> Result<Finding, SourceError> {
    let sql = "SELECT coalesce((SELECT version FROM pg_catalog.pg_stat_ssl WHERE pid = pg_backend_pid() AND ssl), '')";
    let version: String = session.one("asking whether the connection is encrypted", sql, &[]).await?;
    let address = config.address();
    let local = |host: &str| {
        host.starts_with('/') || host == "localhost" || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
    };
    let mode = address.tls.mode.word();
    let mend = "say sslmode=verify-full in the url, and sslrootcert=FILE where the server's authority is your own";
    Ok(match (version.as_str(), mode) {
        ("", _) if address.hosts.iter().all(|(host, _)| local(host)) => Finding::sound("encryption", "not needed on this machine"),
        ("", _) => Finding::note("encryption", "none: whoever is in between can read and change everything", mend),
        (version, "verify-full") => Finding::sound("encryption", format!("{version}, the server's certificate is verified")),
        (version, mode) => {
            Finding::note("encryption", format!("{version}, but sslmode={mode} does not verify whose certificate it is"), mend)
        }
    })
}

/// Whether PostgreSQL's own server program is here, for drills in a scratch cluster.
pub(super) fn drills(found: Result<programs::Program, SourceError>) -> Finding {
    match found {
        Ok(program) => Finding::sound("drills", format!("{} (version {})", program.path.display(), program.major)),
        Err(error) => Finding::note(
            "drills",
            format!("no scratch server can be started here: {error}"),
            "install the server's package (it need not run), drill on another machine, or name a server in [drill]",
        ),
    }
}

/// Examines a database that is captured by method `logical`.
pub(super) async fn logical(config: &PostgresConfig, options: &LogicalOptions, context: &Examination) -> Vec<Finding> {
    let (mut findings, session) = connection(config, context).await;
    let Some(session) = session else { return findings };
    let looked = async {
        let major = session.version().await? / 10_000;
        let directory = options.bin_directory.as_deref();
        findings.push(Finding::of("pg_dump", programs::find("pg_dump", directory, major).await, |program| {
            format!("{} (version {})", program.path.display(), program.major)
        }));
        if context.scratch_drills {
            findings.push(drills(programs::find("postgres", directory, major).await));
        }
        findings.push(readable(&session, major).await?);
        findings.push(row_security(&session).await?);
        findings.push(standby(&session).await?);
        Ok::<_, SourceError>(())
    };
    if let Err(error) = looked.await {
        findings.push(Finding::failed("server", error));
    }
    session.close().await;
    findings
}

async fn role(session: &Session) -> Result<String, SourceError> {
    session.one("asking for the role's name", "SELECT current_user::text", &[]).await
}

/// Whether the role may read every row's table, view's data and sequence.
async fn readable(session: &Session, major: u32) -> Result<Finding, SourceError> {
    let sql = format!(
        "SELECT count(*), min(n.nspname || '.' || c.relname) FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace \
         WHERE c.relkind IN ('r', 'm', 'S') AND c.relpersistence <> 't' AND {USER_SCHEMA} \
         AND NOT (pg_catalog.has_schema_privilege(n.oid, 'USAGE') AND pg_catalog.has_table_privilege(c.oid, 'SELECT'))"
    );
    let doing = "looking at the role's rights";
    let row = session.client.query_one(&sql, &[]).await.map_err(|error| session.failed(doing, &error))?;
    let (count, first): (i64, Option<String>) = (row.get(0), row.get(1));
    let Some(first) = first else { return Ok(Finding::sound("rights", "every table and sequence can be read")) };
    let role = identifier(&role(session).await?);
    let mend = match major {
        ..14 => format!(
            "as the owner: GRANT USAGE ON SCHEMA … TO {role}; GRANT SELECT ON ALL TABLES IN SCHEMA … TO {role}; and the same for SEQUENCES"
        ),
        _ => format!("as a superuser: GRANT pg_read_all_data TO {role}"),
    };
    Ok(Finding::wrong("rights", format!("{count} tables and sequences cannot be read, {first} for one"), mend))
}

/// Policies on rows would hide some: a backup refuses them instead.
async fn row_security(session: &Session) -> Result<Finding, SourceError> {
    let sql = "SELECT count(*), min(c.oid::regclass::text) FROM pg_catalog.pg_class AS c WHERE c.relrowsecurity AND pg_catalog.row_security_active(c.oid)";
    let row = session.client.query_one(sql, &[]).await.map_err(|error| session.failed("looking for policies on rows", &error))?;
    let (count, first): (i64, Option<String>) = (row.get(0), row.get(1));
    let Some(first) = first else { return Ok(Finding::sound("row security", "hides nothing from this role")) };
    let mend = format!("as a superuser: ALTER ROLE {} BYPASSRLS", identifier(&role(session).await?));
    Ok(Finding::wrong("row security", format!("hides rows of {count} tables from this role, of {first} for one"), mend))
}

async fn standby(session: &Session) -> Result<Finding, SourceError> {
    let doing = "asking whether it is a standby";
    if !session.one::<bool>(doing, "SELECT pg_catalog.pg_is_in_recovery()", &[]).await? {
        return Ok(Finding::sound("role of the server", "primary"));
    }
    let delay: String = session.one(doing, "SELECT current_setting('max_standby_streaming_delay')", &[]).await?;
    Ok(match delay.as_str() {
        "-1" => Finding::sound("role of the server", "standby; replay waits for long queries"),
        _ => Finding::note(
            "role of the server",
            format!("standby; max_standby_streaming_delay = {delay} cancels a backup that takes longer"),
            "set max_standby_streaming_delay = -1 on a standby that is backed up, or back up the primary",
        ),
    })
}
