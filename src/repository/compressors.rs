//! zstd's contexts, as pages of databases and their logs want them (decision 0046).
//!
//! zstd chooses by its level and by how long the input is, for whatever the input may be. Of pages and logs more is known.

use std::io;

use zstd::{
    bulk::Compressor,
    zstd_safe::{CParameter, Strategy},
};

/// Pieces after which all ways are tried anew: some 128 MiB of a log, or 4 MiB of relations, of what one thread compresses. Neither this nor
/// what confirming makes of it is a multiple of the blocks of a segment, so that not the same place of each is tried.
const TRIED_FOR: u32 = 31;
/// And after so many blocks of a log, if what comes compresses unlike what was tried. Pieces of relations differ among themselves, and are soon
/// past the other bound.
const TRUSTED_FOR: u32 = 7;
/// How often each of these becomes twice as many, for a log's choice that a further trial confirms.
const LOG_CONFIRMED_AT_MOST: u32 = 2;
/// Of the length that the level's own way makes of a piece, one part in so many is what a nearer way may add.
const NEAR_MAY_COST: usize = 50;
/// A piece that becomes shorter than one part in so many says nothing of its kind: zeros, after a segment's end.
const SAYS_NOTHING: usize = 50;
/// Shorter blocks of a log say too little to choose by. Bytes.
const TRY_LOG_FROM_BYTES: usize = 1 << 20;
/// And shorter pieces of relations. Bytes.
const TRY_PAGES_FROM_BYTES: usize = 64 << 10;
/// The nearer ways: how long what repeats must be, in bytes, and how many positions are remembered, as a power of two (tables of 32 and 16 KiB).
const NEAR: [(u32, u32); 2] = [(5, 13), (7, 12)];

/// Compresses pieces of pages or of a log in one of three ways: as their level says, or looking for what repeats nearby alone.
///
/// Rows, and changes of rows, repeat what stands just before them: a small table finds most of it in half of the time, and what it does not
/// find, of digits that repeat by chance, was not worth its place. The more there is of those, the longer should be what counts as repeated.
/// Long texts repeat what stands far before them: the small table forgets it, and their log becomes about twice as large. So all are tried on
/// a piece now and then, and the nearer way that makes it shorter is taken where it costs at most a fiftieth of room. That is level 3; others
/// are left as zstd has them.
pub(super) struct AdaptiveCompressor {
    own: Compressor<'static>,
    /// As in `NEAR`, for levels where they may be better.
    near: Vec<Compressor<'static>>,
    /// Which of the nearer ways is taken.
    chosen: Option<usize>,
    try_from_bytes: usize,
    /// Pieces for which a choice stands, even if they compress unlike what was tried.
    trusted_for: u32,
    confirmed_at_most: u32,
    /// Trials in a row that have led to the same choice, as far as they count.
    confirmed: u32,
    /// Pieces since all were tried; nothing where they never were.
    pieces: Option<u32>,
    /// How far what was tried compressed, per mille.
    tried: usize,
    /// And what came last.
    last: usize,
}

impl AdaptiveCompressor {
    /// One for blocks of a log, at this zstd level.
    ///
    /// # Errors
    /// The operating system's, if it gives no memory.
    pub(super) fn for_log(level: i32) -> io::Result<Self> {
        Self::new(level, TRY_LOG_FROM_BYTES, TRUSTED_FOR, LOG_CONFIRMED_AT_MOST)
    }

    /// One for pieces of relations, at this zstd level.
    ///
    /// # Errors
    /// The operating system's, if it gives no memory.
    pub(super) fn for_pages(level: i32) -> io::Result<Self> {
        Self::new(level, TRY_PAGES_FROM_BYTES, TRIED_FOR, 0)
    }

    fn new(level: i32, try_from_bytes: usize, trusted_for: u32, confirmed_at_most: u32) -> io::Result<Self> {
        let mut near = Vec::new();
        if level == 3 {
            for (match_bytes, table_log) in NEAR {
                let mut compressor = Compressor::new(level)?;
                for parameter in [
                    CParameter::Strategy(Strategy::ZSTD_fast),
                    CParameter::MinMatch(match_bytes),
                    CParameter::HashLog(table_log),
                    CParameter::WindowLog(21),
                ] {
                    compressor.set_parameter(parameter)?;
                }
                near.push(compressor);
            }
        }
        Ok(Self {
            own: Compressor::new(level)?,
            near,
            chosen: None,
            try_from_bytes,
            trusted_for,
            confirmed_at_most,
            confirmed: 0,
            pieces: None,
            tried: 0,
            last: 0,
        })
    }

    /// All are to be tried on the next piece.
    fn is_due(&self) -> bool {
        let confirmed = |pieces: u32| ((pieces + 1) << self.confirmed) - 1;
        let is_unlike = self.last * 4 > self.tried * 5 || self.last * 5 < self.tried * 4;
        self.pieces.is_none_or(|pieces| pieces >= confirmed(TRIED_FOR) || (is_unlike && pieces >= confirmed(self.trusted_for)))
    }

    /// Compresses `plain` into `out`, whose contents are replaced and which has room for zstd's `compress_bound` of it.
    ///
    /// # Errors
    /// zstd's, which fails only for want of memory.
    pub(super) fn compress(&mut self, plain: &[u8], out: &mut Vec<u8>) -> io::Result<usize> {
        if self.near.is_empty() {
            return self.own.compress_to_buffer(plain, out);
        }
        let is_long = plain.len() >= self.try_from_bytes;
        let tried = if is_long && self.is_due() { self.choose(plain, out)? } else { None };
        let length = match tried {
            Some(length) => length,
            None => self.chosen.and_then(|way| self.near.get_mut(way)).unwrap_or(&mut self.own).compress_to_buffer(plain, out)?,
        };
        if is_long {
            self.last = length * 1000 / plain.len();
            if self.pieces == Some(0) {
                self.tried = self.last;
            }
            self.pieces = self.pieces.map(|pieces| pieces.saturating_add(1));
        }
        Ok(length)
    }

    /// Tries all ways, and chooses by what they make of this piece. Returns its length in `out`, if that holds what the chosen way has made.
    fn choose(&mut self, plain: &[u8], out: &mut Vec<u8>) -> io::Result<Option<usize>> {
        let own = self.own.compress_to_buffer(plain, out)?;
        if own < plain.len() / SAYS_NOTHING {
            return Ok(None);
        }
        let mut lengths = Vec::with_capacity(self.near.len());
        for near in &mut self.near {
            lengths.push(near.compress_to_buffer(plain, out)?);
        }
        let shortest = lengths.iter().enumerate().min_by_key(|(_, length)| **length);
        let chosen = shortest.filter(|(_, length)| **length <= own + own / NEAR_MAY_COST).map(|(way, _)| way);
        let is_confirmed = self.pieces.is_some() && chosen == self.chosen;
        self.confirmed = if is_confirmed { self.confirmed_at_most.min(self.confirmed + 1) } else { 0 };
        (self.chosen, self.pieces) = (chosen, Some(0));
        // What was tried last lies in `out`.
        Ok(lengths.last().copied().filter(|_| chosen == Some(lengths.len() - 1)))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::{AdaptiveCompressor, Compressor, NEAR_MAY_COST, TRIED_FOR, TRUSTED_FOR, TRY_LOG_FROM_BYTES};

    const BLOCK_BYTES: usize = 4 << 20;
    const PIECE_BYTES: usize = 128 << 10;

    /// Short rows with digits in them: what repeats lies near.
    pub(in crate::repository) fn rows(bytes: usize, seed: u64) -> Vec<u8> {
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

    /// Entries as an index has them: six bytes repeat, two do not.
    fn entries(bytes: usize) -> Vec<u8> {
        let mut draws = blake3::Hasher::new().finalize_xof();
        let mut out = vec![1; bytes];
        for entry in out.chunks_mut(8) {
            draws.fill(&mut entry[..2]);
        }
        out
    }

    /// Words out of a few hundred, most of them short, as a text has them.
    fn words(bytes: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(bytes + 32);
        for number in 0u32.. {
            if out.len() >= bytes {
                break;
            }
            let draw = blake3::hash(&number.to_le_bytes());
            let (first, second) = (u32::from(draw.as_bytes()[0]), u32::from(draw.as_bytes()[1]));
            let word = blake3::hash(&(first * second / 100).to_le_bytes()).to_hex();
            out.extend_from_slice(&word.as_bytes()[..2 + (first * second % 7) as usize]);
            out.push(b' ');
        }
        out.truncate(bytes);
        out
    }

    fn usual(level: i32, plain: &[u8]) -> usize {
        zstd::bulk::compress(plain, level).unwrap().len()
    }

    struct Log {
        compressor: AdaptiveCompressor,
        out: Vec<u8>,
    }

    impl Log {
        fn at(level: i32) -> Self {
            Self {
                compressor: AdaptiveCompressor::for_log(level).unwrap(),
                out: Vec::with_capacity(BLOCK_BYTES + (BLOCK_BYTES >> 4)),
            }
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
        let mut log = Log::at(3);
        for plain in [rows(BLOCK_BYTES, 0), rows(BLOCK_BYTES, 1)] {
            let (length, usual) = (log.takes(&plain), usual(3, &plain));
            assert!(log.compressor.chosen.is_some());
            assert_ne!(length, usual);
            assert!(length <= usual + usual / NEAR_MAY_COST, "{length}, {usual}");
        }
    }

    #[test]
    fn the_nearer_way_is_taken_that_makes_it_shorter() {
        for (plain, way) in [(entries(BLOCK_BYTES), 0), (rows(BLOCK_BYTES, 0), 1)] {
            let mut log = Log::at(3);
            let chosen = log.takes(&plain);
            assert_eq!(log.compressor.chosen, Some(way));
            log.compressor.chosen = Some(1 - way);
            let other = log.takes(&plain);
            assert!(chosen < other, "{way}: {chosen}, {other}");
        }
    }

    #[test]
    fn what_repeats_far_away_is_found_with_large_tables() {
        let plain = far(BLOCK_BYTES);
        let mut log = Log::at(3);
        for _ in 0..2 {
            assert_eq!(log.takes(&plain), usual(3, &plain));
            assert!(log.compressor.chosen.is_none());
        }
        // Else these would not be texts that tell the two ways apart.
        log.compressor.chosen = Some(0);
        assert!(log.takes(&plain) > usual(3, &plain) * 5 / 4);
    }

    #[test]
    fn pieces_of_relations_take_hardly_more_room_whatever_they_hold() {
        let mut own = AdaptiveCompressor::for_pages(3).unwrap().own;
        let mut pages = AdaptiveCompressor::for_pages(3).unwrap();
        let mut out = Vec::with_capacity(PIECE_BYTES * 2);
        let mut ways = Vec::new();
        // One relation, then another.
        for plain in [rows(40 * PIECE_BYTES, 0), words(40 * PIECE_BYTES)] {
            // What comes before a choice is made anew is compressed in the way of the other.
            let (before, after) = plain.split_at(TRIED_FOR as usize * PIECE_BYTES);
            for piece in before.chunks(PIECE_BYTES) {
                pages.compress(piece, &mut out).unwrap();
            }
            let (mut taken, mut usual) = (0, 0);
            for piece in after.chunks(PIECE_BYTES) {
                taken += pages.compress(piece, &mut out).unwrap();
                assert!(zstd::bulk::decompress(&out, piece.len()).unwrap() == piece);
                usual += own.compress(piece).unwrap().len();
            }
            ways.push((pages.chosen.is_some(), taken, usual));
            assert!(taken <= usual + usual / NEAR_MAY_COST, "{ways:?}");
            assert_eq!(pages.chosen.is_some(), taken != usual, "{ways:?}");
        }
        assert!(matches!(ways[..], [(true, ..), (false, ..)]), "{ways:?}: else these do not tell the two ways apart");
    }

    #[test]
    fn another_level_is_left_as_zstd_has_it() {
        for level in [-1, 1, 2, 4, 9] {
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
            (1..100).find(|_| log.takes(plain) > 0 && log.compressor.chosen.is_some() == is_near)
        };
        // It compresses unlike what was tried: no more than the blocks for which a choice is trusted take the wrong way.
        assert_eq!(until(&mut log, &far, false), Some(TRUSTED_FOR as usize));
        assert_eq!(until(&mut log, &near, true), Some(TRUSTED_FOR as usize));
        // Nothing tells that this is another: the choice is made anew by count.
        log.compressor.chosen = None;
        log.takes(&near);
        log.compressor.tried = log.compressor.last;
        assert_eq!(until(&mut log, &near, true), Some(TRIED_FOR as usize - 1));
    }

    #[test]
    fn a_choice_that_is_confirmed_is_made_less_often_and_one_that_changes_as_often_as_at_first() {
        let (near, far) = (rows(TRY_LOG_FROM_BYTES, 0), far(TRY_LOG_FROM_BYTES));
        let mut log = Log::at(3);
        let until_tried =
            |log: &mut Log, plain: &[u8]| (1..).find(|_| log.takes(plain) > 0 && log.compressor.pieces == Some(1)).unwrap();
        let often: Vec<u32> = (0..5).map(|_| until_tried(&mut log, &near)).collect();
        assert_eq!(often, [1, 31, 63, 127, 127]);
        // Unlike what was tried: found out after 31 blocks at most, and then looked at again soon.
        let often: Vec<u32> = [&far, &near, &far].into_iter().map(|plain| until_tried(&mut log, plain)).collect();
        assert_eq!(often, [31, 7, 7]);
        // Pieces of relations are tried as often as ever.
        let mut pages = AdaptiveCompressor::for_pages(3).unwrap();
        let mut out = Vec::with_capacity(PIECE_BYTES * 2);
        let tried = near.chunks(PIECE_BYTES).cycle().take(1 + 4 * TRIED_FOR as usize).filter(|piece| {
            pages.compress(piece, &mut out).unwrap();
            pages.pieces == Some(1)
        });
        assert_eq!(tried.count(), 5);
    }

    #[test]
    fn zeros_choose_nothing() {
        let (texts, zeros) = (far(BLOCK_BYTES), vec![0; BLOCK_BYTES]);
        let mut log = Log::at(3);
        log.takes(&zeros);
        log.takes(&texts);
        assert!(log.compressor.chosen.is_none());
        // Whichever block it falls on that is tried, texts take what the level says.
        for number in 0..3 * TRIED_FOR {
            if number % 4 == 3 {
                log.takes(&zeros);
            } else {
                log.takes(&texts);
            }
            assert!(log.compressor.chosen.is_none(), "{number}");
        }
    }

    #[test]
    fn pieces_that_are_too_short_to_choose_by_come_back() {
        let mut log = Log::at(3);
        for plain in [&b""[..], b"1", &rows(TRY_LOG_FROM_BYTES - 1, 0), &rows(TRY_LOG_FROM_BYTES, 0), &rows(9000, 0)] {
            log.takes(plain);
        }
        assert!(log.compressor.chosen.is_some());
        assert_eq!(Compressor::new(3).unwrap().compress(b"").unwrap().len(), Log::at(3).takes(b""));
    }
}
