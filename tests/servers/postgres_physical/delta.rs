//! Into a data directory that is there already: what matches is kept, block by block.

use std::{
    collections::BTreeMap,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant, SystemTime},
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::Value;

use super::{cluster::Cluster, drill::agent};
use crate::{
    postgres::Server,
    support::{self, agent::Agent, soak},
};

/// What lies below a directory; not the one file that says where its tablespaces are.
fn files(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    let mut open = vec![directory.to_owned()];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(directory).unwrap().to_owned();
            if name.ends_with("tablespace_map") {
                continue;
            }
            if path.is_dir() && !path.is_symlink() {
                open.push(path);
                all.insert(name, b"directory".to_vec());
            } else if path.is_symlink() {
                all.insert(name, b"link".to_vec());
            } else {
                all.insert(name, std::fs::read(&path).unwrap());
            }
        }
    }
    all
}

/// Restores the newest point into `name` and its tablespace beside it.
fn restore(agent: &Agent, name: &str, more: &[&str]) -> support::agent::Outcome {
    let (to, tablespace) = (agent.text(&format!("{name}/data")), format!("fast={}", agent.text(&format!("{name}/fast"))));
    let words = ["restore", "policy.toml", "latest", "--source", "db", "--to", &to, "--tablespace", &tablespace, "--json"];
    agent.operator(words.into_iter().chain(more.iter().copied()))
}

/// A server on what was restored into `name`; it lies where the agent's files do.
fn serve(agent: &Agent, server: Server, name: &str) -> Cluster {
    let mut cluster = Cluster::unstarted(server, &["archive_mode=off", "autovacuum=off"]);
    cluster.elsewhere(agent.path(&format!("{name}/data")));
    cluster.start();
    cluster
}

/// A cluster with a tablespace, backed up.
fn backed_up() -> (Cluster, Agent) {
    let cluster = Cluster::new(Server::Eighteen, &["autovacuum=off"]);
    let fast = cluster.make("fast");
    cluster.psql(
        "postgres",
        &format!("CREATE TABLESPACE fast LOCATION '{}'; CREATE DATABASE app; CREATE DATABASE gone", fast.display()),
    );
    cluster.make_role("app");
    cluster.psql(
        "app",
        "CREATE TABLE large AS SELECT n AS id, repeat(md5(n::text), 8) AS words FROM generate_series(1, 60000) n; \
         ALTER TABLE large ADD PRIMARY KEY (id); CREATE TABLE moved TABLESPACE fast AS SELECT generate_series(1, 20000) AS id; CHECKPOINT",
    );
    let agent = agent(&cluster, "");
    agent.init();
    agent.backup();
    (cluster, agent)
}

fn bytes(report: &Value) -> u64 {
    report["sources"][0]["bytes"].as_u64().unwrap()
}

/// Changes a byte, and lets the file look as before.
fn rot(path: &Path, at: u64) {
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let time: SystemTime = file.metadata().unwrap().modified().unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    file.set_modified(time).unwrap();
}

#[test]
fn a_cluster_that_went_on_and_was_damaged_comes_back_to_the_point_and_only_what_differs_is_written() {
    let (cluster, agent) = backed_up();
    let fresh = restore(&agent, "fresh", &[]).succeeds().json();
    let whole = files(&agent.path("fresh"));
    restore(&agent, "used", &[]).succeeds();
    assert!(files(&agent.path("used")) == whole, "two restores of one point differ");
    assert!(!whole.keys().any(|path| path.to_string_lossy().contains("farshore")), "something of the restore's own is left");
    let nothing = restore(&agent, "used", &["--delta"]).succeeds().json();
    // What is written last is written anew.
    assert!(bytes(&nothing) < 1 << 16, "{nothing:#}");
    assert!(files(&agent.path("used")) == whole);

    let mut used = serve(&agent, cluster.server, "used");
    let refused = restore(&agent, "used", &["--delta"]);
    assert_ne!(refused.code, 0);
    assert!(refused.stderr.contains("a server runs here"), "{}", refused.stderr);
    used.psql(
        "app",
        "UPDATE large SET words = 'other' WHERE id % 5000 = 0; CREATE TABLE more AS SELECT 1; TRUNCATE moved; CHECKPOINT",
    );
    used.psql("postgres", "DROP DATABASE gone; CREATE DATABASE another");
    let path = agent.path("used/data").join(used.psql("app", "SELECT pg_relation_filepath('large')"));
    used.stop(false);
    rot(&path, 4_000_000);
    std::fs::write(agent.path("used/data/base/5/notes"), "somebody's").unwrap();
    std::os::unix::fs::symlink("/etc", agent.path("used/data/base/link")).unwrap();
    // Where the point has a file there is a directory, and the other way round.
    let file = whole.keys().find(|path| path.ends_with("PG_VERSION") && path.to_string_lossy().contains("base/1")).unwrap();
    std::fs::remove_file(agent.path("used").join(file)).unwrap();
    std::fs::create_dir_all(agent.path("used").join(file).join("below/it")).unwrap();
    std::fs::remove_dir_all(agent.path("used/data/pg_multixact")).unwrap();
    std::fs::write(agent.path("used/data/pg_multixact"), "a file").unwrap();

    let plan = restore(&agent, "used", &["--delta", "--dry-run"]).succeeds().stdout;
    assert!(plan.contains("what matches is kept"), "{plan}");
    let refused = restore(&agent, "used", &[]);
    assert!(refused.code != 0 && refused.stderr.contains("not empty"), "{}", refused.stderr);
    let mended = restore(&agent, "used", &["--delta"]).succeeds().json();
    let now = files(&agent.path("used"));
    let different: Vec<_> = now.keys().chain(whole.keys()).filter(|path| now.get(*path) != whole.get(*path)).collect();
    assert!(different.is_empty(), "{different:?}");
    assert!(bytes(&mended) * 2 < bytes(&fresh), "{} of {} bytes were written", bytes(&mended), bytes(&fresh));
    assert!(Path::new("/etc/passwd").exists());
    let used = serve(&agent, cluster.server, "used");
    assert_eq!(used.psql("app", "SELECT count(*), max(length(words)) FROM large"), "60000|256");
    assert_eq!(used.psql("app", "SELECT count(*) FROM moved"), "20000");
    used.amcheck();
}

#[test]
fn another_clusters_directory_is_not_written_to() {
    let (_cluster, agent) = backed_up();
    let mut other = Cluster::new(Server::Eighteen, &[]);
    other.stop(true);
    let before = files(&other.data());
    let refused = agent.operator([
        "restore",
        "policy.toml",
        "latest",
        "--source",
        "db",
        "--to",
        other.data().to_str().unwrap(),
        "--tablespace",
        &format!("fast={}", agent.text("elsewhere")),
        "--delta",
    ]);
    assert_ne!(refused.code, 0);
    assert!(refused.stderr.contains("holds another cluster"), "{}", refused.stderr);
    assert!(files(&other.data()) == before);
}

#[test]
fn over_a_log_and_a_tablespace_that_lie_elsewhere_only_what_is_their_own_is_removed() {
    let (cluster, agent) = backed_up();
    restore(&agent, "used", &[]).succeeds();
    // Somebody's directory, named by mistake.
    let theirs = agent.path("theirs");
    std::fs::create_dir_all(theirs.join("PG_18_202506291/5")).unwrap();
    std::fs::write(theirs.join("PG_18_202506291/5/1"), "somebody's").unwrap();
    let before = files(&theirs);
    let (to, tablespace) = (agent.text("used/data"), format!("fast={}", theirs.display()));
    let words = ["restore", "policy.toml", "latest", "--source", "db", "--to", &to, "--tablespace", &tablespace, "--delta"];
    for more in [&[][..], &["--dry-run"]] {
        let refused = agent.operator(words.into_iter().chain(more.iter().copied())).ends_with(9);
        assert!(refused.stderr.contains("is not empty") && refused.stderr.contains("would be removed"), "{}", refused.stderr);
    }
    assert!(files(&theirs) == before && agent.path("used/data/global/pg_control").exists());

    // An older version's files beside ours, and the log on a disk of its own (`initdb --waldir`).
    let older = agent.path("used/fast/PG_14_202107181/5");
    std::fs::create_dir_all(&older).unwrap();
    std::fs::write(older.join("1"), "of before the upgrade").unwrap();
    std::fs::rename(agent.path("used/data/pg_wal"), agent.path("used/log")).unwrap();
    std::os::unix::fs::symlink(agent.path("used/log"), agent.path("used/data/pg_wal")).unwrap();
    std::fs::write(agent.path("used/log/0000000100000000000000FF"), "left over").unwrap();
    let moved = agent.path("used/fast").read_dir().unwrap().map(|entry| entry.unwrap().path());
    let ours = moved.filter(|path| path.to_string_lossy().contains("PG_18_")).last().unwrap();
    std::fs::write(ours.join("strange"), "not of the point").unwrap();
    restore(&agent, "used", &["--delta"]).succeeds();
    assert!(agent.path("used/data/pg_wal").is_symlink() && !agent.path("used/log/0000000100000000000000FF").exists());
    assert!(!ours.join("strange").exists() && older.join("1").exists() && !agent.path("used/fast/farshore-restore").exists());
    // What is no log is not removed for a link's sake.
    std::fs::write(agent.path("used/log/notes"), "somebody's").unwrap();
    let refused = restore(&agent, "used", &["--delta"]).ends_with(9);
    assert!(
        refused.stderr.contains("notes") && refused.stderr.contains("lies, which is no part of a log and would be removed"),
        "{}",
        refused.stderr
    );
    std::fs::remove_file(agent.path("used/log/notes")).unwrap();
    let used = serve(&agent, cluster.server, "used");
    assert_eq!(used.psql("app", "SELECT count(*) FROM moved"), "20000");
}

#[test]
fn a_restore_that_was_killed_cannot_be_started_and_goes_on_with_what_it_has() {
    let (cluster, agent) = backed_up();
    let began = Instant::now();
    restore(&agent, "fresh", &[]).succeeds();
    let took = began.elapsed();
    let whole = files(&agent.path("fresh"));
    let mut random = StdRng::seed_from_u64(1);
    let mut cut_off = 0;
    for number in 0..soak(2) {
        let name = format!("killed-{number}");
        let (to, tablespace) = (agent.text(&format!("{name}/data")), format!("fast={}", agent.text(&format!("{name}/fast"))));
        for turn in 0..3 {
            let words = ["restore", "policy.toml", "latest", "--source", "db", "--to", &to, "--tablespace", &tablespace, "--delta"];
            let mut restoring = agent
                .command(words)
                .env("FARSHORE_IDENTITY_FILE", agent.text("operator.txt"))
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            // In the middle of it, however long that is on this machine: the first time when so many files are there, then whenever.
            let (enough, pause) = (random.random_range(1..whole.len() / 2), took.mul_f64(random.random_range(0.2..0.9)));
            if turn == 0 {
                while support::agent::files(&agent.path(&name)).len() < enough && restoring.try_wait().unwrap().is_none() {
                    std::thread::sleep(Duration::from_millis(1));
                }
            } else {
                std::thread::sleep(pause);
            }
            restoring.kill().unwrap();
            restoring.wait().unwrap();
            let control = agent.path(&format!("{name}/data/global/pg_control")).exists();
            let marker = agent.path(&format!("{name}/data/farshore-restore")).exists();
            let any = agent.path(&format!("{name}/data")).read_dir().is_ok_and(|mut names| names.next().is_some());
            assert!(!control || files(&agent.path(&name)).len() >= whole.len(), "turn {turn}: half of it, and it can be started");
            assert!(control || marker || !any, "turn {turn}: nobody knows what this is");
            cut_off += u64::from(any && !control);
        }
        restore(&agent, &name, &["--delta"]).succeeds();
        assert!(files(&agent.path(&name)) == whole, "number {number}");
    }
    assert!(cut_off > 0, "no restore was cut off in the middle");
    let back = serve(&agent, cluster.server, "killed-0");
    assert_eq!(back.psql("app", "SELECT count(*) FROM large"), "60000");
}
