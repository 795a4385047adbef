//! Prune: what it removes, what it leaves, and that nothing is lost by it.

mod basics;
mod faults;
mod model;
mod stopped;

/// How much more than in everyday tests is to be tried: `FARSHORE_SOAK`, a factor.
fn soak() -> u64 {
    std::env::var("FARSHORE_SOAK").map_or(1, |factor| factor.parse().expect("FARSHORE_SOAK is a whole number"))
}

/// Where a search by seeds begins: `FARSHORE_TEST_SEED`, or 1.
fn seed() -> u64 {
    std::env::var("FARSHORE_TEST_SEED").map_or(1, |seed| seed.parse().expect("FARSHORE_TEST_SEED is a whole number"))
}
