//! What `pg_backup_stop` hands over as text: `backup_label` and `tablespace_map`.

use std::fmt;

/// A place in the write-ahead log, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lsn(pub u64);

impl Lsn {
    /// Reads `16/B374D848`.
    pub fn parse(text: &str) -> Option<Self> {
        let (high, low) = text.split_once('/')?;
        let word = |word: &str| u32::from_str_radix(word, 16).ok().map(u64::from);
        Some(Self(word(high)? << 32 | word(low)?))
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

/// What a `backup_label` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// Where replay has to begin.
    pub start: Lsn,
    /// On which timeline.
    pub timeline: u32,
    /// Whether the backup was taken from a standby.
    pub from_standby: bool,
}

impl Label {
    /// Reads a label; nothing if it is not one.
    pub fn parse(text: &str) -> Option<Self> {
        let line = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        let start = line("START WAL LOCATION")?.split_whitespace().next()?;
        Some(Self {
            start: Lsn::parse(start)?,
            timeline: line("START TIMELINE")?.trim().parse().ok()?,
            from_standby: line("BACKUP FROM")?.trim() == "standby",
        })
    }
}

/// A tablespace: its OID, and the directory it lies in.
pub type Tablespace = (u32, String);

/// Writes a `tablespace_map`: a line for each, in which a backslash stands before line breaks and backslashes of the path.
pub fn write_map(tablespaces: &[Tablespace]) -> String {
    let mut text = String::new();
    for (oid, directory) in tablespaces {
        text.push_str(&oid.to_string());
        text.push(' ');
        for character in directory.chars() {
            if matches!(character, '\n' | '\r' | '\\') {
                text.push('\\');
            }
            text.push(character);
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{Label, Lsn, write_map};

    #[test]
    fn a_label_is_read_and_what_is_none_is_not() {
        let text = "START WAL LOCATION: 1F/2000028 (file 000000010000001F00000002)\nCHECKPOINT LOCATION: 1F/2000060\n\
                    BACKUP METHOD: streamed\nBACKUP FROM: primary\nSTART TIME: 2026-11-26 03:00:00 UTC\nLABEL: farshore\nSTART TIMELINE: 12\n";
        let label = Label { start: Lsn(0x1F_0200_0028), timeline: 12, from_standby: false };
        assert_eq!(Label::parse(text), Some(label.clone()));
        let standby = text.replace("FROM: primary", "FROM: standby");
        assert_eq!(Label::parse(&standby), Some(Label { from_standby: true, ..label }));
        for missing in ["START WAL LOCATION", "START TIMELINE", "BACKUP FROM", "1F/2000028"] {
            assert_eq!(Label::parse(&text.replace(missing, "")), None, "{missing}");
        }
    }

    #[test]
    fn a_place_in_the_log_is_written_as_the_server_does() {
        assert_eq!(Lsn(0x1F_0200_0028).to_string(), "1F/2000028");
        assert_eq!(Lsn::parse("0/0"), Some(Lsn(0)));
        for wrong in ["", "1", "1/", "x/1", "1/100000000"] {
            assert_eq!(Lsn::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_map_escapes_what_would_end_a_line() {
        let map = [(16_400, "/srv/fast".to_owned()), (16_401, "/srv/a\\b\nc".to_owned())];
        assert_eq!(write_map(&map), "16400 /srv/fast\n16401 /srv/a\\\\b\\\nc\n");
    }
}
