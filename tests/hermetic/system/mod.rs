//! The program from the outside, as an operator uses and breaks it: filesystem sites, no server (but one of the tests'
//! own, which plays Azure).

mod azure_archived;
mod azure_locked;
mod damage;
mod doctor;
mod interrupted;
mod keys;
mod killed;
mod passphrase;
mod permissions;
mod policy;
mod prune;
mod recipients;
mod repair;
mod retention;
mod round_trip;
mod sites;
mod stolen;
mod targets;
