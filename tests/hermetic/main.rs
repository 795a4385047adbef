//! Tests that need no server.

mod policy;
#[path = "../support/mod.rs"]
mod support;
mod systemd;
