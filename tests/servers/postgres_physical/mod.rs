//! Physical backups of PostgreSQL. Each test has a cluster of its own, since it has to configure, damage or restart one.

mod archive;
mod cluster;
mod delta;
mod differential;
mod direct;
mod disaster;
mod drill;
mod failures;
mod incremental;
mod load;
mod point_in_time;
mod receive;
mod receive_gaps;
mod restore;
mod rights;
mod standby;
mod summaries;
