//! What a reading verification has behind it, noted down on this machine, so that one that was killed goes on where it was.
//!
//! The note is sealed under the catalogue key and names only packs that were read soundly: what was damaged is read again, and
//! said again. It is good for a week.

use std::{collections::BTreeSet, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use crate::{report::ReadPart, repository::Repository};

const FILE: &str = "verification.state";
/// How old the beginning of what is gone on with may be. What was read earlier may have been damaged since.
const GOOD_FOR: TimeDelta = TimeDelta::days(7);
/// How much may be lost by being killed: so much time, on the monotonic clock …
const EVERY: Duration = Duration::from_secs(30);
/// … or so many bytes read.
const EVERY_BYTES: u64 = 4 << 30;
/// A name for the kind of note, so that nothing else that this repository's key sealed is taken for one.
const PURPOSE: &str = "farshore verification in progress";

/// What was read so far.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Progress {
    purpose: String,
    /// When the first attempt began.
    pub(super) started_at: DateTime<Utc>,
    pub(super) part: ReadPart,
    /// Names of the packs that were read soundly.
    read: BTreeSet<String>,
    #[serde(skip)]
    saved: (Duration, u64),
}

impl Progress {
    /// What an earlier attempt at the same part left, or the beginning of a new one.
    pub(super) async fn take_up(repository: &Repository, part: ReadPart, now: DateTime<Utc>, monotonic: Duration) -> Self {
        let left = repository.state(FILE).await.and_then(|json| serde_json::from_slice::<Self>(&json).ok());
        let mut progress = left
            .filter(|left| {
                left.purpose == PURPOSE && left.part == part && left.started_at <= now && now - left.started_at <= GOOD_FOR
            })
            .unwrap_or_else(|| Self {
                purpose: PURPOSE.to_owned(),
                started_at: now,
                part,
                read: BTreeSet::new(),
                saved: Default::default(),
            });
        progress.saved = (monotonic, 0);
        progress
    }

    pub(super) fn has(&self, pack: &[u8; 32]) -> bool {
        self.read.contains(&hex::encode(pack))
    }

    /// Notes a pack that was read soundly, and from time to time everything on the disk.
    pub(super) async fn add(&mut self, repository: &Repository, pack: &[u8; 32], bytes: u64, monotonic: Duration) {
        self.read.insert(hex::encode(pack));
        self.saved.1 += bytes;
        if monotonic.saturating_sub(self.saved.0) >= EVERY || self.saved.1 >= EVERY_BYTES {
            self.save(repository).await;
            self.saved = (monotonic, 0);
        }
    }

    /// Writes everything to the disk.
    pub(super) async fn save(&self, repository: &Repository) {
        let json = serde_json::to_vec(self).expect("strings, numbers and times always serialise");
        if let Err(error) = repository.keep_state(FILE, json).await {
            tracing::warn!(%error, "the progress is not noted down; a verification that is killed now begins anew");
        }
    }

    /// It is done: the next one begins anew.
    pub(super) fn forget(repository: &Repository) {
        repository.forget_state(FILE);
    }
}
