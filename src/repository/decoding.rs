//! What turns bytes of a site into values, in one place: everything here must stand whatever comes, and take no more memory than
//! `docs/threat-model.md` says. What reads through a seal is here without it: a thief of the catalogue key can seal anything.

pub use super::{
    chunk::{ChunkList, Encoding, parse_refs, seal_chunk},
    entry::{parse_chunk, split_records},
    format::{Header, Kind},
    index::{open_frame, parse_index},
    keys::{Catalogue, Secret, WrapName, open_within, parse_set_key},
    log::{LogSealing, open_log_file},
    marks::parse_mark_key,
    pack::{PackEntry, Place, Tail, parse_directory},
    parts::parse_part_key,
    pins::parse_pin_key,
    point::{dated_name, parse_dated_name},
    seal::{OpeningKey, SealingKey},
    workers::Desk,
};
