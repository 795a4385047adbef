//! Physical backups of PostgreSQL. Each test has a cluster of its own, since it has to configure, damage or restart one.

mod archive;
mod archive_clouds;
mod cluster;
mod delta;
mod differential;
mod direct;
mod disaster;
mod drill;
mod failures;
mod full_disk;
mod incremental;
mod load;
mod outside;
mod point_in_time;
mod receive;
mod receive_gaps;
mod receive_status;
mod receive_stream;
mod receive_stream_faults;
mod restore;
mod rights;
mod standby;
mod summaries;
mod tablespaces;
