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
mod objectives;
mod outside;
mod point_in_time;
mod receive;
mod receive_gaps;
mod receive_status;
mod restore;
mod rights;
mod room;
mod site_dies;
mod standby;
mod summaries;
mod tablespaces;
mod timelines;
