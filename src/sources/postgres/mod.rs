//! PostgreSQL: source kind `postgres`, both directions; here method `logical`, and below [`physical`] the other one.
//!
//! Promises:
//! * One exported snapshot: schema, rows, large objects and matview population show the same instant, whose server time is
//!   the point's T. Tables are locked against DDL and `TRUNCATE` **before** the snapshot is taken.
//! * A role that cannot see every row is refused up front, with the statement that grants what is missing.
//! * Connections mean what libpq means by the same URL; programs that are started (`pg_dump`, `pg_restore`) use the same host, user and
//!   TLS settings. The password reaches them by a private passfile, never by argv or the environment.
//! * A restore is built beside its target, under a name of its own, and takes the target's name as the last step; whatever
//!   stood there keeps living under another name. An error or a cancelled restore drops what was built.
//!
//! Assumes: PostgreSQL 13 or newer on both ends, `pg_dump`/`pg_restore` of a fitting version on this machine.
//!
//! Leaves out on purpose: rows behind foreign tables (they live elsewhere; named in the facts), temporary tables, and the
//! memory it would take not to hold the list of tables: memory grows with the number of tables and sequences (some hundred
//! bytes each), never with rows or large objects.
//!
//! Entries of a snapshot, in order:
//!
//! | path | kind | content |
//! |---|---|---|
//! | `catalog.json` | `catalog` | [`facts::Catalogue`]: sequences' values, materialized views in the order of refreshing |
//! | `large-objects/<n>` | `large-objects` | up to 1,000 large objects, framed as [`large_objects`] says |
//! | `roles.json` | `roles` | [`roles::Roles`]: attributes, memberships, settings, password verifiers where readable |
//! | `schema.dump` | `schema` | `pg_dump -Fc --schema-only` |
//! | `tables/<schema>/<table>/<segment>` | `table` | COPY text rows ([`tables::SegmentAttributes`]) |

mod account;
mod address;
mod capture_order;
mod catalog;
mod compare;
mod connect;
mod copy_out;
mod database;
mod examine;
mod failure;
mod line;
mod load;
mod logical;
mod passfile;
pub mod physical;
mod pooler;
mod probe;
mod programs;
mod quote;
mod recover;
mod scratch;
mod tap;
mod target;
mod tls;

pub mod facts;
pub mod large_objects;
pub mod roles;
pub mod tables;

pub use connect::PostgresConfig;
pub use logical::{LogicalOptions, PostgresLogical};
pub use probe::{probe, sorted_keys};
pub use scratch::ScratchCluster;
pub use target::{PostgresTarget, TargetOptions};
