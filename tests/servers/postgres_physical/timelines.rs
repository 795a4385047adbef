//! A log that forks: two servers went on from one backup, each on a timeline of its own.

use super::{
    archive::{Archive, base, load},
    cluster::Cluster,
    disaster::{Operator, check, primary, said},
};
use crate::postgres::Server;

const MARKERS: &str = "SELECT string_agg(id::text, ',' ORDER BY id) FROM markers";
const HERE: &str = "SELECT pg_current_wal_insert_lsn()";

/// A primary on the first timeline and a copy of it that was promoted to the second; both went on and archived, and are stopped. Places that
/// only the first and only the second has.
fn forked(archive: &Archive, server: Server) -> (Cluster, String, String) {
    let mut first = primary(archive, server);
    archive.follows(&first.role_url("postgres"));
    let made = archive.farshore(&["backup", &archive.text("policy.toml")]);
    assert!(made.status.success(), "{}", said(&made));
    let (restore, command) = (archive.restore_command(), archive.archive_command());
    let mut second = base(&first, &[&restore, "archive_mode=on", &command, "hot_standby=off", "autovacuum=off"]);
    load(&first, 1);
    archive.settles(&first);
    second.start();
    load(&second, 21);
    let on_second = second.psql("postgres", HERE);
    archive.settles(&second);
    // Further than the second ever came.
    (11..=13).for_each(|round| load(&first, round));
    let on_first = first.psql("postgres", HERE);
    archive.settles(&first);
    first.stop(true);
    second.stop(true);
    (first, on_first, on_second)
}

#[test]
fn a_17_comes_back_along_the_timeline_that_is_asked_for_and_what_only_the_other_has_is_refused() {
    let (archive, server) = (Archive::new("limit = \"256MiB\""), Server::Seventeen);
    let (cluster, on_first, on_second) = forked(&archive, server);
    let operator = Operator::new(&archive, server);
    for (name, words, markers) in [
        ("current", &["--timeline", "current", "--to-lsn", &on_first][..], "1,11,12,13"),
        ("latest", &["--timeline", "latest", "--to-lsn", &on_second], "1,21"),
        ("two", &["--timeline", "2", "--to-latest"], "1,21"),
    ] {
        let report = operator.restored(name, words);
        let reached = check(&report, "recovered to");
        assert_eq!(reached["outcome"], "passed", "{name}: {report:#}");
        assert_eq!(cluster.psql("postgres", MARKERS), markers, "{name}: {reached}");
        operator.stop(name);
    }
    let refused = |words: &[&str], expected: &[&str]| {
        let output = operator.restore("refused", words);
        let said = said(&output);
        assert!(!output.status.success() && expected.iter().all(|words| said.contains(words)), "{words:?}: {said}");
        assert!(!archive.path("refused").exists(), "what is refused writes nothing");
    };
    refused(&["--timeline", "2", "--to-lsn", &on_first], &["along timeline 2", "lies beyond that", "--timeline 1 has that place"]);
    refused(&["--timeline", "3", "--to-latest"], &["timeline 3 is not archived there (there is no 00000003.history)"]);

    // A gap behind the fork on the one hurts nobody who takes the other.
    let segments = archive.segments();
    let of_first: Vec<_> = segments.iter().filter(|(name, _)| name.starts_with("00000001")).collect();
    std::fs::remove_file(&of_first[of_first.len() - 2].1).unwrap();
    archive.ages();
    refused(&["--timeline", "current", "--to-latest"], &["and then has a gap"]);
    let plan = operator.restore("planned", &["--to-latest", "--dry-run"]);
    let text = String::from_utf8_lossy(&plan.stdout).into_owned();
    assert!(plan.status.success() && text.contains("along timeline 2, stored at"), "{text}{}", said(&plan));
}
