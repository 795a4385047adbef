//! Tests against real servers: PostgreSQL, S3, etcd. Run through `make test`.

#[path = "../support/mod.rs"]
mod support;

mod postgres;
mod postgres_awkward;
mod postgres_capture;
mod postgres_pooler;
mod postgres_rebuild;
mod postgres_tls;
