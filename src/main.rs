//! Farshore: parse, assemble, run, exit code.

fn main() {}
