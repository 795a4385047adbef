//! What an archive must not take for whole, and how far one goes that lacks a segment.

use super::{
    archive::Archive,
    disaster::{Operator, check, gone, said},
};
use crate::postgres::Server;

/// The place that a refused restore advises.
fn advised(said: &str) -> &str {
    let (_, place) = said.split_once("--to-lsn ").unwrap_or_else(|| panic!("{said}"));
    place.split([',', ' ']).next().unwrap()
}

fn bytes_of(lsn: &str) -> u64 {
    let (high, low) = lsn.split_once('/').unwrap();
    u64::from_str_radix(high, 16).unwrap() << 32 | u64::from_str_radix(low, 16).unwrap()
}

fn comes_as_far_as_is_advised(server: Server) {
    let archive = Archive::new("limit = \"256MiB\"");
    let (primary, _) = gone(&archive, server);
    let operator = Operator::new(&archive, server);
    let segments = archive.segments();
    let at = segments.len() - 2;
    std::fs::remove_file(&segments[at].1).unwrap();
    archive.ages();
    let cut = operator.restore("cut", &["--to-latest"]);
    let message = said(&cut);
    assert!(!cut.status.success() && message.contains("has a gap"), "{message}");
    let place = advised(&message);
    let gap = u64::from_str_radix(&segments[at].0[16..], 16).unwrap() * (16 << 20);
    let short = gap.checked_sub(bytes_of(place)).unwrap();
    assert!(short < 2 << 20, "{short} bytes before the gap at {gap:X}: {message}");
    let report = operator.restored("then", &["--to-lsn", place]);
    assert_eq!(check(&report, "recovered to")["outcome"], "passed", "{report:#}");
    let rows: u64 = primary.psql("postgres", "SELECT count(*) FROM load").parse().unwrap();
    assert!((30_000..90_000).contains(&rows), "{rows}");
    operator.stop("then");
}

#[test]
fn an_18_comes_as_far_as_is_advised_where_a_segment_is_lost() {
    comes_as_far_as_is_advised(Server::Eighteen);
}

#[test]
fn a_15_comes_as_far_as_is_advised_where_a_segment_is_lost() {
    comes_as_far_as_is_advised(Server::Fifteen);
}

#[test]
fn a_segment_that_the_server_has_not_finished_is_refused_until_it_has() {
    let archive = Archive::new("limit = \"256MiB\"");
    let primary = archive.primary(Server::Eighteen);
    let name = primary.psql("postgres", "CREATE TABLE markers (id int); CHECKPOINT; SELECT pg_walfile_name(pg_current_wal_lsn())");
    let path = primary.data().join("pg_wal").join(name.lines().last().unwrap());
    let (policy, path) = (archive.text("policy.toml"), path.to_str().unwrap());
    let pushed = archive.farshore(&["wal", "push", &policy, path]);
    assert_eq!(pushed.status.code(), Some(1), "{}", said(&pushed));
    assert!(said(&pushed).contains("and the log was not switched there: it is the beginning of a segment"), "{}", said(&pushed));
    assert!(!archive.segments().iter().any(|(there, _)| path.ends_with(there)));
    // It is switched, and the server itself has it archived.
    archive.settles(&primary);
    assert!(archive.segments().iter().any(|(there, _)| path.ends_with(there)), "{:?}", archive.segments());
}
