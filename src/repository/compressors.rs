//! zstd's contexts, as pages of databases and their logs want them (decisions 0043, 0046).
//!
//! zstd chooses by its level and by how long the input is, for whatever the input may be. Of pages and logs more is known.

use std::io;

use zstd::{
    bulk::Compressor,
    zstd_safe::{CParameter, Strategy},
};

/// Blocks of a log after which the two ways are tried anew: 128 MiB of a log.
const TRIED_FOR_BLOCKS: u32 = 32;
/// And after so many, if what comes compresses unlike what was tried.
const TRUSTED_FOR_BLOCKS: u32 = 8;
/// The part of a block by which the small table may make it longer.
const NEAR_MAY_COST: usize = 50;
/// Shorter blocks say too little to choose by. Bytes.
const TRY_FROM_BYTES: usize = 1 << 20;

/// zstd's level 3 keeps two tables of what it has seen, of 128 and 256 KiB for a piece of a relation. In pages what repeats lies near. With
/// tables of 8 and 32 KiB, which a processor's inner caches have room for, pieces of relations take a tenth less time and as much room, within
/// a fiftieth (decision 0043); programs and texts would become larger. Levels 1 and 2 have one small table, 5 and above search in another way,
/// and who asks for 4 asks for its large ones.
///
/// # Errors
/// The operating system's, if it gives no memory.
pub(super) fn for_pages(level: i32) -> io::Result<Compressor<'static>> {
    let mut compressor = Compressor::new(level)?;
    if level == 3 {
        for parameter in [CParameter::WindowLog(18), CParameter::ChainLog(11), CParameter::HashLog(13)] {
            compressor.set_parameter(parameter)?;
        }
    }
    Ok(compressor)
}

/// Compresses blocks of a log, at levels 1 to 3 in one of two ways: as zstd does at that level, or looking for what repeats nearby alone.
///
/// Rows, and changes of rows, repeat what stands just before them: one table of 32 KiB finds most of it in half of the time, and what it
/// does not find, of digits that repeat by chance, was not worth its place. Long texts repeat what stands far before them: the small table
/// forgets it, and their log becomes half as large again. So both are tried on a block now and then, and the small table is taken where it
/// costs at most a fiftieth of room.
pub(super) struct LogCompressor {
    own: Compressor<'static>,
    /// For levels where it may be better.
    near: Option<Compressor<'static>>,
    is_near: bool,
    /// Since both were tried; nothing where they never were.
    blocks: Option<u32>,
    /// How far what was tried compressed, per mille.
    tried: usize,
    /// And what came last.
    last: usize,
}

impl LogCompressor {
    /// One for this zstd level.
    ///
    /// # Errors
    /// The operating system's, if it gives no memory.
    pub(super) fn new(level: i32) -> io::Result<Self> {
        let near = if (1..=3).contains(&level) {
            let mut near = Compressor::new(level)?;
            for parameter in [
                CParameter::Strategy(Strategy::ZSTD_fast),
                CParameter::MinMatch(5),
                CParameter::HashLog(13),
                CParameter::WindowLog(21),
            ] {
                near.set_parameter(parameter)?;
            }
            Some(near)
        } else {
            None
        };
        Ok(Self { own: Compressor::new(level)?, near, is_near: false, blocks: None, tried: 0, last: 0 })
    }

    /// Both are to be tried on the next block.
    fn is_due(&self) -> bool {
        let is_unlike = self.last * 8 > self.tried * 9 || self.last * 9 < self.tried * 8;
        self.blocks.is_none_or(|blocks| blocks >= TRIED_FOR_BLOCKS || (is_unlike && blocks >= TRUSTED_FOR_BLOCKS))
    }

    /// Compresses `plain` into `out`, whose contents are replaced and which has room for it.
    ///
    /// # Errors
    /// zstd's, which fails only for want of memory.
    pub(super) fn compress(&mut self, plain: &[u8], out: &mut Vec<u8>) -> io::Result<usize> {
        let is_long = plain.len() >= TRY_FROM_BYTES;
        let is_tried = is_long && self.is_due();
        let Some(near) = &mut self.near else {
            return self.own.compress_to_buffer(plain, out);
        };
        let mut length = None;
        if is_tried {
            let own = self.own.compress_to_buffer(plain, out)?;
            let with_near = near.compress_to_buffer(plain, out)?;
            self.is_near = with_near <= own + own / NEAR_MAY_COST;
            self.blocks = Some(0);
            length = self.is_near.then_some(with_near);
        }
        let length = match length {
            Some(length) => length,
            None if self.is_near => near.compress_to_buffer(plain, out)?,
            None => self.own.compress_to_buffer(plain, out)?,
        };
        if is_long {
            self.last = length * 1000 / plain.len();
            if is_tried {
                self.tried = self.last;
            }
            self.blocks = self.blocks.map(|blocks| blocks.saturating_add(1));
        }
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::{Compressor, LogCompressor, NEAR_MAY_COST, TRIED_FOR_BLOCKS, TRUSTED_FOR_BLOCKS, TRY_FROM_BYTES};

    const BLOCK_BYTES: usize = 4 << 20;

    /// Short rows with digits in them: what repeats lies near.
    fn rows(bytes: usize, seed: u64) -> Vec<u8> {
        let mut out = Vec::with_capacity(bytes + 128);
        for number in 0u64.. {
            if out.len() >= bytes {
                break;
            }
            let digits = blake3::hash(&(seed << 32 | number).to_le_bytes()).to_hex();
            out.extend_from_slice(format!("{digits} the channel was {} ", number % 97).as_bytes());
        }
        out.truncate(bytes);
        out
    }

    /// Sentences out of 4000, in any order: what repeats lies far away.
    fn far(bytes: usize) -> Vec<u8> {
        let mut draws = blake3::Hasher::new().finalize_xof();
        let mut draw = || {
            let mut number = [0; 4];
            draws.fill(&mut number);
            u32::from_le_bytes(number) % 4000
        };
        let mut out = Vec::with_capacity(bytes + 256);
        while out.len() < bytes {
            let digits = blake3::hash(&draw().to_le_bytes());
            out.extend(digits.as_bytes().iter().flat_map(|byte| [b'0' + byte % 64, b'0' + byte / 4]));
        }
        out.truncate(bytes);
        out
    }

    fn usual(level: i32, plain: &[u8]) -> usize {
        zstd::bulk::compress(plain, level).unwrap().len()
    }

    struct Log {
        compressor: LogCompressor,
        out: Vec<u8>,
    }

    impl Log {
        fn at(level: i32) -> Self {
            Self { compressor: LogCompressor::new(level).unwrap(), out: Vec::with_capacity(BLOCK_BYTES + (BLOCK_BYTES >> 4)) }
        }

        /// Bytes that the block takes; it comes back as it was.
        fn takes(&mut self, plain: &[u8]) -> usize {
            let length = self.compressor.compress(plain, &mut self.out).unwrap();
            assert_eq!(length, self.out.len());
            assert!(zstd::bulk::decompress(&self.out, plain.len()).unwrap() == plain, "{} bytes", plain.len());
            length
        }
    }

    #[test]
    fn a_log_takes_hardly_more_room_than_the_level_says() {
        for level in 1..=3 {
            let mut log = Log::at(level);
            for plain in [rows(BLOCK_BYTES, 0), rows(BLOCK_BYTES, 1)] {
                let (length, usual) = (log.takes(&plain), usual(level, &plain));
                assert!(log.compressor.is_near, "level {level}");
                assert!(length <= usual + usual / NEAR_MAY_COST, "rows at level {level}: {length}, {usual}");
            }
            let plain = far(BLOCK_BYTES);
            let (length, usual) = (Log::at(level).takes(&plain), usual(level, &plain));
            assert!(length <= usual + usual / NEAR_MAY_COST, "texts at level {level}: {length}, {usual}");
        }
    }

    #[test]
    fn what_repeats_far_away_is_found_with_large_tables() {
        let plain = far(BLOCK_BYTES);
        let mut log = Log::at(3);
        for _ in 0..2 {
            assert_eq!(log.takes(&plain), usual(3, &plain));
            assert!(!log.compressor.is_near);
        }
        // Else these would not be texts that tell the two ways apart.
        log.compressor.is_near = true;
        assert!(log.takes(&plain) > usual(3, &plain) * 5 / 4);
    }

    #[test]
    fn another_level_is_left_as_zstd_has_it() {
        for level in [-1, 4, 9] {
            let mut log = Log::at(level);
            for plain in [rows(BLOCK_BYTES, 0), far(BLOCK_BYTES)] {
                assert_eq!(log.takes(&plain), usual(level, &plain), "level {level}");
            }
        }
    }

    #[test]
    fn a_log_that_changes_is_tried_anew_soon_and_one_that_does_not_after_a_while() {
        let (near, far) = (rows(BLOCK_BYTES, 0), far(BLOCK_BYTES));
        let mut log = Log::at(3);
        let (near_length, far_length) = (log.takes(&near), usual(3, &far));
        assert!(far_length < near_length);
        let until = |log: &mut Log, plain: &[u8], is_near: bool| {
            (1..100).find(|_| log.takes(plain) > 0 && log.compressor.is_near == is_near)
        };
        // It compresses unlike what was tried: no more than the blocks for which a choice is trusted take the wrong way.
        assert_eq!(until(&mut log, &far, false), Some(TRUSTED_FOR_BLOCKS as usize));
        assert_eq!(until(&mut log, &near, true), Some(TRUSTED_FOR_BLOCKS as usize));
        // Nothing tells that this is another: the choice is made anew by count.
        log.compressor.is_near = false;
        log.takes(&near);
        log.compressor.tried = log.compressor.last;
        assert_eq!(until(&mut log, &near, true), Some(TRIED_FOR_BLOCKS as usize - 1));
    }

    #[test]
    fn pieces_that_are_too_short_to_choose_by_come_back() {
        let mut log = Log::at(3);
        for plain in [&b""[..], b"1", &rows(TRY_FROM_BYTES - 1, 0), &rows(TRY_FROM_BYTES, 0), &rows(9000, 0)] {
            log.takes(plain);
        }
        assert!(log.compressor.is_near);
        assert_eq!(Compressor::new(3).unwrap().compress(b"").unwrap().len(), Log::at(3).takes(b""));
    }
}
