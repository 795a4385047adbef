//! What a file of the log is called: by the server, and as an object. Nothing but these few forms is taken, so that no name leads out of
//! its place.

use std::fmt;

use crate::repository::format::LOG;

/// What a file is, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LogKind {
    /// A segment: 24 digits.
    Segment,
    /// The beginning of a segment that a timeline ended in: `<24 digits>.partial`.
    Partial,
    /// A note that the server leaves where a backup began: `<24 digits>.<8 digits>.backup`.
    Backup,
    /// From where a timeline came: `<8 digits>.history`.
    History,
}

/// A file of a cluster's log.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogName {
    /// The cluster's system identifier.
    system: u64,
    file: String,
    kind: LogKind,
}

impl LogName {
    /// The file of this name; nothing for one that the server does not archive.
    pub fn new(system: u64, file: &str) -> Option<Self> {
        Some(Self { system, file: file.to_owned(), kind: kind_of(file)? })
    }

    /// Reads the key of an object; nothing for one that is none, or is written in another way than ours.
    pub fn parse(key: &str) -> Option<Self> {
        let mut parts = key.strip_prefix(LOG)?.splitn(3, '/');
        let (system, _, file) = (parts.next()?, parts.next()?, parts.next()?);
        let name = Self::new(system.parse().ok()?, file)?;
        (name.to_string() == key).then_some(name)
    }

    /// The cluster's system identifier.
    pub fn system(&self) -> u64 {
        self.system
    }

    /// As the server calls it.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// What it is.
    pub fn kind(&self) -> LogKind {
        self.kind
    }

    /// The timeline that it belongs to.
    pub fn timeline(&self) -> u32 {
        u32::from_str_radix(&self.file[..8], 16).unwrap_or(0)
    }

    /// The segment that it is, or is about: 24 digits, which are in order as the log is within a timeline. Nothing for a history.
    pub fn segment(&self) -> Option<&str> {
        (self.kind != LogKind::History).then(|| &self.file[..24])
    }

    /// Keys of everything of its timeline begin so.
    pub(super) fn folder(&self) -> String {
        format!("{}{}/", system_folder(self.system), &self.file[..8])
    }
}

/// As the key of its object.
impl fmt::Display for LogName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}{}", self.folder(), self.file)
    }
}

/// Keys of everything of a cluster begin so.
pub(super) fn system_folder(system: u64) -> String {
    format!("{LOG}{system}/")
}

/// As the server writes numbers into names: upper case.
fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'A'..=b'F'))
}

fn kind_of(file: &str) -> Option<LogKind> {
    let mut parts = file.split('.');
    let kind = match (parts.next()?, parts.next(), parts.next()) {
        (segment, None, None) if is_hex(segment, 24) => LogKind::Segment,
        (segment, Some("partial"), None) if is_hex(segment, 24) => LogKind::Partial,
        (timeline, Some("history"), None) if is_hex(timeline, 8) => LogKind::History,
        (segment, Some(offset), Some("backup")) if is_hex(segment, 24) && is_hex(offset, 8) => LogKind::Backup,
        _ => return None,
    };
    parts.next().is_none().then_some(kind)
}

#[cfg(test)]
mod tests {
    use super::{LogKind, LogName};

    #[test]
    fn the_four_forms_are_taken_and_come_back_and_nothing_else_is() {
        let segment = "0000000A000000010000000F";
        for (file, kind) in [
            (segment.to_owned(), LogKind::Segment),
            (format!("{segment}.partial"), LogKind::Partial),
            (format!("{segment}.00000028.backup"), LogKind::Backup),
            ("0000000A.history".to_owned(), LogKind::History),
        ] {
            let name = LogName::new(u64::MAX, &file).unwrap();
            assert_eq!((name.kind(), name.timeline(), name.file()), (kind, 10, file.as_str()));
            assert_eq!(name.segment(), (kind != LogKind::History).then_some(segment));
            assert_eq!(name.to_string(), format!("wal/18446744073709551615/0000000A/{file}"));
            assert_eq!(LogName::parse(&name.to_string()), Some(name));
        }
        let long = format!("{segment}0");
        let lower = segment.to_lowercase();
        let others = [
            "",
            ".",
            "..",
            "history",
            ".history",
            "../0000000A.history",
            "0000000A.history/",
            "0000000a.history",
            "0000000A.partial",
            "0000000A.history.partial",
            "RECOVERYXLOG",
            "pg_wal",
            &segment[1..],
            &long,
            &lower,
        ];
        for other in others {
            assert_eq!(LogName::new(1, other), None, "{other}");
        }
        for ending in
            ["", ".", ".Partial", ".partial.", ".00000028", ".0000028.backup", ".00000028.backup.backup", ".00000028.backup.x"]
        {
            let other = format!("{segment}{ending}");
            assert_eq!(LogName::new(1, &other).is_some(), ending.is_empty(), "{other}");
        }
    }

    #[test]
    fn an_object_has_one_key() {
        let key = "wal/7/0000000A/0000000A000000010000000F";
        assert!(LogName::parse(key).is_some());
        for other in [
            key.replace("/7/", "/07/"),
            key.replace("/7/", "/+7/"),
            key.replace("/7/", "/-7/"),
            key.replace("/7/", "/18446744073709551616/"),
            key.replace("/7/", "//"),
            key.replace("/0000000A/", "/0000000B/"),
            key.replace("wal/", "Wal/"),
            format!("{key}/"),
            format!("/{key}"),
        ] {
            assert_eq!(LogName::parse(&other), None, "{other}");
        }
    }
}
