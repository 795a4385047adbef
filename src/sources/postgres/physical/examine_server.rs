//! What may end a backup in its midst, or keep something out of it, looked at beforehand.

use super::{outside, server::TOUCH};
use crate::{
    progress::Finding,
    sources::{
        SourceError,
        postgres::{connect::Session, quote::identifier},
    },
};

/// Summaries of the log that are kept for less than this are too soon gone for a backup each night. Seconds.
const LEAST_SUMMARIES_SECONDS: i64 = 2 * 86_400;

/// A log that is too short to replay, for a role that may not look at the server yet.
///
/// # Errors
/// The server's.
pub(super) async fn log_level(session: &Session) -> Result<Option<Finding>, SourceError> {
    let level: String = session.one("asking for wal_level", "SELECT current_setting('wal_level')", &[]).await?;
    let wrong = || {
        Finding::wrong(
            "wal_level",
            "minimal: nothing can be replayed from this log",
            "set wal_level = replica, and restart the server",
        )
    };
    Ok((level == "minimal").then(wrong))
}

/// Settings by which the server gives up, after a time, what backups need. Those of a session are set by the session itself.
///
/// # Errors
/// The server's.
pub(super) async fn timeouts(session: &Session, slot: &str) -> Result<Vec<Finding>, SourceError> {
    let doing = "looking at the server's settings";
    // In the setting's own unit; servers before it have none.
    let sql = "SELECT (SELECT setting::int8 * CASE unit WHEN 'min' THEN 60 ELSE 1 END FROM pg_catalog.pg_settings WHERE name = $1)";
    let seconds = async |name: &str| session.one::<Option<i64>>(doing, sql, &[&name]).await;
    let mut findings = Vec::new();
    if let Some(seconds) = seconds("idle_replication_slot_timeout").await? {
        let sql = "SELECT EXISTS (SELECT FROM pg_catalog.pg_replication_slots WHERE slot_name = $1::text)";
        findings.push(slot_timeout(seconds, session.one(doing, sql, &[&slot]).await?, slot));
    }
    let is_summarised = "SELECT (SELECT setting = 'on' FROM pg_catalog.pg_settings WHERE name = 'summarize_wal')";
    if session.one::<Option<bool>>(doing, is_summarised, &[]).await? == Some(true)
        && let Some(seconds) = seconds("wal_summary_keep_time").await?
    {
        findings.push(summaries_kept(seconds));
    }
    Ok(findings)
}

/// `idle_replication_slot_timeout`, and whether the log is received over a slot.
fn slot_timeout(seconds: i64, is_received: bool, slot: &str) -> Finding {
    const NAME: &str = "idle_replication_slot_timeout";
    let touch = i64::try_from(TOUCH.as_secs()).unwrap_or(i64::MAX);
    match seconds {
        ..=0 => Finding::sound(NAME, "0: no slot is given up for being idle"),
        // Once may be late.
        seconds if seconds < 2 * touch => Finding::wrong(
            NAME,
            format!("{seconds} s: a backup uses its slot every {touch} s, and may lose it, and with it the log that it needs"),
            "set idle_replication_slot_timeout to ten minutes or more, or to 0",
        ),
        seconds if is_received => Finding::note(
            NAME,
            format!(
                "{seconds} s: when `farshore wal receive` is away for longer, the server gives {slot} up, and the archive has a gap"
            ),
            "set idle_replication_slot_timeout = 0; hold and max_slot_wal_keep_size bound what the slot keeps",
        ),
        seconds => Finding::sound(NAME, format!("{seconds} s; a backup uses its slot every {touch} s")),
    }
}

/// `wal_summary_keep_time` of a server that keeps summaries.
fn summaries_kept(seconds: i64) -> Finding {
    const NAME: &str = "wal_summary_keep_time";
    match seconds {
        0 => Finding::sound(NAME, "0: summaries of the log are kept for ever"),
        seconds if seconds < LEAST_SUMMARIES_SECONDS => Finding::note(
            NAME,
            format!("{} hours: a backup whose point before is older reads everything", seconds / 3600),
            "set wal_summary_keep_time = '10d', or to more than lies between two backups",
        ),
        seconds => Finding::sound(NAME, format!("{} days", seconds / 86_400)),
    }
}

/// Whether configuration that lies elsewhere will be in the points.
///
/// # Errors
/// A connection that broke.
pub(super) async fn configuration(session: &Session, data_directory: &str) -> Result<Finding, SourceError> {
    const NAME: &str = "configuration";
    let doing = "looking at configuration outside of the data directory";
    let (paths, mut closed) = (outside::paths(session, data_directory).await?, Vec::new());
    for path in &paths {
        match session.client.query_one("SELECT pg_catalog.pg_read_binary_file($1, 0, 1, true)", &[path]).await {
            Ok(_) => {}
            Err(error) if error.as_db_error().is_some() => closed.push(path),
            Err(error) => return Err(session.failed(doing, &error)),
        }
    }
    Ok(match (paths.len(), closed.first()) {
        (0, _) => Finding::sound(NAME, "all of it lies in the data directory"),
        (count, None) => Finding::sound(NAME, format!("{count} files outside of the data directory can be read")),
        (_, Some(first)) => {
            let role: String = session.one(doing, "SELECT current_user::text", &[]).await?;
            Finding::note(
                NAME,
                format!(
                    "{} files outside of the data directory cannot be read, {first} for one: they will not be in the points",
                    closed.len()
                ),
                format!(
                    "as a superuser: GRANT pg_read_server_files TO {}; or add them to a source of kind \"files\"",
                    identifier(&role)
                ),
            )
        }
    })
}

#[cfg(test)]
mod tests {
    use super::{slot_timeout, summaries_kept};
    use crate::progress::CheckOutcome::{Failed, Note, Passed};

    #[test]
    fn a_time_that_is_too_short_is_told() {
        let slot = |seconds, is_received| slot_timeout(seconds, is_received, "farshore_db").outcome;
        assert_eq!(
            [slot(0, true), slot(1, false), slot(59, true), slot(60, false), slot(60, true)],
            [Passed, Failed, Failed, Passed, Note]
        );
        let kept = |seconds| summaries_kept(seconds).outcome;
        assert_eq!([kept(0), kept(60), kept(2 * 86_400 - 1), kept(10 * 86_400)], [Passed, Note, Note, Passed]);
    }
}
