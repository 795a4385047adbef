//! One decoder of `bodies.rs`, the one that `FARSHORE_FUZZ` names, under libFuzzer: `fuzz/run`. One program for all of them, because
//! linking is what takes the time.
#![no_main]

mod bodies;
mod ledger;

use std::sync::LazyLock;

static BODY: LazyLock<bodies::Body> = LazyLock::new(|| {
    let wanted = std::env::var("FARSHORE_FUZZ").unwrap_or_default();
    *bodies::ALL.iter().find(|(name, _)| *name == wanted).unwrap_or_else(|| panic!("FARSHORE_FUZZ={wanted} names no decoder"))
});

libfuzzer_sys::fuzz_target!(
    init: {
        LazyLock::force(&BODY);
    },
    |bytes: &[u8]| ledger::hold_to_bound(*BODY, "an input", bytes)
);
