//! Stores against real servers.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says why by panicking")]

mod azure;
mod bandwidth;
mod broken_network;
mod locks;
mod s3;
