//! What verification reads, remembers and says; and how damage is mended.

mod meanwhile;
mod mending;
mod repairing;
mod rolling;
mod standing;
mod structure;

use std::collections::BTreeSet;

use farshore::stores::{MemoryStore, SharedStore};

use crate::support::recovery::{Recovery, noise};

/// A repository of so many points, each with an object of its own beside those before; the ids of the points.
async fn nightly(recovery: &Recovery, points: u64) -> (SharedStore, Vec<String>) {
    let store: SharedStore = MemoryStore::with_clock("site", recovery.clock.clone());
    recovery.init(&store).await;
    let cache = recovery.fresh_cache();
    let mut ids = Vec::new();
    for number in 0..points {
        recovery.put(&format!("{number:02}"), noise(20_000, number)).await;
        ids.push(recovery.backup(store.clone(), &cache).await.unwrap().point_id);
    }
    (store, ids)
}

/// The points that count as verified.
async fn verified(recovery: &Recovery, store: &SharedStore) -> BTreeSet<String> {
    let points = recovery.points(store.clone(), &recovery.fresh_cache()).await.unwrap();
    points.into_iter().filter(|point| point.verified.is_some()).map(|point| point.id).collect()
}
