//! Prune: what it removes, what it leaves, and that nothing is lost by it.

mod basics;
mod late;
mod month;
