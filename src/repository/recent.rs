//! Chunks looked up not long ago: the lists of one point name mostly what those of the point before named, and looking here costs a
//! fiftieth of asking the local index. A table of fixed size: pairs of slots, of which a new chunk takes the one that was asked for
//! longer ago.

use super::ChunkId;

/// What was found of chunks lately.
#[derive(Debug)]
pub struct Recent<T>(Vec<[Option<(ChunkId, T)>; 2]>);

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Copy> Recent<T> {
    /// A million slots of 33 bytes and those of `T`, made when the first chunk comes.
    const PAIRS: usize = 1 << 19;

    /// What was found of a chunk, if it was lately.
    pub fn get(&mut self, id: &ChunkId) -> Option<T> {
        let pair = self.0.get_mut(pair(id))?;
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
        if self.0.is_empty() {
            self.0.resize(Self::PAIRS, [None; 2]);
        }
        let pair = &mut self.0[pair(id)];
        pair[1] = pair[0];
        pair[0] = Some((*id, found));
    }
}

/// Ids are hashes: any bits of them will do.
fn pair(id: &ChunkId) -> usize {
    u32::from_le_bytes([id.0[0], id.0[1], id.0[2], id.0[3]]) as usize % Recent::<()>::PAIRS
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
}
