//! Captures that build on one another, for the tests of what changed.

use std::{collections::BTreeMap, sync::Arc};

use farshore::sources::{
    Captured,
    postgres::physical::{PhysicalTarget, PhysicalTargetOptions},
};

use super::cluster::Cluster;
use crate::{postgres::Server, support::database_exchange::Exchange};

/// A cluster that keeps summaries, with a tablespace, and a role that captures.
pub fn summarised(server: Server, settings: &[&str]) -> Cluster {
    let settings: Vec<&str> = ["summarize_wal=on", "autovacuum=off", "max_wal_size=4GB"].iter().chain(settings).copied().collect();
    let cluster = Cluster::new(server, &settings);
    let fast = cluster.make("fast");
    cluster.psql("postgres", &format!("CREATE TABLESPACE fast LOCATION '{}'; CREATE DATABASE app", fast.display()));
    cluster.make_role("app");
    cluster
}

/// What a capture has of the data directory: files, and with nothing in them directories.
fn data(exchange: &Exchange) -> BTreeMap<String, Option<Vec<u8>>> {
    let entries = exchange.all_entries().into_iter().filter(|entry| entry.path.starts_with(b"data/") && entry.content.is_none());
    let directories = entries.map(|entry| (entry.display_path(), None));
    let files = exchange.files("data/").into_iter().map(|(name, bytes)| (format!("data/{name}"), Some(bytes)));
    directories.chain(files).collect()
}

/// Where the two differ, with the blocks.
pub fn differences(left: &Exchange, right: &Exchange) -> Vec<String> {
    let (left, right) = (data(left), data(right));
    let names = left.keys().chain(right.keys().filter(|name| !left.contains_key(*name)));
    let describe = |name: &String| match (left.get(name), right.get(name)) {
        (one, other) if one == other => None,
        (Some(Some(one)), Some(Some(other))) => {
            let blocks = one.chunks(8192).zip(other.chunks(8192)).enumerate().filter(|(_, (one, other))| one != other);
            let blocks: Vec<usize> = blocks.map(|(block, _)| block).collect();
            Some(format!("{name}: {} and {} bytes, blocks {blocks:?}", one.len(), other.len()))
        }
        (one, other) => Some(format!("{name}: there {}, there {}", one.is_some(), other.is_some())),
    };
    names.filter_map(describe).collect()
}

/// A capture that follows another one.
pub async fn follow(cluster: &Cluster, earlier: Option<(&Exchange, &Captured)>) -> (Arc<Exchange>, Captured) {
    let exchange = earlier.map_or_else(Exchange::default, |(exchange, captured)| exchange.following(&captured.facts));
    let captured = exchange.capture(&cluster.source("app"), 2).await.unwrap();
    (Arc::new(exchange), captured)
}

pub async fn restore(server: Server, exchange: &Arc<Exchange>, captured: &Captured) -> Cluster {
    let mut restored = Cluster::unstarted(server, &[]);
    let tablespaces = vec![("fast".to_owned(), restored.path("fast"))];
    let target = PhysicalTarget::new(restored.data(), PhysicalTargetOptions { tablespaces, ..PhysicalTargetOptions::default() });
    exchange.rebuild(&target, &captured.facts, false).await.unwrap();
    restored.start();
    restored
}
