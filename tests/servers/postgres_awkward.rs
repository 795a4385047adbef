//! A database with every awkward thing comes back.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::sync::Arc;

use farshore::{
    progress::CheckOutcome,
    sources::{
        Rebuild,
        postgres::{LogicalOptions, PostgresConfig, PostgresLogical, PostgresTarget, ScratchCluster, TargetOptions},
    },
};

use crate::{postgres::Server, support::database_exchange::Exchange};

const AWKWARD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/servers/awkward.sql");

/// The script makes roles, which the two tests share: one at a time.
static LOADING: std::sync::Mutex<()> = std::sync::Mutex::new(());

fn awkward_database() -> crate::postgres::Database {
    let _turn = LOADING.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let database = Server::Fifteen.database();
    database.server.psql_file(&database.name, AWKWARD);
    database
}

/// What cannot be the same in the dumps of two databases: the random token that a dump's `\restrict` lines carry; the order of
/// rows within a table that is loaded by several workers at once (a table has no order); and in which partition a row lies that
/// is hashed by an enum, since the hash is of the enum's object id (`felt`; its rows are compared together). Everything else, the
/// header with the versions included, must agree to the letter and in order.
fn comparable(dump: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut rows: Option<Vec<String>> = None;
    let mut hashed: Vec<String> = Vec::new();
    for line in dump.lines().filter(|line| !line.starts_with("\\restrict") && !line.starts_with("\\unrestrict")) {
        match &mut rows {
            Some(gathered) if line == "\\." => {
                let by_enum = lines.last().is_some_and(|copy| copy.starts_with("COPY public.felt "));
                gathered.sort();
                if by_enum { &mut hashed } else { &mut lines }.append(gathered);
                lines.push(line.to_owned());
                rows = None;
            }
            Some(gathered) => gathered.push(line.to_owned()),
            None => {
                lines.push(line.to_owned());
                if line.starts_with("COPY ") && line.ends_with("FROM stdin;") {
                    rows = Some(Vec::new());
                }
            }
        }
    }
    hashed.sort();
    lines.append(&mut hashed);
    lines
}

fn assert_same(expected: &str, actual: &str) {
    let (expected, actual) = (comparable(expected), comparable(actual));
    let different: Vec<String> = expected
        .iter()
        .filter(|line| !actual.contains(line))
        .map(|line| format!("- {line}"))
        .chain(actual.iter().filter(|line| !expected.contains(line)).map(|line| format!("+ {line}")))
        .take(40)
        .collect();
    assert!(different.is_empty(), "the dumps differ:\n{}", different.join("\n"));
    let moved = expected.iter().zip(&actual).position(|(a, b)| a != b);
    let moved = moved.map(|at| (&expected[at.saturating_sub(3)..at + 2], &actual[at.saturating_sub(3)..at + 2]));
    assert!(moved.is_none(), "the dumps hold the same lines in another order: {moved:#?}");
    assert_eq!(expected.len(), actual.len());
}

fn assert_passed(checks: &[farshore::progress::Check]) {
    let failed: Vec<_> = checks.iter().filter(|check| check.outcome == CheckOutcome::Failed).collect();
    assert!(failed.is_empty(), "{failed:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_awkward_database_comes_back_on_a_fresh_server_with_an_identical_dump() {
    let server = Server::Fifteen;
    let original = awkward_database();
    // Tiny segments: several tables are read and loaded in parts.
    let options = LogicalOptions { segment_bytes: 64 << 10, ..original.options() };
    let exchange = Arc::new(Exchange::default());
    let captured = exchange.capture(&PostgresLogical::new(original.config(), options), 3).await.unwrap();
    assert!(captured.consistent_at.is_some());

    let directory = tempfile::tempdir_in("/tmp").unwrap();
    make_traversable(directory.path());
    let cluster = ScratchCluster::start(&directory.path().join("fresh"), Some(&server.bin()), 15).await.unwrap();
    let config = PostgresConfig::parse(&cluster.url(&original.name), None).unwrap();
    let target = PostgresTarget::new(config, TargetOptions { bin_directory: Some(server.bin()), ..TargetOptions::default() });
    let found = target.inspect(&captured.facts, false).await.unwrap();
    assert!(found.contains("will be made"), "{found}");
    let (rebuilt, problems) = exchange.rebuild(&target, &captured.facts, false).await.unwrap();
    assert_eq!(problems, [], "nothing should have been passed over");
    assert_passed(&rebuilt.checks);
    let phases: Vec<&str> = rebuilt.phases.iter().map(|phase| phase.name.as_str()).collect();
    assert_eq!(phases, ["database transfer", "database recovery", "verification", "cut-over", "statistics"]);

    let dump = |program: &str, url: &str, arguments: &[&str]| {
        let output = std::process::Command::new(server.bin().join(program)).args(arguments).args(["-d", url]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let arguments = ["--create", "--blobs"];
    let expected = dump("pg_dump", &server.url(&original.name), &arguments);
    assert!(expected.contains("it''s a trap") && expected.len() > 100_000, "the dump holds what it should");
    assert_same(&expected, &dump("pg_dump", &cluster.url(&original.name), &arguments));

    // The roles: those of this test, because others run on the same server.
    let roles = |url: &str| -> Vec<String> {
        let dump = dump("pg_dumpall", url, &["--roles-only"]);
        dump.lines().filter(|line| line.contains("awkward")).map(str::to_owned).collect()
    };
    let expected = roles(&server.url("postgres"));
    assert!(expected.iter().any(|line| line.contains("SCRAM-SHA-256")), "{expected:?}");
    assert_eq!(expected, roles(&cluster.url("postgres")));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_awkward_database_of_15_comes_back_on_18() {
    let original = awkward_database();
    let exchange = Arc::new(Exchange::default());
    let captured = exchange.capture(&original.source(), 2).await.unwrap();
    let restored = Server::Eighteen.absent_database();
    let (rebuilt, problems) = exchange.rebuild(&restored.target(), &captured.facts, false).await.unwrap();
    assert_eq!(problems, [], "nothing should have been passed over");
    assert_passed(&rebuilt.checks);
    let rows = rebuilt.checks.iter().find(|check| check.name == "rows of awkward schema.every_type").unwrap();
    assert_eq!((rows.actual.as_str(), rows.outcome), ("502", CheckOutcome::Passed));
    // 18's own pg_dump of both ends: rows must be the same to the letter. Definitions differ in what 18 spells otherwise.
    let arguments = ["--data-only", "--blobs"];
    let data = |server: Server, name: &str| {
        let output = std::process::Command::new(Server::Eighteen.bin().join("pg_dump"))
            .args(arguments)
            .args(["-d", &server.url(name)])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        // Rows hashed by an enum lie in other partitions there, which is as it must be; they are counted above.
        let mut lines: Vec<String> =
            comparable(&text).into_iter().filter(|line| !line.starts_with("-- Dumped") && !line.contains("felt_")).collect();
        lines.sort();
        lines
    };
    assert_eq!(data(original.server, &original.name), data(restored.server, &restored.name));
}

/// The scratch server runs as another user when the tests run as root: it must be able to reach its directory.
fn make_traversable(directory: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755)).unwrap();
}
