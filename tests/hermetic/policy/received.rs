//! How the log of a cluster is received.

use farshore::policy::{Policy, PostgresReceiveBy, SourceKind, WalPolicy};

use super::with;

/// How the log is received, of a policy whose `wal` says this.
fn received(wal: &str) -> Result<(String, u64), Vec<String>> {
    read(wal).map(|(slot, wal)| (slot, wal.hold_bytes))
}

fn read(wal: &str) -> Result<(String, WalPolicy), Vec<String>> {
    let text = with("password = { file", &format!("method = \"physical\"\nwal = {{ {wal} }}\npassword = {{ file"));
    match Policy::parse(&text, "p.toml") {
        Ok(policy) => {
            let SourceKind::Postgres(postgres) = &policy.source("db").unwrap().kind else { panic!() };
            Ok((postgres.wal.slot_name(&policy.name), postgres.wal.clone()))
        }
        Err(errors) => Err(errors.problems.iter().map(ToString::to_string).collect()),
    }
}

#[test]
fn a_slot_has_a_name_that_the_server_takes_and_a_bound_that_is_not_too_small() {
    assert_eq!(received(""), Ok(("farshore_good".to_owned(), 10 << 30)));
    assert_eq!(received("slot = \"a_1\", hold = \"64MiB\""), Ok(("a_1".to_owned(), 64 << 20)));
    let longest = "s".repeat(63);
    assert_eq!(received(&format!("slot = \"{longest}\"")), Ok((longest.clone(), 10 << 30)));
    for slot in ["Farshore", "far-shore", "far shore", "fähre", &format!("{longest}s")] {
        let problems = received(&format!("slot = \"{slot}\"")).unwrap_err();
        assert_eq!(problems.len(), 1, "{slot:?}: {problems:?}");
        assert!(problems[0].contains("wal.slot") && problems[0].contains("is no name of a slot"), "{slot:?}: {problems:?}");
    }
    for hold in ["63MiB", "0B", "10", "-1GiB", "much", ""] {
        let problems = received(&format!("hold = \"{hold}\"")).unwrap_err();
        assert!(problems.len() == 1 && problems[0].contains("wal.hold"), "{hold:?}: {problems:?}");
    }
}

#[test]
fn the_log_is_streamed_where_that_can_be_unless_the_policy_says_otherwise() {
    for (said, expected) in [
        ("", PostgresReceiveBy::Auto),
        ("receive_by = \"auto\"", PostgresReceiveBy::Auto),
        ("receive_by = \"stream\"", PostgresReceiveBy::Stream),
        ("receive_by = \"sql\"", PostgresReceiveBy::Sql),
    ] {
        assert_eq!(read(said).unwrap().1.receive_by, expected, "{said}");
    }
    let problems = read("receive_by = \"files\"").unwrap_err();
    assert!(problems.len() == 1 && problems[0].contains("wal.receive_by"), "{problems:?}");
}
