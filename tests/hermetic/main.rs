//! Tests that need no server.

mod policy;
#[path = "../support/mod.rs"]
mod support;

mod stores;
mod systemd;
#[cfg(test)]
mod fault_proxy;
