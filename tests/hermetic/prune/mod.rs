//! Prune: what it removes, what it leaves, and that nothing is lost by it.

mod basics;
mod beside;
mod faults;
mod given_up;
mod interleaved;
mod late;
mod model;
mod month;
mod slow;
mod slow_copy;
mod stopped;
mod stopped_beside;

/// Where a search by seeds begins: `FARSHORE_TEST_SEED`, or 1.
fn seed() -> u64 {
    std::env::var("FARSHORE_TEST_SEED").map_or(1, |seed| seed.parse().expect("FARSHORE_TEST_SEED is a whole number"))
}
