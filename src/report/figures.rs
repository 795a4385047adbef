//! Figures and words as people read them.

use bytesize::ByteSize;
use chrono::{DateTime, SecondsFormat, Utc};

/// What the terminal can show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// UTF-8.
    Unicode,
    /// Nothing beyond ASCII may be relied on.
    Ascii,
}

impl Look {
    /// By the locale: the first of `LC_ALL`, `LC_CTYPE`, `LANG` that is set and not empty.
    pub fn of_locale(locale: Option<&str>) -> Self {
        let locale = locale.unwrap_or_default().to_ascii_lowercase();
        if locale.contains("utf-8") || locale.contains("utf8") { Self::Unicode } else { Self::Ascii }
    }

    /// `✓`, or `ok`.
    pub fn ok(self) -> &'static str {
        match self {
            Self::Unicode => "✓",
            Self::Ascii => "ok",
        }
    }

    /// `✗`, or `FAILED`.
    pub fn failed(self) -> &'static str {
        match self {
            Self::Unicode => "✗",
            Self::Ascii => "FAILED",
        }
    }

    /// `·`, or `note`.
    pub fn note(self) -> &'static str {
        match self {
            Self::Unicode => "·",
            Self::Ascii => "note",
        }
    }
}

/// Bytes with a binary unit: `1.5 GiB`.
pub fn bytes(count: u64) -> String {
    ByteSize(count).display().iec().to_string()
}

/// A count in groups of three: `1,234,567`.
pub fn count(count: u64) -> String {
    let digits = count.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// A count and what was counted, in its singular: `1 pack`, `1,200 packs`, `2 indexes`.
pub fn counted(number: u64, one: &str) -> String {
    let ending = match number {
        1 => "",
        _ if one.ends_with('x') => "es",
        _ => "s",
    };
    format!("{} {one}{ending}", count(number))
}

/// Seconds as a person says them: `0.4 s`, `12.3 s`, `5 min 12 s`, `26 h 40 min`, `3 d 2 h`. Below zero (two clocks that differ)
/// it says so.
pub fn seconds(seconds: f64) -> String {
    if !seconds.is_finite() {
        return "unknown".to_owned();
    }
    if seconds < 0.0 {
        return format!("-{}", self::seconds(-seconds));
    }
    if seconds < 59.95 {
        return format!("{seconds:.1} s");
    }
    // Far below 2^53, and a saturating cast beyond.
    let whole = seconds.round() as u64;
    let (days, hours, minutes) = (whole / 86_400, whole / 3600, whole / 60);
    let (large, small, large_unit, small_unit) = if days >= 2 {
        (days, whole % 86_400 / 3600, "d", "h")
    } else if hours >= 1 {
        (hours, whole % 3600 / 60, "h", "min")
    } else {
        (minutes, whole % 60, "min", "s")
    };
    if small == 0 { format!("{large} {large_unit}") } else { format!("{large} {large_unit} {small} {small_unit}") }
}

/// A time as reports write it: `2026-11-23 02:00:03 UTC`.
pub fn timestamp(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true).replace('T', " ").replace('Z', " UTC")
}

/// A text from outside without control characters (an object key may hold an escape sequence, and a terminal would obey it).
pub fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|letter| {
            // The second group turns the direction of writing around, which hides what a name is.
            let harmful = letter.is_control()
                || matches!(letter, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
            let (escaped, plain) = if harmful { (Some(letter.escape_default()), None) } else { (None, Some(letter)) };
            escaped.into_iter().flatten().chain(plain)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{Look, bytes, count, counted, printable, seconds};

    #[test]
    fn durations_read_as_a_person_says_them() {
        let said: Vec<_> =
            [0.0, 0.44, 12.34, 59.96, 312.4, 3600.0, 96_000.0, 266_400.0, -5.0, f64::NAN].into_iter().map(seconds).collect();
        assert_eq!(said, ["0.0 s", "0.4 s", "12.3 s", "1 min", "5 min 12 s", "1 h", "26 h 40 min", "3 d 2 h", "-5.0 s", "unknown"]);
    }

    #[test]
    fn counts_are_grouped_and_bytes_have_units() {
        assert_eq!([0, 12, 999, 1000, 1_234_567].map(count), ["0", "12", "999", "1,000", "1,234,567"]);
        assert_eq!([0, 1, 1200].map(|number| counted(number, "pack")), ["0 packs", "1 pack", "1,200 packs"]);
        assert_eq!([1, 2].map(|number| counted(number, "index")), ["1 index", "2 indexes"]);
        assert_eq!([0, 1023, 1536, 5 << 30].map(bytes), ["0 B", "1023 B", "1.5 KiB", "5.0 GiB"]);
    }

    #[test]
    fn control_characters_in_names_do_not_reach_a_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\nc\u{202e}é"), "a\\u{1b}[2Jb\\nc\\u{202e}é");
    }

    #[test]
    fn marks_are_words_where_the_locale_is_not_utf_8() {
        assert_eq!(Look::of_locale(Some("C.UTF-8")).ok(), "✓");
        assert_eq!(Look::of_locale(Some("en_GB.utf8")).failed(), "✗");
        assert_eq!(Look::of_locale(Some("C")).failed(), "FAILED");
        assert_eq!(Look::of_locale(None).ok(), "ok");
    }
}
