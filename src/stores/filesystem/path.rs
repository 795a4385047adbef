//! Which path a key has under the root, and back.
//!
//! An ordinary key *is* its path: `2024/a.png` lies at `2024/a.png`, so a plain directory of human files is a bucket as it stands.
//! Only what a file system cannot hold, or what would collide, is written differently, always as a component that begins with `%~`:
//!
//! | component | means |
//! |---|---|
//! | `%~=TEXT` | a segment that cannot stand as it is: empty, `.`, `..`, with a NUL, beginning with `%~`, or the reserved directory's name at the top |
//! | `%~+TEXT` | a directory: the segment begins with TEXT and goes on in the next component (names have at most 255 bytes, keys 1,024) |
//! | `%~@` | within a directory: the object whose key is the directory's own path (`a` beside `a/b` lies at `a/%~@`) |
//!
//! In TEXT a NUL is `%00` and a `%` is `%25`. Nothing else is escaped. The mapping is injective: [`decode`] undoes [`key_path`],
//! and a component that [`key_path`] would not write is refused instead of read as something else.

/// The directory at the root that holds temporary files, uploads and attributes. Hidden from listings.
pub(super) const RESERVED: &str = ".farshore";

/// The name, within a directory, of the object whose key is the directory's own path.
pub(super) const OWN: &str = "%~@";

const MARK: &str = "%~";
/// Longest name that Linux's file systems take, in bytes (`NAME_MAX`).
const MAX_NAME_BYTES: usize = 255;
/// Longest TEXT of a component; leaves room for the mark.
const MAX_TEXT_BYTES: usize = 240;

/// Where a key lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KeyPath {
    /// Directories from the root down.
    pub(super) directories: Vec<String>,
    /// The file's name; if a directory has that name, the object is [`OWN`] in it.
    pub(super) name: String,
}

/// What a name in a directory stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Component {
    /// A whole segment (or the last piece of a long one).
    Segment(String),
    /// The beginning of a long segment; a directory.
    Beginning(String),
    /// [`OWN`].
    Own,
}

/// Where `key` lies.
pub(super) fn key_path(key: &str) -> KeyPath {
    let mut directories = Vec::new();
    let mut rest = key;
    while let Some((segment, after)) = rest.split_once('/') {
        push_segment(&mut directories, segment);
        rest = after;
    }
    let top = directories.is_empty();
    let last = push_beginnings(&mut directories, rest);
    KeyPath { name: whole(last, top && last.len() == rest.len()), directories }
}

/// The directories that hold every key beginning with `segments`, which is empty or ends with a slash.
pub(super) fn directory_path(segments: &str) -> Vec<String> {
    let mut directories = Vec::new();
    for segment in segments.split_terminator('/') {
        push_segment(&mut directories, segment);
    }
    directories
}

/// What `name`, found in a directory that is at the root or not, stands for; nothing if no key is ever written so.
pub(super) fn decode(name: &str, at_root: bool) -> Option<Component> {
    let Some(marked) = name.strip_prefix(MARK) else {
        return Some(Component::Segment(name.to_owned()));
    };
    let text = unescape(marked.get(1..)?)?;
    let component = match marked.as_bytes().first()? {
        b'=' if whole(&text, at_root) == name => Component::Segment(text),
        b'+' => Component::Beginning(text),
        b'@' if text.is_empty() => Component::Own,
        _ => return None,
    };
    Some(component)
}

fn push_segment(directories: &mut Vec<String>, segment: &str) {
    let top = directories.is_empty();
    let last = push_beginnings(directories, segment);
    directories.push(whole(last, top && last.len() == segment.len()));
}

/// Pushes a directory for each beginning that a long segment needs and returns the rest of it, which fits into one name.
fn push_beginnings<'a>(directories: &mut Vec<String>, segment: &'a str) -> &'a str {
    let mut rest = segment;
    while !fits(rest) {
        let mut length = 0;
        let end = rest
            .char_indices()
            .find(|(_, character)| {
                length += escaped_length(*character);
                length > MAX_TEXT_BYTES
            })
            .map_or(rest.len(), |(at, _)| at);
        let (beginning, after) = rest.split_at(end);
        directories.push(format!("{MARK}+{}", escape(beginning)));
        rest = after;
    }
    rest
}

/// Whether this text fits into one name, marked or as it is.
fn fits(text: &str) -> bool {
    let escaped: usize = text.chars().map(escaped_length).sum();
    escaped <= MAX_TEXT_BYTES || (text.len() <= MAX_NAME_BYTES && stands(text))
}

fn stands(text: &str) -> bool {
    !(text.is_empty() || text == "." || text == ".." || text.starts_with(MARK) || text.contains('\0'))
}

/// The component for a whole segment.
fn whole(text: &str, at_root: bool) -> String {
    if stands(text) && !(at_root && text == RESERVED) { text.to_owned() } else { format!("{MARK}={}", escape(text)) }
}

fn escaped_length(character: char) -> usize {
    if matches!(character, '\0' | '%') { 3 } else { character.len_utf8() }
}

fn escape(text: &str) -> String {
    text.replace('%', "%25").replace('\0', "%00")
}

fn unescape(text: &str) -> Option<String> {
    let mut pieces = text.split('%');
    let mut plain = pieces.next()?.to_owned();
    for piece in pieces {
        let (code, after) = piece.split_at_checked(2)?;
        plain.push(match code {
            "25" => '%',
            "00" => '\0',
            _ => return None,
        });
        plain.push_str(after);
    }
    Some(plain)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

    use super::{Component, KeyPath, OWN, RESERVED, decode, key_path};

    fn decoded(path: &KeyPath, name: &str) -> String {
        let mut key = String::new();
        for (depth, directory) in path.directories.iter().enumerate() {
            match decode(directory, depth == 0).unwrap() {
                Component::Segment(text) => {
                    key.push_str(&text);
                    key.push('/');
                }
                Component::Beginning(text) => key.push_str(&text),
                Component::Own => panic!("a directory is named {OWN}"),
            }
        }
        match decode(name, path.directories.is_empty()).unwrap() {
            Component::Segment(text) => key + &text,
            other => panic!("a file is named as {other:?}"),
        }
    }

    #[test]
    fn ordinary_keys_are_ordinary_paths() {
        let path = key_path("2024/übung 100%.png");
        assert_eq!(path.directories, ["2024"]);
        assert_eq!(path.name, "übung 100%.png");
    }

    #[test]
    fn names_that_no_key_is_written_as_are_refused() {
        for name in ["%~", "%~x", "%~=plain", "%~=%41", "%~=%2", "%~=.farshore"] {
            assert_eq!(decode(name, false), None, "{name}");
        }
        assert_eq!(decode("%~=.farshore", true), Some(Component::Segment(".farshore".to_owned())));
    }

    #[test]
    fn the_longest_human_name_stays_as_it_is() {
        let name = "x".repeat(255);
        assert_eq!(key_path(&name).name, name);
        assert!(key_path(&"x".repeat(256)).directories[0].starts_with("%~+"));
    }

    proptest! {
        #[test]
        fn every_key_has_a_path_of_its_own_inside_the_root(
            key in proptest::string::string_regex("([a-z]{1,3}|[./%~=+@\u{0}\u{1}]|\\.\\.|%~|\\.farshore|ü{150}|[%x]{200}){1,7}").unwrap()
        ) {
            let path = key_path(&key);
            prop_assert_eq!(&decoded(&path, &path.name), &key);
            for component in path.directories.iter().chain([&path.name]) {
                prop_assert!(component.len() <= 255 && !component.is_empty() && component != "." && component != "..");
                prop_assert!(!component.contains(['/', '\0']));
            }
            prop_assert!(path.directories.first().unwrap_or(&path.name) != RESERVED);
        }
    }
}
