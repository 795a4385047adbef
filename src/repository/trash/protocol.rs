//! The rules of pruning beside running backups, as pure functions of times.
//!
//! All times are the site's. A thing that a doom record names *matures* when the record is as old as its grace. Why this is safe:
//! * A backup relies on a pack that was there and not doomed when it began, or that it stored itself. Had the pack been doomed
//!   before, the backup would not rely on it; if it is doomed meanwhile, the backup sees the record right before its commit,
//!   and commits only well before the record matures ([`may_commit`]); its commit's own time, by the site, is held against that
//!   once more ([`was_in_time`]). A run that lasts so long that a record may have come and gone meanwhile ([`must_look_whole`])
//!   holds what it relies on against what is there, instead.
//! * A record stays as long as anything it names is there and may be being deleted ([`RecordFacts::is_done`]), and is never removed by
//!   the prune that deleted the last of it: nobody begins to rely on what another prune is about to delete, or on what a listing
//!   shows that lags behind.
//! * Of a chunk that lies in several packs, every prune counts the same one as needed, and all of them where all are doomed: two
//!   prunes never delete one copy each for the sake of the other ([`super::super::ChunkCache::needed_copies`]).
//! * Prune deletes what has matured only if no point that is there needs it, and lists the points after it has asked the site for
//!   the time. So it sees every point that was committed before the record matured, also in a listing that lacks what was stored
//!   in the last [`COMMIT_MARGIN`].
//! * What a run stored and no point needs yet is younger than the grace, or the run has outlived it and sees itself doomed.

use chrono::{DateTime, TimeDelta, Utc};

/// A backup commits at least so long before anything matures that it relies on: longer than a commit takes, and than clocks that
/// prune accepts may differ.
pub const COMMIT_MARGIN: TimeDelta = TimeDelta::minutes(10);
/// The shortest grace that a policy may name.
pub const LEAST_GRACE: TimeDelta = TimeDelta::hours(1);
/// Prune refuses where this machine's clock and the site's differ by more.
pub const CLOCK_TOLERANCE: TimeDelta = TimeDelta::minutes(5);
/// A prune that looked longer ago deletes nothing more: what it saw is too old.
pub const LOOK_LASTS: TimeDelta = TimeDelta::hours(24);
/// A record that has matured, and of which something is needed again, stays so long: until then no other prune can be at work that
/// looked before it was needed.
pub const SPARED_RECORD_STAYS: TimeDelta = TimeDelta::days(3);
/// Between a backup's last look at the doom records and its commit lies less, or it looks again: what is doomed after the look
/// matures [`LEAST_GRACE`] later at the earliest.
const LOOK_HOLDS: TimeDelta = TimeDelta::minutes(30);

/// What is known of a pack when prune looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackFacts {
    /// When the site stored it.
    pub stored_at: DateTime<Utc>,
    /// A point that stays needs it.
    pub kept_need: bool,
    /// A point that is still there, doomed or not, needs it.
    pub any_need: bool,
    /// When the earliest record that names it matures.
    pub matures_at: Option<DateTime<Utc>>,
}

/// What becomes of a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PackVerdict {
    /// It is needed, or may be: a run may be at work.
    Stays,
    /// It was doomed, and is needed again.
    Spared,
    /// Nothing that stays needs it, and it is named in no record yet.
    Doom,
    /// It is doomed, and has not matured; or a doomed point that is still there needs it.
    Waits,
    /// It has matured, and nothing needs it.
    Delete,
}

impl PackFacts {
    /// Decides at the site's time `now`. `grace` is the policy's.
    pub fn verdict(&self, now: DateTime<Utc>, grace: TimeDelta) -> PackVerdict {
        match self.matures_at {
            Some(_) if self.kept_need => PackVerdict::Spared,
            Some(matures_at) if matures_at <= now && !self.any_need => PackVerdict::Delete,
            Some(_) => PackVerdict::Waits,
            None if self.kept_need || now - self.stored_at < grace => PackVerdict::Stays,
            None => PackVerdict::Doom,
        }
    }
}

/// Whether a backup may commit at `now`, where `deadline` is when the earliest record matures that names something it relies on.
pub fn may_commit(now: DateTime<Utc>, deadline: Option<DateTime<Utc>>) -> bool {
    deadline.is_none_or(|deadline| now + COMMIT_MARGIN + CLOCK_TOLERANCE < deadline)
}

/// Whether a run has lasted so long, by whichever clock shows more and up to its last look at the doom records, that a record of
/// what it relies on may have been written, carried out and removed meanwhile: then only what is there can tell.
pub fn must_look_whole(lasted: TimeDelta) -> bool {
    lasted >= LEAST_GRACE - COMMIT_MARGIN
}

/// Whether a pin that was stored by `now` keeps a point whose record matures at `deadline`: every prune that may delete it sees the
/// pin.
pub fn pin_holds(now: DateTime<Utc>, deadline: Option<DateTime<Utc>>) -> bool {
    deadline.is_none_or(|deadline| now + COMMIT_MARGIN < deadline)
}

/// Whether a prune may still write or delete for the sake of what it saw so long ago, by whichever clock shows more.
pub fn look_holds(since: TimeDelta) -> bool {
    since < LOOK_LASTS
}

/// What is known of a doom record when a prune has deleted what it could.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordFacts {
    /// When what it names matures.
    pub matures_at: DateTime<Utc>,
    /// Something that it names is there and not needed, or nobody can tell: a prune may be deleting it. What the prune that asks has
    /// itself deleted is still there in this sense: a listing may show it to others for a while.
    pub pending: bool,
    /// Something that it names is there and needed again.
    pub spared: bool,
    /// A point is there that came lately ([`may_be_unseen`]), of a run that began before the site had the record: only such a one can
    /// need anew what is named (its machine slept in its commit, for days), and a prune that looked before it came may be at work.
    pub late: bool,
}

/// Whether a prune may be at work that looked before a point came which the site stored then, at the site's time `now`.
pub fn may_be_unseen(stored: DateTime<Utc>, now: DateTime<Utc>) -> bool {
    now - stored < LOOK_LASTS + COMMIT_MARGIN + CLOCK_TOLERANCE
}

impl RecordFacts {
    /// Whether nobody needs the record any more, at the site's time `now`.
    pub fn is_done(&self, now: DateTime<Utc>) -> bool {
        let may_go = !self.spared || (!self.late && now - self.matures_at > SPARED_RECORD_STAYS);
        self.matures_at <= now && !self.pending && may_go
    }
}

/// Whether a commit that the site dates `committed` was in time, after a look at the doom records that was not before `looked`.
/// If not, everything that the point relies on must be looked at once more.
pub fn was_in_time(committed: DateTime<Utc>, looked: DateTime<Utc>, deadline: Option<DateTime<Utc>>) -> bool {
    committed - looked < LOOK_HOLDS && deadline.is_none_or(|deadline| committed + COMMIT_MARGIN < deadline)
}

#[cfg(test)]
mod tests {
    use super::{CLOCK_TOLERANCE, COMMIT_MARGIN, DateTime, PackFacts, PackVerdict, TimeDelta, Utc, may_commit, was_in_time};

    fn at(hours: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::hours(hours)
    }

    #[test]
    fn a_pack_goes_only_when_it_was_doomed_a_grace_ago_and_nothing_that_is_there_needs_it() {
        let grace = TimeDelta::hours(26);
        let verdict = |stored, kept_need, any_need, matures: Option<i64>| {
            PackFacts { stored_at: at(stored), kept_need, any_need, matures_at: matures.map(at) }.verdict(at(100), grace)
        };
        for (stored, kept, any, matures, wanted) in [
            (0, true, true, None, PackVerdict::Stays),
            (0, false, false, None, PackVerdict::Doom),
            (0, false, true, None, PackVerdict::Doom),
            (74, false, false, None, PackVerdict::Doom),
            (75, false, false, None, PackVerdict::Stays),
            // Its clock ran ahead of the site's: as young as can be.
            (200, false, false, None, PackVerdict::Stays),
            (0, true, true, Some(90), PackVerdict::Spared),
            (0, true, true, Some(110), PackVerdict::Spared),
            (0, false, false, Some(101), PackVerdict::Waits),
            (0, false, true, Some(90), PackVerdict::Waits),
            (0, false, false, Some(100), PackVerdict::Delete),
        ] {
            assert_eq!(verdict(stored, kept, any, matures), wanted, "{stored} {kept} {any} {matures:?}");
        }
    }

    #[test]
    fn a_backup_commits_well_before_what_it_relies_on_may_go() {
        assert!(may_commit(at(1), None));
        assert!(may_commit(at(1), Some(at(1) + COMMIT_MARGIN + CLOCK_TOLERANCE + TimeDelta::seconds(1))));
        assert!(!may_commit(at(1), Some(at(1) + COMMIT_MARGIN + CLOCK_TOLERANCE)));
        assert!(was_in_time(at(1), at(1), None));
        assert!(was_in_time(at(1), at(1), Some(at(2))));
        assert!(!was_in_time(at(2), at(2), Some(at(2))));
        assert!(!was_in_time(at(2), at(1), None), "its look is too old: what was doomed since may have matured");
    }
}
