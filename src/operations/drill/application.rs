//! The application's own view of what was restored: the policy's probes, and rows held against objects.

use std::{cmp::Ordering, collections::BTreeMap};

use futures_util::TryStreamExt;

use crate::{
    policy::{CrossCheck, Policy, Probe},
    report::{Check, CheckOutcome},
    sources::postgres::{PostgresConfig, probe, sorted_keys},
    stores::SharedStore,
};

/// Keys that a check names; the rest is counted.
const NAMED: usize = 5;

/// Runs every probe and cross-check of the policy. What cannot be run has failed.
pub(super) async fn check(
    policy: &Policy,
    databases: &BTreeMap<String, PostgresConfig>,
    stores: &BTreeMap<String, SharedStore>,
) -> Vec<Check> {
    let mut checks = Vec::new();
    for wanted in &policy.drill.probes {
        checks.push(run_probe(wanted, databases).await);
    }
    for wanted in &policy.cross_checks {
        checks.extend(cross_check(wanted, databases, stores).await);
    }
    checks
}

fn failed(name: String, expected: impl Into<String>, actual: impl Into<String>) -> Check {
    Check { name, expected: expected.into(), actual: actual.into(), outcome: CheckOutcome::Failed }
}

async fn run_probe(wanted: &Probe, databases: &BTreeMap<String, PostgresConfig>) -> Check {
    let name = format!("{}: probe {}", wanted.source, wanted.query);
    let Some(database) = databases.get(&wanted.source) else {
        return failed(name, &wanted.expect, "the point has no such source");
    };
    match probe(database, &wanted.query).await {
        Ok(answer) => Check::equal(name, &wanted.expect, answer),
        Err(error) => failed(name, &wanted.expect, error.to_string()),
    }
}

async fn cross_check(
    wanted: &CrossCheck,
    databases: &BTreeMap<String, PostgresConfig>,
    stores: &BTreeMap<String, SharedStore>,
) -> Vec<Check> {
    let name = format!("cross-check {} → {}", wanted.source, wanted.objects);
    let expected = "every key among the restored objects";
    let (Some(database), Some(store)) = (databases.get(&wanted.source), stores.get(&wanted.objects)) else {
        return vec![failed(name, expected, "the point lacks one of the two sources")];
    };
    match compare(wanted, database, store).await {
        Ok(found) if found.missing == 0 => {
            let mut checks = vec![Check::equal(
                name.clone(),
                format!("{} keys, 0 missing", found.keys),
                format!("{} keys, 0 missing", found.keys),
            )];
            if found.orphans > 0 {
                checks.push(Check::note(format!("{name}: objects without a row"), 0, found.orphans));
            }
            checks
        }
        Ok(found) => {
            let more = if found.missing > NAMED as u64 { " …" } else { "" };
            let actual = format!("{} keys, {} missing: {}{more}", found.keys, found.missing, found.named.join(", "));
            vec![failed(name, format!("{} keys, 0 missing", found.keys), actual)]
        }
        Err(detail) => vec![failed(name, expected, detail)],
    }
}

#[derive(Default)]
struct Found {
    keys: u64,
    missing: u64,
    orphans: u64,
    named: Vec<String>,
}

/// Both sides come sorted by bytes, so that one pass in flat memory is enough.
async fn compare(wanted: &CrossCheck, database: &PostgresConfig, store: &SharedStore) -> Result<Found, String> {
    let mut keys = sorted_keys(database, &wanted.query);
    let mut objects = Objects { store, page: Vec::new().into_iter(), last: None, more: true };
    let (mut key, mut object) = (next(&mut keys).await?, objects.next().await?);
    let mut found = Found::default();
    loop {
        let order = match (&key, &object) {
            (None, None) => return Ok(found),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(key), Some(object)) => key.as_bytes().cmp(object.as_bytes()),
        };
        if order.is_le() {
            found.keys += 1;
        }
        match order {
            Ordering::Less => {
                found.missing += 1;
                if found.named.len() < NAMED {
                    found.named.extend(key.take());
                }
                key = next(&mut keys).await?;
            }
            Ordering::Equal => (key, object) = (next(&mut keys).await?, objects.next().await?),
            Ordering::Greater => {
                found.orphans += 1;
                object = objects.next().await?;
            }
        }
    }
}

async fn next(
    keys: &mut futures_util::stream::BoxStream<'static, Result<String, crate::sources::SourceError>>,
) -> Result<Option<String>, String> {
    keys.try_next().await.map_err(|error| error.to_string())
}

/// Keys of a store, page by page.
struct Objects<'a> {
    store: &'a SharedStore,
    page: std::vec::IntoIter<crate::stores::ObjectStat>,
    last: Option<String>,
    more: bool,
}

impl Objects<'_> {
    async fn next(&mut self) -> Result<Option<String>, String> {
        loop {
            if let Some(object) = self.page.next() {
                self.last = Some(object.key.clone());
                return Ok(Some(object.key));
            }
            if !self.more {
                return Ok(None);
            }
            let page = self.store.list("", self.last.as_deref(), 1000).await.map_err(|error| error.to_string())?;
            self.more = page.more && !page.objects.is_empty();
            self.page = page.objects.into_iter();
        }
    }
}
