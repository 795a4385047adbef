//! What a file of the log is called: by the server, and as an object. Nothing but these few forms is taken, so that no name leads out of
//! its place.

use std::{fmt, ops::Range};

use super::MAX_LOG_FILE_BYTES;
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
    /// Some bytes of a segment that the server was still writing: `<24 digits>.part-<8 digits>-<8 digits>`, from and to. The server knows
    /// no such file.
    Part,
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

    /// These bytes of a segment; nothing for a range without bytes or of more than a segment may have.
    pub fn part(system: u64, segment: &str, range: &Range<u64>) -> Option<Self> {
        let is_one = is_hex(segment, 24) && range.start < range.end && range.end <= MAX_LOG_FILE_BYTES;
        is_one.then(|| Self { system, file: format!("{segment}.part-{:08X}-{:08X}", range.start, range.end), kind: LogKind::Part })
    }

    /// Reads the key of an object; nothing for one that is none, or is written in another way than ours.
    pub fn parse(key: &str) -> Option<Self> {
        let mut parts = key.strip_prefix(LOG)?.splitn(3, '/');
        let (system, _, file) = (parts.next()?, parts.next()?, parts.next()?);
        let system = system.parse().ok()?;
        let name = Self::new(system, file).or_else(|| {
            let (segment, range) = file.split_once('.')?;
            Self::part(system, segment, &range_of(range)?)
        })?;
        (name.to_string() == key).then_some(name)
    }

    /// Which bytes of its segment a part has.
    pub fn range(&self) -> Option<Range<u64>> {
        range_of(self.file.split_once('.')?.1)
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

/// Reads `part-<from>-<to>`.
fn range_of(text: &str) -> Option<Range<u64>> {
    let (from, to) = text.strip_prefix("part-")?.split_once('-')?;
    let number = |text: &str| is_hex(text, 8).then(|| u64::from_str_radix(text, 16).ok())?;
    Some(number(from)?..number(to)?)
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
    fn a_part_is_an_object_and_no_file_of_a_server() {
        let segment = "0000000A000000010000000F";
        let key = format!("wal/7/0000000A/{segment}.part-0000002A-00FFFFFF");
        let name = LogName::part(7, segment, &(42..0xFF_FFFF)).unwrap();
        assert_eq!(
            (name.to_string(), name.kind(), name.segment(), name.timeline()),
            (key.clone(), LogKind::Part, Some(segment), 10)
        );
        assert_eq!((LogName::parse(&key), name.range()), (Some(name.clone()), Some(42..0xFF_FFFF)));
        assert_eq!(LogName::new(7, name.file()), None);
        assert_eq!(LogName::new(7, segment).unwrap().range(), None);
        let most = 128 << 20;
        assert!(LogName::part(7, segment, &(0..most)).is_some());
        for hostile in [5..5, std::ops::Range { start: 6, end: 5 }, 0..0, 0..most + 1, most..most + 1, u64::MAX - 1..u64::MAX] {
            assert_eq!(LogName::part(7, segment, &hostile), None, "{hostile:?}");
        }
        for (from, to) in [
            ("0000002A-00FFFFFF", "00000000-00000000"),
            ("0000002A-00FFFFFF", "00FFFFFF-0000002A"),
            ("0000002A-00FFFFFF", "0000002A-08000001"),
            ("0000002A-00FFFFFF", "0000002A-FFFFFFFF"),
            ("00FFFFFF", "00ffffff"),
            ("-00FFFFFF", ""),
            ("00FFFFFF", "00FFFFFF-00FFFFFF"),
            ("0000002A", "000000002A"),
            ("0000002A", "+000002A"),
            (".part", ".Part"),
            (".part", ".partial.part"),
            (".part", ""),
        ] {
            let other = key.replace(from, to);
            assert_eq!(LogName::parse(&other), None, "{other}");
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
