//! A relation that grows over the end of a segment of one gigabyte, and is cut off again.

use std::{fs::OpenOptions, process::Command};

use super::{
    cluster::Cluster,
    drill::{agent, reading_by},
    incremental::summarised,
};
use crate::{
    postgres::{Server, run},
    support::{agent::Agent, soak},
};

/// Pages of a segment.
const SEGMENT_PAGES: u64 = 131_072;

/// The newest point over what is there, which matches for the most part.
fn restored(agent: &Agent) {
    let (to, fast) = (agent.text("restored/data"), format!("fast={}", agent.text("restored/fast")));
    let words = ["restore", "policy.toml", "latest", "--source", "db", "--to", &to, "--tablespace", &fast, "--delta"];
    agent.operator(words).succeeds();
}

/// Bytes that a backup read.
fn read(agent: &Agent) -> u64 {
    let report = agent.backup();
    let source = &report["sources"][0];
    assert!(source["note"].as_str().unwrap().starts_with("incremental on"), "{source}");
    source["bytes_read"].as_u64().unwrap()
}

/// Its first segment is a gigabyte less some pages that were never written to, as a crash leaves them: they take no room on the disk.
fn grows(server: Server, read_by: &str) {
    let mut cluster = summarised(server, &[]);
    cluster.psql("app", "CREATE TABLE grown (id int, words text STORAGE PLAIN); INSERT INTO grown VALUES (0, ''); CHECKPOINT");
    let path = cluster.psql("app", "SELECT pg_relation_filepath('grown')");
    let (first, second) = (path.clone(), format!("{path}.1"));
    cluster.stop(true);
    let file = OpenOptions::new().write(true).open(cluster.data().join(&first)).unwrap();
    file.set_len((SEGMENT_PAGES - 300) * 8192).unwrap();
    cluster.start();
    let agent = agent(&cluster, "");
    reading_by(&agent, read_by);
    agent.init();
    agent.backup();
    let nothing = read(&agent);

    let is_the_same = |cluster: &Cluster, names: &[&str]| {
        restored(&agent);
        cluster.psql("app", "CHECKPOINT");
        for name in names {
            let mut compare = Command::new("cmp");
            compare.arg(cluster.data().join(name)).arg(agent.path("restored/data").join(name));
            run(compare);
        }
        let is_there = |name: &str| agent.path("restored/data").join(name).exists();
        assert_eq!(is_there(&second), cluster.data().join(&second).exists());
    };
    // A row fills a page.
    cluster.psql("app", "INSERT INTO grown SELECT n, repeat('x', 7900) FROM generate_series(1, 2000) n");
    let pages = "SELECT pg_relation_size('grown') / 8192";
    let grown: u64 = cluster.psql("app", pages).parse().unwrap();
    assert!(grown > SEGMENT_PAGES + 1600, "{grown} pages");
    let bytes = read(&agent);
    println!("{server}: read {bytes} after it grew by 2,000 pages, {nothing} after nothing", server = server.number());
    assert!(bytes < nothing + (100 << 20), "all of it was read: {bytes}");
    // Pages of its second segment are changed, and no more; what is read of the log goes by whole segments, and so says no more than this.
    cluster.psql("app", "DELETE FROM grown WHERE id BETWEEN 1500 AND 1510");
    let bytes = read(&agent);
    assert!(bytes < nothing + (100 << 20), "all of it was read: {bytes}");
    is_the_same(&cluster, &[&first, &second]);

    // Only empty pages are cut off: those of a row and more stay.
    cluster.psql("app", "DELETE FROM grown WHERE id > 100; VACUUM grown");
    let cut: u64 = cluster.psql("app", pages).parse().unwrap();
    assert!((SEGMENT_PAGES - 300..SEGMENT_PAGES).contains(&cut), "{cut} pages");
    let bytes = read(&agent);
    assert!(bytes < nothing + (100 << 20), "all of it was read: {bytes}");
    is_the_same(&cluster, &[&first]);

    let rows = "SELECT count(*), sum(length(words)), max(id) FROM grown";
    let expected = cluster.psql("app", rows);
    drop(cluster);
    let mut back = Cluster::unstarted(server, &["archive_mode=off", "autovacuum=off"]);
    back.elsewhere(agent.path("restored/data"));
    back.start();
    assert_eq!(back.psql("app", rows), expected);
    assert_eq!(back.psql("app", pages), cut.to_string());
}

/// Of 17 over SQL; with `FARSHORE_SOAK` of 18 from the data directory, too.
#[test]
fn of_a_relation_that_grows_over_its_first_gigabyte_only_what_is_new_is_read() {
    grows(Server::Seventeen, "sql");
    if soak(1) > 1 {
        grows(Server::Eighteen, "files");
    }
}
