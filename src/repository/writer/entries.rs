//! The entry stream of one snapshot on its way in.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Mutex;

use super::{
    Shared,
    content::{Refs, fold},
};
use crate::repository::{
    ChunkList, Class,
    entry::{Collector, EntryRecord},
    error::Result,
};

/// Entry chunks named but not yet collected: bounds the queue to the workers.
const MOST_OPEN: usize = 16;

/// Takes the entries of one snapshot, in ascending order of path.
#[derive(Debug)]
pub struct EntryStream {
    shared: Arc<Shared>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    collector: Collector,
    list: ChunkList,
    open: Arc<Refs>,
    open_chunks: usize,
}

impl EntryStream {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, state: Mutex::default() }
    }

    /// Adds an entry.
    ///
    /// # Errors
    /// [`crate::repository::RepositoryError::Refused`] for disorder; the first error of the run.
    pub async fn push(&self, record: &EntryRecord) -> Result<()> {
        let mut state = self.state.lock().await;
        let Some(chunk) = state.collector.push(record)? else { return Ok(()) };
        self.shared.check()?;
        self.send(&mut state, chunk);
        if state.open_chunks == MOST_OPEN {
            self.collect(&mut state).await?;
        }
        Ok(())
    }

    fn send(&self, state: &mut State, chunk: Vec<u8>) {
        state.open_chunks += 1;
        Shared::chunk(&self.shared, Class::Catalogue, Bytes::from(chunk), state.open.slot(&self.shared));
    }

    async fn collect(&self, state: &mut State) -> Result<()> {
        for chunk in state.open.take(&self.shared).await? {
            state.list.push(chunk);
        }
        state.open_chunks = 0;
        Ok(())
    }

    /// What there is so far, as [`EntryStream::finish`] would give it; the stream goes on as if nobody had asked.
    ///
    /// # Errors
    /// The first error of the run.
    pub async fn so_far(&self) -> Result<(ChunkList, u64, u64)> {
        let mut state = self.state.lock().await;
        self.collect(&mut state).await?;
        let (mut list, count, content_bytes) = (state.list.clone(), state.collector.count, state.collector.content_bytes);
        let rest = Bytes::copy_from_slice(state.collector.pending());
        drop(state);
        if !rest.is_empty() {
            let refs = Arc::<Refs>::default();
            Shared::chunk(&self.shared, Class::Catalogue, rest, refs.slot(&self.shared));
            for chunk in refs.take(&self.shared).await? {
                list.push(chunk);
            }
        }
        Ok((fold(&self.shared, list).await?, count, content_bytes))
    }

    /// The end: the list of its chunks, the number of entries, the plain bytes of their contents.
    ///
    /// # Errors
    /// The first error of the run.
    pub async fn finish(self) -> Result<(ChunkList, u64, u64)> {
        let mut state = self.state.into_inner();
        if let Some(chunk) = state.collector.finish() {
            state.open_chunks += 1;
            Shared::chunk(&self.shared, Class::Catalogue, Bytes::from(chunk), state.open.slot(&self.shared));
        }
        for chunk in state.open.take(&self.shared).await? {
            state.list.push(chunk);
        }
        let list = fold(&self.shared, state.list).await?;
        Ok((list, state.collector.count, state.collector.content_bytes))
    }
}
