//! What changed since an earlier snapshot, piece by piece, and what of a file has to be read for that.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    ops::Range,
};

use super::{
    listing::Item,
    select::{Fork, Relation, locator},
    summary::{Change, Locator, MAIN_FORK},
};
use crate::sources::{Content, Entry};

/// Files are cut at multiples of this, and so what is unchanged can be told piece by piece. Bytes; a multiple of every page.
pub const PIECE_BYTES: u32 = 128 << 10;
/// A relation's segments are at most this long; the number of a page goes on from one to the next. Bytes.
pub const SEGMENT_BYTES: u32 = 1 << 30;
/// A file up to this size is read as a whole or not at all: it is read together with others, in one statement. Bytes.
pub const SMALL_FILE_BYTES: u64 = 1 << 20;

/// What changed, from summaries in whatever order. Memory: at most 16 bytes for eight megabytes of a relation that changed, and some
/// hundred for each relation.
#[derive(Debug)]
pub struct Changes {
    blocks_per_piece: u32,
    relations: HashMap<Locator, Pieces>,
    /// Tablespace and database: all that lies there was made or dropped since.
    databases: HashSet<(u32, u32)>,
}

#[derive(Debug)]
struct Pieces {
    /// The smallest of all limit blocks: from it on everything counts as changed.
    limit: u32,
    /// A bit for each piece, 64 of them by their number divided by 64.
    changed: BTreeMap<u32, u64>,
}

/// What has to be read of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// All of it.
    Whole,
    /// Nothing: it is what the earlier snapshot has.
    Kept(Content),
    /// These ranges, in order and without touching each other, at multiples of [`PIECE_BYTES`]; the rest is in the earlier content.
    Parts(Content, Vec<Range<u64>>),
}

impl Changes {
    /// Nothing yet, of a cluster with such pages.
    pub fn new(page_bytes: u32) -> Self {
        let blocks_per_piece = (PIECE_BYTES / page_bytes.max(1)).max(1);
        Self { blocks_per_piece, relations: HashMap::new(), databases: HashSet::new() }
    }

    /// Takes note of what a summary says.
    pub fn note(&mut self, locator: Locator, fork: u32, change: Change) {
        if locator.number == 0 {
            self.databases.insert((locator.tablespace, locator.database));
            return;
        }
        // The others are always read: see `plan`.
        if fork != MAIN_FORK {
            return;
        }
        let nothing = || Pieces { limit: u32::MAX, changed: BTreeMap::new() };
        let pieces = self.relations.entry(locator).or_insert_with(nothing);
        match change {
            Change::Limit(block) => pieces.limit = pieces.limit.min(block),
            Change::Block(block) => {
                let piece = block / self.blocks_per_piece;
                *pieces.changed.entry(piece / 64).or_default() |= 1 << (piece % 64);
            }
        }
    }

    /// Whether a piece of a relation's main fork, counted over all its segments, may be another than it was.
    fn is_changed(&self, locator: Locator, piece: u32) -> bool {
        let Some(pieces) = self.relations.get(&locator) else { return false };
        let is_beyond = u64::from(pieces.limit) < (u64::from(piece) + 1) * u64::from(self.blocks_per_piece);
        is_beyond || pieces.changed.get(&(piece / 64)).is_some_and(|bits| bits & 1 << (piece % 64) != 0)
    }

    /// What has to be read of a file, of which the earlier snapshot has this entry. Only main forks of relations are told by the log:
    /// it says nothing of free space maps, and not all of visibility maps (a bit that is cleared is not in it).
    pub fn plan(&self, item: &Item, earlier: Option<Entry>) -> Plan {
        let of_main_fork = Relation::of(&item.path).filter(|relation| relation.fork == Fork::Main);
        let (Some(relation), Some(locator)) = (of_main_fork, locator(&item.path)) else { return Plan::Whole };
        let earlier = earlier.filter(|entry| entry.kind == "file").and_then(|entry| entry.content);
        let Some(content) = earlier.filter(|_| item.bytes <= u64::from(SEGMENT_BYTES)) else { return Plan::Whole };
        if self.databases.contains(&(locator.tablespace, locator.database)) {
            return Plan::Whole;
        }
        let first = relation.segment.saturating_mul(SEGMENT_BYTES / PIECE_BYTES);
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for (piece, start) in (first..).zip((0..item.bytes).step_by(PIECE_BYTES as usize)) {
            let end = (start + u64::from(PIECE_BYTES)).min(item.bytes);
            // The last piece that the earlier one had may go on now.
            let was_as_long = (start + u64::from(PIECE_BYTES)).min(content.size) == end;
            if was_as_long && !self.is_changed(locator, piece) {
                continue;
            }
            match ranges.last_mut() {
                Some(last) if last.end == start => last.end = end,
                _ => ranges.push(start..end),
            }
        }
        match ranges.as_slice() {
            [] if item.bytes == content.size => Plan::Kept(content),
            [all] if *all == (0..item.bytes) => Plan::Whole,
            _ if item.bytes <= SMALL_FILE_BYTES => Plan::Whole,
            _ => Plan::Parts(content, ranges),
        }
    }
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "one range is meant")]
mod tests {
    use super::{Change, Changes, Content, Entry, Item, Locator, PIECE_BYTES, Plan, SEGMENT_BYTES};

    const PIECE: u64 = PIECE_BYTES as u64;
    const RELATION: Locator = Locator { tablespace: 1663, database: 5, number: 16_384 };

    fn item(path: &str, bytes: u64) -> Item {
        Item { path: path.to_owned(), bytes, modified: None, is_directory: false }
    }

    fn content(size: u64) -> Content {
        Content { size, reference: vec![7] }
    }

    fn plan(changes: &[(Locator, u32, Change)], path: &str, now: u64, then: u64) -> Plan {
        let mut merged = Changes::new(8192);
        changes.iter().for_each(|(locator, fork, change)| merged.note(*locator, *fork, *change));
        let mut entry = Entry::new(format!("data/{path}"), "file");
        entry.content = Some(content(then));
        merged.plan(&item(path, now), Some(entry))
    }

    fn parts(changes: &[Change], now: u64, then: u64) -> Plan {
        let changes: Vec<_> = changes.iter().map(|change| (RELATION, 0, *change)).collect();
        plan(&changes, "base/5/16384", now, then)
    }

    #[test]
    fn only_main_forks_of_relations_are_told_by_the_log() {
        for path in ["base/5/16384_vm", "base/5/16384_fsm", "base/5/16384_init", "pg_xact/0000", "base/5/PG_VERSION", "log/16384"] {
            assert_eq!(plan(&[], path, 10 * PIECE, 10 * PIECE), Plan::Whole, "{path}");
        }
        for path in ["base/5/16384", "base/5/16384.3", "global/1262", "pg_tblspc/16400/PG_18_202506291/5/16384"] {
            assert_eq!(plan(&[], path, 10 * PIECE, 10 * PIECE), Plan::Kept(content(10 * PIECE)), "{path}");
            assert_eq!(Changes::new(8192).plan(&item(path, PIECE), None), Plan::Whole, "{path} is new");
        }
    }

    #[test]
    fn pieces_with_a_changed_block_are_read_and_what_grew() {
        let size = 20 * PIECE;
        assert_eq!(parts(&[], size, size), Plan::Kept(content(size)));
        assert_eq!(parts(&[Change::Block(16), Change::Block(17)], size, size), Plan::Parts(content(size), vec![PIECE..2 * PIECE]));
        let scattered = [Change::Block(319), Change::Block(0), Change::Block(31), Change::Block(48)];
        assert_eq!(
            parts(&scattered, size, size),
            Plan::Parts(content(size), vec![0..2 * PIECE, 3 * PIECE..4 * PIECE, 19 * PIECE..size])
        );
        // The last piece was half as long; then three came.
        let (then, now) = (10 * PIECE + 8192, 13 * PIECE);
        assert_eq!(parts(&[], now, then), Plan::Parts(content(then), vec![10 * PIECE..now]));
        assert_eq!(parts(&[], then, then), Plan::Kept(content(then)));
        // Cut off while the backup runs: what is left is as it was.
        assert_eq!(parts(&[], then, now), Plan::Parts(content(now), vec![10 * PIECE..then]));
        assert_eq!(parts(&[], 10 * PIECE, now), Plan::Parts(content(now), vec![]));
        assert_eq!(parts(&[Change::Block(3)], 2 * PIECE, 2 * PIECE), Plan::Whole, "small files are read as a whole");
    }

    #[test]
    fn from_the_smallest_limit_on_everything_is_read() {
        let size = 20 * PIECE;
        let limited = |limits: &[u32]| parts(&limits.iter().map(|block| Change::Limit(*block)).collect::<Vec<_>>(), size, size);
        assert_eq!(limited(&[0]), Plan::Whole);
        assert_eq!(limited(&[200, 33, 100]), Plan::Parts(content(size), vec![2 * PIECE..size]));
        assert_eq!(limited(&[32]), Plan::Parts(content(size), vec![2 * PIECE..size]));
        assert_eq!(limited(&[31]), Plan::Parts(content(size), vec![PIECE..size]));
        assert_eq!(limited(&[320]), Plan::Kept(content(size)));
        // Blocks below the limit count whenever they were changed.
        assert_eq!(
            parts(&[Change::Block(5), Change::Limit(300)], size, size),
            Plan::Parts(content(size), vec![0..PIECE, 18 * PIECE..size])
        );
    }

    #[test]
    fn blocks_are_counted_over_all_segments() {
        let size = u64::from(SEGMENT_BYTES);
        let per_segment = SEGMENT_BYTES / 8192;
        let changes = [(RELATION, 0, Change::Block(per_segment + 16)), (RELATION, 0, Change::Limit(3 * per_segment + 160))];
        let of = |path: &str| plan(&changes, path, size, size);
        assert_eq!(of("base/5/16384"), Plan::Kept(content(size)));
        assert_eq!(of("base/5/16384.1"), Plan::Parts(content(size), vec![PIECE..2 * PIECE]));
        assert_eq!(of("base/5/16384.2"), Plan::Kept(content(size)));
        assert_eq!(of("base/5/16384.3"), Plan::Parts(content(size), vec![10 * PIECE..size]));
        assert_eq!(of("base/5/16384.4"), Plan::Whole);
        assert_eq!(of("base/5/16385.1"), Plan::Kept(content(size)));
    }

    #[test]
    fn a_database_that_was_made_or_dropped_is_read_anew_and_no_other() {
        let made = |tablespace, database| [(Locator { tablespace, database, number: 0 }, 0, Change::Limit(0))];
        let size = 20 * PIECE;
        assert_eq!(plan(&made(1663, 5), "base/5/16384", size, size), Plan::Whole);
        assert_eq!(plan(&made(1663, 6), "base/5/16384", size, size), Plan::Kept(content(size)));
        assert_eq!(plan(&made(16_400, 5), "base/5/16384", size, size), Plan::Kept(content(size)));
        assert_eq!(plan(&made(16_400, 5), "pg_tblspc/16400/PG_18_202506291/5/16384", size, size), Plan::Whole);
    }

    #[test]
    fn changes_of_other_forks_and_page_sizes_fall_where_they_belong() {
        let size = 20 * PIECE;
        assert_eq!(plan(&[(RELATION, 2, Change::Limit(0))], "base/5/16384", size, size), Plan::Kept(content(size)));
        let mut merged = Changes::new(32_768);
        merged.note(RELATION, 0, Change::Block(5));
        let mut entry = Entry::new("data/base/5/16384", "file");
        entry.content = Some(content(size));
        let planned = merged.plan(&item("base/5/16384", size), Some(entry));
        assert_eq!(planned, Plan::Parts(content(size), vec![PIECE..2 * PIECE]));
    }
}
