//! Tests that need no server.

#[path = "../support/mod.rs"]
mod support;

#[cfg(test)]
mod fault_proxy;
