//! Looking at the pages of a file as its bytes come, on a thread of its own.

use std::ops::RangeInclusive;

use bytes::Bytes;

use super::{
    changes::SEGMENT_BYTES,
    page::{Page, look},
};
use crate::sources::SourceError;

/// No page is newer.
pub const NEVER: RangeInclusive<u64> = RangeInclusive::new(1, 0);

/// Looks at the pages of one file.
#[derive(Debug)]
pub struct PageCheck {
    page_bytes: u32,
    /// The block at the beginning of the file.
    first: u32,
    /// The block that comes next.
    next: u32,
    /// Pages that came so far.
    pages: u32,
    /// The beginning of a page whose rest has not come.
    carry: Vec<u8>,
    suspects: Vec<u32>,
}

impl PageCheck {
    /// For a segment of a relation's fork.
    pub fn new(segment: u32, page_bytes: u32) -> Self {
        let first = segment.saturating_mul(SEGMENT_BYTES / page_bytes.max(1));
        Self { page_bytes, first, next: first, pages: 0, carry: Vec::new(), suspects: Vec::new() }
    }

    /// More bytes.
    ///
    /// # Errors
    /// [`SourceError::Io`] if the thread died.
    pub async fn feed(mut self, bytes: Bytes) -> Result<Self, SourceError> {
        let looked = tokio::task::spawn_blocking(move || {
            self.take(&bytes);
            self
        });
        looked.await.map_err(|error| SourceError::io("looking at pages")(std::io::Error::other(error)))
    }

    /// So many bytes do not come, from the beginning of a page to the end of one, or of the file.
    pub fn pass_over(&mut self, bytes: u64) {
        let pages = bytes.div_ceil(u64::from(self.page_bytes.max(1)));
        self.next = self.next.saturating_add(u32::try_from(pages).unwrap_or(u32::MAX));
        // Half a page before them was being written.
        self.carry.clear();
    }

    /// More bytes, looked at right here.
    pub fn take(&mut self, mut bytes: &[u8]) {
        let page_bytes = self.page_bytes as usize;
        if !self.carry.is_empty() {
            let part = (page_bytes - self.carry.len()).min(bytes.len());
            self.carry.extend_from_slice(&bytes[..part]);
            bytes = &bytes[part..];
            if self.carry.len() < page_bytes {
                return;
            }
            let page = std::mem::take(&mut self.carry);
            self.page(&page);
        }
        let mut pages = bytes.chunks_exact(page_bytes);
        pages.by_ref().for_each(|page| self.page(page));
        self.carry.extend_from_slice(pages.remainder());
    }

    fn page(&mut self, page: &[u8]) {
        let block = self.next;
        self.next = self.next.saturating_add(1);
        self.pages += 1;
        if self.is_damaged(page, block, &NEVER) {
            self.suspects.push(block);
        }
    }

    /// Whether a page is whole, its checksum wrong, and its last change not in `since`.
    pub fn is_damaged(&self, page: &[u8], block: u32, since: &RangeInclusive<u64>) -> bool {
        page.len() == self.page_bytes as usize && look(page, block, since) == Page::Damaged
    }

    /// Where in the file a block lies, bytes.
    pub fn offset_of(&self, block: u32) -> u32 {
        (block - self.first) * self.page_bytes
    }

    /// Pages that were looked at; half a page at the end, which is being written, is none.
    pub fn pages(&self) -> u64 {
        u64::from(self.pages)
    }

    /// Blocks whose checksum is wrong; they may have been read while they were written.
    pub fn suspects(self) -> Vec<u32> {
        self.suspects
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::PageCheck;
    use crate::sources::postgres::physical::page::checksum;

    #[tokio::test]
    async fn pages_are_judged_wherever_the_bytes_are_cut() {
        let mut file = Vec::new();
        for block in 131_072..131_077_u32 {
            let mut page: Vec<u8> = (0..8192_u32).map(|at| ((at + block) % 249) as u8).collect();
            page[..8].fill(0);
            let sum = checksum(&page, block);
            page[8..10].copy_from_slice(&sum.to_le_bytes());
            file.extend(page);
        }
        file[3 * 8192 + 5000] ^= 1;
        file.extend([1; 100]);
        for step in [100, 8192, 10_000, 1 << 20] {
            let mut check = PageCheck::new(1, 8192);
            for piece in file.chunks(step) {
                check = check.feed(Bytes::copy_from_slice(piece)).await.unwrap();
            }
            assert_eq!((check.pages(), check.offset_of(131_075)), (5, 3 * 8192));
            assert_eq!(check.suspects(), [131_075], "cut every {step} bytes");
        }
    }
}
