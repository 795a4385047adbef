//! Getting written bytes to the disk while others are still being fetched, so that the wait at the end is short.

use std::{fs::File, os::fd::AsRawFd};

/// The disk is told of a file's bytes each time so many more were written.
pub(crate) const STEP: u64 = 8 << 20;

/// Starts writing to disk what of the file lies in memory only, without waiting for it. A hint: what the disk cannot take is found by
/// the synchronisation at the end, which waits.
#[expect(unsafe_code, reason = "a system call on an open file, which nothing safe offers")]
pub(crate) fn begin(file: &File) {
    // SAFETY: the call takes a descriptor and three numbers, no memory of ours; the descriptor is open as long as `file` is borrowed.
    // Offset 0 and length 0 mean the whole file.
    unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE) };
}
