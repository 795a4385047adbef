//! The log, archived by a server's `archive_command` and fetched by another's `restore_command`.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Output},
    time::{Duration, Instant, SystemTime},
};

use tempfile::TempDir;

use super::cluster::{Cluster, as_postgres, directory};
use crate::{
    postgres::{Server, run},
    support::agent::files,
};

/// What the server's user needs for archiving: a policy, keys, a site, a spool.
pub(super) struct Archive {
    place: TempDir,
}

impl Archive {
    pub(super) fn new(wal: &str) -> Self {
        Self::at(wal, |archive| format!("{{ kind = \"filesystem\", path = \"{}\" }}", archive.text("site")))
    }

    /// At this store, as the policy writes it.
    pub(super) fn at(wal: &str, store: impl Fn(&Self) -> String) -> Self {
        let archive = Self { place: directory() };
        let key = |file: &str| {
            let output = archive.farshore(&["key", "generate", "--output", &archive.text(file)]);
            assert!(output.status.success(), "{output:?}");
            String::from_utf8(output.stdout).unwrap().trim().to_owned()
        };
        let (reader, _) = (key("operator.txt"), key("agent.key"));
        let policy = format!(
            "name = \"log\"\n[[source]]\nname = \"db\"\nkind = \"postgres\"\nmethod = \"physical\"\nurl = \"postgres://farshore@/postgres\"\n\
             wal = {{ spool = \"{}\", {wal} }}\n[[site]]\nname = \"far\"\nstore = {}\n\
             [encryption]\nrecipients = [\"{reader}\"]\nagent = {{ file = \"{}\" }}\n",
            archive.text("spool"),
            store(&archive),
            archive.text("agent.key")
        );
        fs::write(archive.place.path().join("policy.toml"), policy).unwrap();
        let made = archive.farshore(&["init", &archive.text("policy.toml"), "--create"]);
        assert!(made.status.success(), "{made:?}");
        archive
    }

    pub(super) fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    /// From now on the policy's cluster is reached by this address.
    pub(super) fn follows(&self, url: &str) {
        let policy = fs::read_to_string(self.path("policy.toml")).unwrap();
        fs::write(self.path("policy.toml"), policy.replace("postgres://farshore@/postgres", url)).unwrap();
    }

    /// From now on the policy has another site, in the directory of its name.
    pub(super) fn gets_site(&self, name: &str) {
        let policy = fs::read_to_string(self.path("policy.toml")).unwrap();
        let site = format!("[[site]]\nname = \"{name}\"\nstore = {{ kind = \"filesystem\", path = \"{}\" }}\n", self.text(name));
        fs::write(self.path("policy.toml"), policy + &site).unwrap();
        let made = self.farshore(&["init", &self.text("policy.toml"), "--site", name, "--create"]);
        assert!(made.status.success(), "{made:?}");
    }

    /// The program as the server's user, to be started.
    pub(super) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = as_postgres(env!("CARGO_BIN_EXE_farshore").into());
        command.args(arguments).env("FARSHORE_CACHE_DIR", self.path("cache")).current_dir(self.place.path());
        command
    }

    /// The program as the server's user.
    pub(super) fn farshore(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn program(&self) -> String {
        format!("{} --cache-dir {}", env!("CARGO_BIN_EXE_farshore"), self.text("cache"))
    }

    /// A primary that archives here.
    pub(super) fn primary(&self, server: Server) -> Cluster {
        self.primary_with_segments(server, 16)
    }

    /// One whose log has segments of so many MiB.
    pub(super) fn primary_with_segments(&self, server: Server, mebibytes: u32) -> Cluster {
        let command = self.archive_command();
        Cluster::with_segments(
            server,
            mebibytes,
            &["archive_mode=on", &command, "wal_keep_size=0", "autovacuum=off", "checkpoint_timeout=30s"],
        )
    }

    pub(super) fn archive_command(&self) -> String {
        format!("archive_command={} wal push --wait 3s {} %p", self.program(), self.text("policy.toml"))
    }

    pub(super) fn restore_command(&self) -> String {
        format!(
            "restore_command={} wal get --identity {} {} %f %p",
            self.program(),
            self.text("operator.txt"),
            self.text("policy.toml")
        )
    }

    /// Segments at the site, by name, with the paths of their objects.
    pub(super) fn segments(&self) -> Vec<(String, PathBuf)> {
        let mut found: Vec<(String, PathBuf)> = files(&self.path("site/wal"))
            .into_iter()
            .map(|key| (key.rsplit('/').next().unwrap().to_owned(), self.path("site/wal").join(&key)))
            .filter(|(name, _)| name.len() == 24)
            .collect();
        found.sort();
        found
    }

    /// All segments came to the site an hour ago: what is missing before one of them is not on its way.
    pub(super) fn ages(&self) {
        for (_, path) in self.segments() {
            let file = fs::File::options().write(true).open(path).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(3600)).unwrap();
        }
    }

    /// Waits until everything up to the present place of the log is at the site, and the server knows it: what it had ready may be there before.
    pub fn settles(&self, primary: &Cluster) {
        let last = primary.psql("postgres", "SELECT pg_walfile_name(pg_switch_wal())");
        let began = Instant::now();
        let told = format!("SELECT coalesce(last_archived_wal >= '{last}', false) FROM pg_stat_archiver");
        while !self.segments().iter().any(|(name, _)| *name == last)
            || primary.psql("postgres", &told) != "t"
            || files(&self.path("spool")).iter().any(|key| key.contains('/') && !key.contains("/."))
        {
            let archiver = || primary.psql("postgres", "SELECT * FROM pg_stat_archiver");
            assert!(began.elapsed() < Duration::from_secs(120), "{last}: {}\n{}", archiver(), primary.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Two rows that are sure to fill several segments, and a marker that was committed after them.
pub fn load(primary: &Cluster, round: u32) {
    primary.psql(
        "postgres",
        &format!(
            "INSERT INTO load SELECT g, repeat(md5(g::text || '{round}'), 20) FROM generate_series(1, 30000) AS g; \
             INSERT INTO markers VALUES ({round})"
        ),
    );
}

/// A base backup without any log, on which a recovery begins.
pub(super) fn base(primary: &Cluster, settings: &[&str]) -> Cluster {
    let copy = Cluster::unstarted(primary.server, settings);
    let mut basebackup = primary.program("pg_basebackup");
    basebackup.arg("-D").arg(copy.data()).args(["-c", "fast", "--no-sync", "-X", "none"]);
    run(basebackup);
    copy.write("data/recovery.signal", b"");
    copy
}

fn recovers(server: Server) {
    let archive = Archive::new("limit = \"256MiB\"");
    let primary = archive.primary(server);
    primary.psql("postgres", "CREATE TABLE load (id int, filler text); CREATE TABLE markers (id int)");
    let restore = archive.restore_command();
    let mut copy = base(&primary, &[&restore, "archive_mode=off", "hot_standby=off"]);
    (1..=6).for_each(|round| load(&primary, round));
    archive.settles(&primary);
    let archived = archive.segments();
    let counted: usize = primary.psql("postgres", "SELECT archived_count FROM pg_stat_archiver").parse().unwrap();
    assert!(archived.len() >= 6 && counted >= archived.len(), "{} segments, {counted} files", archived.len());
    assert_eq!(primary.psql("postgres", "SELECT failed_count FROM pg_stat_archiver"), "0", "{}", primary.log());
    let numbers: Vec<u64> = archived.iter().map(|(name, _)| u64::from_str_radix(&name[16..], 16).unwrap()).collect();
    assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{numbers:?}");
    let status = archive.farshore(&["wal", "status", &archive.text("policy.toml"), "--json"]);
    assert!(status.status.success(), "{status:?}");
    copy.start();
    assert_eq!(copy.psql("postgres", "SELECT max(id), count(*) FROM markers"), "6|6");
    assert_eq!(copy.psql("postgres", "SELECT count(*) FROM load"), "180000");
    assert_eq!(copy.psql("postgres", "SELECT timeline_id FROM pg_control_checkpoint()"), "2");
    let fetched = copy.log().matches("restored log file").count();
    assert!(fetched >= archived.len() - 2, "{fetched} of {}: {}", archived.len(), copy.log());
    copy.amcheck();
    assert!(!copy.data().join("pg_wal/.farshore").exists(), "nothing is left of what was fetched ahead");
}

#[test]
fn what_a_15_archived_under_load_a_recovery_replays_to_the_end() {
    recovers(Server::Fifteen);
}

#[test]
fn what_an_18_archived_under_load_a_recovery_replays_to_the_end() {
    recovers(Server::Eighteen);
}

/// A recovery that meets this in the middle of the log stops, does not promote, and goes on when it is mended.
fn stops(what: &str, harm: impl Fn(&Archive, &PathBuf), mend: impl Fn(&Archive, &PathBuf)) {
    let archive = Archive::new("limit = \"256MiB\"");
    let primary = archive.primary(Server::Eighteen);
    primary.psql("postgres", "CREATE TABLE load (id int, filler text); CREATE TABLE markers (id int)");
    let restore = archive.restore_command();
    let mut copy = base(&primary, &[&restore, "archive_mode=off", "hot_standby=off"]);
    (1..=4).for_each(|round| load(&primary, round));
    archive.settles(&primary);
    let segments = archive.segments();
    let (name, middle) = &segments[segments.len() / 2];
    harm(&archive, middle);
    let is_met = what != "no keys";
    assert!(!copy.try_start(), "{what}: a recovery that cannot have {name} must not come up: {}", copy.log());
    let log = copy.log();
    assert!(log.contains("FATAL:  could not restore file"), "{what}: {log}");
    assert!(!is_met || log.contains(name.as_str()), "{what}: {log}");
    assert!(!log.contains("archive recovery complete") && !log.contains("selected new timeline"), "{what}: {log}");
    assert!(copy.data().join("recovery.signal").exists(), "{what}: it is still recovering");
    mend(&archive, middle);
    copy.start();
    assert_eq!(copy.psql("postgres", "SELECT max(id), count(*) FROM markers"), "4|4", "{what}");
}

#[test]
fn a_segment_that_is_damaged_stops_a_recovery_and_does_not_promote_it() {
    let flip = |_: &Archive, path: &PathBuf| {
        let mut bytes = fs::read(path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(path, bytes).unwrap();
    };
    stops("damage", flip, flip);
}

#[test]
fn a_segment_that_is_missing_in_the_middle_stops_a_recovery_and_does_not_promote_it() {
    let aside = |archive: &Archive| archive.path("aside");
    stops(
        "a gap",
        |archive, path| {
            fs::rename(path, aside(archive)).unwrap();
            archive.ages();
        },
        |archive, path| fs::rename(aside(archive), path).unwrap(),
    );
}

#[test]
fn a_site_that_lost_its_keys_stops_a_recovery_and_does_not_promote_it() {
    // It answers: what a fetch meets is an error, and nothing like absence.
    stops(
        "no keys",
        |archive, _| fs::rename(archive.path("site/keys"), archive.path("keys")).unwrap(),
        |archive, _| fs::rename(archive.path("keys"), archive.path("site/keys")).unwrap(),
    );
}

#[test]
fn a_server_keeps_its_log_while_nothing_can_be_archived_and_archives_it_all_in_the_end() {
    let archive = Archive::new("limit = \"64MiB\"");
    let primary = archive.primary(Server::Eighteen);
    primary.psql("postgres", "CREATE TABLE load (id int, filler text); CREATE TABLE markers (id int)");
    archive.settles(&primary);
    fs::rename(archive.path("site"), archive.path("away")).unwrap();
    (1..=6).for_each(|round| load(&primary, round));
    let began = Instant::now();
    while primary.psql("postgres", "SELECT failed_count > 0 FROM pg_stat_archiver") != "t" {
        assert!(began.elapsed() < Duration::from_secs(120), "the spool takes four segments, and no more: {}", primary.log());
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(primary.log().contains("the spool is full"), "{}", primary.log());
    fs::rename(archive.path("away"), archive.path("site")).unwrap();
    archive.settles(&primary);
    let numbers: Vec<u64> = archive.segments().iter().map(|(name, _)| u64::from_str_radix(&name[16..], 16).unwrap()).collect();
    assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{numbers:?}");
}
