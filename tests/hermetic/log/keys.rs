//! Keys of the log: made by those who write, opened by those who read, wrapped anew like all others.

use std::time::Duration;

use chrono::DateTime;
use farshore::{
    progress::Tally,
    repository::{Identities, LogKey, LogReader, Recipients, RepositoryError, RotationRequest, generate_identity},
    stores::{PutOptions, SharedStore},
};

use super::faults::{assert_comes_back, begun, log_name, opened, put, writer};
use super::{Server, name};
use crate::support::recovery::{Recovery, noise, objects};

const HOUR: Duration = Duration::from_secs(3600);

async fn log_keys(store: &SharedStore) -> Vec<String> {
    objects(store.as_ref()).await.into_keys().filter(|key| key.starts_with("keys/log-")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_seals_for_a_day_and_the_writer_cannot_open_it() {
    let (recovery, store) = begun(true).await;
    let key = LogKey::default();
    for number in 0..50 {
        // Each time the site is opened anew, as after an error.
        put(&writer(&recovery, store.clone(), &key).await, number).await.unwrap();
        recovery.clock.advance(HOUR);
    }
    assert_eq!(log_keys(&store).await.len(), 3);
    assert_comes_back(&recovery, &recovery.identities, &store, 0, "the first day").await;
    assert_comes_back(&recovery, &recovery.identities, &store, 49, "the last").await;
    let reader = LogReader::new(opened(&recovery, &recovery.agent, store.clone()).await);
    let error = reader.fetch(&log_name(&name(1, 0))).await.unwrap_err();
    assert!(matches!(error, RepositoryError::Key { .. }), "{error}");
}

/// Somebody who becomes a recipient.
fn newcomer() -> (Identities, String) {
    let (secret, public) = generate_identity(DateTime::UNIX_EPOCH);
    (Identities::parse("new", &secret).unwrap(), public)
}

async fn rotate(recovery: &Recovery, store: &SharedStore, readers: &[String], anew: bool) {
    let repository = opened(recovery, &recovery.identities, store.clone()).await;
    let request = RotationRequest { readers: readers.to_vec(), anew, ..RotationRequest::default() };
    let done = repository.rotate(&request, Tally::alone().as_ref()).await.unwrap();
    assert_eq!((done.unwrapped.len(), done.left.len()), (0, 0), "{done:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotation_wraps_keys_of_the_log_for_whoever_comes_and_takes_them_from_whoever_goes() {
    let (mut recovery, store) = begun(true).await;
    let held = LogKey::default();
    put(&writer(&recovery, store.clone(), &held).await, 1).await.unwrap();
    let (new, public) = newcomer();
    let old = recovery.recipients.public_keys();
    rotate(&recovery, &store, &[old.clone(), vec![public.clone()]].concat(), false).await;
    assert_comes_back(&recovery, &new, &store, 1, "the newcomer").await;
    // The process that writes still has the key, and a policy that does not name the newcomer: it may not go on for ever.
    recovery.clock.advance(HOUR);
    let stale = put(&writer(&recovery, store.clone(), &held).await, 2).await.unwrap_err();
    assert!(matches!(stale, RepositoryError::OtherRecipients { .. }), "{stale}");
    recovery.recipients = Recipients::parse(std::slice::from_ref(&public), &recovery.recipients.agents()).unwrap();
    let before = log_keys(&store).await;
    rotate(&recovery, &store, &[public], false).await;
    assert!(log_keys(&store).await.iter().all(|key| !before.contains(key)), "every wrap that the old one opens is gone");
    put(&writer(&recovery, store.clone(), &held).await, 2).await.unwrap();
    for number in [1, 2] {
        assert_comes_back(&recovery, &new, &store, number, "the only reader").await;
        let error = recovery.open_with(&recovery.identities, store.clone(), &recovery.fresh_cache()).await.map(|_| ()).unwrap_err();
        assert!(error.to_string().contains("opens this key"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_lists_or_verifies_keys_sees_those_of_the_log() {
    let (recovery, store) = begun(true).await;
    recovery.put("a", noise(10_000, 1)).await;
    recovery.backup(store.clone(), &recovery.fresh_cache()).await.unwrap();
    put(&writer(&recovery, store.clone(), &LogKey::default()).await, 1).await.unwrap();
    let repository = opened(&recovery, &recovery.agent, store.clone()).await;
    let holders = repository.key_holders().await.unwrap();
    assert_eq!((holders.data_keys, holders.not_rewrapped), (2, 0));
    assert!(holders.holders.iter().any(|holder| holder.data_keys == 2 && !holder.agent));
    assert!(holders.holders.iter().all(|holder| holder.agent == (holder.data_keys == 0)));
    assert_eq!(recovery.verify(store.clone(), &recovery.fresh_cache()).await.unwrap().damage, []);
    let key = log_keys(&store).await.remove(0);
    let mut body = objects(store.as_ref()).await.remove(&key).unwrap().to_vec();
    let last = body.len() - 1;
    body[last] ^= 1;
    store.delete(&key).await.unwrap();
    store.put(&key, body.into(), PutOptions::default()).await.unwrap();
    let damage = recovery.verify(store.clone(), &recovery.fresh_cache()).await.unwrap().damage;
    // The key, and the file that nobody can read any more.
    let file = log_name(&name(1, 1)).to_string();
    assert_eq!(damage.iter().map(|damage| damage.object.as_str()).collect::<Vec<_>>(), [key.as_str(), file.as_str()]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prune_never_takes_a_key_of_the_log_for_one_that_no_pack_needs() {
    let (recovery, store) = begun(true).await;
    for day in 0..60 {
        recovery.put("a", noise(10_000, day)).await;
        recovery.backup(store.clone(), &recovery.fresh_cache()).await.unwrap();
        put(&writer(&recovery, store.clone(), &LogKey::default()).await, day).await.unwrap();
        recovery.prune(store.clone(), &recovery.fresh_cache()).await.unwrap();
        recovery.clock.advance(24 * HOUR);
    }
    assert_eq!(log_keys(&store).await.len(), 60);
    for number in [0, 30, 59] {
        assert_comes_back(&recovery, &recovery.identities, &store, number, "after two months").await;
    }
}

#[test]
fn a_check_of_keys_tries_those_of_the_log() {
    let server = Server::new();
    server.pushes(1);
    server.settles();
    let check = |identity: &str| {
        let identity = server.agent.text(identity);
        server.agent.run(["key", "check", "policy.toml", "--identity", &identity])
    };
    let whole = check("operator.txt").succeeds();
    assert!(whole.stdout.contains("Archived log: 1 of 1 log keys open\n"), "{}", whole.stdout);
    let closed = check("agent.key").ends_with(7);
    assert!(closed.stdout.contains("Archived log: 0 of 1 log keys open\n"), "{}", closed.stdout);
    assert!(closed.stdout.contains("opens this key"), "{}", closed.stdout);
    let mut keys = std::fs::read_dir(server.agent.path("site/keys")).unwrap().flatten();
    let key = keys.find(|key| key.file_name().to_string_lossy().starts_with("log-")).unwrap().path();
    std::fs::write(&key, "no key").unwrap();
    let damaged = check("operator.txt").ends_with(8);
    assert!(damaged.stdout.contains("Archived log: 0 of 1 log keys open\n"), "{}", damaged.stdout);
}
