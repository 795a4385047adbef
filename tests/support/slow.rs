//! Every call of an operation, slow in turn.

use std::sync::Arc;

use farshore::{operations::OperationError, stores::SharedStore};

use super::{
    faulty_store::{Call, Fault, FaultyStore},
    soak,
};

/// Every call that `quiet` counted, each slow in turn; in everyday tests every `step`-th, and one of both ways of being slow, but the
/// last write in both.
pub fn slow_calls(quiet: &FaultyStore, step: u64) -> Vec<(Call, u64, Fault)> {
    let mut all = Vec::new();
    for call in [Call::Put, Call::Get, Call::List, Call::Stat, Call::Delete, Call::Time] {
        for number in 0..quiet.calls(call) {
            for (turn, fault) in [Fault::SlowBefore, Fault::SlowAfter].into_iter().enumerate() {
                let is_its_turn = number % step == 0 && (number / step) % 2 == turn as u64;
                let is_last_write = call == Call::Put && number + 1 == quiet.calls(call);
                if soak(1) > 1 || is_its_turn || is_last_write {
                    all.push((call, number, fault));
                }
            }
        }
    }
    all
}

/// A store over `inner` of which this call is slow; and how tests call that.
pub fn slow(inner: &SharedStore, (call, number, fault): (Call, u64, Fault)) -> (Arc<FaultyStore>, String) {
    let faulty = FaultyStore::over(inner.clone());
    faulty.queue_after(number, call, fault);
    (faulty, format!("{fault:?} at {call:?} {number}"))
}

/// An error that an operator can do something with, and no defect.
pub fn assert_clear(error: &OperationError, what: &str) {
    let said = error.to_string();
    assert!(said.len() > 20 && !said.contains("defect"), "{what}: {said}");
}
