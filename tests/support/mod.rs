//! What several test binaries share. Servers are started by `testbed/with-servers`, which hands their addresses over in the
//! environment; a test that needs one and does not find it fails loudly, it never skips.
#![allow(dead_code, reason = "each test binary uses a part of this")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on says why by panicking")]

pub mod agent;
pub mod busy_store;
pub mod database_exchange;
pub mod exchange;
pub mod fake_azure;
pub mod far_link;
pub mod fault_proxy;
pub mod faulty_store;
pub mod lock_contract;
pub mod next_prune;
pub mod recovery;
pub mod sites;
pub mod slow;
pub mod staged_store;
pub mod store_contract;
pub mod watched_store;

/// The value of an environment variable that `testbed/with-servers` sets.
///
/// # Panics
/// If it is missing: a server test must never pass without its server.
pub fn server(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| {
        panic!(
            "{variable} is not set: run this through `make test`, or `testbed/with-servers cargo test …`, which start the servers"
        )
    })
}

/// How many seeds a randomised test tries: `usual`, times what `FARSHORE_SOAK` says (`make soak`).
///
/// # Panics
/// If the variable is there and no number from 1.
pub fn soak(usual: u64) -> u64 {
    match std::env::var("FARSHORE_SOAK") {
        Err(_) => usual,
        Ok(factor) => usual * factor.parse::<std::num::NonZeroU64>().unwrap_or_else(|_| panic!("FARSHORE_SOAK={factor}")).get(),
    }
}
