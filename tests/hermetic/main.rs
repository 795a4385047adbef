//! Tests that need no server.

#[path = "../support/mod.rs"]
mod support;

mod bucket;
mod command;
mod files;
mod stores;
