//! More than one site: written from one read, caught up, copied; and what happens when one of them fails.

mod broken;
mod copies;
mod in_place;
mod several;
mod stale;
