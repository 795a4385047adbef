//! The lists of entries: whole, from a path on, and where to part them.

use futures_util::{
    StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};

use super::{ChunkList, ChunkRef, Class, Reader, RepositoryError, Result};
use crate::repository::{EntryRecord, Snapshot, entry::parse_chunk};

impl Reader {
    /// The entries of a snapshot, in order of path.
    pub fn entries(&self, snapshot: &Snapshot) -> BoxStream<'static, Result<EntryRecord>> {
        let chunks = self.list(&snapshot.entries, Class::Catalogue);
        let mut last: Option<Vec<u8>> = None;
        let records = chunks.map(move |chunk| match chunk.and_then(|chunk| parse_chunk(&chunk, &mut last)) {
            Ok(records) => stream::iter(records.into_iter().map(Ok).collect::<Vec<_>>()),
            Err(error) => stream::iter(vec![Err(error)]),
        });
        records.flatten().boxed()
    }

    /// The entries of a snapshot from the chunk on that may hold the first one after this path: of a list of any length few chunks are
    /// read to find it.
    pub fn entries_near(&self, snapshot: &Snapshot, after: &[u8]) -> BoxStream<'static, Result<EntryRecord>> {
        let (this, snapshot, after) = (self.clone(), snapshot.clone(), after.to_vec());
        stream::once(async move {
            let mut list = ChunkList::default();
            let chunks = this.flatten(&snapshot.entries).await?;
            let (mut low, mut high) = (0, chunks.len());
            // The first record of chunk `low` is not after it, that of chunk `high` is.
            while high - low > 1 {
                let middle = low + (high - low) / 2;
                match this.first_path(chunks[middle]).await? {
                    Some(first) if first > after => high = middle,
                    _ => low = middle,
                }
            }
            chunks.into_iter().skip(low).for_each(|chunk| list.push(chunk));
            Ok::<_, RepositoryError>(this.entries(&Snapshot { entries: list, ..snapshot }))
        })
        .try_flatten()
        .boxed()
    }

    /// Paths that part a snapshot's entries into so many pieces of much the same length, ascending: one fewer, or less if the list is short.
    ///
    /// # Errors
    /// Those of [`Reader::flatten`].
    pub async fn cuts(&self, snapshot: &Snapshot, pieces: u32) -> Result<Vec<Vec<u8>>> {
        let chunks = self.flatten(&snapshot.entries).await?;
        let pieces = (pieces as usize).min(chunks.len().max(1));
        let mut cuts = Vec::new();
        for piece in 1..pieces {
            cuts.extend(self.first_path(chunks[chunks.len() * piece / pieces]).await?);
        }
        Ok(cuts)
    }

    /// The path of the first record of an entry chunk.
    async fn first_path(&self, chunk: ChunkRef) -> Result<Option<Vec<u8>>> {
        let mut list = ChunkList::default();
        list.push(chunk);
        let bytes = self.list(&list, Class::Catalogue).try_next().await?.unwrap_or_default();
        Ok(parse_chunk(&bytes, &mut None)?.into_iter().next().map(|record| record.path))
    }
}
