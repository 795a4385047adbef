//! The memory budget: bytes in flight, bounded by one number.
//!
//! A [`Budget`] hands out bytes that own their share; the share goes back when the last reference to the bytes is dropped.
//! No task holds one share while it waits for a second one (that could deadlock). Streams of reads, whose pieces their consumers
//! hold for as long as they like, never wait for the budget alone: see [`Lane`].

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::stores::direct::{ALIGNMENT, aligned_start};

/// How the policy's memory limit is divided.
#[derive(Debug, Clone)]
pub struct Budget {
    chunks: Arc<Semaphore>,
    chunk_bytes: usize,
    pack_bytes: usize,
    uploads: usize,
    buffers: Arc<Buffers>,
}

/// Smallest pack aimed at, bytes.
const MIN_PACK_BYTES: usize = 16 << 20;
/// Largest pack aimed at, bytes.
const MAX_PACK_BYTES: usize = 64 << 20;
/// Packs in flight to the sites at once.
const UPLOADS: usize = 4;

impl Budget {
    /// Divides `limit_bytes`: a quarter for chunks on their way, a sixteenth for a pack (of which `UPLOADS` and two being
    /// filled exist at once, and where a source waits for its server one more), the rest for the sources' buffers, the local index and the program itself.
    pub fn new(limit_bytes: u64) -> Self {
        Self::one_of(limit_bytes, 1)
    }

    /// One of `pipelines` equal parts of `limit_bytes`, each divided as by [`Self::new`]; they have the uploads between them, and
    /// each at least one. Below what each of them needs at least (32 MiB for chunks, 16 MiB for each pack), their sum is more
    /// than the limit.
    pub fn one_of(limit_bytes: u64, pipelines: usize) -> Self {
        let limit = usize::try_from(limit_bytes).unwrap_or(usize::MAX) / pipelines.max(1);
        let chunk_bytes = (limit / 4).clamp(32 << 20, 512 << 20);
        Self {
            chunks: Arc::new(Semaphore::new(chunk_bytes)),
            chunk_bytes,
            uploads: (UPLOADS / pipelines.max(1)).max(1),
            pack_bytes: (limit / 16).clamp(MIN_PACK_BYTES, MAX_PACK_BYTES),
            buffers: Arc::new(Buffers { free: Mutex::default(), most_bytes: chunk_bytes / 2 }),
        }
    }

    /// A buffer that can hold `bytes`, perhaps a used one: its length and contents mean nothing.
    pub fn buffer(&self, bytes: usize) -> Vec<u8> {
        self.buffers.take(bytes)
    }

    /// The same, and where in it to begin: where so many bytes can be written directly, so that they lie at a multiple of [`ALIGNMENT`]. Others
    /// get no byte more than they need: a hostile site may have a million chunks of one byte.
    pub fn aligned(&self, bytes: usize) -> (Vec<u8>, usize) {
        if bytes == 0 || !bytes.is_multiple_of(ALIGNMENT) {
            return (self.buffer(bytes), 0);
        }
        let buffer = self.buffer(bytes + ALIGNMENT - 1);
        let start = aligned_start(&buffer);
        (buffer, start)
    }

    /// Takes back a buffer that nobody needs any more.
    pub fn reuse(&self, buffer: Vec<u8>) {
        self.buffers.give(buffer);
    }

    /// Bytes whose buffer is taken back when the last reference to them is dropped. `share`, if any, goes back then, too.
    pub fn lend(&self, bytes: Vec<u8>, share: Option<Share>) -> Bytes {
        Bytes::from_owner(Lent { bytes, buffers: Arc::clone(&self.buffers), _share: share })
    }

    /// Bytes of somebody else's that own a share as long as they are needed.
    pub fn hold(&self, bytes: Bytes, share: Option<Share>) -> Bytes {
        Bytes::from_owner(Held { bytes, _share: share })
    }

    /// Packs in flight to the site at once.
    pub fn uploads(&self) -> usize {
        self.uploads
    }

    /// What a pack aims at, bytes.
    pub fn pack_bytes(&self) -> usize {
        self.pack_bytes
    }

    /// All that may be in flight, bytes.
    pub fn chunk_bytes(&self) -> usize {
        self.chunk_bytes
    }

    /// Waits for a share of `bytes` (never more than all there is).
    pub async fn share(&self, bytes: usize) -> Share {
        let permit = Arc::clone(&self.chunks).acquire_many_owned(self.permits(bytes)).await;
        Share(permit.expect("the semaphore is never closed"))
    }

    fn permits(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.clamp(1, self.chunk_bytes)).unwrap_or(u32::MAX)
    }
}

/// Bytes of a [`Lane`].
const LANE_BYTES: u32 = 32 << 20;

/// What one stream of reads may hold beside the budget: one ranged read.
///
/// A stream is only driven while its consumer asks it for more. Were two streams to wait for one budget, the first could hold all
/// of it while its consumer waits for the second (a list of entries read ahead, and the contents of one of them): for ever. So
/// streams wait for the budget or for their own lane, which comes free when their own pieces are used.
/// The memory limit is thus overdrawn by at most one lane for each stream that is open.
#[derive(Debug, Clone)]
pub struct Lane(Arc<Semaphore>);

impl Default for Lane {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(LANE_BYTES as usize)))
    }
}

impl Lane {
    /// A share of the budget, or all of this lane: what is free first.
    pub async fn share(&self, budget: &Budget, bytes: usize) -> Share {
        // Whichever comes first: the budget may be in the hands of streams that wait for this one, its own lane never is.
        tokio::select! {
            biased;
            share = budget.share(bytes) => share,
            permit = Arc::clone(&self.0).acquire_many_owned(LANE_BYTES) => Share(permit.expect("the semaphore is never closed")),
        }
    }
}

/// A part of the budget, given back when dropped.
#[derive(Debug)]
pub struct Share(OwnedSemaphorePermit);

impl Share {
    /// Takes `bytes` out of this share into one of their own.
    pub fn split(&mut self, bytes: usize) -> Option<Self> {
        self.0.split(bytes).map(Self)
    }
}

/// Buffers that are used again: fresh memory costs a page fault for every 4 KiB of it, a tenth of the CPU time of a backup.
#[derive(Debug)]
struct Buffers {
    free: Mutex<Vec<Vec<u8>>>,
    /// Those that lie idle are at most so large together.
    most_bytes: usize,
}

/// Smaller buffers are not worth keeping, bytes: a piece of a relation is.
const SMALLEST_KEPT: usize = 128 << 10;

impl Buffers {
    fn take(&self, bytes: usize) -> Vec<u8> {
        let mut free = self.free.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let fits = |buffer: &Vec<u8>| buffer.capacity() >= bytes && buffer.capacity() / 4 <= bytes;
        let best = (0..free.len()).filter(|index| fits(&free[*index])).min_by_key(|index| free[*index].capacity());
        match best {
            Some(index) => free.swap_remove(index),
            None => Vec::with_capacity(bytes),
        }
    }

    fn give(&self, buffer: Vec<u8>) {
        if buffer.capacity() < SMALLEST_KEPT {
            return;
        }
        let mut free = self.free.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        free.push(buffer);
        while free.iter().map(Vec::capacity).sum::<usize>() > self.most_bytes {
            // The oldest: what is asked for now is more like what came last.
            free.remove(0);
        }
    }
}

struct Lent {
    bytes: Vec<u8>,
    buffers: Arc<Buffers>,
    _share: Option<Share>,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

struct Held {
    bytes: Bytes,
    _share: Option<Share>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.buffers.give(std::mem::take(&mut self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::{ALIGNMENT, Budget, Lane};

    #[tokio::test]
    async fn a_stream_has_its_own_lane_when_the_budget_is_spent() {
        let budget = Budget::new(0);
        let all = budget.share(usize::MAX).await;
        assert!(budget.share(1).now_or_never().is_none());
        let (first, second) = (Lane::default(), Lane::default());
        let share = first.share(&budget, 1).await.split(1000).expect("a lane has more");
        let piece = budget.lend(vec![0; 1000], Some(share));
        assert!(first.share(&budget, 1).now_or_never().is_none(), "its lane is taken as long as a piece of it lives");
        drop(second.share(&budget, 1).await);
        drop(piece);
        drop(first.share(&budget, 1).await);
        drop(all);
        drop(budget.share(usize::MAX).now_or_never().expect("all of it came back"));
    }

    #[test]
    fn bytes_in_an_aligned_buffer_lie_where_a_disk_takes_them_new_or_used() {
        let budget = Budget::new(0);
        let (small, start) = budget.aligned(1);
        assert!(small.capacity() < ALIGNMENT && start == 0, "what cannot be written directly takes no more than it needs");
        for bytes in [ALIGNMENT, 128 << 10, 128 << 10, 1 << 20] {
            let (mut buffer, start) = budget.aligned(bytes);
            buffer.resize(start + bytes, 7);
            assert!(buffer[start..].as_ptr().align_offset(ALIGNMENT) == 0, "{bytes} bytes from {start}");
            budget.reuse(buffer);
        }
    }

    #[tokio::test]
    async fn bytes_of_somebody_else_own_their_share_until_the_last_reference_goes() {
        let budget = Budget::new(0);
        let all = budget.share(usize::MAX).await;
        let held = budget.hold(vec![1; 1000].into(), Some(all));
        let part = held.slice(10..20);
        drop(held);
        assert!(budget.share(1).now_or_never().is_none(), "a part of it is still in use");
        drop(part);
        drop(budget.share(usize::MAX).now_or_never().expect("all of it came back"));
    }
}
