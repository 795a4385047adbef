//! What happened, as plain values.
//!
//! Promises: nothing here does I/O or knows other rooms; every value serialises to the JSON that `--json` prints and drills
//! store. Field names end in their unit. Leaves out on purpose: deciding anything.

mod check;
mod problem;

pub use check::{Check, CheckOutcome, PhaseTime};
pub use problem::Problem;
