//! age files that a stranger may have written, handed to age only when their header is short.
//!
//! age 0.12 parses a header anew with each line of it that it reads, so that the time grows with the square of its length: one of
//! 1 MiB, which a site can write without any key, would take hours.

use age::Decryptor;

/// Longest header, bytes: some 300 recipients have room in it.
const MAX_HEADER_BYTES: usize = 32 << 10;
/// Most lines of a header. A recipient has two.
const MAX_HEADER_LINES: usize = 1024;
/// Most spaces of a header: each begins a word, which costs age more than its letters do. A recipient has two.
const MAX_HEADER_SPACES: usize = 1024;

/// What is wrong with a header that is too long.
fn too_long() -> String {
    format!("its header has more than {} KiB, {MAX_HEADER_LINES} lines or {MAX_HEADER_SPACES} spaces", MAX_HEADER_BYTES >> 10)
}

/// Refuses a binary age file whose header is longer than what is read.
pub(super) fn check_header(file: &[u8]) -> Result<(), String> {
    let (mut length, mut spaces) = (0, 0);
    for (number, line) in file.split_inclusive(|byte| *byte == b'\n').enumerate() {
        length += line.len();
        spaces += line.iter().filter(|byte| **byte == b' ').count();
        if number >= MAX_HEADER_LINES || length > MAX_HEADER_BYTES || spaces > MAX_HEADER_SPACES {
            return Err(too_long());
        }
        // The last line of every header; no other begins so.
        if line.starts_with(b"---") {
            break;
        }
    }
    Ok(())
}

/// Reads the header of a binary age file.
///
/// # Errors
/// What is wrong with it.
pub(super) fn decryptor(file: &[u8]) -> Result<Decryptor<&[u8]>, String> {
    check_header(file)?;
    Decryptor::new_buffered(file).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::{MAX_HEADER_BYTES, MAX_HEADER_LINES, MAX_HEADER_SPACES, decryptor};

    fn header(stanzas: usize, stanza: &str) -> Vec<u8> {
        format!("age-encryption.org/v1\n{}--- {}\n{}", stanza.repeat(stanzas), "A".repeat(43), "x".repeat(32)).into_bytes()
    }

    #[test]
    fn a_long_header_is_refused_before_it_is_parsed_and_a_short_one_is_soon_read() {
        let letters = |count: usize| header(1, &format!("-> {}\n\n", "X".repeat(count)));
        let words = |count: usize| header(1, &format!("->{}\n\n", " X".repeat(count)));
        for long in [header(170_000, "-> X\n\n"), letters(1 << 20), words(MAX_HEADER_SPACES), vec![b'\n'; 1 << 20]] {
            let error = decryptor(&long).err().unwrap();
            assert!(error.contains("more than 32 KiB, 1024 lines or 1024 spaces"), "{error}");
        }
        // The worst that is read: many lines, with as many words and letters as may be.
        let stanzas = MAX_HEADER_LINES / 2 - 1;
        let stanza = format!("-> X {}\n\n", "X".repeat(MAX_HEADER_BYTES / stanzas - 8));
        decryptor(&header(stanzas, &stanza)).unwrap();
    }
}
