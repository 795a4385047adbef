//! The server that is captured: what it is, whether the role may do what is needed, and the backup that it is told of.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};

use super::{
    changes::SEGMENT_BYTES,
    control::Control,
    direct::Direct,
    label::{Label, Lsn, Tablespace},
    wal::Layout,
};
use crate::{
    clock::{Moment, SharedClock},
    sources::{
        ConsistencyTime, SourceError,
        postgres::{
            PostgresConfig,
            connect::Session,
            failure::Side,
            quote::{identifier, literal},
        },
    },
};

/// The oldest server that is captured.
const OLDEST: u32 = 140_000;
/// `pg_backup_start` was `pg_start_backup` before.
const RENAMED_IN: u32 = 150_000;
/// How often the slot is touched: a server may drop one that is idle for long (`idle_replication_slot_timeout`, from 18 on).
pub const TOUCH: Duration = Duration::from_secs(30);
/// Functions that the role must be allowed to call.
const FUNCTIONS: [&str; 3] =
    ["pg_ls_dir(text, boolean, boolean)", "pg_stat_file(text, boolean)", "pg_read_binary_file(text, bigint, bigint, boolean)"];

/// What a server is.
#[derive(Debug, Clone)]
pub struct Server {
    /// As `server_version_num`.
    pub version: u32,
    /// Its log.
    pub layout: Layout,
    /// Bytes of a page.
    pub page_bytes: u32,
    /// Whether pages carry checksums.
    pub checksums: bool,
    /// The name of its own directory within a tablespace.
    pub version_directory: String,
    /// Where its data are.
    pub data_directory: String,
    /// Permissions of the data directory: 0o700 or 0o750.
    pub mode: u32,
    /// Tablespaces that lie elsewhere, with their names.
    pub tablespaces: Vec<(String, Tablespace)>,
    /// Its data directory, if its files are read there and not over SQL.
    pub direct: Option<Arc<Direct>>,
}

impl Server {
    /// Asks a server what it is, and refuses one that cannot be captured safely.
    ///
    /// # Errors
    /// [`SourceError::Unfit`] and [`SourceError::Denied`], with the statements that mend it.
    pub async fn look(session: &Session) -> Result<Self, SourceError> {
        let version = session.version().await?;
        let unfit = |detail: String| SourceError::Unfit { subject: session.subject.clone(), detail };
        if version < OLDEST {
            return Err(unfit(format!(
                "the server is version {}; 14 or newer is needed for method \"physical\"",
                version / 10_000
            )));
        }
        check_rights(session, version).await?;
        let level: String = session.one("asking for wal_level", "SELECT current_setting('wal_level')", &[]).await?;
        if level == "minimal" {
            return Err(unfit("wal_level is minimal: set it to replica, and restart the server".to_owned()));
        }
        let sql = "SELECT pg_catalog.pg_size_bytes(current_setting('segment_size'))";
        let segment: i64 = session.one("asking for segment_size", sql, &[]).await?;
        if u32::try_from(segment) != Ok(SEGMENT_BYTES) {
            return Err(unfit(format!(
                "the server was built with files of relations of {} MiB (--with-segsize), and only those of 1024 MiB are understood: use method = \"logical\"",
                segment >> 20
            )));
        }
        Self::ask(session, version).await
    }

    /// What it is, whether it can be captured or not. The role has its rights.
    ///
    /// # Errors
    /// The server's; [`SourceError::Unfit`] for what makes no sense.
    pub async fn ask(session: &Session, version: u32) -> Result<Self, SourceError> {
        let unfit = |detail: String| SourceError::Unfit { subject: session.subject.clone(), detail };
        let doing = "asking the server what it is";
        let setting = async |name: &str| session.one::<String>(doing, "SELECT current_setting($1)", &[&name]).await;
        let sql = "SELECT system_identifier::text, catalog_version_no::text FROM pg_catalog.pg_control_system()";
        let row = session.client.query_one(sql, &[]).await.map_err(|error| session.failed(doing, &error))?;
        let (system, catalogue): (String, String) = (row.get(0), row.get(1));
        let segment: i64 = session.one(doing, "SELECT pg_catalog.pg_size_bytes(current_setting('wal_segment_size'))", &[]).await?;
        let number =
            |text: String, what: &str| text.parse().map_err(|_| unfit(format!("{what} is {text:?}, which makes no sense")));
        Ok(Self {
            version,
            layout: Layout {
                segment_bytes: u64::try_from(segment).unwrap_or_default(),
                system: number(system, "the system identifier")?,
            },
            page_bytes: number(setting("block_size").await?, "block_size")? as u32,
            checksums: setting("data_checksums").await? == "on",
            version_directory: format!("PG_{}_{catalogue}", version / 10_000),
            data_directory: setting("data_directory").await?,
            mode: u32::from_str_radix(&setting("data_directory_mode").await?, 8).unwrap_or(0o700),
            tablespaces: tablespaces(session).await?,
            direct: None,
        })
    }
}

/// The tablespaces that lie elsewhere: name, OID and directory. One that lies in the data directory itself
/// (`allow_in_place_tablespaces`) is a part of it.
///
/// # Errors
/// The server's.
pub async fn tablespaces(session: &Session) -> Result<Vec<(String, Tablespace)>, SourceError> {
    let sql = "SELECT spcname::text, oid, location FROM pg_catalog.pg_tablespace, pg_catalog.pg_tablespace_location(oid) AS location \
               WHERE starts_with(location, '/') ORDER BY oid";
    let rows = session.client.query(sql, &[]).await.map_err(|error| session.failed("listing tablespaces", &error))?;
    Ok(rows.iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect())
}

/// Refuses a role that lacks a right, with the statements that give it.
///
/// # Errors
/// [`SourceError::Denied`]; the server's.
pub async fn check_rights(session: &Session, version: u32) -> Result<(), SourceError> {
    let doing = "looking at the role's rights";
    let role: String = session.one(doing, "SELECT current_user::text", &[]).await?;
    let (start, stop) = match version < RENAMED_IN {
        true => ("pg_start_backup(text, boolean, boolean)", "pg_stop_backup(boolean, boolean)"),
        false => ("pg_backup_start(text, boolean)", "pg_backup_stop(boolean)"),
    };
    let mut missing = Vec::new();
    for function in FUNCTIONS.into_iter().chain([start, stop]) {
        let name = format!("pg_catalog.{function}");
        let sql = "SELECT pg_catalog.has_function_privilege($1::regprocedure, 'EXECUTE')";
        if !session.one::<bool>(doing, &sql.replace("$1", &literal(&name)), &[]).await? {
            missing.push(format!("GRANT EXECUTE ON FUNCTION {name} TO {}", identifier(&role)));
        }
    }
    let sql = "SELECT pg_catalog.pg_has_role('pg_read_all_settings', 'USAGE')";
    if !session.one::<bool>(doing, sql, &[]).await? {
        missing.push(format!("GRANT pg_monitor TO {}", identifier(&role)));
    }
    let sql = "SELECT rolreplication OR rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user";
    if !session.one::<bool>(doing, sql, &[]).await? {
        missing.push(format!("ALTER ROLE {} REPLICATION", identifier(&role)));
    }
    match missing.is_empty() {
        true => Ok(()),
        false => Err(SourceError::Denied {
            subject: session.subject.clone(),
            detail: format!(
                "role {role:?} lacks rights that a physical backup needs; as a superuser, in database {:?}, run: {};",
                session.one::<String>(doing, "SELECT current_database()::text", &[]).await?,
                missing.join("; ")
            ),
        }),
    }
}

/// A temporary replication slot, which keeps the log from being removed. Its session does nothing else: an error there drops it.
pub struct Slot {
    session: Session,
    name: String,
}

impl Slot {
    /// Makes one that reserves the log from here on.
    ///
    /// # Errors
    /// The server's; one without a free slot says so.
    pub async fn reserve(config: &PostgresConfig, name: String) -> Result<Self, SourceError> {
        let session = config.connect(Side::Source).await?;
        session.settle(Duration::from_secs(60)).await?;
        let sql = "SELECT pg_catalog.pg_create_physical_replication_slot($1::text::name, true, true)::text";
        session.one::<String>("making a temporary replication slot (max_replication_slots must leave room)", sql, &[&name]).await?;
        Ok(Self { session, name })
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Keeps it alive; comes back only when it is lost.
    pub async fn keep(&self) -> SourceError {
        loop {
            tokio::time::sleep(TOUCH).await;
            if let Err(error) = self.touch().await {
                return error;
            }
        }
    }

    /// Sees to it that it still holds the log.
    ///
    /// # Errors
    /// [`SourceError::Unfit`] when it is lost.
    pub async fn touch(&self) -> Result<(), SourceError> {
        // To where it is: that changes nothing and counts as a use.
        let sql = "SELECT (pg_catalog.pg_replication_slot_advance(slot_name, restart_lsn)).slot_name::text \
                   FROM pg_catalog.pg_replication_slots WHERE slot_name = $1::text::name AND wal_status <> 'lost'";
        let doing = "looking after the replication slot";
        let rows = self.session.client.query(sql, &[&self.name]).await;
        match rows.map_err(|error| self.session.failed(doing, &error))?.as_slice() {
            [_] => Ok(()),
            _ => Err(SourceError::Unfit {
                subject: self.session.subject.clone(),
                detail: "the temporary replication slot was lost while the backup ran, and with it the log that the backup needs: \
                         raise max_slot_wal_keep_size, and see who drops slots"
                    .to_owned(),
            }),
        }
    }

    /// Gives it back.
    ///
    /// # Errors
    /// The server's.
    pub async fn release(self) -> Result<(), SourceError> {
        let sql = format!("SELECT pg_catalog.pg_drop_replication_slot({})", literal(&self.name));
        self.session.execute("dropping the replication slot", &sql).await?;
        self.session.close().await;
        Ok(())
    }
}

/// A backup that the server was told of. Dropped, its connection ends and the server forgets it.
pub struct Begun {
    session: Session,
    version: u32,
}

/// What the server says at the end of a backup.
#[derive(Debug, Clone)]
pub struct Stopped {
    /// As far as the log has to be replayed.
    pub end: Lsn,
    /// `backup_label`, byte for byte.
    pub label_text: String,
    /// The same, read.
    pub label: Label,
    /// `tablespace_map`, byte for byte; empty without tablespaces.
    pub map: String,
    /// The server's time before it was asked to stop: what was committed before is in the backup. What was committed until it had stopped
    /// is, too.
    pub at: ConsistencyTime,
}

impl Begun {
    /// Tells the server that a backup begins; it makes a checkpoint at once. Returns where replay will have to begin.
    ///
    /// # Errors
    /// The server's.
    pub async fn begin(session: Session, version: u32) -> Result<(Self, Lsn), SourceError> {
        let sql = match version < RENAMED_IN {
            true => "SELECT pg_catalog.pg_start_backup('farshore', true, false)::text",
            false => "SELECT pg_catalog.pg_backup_start('farshore', true)::text",
        };
        let start: String = session.one("beginning the backup", sql, &[]).await?;
        let start = parse(&session, &start)?;
        Ok((Self { session, version }, start))
    }

    /// Tells the server that everything is copied.
    ///
    /// # Errors
    /// The server's: that a standby was promoted meanwhile, for one.
    pub async fn stop(self, clock: &SharedClock) -> Result<Stopped, SourceError> {
        let doing = "ending the backup";
        let from = Moment::now(clock);
        let at: DateTime<Utc> = self.session.now(doing).await?;
        let sql = match self.version < RENAMED_IN {
            true => "SELECT lsn::text, labelfile, spcmapfile FROM pg_catalog.pg_stop_backup(false, false)",
            false => "SELECT lsn::text, labelfile, spcmapfile FROM pg_catalog.pg_backup_stop(false)",
        };
        let row = self.session.client.query_one(sql, &[]).await.map_err(|error| self.session.failed(doing, &error))?;
        let at = ConsistencyTime { at, from, until: Moment::now(clock) };
        let (end, label_text, map): (String, String, Option<String>) = (row.get(0), row.get(1), row.get(2));
        let end = parse(&self.session, &end)?;
        let label = Label::parse(&label_text).ok_or_else(|| SourceError::Unfit {
            subject: self.session.subject.clone(),
            detail: format!("the backup label was not understood: {label_text:?}; is the server newer than this program?"),
        })?;
        self.session.close().await;
        Ok(Stopped { end, label_text, label, map: map.unwrap_or_default(), at })
    }
}

fn parse(session: &Session, text: &str) -> Result<Lsn, SourceError> {
    Lsn::parse(text).ok_or_else(|| SourceError::Unfit {
        subject: session.subject.clone(),
        detail: format!("{text:?} is no place in the log; is the server newer than this program?"),
    })
}

/// Whose a `pg_control` is, and whether that is the server we ask.
pub fn check_control(server: &Server, bytes: &[u8]) -> Option<Control> {
    Control::parse(bytes).filter(|control| control.system == server.layout.system)
}
