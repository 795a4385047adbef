//! What an archive must not take for whole.

use super::{archive::Archive, disaster::said};
use crate::postgres::Server;

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
