//! The record of a tablespace that is made: what it says, and which bytes of it are to be others so that it names no directory.

use crc_fast::CrcAlgorithm;

use super::wal::{CHECKED_HEADER_BYTES, HEADER_BYTES};

/// A record that makes or drops a tablespace has no more bytes: headers of its data, an OID, a path (`MAXPGPATH`).
pub const MOST_TABLESPACE_BYTES: usize = HEADER_BYTES + 16 + 4 + 1024;

/// A byte of the log that is to be another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// Its place.
    pub at: u64,
    /// What to combine it with (exclusive or).
    pub with: u8,
    /// Whether it belongs to the record's checksum and not to the path.
    pub is_sum: bool,
}

/// A tablespace that the log makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// Its OID.
    pub oid: u32,
    /// The directory that the statement named; empty for one in the data directory itself.
    pub directory: String,
    /// Whether the log drops it again.
    pub is_dropped: bool,
}

/// Such a record as far as it has come.
pub struct Coming<'a> {
    /// What came after its header.
    pub body: &'a [u8],
    /// The places of these bytes.
    pub places: &'a [u64],
    /// Bytes that are still to come.
    pub remaining: usize,
    /// The place of its checksum.
    pub sum_at: u64,
    /// Its path was emptied as far as it lay in the segment before.
    pub was_emptied_in_part: bool,
}

impl Coming<'_> {
    /// What empties its path, as far as its bytes have come; nothing where it names none, or did already.
    ///
    /// # Errors
    /// In words that go on after *makes a tablespace*.
    pub fn changes(&self) -> Result<Vec<Change>, &'static str> {
        let at = path_at(self.body).map_err(|()| "in a way that is not understood")?;
        let Some((at, first)) = at.and_then(|at| Some((at, *self.body.get(at)?))) else { return Ok(Vec::new()) };
        let length = (self.body.len() + self.remaining).saturating_sub(at);
        let mask = emptying();
        let change = |place: &u64, with: u8, is_sum: bool| Change { at: *place, with, is_sum };
        match first {
            0 if !self.was_emptied_in_part => Ok(Vec::new()),
            0 | b'/' if length >= mask.len() => {
                Ok(self.places[at..].iter().zip(mask).map(|(place, with)| change(place, with, false)).collect())
            }
            b'/' => {
                // Too short to hide what keeps the checksum as it is: the checksum is changed.
                let mut bytes = vec![0; length + CHECKED_HEADER_BYTES];
                let zeros = crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, &bytes);
                bytes[0] = b'/';
                let sum = (crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, &bytes) ^ zeros).to_le_bytes();
                let in_sum = (self.sum_at..).zip(sum).take(4).map(|(place, with)| change(&place, with, true));
                Ok(std::iter::once(change(&self.places[at], b'/', false)).chain(in_sum).collect())
            }
            _ => Err("at what is no absolute path"),
        }
    }
}

/// What turns the first byte of an absolute path into the end of the text, and four more so that the CRC-32C of whatever it is part of stays as it is: a multiple of the
/// checksum's polynomial. The server reads nothing behind the end.
pub fn emptying() -> [u8; 5] {
    let sum = |byte| crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, &[byte]);
    let [a, b, c, d, ..] = (sum(b'/') ^ sum(0)).to_le_bytes();
    [b'/', a, b, c, d]
}

/// Where the path begins in the body of a record that makes a tablespace, after the OID; nothing while too little of it has come.
pub fn path_at(body: &[u8]) -> Result<Option<usize>, ()> {
    Ok(data_at(body)?.map(|at| at + 4))
}

/// Where the data begin in the body of a record that names no blocks; nothing while too little of it has come.
pub fn data_at(body: &[u8]) -> Result<Option<usize>, ()> {
    let mut at = 0;
    // Headers come first: an origin, the outer transaction, then the length of the data, short or long.
    loop {
        match body.get(at) {
            None => return Ok(None),
            Some(253) => at += 3,
            Some(252) => at += 5,
            Some(255) => return Ok(Some(at + 2)),
            Some(254) => return Ok(Some(at + 5)),
            Some(_) => return Err(()),
        }
    }
}

/// The OID and the directory in a record that makes a tablespace, the OID in one that drops it.
pub fn tablespace(body: &[u8]) -> (u32, String) {
    let Ok(Some(at)) = path_at(body) else { return (0, String::new()) };
    let oid = body.get(at - 4..).and_then(|oid| oid.first_chunk::<4>()).map_or(0, |oid| u32::from_le_bytes(*oid));
    let path = body.get(at..).unwrap_or_default().split(|byte| *byte == 0).next().unwrap_or_default();
    (oid, String::from_utf8_lossy(path).into_owned())
}

#[cfg(test)]
mod tests {
    use super::tablespace;

    #[test]
    fn what_makes_a_tablespace_is_never_overlooked() {
        assert_eq!(tablespace(&[]), (0, String::new()));
        assert_eq!(tablespace(&[254, 6, 0, 0, 0, 1, 0, 0, 0, b'/', b'a']), (1, "/a".to_owned()));
    }
}
