//! Where the data of a sparse file lies, and which bytes of the stored stream belong where.

use std::{fs::File, io};

use rustix::{
    fs::{SeekFrom, seek},
    io::Errno,
};

/// Most segments kept of one file; a file in more pieces has its smallest holes stored as zeros (which cost next to nothing).
const MOST_SEGMENTS: usize = 4096;

/// The data of a file of `size` bytes, as (offset, length) in order; none if it has no holes or the file system cannot tell.
pub(super) fn segments(file: &File, size: u64) -> io::Result<Option<Vec<(u64, u64)>>> {
    let mut found: Vec<(u64, u64)> = Vec::new();
    let mut smallest_hole = 1;
    let mut position = 0;
    while position < size {
        let start = match seek(file, SeekFrom::Data(position)) {
            Ok(start) if start < size => start,
            // Nothing but a hole up to the end.
            Ok(_) | Err(Errno::NXIO) => break,
            Err(Errno::INVAL | Errno::NOTSUP) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let end = seek(file, SeekFrom::Hole(start))?.min(size);
        if end <= start {
            // The file is changing under us; reading it as it is will tell.
            return Ok(None);
        }
        match found.last_mut() {
            Some((last, length)) if start - (*last + *length) < smallest_hole => *length = end - *last,
            _ => found.push((start, end - start)),
        }
        position = end;
        while found.len() > MOST_SEGMENTS {
            smallest_hole = (smallest_hole * 2).max(4096);
            found = joined(&found, smallest_hole);
        }
    }
    let whole = matches!(found.as_slice(), [(0, length)] if *length == size);
    Ok(if whole { None } else { Some(found) })
}

fn joined(segments: &[(u64, u64)], smallest_hole: u64) -> Vec<(u64, u64)> {
    let mut all: Vec<(u64, u64)> = Vec::new();
    for &(start, length) in segments {
        match all.last_mut() {
            Some((last, kept)) if start - (*last + *kept) < smallest_hole => *kept = start + length - *last,
            _ => all.push((start, length)),
        }
    }
    all
}

/// Where `length` stored bytes from `offset` on belong: pairs of the place in the file and the number of bytes.
pub(super) fn places(segments: &[(u64, u64)], offset: u64, length: u64) -> Vec<(u64, u64)> {
    let (mut stored, mut places) = (0, Vec::new());
    let end = offset + length;
    for &(start, size) in segments {
        let (from, to) = (stored.max(offset), (stored + size).min(end));
        if from < to {
            places.push((start + (from - stored), to - from));
        }
        stored += size;
        if stored >= end {
            break;
        }
    }
    places
}

/// Whether segments are in order, apart, within `size`, and hold `stored` bytes in all: stored ones might be anything.
pub(super) fn sound(segments: &[(u64, u64)], size: u64, stored: u64) -> bool {
    let (mut end, mut total) = (0u64, 0u64);
    for &(start, length) in segments {
        let Some(next) = start.checked_add(length) else { return false };
        if start < end || next > size {
            return false;
        }
        end = next;
        total += length;
    }
    total == stored
}

#[cfg(test)]
mod tests {
    use super::{joined, places, sound};

    #[test]
    fn stored_bytes_find_their_places_across_segments() {
        let segments = [(10, 5), (100, 5), (200, 10)];
        assert_eq!(places(&segments, 0, 20), [(10, 5), (100, 5), (200, 10)]);
        assert_eq!(places(&segments, 3, 4), [(13, 2), (100, 2)]);
        assert_eq!(places(&segments, 19, 1), [(209, 1)]);
    }

    #[test]
    fn segments_that_overlap_or_lie_outside_are_not_sound() {
        assert!(sound(&[(0, 5), (5, 5)], 10, 10));
        assert!(!sound(&[(0, 5), (4, 5)], 10, 10));
        assert!(!sound(&[(0, 5), (6, 5)], 10, 10));
        assert!(!sound(&[(u64::MAX, 5)], 10, 5));
        assert!(!sound(&[(0, 5)], 10, 6));
    }

    #[test]
    fn joining_closes_small_holes_only() {
        assert_eq!(joined(&[(0, 10), (12, 10), (100, 10)], 5), [(0, 22), (100, 10)]);
    }
}
