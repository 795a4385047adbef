//! How much log the slot may hold at the server; pure.
//!
//! The bound is there for a site that does not take the log. What was written while nobody received is another matter: it is there, the
//! sites may be well, and dropping it would make the gap that the slot was to prevent. So it is caught up with, as long as that goes on.

use std::time::Duration;

use crate::{report::bytes, sources::postgres::physical::Lsn};

/// What was found beyond the bound must become less: a slot that does not move for so long is not being caught up with.
const PATIENCE: Duration = Duration::from_secs(600);
/// While that goes on the server may write this part of the bound more.
const SLACK: u64 = 4;

/// What may be held.
#[derive(Debug)]
pub(super) struct Bound {
    hold_bytes: u64,
    /// Nobody received before: whatever the slot holds now was found so.
    is_fresh: bool,
    found: Option<Found>,
}

/// Log beyond the bound that is being caught up with.
#[derive(Debug)]
struct Found {
    most_bytes: u64,
    /// As far as the slot has moved, and since when.
    at: Lsn,
    since: Option<Duration>,
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// All is as it should be, or becomes so.
    Keep,
    /// More is held than should be, and from now on it is caught up with.
    CatchUp,
    /// The slot must go, for this reason.
    Drop(String),
}

impl Bound {
    pub(super) fn new(hold_bytes: u64) -> Self {
        Self { hold_bytes, is_fresh: true, found: None }
    }

    /// There was no session with the server, and is one again.
    pub(super) fn reconnected(&mut self) {
        match &mut self.found {
            None => self.is_fresh = true,
            // It may be granted once only: a session that breaks again and again would hold ever more.
            Some(found) => found.since = None,
        }
    }

    /// Judges that the slot holds so many bytes, from this place on.
    pub(super) fn judge(&mut self, held_bytes: u64, from: Lsn, now: Duration) -> Verdict {
        let is_fresh = std::mem::replace(&mut self.is_fresh, false);
        if held_bytes <= self.hold_bytes {
            self.found = None;
            return Verdict::Keep;
        }
        let too_much = format!(
            "the slot held {} of log at the server, more than `hold` ({}) allows",
            bytes(held_bytes),
            bytes(self.hold_bytes)
        );
        let Some(found) = &mut self.found else {
            if !is_fresh {
                return Verdict::Drop(too_much);
            }
            let most_bytes = held_bytes.saturating_add(self.hold_bytes / SLACK);
            self.found = Some(Found { most_bytes, at: from, since: Some(now) });
            return Verdict::CatchUp;
        };
        if held_bytes > found.most_bytes {
            return Verdict::Drop(format!("{too_much}, and more was written than the sites caught up with"));
        }
        if from > found.at {
            (found.at, found.since) = (from, Some(now));
        }
        if now.saturating_sub(*found.since.get_or_insert(now)) >= PATIENCE {
            return Verdict::Drop(format!("{too_much}, and no site caught up with it for {} minutes", PATIENCE.as_secs() / 60));
        }
        Verdict::Keep
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Bound, Lsn, PATIENCE, Verdict};

    const HOLD: u64 = 1000;

    /// What is judged of bytes held from a place on at a time, and whether the words are among the reason.
    #[track_caller]
    fn drops(bound: &mut Bound, (held, from, seconds): (u64, u64, u64), words: &str) {
        let verdict = bound.judge(held, Lsn(from), Duration::from_secs(seconds));
        assert!(matches!(&verdict, Verdict::Drop(why) if why.contains("more than `hold`") && why.ends_with(words)), "{verdict:?}");
    }

    #[track_caller]
    fn keeps(bound: &mut Bound, (held, from, seconds): (u64, u64, u64)) {
        assert_eq!(bound.judge(held, Lsn(from), Duration::from_secs(seconds)), Verdict::Keep);
    }

    fn found(held: u64) -> Bound {
        let mut bound = Bound::new(HOLD);
        assert_eq!(bound.judge(held, Lsn(0), Duration::ZERO), Verdict::CatchUp);
        bound
    }

    #[test]
    fn what_grows_beyond_the_bound_while_it_is_received_is_dropped() {
        let mut bound = Bound::new(HOLD);
        keeps(&mut bound, (HOLD, 0, 0));
        drops(&mut bound, (HOLD + 1, 0, 1), "allows");
    }

    #[test]
    fn what_was_found_beyond_it_is_caught_up_with_as_long_as_the_slot_moves() {
        let mut bound = found(5000);
        let patience = PATIENCE.as_secs();
        keeps(&mut bound, (5250, 0, patience - 1));
        keeps(&mut bound, (5000, 500, patience + 1));
        keeps(&mut bound, (4000, 1500, 2 * patience));
        drops(&mut bound, (4000, 1500, 3 * patience), "for 10 minutes");
    }

    #[test]
    fn neither_more_than_a_little_beyond_what_was_found_nor_the_bound_a_second_time() {
        drops(&mut found(5000), (5251, 0, 1), "than the sites caught up with");
        let mut bound = found(5000);
        keeps(&mut bound, (900, 4200, 1));
        drops(&mut bound, (1001, 4200, 2), "allows");
    }

    #[test]
    fn a_session_that_broke_is_like_a_process_that_begins_but_not_while_it_catches_up() {
        let mut bound = Bound::new(HOLD);
        keeps(&mut bound, (10, 0, 0));
        bound.reconnected();
        assert_eq!(bound.judge(3000, Lsn(0), Duration::from_secs(1)), Verdict::CatchUp);
        bound.reconnected();
        // The time without a session is not counted; the amount is.
        keeps(&mut bound, (3000, 0, 5 * PATIENCE.as_secs()));
        bound.reconnected();
        drops(&mut bound, (3251, 0, 6 * PATIENCE.as_secs()), "than the sites caught up with");
    }
}
