//! A restored cluster that is recovered, and then started as its own settings say.
//!
//! Recovery runs apart: on a socket of its own, without a network and without archiving, so that nobody connects before the log is
//! replayed, and whatever the captured settings allow to whom, we can ask how far it came. Then it is stopped with a checkpoint.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use chrono::{DateTime, Utc};

use super::{
    collations::Order,
    databases::Databases,
    facts::PhysicalFacts,
    in_place::{KNOWN_FROM, SETTING},
    label::Lsn,
    recovery::{AFTERWARDS, Recovery, RecoveryTarget},
    scratch::{exactly, recover},
};
use crate::{
    progress::{Check, CheckOutcome, PhaseTime},
    sources::{
        RebuildContext, Rebuilt, Replayed, SourceError,
        postgres::{
            PostgresConfig,
            failure::Side,
            programs,
            scratch::{ScratchPlace, server_command},
        },
    },
};

/// How to start a restored cluster.
#[derive(Debug, Clone, Default)]
pub struct Start {
    /// Where PostgreSQL's programs are, if not where they are usually.
    pub bin_directory: Option<PathBuf>,
}

/// How often what was fetched ahead is removed, while more comes.
const REMOVE_TRIES: u32 = 20;
const BETWEEN_REMOVES: Duration = Duration::from_millis(50);
/// Where its log goes until its own settings say otherwise, below the data directory.
const LOG: &str = "farshore-start.log";
/// Left by `farshore wal get` for its next call.
const FETCHED_AHEAD: &str = "pg_wal/.farshore";
/// How long a recovered server may take to accept connections.
const PATIENCE: Duration = Duration::from_secs(300);

impl Start {
    /// Whether this can be done at all, before anything is written.
    ///
    /// # Errors
    /// [`SourceError::Program`] where the programs of this version are missing.
    pub async fn check(&self, facts: &PhysicalFacts) -> Result<(), SourceError> {
        let major = facts.major();
        let server = exactly("postgres", self.bin_directory.as_deref(), major).await?;
        exactly("pg_ctl", server.path.parent(), major).await.map(|_| ())
    }

    /// Recovers the cluster in `directory` and starts it; says how far it came, and adds to what was `done`.
    ///
    /// # Errors
    /// [`SourceError::Program`] with the end of the server's log: it has not reached its target then. What was restored stays.
    pub async fn start(
        &self,
        directory: &Path,
        owner: (u32, u32),
        facts: &PhysicalFacts,
        recovery: &Recovery,
        context: &RebuildContext<'_>,
        done: &mut Rebuilt,
    ) -> Result<(), SourceError> {
        let (clock, major) = (&context.clock, facts.major());
        let server = exactly("postgres", self.bin_directory.as_deref(), major).await?;
        context.observer.phase("database recovery", None);
        let began = clock.monotonic();
        let remedy =
            "what was restored is as it should be: mend that and start the server, or empty the directory and restore again";
        let place = ScratchPlace::beside(directory, owner, remedy)?;
        let (cluster, config) = recover(place, &server, facts, recovery).await?;
        let reached = Reached::ask(&config).await?;
        done.checks.push(reached.check(facts, recovery));
        done.replayed = reached.replayed(recovery);
        let (order, observer) = (Order::NotLookedAt, &context.observer);
        let databases = Databases { config: &config, data: directory, facts, order, maps: false, observer };
        databases.look(&mut done.checks).await;
        let in_place = forget(&config, facts.server_version_num).await?;
        if !in_place.is_empty() {
            done.checks.push(Check::note(
                "tablespaces in the data directory",
                "each in a place of its own",
                format!("{} in pg_tblspc: move what they have with ALTER TABLE (INDEX, DATABASE) … SET TABLESPACE; {SETTING} stays on for as long", in_place.join(", ")),
            ));
        }
        cluster.stop().await?;
        // Made by the server's own calls of us, and of no use to anybody now. What still fetches ahead may put a file there meanwhile; it ends when
        // it sees that all is gone.
        let ahead = directory.join(FETCHED_AHEAD);
        let mut tries = 0;
        while let Err(error) = std::fs::remove_dir_all(&ahead)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tries += 1;
            if tries == REMOVE_TRIES {
                tracing::warn!(%error, "{FETCHED_AHEAD} was left behind: remove it");
                break;
            }
            tokio::time::sleep(BETWEEN_REMOVES).await;
        }
        let recovered = clock.monotonic();
        context.observer.phase("cut-over", None);
        done.checks.push(self.serve(directory, owner, major).await?);
        let phase = |name: &str, seconds: Duration| PhaseTime { name: name.to_owned(), seconds: seconds.as_secs_f64() };
        done.phases.push(phase("database recovery", recovered.saturating_sub(began)));
        done.phases.push(phase("cut-over", clock.monotonic().saturating_sub(recovered)));
        Ok(())
    }

    /// Starts it as its own settings say, and waits until it accepts connections.
    async fn serve(&self, directory: &Path, owner: (u32, u32), major: u32) -> Result<Check, SourceError> {
        let (name, expected) = ("server started", "it accepts connections");
        if !directory.join("postgresql.conf").exists() {
            let actual = "recovered and stopped: its configuration lay outside of the data directory; put it back (copies are in captured-config) and start it as the distribution does";
            return Ok(Check::note(name, expected, actual));
        }
        let pg_ctl = exactly("pg_ctl", self.bin_directory.as_deref(), major).await?;
        let account = rustix::process::geteuid().is_root().then_some(owner);
        let mut command = tokio::process::Command::from(server_command(&pg_ctl.path, account, Path::new("/")));
        command.arg("start").arg("--wait").arg("-D").arg(directory);
        command.arg(format!("--timeout={}", PATIENCE.as_secs())).arg("--log").arg(directory.join(LOG));
        // The server outlives this program, so it must hold none of our pipes.
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        let status = command.status().await.map_err(|error| programs::cannot_start(&pg_ctl, &error))?;
        let log = || std::fs::read_to_string(directory.join(LOG)).unwrap_or_default();
        Ok(match status.success() {
            true => Check::equal(name, expected, expected),
            false => {
                let text = log();
                let last: Vec<&str> = text.lines().rev().take(3).collect();
                let said = last.into_iter().rev().collect::<Vec<_>>().join("; ");
                Check::equal(
                    name,
                    expected,
                    format!("recovered, and not started with its own settings: {said}; see {LOG} in the data directory"),
                )
            }
        })
    }
}

/// How far a server has come that was recovered.
#[derive(Debug)]
pub(super) struct Reached {
    lsn: Option<Lsn>,
    last_commit: Option<DateTime<Utc>>,
    timeline: i32,
}

impl Reached {
    /// Asks a server that has just been recovered.
    ///
    /// # Errors
    /// The server's.
    pub(super) async fn ask(config: &PostgresConfig) -> Result<Self, SourceError> {
        let session = config.connect(Side::Target).await?;
        let doing = "asking how far the log was replayed";
        let lsn: Option<String> = session.one(doing, "SELECT pg_catalog.pg_last_wal_replay_lsn()::text", &[]).await?;
        let sql = "SELECT (extract(epoch FROM pg_catalog.pg_last_xact_replay_timestamp()) * 1000000)::int8";
        let last_commit: Option<i64> = session.one(doing, sql, &[]).await?;
        let timeline = session.one(doing, "SELECT timeline_id FROM pg_catalog.pg_control_checkpoint()", &[]).await?;
        session.close().await;
        let last_commit = last_commit.and_then(DateTime::from_timestamp_micros);
        Ok(Self { lsn: lsn.as_deref().and_then(Lsn::parse), last_commit, timeline })
    }

    /// How far a log was replayed beyond the point; nothing where none was to be.
    pub(super) fn replayed(&self, recovery: &Recovery) -> Option<Replayed> {
        let to_the_end = recovery.target == RecoveryTarget::Latest;
        recovery.fetch.as_ref().map(|_| Replayed { lsn: self.lsn, last_commit: self.last_commit, to_the_end })
    }

    /// What was reached against what was asked.
    pub(super) fn check(&self, facts: &PhysicalFacts, recovery: &Recovery) -> Check {
        let lsn = self.lsn.map_or_else(|| "unknown".to_owned(), |lsn| lsn.to_string());
        let commit = self
            .last_commit
            .map_or_else(|| "no commit".to_owned(), |at| format!("the last commit at {}", at.format("%Y-%m-%d %H:%M:%S%.6fZ")));
        let actual = format!("{commit}, LSN {lsn}, timeline {}", self.timeline);
        let is_consistent = self.lsn.zip(Lsn::parse(&facts.stop_lsn)).is_some_and(|(at, stop)| at >= stop);
        let is_met = is_consistent
            && match &recovery.target {
                RecoveryTarget::Time(time) => {
                    self.last_commit.is_none_or(|at| if recovery.exclusive { at < *time } else { at <= *time })
                }
                RecoveryTarget::Lsn(wanted) => self.lsn.is_some_and(|at| recovery.exclusive || at >= *wanted),
                // The server ends with an error where it does not find these.
                RecoveryTarget::Point | RecoveryTarget::Latest | RecoveryTarget::Xid(_) | RecoveryTarget::Name(_) => true,
            };
        let outcome = if is_met { CheckOutcome::Passed } else { CheckOutcome::Failed };
        let asked = format!("{}{}", recovery.target.words(), if recovery.exclusive { ", not included" } else { "" });
        Check { name: "recovered to".to_owned(), expected: asked, actual, outcome }
    }
}

/// Takes the settings of this recovery away: on a primary they mean nothing, and a later one must not find them. Returns the tablespaces that
/// lie in the data directory itself.
async fn forget(config: &PostgresConfig, version: u32) -> Result<Vec<String>, SourceError> {
    let session = config.connect(Side::Target).await?;
    for name in AFTERWARDS {
        let doing = "taking the settings of the recovery away";
        session.client.batch_execute(&format!("ALTER SYSTEM RESET {name}")).await.map_err(|error| session.failed(doing, &error))?;
    }
    let sql = "SELECT spcname::text FROM pg_catalog.pg_tablespace WHERE starts_with(pg_catalog.pg_tablespace_location(oid), 'pg_tblspc/') ORDER BY 1";
    let doing = "listing tablespaces in the data directory";
    let rows = session.client.query(sql, &[]).await.map_err(|error| session.failed(doing, &error))?;
    let in_place: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    if in_place.is_empty() && version >= KNOWN_FROM {
        // A standby or a later restore of one that has such tablespaces needs it.
        session
            .client
            .batch_execute(&format!("ALTER SYSTEM RESET {SETTING}"))
            .await
            .map_err(|error| session.failed(doing, &error))?;
    }
    session.close().await;
    Ok(in_place)
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, TimeDelta};

    use super::Reached;
    use crate::{
        progress::CheckOutcome,
        sources::postgres::physical::{Recovery, RecoveryTarget, facts::tests::facts, label::Lsn},
    };

    #[test]
    fn what_was_reached_is_held_against_what_was_asked() {
        let at = DateTime::from_timestamp(1_764_154_800, 0).unwrap();
        let stop = Lsn::parse(&facts().stop_lsn).unwrap().0;
        let reached =
            |lsn, seconds| Reached { lsn: Some(Lsn(lsn)), last_commit: Some(at + TimeDelta::seconds(seconds)), timeline: 2 };
        let table = [
            (RecoveryTarget::Point, false, reached(stop, 0), true),
            (RecoveryTarget::Point, false, reached(stop - 1, 0), false),
            (RecoveryTarget::Point, false, Reached { lsn: None, ..reached(0, 0) }, false),
            (RecoveryTarget::Time(at), false, reached(stop, 0), true),
            (RecoveryTarget::Time(at), true, reached(stop, 0), false),
            (RecoveryTarget::Time(at), false, reached(stop, 1), false),
            (RecoveryTarget::Time(at), false, Reached { last_commit: None, ..reached(stop, 0) }, true),
            (RecoveryTarget::Lsn(Lsn(stop + 8)), false, reached(stop + 8, 0), true),
            (RecoveryTarget::Lsn(Lsn(stop + 8)), false, reached(stop + 7, 0), false),
            (RecoveryTarget::Lsn(Lsn(stop + 8)), true, reached(stop + 7, 0), true),
        ];
        for (target, exclusive, reached, is_met) in table {
            let recovery = Recovery { target, exclusive, ..Recovery::default() };
            let outcome = reached.check(&facts(), &recovery).outcome;
            assert_eq!(outcome, if is_met { CheckOutcome::Passed } else { CheckOutcome::Failed }, "{recovery:?}, {reached:?}");
        }
    }
}
