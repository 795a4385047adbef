//! Files past the page cache (`O_DIRECT`): `write.rs` for what is written once and not read again soon (packs at a site, restores), `read.rs` for
//! what is read once and does not lie in the cache.
//!
//! Writing through the cache copies every byte into pages that must be found first, and writes them out afterwards: that was a third of the
//! processors' time of a restore, and pushes out of memory what programs on the machine do use. Reading through it costs the same pages. Whatever
//! the file system does not take in this way (or is too small or does not lie so) goes the way that any file goes; the bytes are the same.

mod read;
mod write;

use std::fs::File;

use rustix::{
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    io::{Errno, ReadWriteFlags, preadv2},
};

pub use read::ReadOnce;
pub use write::{write_cached, write_file, write_pieces};

/// Where bytes begin that a disk takes from memory without a copy, in memory and in a file: at the pages of the one and at the blocks of the
/// other. Bytes.
pub const ALIGNMENT: usize = 4096;

/// Less than this is handed to the cache: a disk takes as long for it as for this much. Bytes.
const WORTH_BYTES: usize = 256 << 10;

/// Where in a buffer to begin, so that bytes lie at a multiple of [`ALIGNMENT`]. The function behind it may give up; then they lie somewhere, and go
/// the way that any file goes.
pub fn aligned_start(buffer: &[u8]) -> usize {
    let start = buffer.as_ptr().align_offset(ALIGNMENT);
    if start < ALIGNMENT { start } else { 0 }
}

/// Returns whether it is so now.
fn set_direct(file: &File, is_direct: bool) -> bool {
    let set = |flags: OFlags| fcntl_setfl(file, if is_direct { flags | OFlags::DIRECT } else { flags - OFlags::DIRECT });
    fcntl_getfl(file).and_then(set).is_ok()
}

/// Whether the page cache has the byte at this place; nothing where the file system does not say, or there is none. It may come for being asked for.
fn has_page(file: &File, at: u64) -> Option<bool> {
    let mut byte = [0];
    match preadv2(file, &mut [std::io::IoSliceMut::new(&mut byte)], at, ReadWriteFlags::NOWAIT) {
        Ok(0) => None,
        Ok(_) => Some(true),
        Err(Errno::AGAIN) => Some(false),
        Err(_) => None,
    }
}

#[cfg(test)]
mod probing {
    use std::fs::File;

    use super::{ALIGNMENT, has_page};

    /// So many bytes, and where in them those begin that lie at a multiple of [`ALIGNMENT`].
    pub(super) fn noise(bytes: usize) -> (Vec<u8>, usize) {
        let mut noise: Vec<u8> = Vec::with_capacity(bytes + ALIGNMENT);
        let start = noise.as_ptr().align_offset(ALIGNMENT);
        let mut reader = blake3::Hasher::new().update(&bytes.to_le_bytes()).finalize_xof();
        noise.resize(start + bytes, 0);
        reader.fill(&mut noise);
        (noise, start)
    }

    /// Whether the page cache has all of what is at this place; nothing where only some file systems say. To ask for a page may bring it, so
    /// fast that it counts as there: but not each of several.
    pub(super) fn is_cached(file: &File, at: usize, bytes: usize) -> Option<bool> {
        const EXT4: u64 = 0xEF53;
        const XFS: u64 = 0x5846_5342;
        let kind = u64::try_from(rustix::fs::fstatfs(file).unwrap().f_type).unwrap();
        let has = |at: usize| has_page(file, at as u64).unwrap();
        [EXT4, XFS].contains(&kind).then(|| (at..at + bytes).step_by(32 << 10).all(has))
    }
}
