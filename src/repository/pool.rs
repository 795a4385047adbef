//! What is costly to make, kept for whoever needs it next.

use std::{
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;

/// Processors that this process may use.
pub(crate) fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Things that nobody uses just now, at most so many as were asked to be kept.
pub(crate) struct Pool<T> {
    free: Mutex<Vec<T>>,
    most: usize,
}

impl<T> fmt::Debug for Pool<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Pool(at most {})", self.most)
    }
}

impl<T> Pool<T> {
    /// One that keeps at most so many.
    pub(crate) fn of(most: usize) -> Self {
        Self { free: Mutex::default(), most }
    }

    /// One that keeps as many as there are processors: more are only waited for once.
    pub(crate) fn for_processors() -> Self {
        Self::of(processors())
    }

    fn free(&self) -> MutexGuard<'_, Vec<T>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One that was used before, if there is one.
    pub(crate) fn take(&self) -> Option<T> {
        self.free().pop()
    }

    /// Keeps one for the next.
    pub(crate) fn give(&self, thing: T) {
        let mut free = self.free();
        if free.len() < self.most {
            free.push(thing);
        }
    }

    /// Gives their memory back.
    pub(crate) fn clear(&self) {
        self.free().clear();
    }

    /// Work with one of them, made anew if none is free.
    ///
    /// # Errors
    /// Those of making it.
    pub(crate) fn with<R, E>(&self, make: impl FnOnce() -> Result<T, E>, work: impl FnOnce(&mut T) -> R) -> Result<R, E> {
        let mut thing = self.take().map_or_else(make, Ok)?;
        let done = work(&mut thing);
        self.give(thing);
        Ok(done)
    }
}

impl Pool<Vec<u8>> {
    /// An empty buffer. Fresh memory costs a page fault for every 4 KiB of it: of a segment of the log a twentieth of what storing it takes.
    pub(crate) fn buffer(&self) -> Vec<u8> {
        let mut buffer = self.take().unwrap_or_default();
        buffer.clear();
        buffer
    }

    /// Takes back the buffer behind these bytes, unless somebody else has them, too.
    pub(crate) fn reuse(&self, bytes: Bytes) {
        if bytes.is_unique() {
            self.give(bytes.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::Pool;

    #[test]
    fn a_buffer_is_used_again_unless_somebody_has_it() {
        let pool = Pool::of(1);
        let mut buffer = pool.buffer();
        buffer.extend_from_slice(&[7; 1000]);
        let bytes = Bytes::from(buffer);
        let (at, other) = (bytes.as_ptr(), bytes.clone());
        pool.reuse(bytes);
        assert!(pool.take().is_none(), "somebody else has it");
        pool.reuse(other);
        let again = pool.buffer();
        assert!(again.is_empty() && again.capacity() >= 1000);
        assert_eq!(again.as_ptr(), at);
        pool.give(again);
        pool.give(vec![1]);
        assert!(pool.take().is_some() && pool.take().is_none(), "one is all that is kept");
        pool.give(vec![1]);
        pool.clear();
        assert!(pool.take().is_none());
    }

    #[test]
    fn what_cannot_be_made_is_an_error_and_what_was_made_is_kept() {
        let pool = Pool::<u32>::of(2);
        assert_eq!(pool.with(|| Err("no memory"), |_| ()), Err("no memory"));
        assert_eq!(pool.with(|| Ok::<_, ()>(1), |one| *one += 1), Ok(()));
        assert_eq!(pool.with(|| Ok::<_, ()>(1), |two| *two), Ok(2));
    }
}
