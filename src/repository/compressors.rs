//! zstd's contexts, as pages of databases and their logs want them (decision 0046).
//!
//! zstd chooses by its level and by how long the input is, for whatever the input may be. Of pages and logs more is known.

use std::io;

use zstd::{
    bulk::Compressor,
    zstd_safe::{CParameter, Strategy},
};

/// Blocks of a log after which all ways are tried anew: some 128 MiB of what one thread compresses. Neither this nor what confirming makes of
/// it is a multiple of the blocks of a segment, so that not the same place of each is tried.
const LOG_TRIED_FOR: u32 = 31;
/// How often that becomes twice as many, by trials in a row that lead to the same choice.
const CONFIRMED_AT_MOST: u32 = 2;
/// And pieces of relations, however often the choice is the same: some 8 MiB, after which another relation may have begun long ago.
const PAGES_TRIED_FOR: u32 = 61;
/// Blocks of a log after which one is tried at once that compresses unlike what was tried. Pieces of relations differ among themselves.
const TRUSTED_FOR: u32 = 7;
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
/// The place of the level's own way among all.
const OWN: usize = 0;

/// Compresses pieces of pages or of a log in one of three ways: as their level says, or looking for what repeats nearby alone.
///
/// Rows, and changes of rows, repeat what stands just before them: a small table finds most of it in half of the time, and what it does not
/// find, of digits that repeat by chance, was not worth its place. The more there is of those, the longer should be what counts as repeated.
/// Long texts repeat what stands far before them: the small table forgets it, and their log becomes about twice as large. So all are tried on
/// a piece now and then, and the nearer way that makes it shorter is taken where it costs at most a fiftieth of room. That is level 3; others
/// are left as zstd has them.
pub(super) struct AdaptiveCompressor {
    /// The level's own, then those of `NEAR`, at levels where they may be better.
    ways: Vec<Compressor<'static>>,
    /// The one that is taken.
    chosen: usize,
    try_from_bytes: usize,
    /// Pieces after which all are tried anew, where nothing was confirmed.
    tried_for: u32,
    confirmed_at_most: u32,
    /// Pieces after which one that is unlike what was tried is tried itself.
    trusted_for: Option<u32>,
    /// How often a choice was confirmed, since something unlike it was met.
    confirmed: u32,
    /// Pieces since all were tried; nothing where they never were.
    pieces: Option<u32>,
    /// From how far to how far compressed what led to this choice, per mille.
    tried: (usize, usize),
}

impl AdaptiveCompressor {
    /// One for blocks of a log, at this zstd level.
    ///
    /// # Errors
    /// The operating system's, if it gives no memory.
    pub(super) fn for_log(level: i32) -> io::Result<Self> {
        Ok(Self {
            ways: ways(level)?,
            chosen: OWN,
            try_from_bytes: TRY_LOG_FROM_BYTES,
            tried_for: LOG_TRIED_FOR,
            confirmed_at_most: CONFIRMED_AT_MOST,
            trusted_for: Some(TRUSTED_FOR),
            confirmed: 0,
            pieces: None,
            tried: (0, 0),
        })
    }

    /// One for pieces of relations, at this zstd level.
    ///
    /// # Errors
    /// The operating system's, if it gives no memory.
    pub(super) fn for_pages(level: i32) -> io::Result<Self> {
        let (try_from_bytes, tried_for) = (TRY_PAGES_FROM_BYTES, PAGES_TRIED_FOR);
        Ok(Self { try_from_bytes, tried_for, confirmed_at_most: 0, trusted_for: None, ..Self::for_log(level)? })
    }

    /// Compresses `plain` into `out`, whose contents are replaced and which has room for zstd's `compress_bound` of it.
    ///
    /// # Errors
    /// zstd's, which fails only for want of memory.
    pub(super) fn compress(&mut self, plain: &[u8], out: &mut Vec<u8>) -> io::Result<usize> {
        if self.ways.len() == 1 || plain.len() < self.try_from_bytes {
            return self.ways[self.chosen].compress_to_buffer(plain, out);
        }
        let for_long = ((self.tried_for + 1) << self.confirmed) - 1;
        let Some(pieces) = self.pieces.filter(|pieces| *pieces < for_long) else {
            return self.choose(plain, out);
        };
        let length = self.ways[self.chosen].compress_to_buffer(plain, out)?;
        let (share, (least, most)) = (length * 1000 / plain.len(), self.tried);
        let is_unlike = share * 5 < least * 4 || share * 4 > most * 5;
        if is_unlike && length >= plain.len() / SAYS_NOTHING {
            self.confirmed = 0;
            if self.trusted_for.is_some_and(|trusted_for| pieces >= trusted_for) {
                return self.choose(plain, out);
            }
        }
        self.pieces = Some(pieces + 1);
        Ok(length)
    }

    /// Compresses a piece in all ways, chooses by what they make of it, and leaves in `out` what the chosen one has made.
    fn choose(&mut self, plain: &[u8], out: &mut Vec<u8>) -> io::Result<usize> {
        let before = self.chosen;
        let mut lengths = vec![0; self.ways.len()];
        // The one that was taken before comes last: mostly it is taken again, and then lies in `out`.
        for step in 1..=self.ways.len() {
            let way = (before + step) % self.ways.len();
            lengths[way] = self.ways[way].compress_to_buffer(plain, out)?;
        }
        if lengths.iter().all(|length| *length < plain.len() / SAYS_NOTHING) {
            return Ok(lengths[before]);
        }
        let near = (OWN + 1..self.ways.len()).min_by_key(|way| lengths[*way]).unwrap_or(OWN);
        self.chosen = if lengths[near] <= lengths[OWN] + lengths[OWN] / NEAR_MAY_COST { near } else { OWN };
        let share = lengths[self.chosen] * 1000 / plain.len();
        if self.pieces.is_some() && self.chosen == before {
            self.confirmed = self.confirmed_at_most.min(self.confirmed + 1);
            // Two kinds in turn, for which the same is right, are not tried for ever.
            self.tried = (self.tried.0.min(share), self.tried.1.max(share));
        } else {
            self.confirmed = 0;
            self.tried = (share, share);
        }
        self.pieces = Some(1);
        if self.chosen == before { Ok(lengths[before]) } else { self.ways[self.chosen].compress_to_buffer(plain, out) }
    }
}

/// The level's own way, then the nearer ones, where they may be better.
fn ways(level: i32) -> io::Result<Vec<Compressor<'static>>> {
    let mut ways = vec![Compressor::new(level)?];
    if level == 3 {
        for (match_bytes, table_log) in NEAR {
            let mut near = Compressor::new(level)?;
            for parameter in [
                CParameter::Strategy(Strategy::ZSTD_fast),
                CParameter::MinMatch(match_bytes),
                CParameter::HashLog(table_log),
                CParameter::WindowLog(21),
            ] {
                near.set_parameter(parameter)?;
            }
            ways.push(near);
        }
    }
    Ok(ways)
}

#[cfg(test)]
pub(super) mod tests {
    use super::{
        AdaptiveCompressor, Compressor, LOG_TRIED_FOR, NEAR_MAY_COST, OWN, PAGES_TRIED_FOR, SAYS_NOTHING, TRUSTED_FOR,
        TRY_LOG_FROM_BYTES,
    };

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
            assert!(log.compressor.chosen != OWN);
            assert_ne!(length, usual);
            assert!(length <= usual + usual / NEAR_MAY_COST, "{length}, {usual}");
        }
    }

    #[test]
    fn the_nearer_way_is_taken_that_makes_it_shorter() {
        for (plain, way) in [(entries(BLOCK_BYTES), 1), (rows(BLOCK_BYTES, 0), 2)] {
            let mut log = Log::at(3);
            let chosen = log.takes(&plain);
            assert_eq!(log.compressor.chosen, way);
            log.compressor.chosen = 3 - way;
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
            assert!(log.compressor.chosen == OWN);
        }
        // Else these would not be texts that tell near and far apart.
        log.compressor.chosen = 1;
        assert!(log.takes(&plain) > usual(3, &plain) * 5 / 4);
    }

    #[test]
    fn pieces_of_relations_take_hardly_more_room_whatever_they_hold() {
        let mut own = Compressor::new(3).unwrap();
        let mut pages = AdaptiveCompressor::for_pages(3).unwrap();
        let mut out = Vec::with_capacity(PIECE_BYTES * 2);
        let mut ways = Vec::new();
        // One relation, then another.
        for plain in [rows(70 * PIECE_BYTES, 0), words(70 * PIECE_BYTES)] {
            // What comes before a choice is made anew is compressed in the way of the other.
            let (before, after) = plain.split_at(PAGES_TRIED_FOR as usize * PIECE_BYTES);
            for piece in before.chunks(PIECE_BYTES) {
                pages.compress(piece, &mut out).unwrap();
            }
            let (mut taken, mut usual) = (0, 0);
            for piece in after.chunks(PIECE_BYTES) {
                taken += pages.compress(piece, &mut out).unwrap();
                assert!(zstd::bulk::decompress(&out, piece.len()).unwrap() == piece);
                usual += own.compress(piece).unwrap().len();
            }
            ways.push((pages.chosen != OWN, taken, usual));
            assert!(taken <= usual + usual / NEAR_MAY_COST, "{ways:?}");
            assert_eq!(pages.chosen != OWN, taken != usual, "{ways:?}");
        }
        assert!(matches!(ways[..], [(true, ..), (false, ..)]), "{ways:?}: else these do not tell near and far apart");
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
            (1..100).find(|_| log.takes(plain) > 0 && (log.compressor.chosen != OWN) == is_near)
        };
        // It compresses unlike what was tried: no more than the blocks for which a choice is trusted take the wrong way.
        assert_eq!(until(&mut log, &far, false), Some(TRUSTED_FOR as usize));
        assert_eq!(until(&mut log, &near, true), Some(TRUSTED_FOR as usize));
        // Nothing tells that this is another: the choice is made anew by count.
        log.takes(&near);
        log.compressor.chosen = OWN;
        log.compressor.tried = (0, 1000);
        assert_eq!(until(&mut log, &near, true), Some(LOG_TRIED_FOR as usize - 1));
    }

    /// After how many pieces all ways are tried.
    fn until_tried(log: &mut Log, plain: &[u8]) -> Option<u32> {
        (1..1000).find(|_| log.takes(plain) > 0 && log.compressor.pieces == Some(1))
    }

    #[test]
    fn a_choice_that_is_confirmed_is_made_less_often_and_one_that_changes_as_often_as_at_first() {
        let (near, far) = (rows(TRY_LOG_FROM_BYTES, 0), far(TRY_LOG_FROM_BYTES));
        let mut log = Log::at(3);
        for often in [1, 31, 63, 127, 127] {
            assert_eq!(until_tried(&mut log, &near), Some(often));
        }
        // Whatever was confirmed, what is unlike it is soon found out.
        for plain in [&far, &near, &far] {
            assert_eq!(until_tried(&mut log, plain), Some(TRUSTED_FOR));
        }
        assert_eq!(until_tried(&mut log, &far), Some(LOG_TRIED_FOR));
    }

    #[test]
    fn what_is_unlike_but_wants_the_same_is_tried_once() {
        let (rows, entries) = (rows(TRY_LOG_FROM_BYTES, 0), entries(TRY_LOG_FROM_BYTES));
        let mut log = Log::at(3);
        log.takes(&entries);
        // As if rows were best compressed in the same way: which is so of many kinds.
        log.compressor.ways.pop();
        assert!(log.takes(&rows) * 4 > log.takes(&entries) * 5);
        let tried = (0..60)
            .filter(|number| log.takes(if number % 2 == 0 { &rows } else { &entries }) > 0 && log.compressor.pieces == Some(1));
        assert_eq!(tried.count(), 1);
    }

    #[test]
    fn pieces_of_relations_are_tried_by_count_alone() {
        let (near, far) = (rows(100 * PIECE_BYTES, 0), far(100 * PIECE_BYTES));
        let mut pages = AdaptiveCompressor::for_pages(3).unwrap();
        let mut out = Vec::with_capacity(PIECE_BYTES * 2);
        let mut tried = Vec::new();
        for (number, piece) in near.chunks(PIECE_BYTES).chain(far.chunks(PIECE_BYTES)).enumerate() {
            pages.compress(piece, &mut out).unwrap();
            if pages.pieces == Some(1) {
                tried.push(number as u32);
            }
        }
        assert_eq!(tried, [0, PAGES_TRIED_FOR, 2 * PAGES_TRIED_FOR, 3 * PAGES_TRIED_FOR]);
    }

    #[test]
    fn zeros_choose_nothing() {
        let (near, far, zeros) = (rows(BLOCK_BYTES, 0), far(BLOCK_BYTES), vec![0; BLOCK_BYTES]);
        for (plain, is_near) in [(near, true), (far, false)] {
            let mut log = Log::at(3);
            log.takes(&zeros);
            assert_eq!(log.compressor.pieces, None);
            log.takes(&plain);
            let is_chosen = |log: &Log| (log.compressor.chosen != OWN) == is_near;
            assert!(is_chosen(&log));
            // A choice is due, and falls on zeros: it waits for what says something.
            log.compressor.pieces = Some(LOG_TRIED_FOR);
            assert!(log.takes(&zeros) < BLOCK_BYTES / SAYS_NOTHING);
            assert_eq!(log.compressor.pieces, Some(LOG_TRIED_FOR));
            assert_eq!(until_tried(&mut log, &plain), Some(1));
            assert_eq!(log.compressor.confirmed, 1);
            // And they are not taken for what is unlike.
            for number in 0..40 {
                log.takes(if number % 4 == 3 { &zeros } else { &plain });
                assert!(is_chosen(&log) && log.compressor.confirmed == 1, "{number}");
            }
            assert_eq!(log.compressor.pieces, Some(41));
        }
    }

    #[test]
    fn pieces_that_are_too_short_to_choose_by_come_back() {
        let mut log = Log::at(3);
        for plain in [&b""[..], b"1", &rows(TRY_LOG_FROM_BYTES - 1, 0), &rows(TRY_LOG_FROM_BYTES, 0), &rows(9000, 0)] {
            log.takes(plain);
        }
        assert!(log.compressor.chosen != OWN);
        assert_eq!(Compressor::new(3).unwrap().compress(b"").unwrap().len(), Log::at(3).takes(b""));
    }
}
