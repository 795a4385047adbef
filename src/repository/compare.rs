//! A file that is there held against a content, chunk by chunk: what matches need not be fetched.

use std::{fs::File, sync::Arc};

use super::{
    RepositoryError,
    chunk::{ChunkList, ChunkRef, Class},
    error::Result,
    format::MAX_CHUNK_BYTES,
    reader::Reader,
};
use crate::stores::direct::ReadOnce;

/// A run of chunks that differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Differing {
    /// Where it begins in the content, bytes.
    pub offset: u64,
    /// How long it is.
    pub bytes: u64,
    /// Its chunks.
    pub list: ChunkList,
}

/// The first of these chunks that are read at once, and how many bytes of them: one, and as many more as fit. Of one that is longer than any may be,
/// nothing is read.
fn together(chunks: &[ChunkRef], at_once: usize) -> (&[ChunkRef], usize) {
    let mut bytes = 0;
    let count = chunks.iter().take_while(|chunk| {
        let length = chunk.length as usize;
        let fits = length <= MAX_CHUNK_BYTES && (bytes == 0 || bytes + length <= at_once);
        bytes += if fits { length } else { 0 };
        fits
    });
    match count.count() {
        0 => (&chunks[..1], 0),
        count => (&chunks[..count], bytes),
    }
}

/// Adds a chunk that differs to the run that ends where it begins, or as a new one.
fn differs(runs: &mut Vec<Differing>, offset: u64, chunk: ChunkRef) {
    if runs.last().is_none_or(|run| run.offset + run.bytes != offset) {
        runs.push(Differing { offset, bytes: 0, list: ChunkList::default() });
    }
    if let Some(run) = runs.last_mut() {
        run.bytes += u64::from(chunk.length);
        run.list.push(chunk);
    }
}

impl Reader {
    /// Which chunks of a content are not, by their keyed hash, what the file holds in their places. What cannot be read of the file differs.
    ///
    /// # Errors
    /// As [`Self::flatten`].
    pub async fn differing(&self, content: &ChunkList, file: Arc<File>) -> Result<Vec<Differing>> {
        let refs = self.flatten(content).await?;
        let catalogue = self.catalogue();
        let compare = move || {
            let (mut runs, mut offset): (Vec<Differing>, u64) = (Vec::new(), 0);
            let mut reading = ReadOnce::of(&file);
            let mut rest = refs.as_slice();
            while !rest.is_empty() {
                let (group, bytes) = together(rest, reading.at_once());
                rest = &rest[group.len()..];
                let held = reading.read(offset, bytes);
                let mut from = 0;
                for chunk in group {
                    let own = held.get(from..from + chunk.length as usize);
                    if own.is_none_or(|own| catalogue.chunk_id(Class::Data, own) != chunk.id) {
                        differs(&mut runs, offset, *chunk);
                    }
                    offset += u64::from(chunk.length);
                    from += chunk.length as usize;
                }
            }
            runs
        };
        // It waits for the disk as well as for the processor: no place for it among the workers, who are few.
        tokio::task::spawn_blocking(compare).await.map_err(|error| RepositoryError::Refused {
            subject: "holding a file against the repository".to_owned(),
            detail: format!("a defect: {error}; the log says why"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{ChunkRef, MAX_CHUNK_BYTES, together};
    use crate::repository::ChunkId;

    fn taken(lengths: &[usize], at_once: usize) -> (usize, usize) {
        let chunks: Vec<_> =
            lengths.iter().map(|length| ChunkRef { id: ChunkId([7; 32]), length: u32::try_from(*length).unwrap() }).collect();
        let (group, bytes) = together(&chunks, at_once);
        (group.len(), bytes)
    }

    #[test]
    fn chunks_are_read_together_as_many_as_fit_and_one_at_least() {
        assert_eq!(taken(&[10, 20, 30], 60), (3, 60));
        assert_eq!(taken(&[10, 20, 30], 59), (2, 30));
        assert_eq!(taken(&[100, 20], 60), (1, 100));
        assert_eq!(taken(&[0, 60, 0, 1], 60), (3, 60));
        assert_eq!(taken(&[0], 60), (1, 0));
        assert_eq!(taken(&[MAX_CHUNK_BYTES, 1], 60), (1, MAX_CHUNK_BYTES));
        // Of one that nobody may have made nothing is read.
        assert_eq!(taken(&[MAX_CHUNK_BYTES + 1, 1], 60), (1, 0));
        assert_eq!(taken(&[1, MAX_CHUNK_BYTES + 1, 1], usize::MAX), (1, 1));
    }
}
