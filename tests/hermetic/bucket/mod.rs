//! Source `bucket`, there and back, over the stores that need no server.

mod capture;
mod round_trip;
mod watched;
