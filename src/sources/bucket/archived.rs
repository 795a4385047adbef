//! Objects that lie in an archive: counted, reported together, and asked for where the policy says so.

use std::time::Duration;

use super::read::Outcome;
use crate::{
    progress::Problem,
    stores::{Availability, Retrieval, SharedStore, StoreError},
};

/// An object that cannot be read now.
pub(super) struct ArchivedObject {
    pub(super) key: String,
    /// The version that was to be read, where it was to be read by its id.
    pub(super) version: Option<String>,
    pub(super) size: u64,
    /// What brings it back.
    pub(super) next: &'static str,
    /// What the server said.
    pub(super) error: StoreError,
    /// What it answered to being asked for it, where it was.
    pub(super) asked: Option<Result<Availability, StoreError>>,
}

/// Asks for an object that turned out to be archived; leaves every other outcome as it is. What it answers decides nothing: the next
/// capture meets the object again.
pub(super) async fn ask(store: &SharedStore, outcome: Outcome, how: Option<Retrieval>) -> Outcome {
    match (outcome, how) {
        (Outcome::Archived(mut object), Some(how)) => {
            object.asked = Some(store.bring_back(&object.key, object.version.as_deref(), how).await);
            Outcome::Archived(object)
        }
        (outcome, _) => outcome,
    }
}

/// What was met of them.
#[derive(Debug, Default)]
pub(super) struct Archived {
    pub(super) objects: u64,
    pub(super) bytes: u64,
    /// Those that are on their way, now that they were asked for.
    pub(super) coming: u64,
    /// How long the slowest of those typically takes.
    takes: Duration,
    /// One of them, and what brings it back.
    first: Option<(String, &'static str)>,
    /// Why one could not be asked for.
    refusal: Option<StoreError>,
}

impl Archived {
    /// Counts one; returns what the server had said.
    pub(super) fn add(&mut self, object: ArchivedObject, how: Option<Retrieval>) -> StoreError {
        self.objects += 1;
        self.bytes += object.size;
        self.first.get_or_insert((object.key, object.next));
        match object.asked {
            Some(Ok(state)) => {
                self.coming += 1;
                if let (Availability::Coming(archive) | Availability::Archived(archive), Some(how)) = (state, how) {
                    self.takes = self.takes.max(archive.takes(how.priority));
                }
            }
            Some(Err(error)) => self.refusal = Some(error),
            None => {}
        }
        object.error
    }

    /// What is said of them, once: a lifecycle rule archives millions.
    pub(super) fn problem(&self, place: String) -> Option<Problem> {
        let (key, next) = self.first.as_ref()?;
        let mut said = format!(
            "{} objects of {} bytes, {key:?} for one, are archived, cannot be read, and are not in this point.",
            self.objects, self.bytes
        );
        if self.coming > 0 {
            // Rounded up: less than an hour is no promise either.
            let hours = self.takes.as_secs().div_ceil(3600).max(1);
            said.push_str(&format!(
                " {} of them were asked for and typically come within {hours} h: a backup after that reads them",
                self.coming
            ));
        } else if self.refusal.is_none() {
            said.push_str(&format!(" For each of them: {next}; `rehydrate` in the policy's source asks for them"));
        }
        if let Some(error) = &self.refusal {
            said.push_str(&format!(" {} could not be asked for: {error}", self.objects - self.coming));
        }
        Some(Problem::new(place, said))
    }
}
