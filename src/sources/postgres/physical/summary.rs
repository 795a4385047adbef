//! Files in which the server keeps what its log changed: `pg_wal/summaries/*.summary`, from PostgreSQL 17 on.
//!
//! The layout is that of `src/common/blkreftable.c`, little-endian: a magic number; for each fork of a relation an entry of six words
//! (tablespace, database, file number, fork, limit block, chunks), 16 bits for each chunk of 65,536 blocks that say how much of it
//! follows, and the chunks; an entry of zeros; the CRC-32C of all before. A chunk is a list of blocks, or, once it is full, a bitmap.
//!
//! A file is as long as what it names, and a reader holds no more of it than one chunk.

use crc_fast::{CrcAlgorithm, Digest};

const MAGIC: u32 = 0x652B_137B;
const WORD_BYTES: usize = 4;
const ENTRY_BYTES: usize = 24;
/// Blocks of a chunk.
const CHUNK_BLOCKS: u32 = 1 << 16;
/// No fork has more: block numbers have 32 bits.
const MOST_CHUNKS: u32 = 1 << 16;
/// So many words of 16 bits are a bitmap.
const BITMAP_WORDS: u16 = 4096;
/// The limit block of a fork that has none.
const NO_LIMIT: u32 = u32::MAX;
/// `ForkNumber`: main, free space, visibility, init.
pub const MAIN_FORK: u32 = 0;
/// The same.
pub const INIT_FORK: u32 = 3;
const LAST_FORK: u32 = INIT_FORK;

/// Where a relation's files are: `RelFileLocator`. File number 0 stands for the whole database there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Locator {
    /// OID of the tablespace.
    pub tablespace: u32,
    /// OID of the database; 0 for what all share.
    pub database: u32,
    /// Number in the names of its files.
    pub number: u32,
}

/// Something that happened to a fork.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// It was made, dropped, or cut off here: from this block on nothing is what it was.
    Limit(u32),
    /// This block was changed.
    Block(u32),
}

/// What comes next.
#[derive(Debug)]
enum Next {
    Magic,
    Entry,
    Usage { fork: (Locator, u32), chunks: u32 },
    Chunk { fork: (Locator, u32), usage: Vec<u16>, number: u32 },
    Sum,
    End,
}

/// Reads one such file as its bytes come.
#[derive(Debug)]
pub struct SummaryReader {
    next: Next,
    held: Vec<u8>,
    digest: Digest,
}

impl Default for SummaryReader {
    fn default() -> Self {
        Self { next: Next::Magic, held: Vec::new(), digest: Digest::new(CrcAlgorithm::Crc32Iscsi) }
    }
}

impl SummaryReader {
    /// More bytes. What they say is told as relation, fork and change, and is worth nothing until [`Self::finish`] said that the
    /// file is whole.
    ///
    /// # Errors
    /// What is wrong with the file, in words.
    pub fn feed(&mut self, mut bytes: &[u8], tell: &mut impl FnMut(Locator, u32, Change)) -> Result<(), String> {
        loop {
            let wanted = match &self.next {
                Next::Magic | Next::Sum => WORD_BYTES,
                Next::Entry => ENTRY_BYTES,
                Next::Usage { chunks, .. } => *chunks as usize * 2,
                Next::Chunk { usage, number, .. } => usize::from(usage[*number as usize]) * 2,
                Next::End if bytes.is_empty() => return Ok(()),
                Next::End => return Err("goes on after its end".to_owned()),
            };
            let part = (wanted - self.held.len()).min(bytes.len());
            self.held.extend_from_slice(&bytes[..part]);
            bytes = &bytes[part..];
            if self.held.len() < wanted {
                return Ok(());
            }
            let held = std::mem::take(&mut self.held);
            if !matches!(self.next, Next::Sum) {
                self.digest.update(&held);
            }
            self.next = self.take(&held, tell)?;
        }
    }

    /// All of it has come.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn finish(self) -> Result<(), String> {
        if matches!(self.next, Next::End) { Ok(()) } else { Err("ends too early".to_owned()) }
    }

    fn take(&mut self, held: &[u8], tell: &mut impl FnMut(Locator, u32, Change)) -> Result<Next, String> {
        let word = |at: usize| u32::from_le_bytes([held[at], held[at + 1], held[at + 2], held[at + 3]]);
        match std::mem::replace(&mut self.next, Next::End) {
            Next::Magic if word(0) == MAGIC => Ok(Next::Entry),
            Next::Magic => Err(format!("begins with {:08x}, not as a summary does", word(0))),
            Next::Entry if held.iter().all(|byte| *byte == 0) => Ok(Next::Sum),
            Next::Entry => {
                let locator = Locator { tablespace: word(0), database: word(4), number: word(8) };
                let (fork, limit, chunks) = (word(12), word(16), word(20));
                if fork > LAST_FORK || chunks > MOST_CHUNKS {
                    return Err(format!("has an entry that makes no sense: fork {fork}, {chunks} chunks"));
                }
                if limit != NO_LIMIT {
                    tell(locator, fork, Change::Limit(limit));
                }
                Ok(if chunks == 0 { Next::Entry } else { Next::Usage { fork: (locator, fork), chunks } })
            }
            Next::Usage { fork, .. } => {
                let usage: Vec<u16> = held.as_chunks::<2>().0.iter().map(|two| u16::from_le_bytes(*two)).collect();
                match usage.iter().find(|used| **used > BITMAP_WORDS) {
                    Some(used) => Err(format!("has a chunk of {used} words")),
                    None => Ok(chunk(fork, usage, 0)),
                }
            }
            Next::Chunk { fork: (locator, fork), usage, number } => {
                let first = number * CHUNK_BLOCKS;
                let is_bitmap = usage[number as usize] == BITMAP_WORDS;
                for (at, two) in (0..).step_by(16).zip(held.as_chunks::<2>().0) {
                    let word = u16::from_le_bytes(*two);
                    if is_bitmap {
                        let set = (0..16).filter(|bit| word & 1 << bit != 0);
                        set.for_each(|bit| tell(locator, fork, Change::Block(first + at + bit)));
                    } else {
                        tell(locator, fork, Change::Block(first + u32::from(word)));
                    }
                }
                Ok(chunk((locator, fork), usage, number + 1))
            }
            Next::Sum if u64::from(word(0)) == self.digest.finalize() => Ok(Next::End),
            Next::Sum => Err("has a wrong checksum".to_owned()),
            Next::End => Err("goes on after its end".to_owned()),
        }
    }
}

/// The next chunk of a fork that is not empty, from this one on.
fn chunk(fork: (Locator, u32), usage: Vec<u16>, from: u32) -> Next {
    match (from..).zip(usage.iter().skip(from as usize)).find(|(_, used)| **used > 0) {
        Some((number, _)) => Next::Chunk { fork, usage, number },
        None => Next::Entry,
    }
}

#[cfg(test)]
mod tests {
    use super::{CHUNK_BLOCKS, Change, CrcAlgorithm, Locator, SummaryReader};

    const RELATION: Locator = Locator { tablespace: 1663, database: 5, number: 16_384 };

    fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
        let sum = crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, &bytes);
        bytes.extend(u32::try_from(sum).unwrap().to_le_bytes());
        bytes
    }

    fn words(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    fn halves(halves: &[u16]) -> Vec<u8> {
        halves.iter().flat_map(|half| half.to_le_bytes()).collect()
    }

    /// Three forks: one cut off, one with a list in its third chunk, one with a bitmap. Without its checksum.
    fn summary() -> Vec<u8> {
        let mut bytes = words(&[0x652B_137B, 1663, 5, 0, 0, 0, 0]);
        bytes.extend(words(&[1663, 5, 16_384, 0, 7, 3]));
        bytes.extend(halves(&[0, 0, 2, 9, 65_535]));
        bytes.extend(words(&[1663, 5, 16_384, 2, u32::MAX, 1]));
        bytes.extend(halves(&[4096]));
        let mut bitmap = vec![0; 4096];
        (bitmap[0], bitmap[4095]) = (2, 0x8000);
        bytes.extend(halves(&bitmap));
        bytes.extend([0; 24]);
        bytes
    }

    fn read(bytes: &[u8], step: usize) -> Result<Vec<(Locator, u32, Change)>, String> {
        let (mut reader, mut told) = (SummaryReader::default(), Vec::new());
        for piece in bytes.chunks(step) {
            reader.feed(piece, &mut |locator, fork, change| told.push((locator, fork, change)))?;
        }
        reader.finish().map(|()| told)
    }

    #[test]
    fn a_summary_is_read_wherever_its_bytes_are_cut() {
        let bytes = sealed(summary());
        let expected = vec![
            (Locator { number: 0, ..RELATION }, 0, Change::Limit(0)),
            (RELATION, 0, Change::Limit(7)),
            (RELATION, 0, Change::Block(2 * CHUNK_BLOCKS + 9)),
            (RELATION, 0, Change::Block(3 * CHUNK_BLOCKS - 1)),
            (RELATION, 2, Change::Block(1)),
            (RELATION, 2, Change::Block(65_535)),
        ];
        for step in [1, 7, 100, bytes.len()] {
            assert_eq!(read(&bytes, step), Ok(expected.clone()), "{step}");
        }
        assert_eq!(read(&sealed(words(&[0x652B_137B, 0, 0, 0, 0, 0, 0])), 100), Ok(Vec::new()));
    }

    #[test]
    fn what_is_cut_off_changed_or_goes_on_is_no_summary() {
        let bytes = sealed(summary());
        for length in 0..bytes.len() {
            assert_eq!(read(&bytes[..length], 4096), Err("ends too early".to_owned()), "{length}");
        }
        for at in (0..200).chain(bytes.len() - 60..bytes.len()) {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert!(read(&changed, 4096).is_err(), "byte {at}");
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert!(read(&longer, 4096).unwrap_err().contains("after its end"));
        let head = |entry: [u32; 6]| sealed([words(&[0x652B_137B]), words(&entry), vec![255; 1000]].concat());
        assert!(read(&head([1663, 5, 1, 4, 0, 1]), 4096).unwrap_err().contains("fork 4"));
        assert!(read(&head([1663, 5, 1, 0, 0, u32::MAX]), 4096).unwrap_err().contains("chunks"));
        assert!(read(&head([1663, 5, 1, 0, 0, 3]), 4096).unwrap_err().contains("65535 words"));
    }
}
