//! Tests against real servers: PostgreSQL, S3, Azure's emulator, etcd. Run through `make test`.
#![allow(clippy::unwrap_used, reason = "in a test, a panic is the verdict; this covers its helper functions too")]

#[path = "../support/mod.rs"]
mod support;

mod azure;
mod bucket;
mod bucket_as_of;
mod deploy;
mod doctor;
mod etcd;
mod far;
mod locked_site;
mod postgres;
mod postgres_awkward;
mod postgres_capture;
mod postgres_large;
mod postgres_physical;
mod postgres_pooler;
mod postgres_rebuild;
mod postgres_tls;
mod prune;
mod reader;
mod s3;
mod stores;
mod system;
mod system_refusals;
mod traffic;
