//! What a capture of a whole cluster will need, looked at beforehand.

use super::{
    archiving::archiving,
    capture::PhysicalOptions,
    examine_machine::{programs, reading},
    examine_server::{configuration, log_level, timeouts},
    server::{Server, check_rights},
};
use crate::{
    progress::Finding,
    sources::{
        Examination, SourceError,
        postgres::{PostgresConfig, connect::Session, examine},
    },
};

/// Examines a cluster that is captured by method `physical`.
pub async fn physical(config: &PostgresConfig, options: &PhysicalOptions, context: &Examination) -> Vec<Finding> {
    let (mut findings, session) = examine::connection(config, context).await;
    let Some(session) = session else { return findings };
    let looked = async {
        let version = session.version().await?;
        let rights = check_rights(&session, version).await;
        let is_allowed = rights.is_ok();
        findings.push(Finding::of("rights", rights, |()| "all that are needed".to_owned()));
        let look = Server::look(&session).await;
        match look {
            // What it says of rights stands there already.
            Err(SourceError::Denied { .. }) => findings.extend(log_level(&session).await?),
            look => findings.push(Finding::of("server", look, |server| {
                let elsewhere = server.tablespaces.len();
                format!(
                    "system identifier {}, segments of {} MiB, {elsewhere} tablespaces elsewhere",
                    server.layout.system,
                    server.layout.segment_bytes >> 20
                )
            })),
        }
        // What keeps it from being asked stands there already.
        if is_allowed && let Ok(server) = Server::ask(&session, version).await {
            findings.push(reading(&session, &server, options.read_by).await?);
            findings.push(configuration(&session, &server.data_directory).await?);
        }
        findings.extend(settings(&session).await?);
        findings.extend(timeouts(&session, &options.log.slot).await?);
        findings.extend(archiving(config, &session, &options.log).await?);
        findings.extend(programs(options.bin_directory.as_deref(), version / 10_000, context.scratch_drills).await);
        Ok::<_, SourceError>(())
    };
    if let Err(error) = looked.await {
        findings.push(Finding::failed("server", error));
    }
    session.close().await;
    findings
}

async fn settings(session: &Session) -> Result<Vec<Finding>, SourceError> {
    let doing = "looking at the server's settings";
    let setting = async |name: &str| session.one::<String>(doing, "SELECT current_setting($1)", &[&name]).await;
    let mut findings = Vec::new();
    let sql = "SELECT current_setting('max_replication_slots')::int8 - (SELECT count(*) FROM pg_catalog.pg_replication_slots)";
    findings.push(match session.one::<i64>(doing, sql, &[]).await? {
        ..1 => Finding::wrong(
            "replication slots",
            "none is free: a backup needs one while it runs",
            "raise max_replication_slots by one, and restart the server; or drop a slot that nobody uses (SELECT * FROM pg_replication_slots)",
        ),
        free => Finding::sound("replication slots", format!("{free} free")),
    });
    findings.push(match setting("max_slot_wal_keep_size").await?.as_str() {
        "-1" => Finding::sound("log kept for a slot", "as much as a backup needs"),
        most => Finding::note(
            "log kept for a slot",
            format!("at most {most}: a backup during which more is written fails"),
            "set max_slot_wal_keep_size to more than is written during the longest backup, or to -1",
        ),
    });
    let is_standby: bool = session.one(doing, "SELECT pg_catalog.pg_is_in_recovery()", &[]).await?;
    if is_standby {
        findings.push(Finding::sound(
            "standby",
            "the server is a standby: a backup is of what it has replayed by then, and fails if it is promoted meanwhile",
        ));
    }
    findings.push(match is_standby {
        // What counts is what the primary wrote, as the last checkpoint in its log has it; the standby's own setting does nothing.
        true => match session.one::<bool>(doing, "SELECT full_page_writes FROM pg_catalog.pg_control_checkpoint()", &[]).await? {
            true => Finding::sound("full_page_writes", "on at the primary"),
            false => Finding::wrong(
                "full_page_writes",
                "off at the primary: a standby refuses backups then, for pages that are read while they are written could not be mended",
                "at the primary: ALTER SYSTEM SET full_page_writes = on; SELECT pg_reload_conf(); CHECKPOINT. Or let the policy name the primary",
            ),
        },
        false => match setting("full_page_writes").await?.as_str() {
            "on" => Finding::sound("full_page_writes", "on"),
            _ => Finding::note(
                "full_page_writes",
                "off: the server itself may not survive a crash (during a backup it writes them all the same)",
                "set full_page_writes = on",
            ),
        },
    });
    let summaries = "SELECT (SELECT setting FROM pg_catalog.pg_settings WHERE name = 'summarize_wal')";
    match session.one::<Option<String>>(doing, summaries, &[]).await?.as_deref() {
        // Before PostgreSQL 17 there are no summaries.
        None => {}
        Some(_) if is_standby => findings.push(Finding::note(
            "summarize_wal",
            "of no use on a standby: every backup reads everything, and stores what changed",
            "let the policy name the primary, if that is too much to read",
        )),
        Some("on") => findings.push(Finding::sound("summarize_wal", "on: only what changed since the point before is read")),
        Some(_) => findings.push(Finding::note(
            "summarize_wal",
            "off: every backup reads everything",
            "ALTER SYSTEM SET summarize_wal = on; SELECT pg_reload_conf()",
        )),
    }
    findings.push(match setting("data_checksums").await?.as_str() {
        "on" => Finding::sound("page checksums", "on: each page that is read is looked at"),
        _ => Finding::note(
            "page checksums",
            "off: pages that the disk damaged are copied as they are, and nobody sees it",
            "stop the server once, and run pg_checksums --enable",
        ),
    });
    Ok(findings)
}
