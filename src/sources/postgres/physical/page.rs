//! Pages of relations and their checksums, as `src/include/storage/checksum_impl.h` and `bufpage.h` of PostgreSQL lay them down.

use std::ops::RangeInclusive;

/// How many sums run side by side.
const SUMS: usize = 32;
/// FNV-1's prime for 32 bits.
const PRIME: u32 = 16_777_619;
/// Where each sum begins, so that the order of the words matters.
const BASES: [u32; SUMS] = [
    0x5B1F_36E9,
    0xB852_5960,
    0x02AB_50AA,
    0x1DE6_6D2A,
    0x79FF_467A,
    0x9BB9_F8A3,
    0x217E_7CD2,
    0x83E1_3D2C,
    0xF8D4_474F,
    0xE39E_B970,
    0x42C6_AE16,
    0x9932_16FA,
    0x7B09_3B5D,
    0x98DA_FF3C,
    0xF718_902A,
    0x0B1C_9CDB,
    0xE58F_764B,
    0x1876_36BC,
    0x5D7B_3BB1,
    0xE73D_E7DE,
    0x92BE_C979,
    0xCCA6_C0B2,
    0x304A_0979,
    0x85AA_43D4,
    0x7831_25BB,
    0x6CA8_EAA2,
    0xE407_EAC6,
    0x4B5C_FC3E,
    0x9FBF_8C76,
    0x15CA_20BE,
    0xF2CA_9FD3,
    0x959B_D756,
];
/// Where `pd_checksum` lies in a page.
const CHECKSUM_AT: usize = 8;
/// Where `pd_upper` lies in a page: 0 in one that was never written.
const UPPER_AT: usize = 14;

/// What a page says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Page {
    /// Never written: all zero, and without a checksum.
    New,
    /// Changed since the backup began: it may be torn, and replay replaces it whole.
    Newer,
    /// Its checksum is right.
    Sound,
    /// Its checksum is wrong.
    Damaged,
}

/// Looks at one whole page, `block` of its relation fork. `since` is from where the backup began to where the log ends now: a page
/// whose last change lies in between may be torn. One that says that it is of the future is not.
pub fn look(page: &[u8], block: u32, since: &RangeInclusive<u64>) -> Page {
    if page[UPPER_AT] == 0 && page[UPPER_AT + 1] == 0 {
        return if page.iter().all(|byte| *byte == 0) { Page::New } else { damaged_unless_newer(page, since) };
    }
    let stored = u16::from_le_bytes([page[CHECKSUM_AT], page[CHECKSUM_AT + 1]]);
    if checksum(page, block) == stored { Page::Sound } else { damaged_unless_newer(page, since) }
}

fn damaged_unless_newer(page: &[u8], since: &RangeInclusive<u64>) -> Page {
    if since.contains(&lsn(page)) { Page::Newer } else { Page::Damaged }
}

/// The LSN of the last change: two words, the higher first.
fn lsn(page: &[u8]) -> u64 {
    let word = |at: usize| u64::from(u32::from_le_bytes([page[at], page[at + 1], page[at + 2], page[at + 3]]));
    word(0) << 32 | word(4)
}

/// The checksum that a page should carry: never 0.
pub fn checksum(page: &[u8], block: u32) -> u16 {
    let mut sums = BASES;
    for (number, row) in page.chunks_exact(4 * SUMS).enumerate() {
        let mut words = [0_u32; SUMS];
        for (word, bytes) in words.iter_mut().zip(row.as_chunks::<4>().0) {
            *word = u32::from_le_bytes(*bytes);
        }
        if number == 0 {
            // The checksum itself counts as zero.
            words[CHECKSUM_AT / 4] &= 0xFFFF_0000;
        }
        mix(&mut sums, &words);
    }
    mix(&mut sums, &[0; SUMS]);
    mix(&mut sums, &[0; SUMS]);
    let sum = sums.iter().fold(block, |all, sum| all ^ sum);
    // What is left after the modulus fits.
    (sum % 65_535 + 1) as u16
}

fn mix(sums: &mut [u32; SUMS], words: &[u32; SUMS]) {
    for (sum, word) in sums.iter_mut().zip(words) {
        let mixed = *sum ^ word;
        *sum = mixed.wrapping_mul(PRIME) ^ (mixed >> 17);
    }
}

#[cfg(test)]
mod tests {
    use super::{CHECKSUM_AT, Page, checksum, look};

    fn page() -> Vec<u8> {
        let mut page: Vec<u8> = (0..8192_u32).map(|at| (at * 31 % 251) as u8).collect();
        page[..8].copy_from_slice(&[1, 0, 0, 0, 0, 0, 0, 16]);
        let sum = checksum(&page, 7).to_le_bytes();
        page[CHECKSUM_AT..CHECKSUM_AT + 2].copy_from_slice(&sum);
        page
    }

    #[test]
    fn a_page_is_judged_by_its_checksum_its_block_and_its_lsn() {
        let sound = page();
        let start = &(0x2_0000_0000..=0x4_0000_0000);
        assert_eq!(look(&sound, 7, start), Page::Sound);
        assert_eq!(look(&sound, 8, start), Page::Damaged);
        assert_eq!(look(&sound, 8, &(0x1_0000_0000..=0x4_0000_0000)), Page::Newer);
        assert_eq!(look(&[0; 8192], 7, start), Page::New);
        for at in [0, 4, 15, 24, 100, 4096, 8191] {
            let mut damaged = sound.clone();
            damaged[at] ^= 4;
            assert_eq!(look(&damaged, 7, start), Page::Damaged, "byte {at}");
        }
        let mut nearly_new = vec![0; 8192];
        nearly_new[8191] = 1;
        assert_eq!(look(&nearly_new, 7, start), Page::Damaged);
    }
}
