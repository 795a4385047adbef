//! What is said of an archive before a cluster is restored.

use std::time::Duration;

use farshore::{
    operations::look_beyond,
    repository::{Identities, LogKey},
    sources::postgres::physical::{RecoveryTarget, Timeline, facts::PhysicalFacts},
    stores::SharedStore,
};

use super::{
    faults::{begun, log_name, opened, put, writer},
    name,
    prune::point,
    push,
};
use crate::support::recovery::Recovery;

/// What is said of the way from the newest point to the end of the log.
async fn said(recovery: &Recovery, identities: &Identities, store: &SharedStore) -> Result<String, String> {
    let repository = opened(recovery, identities, store.clone()).await;
    let (newest, _) = repository.stored_points(None).await.unwrap().pop().unwrap();
    let point = repository.point(&newest).await.unwrap();
    let facts = PhysicalFacts::read(&point.snapshots[0].facts).unwrap();
    let found = look_beyond(&repository, &facts, &RecoveryTarget::Latest, Timeline::Current).await;
    found.map(Option::unwrap).map_err(|error| error.to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn before_a_gap_the_last_place_is_named_that_a_server_is_sure_to_reach() {
    let (recovery, store) = begun(true).await;
    point(&recovery, &store, 1, 3).await;
    let writer = writer(&recovery, store.clone(), &LogKey::default()).await;
    for number in [3, 4] {
        put(&writer, number).await.unwrap();
    }
    // Two records, the second of which ends it.
    writer.put(&log_name(&name(1, 5)), push::begun(5, true).into()).await.unwrap();
    put(&writer, 7).await.unwrap();
    let soon = said(&recovery, &recovery.identities, &store).await.unwrap();
    assert!(soon.contains(&format!("reaches {}", name(1, 5))) && soon.contains("may be on its way"), "{soon}");
    recovery.clock.advance(Duration::from_secs(60));
    let gap = said(&recovery, &recovery.identities, &store).await.unwrap_err();
    assert!(gap.contains("and then has a gap") && gap.contains("--to-lsn 0/5000A8, which is as far as"), "{gap}");
    // Whoever cannot open the log is told of the gap all the same.
    let gap = said(&recovery, &recovery.agent, &store).await.unwrap_err();
    assert!(gap.contains("and then has a gap") && gap.contains("--to-lsn to a place well before it"), "{gap}");
    // A point that the log does not take any further.
    point(&recovery, &store, 1, 8).await;
    put(&writer, 10).await.unwrap();
    recovery.clock.advance(Duration::from_secs(60));
    let gap = said(&recovery, &recovery.identities, &store).await.unwrap_err();
    assert!(gap.contains("does not go beyond the point, and then has a gap") && gap.contains("without --to-…"), "{gap}");
}
