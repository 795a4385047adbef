//! `global/pg_control`: whole or torn, and whose it is.

use crc_fast::{CrcAlgorithm, checksum};

/// The struct ends, with its checksum, within the first sector (`PG_CONTROL_MAX_SAFE_SIZE`).
const MOST_BYTES: usize = 512;
/// No version's struct is shorter.
const LEAST_BYTES: usize = 200;
/// Versions of the file: 1300 in PostgreSQL 13 to 16, 1700 and 1800 later.
const VERSIONS: std::ops::Range<u32> = 1300..2600;

/// What the file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Control {
    /// The cluster.
    pub system: u64,
    /// Version of the file's own layout.
    pub version: u32,
    /// Version of the system catalogues.
    pub catalogue: u32,
}

impl Control {
    /// Reads the file, if it is whole: its own CRC-32C says so. Where that stands differs between versions; it is the one place whose
    /// value is the checksum of all before it.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| bytes.get(at..at + 4).map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]));
        let version = word(8).filter(|version| VERSIONS.contains(version))?;
        let whole = (LEAST_BYTES..MOST_BYTES)
            .step_by(4)
            .any(|at| word(at).is_some_and(|stored| checksum(CrcAlgorithm::Crc32Iscsi, &bytes[..at]) == u64::from(stored)));
        let system = u64::from(word(0)?) | u64::from(word(4)?) << 32;
        whole.then(|| Some(Self { system, version, catalogue: word(12)? }))?
    }
}

#[cfg(test)]
mod tests {
    use super::{Control, CrcAlgorithm, checksum};

    #[test]
    fn a_whole_file_is_read_and_a_torn_one_is_not() {
        let mut file: Vec<u8> = (0..8192_u32).map(|at| (at % 251) as u8).collect();
        file[..8].copy_from_slice(&42_u64.to_le_bytes());
        file[8..12].copy_from_slice(&1300_u32.to_le_bytes());
        file[12..16].copy_from_slice(&202_209_061_u32.to_le_bytes());
        for end in [292, 296, 300] {
            let mut whole = file.clone();
            let sum = u32::try_from(checksum(CrcAlgorithm::Crc32Iscsi, &whole[..end])).unwrap();
            whole[end..end + 4].copy_from_slice(&sum.to_le_bytes());
            assert_eq!(Control::parse(&whole), Some(Control { system: 42, version: 1300, catalogue: 202_209_061 }));
            for at in [0, 17, end - 1, end] {
                let mut torn = whole.clone();
                torn[at] ^= 1;
                assert_eq!(Control::parse(&torn), None, "byte {at}");
            }
        }
        assert_eq!(Control::parse(&file[..100]), None);
        assert_eq!(Control::parse(&[]), None);
    }
}
