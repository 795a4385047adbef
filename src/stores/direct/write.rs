//! Writing: what is written once and not read again soon.

use std::{
    fs::File,
    io::{self, IoSlice, Write},
    os::unix::fs::FileExt,
};

use rustix::io::{Errno, pwritev};

use super::{ALIGNMENT, WORTH_BYTES, aligned_start, set_direct};

/// At most so much is handed to the page cache in one call. A call of some MiB makes Linux look for pages of 2 MiB, which on a machine that gives
/// free memory back to its host are the very ones that it has to ask for again: a segment of the log took 13 ms of a processor, and takes 5.
/// Bytes.
const CACHED_BYTES: usize = 512 << 10;

/// Linux takes so many pieces in one call (`UIO_MAXIOV`).
const MOST_SLICES: usize = 1024;

/// What is copied to where it can be written from, at once. Bytes.
const COPIED_BYTES: usize = 1 << 20;

/// Writes through the page cache, to where the file has come: for what is read again soon, or may be gone before a disk has it.
///
/// # Errors
/// The operating system's.
pub fn write_cached(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    bytes.chunks(CACHED_BYTES).try_for_each(|part| file.write_all(part))
}

/// Writes pieces, each to its place in the file (bytes from its beginning): past the page cache if that pays and all of them lie as it must be.
///
/// # Errors
/// The operating system's.
pub fn write_pieces(file: &File, pieces: &[(u64, &[u8])]) -> io::Result<()> {
    let mut rest = pieces;
    let lie_so = pieces.iter().all(|(at, bytes)| at.is_multiple_of(ALIGNMENT as u64) && lies_so(bytes));
    while let Some(((start, first), others)) = rest.split_first() {
        // As many as follow each other in the file.
        let mut end = start + first.len() as u64;
        let count = 1 + others
            .iter()
            .take_while(|(at, bytes)| {
                *at == end && {
                    end += bytes.len() as u64;
                    true
                }
            })
            .count();
        let (run, later) = rest.split_at(count);
        let is_written = lie_so && end - start >= WORTH_BYTES as u64 && write_past(file, run)?;
        if !is_written {
            run.iter().try_for_each(|piece| write_piece(file, piece))?;
        }
        rest = later;
    }
    Ok(())
}

/// Writes a file from its beginning, as above; bytes that lie anywhere are copied to where they can be written from.
///
/// # Errors
/// The operating system's.
pub fn write_file(file: &File, bytes: &[u8]) -> io::Result<()> {
    let whole = bytes.len() - bytes.len() % ALIGNMENT;
    if whole < WORTH_BYTES {
        return file.write_all_at(bytes, 0);
    }
    let (head, tail) = bytes.split_at(whole);
    if lies_so(head) {
        write_pieces(file, &[(0, head)])?;
    } else {
        let mut copy = vec![0; COPIED_BYTES + ALIGNMENT];
        let start = aligned_start(&copy);
        let mut at = 0;
        for part in head.chunks(COPIED_BYTES) {
            let copied = &mut copy[start..start + part.len()];
            copied.copy_from_slice(part);
            write_pieces(file, &[(at, copied)])?;
            at += part.len() as u64;
        }
    }
    file.write_all_at(tail, whole as u64)
}

fn lies_so(bytes: &[u8]) -> bool {
    bytes.len().is_multiple_of(ALIGNMENT) && bytes.as_ptr().align_offset(ALIGNMENT) == 0
}

/// Through the page cache.
fn write_piece(file: &File, (at, bytes): &(u64, &[u8])) -> io::Result<()> {
    (*at..).step_by(CACHED_BYTES).zip(bytes.chunks(CACHED_BYTES)).try_for_each(|(at, part)| file.write_all_at(part, at))
}

/// Past it; whether the file system takes it so. Where it does not, all is to be written once more.
fn write_past(file: &File, run: &[(u64, &[u8])]) -> io::Result<bool> {
    if !set_direct(file, true) {
        return Ok(false);
    }
    let written = write_run(file, run);
    set_direct(file, false);
    match written {
        Ok(()) => Ok(true),
        // It wants more than such places, or takes none.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Pieces that follow each other, in as few calls as the operating system takes.
fn write_run(file: &File, run: &[(u64, &[u8])]) -> Result<(), Errno> {
    let mut slices: Vec<IoSlice<'_>> = run.iter().map(|(_, bytes)| IoSlice::new(bytes)).collect();
    let mut slices = slices.as_mut_slice();
    let mut at = run.first().map_or(0, |(at, _)| *at);
    while !slices.is_empty() {
        match pwritev(file, &slices[..slices.len().min(MOST_SLICES)], at) {
            Ok(0) => return Err(Errno::IO),
            Ok(count) => {
                at += count as u64;
                IoSlice::advance_slices(&mut slices, count);
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{fs::File, os::unix::fs::FileExt};

    use super::{
        super::probing::{is_cached, noise},
        ALIGNMENT, COPIED_BYTES, WORTH_BYTES, write_cached, write_file, write_pieces,
    };

    fn read(file: &File) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    #[test]
    fn pieces_come_to_their_places_and_large_ones_pass_the_cache_by() {
        let half = WORTH_BYTES / 2;
        let (bytes, start) = noise(8 * half);
        let part = |number: usize| &bytes[start + number * half..start + (number + 1) * half];
        let at = |number: usize| (number * half) as u64;
        let file = tempfile::tempfile().unwrap();
        // Two that follow each other, and one alone.
        write_pieces(&file, &[(at(2), part(2)), (at(3), part(3)), (at(6), part(6))]).unwrap();
        assert_ne!(is_cached(&file, 2 * half, WORTH_BYTES), Some(true));
        assert_ne!(is_cached(&file, 6 * half, half), Some(false), "a small one is not worth a disk's time");
        // Beside those, without a multiple of anything.
        write_pieces(&file, &[(at(4), &part(4)[..half - 1]), (at(5) - 1, &bytes[start + 5 * half - 1..start + 6 * half])]).unwrap();
        assert_ne!(is_cached(&file, 4 * half, WORTH_BYTES), Some(false));
        let mut wanted = vec![0; 2 * half];
        wanted.extend_from_slice(&bytes[start + 2 * half..start + 7 * half]);
        assert!(read(&file) == wanted);
    }

    #[test]
    fn a_file_is_what_was_written_wherever_its_bytes_lay() {
        for bytes in [0, 1, ALIGNMENT, WORTH_BYTES - 1, WORTH_BYTES, WORTH_BYTES + 1, 3 * COPIED_BYTES + ALIGNMENT + 17] {
            let (noise, start) = noise(bytes + 1);
            for from in [start, start + 1] {
                let wanted = &noise[from..from + bytes];
                let mut file = tempfile::tempfile().unwrap();
                write_file(&file, wanted).unwrap();
                // Before it is read, which brings it there.
                assert!(bytes < WORTH_BYTES || is_cached(&file, 0, WORTH_BYTES) != Some(true), "{bytes} bytes from {from}");
                assert!(read(&file) == wanted, "{bytes} bytes from {from}");
                file.set_len(0).unwrap();
                write_cached(&mut file, wanted).unwrap();
                assert!(read(&file) == wanted, "{bytes} bytes from {from}, through the cache");
            }
        }
    }
}
