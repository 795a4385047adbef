//! Farshore: a backup and disaster-recovery agent.
//!
//! The rooms, in order of dependency (each may use those above it, as `ARCHITECTURE.md` lays down and `tests/tidy` checks):
//!
//! * [`clock`]: the only place that knows the time.
//! * [`policy`]: what the operator wants. Pure.
//! * [`report`]: what happened, as plain values and how they read.
//! * [`progress`]: counts and problems while the work goes on.
//! * [`stores`]: how objects at a site or in a bucket are read and written.
//! * [`repository`]: chunks, packs, indexes, keys and recovery points under one prefix of a store.
//! * [`sources`]: what is protected, and how each kind is captured and rebuilt.
//! * [`operations`]: backup, restore, verify, drill: where sources and repository meet.
//! * [`cli`]: flags in, one operation, report and exit code out.

pub mod cli;
pub mod clock;
pub mod operations;
pub mod policy;
pub mod progress;
pub mod report;
pub mod repository;
pub mod sources;
pub mod stores;
