//! A real etcd, saved and restored by source `command`.
//!
//! `FARSHORE_TEST_ETCD_BIN` is the directory that holds `etcd` and `etcdctl`.

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use farshore::sources::command::{CommandOptions, CommandSource, CommandTarget};

use crate::support::{
    exchange::{Capturing, Rebuilding, assert_checks},
    server,
};

/// A server of one node, killed when dropped.
struct Etcd {
    child: Child,
    endpoint: String,
    bin: PathBuf,
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Etcd {
    fn start(bin: &Path, data: &Path) -> Self {
        let (client, peer) = (free_port(), free_port());
        let endpoint = format!("http://127.0.0.1:{client}");
        let log = std::fs::File::create(data.with_extension("log")).unwrap();
        let child = Command::new(bin.join("etcd"))
            .env("ETCD_UNSUPPORTED_ARCH", std::env::consts::ARCH)
            .arg("--data-dir")
            .arg(data)
            .args(["--name", "default", "--listen-client-urls", &endpoint, "--advertise-client-urls", &endpoint])
            .args(["--listen-peer-urls", &format!("http://127.0.0.1:{peer}")])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("etcd starts");
        let etcd = Self { child, endpoint, bin: bin.to_owned() };
        for _ in 0..150 {
            if etcd.command(&["endpoint", "health"]).output().unwrap().status.success() {
                return etcd;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        panic!("etcd does not answer; see {}", data.with_extension("log").display());
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.bin.join("etcdctl"));
        command.env("ETCDCTL_API", "3").args(["--endpoints", &self.endpoint]).args(arguments);
        command
    }

    fn run(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn everything(&self) -> String {
        self.run(&["get", "", "--prefix"])
    }
}

#[tokio::test]
async fn a_snapshot_of_etcd_comes_back_with_the_same_keys() {
    let bin = PathBuf::from(server("FARSHORE_TEST_ETCD_BIN"));
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name);
    let primary = Etcd::start(&bin, &at("primary"));
    for number in 0..50 {
        primary.run(&["put", &format!("/registry/configmaps/mattermost/c{number}"), &format!("value {number} ünï")]);
    }
    let before = primary.everything();
    assert_eq!(before.lines().count(), 100);

    // etcdctl writes snapshots only into files.
    let script = "set -e; \"$0\" --endpoints \"$1\" snapshot save \"$2\" >&2; cat \"$2\"; rm \"$2\"";
    let etcdctl = bin.join("etcdctl").display().to_string();
    let source = CommandSource::new(CommandOptions {
        capture: ["sh", "-c", script, &etcdctl, &primary.endpoint, &at("snapshot").display().to_string()]
            .map(str::to_owned)
            .to_vec(),
        timeout: Some(Duration::from_secs(60)),
        environment: [("ETCDCTL_API".to_owned(), "3".to_owned())].into(),
        directory: Some(place.path().to_owned()),
    });
    let capturing = Capturing::first();
    let captured = capturing.run(&source).await.unwrap();
    assert_eq!(capturing.problems(), Vec::<String>::new());
    assert!(captured.facts["stderr"].as_str().unwrap().contains("snapshot"), "{}", captured.facts);

    // The primary is gone.
    drop(primary);
    std::fs::remove_dir_all(at("primary")).unwrap();

    let restored = at("restored.db");
    let rebuilt =
        Rebuilding::anew().run(&CommandTarget::File(restored.clone()), capturing.sink.origin(), &captured.facts).await.unwrap();
    assert_checks(&rebuilt);
    let made = Command::new(&etcdctl)
        .env("ETCDCTL_API", "3")
        .args(["snapshot", "restore", restored.to_str().unwrap(), "--data-dir", at("secondary").to_str().unwrap()])
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let secondary = Etcd::start(&bin, &at("secondary"));
    assert_eq!(secondary.everything(), before);
}

#[tokio::test]
async fn an_etcd_that_does_not_answer_is_an_error_with_its_own_words() {
    let bin = PathBuf::from(server("FARSHORE_TEST_ETCD_BIN"));
    let place = tempfile::tempdir().unwrap();
    let endpoint = format!("http://127.0.0.1:{}", free_port());
    let snapshot = place.path().join("snapshot");
    let source = CommandSource::new(CommandOptions {
        capture: [
            bin.join("etcdctl").to_str().unwrap(),
            "--endpoints",
            &endpoint,
            "--dial-timeout=1s",
            "--command-timeout=2s",
            "snapshot",
            "save",
            snapshot.to_str().unwrap(),
        ]
        .map(str::to_owned)
        .to_vec(),
        timeout: Some(Duration::from_secs(30)),
        environment: [("ETCDCTL_API".to_owned(), "3".to_owned())].into(),
        directory: None,
    });
    let capturing = Capturing::first();
    let error = capturing.run(&source).await.unwrap_err().to_string();
    assert!(error.contains("etcdctl") && error.contains("it said:"), "{error}");
    assert!(capturing.sink.entries().is_empty());
}
