//! age files that a stranger may have written, handed to age only when their header is short.
//!
//! age 0.12 parses a header anew with each line of it that it reads, so that the time grows with the square of its length: one of
//! 1 MiB, which a site can write without any key, would take hours.

use age::Decryptor;

/// Longest header, bytes: some 600 recipients have room in it.
const MAX_HEADER_BYTES: usize = 64 << 10;
/// Most lines of a header. A recipient has two.
const MAX_HEADER_LINES: usize = 2048;

/// What is wrong with a header that is too long.
fn too_long() -> String {
    format!("its header has more than {MAX_HEADER_LINES} lines or {} KiB", MAX_HEADER_BYTES >> 10)
}

/// Refuses a binary age file whose header is longer than what is read.
pub(super) fn check_header(file: &[u8]) -> Result<(), String> {
    let mut length = 0;
    for (number, line) in file.split_inclusive(|byte| *byte == b'\n').enumerate() {
        length += line.len();
        if number >= MAX_HEADER_LINES || length > MAX_HEADER_BYTES {
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
    use std::time::{Duration, Instant};

    use super::{MAX_HEADER_BYTES, MAX_HEADER_LINES, decryptor};

    fn header(stanzas: usize, stanza: &str) -> Vec<u8> {
        format!("age-encryption.org/v1\n{}--- {}\n{}", stanza.repeat(stanzas), "A".repeat(43), "x".repeat(32)).into_bytes()
    }

    #[test]
    fn a_long_header_is_refused_before_it_is_parsed_and_a_short_one_is_soon_read() {
        let began = Instant::now();
        let shortest = "-> X\n\n";
        for long in [header(170_000, shortest), header(1, &format!("-> {}\n\n", "X".repeat(1 << 20))), vec![b'\n'; 1 << 20]] {
            let error = decryptor(&long).err().unwrap();
            assert!(error.contains("more than 2048 lines or 64 KiB"), "{error}");
        }
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
        // The worst that is read.
        let began = Instant::now();
        let lines = MAX_HEADER_LINES / 2 - 1;
        let stanza = format!("->{}\n\n", " X".repeat((MAX_HEADER_BYTES / lines - 5) / 2));
        decryptor(&header(lines, &stanza)).unwrap();
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        println!("the worst took {:?}", began.elapsed());
    }
}
