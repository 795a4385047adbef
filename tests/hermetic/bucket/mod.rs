//! Source `bucket`, there and back, over the stores that need no server.

mod archived;
mod as_of;
mod capture;
mod locks;
mod round_trip;
mod shards;
mod unfinished;
mod watched;
