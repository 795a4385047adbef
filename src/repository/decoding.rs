//! What turns bytes of a site into values, in one place: everything here must stand whatever comes, and take no more memory than
//! `docs/threat-model.md` says. What reads through a seal is here without it: a thief of the catalogue key can seal anything.

pub use super::{
    chunk::{ChunkList, parse_refs},
    entry::{parse_chunk, split_records},
    format::{Header, Kind},
    index::{open_frame, parse_index},
    pack::{PackEntry, Place, Tail, parse_directory},
};
