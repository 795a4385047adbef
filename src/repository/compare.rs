//! A file that is there held against a content, chunk by chunk: what matches need not be fetched.

use std::{fs::File, os::unix::fs::FileExt, sync::Arc};

use super::{
    RepositoryError,
    chunk::{ChunkList, Class},
    error::Result,
    format::MAX_CHUNK_BYTES,
    reader::Reader,
};

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

impl Reader {
    /// Which chunks of a content are not, by their keyed hash, what the file holds in their places. What cannot be read of the file differs.
    ///
    /// # Errors
    /// As [`Self::flatten`].
    pub async fn differing(&self, content: &ChunkList, file: Arc<File>) -> Result<Vec<Differing>> {
        let refs = self.flatten(content).await?;
        let catalogue = self.catalogue();
        let compare = move || {
            let (mut runs, mut offset, mut held): (Vec<Differing>, u64, Vec<u8>) = (Vec::new(), 0, Vec::new());
            for chunk in refs {
                let bytes = u64::from(chunk.length);
                let length = usize::try_from(chunk.length).unwrap_or(usize::MAX).min(MAX_CHUNK_BYTES);
                held.resize(length, 0);
                let is_same = length as u64 == bytes
                    && file.read_exact_at(&mut held, offset).is_ok()
                    && catalogue.chunk_id(Class::Data, &held) == chunk.id;
                if !is_same {
                    match runs.last_mut().filter(|run| run.offset + run.bytes == offset) {
                        Some(run) => {
                            run.bytes += bytes;
                            run.list.push(chunk);
                        }
                        None => {
                            let mut list = ChunkList::default();
                            list.push(chunk);
                            runs.push(Differing { offset, bytes, list });
                        }
                    }
                }
                offset += bytes;
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
