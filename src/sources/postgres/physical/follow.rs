//! The log of a server that runs, read as it is written: over one ordinary session, and held by a permanent slot. Beside it the server may
//! stream what is new ([`replication`](super::replication)); the session is asked for all else.
//!
//! Only what is flushed is read: a standby that streams would have got these bytes, too.

use std::time::Duration;

use tokio_postgres::types::ToSql;

use super::{
    archiving::UNARCHIVED,
    label::Lsn,
    log::is_history,
    read::{ROW_BYTES, Reading, Wanted},
    replication::{Replication, Started, Unstreamed},
    server::Server,
    wal::{Layout, SegmentCheck},
};
use crate::sources::{
    SourceError,
    postgres::{PostgresConfig, connect::Session, failure::Side, pooler, quote::literal},
};

/// The server says nothing for so long: it, or the way to it, is gone.
const PATIENCE: Duration = Duration::from_secs(60);
/// `NAMEDATALEN` less one.
const LONGEST_NAME_BYTES: usize = 63;
/// Largest history of timelines. Bytes.
const MOST_HISTORY_BYTES: i64 = 1 << 20;
/// As far as the log is on the server's disk, on a primary and on a standby, and on which timeline. A standby knows the timeline of what it
/// receives before its control file does.
const STAND: &str = "SELECT e::text, (SELECT redo_lsn::text FROM pg_catalog.pg_control_checkpoint()), CASE WHEN r THEN GREATEST( \
         (SELECT received_tli FROM pg_catalog.pg_stat_wal_receiver), (SELECT timeline_id FROM pg_catalog.pg_control_checkpoint())) \
     ELSE ('x' || substr(pg_catalog.pg_walfile_name(e), 1, 8))::bit(32)::int END, r \
     FROM (SELECT r, CASE WHEN r THEN GREATEST(pg_catalog.pg_last_wal_receive_lsn(), pg_catalog.pg_last_wal_replay_lsn()) \
         ELSE pg_catalog.pg_current_wal_flush_lsn() END AS e FROM pg_catalog.pg_is_in_recovery() AS r) AS s";
const SLOT: &str = "SELECT restart_lsn::text, wal_status, active_pid IS NOT NULL, coalesce((SELECT sync_state IN ('sync', 'quorum') \
                        FROM pg_catalog.pg_stat_replication AS r WHERE r.pid = active_pid), false) \
                    FROM pg_catalog.pg_replication_slots WHERE slot_name = $1::text::name AND slot_type = 'physical'";
/// A slot that somebody streams from is free soon after that was ended.
const RELEASE_PATIENCE: Duration = Duration::from_secs(10);

/// How far a server's log goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stand {
    /// As far as it is on the disk.
    pub end: Lsn,
    /// Where the server would begin to replay after a crash: what comes after it keeps for itself.
    pub redo: Lsn,
    /// On which timeline.
    pub timeline: u32,
    /// Whether it is another server's log, as far as it has come.
    pub is_standby: bool,
}

/// What a slot holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// There is no such slot, or one that nobody has ever used, which holds nothing.
    Nothing,
    /// The log from here on.
    From(Lsn),
    /// It is there, and the log that it held is not.
    Lost,
}

/// A slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// What it holds.
    pub held: Held,
    /// Somebody streams from it.
    pub is_streamed: bool,
    /// Commits wait until whoever streams from it has stored them (`synchronous_standby_names`).
    pub is_awaited: bool,
}

/// How a server stands whose log is received, or could be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receiving {
    /// How its log is laid out, and whose it is.
    pub layout: Layout,
    /// How far it goes.
    pub stand: Stand,
    /// What the slot holds.
    pub held: Held,
    /// Sessions of a receiver with this slot, without what is streamed to it beside. It asks every second, so one that is there lives.
    pub receivers: u64,
    /// The file that it could not archive, and that none has been archived since.
    pub unarchived: Option<String>,
}

/// What a session calls itself that receives for this slot. Servers cut a name off that is longer.
fn receives(slot: &str) -> String {
    let mut name = format!("farshore wal receive {slot}");
    name.truncate(LONGEST_NAME_BYTES);
    name
}

/// Asks a server how it stands, and changes nothing.
///
/// # Errors
/// Those of [`Follower::connect`].
pub async fn receiving(config: &PostgresConfig, slot: &str) -> Result<Receiving, SourceError> {
    let follower = Follower::open(config, slot.to_owned()).await?;
    let (stand, held) = (follower.stand().await?, follower.slot().await?.held);
    let sql = format!(
        "SELECT (SELECT count(*) FROM pg_catalog.pg_stat_activity WHERE application_name = $1 AND backend_type = 'client backend'), ({UNARCHIVED})"
    );
    let name = receives(slot);
    let parameters: [&(dyn ToSql + Sync); 1] = [&name];
    let asked = follower.session.client.query_one(&sql, &parameters);
    let row = follower.bounded("looking for a receiver", asked).await?;
    let receivers = u64::try_from(row.get::<_, i64>(0)).unwrap_or(0);
    let unarchived = row.get(1);
    let layout = follower.layout;
    follower.session.close().await;
    Ok(Receiving { layout, stand, held, receivers, unarchived })
}

/// Whether the server that a session leads to lets a replication connection through, for this slot.
///
/// # Errors
/// Why it does not.
pub(super) async fn lets_stream(config: &PostgresConfig, session: &Session, slot: &str) -> Result<(), Unstreamed> {
    Replication::connect(&config.only(&session.place), &receives(slot)).await?.leave().await;
    Ok(())
}

/// A session that follows a server's log.
pub struct Follower {
    session: Session,
    layout: Layout,
    slot: String,
}

impl Follower {
    /// Connects, and looks whether the log can be read. The slot is neither made nor looked at. The server knows the session by the slot's name
    /// for as long as it is there.
    ///
    /// # Errors
    /// [`SourceError::Unfit`] and [`SourceError::Denied`], with the statements that mend it; a pooler in between.
    pub async fn connect(config: &PostgresConfig, slot: String) -> Result<Self, SourceError> {
        let follower = Self::open(config, slot).await?;
        let name = format!("SET application_name = {}", literal(&receives(&follower.slot)));
        follower.session.execute("setting up the session", &name).await?;
        Ok(follower)
    }

    async fn open(config: &PostgresConfig, slot: String) -> Result<Self, SourceError> {
        let session = config.connect(Side::Source).await?;
        session.settle(PATIENCE).await?;
        pooler::refuse(config, &session).await?;
        let layout = Server::look(&session).await?.layout;
        Ok(Self { session, layout, slot })
    }

    /// How the log is laid out, and whose it is.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// `postgres://user@host:port/database`.
    pub fn describe(&self) -> &str {
        &self.session.subject
    }

    /// How far the log goes now.
    ///
    /// # Errors
    /// The server's.
    pub async fn stand(&self) -> Result<Stand, SourceError> {
        let doing = "asking for the end of the log";
        let row = self.bounded(doing, self.session.client.query_one(STAND, &[])).await?;
        let (end, redo, timeline): (Option<String>, String, Option<i32>) = (row.get(0), row.get(1), row.get(2));
        let end = end.as_deref().and_then(Lsn::parse).zip(Lsn::parse(&redo));
        let timeline = timeline.and_then(|timeline| u32::try_from(timeline).ok());
        match (end, timeline) {
            (Some((end, redo)), Some(timeline)) => Ok(Stand { end, redo, timeline, is_standby: row.get(3) }),
            _ => Err(self
                .unfit("the server does not say how far its log goes; on a standby, see that it receives or replays".to_owned())),
        }
    }

    /// How the slot stands.
    ///
    /// # Errors
    /// The server's.
    pub async fn slot(&self) -> Result<Slot, SourceError> {
        let rows = self.bounded("looking at the replication slot", self.session.client.query(SLOT, &[&self.slot])).await?;
        let Some(row) = rows.first() else { return Ok(Slot { held: Held::Nothing, is_streamed: false, is_awaited: false }) };
        let (from, status): (Option<String>, Option<String>) = (row.get(0), row.get(1));
        let held = match (from.as_deref().and_then(Lsn::parse), status.as_deref()) {
            (_, Some("lost")) => Held::Lost,
            (Some(from), _) => Held::From(from),
            (None, _) => Held::Nothing,
        };
        Ok(Slot { held, is_streamed: row.get(2), is_awaited: row.get(3) })
    }

    /// Whether the server that this session leads to lets a replication connection through.
    ///
    /// # Errors
    /// Why it does not.
    pub async fn lets_stream(&self, config: &PostgresConfig) -> Result<(), Unstreamed> {
        lets_stream(config, &self.session, &self.slot).await
    }

    /// Has the server stream the log from a place on, on a timeline, held by the slot: the very server that this session leads to. Nothing if the
    /// timeline ends there.
    ///
    /// # Errors
    /// [`Unstreamed`]; [`SourceError::Unfit`] for one of another server.
    pub async fn stream(&self, config: &PostgresConfig, from: Lsn, timeline: u32) -> Result<Option<Replication>, Unstreamed> {
        let elsewhere =
            |detail: &str| Unstreamed::Broken(self.unfit(format!("the replication connection leads to another server: {detail}")));
        let mut replication = Replication::connect(&config.only(&self.session.place), &receives(&self.slot)).await?;
        let system = replication.identify().await.map_err(Unstreamed::Broken)?;
        if system != self.layout.system {
            return Err(elsewhere(&format!("it is the cluster {system} there, and {} here", self.layout.system)));
        }
        if replication.start(&self.slot, from, timeline).await.map_err(Unstreamed::Broken)? == Started::Ended {
            replication.leave().await;
            return Ok(None);
        }
        // A name may stand for several machines, and a standby has the system identifier of its primary.
        if !self.slot().await.map_err(Unstreamed::Broken)?.is_streamed {
            return Err(elsewhere("nobody streams from the slot here; see where the policy's url leads"));
        }
        Ok(Some(replication))
    }

    /// Makes the slot, which holds the log from the last checkpoint on.
    ///
    /// # Errors
    /// The server's; one without a free slot says so.
    pub async fn hold(&self) -> Result<(), SourceError> {
        let sql = "SELECT pg_catalog.pg_create_physical_replication_slot($1::text::name, true, false)::text";
        let doing = "making a replication slot (max_replication_slots must leave room)";
        self.bounded(doing, self.session.client.query_one(sql, &[&self.slot])).await.map(drop)
    }

    /// Lets go of the log before this place. To where it is already, that only counts as a use. Of a slot that somebody streams from that is
    /// for them to say, and nothing happens.
    ///
    /// # Errors
    /// The server's.
    pub async fn advance(&self, to: Lsn) -> Result<(), SourceError> {
        let sql = "SELECT (pg_catalog.pg_replication_slot_advance(slot_name, GREATEST(restart_lsn, $2::text::pg_lsn))).slot_name::text \
                   FROM pg_catalog.pg_replication_slots WHERE slot_name = $1::text::name AND slot_type = 'physical' AND wal_status <> 'lost' \
                   AND active_pid IS NULL";
        let to = to.to_string();
        self.bounded("moving the replication slot", self.session.client.query(sql, &[&self.slot, &to])).await.map(drop)
    }

    /// Gives the slot up, and ends what streams from it. A logical slot of this name is somebody else's, and stays.
    ///
    /// # Errors
    /// The server's.
    pub async fn drop_slot(&self) -> Result<(), SourceError> {
        let ending = async {
            let sql = "SELECT pg_catalog.pg_terminate_backend(active_pid) FROM pg_catalog.pg_replication_slots \
                       WHERE slot_name = $1::text::name AND slot_type = 'physical' AND active_pid IS NOT NULL";
            while !self
                .bounded("ending what streams from the slot", self.session.client.query(sql, &[&self.slot]))
                .await?
                .is_empty()
            {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Ok::<_, SourceError>(())
        };
        // Where it does not end, the server refuses the next statement, and says who it is.
        tokio::time::timeout(RELEASE_PATIENCE, ending).await.unwrap_or(Ok(()))?;
        let sql = "SELECT pg_catalog.pg_drop_replication_slot(slot_name) FROM pg_catalog.pg_replication_slots \
                   WHERE slot_name = $1::text::name AND slot_type = 'physical'";
        self.bounded("dropping the replication slot", self.session.client.query(sql, &[&self.slot])).await.map(drop)
    }

    /// Names of files in `pg_wal`.
    ///
    /// # Errors
    /// The server's.
    pub async fn files(&self) -> Result<Vec<String>, SourceError> {
        let sql = "SELECT pg_catalog.pg_ls_dir('pg_wal', true, false)";
        let rows = self.bounded("listing the log", self.session.client.query(sql, &[])).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// The histories of timelines among these files; one that is gone is left out.
    ///
    /// # Errors
    /// The server's.
    pub async fn histories(&self, files: &[String]) -> Result<Vec<(String, Vec<u8>)>, SourceError> {
        let mut histories = Vec::new();
        for name in files.iter().filter(|name| is_history(name)) {
            if let Some(bytes) = self.piece(name, 0, MOST_HISTORY_BYTES).await?.filter(|bytes| !bytes.is_empty()) {
                histories.push((name.clone(), bytes));
            }
        }
        histories.sort();
        Ok(histories)
    }

    /// Reads more of a segment onto the end of what of it was read before, up to `to`, looking at each page. Returns whether the file
    /// is there.
    ///
    /// # Errors
    /// The server's; [`SourceError::Unfit`] for a file that does not hold what its name says.
    pub async fn read(&self, name: &str, known: &mut Vec<u8>, check: &mut SegmentCheck, to: u64) -> Result<bool, SourceError> {
        let wrong = |detail: String| SourceError::Unfit {
            subject: format!("pg_wal/{name}"),
            detail: format!("{detail}; it is not archived. See the server's log, and what removes files from pg_wal"),
        };
        let offset = known.len() as u64;
        if to.saturating_sub(offset) > ROW_BYTES {
            let wanted = [Wanted { path: format!("pg_wal/{name}"), offset, bytes: to - offset }];
            let (mut reading, mut is_there) = (Reading::begin(&self.session, None, &wanted).await?, true);
            while let Some(row) = self.in_time(reading.next()).await? {
                is_there &= row.is_there;
                while let Some(bytes) = self.in_time(reading.bytes()).await? {
                    // Rows have their full length; what comes after the end is not on the server's disk yet.
                    let more = usize::try_from(to).unwrap_or(usize::MAX).saturating_sub(known.len()).min(bytes.len());
                    check.feed(&bytes[..more]).map_err(wrong)?;
                    known.extend_from_slice(&bytes[..more]);
                }
            }
            if !is_there {
                return Ok(false);
            }
        }
        while (known.len() as u64) < to {
            let from = known.len() as u64;
            let Some(bytes) = self.piece(name, from.cast_signed(), (to - from).cast_signed()).await? else { return Ok(false) };
            if bytes.is_empty() {
                return Err(wrong(format!("ends after {from} bytes")));
            }
            check.feed(&bytes).map_err(wrong)?;
            known.extend_from_slice(&bytes);
        }
        Ok(true)
    }

    async fn piece(&self, name: &str, from: i64, bytes: i64) -> Result<Option<Vec<u8>>, SourceError> {
        let (doing, path) = (format!("reading pg_wal/{name}"), format!("pg_wal/{name}"));
        let sql = "SELECT pg_catalog.pg_read_binary_file($1, $2, $3, true)";
        let row = self.bounded(&doing, self.session.client.query_one(sql, &[&path, &from, &bytes])).await?;
        Ok(row.get(0))
    }

    async fn in_time<T>(&self, work: impl Future<Output = Result<T, SourceError>>) -> Result<T, SourceError> {
        tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| {
            Err(SourceError::Unreachable {
                subject: self.session.subject.clone(),
                detail: format!("no answer within {} s: see whether the server and the way to it are well", PATIENCE.as_secs()),
            })
        })
    }

    async fn bounded<T>(
        &self,
        doing: &str,
        work: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, SourceError> {
        self.in_time(async { work.await.map_err(|error| self.session.failed(doing, &error)) }).await
    }

    fn unfit(&self, detail: String) -> SourceError {
        SourceError::Unfit { subject: self.session.subject.clone(), detail }
    }
}
