//! The beginning and the end of what a program said on its standard error.

/// Most bytes kept in all; half for the head, half for the tail.
const MOST_BYTES_KEPT: usize = 64 << 10;

/// Bytes of the end that an error message repeats.
const MESSAGE_BYTES: usize = 2 << 10;

/// Head and tail of a stream of text, at most 64 KiB.
#[derive(Debug, Default)]
pub(super) struct HeadAndTail {
    head: Vec<u8>,
    tail: std::collections::VecDeque<u8>,
    total: u64,
}

impl HeadAndTail {
    pub(super) fn push(&mut self, mut bytes: &[u8]) {
        self.total += bytes.len() as u64;
        let room = (MOST_BYTES_KEPT / 2).saturating_sub(self.head.len()).min(bytes.len());
        self.head.extend_from_slice(&bytes[..room]);
        bytes = &bytes[room..];
        self.tail.extend(bytes);
        let excess = self.tail.len().saturating_sub(MOST_BYTES_KEPT / 2);
        self.tail.drain(..excess);
    }

    /// Bytes there were.
    pub(super) fn total_bytes(&self) -> u64 {
        self.total
    }

    /// What was kept, with a line that says how much was left out between.
    pub(super) fn text(&self) -> String {
        let kept = (self.head.len() + self.tail.len()) as u64;
        let mut all = self.head.clone();
        if self.total > kept {
            all.extend_from_slice(format!("\n… {} bytes left out …\n", self.total - kept).as_bytes());
        }
        all.extend(&self.tail);
        String::from_utf8_lossy(&all).into_owned()
    }

    /// The end of it, for an error message.
    pub(super) fn last_words(&self) -> String {
        let text = self.text();
        let text = text.trim();
        let mut start = text.len().saturating_sub(MESSAGE_BYTES);
        while !text.is_char_boundary(start) {
            start += 1;
        }
        if text.is_empty() { "it said nothing on standard error".to_owned() } else { format!("it said: {}", &text[start..]) }
    }
}

#[cfg(test)]
mod tests {
    use super::HeadAndTail;

    #[test]
    fn long_text_keeps_its_head_and_its_tail_and_says_what_is_missing() {
        let mut kept = HeadAndTail::default();
        kept.push(b"first words\n");
        for _ in 0..1000 {
            kept.push(&[b'x'; 1000]);
        }
        kept.push(b"\nlast words\n");
        let text = kept.text();
        assert!(text.starts_with("first words\n") && text.ends_with("last words\n"));
        assert!(text.contains(&format!("… {} bytes left out …", kept.total_bytes() - 65536)));
        assert!(text.len() < 66_000);
        assert!(kept.last_words().ends_with("last words") && kept.last_words().len() < 3000);
    }
}
