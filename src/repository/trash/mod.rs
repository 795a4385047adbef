//! Prune's side of the repository: what is doomed, and how it goes.
//!
//! Nothing is deleted at once. Prune *dooms* what no point needs, in a record under `doomed/`, and deletes it only when the record
//! is as old as the grace it names, after looking again (`docs/decisions/0012-prune-dooms-first-and-looks-again.md`). The rules
//! that make this safe without a lock stand in [`protocol`], as pure functions: backups, prune and the model that checks them
//! all ask the same ones.
//!
//! Order of deleting: points → the index that names what of a replaced index stays → the replaced index → packs → data keys →
//! marks about what is gone → the doom record. If we stop here, anywhere: no index names a pack that is gone, the record is still
//! there, and the next prune goes on. Only where another prune deletes a pack just while this one writes an index that names it does
//! one name what is gone, until it is as old as the grace ([`Removal::names`]): nobody relies on such a pack, since it is in no listing.
//!
//! Leaves out on purpose: which points go (retention decides), and what is needed by those that stay ([`super::Reach`]).

mod protocol;
mod record;
mod remove;
mod repack;

pub use protocol::{
    CLOCK_TOLERANCE, COMMIT_MARGIN, LEAST_GRACE, LOOK_LASTS, PackFacts, PackVerdict, RecordFacts, SPARED_RECORD_STAYS, look_holds,
    may_be_unseen, may_commit, must_look_whole, pin_holds, was_in_time,
};
pub use record::{DoomRecord, Dooms, StoredDoom};
pub use remove::{Removal, Removed};
pub use repack::Repacked;
