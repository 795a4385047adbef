//! Whether the log of a cluster reaches the archive, by what its server says: how a policy with `wal` is examined.

use super::{follow::lets_stream, replication::Unstreamed};
use crate::{
    progress::Finding,
    sources::{
        SourceError,
        postgres::{PostgresConfig, connect::Session},
    },
};

/// What a policy says of a cluster's log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// The replication slot of `wal receive`.
    pub slot: String,
    /// So many bytes may it hold at the server.
    pub hold_bytes: u64,
    /// No larger file of a log is archived, bytes.
    pub most_file_bytes: u64,
    /// Whether the policy wants it archived at all.
    pub is_wanted: bool,
    /// Whether it is to be streamed; nothing where it is not looked at.
    pub stream: Option<Streamed>,
}

/// How much it matters whether the log is streamed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Streamed {
    /// Where that cannot be, it is read over SQL.
    Preferred,
    /// It must be.
    Required,
}

/// What the server says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Archiving {
    /// `archive_mode`, and what it hands segments to.
    mode: String,
    command: String,
    library: String,
    /// `archive_timeout`, seconds; 0 for never.
    timeout: i64,
    /// What could not be archived last, unless something was since.
    failed: Option<String>,
    /// The slot of `wal receive`, if there is one.
    slot: Option<Received>,
    /// `max_slot_wal_keep_size`, bytes; nothing without a bound.
    most_kept_bytes: Option<u64>,
}

/// A slot as `pg_replication_slots` has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Received {
    is_physical: bool,
    is_lost: bool,
}

/// How the log of this cluster is archived, in findings.
pub(super) async fn archiving(
    config: &PostgresConfig,
    session: &Session,
    options: &LogOptions,
) -> Result<Vec<Finding>, SourceError> {
    let there = look(session, options).await?;
    let mut findings = judge(&there, options);
    let segment = "SELECT pg_catalog.pg_size_bytes(current_setting('wal_segment_size'))";
    findings.extend(segments(session.one("asking for wal_segment_size", segment, &[]).await?, options));
    // Whoever only pushes needs no replication connection.
    match options.stream {
        Some(Streamed::Required) => findings.push(streaming(lets_stream(config, session, &options.slot).await, true)),
        Some(Streamed::Preferred) if there.slot.is_some() => {
            findings.push(streaming(lets_stream(config, session, &options.slot).await, false));
        }
        Some(Streamed::Preferred) | None => {}
    }
    Ok(findings)
}

/// Segments that are too large to be archived.
fn segments(bytes: i64, options: &LogOptions) -> Option<Finding> {
    let is_archived = u64::try_from(bytes).is_ok_and(|bytes| bytes <= options.most_file_bytes);
    (!is_archived).then(|| {
        (if options.is_wanted { Finding::wrong } else { Finding::note })(
            "wal_segment_size",
            format!("{} MiB: files of a log are archived up to {} MiB; backups are made all the same", bytes >> 20, options.most_file_bytes >> 20),
            "make the cluster anew with `initdb --wal-segsize` of at most that (pg_upgrade, pg_dump), or leave `wal` out of the policy",
        )
    })
}

fn streaming(lets: Result<(), Unstreamed>, is_required: bool) -> Finding {
    let subject = "replication connection";
    match lets.map_err(SourceError::from) {
        Ok(()) => Finding::sound(subject, "let through: `farshore wal receive` has the log streamed"),
        Err(error) if is_required => Finding::failed(subject, error),
        Err(error) => Finding::note(
            subject,
            format!("not let through, so that `farshore wal receive` reads the log over SQL: {error}"),
            "mend that and restart the receiver, or say receive_by = \"sql\" in the policy's wal",
        ),
    }
}

/// Of a server that archives: the file that it could not archive, if none was since.
pub(super) const UNARCHIVED: &str = "SELECT last_failed_wal FROM pg_catalog.pg_stat_archiver \
    WHERE last_failed_time > coalesce(last_archived_time, '-infinity') AND current_setting('archive_mode') <> 'off' \
    AND (current_setting('archive_mode') = 'always' OR NOT pg_catalog.pg_is_in_recovery())";

async fn look(session: &Session, options: &LogOptions) -> Result<Archiving, SourceError> {
    let doing = "looking at how the log is archived";
    let failed = |error| session.failed(doing, &error);
    // Before PostgreSQL 15 there is no archive_library; sizes are in MiB in this view, and -1 is no bound.
    let sql = format!(
        "SELECT current_setting('archive_mode'), current_setting('archive_command'), \
         coalesce(current_setting('archive_library', true), ''), \
         (SELECT setting::int8 FROM pg_catalog.pg_settings WHERE name = 'archive_timeout'), \
         (SELECT setting::int8 FROM pg_catalog.pg_settings WHERE name = 'max_slot_wal_keep_size'), \
         ({UNARCHIVED})"
    );
    let row = session.client.query_one(&sql, &[]).await.map_err(failed)?;
    let slot = "SELECT slot_type = 'physical', coalesce(wal_status = 'lost', false) FROM pg_catalog.pg_replication_slots WHERE slot_name = $1::text";
    let slot = session.client.query_opt(slot, &[&options.slot]).await.map_err(failed)?;
    let slot = slot.map(|slot| Ok(Received { is_physical: slot.try_get(0)?, is_lost: slot.try_get(1)? })).transpose();
    let most: i64 = row.try_get(4).map_err(failed)?;
    Ok(Archiving {
        mode: row.try_get(0).map_err(failed)?,
        command: row.try_get(1).map_err(failed)?,
        library: row.try_get(2).map_err(failed)?,
        timeout: row.try_get(3).map_err(failed)?,
        failed: row.try_get(5).map_err(failed)?,
        slot: slot.map_err(failed)?,
        most_kept_bytes: u64::try_from(most).ok().map(|mebibytes| mebibytes << 20),
    })
}

fn judge(there: &Archiving, options: &LogOptions) -> Vec<Finding> {
    let slot = &options.slot;
    let mut findings = Vec::new();
    let is_archived = there.mode != "off" && !(there.command.is_empty() && there.library.is_empty());
    findings.push(match (&there.failed, &there.slot) {
        _ if is_archived && there.command.contains("wal push") && there.failed.is_none() => {
            Finding::sound("log archive", format!("archive_mode = {}, and archive_command runs `wal push`", there.mode))
        }
        (Some(segment), _) if is_archived => Finding::wrong(
            "log archive",
            format!("{segment} could not be archived: the server keeps it, and all that comes after, until its disk is full"),
            "the server's log says why; for a command of farshore `farshore wal status` does, too",
        ),
        (None, None) if is_archived => Finding::note(
            "log archive",
            "what the server archives does not go through `farshore wal push`, and nobody receives it: nothing between two backups reaches the sites",
            "set archive_command = '/usr/bin/farshore wal push POLICY %p'; or leave it to whom it serves, and run `farshore wal receive` beside it",
        ),
        (_, Some(_)) => Finding::sound("log archive", format!("received over the slot {slot}")),
        (_, None) => (if options.is_wanted { Finding::wrong } else { Finding::note })(
            "log archive",
            format!("archive_mode = {}, and there is no slot {slot}: nothing between two backups reaches the sites", there.mode),
            "set archive_mode = on (a restart) and archive_command = '/usr/bin/farshore wal push POLICY %p'; or run `farshore wal receive`",
        ),
    });
    if is_archived && there.slot.is_none() {
        findings.push(match there.timeout {
            0 => Finding::note(
                "archive_timeout",
                "0: a quiet server may lose the log of hours, since only whole segments are archived",
                "set archive_timeout = 60, or run `farshore wal receive`, which loses seconds",
            ),
            seconds => Finding::sound("archive_timeout", format!("{seconds} s")),
        });
    }
    if let Some(received) = &there.slot {
        findings.push(match (received, there.most_kept_bytes) {
            (Received { is_physical: false, .. }, _) => Finding::wrong(
                "log slot",
                format!("{slot} is a logical slot, which `farshore wal receive` cannot use"),
                "give the policy's wal another slot name",
            ),
            (Received { is_lost: true, .. }, _) => Finding::wrong(
                "log slot",
                format!("the server has given up {slot}: the archive has a gap"),
                "start `farshore wal receive` anew, and make a backup at once: only what lies before the gap can be restored until then",
            ),
            (_, Some(most)) if most < options.hold_bytes => Finding::note(
                "log slot",
                format!(
                    "max_slot_wal_keep_size is {} MiB, and hold allows {}: the server gives the slot up first, and the archive has a gap then",
                    most >> 20,
                    options.hold_bytes >> 20
                ),
                "raise max_slot_wal_keep_size above hold, or set hold to less",
            ),
            _ => Finding::sound("log slot", format!("{slot} may hold {} MiB", options.hold_bytes >> 20)),
        });
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::{Archiving, Finding, LogOptions, Received, judge, segments};
    use crate::progress::CheckOutcome::{self, Failed, Note, Passed};

    #[test]
    fn a_log_that_reaches_no_site_is_told_with_what_mends_it() {
        let options = LogOptions {
            slot: "farshore_db".to_owned(),
            hold_bytes: 10 << 30,
            most_file_bytes: 128 << 20,
            is_wanted: true,
            stream: None,
        };
        let off = Archiving { mode: "off".to_owned(), ..Archiving::default() };
        let pushed =
            Archiving { mode: "on".to_owned(), command: "farshore wal push db %p".to_owned(), timeout: 60, ..Archiving::default() };
        let foreign = Archiving { command: "cp %p /archive/%f".to_owned(), ..pushed.clone() };
        let failing = Archiving { failed: Some("000000010000000000000007".to_owned()), ..pushed.clone() };
        let slot = Some(Received { is_physical: true, is_lost: false });
        let received = Archiving { slot: slot.clone(), ..off.clone() };
        type Row<'a> = (&'a str, Archiving, &'a [(CheckOutcome, &'a str)]);
        let table: [Row<'_>; 11] = [
            ("off", off.clone(), &[(Failed, "no slot farshore_db")]),
            ("pushed", pushed.clone(), &[(Passed, "runs `wal push`"), (Passed, "60 s")]),
            ("no command", Archiving { command: String::new(), ..pushed.clone() }, &[(Failed, "archive_mode = on")]),
            ("no timeout", Archiving { timeout: 0, ..pushed.clone() }, &[(Passed, ""), (Note, "quiet server")]),
            ("failing", failing.clone(), &[(Failed, "000000010000000000000007 could not"), (Passed, "60 s")]),
            ("foreign", foreign.clone(), &[(Note, "does not go through"), (Passed, "60 s")]),
            ("foreign and received", Archiving { slot, ..foreign }, &[(Passed, "received over"), (Passed, "may hold 10240 MiB")]),
            ("received", received.clone(), &[(Passed, "received over"), (Passed, "may hold")]),
            (
                "bounded",
                Archiving { most_kept_bytes: Some(1 << 30), ..received.clone() },
                &[(Passed, ""), (Note, "max_slot_wal_keep_size is 1024 MiB")],
            ),
            (
                "lost",
                Archiving { slot: Some(Received { is_physical: true, is_lost: true }), ..received.clone() },
                &[(Passed, ""), (Failed, "given up")],
            ),
            ("logical", Archiving { slot: Some(Received::default()), ..received }, &[(Passed, ""), (Failed, "is a logical slot")]),
        ];
        for (name, there, expected) in table {
            let found: Vec<Finding> = judge(&there, &options);
            assert_eq!(found.len(), expected.len(), "{name}: {found:?}");
            for (finding, (outcome, words)) in found.iter().zip(expected) {
                assert!(finding.outcome == *outcome && finding.found.contains(words), "{name}: {finding:?}");
                assert_eq!(finding.mend.is_none(), *outcome == Passed, "{name}: {finding:?}");
            }
        }
        assert_eq!(segments(128 << 20, &options), None);
        let large = segments(256 << 20, &options).unwrap();
        assert!(large.outcome == Failed && large.found.contains("256 MiB") && large.mend.is_some(), "{large:?}");
        let unwanted = judge(&off, &LogOptions { is_wanted: false, ..options });
        assert_eq!(unwanted.iter().map(|finding| finding.outcome).collect::<Vec<_>>(), [Note]);
    }
}
