//! A cluster at a chosen second: the log that follows the backup comes from an archive, here a directory.

use std::{path::Path, sync::Arc};

use chrono::{DateTime, Utc};
use farshore::{
    progress::CheckOutcome,
    sources::{
        Rebuilt, SourceError,
        postgres::physical::{
            Action, Fetch, Lsn, PhysicalTarget, PhysicalTargetOptions, Recovery, RecoveryTarget, Start, Timeline,
        },
    },
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::Value;

use super::{
    archive::Archive,
    cluster::{Cluster, copied_from, directory, stop_on},
};
use crate::{
    postgres::{Server, run},
    support::{database_exchange::Exchange, soak},
};

/// A captured cluster that went on and is stopped now, and its archive.
pub(super) struct Past {
    cluster: Cluster,
    exchange: Arc<Exchange>,
    facts: Value,
    /// Of each marker, a moment after its commit and before the next one's, the end of the log then, and its transaction.
    markers: Vec<(DateTime<Utc>, Lsn, u64)>,
    /// How many there were at the restore point `half-way`.
    at_restore_point: usize,
    /// Where the log is, if not in a directory to be copied from.
    log: Option<Archive>,
}

/// Markers committed before the backup, and after it.
const BEFORE: usize = 10;
const AFTER: usize = 200;

fn moment(text: &str) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(text.parse().unwrap()).unwrap()
}

impl Past {
    async fn new(server: Server) -> Self {
        let cluster = Cluster::new(server, &["archive_mode=on"]);
        cluster.archives_by_copying();
        Self::of(cluster, None).await
    }

    /// With a log that the program archives and fetches.
    async fn archived(server: Server) -> Self {
        Self::archived_with_segments(server, 16).await
    }

    /// The same of segments of so many MiB.
    pub(super) async fn archived_with_segments(server: Server, mebibytes: u32) -> Self {
        let archive = Archive::new("limit = \"256MiB\"");
        Self::of(archive.primary_with_segments(server, mebibytes), Some(archive)).await
    }

    async fn of(cluster: Cluster, log: Option<Archive>) -> Self {
        cluster.leaves_its_socket();
        cluster.psql("postgres", "CREATE DATABASE app");
        cluster.psql("postgres", "SELECT pg_reload_conf()");
        cluster.make_role("app");
        cluster.psql("app", "CREATE TABLE markers (id int PRIMARY KEY)");
        let mut past =
            Self { exchange: Arc::default(), facts: Value::Null, markers: Vec::new(), at_restore_point: 0, log, cluster };
        past.mark(BEFORE);
        past.facts = past.exchange.capture(&past.cluster.source("app"), 2).await.unwrap().facts;
        past.mark(AFTER / 2);
        past.cluster.psql("app", "SELECT pg_create_restore_point('half-way')");
        past.at_restore_point = past.markers.len();
        past.mark(AFTER - AFTER / 2);
        // A server that is asked for a time goes on until it meets a commit after it.
        past.cluster.psql("app", "CREATE TABLE afterwards (id int)");
        if let Some(log) = &past.log {
            log.settles(&past.cluster);
        }
        past.cluster.stop(true);
        past
    }

    /// Commits so many more markers, in one session, with a new segment now and then.
    fn mark(&mut self, count: usize) {
        let mut sql = String::new();
        for number in 0..count {
            let id = self.markers.len() + number;
            sql += &format!(
                "INSERT INTO markers VALUES ({id}) RETURNING pg_current_xact_id(); SELECT pg_sleep(0.002); \
                 SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::int8, pg_current_wal_insert_lsn(); SELECT pg_sleep(0.002);"
            );
            if id % 50 == 49 {
                sql += "SELECT 'switch' FROM pg_switch_wal();";
            }
        }
        let said = run(self.cluster.psql_command("app", &sql));
        let lines: Vec<&str> = said.lines().filter(|line| !line.is_empty() && *line != "switch").collect();
        for pair in lines.chunks(2) {
            let (time, lsn) = pair[1].split_once('|').unwrap();
            self.markers.push((moment(time), Lsn::parse(lsn).unwrap(), pair[0].parse().unwrap()));
        }
    }

    /// From the archive, after `before` said that it may; by the program where that archived.
    fn fetch(&self, before: &str) -> Fetch {
        if let Some(log) = &self.log {
            let system = self.facts["system_identifier"].as_str().unwrap();
            let words = [env!("CARGO_BIN_EXE_farshore"), "--cache-dir", &log.text("cache"), "wal", "get", "--system", system];
            let argv = words.map(str::to_owned).to_vec();
            let (identities, policy) = (vec![log.path("operator.txt")], Some(log.text("policy.toml")));
            return Fetch { argv, identities, policy, found: String::new() };
        }
        copied_from(&self.cluster.path("archive"), before)
    }

    async fn restore(&self, data: &Path, recovery: Recovery, start: bool) -> Result<Rebuilt, SourceError> {
        let start = start.then(|| Start { bin_directory: Some(self.cluster.server.bin().to_owned()) });
        let options = PhysicalTargetOptions { recovery, start, ..PhysicalTargetOptions::default() };
        self.exchange.rebuild(&PhysicalTarget::new(data, options), &self.facts, false).await.map(|(rebuilt, _)| rebuilt)
    }

    /// How many markers a server has that was restored so; all those from the first on.
    async fn markers_at(&self, recovery: Recovery) -> usize {
        let mut cluster = Cluster::unstarted(self.cluster.server, &["archive_mode=off"]);
        self.restore(&cluster.data(), recovery.clone(), false).await.unwrap();
        assert!(cluster.try_start(), "{recovery:?}: {}", cluster.log());
        let found = cluster.psql("app", "SELECT count(*), coalesce(max(id), -1) + 1 FROM markers");
        let (count, next) = found.split_once('|').unwrap();
        assert_eq!(count, next, "{recovery:?}: a marker in between is missing");
        count.parse().unwrap()
    }

    fn to(&self, target: RecoveryTarget) -> Recovery {
        Recovery { target, fetch: Some(self.fetch("")), ..Recovery::default() }
    }
}

pub(super) async fn has_exactly_the_markers_before(past: Past, times: u64) {
    assert_eq!(past.markers.len(), BEFORE + AFTER);
    let seed = std::env::var("FARSHORE_TEST_SEED").map_or(1, |seed| seed.parse().unwrap());
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    for _ in 0..times {
        let number = random.random_range(BEFORE..past.markers.len());
        let found = past.markers_at(past.to(RecoveryTarget::Time(past.markers[number].0))).await;
        assert_eq!(found, number + 1, "seed {seed}: to {}", past.markers[number].0);
    }
}

// On each version that is tested: 15 from a directory that the server copies to, which is quick and shows what a server makes of its targets; 17 and
// 18 through `farshore wal push` and `get`, with fewer times, since each restore there opens a site (`FARSHORE_SOAK=4` makes more than 20 of them).

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_of_a_15_to_a_time_has_exactly_the_markers_before_it() {
    has_exactly_the_markers_before(Past::new(Server::Fifteen).await, soak(20)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_of_a_17_to_a_time_of_a_log_that_the_program_fetches_has_exactly_the_markers_before_it() {
    has_exactly_the_markers_before(Past::archived(Server::Seventeen).await, soak(6)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_of_an_18_to_a_time_of_a_log_that_the_program_fetches_has_exactly_the_markers_before_it() {
    has_exactly_the_markers_before(Past::archived(Server::Eighteen).await, soak(8)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_stops_at_every_kind_of_target_and_says_how_far_it_came() {
    let past = Past::new(Server::Eighteen).await;
    let number = 120;
    let (time, lsn, xid) = past.markers[number];
    let exclusive = |target| Recovery { exclusive: true, ..past.to(target) };
    for (recovery, expected) in [
        (Recovery::default(), BEFORE),
        (past.to(RecoveryTarget::Latest), past.markers.len()),
        (past.to(RecoveryTarget::Lsn(lsn)), number + 1),
        (exclusive(RecoveryTarget::Lsn(lsn)), number + 1),
        (past.to(RecoveryTarget::Xid(xid)), number + 1),
        (exclusive(RecoveryTarget::Xid(xid)), number),
        (past.to(RecoveryTarget::Name("half-way".to_owned())), past.at_restore_point),
        (Recovery { timeline: Timeline::Current, ..past.to(RecoveryTarget::Time(time)) }, number + 1),
        (Recovery { timeline: Timeline::Number(1), ..past.to(RecoveryTarget::Time(time)) }, number + 1),
    ] {
        let words = format!("{recovery:?}");
        assert_eq!(past.markers_at(recovery).await, expected, "{words}");
    }

    // One that waits can be read, and looked at, before anybody decides.
    let mut waiting = Cluster::unstarted(past.cluster.server, &["hot_standby=on"]);
    let recovery = Recovery { action: Action::Pause, ..past.to(RecoveryTarget::Xid(xid)) };
    past.restore(&waiting.data(), recovery, false).await.unwrap();
    std::fs::write(waiting.data().join("postgresql.conf"), "").unwrap();
    assert!(waiting.try_start_waiting(), "{}", waiting.log());
    // It can be read as soon as it is consistent, and that is before it is there.
    let since = std::time::Instant::now();
    while waiting.psql("app", "SELECT pg_get_wal_replay_pause_state()") != "paused" {
        assert!(since.elapsed().as_secs() < 60, "{}", waiting.log());
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert_eq!(
        waiting.psql("app", "SELECT count(*), pg_is_in_recovery(), pg_get_wal_replay_pause_state() FROM markers"),
        format!("{}|t|paused", number + 1)
    );

    // Started: it says what was asked and what was reached, runs with its own settings, and remembers nothing of the recovery.
    let place = directory();
    let data = place.path().join("data");
    let rebuilt = past.restore(&data, past.to(RecoveryTarget::Time(time)), true).await.unwrap();
    let check = |name: &str| {
        rebuilt.checks.iter().find(|check| check.name == name).unwrap_or_else(|| panic!("{name}: {:#?}", rebuilt.checks))
    };
    let reached = check("recovered to");
    assert_eq!(reached.outcome, CheckOutcome::Passed, "{reached:?}");
    assert!(
        reached.expected.starts_with("time 20")
            && reached.actual.contains("timeline 2")
            && reached.actual.contains("the last commit at "),
        "{reached:?}"
    );
    assert_eq!(check("server started").outcome, CheckOutcome::Passed, "{rebuilt:#?}");
    assert!(rebuilt.phases.iter().any(|phase| phase.name == "database recovery"), "{:?}", rebuilt.phases);
    let counted = past.cluster.psql("app", "SELECT count(*), current_setting('archive_mode'), current_setting('restore_command'), current_setting('recovery_target_time') FROM markers");
    assert_eq!(counted, format!("{}|off||", number + 1));
    stop_on(&data, past.cluster.server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fetch_that_breaks_in_the_middle_stops_recovery_and_nothing_is_promoted() {
    let past = Past::new(Server::Fifteen).await;
    let last = past.markers.last().unwrap().0;
    let named = |listing: Vec<std::path::PathBuf>| -> Vec<String> {
        let names = listing.into_iter().map(|path| path.file_name().unwrap().to_str().unwrap().to_owned());
        names.filter(|name| name.len() == 24).collect()
    };
    let segments = named(super::cluster::listing(&past.cluster.path("archive")));
    let middle = &segments[segments.len() - 2];
    // What cannot be fetched, and what is not there although a later time was asked for.
    for (before, said) in [
        (format!("[ \"$1\" = {middle} ] && exit 126"), "could not restore file"),
        (format!("[ \"$1\" = {middle} ] && exit 1"), "recovery ended before configured recovery target was reached"),
    ] {
        for start in [true, false] {
            let mut cluster = Cluster::unstarted(past.cluster.server, &["archive_mode=off"]);
            let recovery = Recovery { fetch: Some(past.fetch(&before)), ..past.to(RecoveryTarget::Time(last)) };
            let restored = past.restore(&cluster.data(), recovery, start).await;
            let log = match (start, restored) {
                (true, Err(SourceError::Program { detail, .. })) => detail,
                (false, Ok(_)) => {
                    assert!(!cluster.try_start(), "it came up");
                    cluster.log()
                }
                other => panic!("{before}, {start}: {other:?}"),
            };
            assert!(log.contains(said), "{before}: {log}");
            assert!(cluster.data().join("recovery.signal").exists(), "{before}: it was promoted");
            let history = cluster.data().join("pg_wal/00000002.history");
            assert!(!history.exists(), "{before}: it has begun a timeline");
            // The site answers again: the same server goes on, and comes to the same end.
            let settings = std::fs::read_to_string(cluster.data().join("postgresql.auto.conf")).unwrap();
            std::fs::write(cluster.data().join("postgresql.auto.conf"), settings.replace(middle.as_str(), "nothing")).unwrap();
            assert!(cluster.try_start(), "{}", cluster.log());
            assert_eq!(cluster.psql("app", "SELECT count(*) FROM markers"), past.markers.len().to_string());
        }
    }
}
