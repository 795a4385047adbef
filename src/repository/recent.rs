//! Chunks looked up not long ago: the lists of one point name mostly what those of the point before named, and looking here costs a
//! fiftieth of asking the local index. A table of fixed size, in which a later chunk takes an earlier one's slot.

use super::ChunkId;

/// What was found of chunks lately.
#[derive(Debug)]
pub struct Recent<T>(Vec<Option<(ChunkId, T)>>);

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Copy> Recent<T> {
    /// A million slots of 33 bytes and those of `T`, made when the first chunk comes.
    const SLOTS: usize = 1 << 20;

    /// What was found of a chunk, if it was lately.
    pub fn get(&self, id: &ChunkId) -> Option<T> {
        self.0.get(slot(id))?.as_ref().filter(|(held, _)| held == id).map(|(_, found)| *found)
    }

    /// Keeps what was found.
    pub fn put(&mut self, id: &ChunkId, found: T) {
        if self.0.is_empty() {
            self.0.resize(Self::SLOTS, None);
        }
        self.0[slot(id)] = Some((*id, found));
    }
}

/// Ids are hashes: any bits of them will do.
fn slot(id: &ChunkId) -> usize {
    u32::from_le_bytes([id.0[0], id.0[1], id.0[2], id.0[3]]) as usize % Recent::<()>::SLOTS
}

#[cfg(test)]
mod tests {
    use super::{ChunkId, Recent};

    #[test]
    fn a_chunk_is_found_until_another_takes_its_slot() {
        let mut recent = Recent::default();
        let (one, mut other) = (ChunkId([7; 32]), ChunkId([7; 32]));
        other.0[31] = 8;
        assert_eq!(recent.get(&one), None);
        recent.put(&one, 1_u32);
        assert_eq!((recent.get(&one), recent.get(&other)), (Some(1), None));
        recent.put(&other, 2);
        assert_eq!((recent.get(&one), recent.get(&other)), (None, Some(2)));
    }
}
