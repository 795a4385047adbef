//! What a store really does, found out by trying: some servers answer 200 to a conditional write and do not honour it.

use bytes::Bytes;
use chrono::TimeDelta;
use futures_util::future::join_all;

use super::{
    RepositoryError,
    error::Result,
    keys::{random, sha256},
    lock::LockTerm,
};
use crate::{
    progress::Finding,
    stores::{GetOptions, Lock, LockMode, LockSupport, PutOptions, SharedStore, StoreError, read_all},
};

/// What `repository.json` says of if-absent writes that have exactly one winner.
pub const EXCLUSIVE: &str = "exclusive";
/// … and of those that do not. Names are hashes or random, so that a second writer writes the same bytes, or none.
pub const LAST_WRITER_WINS: &str = "last-writer-wins";

/// Writers in the race.
const RACERS: usize = 8;

/// What was found.
#[derive(Debug, Clone)]
pub struct Probed {
    /// [`EXCLUSIVE`] or [`LAST_WRITER_WINS`].
    pub writes: String,
    /// For the operator.
    pub findings: Vec<Finding>,
}

/// What a store promises of what it is sent, found out by trying, and (with a term) whether it really locks.
///
/// # Errors
/// The store's; [`RepositoryError::Refused`] for one that does not lock as the term asks for.
pub async fn examine_store(store: &SharedStore, term: Option<LockTerm>) -> Result<Vec<Finding>> {
    let versioned = store.lock_support().await.is_ok_and(|support| support.versioned);
    let mut findings = probe(store, versioned).await?.findings;
    if let Some(term) = term {
        findings.push(probe_locks(store, term.mode).await?);
    }
    Ok(findings)
}

/// Two conditional writes one after the other, then a race of eight, then a wrong checksum; cleans up after itself, with
/// `versions` also in a bucket's memory.
pub async fn probe(store: &SharedStore, versions: bool) -> Result<Probed> {
    let tag = hex::encode(random::<8>());
    let (sequence, race, checksum) =
        (format!("probe/{tag}-sequence"), format!("probe/{tag}-race"), format!("probe/{tag}-checksum"));
    let outcome = try_out(store, &sequence, &race, &checksum).await;
    for key in [&sequence, &race, &checksum] {
        // A writer without the right to delete leaves three tiny objects behind; that is no reason to fail.
        // On a versioned bucket a plain deletion would only hide them.
        let deleted = if versions { store.delete_versions(key).await } else { store.delete(key).await };
        if let Err(error) = deleted {
            tracing::warn!(%error, "a probe object could not be removed");
        }
    }
    outcome
}

async fn try_out(store: &SharedStore, sequence: &str, race: &str, checksum: &str) -> Result<Probed> {
    let if_absent = |body: &'static [u8], key: String| async move {
        let options = PutOptions { if_absent: true, sha256: Some(sha256(body)), ..PutOptions::default() };
        store.put(&key, Bytes::from_static(body), options).await
    };
    let mut findings = Vec::new();
    if_absent(b"first", sequence.to_owned()).await?;
    let second = if_absent(b"other", sequence.to_owned()).await;
    let kept = read_all(store.as_ref(), sequence, GetOptions::default(), 1024).await?;
    let in_sequence = matches!(second, Err(StoreError::AlreadyExists { .. })) && kept.as_ref() == b"first";
    let racers = join_all((0..RACERS).map(|number| {
        const BODIES: [&[u8]; RACERS] = [b"0", b"1", b"2", b"3", b"4", b"5", b"6", b"7"];
        if_absent(BODIES[number], race.to_owned())
    }))
    .await;
    let winners = racers.iter().filter(|outcome| outcome.is_ok()).count();
    let exclusive = in_sequence && winners == 1;
    let weaker = "nothing need be done, since names are hashes or random; a site that honours them is better still";
    findings.push(match (in_sequence, winners) {
        (true, 1) => Finding::sound("if-absent writes", format!("honoured; one winner of {RACERS} racers")),
        (true, many) => Finding::note(
            "if-absent writes",
            format!(
                "honoured one after the other, but {many} of {RACERS} racers won; the weaker guarantee `{LAST_WRITER_WINS}` is used"
            ),
            weaker,
        ),
        (false, _) => Finding::note(
            "if-absent writes",
            format!("answered and NOT honoured; the weaker guarantee `{LAST_WRITER_WINS}` is used"),
            weaker,
        ),
    });
    // If-absent, as a writer may be allowed nothing else: a missing right must not pass for a verified checksum.
    let options = PutOptions { if_absent: true, sha256: Some([0; 32]), ..PutOptions::default() };
    findings.push(match store.put(checksum, Bytes::from_static(b"checksum"), options).await {
        Err(_) => Finding::sound("upload checksums", "verified by the server (SHA-256)"),
        Ok(_) => {
            Finding::note("upload checksums", "NOT verified by the server (SHA-256)", "run `farshore verify --read-data` regularly")
        }
    });
    Ok(Probed { writes: if exclusive { EXCLUSIVE } else { LAST_WRITER_WINS }.to_owned(), findings })
}

/// For how long the probe's own object is locked: longer than a slow site takes for a few requests.
const PROBE_LOCK: TimeDelta = TimeDelta::minutes(10);

/// What makes locks possible, where the store does not know better.
const REMEDY: &str = "Let `farshore init --create` make a new bucket with Object Lock, or enable versioning and Object Lock (on Azure: version-level immutability support) on this one with the provider's own tools";

/// Puts a locked object, reads the lock back, and tries to shorten it and to delete the object. The object stays, locked for ten
/// minutes.
///
/// # Errors
/// [`RepositoryError::Refused`] for a site that does not lock, with the next step; the store's.
pub async fn probe_locks(store: &SharedStore, mode: LockMode) -> Result<Finding> {
    let refused = |detail: &str, remedy: &str| RepositoryError::Refused {
        subject: store.describe(),
        detail: format!(
            "the policy asks for a {mode} lock, and {detail}. {remedy}, then run `farshore init` again; or take `lock` out of the policy and accept that whoever may delete can delete everything"
        ),
    };
    let cannot = |detail: &str| refused(detail, REMEDY);
    match store.lock_support().await {
        Ok(LockSupport { remedy: Some(remedy), .. }) => return Err(refused("nothing can be locked there", &remedy)),
        Ok(support) if !support.versioned => return Err(cannot("the bucket is not versioned")),
        Ok(support) if !support.object_lock => return Err(cannot("the bucket has no Object Lock")),
        // What counts is what is tried out below; not every identity may ask.
        Ok(_) | Err(StoreError::Denied { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let key = format!("probe/{}-lock", hex::encode(random::<8>()));
    let clock_key = format!("{key}-clock");
    let if_absent = |lock| PutOptions { if_absent: true, lock, ..PutOptions::default() };
    // By the site's clock: this machine's may differ, and a lock must end in the site's future.
    let now = store.put(&clock_key, Bytes::from_static(b"clock"), if_absent(None)).await?.modified;
    if let Err(error) = store.delete_versions(&clock_key).await {
        tracing::warn!(%error, "a probe object could not be removed");
    }
    let lock = Lock { mode, until: now + PROBE_LOCK };
    store.put(&key, Bytes::from_static(b"lock"), if_absent(Some(lock))).await?;
    if !store.lock_of(&key).await?.is_some_and(|kept| kept.covers(&lock)) {
        return Err(cannot("the site answers as if it locked objects, and does not"));
    }
    let shorter = Lock { mode, until: now + PROBE_LOCK / 2 };
    let shortened = store.set_lock(&key, shorter).await.is_ok();
    if shortened || !store.lock_of(&key).await?.is_some_and(|kept| kept.covers(&lock)) {
        return Err(cannot("the site lets locks be shortened"));
    }
    match store.delete_versions(&key).await {
        Ok(()) => Err(cannot("the site deletes what is locked")),
        Err(StoreError::Locked { .. } | StoreError::Denied { .. }) => Ok(Finding::sound(
            format!("locks ({mode})"),
            format!("kept; deleting and shortening are refused. {key} stays, locked until {}", lock.until.format("%H:%M:%SZ")),
        )),
        Err(error) => Err(error.into()),
    }
}
