//! Tests that need no server.
#![allow(clippy::unwrap_used, reason = "in a test, a panic is the verdict; this covers its helper functions too")]

mod azure_identity;
mod policy;
#[path = "../support/mod.rs"]
mod support;

mod bucket;
mod command;
mod crash;
mod damage;
mod fault_proxy;
mod files;
mod fuzz;
mod golden;
mod hostile;
mod locks;
mod log;
mod prune;
mod reading;
mod readme;
mod replication;
mod retention;
mod rotation;
mod s3_credentials;
mod sites;
mod stores;
mod system;
mod systemd;
mod verify;
mod writing;
