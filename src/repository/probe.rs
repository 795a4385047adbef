//! What a store really does, found out by trying: some servers answer 200 to a conditional write and do not honour it.

use bytes::Bytes;
use futures_util::future::join_all;

use super::{
    error::Result,
    keys::{random, sha256},
};
use crate::stores::{GetOptions, PutOptions, SharedStore, StoreError, read_all};

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
    /// A line each, for the operator.
    pub findings: Vec<String>,
}

/// Two conditional writes one after the other, then a race of eight, then a wrong checksum; cleans up after itself.
pub async fn probe(store: &SharedStore) -> Result<Probed> {
    let tag = hex::encode(random::<8>());
    let (sequence, race, checksum) =
        (format!("probe/{tag}-sequence"), format!("probe/{tag}-race"), format!("probe/{tag}-checksum"));
    let outcome = try_out(store, &sequence, &race, &checksum).await;
    for key in [&sequence, &race, &checksum] {
        // A writer without the right to delete leaves three tiny objects behind; that is no reason to fail.
        if let Err(error) = store.delete(key).await {
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
    findings.push(match (in_sequence, winners) {
        (true, 1) => format!("if-absent writes: honoured; one winner of {RACERS} racers"),
        (true, many) => format!("if-absent writes: honoured one after the other, but {many} of {RACERS} racers won; the weaker guarantee `{LAST_WRITER_WINS}` is used"),
        (false, _) => format!("if-absent writes: answered and NOT honoured; the weaker guarantee `{LAST_WRITER_WINS}` is used"),
    });
    let options = PutOptions { sha256: Some([0; 32]), ..PutOptions::default() };
    findings.push(match store.put(checksum, Bytes::from_static(b"checksum"), options).await {
        Err(_) => "upload checksums: verified by the server".to_owned(),
        Ok(_) => "upload checksums: NOT verified by the server; run `farshore verify --read-data` regularly".to_owned(),
    });
    Ok(Probed { writes: if exclusive { EXCLUSIVE } else { LAST_WRITER_WINS }.to_owned(), findings })
}
