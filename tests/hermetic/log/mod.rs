//! The archive of a cluster's log, without a server: segments that are made up, and are what the server would have written as far as
//! their headers tell.

mod beyond;
mod copy;
mod faults;
mod get;
mod keys;
mod killed;
mod parts;
mod prefetch;
mod prune;
mod push;
mod ready;
mod status;

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant, SystemTime},
};

use crc_fast::{CrcAlgorithm, checksum};

use crate::support::agent::{Agent, Outcome, noise};

/// The smallest that there is.
pub(crate) const SEGMENT_BYTES: usize = 1 << 20;
pub(crate) const SYSTEM: u64 = 7_300_000_000_000_000_001;

/// A segment's name.
pub(crate) fn name(timeline: u32, number: u64) -> String {
    let per_id = (1_u64 << 32) / SEGMENT_BYTES as u64;
    format!("{timeline:08X}{:08X}{:08X}", number / per_id, number % per_id)
}

/// A segment of a cluster, with so much noise in each page that it can be told from others.
pub(crate) fn segment_of(system: u64, timeline: u32, number: u64, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; SEGMENT_BYTES];
    let random = noise(seed ^ number << 8 ^ u64::from(timeline) << 40, SEGMENT_BYTES / 8);
    for (page, content) in (0..SEGMENT_BYTES).step_by(8192).zip(random.chunks(1024)) {
        let info: u16 = if page == 0 { 2 } else { 0 };
        bytes[page..page + 2].copy_from_slice(&0xD110_u16.to_le_bytes());
        bytes[page + 2..page + 4].copy_from_slice(&info.to_le_bytes());
        bytes[page + 4..page + 8].copy_from_slice(&timeline.to_le_bytes());
        bytes[page + 8..page + 16].copy_from_slice(&(number * SEGMENT_BYTES as u64 + page as u64).to_le_bytes());
        bytes[page + 64..page + 64 + content.len()].copy_from_slice(content);
    }
    bytes[24..32].copy_from_slice(&system.to_le_bytes());
    bytes[32..36].copy_from_slice(&(SEGMENT_BYTES as u32).to_le_bytes());
    bytes[36..40].copy_from_slice(&8192_u32.to_le_bytes());
    bytes
}

/// The segment that the test's own cluster has on its first timeline.
pub(crate) fn segment(number: u64) -> Vec<u8> {
    segment_of(SYSTEM, 1, number, 0)
}

/// A `pg_control` of a cluster.
fn control(system: u64) -> Vec<u8> {
    let mut file = vec![0; 8192];
    file[..8].copy_from_slice(&system.to_le_bytes());
    file[8..12].copy_from_slice(&1300_u32.to_le_bytes());
    file[12..16].copy_from_slice(&202_209_061_u32.to_le_bytes());
    let sum = u32::try_from(checksum(CrcAlgorithm::Crc32Iscsi, &file[..292])).unwrap();
    file[292..296].copy_from_slice(&sum.to_le_bytes());
    file
}

/// A machine with a data directory `pg`, whose log goes to the directory `site`.
pub(crate) struct Server {
    pub(crate) agent: Agent,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop_upload();
    }
}

impl Server {
    pub(crate) fn new() -> Self {
        Self::with("limit = \"64MiB\"")
    }

    /// With these settings of the log.
    pub(crate) fn with(wal: &str) -> Self {
        let server = Self { agent: Agent::new("") };
        for directory in ["pg", "pg/global", "pg/pg_wal", "back", "back/pg_wal"] {
            fs::create_dir(server.agent.path(directory)).unwrap();
        }
        fs::write(server.agent.path("pg/global/pg_control"), control(SYSTEM)).unwrap();
        server.agent.write_policy(&server.source(wal));
        server.agent.init();
        server
    }

    /// With a second site, the directory `second`, beside the first.
    pub(crate) fn with_second_site() -> Self {
        let server = Self::new();
        let site = |name: &str, directory: &str| {
            let path = server.agent.text(directory);
            format!("[[site]]\nname = \"{name}\"\nstore = {{ kind = \"filesystem\", path = \"{path}\" }}\n")
        };
        let sites = format!("{}{}", site("far", "site"), site("second", "second"));
        server.agent.write_policy_with(&server.source("limit = \"64MiB\""), &sites, &server.agent.drill_table());
        server.agent.run(["init", "policy.toml", "--create", "--site", "second"]).succeeds();
        server
    }

    /// The `[[source]]` table.
    pub(crate) fn source(&self, wal: &str) -> String {
        format!(
            "[[source]]\nname = \"db\"\nkind = \"postgres\"\nmethod = \"physical\"\nurl = \"postgres://nobody@/app?host=/nowhere\"\n\
             wal = {{ spool = \"{}\", {wal} }}\n",
            self.agent.text("spool")
        )
    }

    /// Writes a file into `pg_wal`.
    pub(crate) fn writes(&self, file: &str, bytes: &[u8]) {
        fs::write(self.agent.path("pg/pg_wal").join(file), bytes).unwrap();
    }

    /// Writes a segment and pushes it as the server would.
    pub(crate) fn pushes(&self, number: u64) {
        self.writes(&name(1, number), &segment(number));
        self.push(&name(1, number), &[]).succeeds();
    }

    /// `archive_command`, in the data directory.
    pub(crate) fn push(&self, file: &str, flags: &[&str]) -> Outcome {
        let policy = self.agent.text("policy.toml");
        let path = format!("pg_wal/{file}");
        let arguments = ["wal", "push"].into_iter().chain(flags.iter().copied()).chain([policy.as_str(), path.as_str()]);
        self.agent.command(arguments).current_dir(self.agent.path("pg")).output().unwrap().into()
    }

    /// `restore_command` of a server that recovers, with the operator's identity, in an empty data directory; nothing is fetched ahead.
    pub(crate) fn get(&self, file: &str) -> Outcome {
        self.get_with(file, &["--no-prefetch"])
    }

    pub(crate) fn get_with(&self, file: &str, flags: &[&str]) -> Outcome {
        let (policy, to, identity) = (self.agent.text("policy.toml"), self.delivered(), self.agent.text("operator.txt"));
        let (system, to) = (SYSTEM.to_string(), to.to_str().unwrap().to_owned());
        let fixed = ["wal", "get", "--identity", &identity, "--system", &system];
        let arguments = fixed.into_iter().chain(flags.iter().copied()).chain([policy.as_str(), file, to.as_str()]);
        self.agent.command(arguments).output().unwrap().into()
    }

    /// Where [`Self::get`] puts it.
    pub(crate) fn delivered(&self) -> PathBuf {
        self.agent.path("back/pg_wal/RECOVERYXLOG")
    }

    /// Gets a segment, which must be the one.
    #[track_caller]
    pub(crate) fn gets(&self, number: u64) {
        self.get(&name(1, number)).succeeds();
        assert!(fs::read(self.delivered()).unwrap() == segment(number), "segment {number}");
        fs::remove_file(self.delivered()).unwrap();
    }

    /// Files in the spool, without what belongs to the spool itself.
    pub(crate) fn spooled(&self) -> Vec<String> {
        let folder = self.agent.path("spool").join(SYSTEM.to_string());
        let listed = fs::read_dir(folder).into_iter().flatten().flatten();
        let mut names: Vec<String> = listed.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.retain(|name| !name.starts_with('.'));
        names.sort();
        names
    }

    /// Keys of files at the site.
    pub(crate) fn archived(&self) -> Vec<String> {
        self.agent.stored("wal")
    }

    /// Everything at the site was stored so long ago.
    pub(crate) fn archived_ago(&self, ago: Duration) {
        for key in self.archived() {
            let file = fs::File::options().write(true).open(self.agent.path("site").join(key)).unwrap();
            file.set_modified(SystemTime::now() - ago).unwrap();
        }
    }

    /// Waits until nothing waits any more.
    #[track_caller]
    pub(crate) fn settles(&self) {
        let began = Instant::now();
        while !self.spooled().is_empty() {
            assert!(began.elapsed() < Duration::from_secs(60), "{:?}: {}", self.spooled(), self.status());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// What the uploader said last.
    pub(crate) fn status(&self) -> String {
        let read = |file: &str| fs::read_to_string(self.agent.path("spool").join(file)).unwrap_or_default();
        format!("{}{}", read("status.json"), read("upload.log"))
    }

    /// Ends the uploader of this machine, if there is one, at once.
    pub(crate) fn stop_upload(&self) {
        let policy = self.agent.text("policy.toml");
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Ok(id) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
            // The directory is this test's own: so is every process that names it.
            if words.contains(&b"upload".as_slice()) && words.contains(&policy.as_bytes()) {
                let _ = rustix::process::kill_process(rustix::process::Pid::from_raw(id).unwrap(), rustix::process::Signal::KILL);
            }
        }
    }
}
