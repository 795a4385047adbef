//! Chunks looked up not long ago: the lists of one point name mostly what those of the point before named, and looking here costs a
//! fiftieth of asking the local index. A table of bounded size: pairs of slots, of which a new chunk takes the one that was asked for
//! longer ago. It begins small: to make it whole at once would cost a small repository more than all else.

use super::ChunkId;

/// What was found of chunks lately.
#[derive(Debug)]
pub struct Recent<T> {
    pairs: Vec<[Option<(ChunkId, T)>; 2]>,
    /// How many chunks were put.
    put: usize,
}

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Self { pairs: Vec::new(), put: 0 }
    }
}

impl<T: Copy> Recent<T> {
    /// Slots of 33 bytes and those of `T`: two thousand at first, a million at most.
    const PAIRS: [usize; 2] = [1 << 10, 1 << 19];

    /// What was found of a chunk, if it was lately.
    pub fn get(&mut self, id: &ChunkId) -> Option<T> {
        let at = place(id, self.pairs.len());
        let pair = self.pairs.get_mut(at)?;
        let is_it = |slot: &Option<(ChunkId, T)>| slot.as_ref().is_some_and(|(held, _)| held == id);
        if !is_it(&pair[0]) {
            if !is_it(&pair[1]) {
                return None;
            }
            pair.swap(0, 1);
        }
        pair[0].map(|(_, found)| found)
    }

    /// Keeps what was found.
    pub fn put(&mut self, id: &ChunkId, found: T) {
        let [first, most] = Self::PAIRS;
        if self.put >= self.pairs.len() / 2 && self.pairs.len() < most {
            self.grow((self.pairs.len() * 2).max(first));
        }
        self.keep(id, found);
        self.put += 1;
    }

    /// To a number of pairs that is a power of two. For a moment the table that was is there as well: half as much again at the last time.
    fn grow(&mut self, pairs: usize) {
        let before = std::mem::replace(&mut self.pairs, vec![[None; 2]; pairs]);
        for [newer, older] in before {
            for (id, found) in older.into_iter().chain(newer) {
                self.keep(&id, found);
            }
        }
    }

    fn keep(&mut self, id: &ChunkId, found: T) {
        let at = place(id, self.pairs.len());
        let pair = &mut self.pairs[at];
        pair[1] = pair[0];
        pair[0] = Some((*id, found));
    }
}

/// Which of so many pairs, a power of two, is a chunk's; of none it is one beyond them. Ids are hashes: any bits of them will do.
fn place(id: &ChunkId, pairs: usize) -> usize {
    u32::from_le_bytes([id.0[0], id.0[1], id.0[2], id.0[3]]) as usize & pairs.wrapping_sub(1)
}

#[cfg(test)]
mod tests {
    use super::{ChunkId, Recent};

    #[test]
    fn of_three_chunks_of_a_pair_the_one_that_was_asked_for_longest_ago_goes() {
        let mut recent = Recent::default();
        let chunk = |last| {
            let mut id = ChunkId([7; 32]);
            id.0[31] = last;
            id
        };
        let [one, other, third] = [chunk(1), chunk(2), chunk(3)];
        assert_eq!(recent.get(&one), None);
        recent.put(&one, 1_u32);
        recent.put(&other, 2);
        assert_eq!((recent.get(&third), recent.get(&other), recent.get(&one)), (None, Some(2), Some(1)));
        recent.put(&third, 3);
        assert_eq!((recent.get(&one), recent.get(&other), recent.get(&third)), (Some(1), None, Some(3)));
    }

    /// Every chunk is known that was put, until the table is as large as it may be.
    #[test]
    fn it_grows_with_what_is_put_and_no_further_than_it_may() {
        let mut recent = Recent::default();
        let chunk = |number: u32| ChunkId(*blake3::hash(&number.to_le_bytes()).as_bytes());
        let (all, [_, most]) = (600_000, Recent::<u32>::PAIRS);
        let mut sizes = Vec::new();
        for number in 0..all {
            recent.put(&chunk(number), number);
            if sizes.last() != Some(&recent.pairs.len()) {
                sizes.push(recent.pairs.len());
                let known = (0..=number).filter(|number| recent.get(&chunk(*number)) == Some(*number)).count();
                assert!(known * 100 >= (number as usize + 1) * 90, "{known} of {number}, {sizes:?}");
            }
        }
        assert_eq!(sizes, (10..=19).map(|bits| 1 << bits).collect::<Vec<_>>());
        let lately = all - u32::try_from(most / 8).unwrap();
        let known = (lately..all).filter(|number| recent.get(&chunk(*number)) == Some(*number)).count();
        assert!(known * 100 >= (most / 8) * 95, "{known}");
    }
}
