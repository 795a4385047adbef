//! A recovery to a point in time on a disk that runs full in the midst of it.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use super::{
    archive::{Archive, load},
    cluster::{Cluster, give},
};
use crate::{postgres::Server, support::agent::files};

/// What lies below a directory takes; links are not followed. Bytes.
pub fn taken(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let bytes = entries.map(|path| match fs::symlink_metadata(&path).unwrap() {
        found if found.is_dir() => taken(&path),
        found => found.blocks() * 512,
    });
    bytes.sum()
}

/// A small disk, which goes away with this.
pub struct Disk(pub PathBuf);

/// Mounting takes root: as root, or by way of sudo without a password.
fn as_root(program: &str, arguments: &[&str]) {
    let mut command = match rustix::process::geteuid().is_root() {
        true => Command::new(program),
        false => {
            let mut sudo = Command::new("sudo");
            sudo.args(["-n", program]);
            sudo
        }
    };
    let output = command.args(arguments).output().unwrap();
    assert!(output.status.success(), "this test mounts a small disk, for which it needs root: {program} {arguments:?}: {output:?}");
}

impl Disk {
    pub fn new(at: PathBuf, megabytes: u32) -> Self {
        fs::create_dir(&at).unwrap();
        as_root("mount", &["-t", "tmpfs", "-o", &format!("size={megabytes}m,mode=0777"), "tmpfs", at.to_str().unwrap()]);
        Self(at)
    }

    pub fn free_bytes(&self) -> u64 {
        let found = rustix::fs::statvfs(&self.0).unwrap();
        found.f_bavail * found.f_frsize
    }

    /// Waits until nobody holds what was removed from it. A program that another test starts has all open files of this one, until it begins.
    pub fn settles(&self) {
        let found = rustix::fs::statvfs(&self.0).unwrap();
        let whole = found.f_blocks * found.f_frsize;
        let since = Instant::now();
        while self.free_bytes() + taken(&self.0) < whole {
            assert!(since.elapsed() < Duration::from_secs(30), "{} of {whole} bytes are free", self.free_bytes());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Leaves so many bytes of it free, while nobody writes to it.
    pub fn fill_but(&self, left: u64) -> PathBuf {
        self.settles();
        let (ballast, bytes) = (self.0.join("ballast"), self.free_bytes().checked_sub(left).unwrap());
        let file = fs::File::create(&ballast).unwrap();
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes).unwrap();
        ballast
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        as_root("umount", &["--lazy", self.0.to_str().unwrap()]);
    }
}

fn restore(archive: &Archive, server: Server, to: &Path, more: &[&str]) -> std::process::Output {
    let (policy, identity) = (archive.text("policy.toml"), archive.text("operator.txt"));
    let (to, bin) = (to.display().to_string(), server.bin().display().to_string());
    let words = ["restore", &policy, "latest", "--source", "db", "--to", &to, "--bin-directory", &bin, "--to-latest"];
    archive.farshore(&[&words[..], &["--identity", &identity], more].concat())
}

/// Nothing was promoted: it waits for its recovery to go on.
#[track_caller]
fn still_recovers(data: &Path, said: &str) {
    // As it comes: a file that could not be fetched, or one of the server's own of which only a part could be written.
    assert!(said.contains("No space left on device") || said.contains("Check free disk space"), "{said}");
    assert!(data.join("recovery.signal").exists(), "it was promoted: {said}");
    let begun: Vec<String> = files(&data.join("pg_wal")).into_iter().filter(|name| name.starts_with("00000002")).collect();
    assert!(begun.is_empty(), "it has begun a timeline: {begun:?}: {said}");
    assert!(!said.contains("archive recovery complete"), "{said}");
}

fn goes_on(server: Server) {
    let archive = Archive::new("limit = \"256MiB\"");
    let primary = archive.primary(server);
    primary.leaves_its_socket();
    primary.make_role("postgres");
    archive.follows(&primary.role_url("postgres"));
    primary.psql("postgres", "CREATE TABLE load (id int, filler text); CREATE TABLE markers (id int)");
    let made = archive.farshore(&["backup", &archive.text("policy.toml")]);
    assert!(made.status.success(), "{made:?}");
    (1..=5).for_each(|round| load(&primary, round));
    archive.settles(&primary);
    drop(primary);

    let disk = Disk::new(archive.path("disk"), 512);
    give(&archive.path("disk"));
    let data = disk.0.join("data");
    let whole = disk.free_bytes();
    let output = restore(&archive, server, &data, &[]);
    assert!(output.status.success(), "{output:?}");
    let restored = whole - disk.free_bytes();
    fs::remove_dir_all(&data).unwrap();

    // Room for the restore and for two segments more, of the ten and more that are replayed.
    let ballast = disk.fill_but(restored + (40 << 20));
    let output = restore(&archive, server, &data, &["--start"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{output:?}");
    still_recovers(&data, &said);
    assert!(said.contains("what was restored is as it should be") && said.contains("start the server"), "the next step: {said}");

    // By hand it is no different, as often as anybody tries.
    let mut cluster = Cluster::unstarted(server, &["archive_mode=off"]);
    cluster.elsewhere(data.clone());
    for _ in 0..2 {
        assert!(!cluster.try_start(), "{}", cluster.log());
        still_recovers(&data, &cluster.log());
    }
    fs::remove_file(ballast).unwrap();
    cluster.start();
    assert_eq!(cluster.psql("postgres", "SELECT max(id), count(*) FROM markers"), "5|5");
    assert_eq!(cluster.psql("postgres", "SELECT count(*) FROM load"), "150000");
    assert_eq!(cluster.psql("postgres", "SELECT timeline_id FROM pg_control_checkpoint()"), "2");
    cluster.amcheck();
    cluster.stop(true);
}

#[test]
fn a_recovery_of_a_15_whose_disk_runs_full_stops_and_goes_on_when_there_is_room() {
    goes_on(Server::Fifteen);
}

#[test]
fn a_recovery_of_an_18_whose_disk_runs_full_stops_and_goes_on_when_there_is_room() {
    goes_on(Server::Eighteen);
}
