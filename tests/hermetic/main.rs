//! Tests that need no server.

#[path = "../support/mod.rs"]
mod support;

mod fault_proxy;
