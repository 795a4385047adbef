//! Segments that are sealed while those before them are on their way: sealing takes processors, storing takes time.
//!
//! What is sealed is stored only where it is still what is to be stored, byte for byte: in between the server may be another one.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use tokio_util::task::AbortOnDropHandle;

use super::feed::{Feed, Read, View};
use crate::{
    repository::{LogName, LogWriter, RepositoryError, SealedLog},
    sources::postgres::physical::Segment,
};

/// Bytes of segments that are sealed ahead of the one that is being stored.
const AHEAD_BYTES: u64 = 32 << 20;
/// What was sealed so long ago is sealed anew: its key is kept for a while only, and the recipients may be others by now.
const LASTS: Duration = Duration::from_secs(600);

/// A file that is being sealed.
pub(super) struct Sealing(AbortOnDropHandle<Result<SealedLog, RepositoryError>>);

impl Sealing {
    /// Begins it.
    pub(super) fn begin(writer: &Arc<LogWriter>, name: LogName, plain: Bytes, ended_at: Option<DateTime<Utc>>) -> Self {
        let writer = Arc::clone(writer);
        Self(AbortOnDropHandle::new(tokio::spawn(async move { writer.seal(&name, plain, ended_at).await })))
    }

    /// # Errors
    /// The writer's.
    pub(super) async fn sealed(self) -> Result<SealedLog, RepositoryError> {
        self.0.await.unwrap_or_else(|error| {
            Err(RepositoryError::Refused { subject: "the log".to_owned(), detail: format!("a defect: {error}") })
        })
    }
}

struct One {
    segment: Segment,
    plain: Bytes,
    /// When it began, by the monotonic clock.
    since: Duration,
    sealing: Sealing,
}

/// Segments that follow one another, in their order.
#[derive(Default)]
pub(super) struct Ahead(VecDeque<One>);

impl Ahead {
    /// The sealing of this segment with these bytes, if it has begun, and not too long ago. What was begun for those before it is given up.
    pub(super) fn take(&mut self, segment: Segment, plain: &Bytes, now: Duration) -> Option<Sealing> {
        while let Some(one) = self.0.pop_front() {
            if one.segment == segment {
                return (now.saturating_sub(one.since) < LASTS && one.plain == *plain).then_some(one.sealing);
            }
        }
        None
    }

    /// Gives up all of it.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Has those sealed that follow `segment`, as far as they are complete: the next one wherever it comes from, others where they were streamed.
    /// Of longer segments than may be sealed ahead the next one is only read.
    pub(super) async fn fill(&mut self, writer: &Arc<LogWriter>, feed: &Feed, view: &View, segment: Segment, now: Duration) {
        let layout = view.layout;
        let room = AHEAD_BYTES / layout.segment_bytes;
        for number in segment.number + 1..=segment.number + room.max(1) {
            let following = view.lineage.segment(layout, number);
            if !view.goes_on_after(number) {
                return;
            }
            if self.0.iter().any(|one| one.segment == following) {
                continue;
            }
            let plain = match feed.streamed(layout, following) {
                Some(plain) => plain,
                None if number > segment.number + 1 => return,
                // Whoever wants it meets the error.
                None => match feed.read(layout, following, 0, layout.segment_bytes).await {
                    Read::Bytes(plain) => plain,
                    Read::Gone(_) | Read::Away => return,
                },
            };
            if room == 0 {
                return;
            }
            let Some(name) = LogName::new(layout.system, &layout.name(following)) else { return };
            let sealing = Sealing::begin(writer, name, plain.clone(), None);
            self.0.push_back(One { segment: following, plain, since: now, sealing });
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::task::AbortOnDropHandle;

    use super::{Ahead, Bytes, Duration, LASTS, One, RepositoryError, Sealing, Segment};

    const BEGAN: Duration = Duration::from_secs(1000);

    fn one(number: u64, plain: &'static [u8]) -> One {
        let sealing = AbortOnDropHandle::new(tokio::spawn(async move {
            Err(RepositoryError::Refused { subject: number.to_string(), detail: String::new() })
        }));
        let segment = Segment { number, timeline: 1 };
        One { segment, plain: Bytes::from_static(plain), since: BEGAN, sealing: Sealing(sealing) }
    }

    fn ahead() -> Ahead {
        Ahead([one(4, b"four"), one(5, b"five"), one(6, b"six")].into())
    }

    #[tokio::test]
    async fn what_was_sealed_is_taken_only_for_the_same_segment_with_the_same_bytes() {
        let wanted = |number, timeline| Segment { number, timeline };
        let mut found = ahead();
        let taken = found.take(wanted(5, 1), &Bytes::from_static(b"five"), BEGAN).unwrap().sealed().await;
        assert!(matches!(taken, Err(RepositoryError::Refused { subject, .. }) if subject == "5"));
        assert_eq!(found.0.len(), 1, "what comes before it is given up, and what follows stays");
        for (segment, plain) in [(wanted(4, 1), b"five"), (wanted(4, 2), b"four"), (wanted(7, 1), b"four")] {
            assert!(ahead().take(segment, &Bytes::from_static(plain), BEGAN).is_none(), "{segment:?}");
        }
        let later = |age| ahead().take(wanted(4, 1), &Bytes::from_static(b"four"), BEGAN + age).is_some();
        assert!(later(LASTS / 2) && !later(LASTS), "what is old is sealed anew");
    }
}
