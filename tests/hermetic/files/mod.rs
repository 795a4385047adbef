//! Source `files`, there and back. These pass as root and as an ordinary user.

mod capture;
mod hostile;
mod round_trip;
mod tree;
