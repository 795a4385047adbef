//! What a drill along the archived log says of what would have been lost, on a clock that is handed in.

use std::{path::PathBuf, time::Duration};

use chrono::{DateTime, Utc};
use farshore::{
    clock::FixedClock,
    operations::{DrillRequest, drill},
    policy::Policy,
    progress::Tally,
    report::{Agent, DrillReport, ExitCode, Verdict},
    repository::{Identities, Workers},
    sources::postgres::physical::{Fetch, facts::PhysicalFacts},
    stores::{FilesystemStore, SharedStore},
};
use secrecy::SecretString;

use super::{
    archive::Archive,
    disaster::{Operator, gone},
};
use crate::postgres::Server;

fn directory(path: PathBuf) -> SharedStore {
    FilesystemStore::new(path)
}

/// A drill of the newest point at this time, of a policy with this objective.
async fn drilled(archive: &Archive, server: Server, at: DateTime<Utc>, rpo: Duration) -> DrillReport {
    let text = std::fs::read_to_string(archive.path("policy.toml")).unwrap();
    let mut policy = Policy::parse(&text, "test").unwrap();
    policy.objectives.rpo = Some(rpo);
    let key = SecretString::from(std::fs::read_to_string(archive.path("own.txt")).unwrap());
    let identities = Identities::parse("own.txt", &key).unwrap();
    let fetch = |facts: &PhysicalFacts, found: String| {
        let (program, site) = (env!("CARGO_BIN_EXE_farshore"), archive.text("site"));
        let words = [program, "wal", "get", "--system", &facts.system_identifier, "--tablespaces-in-place", "--site", &site];
        let argv = words.map(str::to_owned).to_vec();
        Ok(Fetch { argv, policy: None, identities: vec![archive.path("own.txt")], found })
    };
    let request = DrillRequest {
        policy: &policy,
        store: directory(archive.path("site")),
        identities: &identities,
        point: "latest",
        workers: Workers::start(2, 1).unwrap(),
        observer: Tally::alone(),
        clock: FixedClock::shared(at),
        agent: Agent { user: "u".to_owned(), host: "h".to_owned(), version: "0".to_owned() },
        parallelism: 2,
        server: None,
        bin_directory: Some(server.bin()),
        open_directory: directory,
        fetch: &fetch,
    };
    drill(request).await.unwrap().report
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drill_loses_what_came_after_the_end_of_the_log_and_fails_where_archiving_stopped_long_before() {
    let (archive, server) = (Archive::new("limit = \"256MiB\""), Server::Eighteen);
    let (primary, _) = gone(&archive, server);
    let operator = Operator::new(&archive, server);
    // The server ended its last segment then, and wrote no more to it.
    let (last, _) = archive.segments().pop().unwrap();
    let file = std::fs::metadata(primary.data().join("pg_wal").join(last)).unwrap();
    let ended: DateTime<Utc> = file.modified().unwrap().into();

    // So much that the log is within it, and the point is not.
    let second = Duration::from_secs(1);
    let listed = operator.run(&["points", &archive.text("policy.toml"), "--json"]);
    let points: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap();
    let point: DateTime<Utc> = points[0]["time"].as_str().unwrap().parse().unwrap();
    let between = second + ((ended - point) / 2).to_std().unwrap();
    let report = drilled(&archive, server, ended + second, between).await;
    let rpo = report.rpo.clone().unwrap();
    assert_eq!((report.exit_code(), rpo.restored_to, rpo.achieved_seconds), (ExitCode::Success, Some(ended), 1.0), "{report:#?}");
    assert_eq!(report.sources[0].recovered_to, Some(ended), "{report:#?}");
    let shown = report.point.as_ref().unwrap().consistent_at;
    assert!(
        ended + second - shown > chrono::TimeDelta::from_std(between).unwrap(),
        "by the point alone it would fail: {shown}, {ended}"
    );

    // Archiving stopped, and nobody noticed for two hours.
    let report = drilled(&archive, server, ended + Duration::from_secs(7200), Duration::from_secs(300)).await;
    assert_eq!(
        (report.verdict, report.reasons.as_slice()),
        (Verdict::Failed, &["RPO: 2 h of data lost, the objective is 5 min".to_owned()][..])
    );
}
