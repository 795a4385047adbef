//! What a snapshot was found to need, remembered beside the local index.
//!
//! A list of entries names its chunks by their hashes, and so fixes everything below it: the packs that it was once followed to are
//! those that it needs, as long as the local index knows them under the same numbers. Whoever uses this has to see that each of them
//! is there and sound, and to follow the list again where one is not.

use redb::{ReadableDatabase, ReadableTableMetadata, TableDefinition, TableError};
use sha2::{Digest, Sha256};

use super::{ChunkCache, ChunkList, error::Result};

/// SHA-256 of a list → runs of pack numbers, each as its first and how many, little-endian u32; the number of entries before them, u64.
const REACHED: TableDefinition<'static, &[u8; 32], &[u8]> = TableDefinition::new("reached");

/// What a list of entries leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reached {
    /// Entries in it.
    pub entries: u64,
    /// Numbers of the packs in the local index, ascending, each once.
    pub packs: Vec<u32>,
}

fn key(list: &ChunkList) -> [u8; 32] {
    Sha256::new().chain_update([list.level]).chain_update(&list.refs).finalize().into()
}

impl Reached {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = self.entries.to_le_bytes().to_vec();
        for run in self.packs.chunk_by(|before, after| before.checked_add(1) == Some(*after)) {
            // Of numbers that are u32 there are no more than a u32 counts.
            for number in [run[0], run.len() as u32] {
                bytes.extend_from_slice(&number.to_le_bytes());
            }
        }
        bytes
    }

    /// Nothing for bytes that this program did not write.
    fn decode(bytes: &[u8], most: usize) -> Option<Self> {
        let (entries, runs) = bytes.split_first_chunk::<8>()?;
        let (runs, []) = runs.as_chunks::<8>() else { return None };
        let mut packs = Vec::new();
        for [a, b, c, d, e, f, g, h] in runs {
            let (first, count) = (u32::from_le_bytes([*a, *b, *c, *d]), u32::from_le_bytes([*e, *f, *g, *h]));
            if packs.len() + count as usize > most {
                return None;
            }
            let last = first.checked_add(count.checked_sub(1)?)?;
            packs.extend(first..=last);
        }
        Some(Self { entries: u64::from_le_bytes(*entries), packs })
    }
}

impl ChunkCache {
    /// What a list led to when it was last followed. Blocking.
    ///
    /// # Errors
    /// [`super::RepositoryError::Cache`].
    pub fn reached(&self, list: &ChunkList) -> Result<Option<Reached>> {
        let look = || -> Result<_, redb::Error> {
            let most = usize::try_from(self.tables().packs.len()?).unwrap_or(usize::MAX);
            match self.database().begin_read()?.open_table(REACHED) {
                Ok(table) => Ok(table.get(&key(list))?.and_then(|row| Reached::decode(row.value(), most))),
                Err(TableError::TableDoesNotExist(_)) => Ok(None),
                Err(error) => Err(error.into()),
            }
        };
        look().map_err(self.failed())
    }

    /// Remembers what lists led to: some bytes for each, until the local index is made anew. Blocking.
    ///
    /// # Errors
    /// [`super::RepositoryError::Cache`].
    pub fn keep_reached<'a>(&self, all: impl Iterator<Item = (&'a ChunkList, &'a Reached)>) -> Result<()> {
        let keep = || -> Result<_, redb::Error> {
            let write = self.database().begin_write()?;
            {
                let mut table = write.open_table(REACHED)?;
                for (list, reached) in all {
                    table.insert(&key(list), reached.encode().as_slice())?;
                }
            }
            Ok(write.commit()?)
        };
        keep().map_err(self.failed())
    }
}

/// Forgets everything that was remembered: the numbers of packs begin anew.
pub(super) fn forget(write: &redb::WriteTransaction) -> Result<(), redb::Error> {
    write.delete_table(REACHED)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::Reached;

    #[test]
    fn numbers_in_runs_come_back_and_foreign_bytes_do_not() {
        for packs in [vec![], vec![0], vec![1, 2, 3, 7, 9, 10], vec![u32::MAX - 1, u32::MAX]] {
            let reached = Reached { entries: 5, packs };
            assert_eq!(Reached::decode(&reached.encode(), 10), Some(reached));
        }
        let many = Reached { entries: 5, packs: (0..11).collect() }.encode();
        assert_eq!(Reached::decode(&many, 10), None);
        assert_eq!(Reached::decode(&many[..15], 20), None);
        let mut beyond = many.clone();
        beyond[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(Reached::decode(&beyond, 20), None);
    }
}
