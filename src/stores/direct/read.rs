//! Reading: what is read once, from its beginning to its end.

use std::{fs::File, io::ErrorKind, os::unix::fs::FileExt};

use rustix::fs::{Advice, fadvise};

use super::{ALIGNMENT, aligned_start, has_page, set_direct};

/// Files up to this size are read as any file is. Bytes.
const SMALL_BYTES: u64 = 1 << 20;
/// So many places of a file tell whether it lies in the cache.
const PLACES: u64 = 16;
/// What is read at once past the cache: what a disk is busy with for a while. Bytes.
const PAST_BYTES: usize = 2 << 20;
/// What is read at once through the cache: what a processor keeps at hand. Bytes.
const CACHED_BYTES: usize = 256 << 10;

/// A file that is read once, in order: past the page cache where it does not lie there.
pub struct ReadOnce<'a> {
    file: &'a File,
    is_past: bool,
    buffer: Vec<u8>,
}

impl<'a> ReadOnce<'a> {
    /// Looks where the file lies.
    pub fn of(file: &'a File) -> Self {
        let is_past = !is_cached(file) && set_direct(file, true);
        Self { file, is_past, buffer: Vec::new() }
    }

    /// How much is worth being read at once. Bytes.
    pub fn at_once(&self) -> usize {
        if self.is_past { PAST_BYTES } else { CACHED_BYTES }
    }

    /// So many bytes of the file from this place on; fewer where it ends, or cannot be read any further.
    pub fn read(&mut self, at: u64, bytes: usize) -> &[u8] {
        // From the block in which it begins, and as memory lies.
        let before = (at % ALIGNMENT as u64) as usize;
        let wanted = (before + bytes).next_multiple_of(ALIGNMENT);
        if self.buffer.len() < wanted + ALIGNMENT {
            self.buffer.resize(wanted + ALIGNMENT, 0);
        }
        let start = aligned_start(&self.buffer);
        let mut read = 0;
        while read < wanted {
            let into = &mut self.buffer[start + read..start + wanted];
            match self.file.read_at(into, at - before as u64 + read as u64) {
                Ok(0) => break,
                Ok(count) => {
                    read += count;
                    // The last block of a file is not whole, and nothing can be asked for behind it.
                    if self.is_past && !read.is_multiple_of(ALIGNMENT) {
                        break;
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // It wants to be read as any file is.
                Err(_) if self.is_past => self.stop(),
                Err(_) => break,
            }
        }
        let end = read.min(before + bytes);
        &self.buffer[start + before.min(end)..start + end]
    }

    fn stop(&mut self) {
        if self.is_past {
            set_direct(self.file, false);
            self.is_past = false;
        }
    }
}

impl Drop for ReadOnce<'_> {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Whether so much of a file lies in the page cache that it is better read from there, or nobody can tell.
fn is_cached(file: &File) -> bool {
    let size = file.metadata().map_or(0, |file| file.len());
    // To ask for a page brings it, but then no more than that one.
    if size <= SMALL_BYTES || fadvise(file, 0, None, Advice::Random).is_err() {
        return true;
    }
    let there = (0..PLACES).map(|place| has_page(file, size / PLACES * place)).try_fold(0, |sum, has| Some(sum + u64::from(has?)));
    let _ = fadvise(file, 0, None, Advice::Normal);
    there.is_none_or(|there| there * 4 >= PLACES)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::{
        super::{
            probing::{self, noise},
            write_file,
        },
        ALIGNMENT, ReadOnce,
    };

    const WHOLE: usize = 5 << 20;
    const BYTES: usize = WHOLE + 1234;

    fn pieces(reading: &mut ReadOnce<'_>, lengths: &[usize]) -> Vec<u8> {
        let (mut read, mut at) = (Vec::new(), 0);
        for length in lengths.iter().cycle() {
            let piece = reading.read(at, *length);
            read.extend_from_slice(piece);
            at += *length as u64;
            if piece.len() < *length {
                break;
            }
        }
        read
    }

    #[test]
    fn a_file_is_read_as_it_is_wherever_it_lies_and_one_that_is_not_in_memory_does_not_come_there() {
        let (noise, start) = noise(BYTES);
        let wanted = &noise[start..];
        for lengths in [&[2 << 20][..], &[ALIGNMENT, 131_072], &[1, 4095, 70_000, 1 << 20], &[BYTES], &[BYTES + 1]] {
            let file = tempfile::tempfile().unwrap();
            write_file(&file, wanted).unwrap();
            let is_cold = probing::is_cached(&file, 1 << 20, 3 << 20) == Some(false);
            let mut reading = ReadOnce::of(&file);
            assert!(pieces(&mut reading, lengths) == wanted, "{lengths:?}");
            drop(reading);
            assert!(!is_cold || probing::is_cached(&file, 1 << 20, 3 << 20) == Some(false), "{lengths:?}");
            // Into the cache, and as any file is written and read: nothing of the other way is left.
            file.write_all_at(b"odd", 4097).unwrap();
            let mut all = vec![0; BYTES];
            file.read_exact_at(&mut all, 0).unwrap();
            assert!(&all[4097..4100] == b"odd" && all[4100..] == wanted[4100..]);
            assert!(pieces(&mut ReadOnce::of(&file), lengths) == all, "{lengths:?} from memory");
        }
    }

    #[test]
    fn a_file_of_whole_blocks_ends_where_it_ends() {
        let (noise, start) = noise(WHOLE);
        let wanted = &noise[start..];
        let file = tempfile::tempfile().unwrap();
        write_file(&file, wanted).unwrap();
        let mut reading = ReadOnce::of(&file);
        assert_eq!(reading.read(WHOLE as u64, 10), b"");
        assert_eq!(reading.read(2 * WHOLE as u64 + 1, 10), b"");
        assert!(reading.read(WHOLE as u64 - 5000, 10_000) == &wanted[WHOLE - 5000..]);
        assert!(reading.read(17, 0).is_empty());
        // As where it is refused in the middle.
        assert!(reading.read(1, ALIGNMENT) == &wanted[1..=ALIGNMENT]);
        reading.stop();
        assert!(reading.read(ALIGNMENT as u64 + 1, 70_000) == &wanted[ALIGNMENT + 1..ALIGNMENT + 70_001]);
    }

    #[test]
    fn what_is_not_there_is_not_read() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(ReadOnce::of(&file).read(0, 10), b"");
        file.write_all_at(&[7; 100], 0).unwrap();
        let mut reading = ReadOnce::of(&file);
        assert_eq!(reading.read(90, 20), [7; 10]);
        assert_eq!(reading.read(100, 20), b"");
        assert_eq!(reading.read(8192, 20), b"");
        let directory = std::fs::File::open("/").unwrap();
        assert_eq!(ReadOnce::of(&directory).read(0, 20), b"");
    }
}
