//! What of a cluster has not changed since an earlier snapshot, and whether that can be known at all.
//!
//! Rules: the earlier snapshot is of the same cluster, major version, page size and state of checksums, from a primary, without damaged
//! pages; the server keeps summaries of its log from where that backup *began* to where this one began, on its own line of
//! timelines, without a hole; each is whole. Where the log ends with the earlier backup's end is no matter: a page that was changed
//! while it ran may have been read in either state.
//!
//! That both went through the same log is shown by a [`Mark`]. A data directory that was put back from a snapshot of its storage goes
//! on from there on the same timeline, through the same places of the log with other content, and with summaries without a hole: what the earlier
//! backup saw after that has never been. It may also have been put back to what it was *while* the earlier backup ran, which that mark does not
//! show: an [`End`] does.
//!
//! Whatever is not as it should be, everything is read, and the reason is told.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    changes::Changes,
    facts::{PhysicalFacts, is_physical},
    history::{SummaryName, covering, parse_history},
    label::Lsn,
    lineage::Lineage,
    read::{Reading, Wanted},
    server::Server,
    summary::SummaryReader,
    wal::{Layout, Segment},
};
use crate::sources::{SourceError, postgres::connect::Session};

/// Since then the server keeps summaries.
const SUMMARIES_FROM: u32 = 170_000;
/// The server writes a summary soon after the checkpoint that ends it. So often, and so many times, we look for it: a minute.
const PAUSE: Duration = Duration::from_millis(100);
const LOOKS: u32 = 600;
/// The checksum at the end of a summary's file, bytes.
const SUM_BYTES: i64 = 4;
/// So much of the log before the end of a backup is compared: more than the record that ends it, with its checksum and the place of the one before.
const END_BYTES: u64 = 64;
/// No history of a timeline is longer, bytes.
const MOST_HISTORY_BYTES: i64 = 1 << 20;

/// The summary that ends where a backup began. As long as a server still has the very same, it went through the same log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The name of its file.
    pub name: String,
    /// Its checksum, in hexadecimal digits.
    pub checksum: String,
}

/// How a server was when a backup ended. One that has the very same log there went on from it; so did one that has not recovered from a crash
/// since: what its storage had while a server ran, it comes up from by such a recovery, which throws its statistics away (`pgstat_discard_stats`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Since when it has kept statistics, in seconds since 1970 as it says them.
    pub counts_since: String,
    /// The last bytes of the log before the end of the backup, in hexadecimal digits; nothing where the file is gone.
    pub log: Option<String>,
}

impl End {
    /// Of a log that ends at `at` in this segment.
    ///
    /// # Errors
    /// The server's.
    pub(super) async fn look(session: &Session, layout: Layout, segment: Segment, at: Lsn) -> Result<Self, SourceError> {
        let sql = "SELECT coalesce(extract(epoch FROM stats_reset)::text, ''), \
                   encode(pg_catalog.pg_read_binary_file($1, $2, $3, true), 'hex') FROM pg_catalog.pg_stat_archiver";
        let doing = "reading the end of the log";
        let within = at.0 - segment.number * layout.segment_bytes;
        let bytes = within.min(END_BYTES);
        let path = format!("pg_wal/{}", layout.name(segment));
        let whole = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        let row = session.client.query_one(sql, &[&path, &whole(within - bytes), &whole(bytes)]).await;
        let row = row.map_err(|error| session.failed(doing, &error))?;
        let failed = |error| session.failed(doing, &error);
        Ok(Self { counts_since: row.try_get(0).map_err(failed)?, log: row.try_get(1).map_err(failed)? })
    }

    /// Whether a server that is `now` so went on from here. One that was promoted since has been told where by the log itself.
    ///
    /// # Errors
    /// Why that cannot be told, in words.
    fn leads_to(&self, now: &Self, was_promoted: bool) -> Result<(), &'static str> {
        match (&self.log, &now.log) {
            (Some(then), Some(now)) if then == now => Ok(()),
            (Some(_), Some(_)) => Err("is another than it was: it may have been put back to an earlier state"),
            _ if was_promoted || self.counts_since == now.counts_since => Ok(()),
            _ => Err(
                "is gone, and the server has recovered from a crash since (or its statistics were reset): it may have been put back to an earlier state",
            ),
        }
    }
}

/// What is known before the first file is read.
#[derive(Debug)]
pub struct Basis {
    /// What changed since the earlier snapshot, or why everything is read.
    pub since: Result<Since, String>,
    /// For the next backup.
    pub mark: Option<Mark>,
    /// The timeline that this holds for.
    pub timeline: u32,
}

/// What changed since an earlier snapshot.
#[derive(Debug)]
pub struct Since {
    /// Where that one began.
    pub start: String,
    /// What changed.
    pub changes: Changes,
}

/// Whether entries of an earlier snapshot with these facts may be asked for at all, as far as that can be told without asking the server.
pub fn may_build_on(server: &Server, earlier: Option<&serde_json::Value>) -> bool {
    let has_a_mark = |facts| comparable(server, facts).is_ok_and(|earlier| earlier.mark.is_some());
    server.version >= SUMMARIES_FROM && earlier.is_some_and(has_a_mark)
}

/// A summary as the server lists it.
type Listed = (SummaryName, u64);

impl Basis {
    /// Looks for what a backup that began at `start` can build on. `earlier` are the facts of the snapshot whose entries are at hand.
    ///
    /// # Errors
    /// A connection that broke. What the server refuses or lacks is a reason to read everything.
    pub async fn look(
        session: &Session,
        server: &Server,
        start: Lsn,
        earlier: Option<&serde_json::Value>,
    ) -> Result<Self, SourceError> {
        let doing = "asking for the timeline";
        let timeline: i32 = session.one(doing, "SELECT timeline_id FROM pg_catalog.pg_control_checkpoint()", &[]).await?;
        let mut basis = Self { since: Err(String::new()), mark: None, timeline: timeline.cast_unsigned() };
        basis.since = basis.build(session, server, start, earlier).await;
        Ok(basis)
    }

    /// The same, and the mark on the way.
    async fn build(
        &mut self,
        session: &Session,
        server: &Server,
        start: Lsn,
        earlier: Option<&serde_json::Value>,
    ) -> Result<Since, String> {
        let failed = |error: SourceError| format!("the summaries of the log cannot be read: {error}");
        if server.version < SUMMARIES_FROM {
            return Err("changed blocks are known from PostgreSQL 17 on".to_owned());
        }
        let doing = "asking for summarize_wal";
        let sql = "SELECT current_setting('summarize_wal') = 'on', pg_catalog.pg_is_in_recovery()";
        let row = session.client.query_one(sql, &[]).await.map_err(|error| failed(session.failed(doing, &error)))?;
        if row.get(1) {
            return Err("the server is a standby".to_owned());
        }
        if !row.get::<_, bool>(0) {
            return Err("the server keeps no summaries of its log (set summarize_wal = on)".to_owned());
        }
        let listed = self.wait(session, start).await?;
        if let Some((name, bytes)) = listed.iter().find(|(name, _)| (name.timeline, name.end) == (self.timeline, start)) {
            self.mark = mark(session, &name.to_string(), *bytes).await.map_err(failed)?;
        }
        let earlier = earlier.ok_or("there is no earlier point to build on, or not the same one at all sites")?;
        let earlier = comparable(server, earlier)?;
        let began = Lsn::parse(&earlier.start_lsn).ok_or("the earlier point does not say where it began")?;
        let theirs = earlier.mark.ok_or("the earlier point was made without summaries of the log")?;
        let ours = listed.iter().find(|(name, _)| name.to_string() == theirs.name);
        let ours = match ours {
            Some((_, bytes)) => mark(session, &theirs.name, *bytes).await.map_err(failed)?,
            None => None,
        };
        if ours.as_ref() != Some(&theirs) {
            return Err(format!(
                "the server's summary of the log up to {began} is gone or another than it was: it may have been put back to an earlier state"
            ));
        }
        let history = if self.timeline > 1 { history(session, self.timeline).await.map_err(failed)? } else { String::new() };
        let names: Vec<SummaryName> = listed.iter().map(|(name, _)| *name).collect();
        let ended = Lsn::parse(&earlier.stop_lsn).ok_or("the earlier point does not say where it ended")?;
        let wanted = covering(&names, &parse_history(&history)?, (earlier.timeline, began), ended, (self.timeline, start))?;
        let then = earlier.end.ok_or("the earlier point does not say how the server was when it ended")?;
        let lineage =
            Lineage::parse(self.timeline, Some(history.as_bytes())).ok_or("the history of the timeline is not understood")?;
        let segment = lineage.segment(server.layout, server.layout.segment_before(ended));
        let now = End::look(session, server.layout, segment, ended).await.map_err(failed)?;
        then.leads_to(&now, earlier.timeline != self.timeline)
            .map_err(|why| format!("the server's log at {ended}, where the earlier point ended, {why}"))?;
        let wanted: Vec<Listed> = listed.into_iter().filter(|(name, _)| wanted.contains(name)).collect();
        let changes = read(session, server, &wanted).await?;
        Ok(Since { start: earlier.start_lsn, changes })
    }

    /// The summaries, as soon as they reach as far as the backup needs them.
    async fn wait(&self, session: &Session, start: Lsn) -> Result<Vec<Listed>, String> {
        let sql = "SELECT d.name, s.size FROM pg_catalog.pg_ls_dir('pg_wal/summaries', true, false) AS d(name), \
                   LATERAL pg_catalog.pg_stat_file('pg_wal/summaries/' || d.name, true) AS s WHERE s.size IS NOT NULL";
        let doing = "listing the summaries of the log";
        for _ in 0..LOOKS {
            let rows = session.client.query(sql, &[]).await.map_err(|error| session.failed(doing, &error).to_string())?;
            let listed = |row: &tokio_postgres::Row| {
                Some((SummaryName::parse(row.get::<_, &str>(0))?, u64::try_from(row.get::<_, i64>(1)).unwrap_or(0)))
            };
            let all: Vec<Listed> = rows.iter().filter_map(listed).collect();
            if all.iter().any(|(name, _)| name.timeline == self.timeline && name.end >= start) {
                return Ok(all);
            }
            tokio::time::sleep(PAUSE).await;
        }
        let seconds = (PAUSE * LOOKS).as_secs();
        Err(format!(
            "the server's summaries of its log did not reach {start} within {seconds} s; see its log for the WAL summarizer"
        ))
    }
}

/// The facts of the earlier snapshot, if it is of a cluster like this one.
fn comparable(server: &Server, earlier: &serde_json::Value) -> Result<PhysicalFacts, String> {
    let earlier = Some(earlier).filter(|facts| is_physical(facts)).and_then(|facts| PhysicalFacts::read(facts).ok());
    let earlier = earlier.ok_or("the earlier point is none of a whole cluster")?;
    let rules = [
        (earlier.system_identifier == server.layout.system.to_string(), "is another cluster's"),
        (earlier.major() == server.version / 10_000, "is of another major version"),
        (earlier.page_bytes == server.page_bytes, "has pages of another size"),
        (earlier.checksums == server.checksums, "was made when checksums were switched otherwise"),
        (!earlier.from_standby, "was made from a standby"),
        (earlier.pages_damaged == 0, "has damaged pages"),
    ];
    match rules.iter().find(|(holds, _)| !holds) {
        Some((_, why)) => Err(format!("the earlier point {why}")),
        None => Ok(earlier),
    }
}

/// A summary's name and checksum; nothing if it is gone.
async fn mark(session: &Session, name: &str, bytes: u64) -> Result<Option<Mark>, SourceError> {
    let sql = "SELECT pg_catalog.pg_read_binary_file($1, $2, $3, true)";
    let at = i64::try_from(bytes).unwrap_or(i64::MAX).saturating_sub(SUM_BYTES);
    let doing = "reading a summary's checksum";
    let sum: Option<Vec<u8>> = session.one(doing, sql, &[&path(name), &at.max(0), &SUM_BYTES]).await?;
    Ok(sum.map(|sum| Mark { name: name.to_owned(), checksum: hex::encode(sum) }))
}

fn path(name: &str) -> String {
    format!("pg_wal/summaries/{name}")
}

/// The history of a timeline.
async fn history(session: &Session, timeline: u32) -> Result<String, SourceError> {
    let sql = "SELECT pg_catalog.pg_read_binary_file($1, 0, $2, false)";
    let name = format!("pg_wal/{timeline:08X}.history");
    let text: Vec<u8> = session.one("reading the timeline's history", sql, &[&name, &MOST_HISTORY_BYTES]).await?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Reads summaries, and what changed by all of them.
async fn read(session: &Session, server: &Server, summaries: &[Listed]) -> Result<Changes, String> {
    let mut changes = Changes::new(server.page_bytes);
    let wanted = |(name, bytes): &Listed| Wanted { path: path(&name.to_string()), offset: 0, bytes: *bytes };
    let wanted: Vec<Wanted> = summaries.iter().map(wanted).collect();
    if wanted.is_empty() {
        return Ok(changes);
    }
    let failed = |error: SourceError| format!("the summaries of the log cannot be read: {error}");
    let mut readers: Vec<SummaryReader> = wanted.iter().map(|_| SummaryReader::default()).collect();
    let mut reading = Reading::begin(session, server.direct.as_ref(), &wanted).await.map_err(failed)?;
    let mut sound = Ok(());
    // To the end in any case: the session is still needed.
    while let Some(row) = reading.next().await.map_err(failed)? {
        while let Some(bytes) = reading.bytes().await.map_err(failed)? {
            if sound.is_ok() {
                let told = readers[row.wanted].feed(&bytes, &mut |locator, fork, change| changes.note(locator, fork, change));
                sound = told.map_err(|why| format!("{}: {why}", wanted[row.wanted].path));
            }
        }
    }
    sound?;
    for (reader, wanted) in readers.into_iter().zip(&wanted) {
        reader.finish().map_err(|why| format!("{}: {why}", wanted.path))?;
    }
    Ok(changes)
}

#[cfg(test)]
mod tests {
    use super::End;

    #[test]
    fn a_server_went_on_if_its_log_is_the_same_or_no_crash_came_between() {
        let end =
            |counts_since: &str, log: Option<&str>| End { counts_since: counts_since.to_owned(), log: log.map(str::to_owned) };
        let then = end("1", Some("aa"));
        let table = [
            (end("1", Some("aa")), false, None),
            (end("2", Some("aa")), false, None),
            (end("1", None), false, None),
            (end("2", None), false, Some("recovered from a crash")),
            (end("2", None), true, None),
            // Whatever else is so: a machine may be put back with all that runs on it.
            (end("1", Some("bb")), false, Some("another than it was")),
            (end("1", Some("bb")), true, Some("another than it was")),
        ];
        for (now, was_promoted, expected) in table {
            let said = then.leads_to(&now, was_promoted).err();
            assert!(
                said.is_some() == expected.is_some() && said.unwrap_or_default().contains(expected.unwrap_or_default()),
                "{now:?}"
            );
        }
        assert!(end("1", None).leads_to(&end("2", Some("aa")), false).is_err());
    }
}
