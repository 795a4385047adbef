//! Values as they travel in Azure's headers: names of metadata, characters of tags, URLs of blobs.
//!
//! A metadata name must be an identifier, and a tag may hold few characters. Whatever else an object of another provider has there is
//! written as `_xHHHH_`, the code point in hexadecimal, and read back as what it was.

use percent_encoding::utf8_percent_encode;

use crate::stores::header_values::UNRESERVED;

/// A metadata name as Azure takes it.
pub(super) fn encode_name(name: &str) -> String {
    encode(name, |index, character| character == '_' || character.is_ascii_lowercase() || (index > 0 && character.is_ascii_digit()))
}

/// The name or value of a tag as Azure takes it (Microsoft's "Set Blob Tags").
pub(super) fn encode_tag(text: &str) -> String {
    encode(text, |_, character| character.is_ascii_alphanumeric() || " +-./:=_".contains(character))
}

fn encode(text: &str, fits: impl Fn(usize, char) -> bool) -> String {
    let mut encoded = String::with_capacity(text.len());
    for (index, character) in text.char_indices() {
        // Whatever looks like the beginning of an escape is one: what comes after it may complete it.
        if fits(index, character) && !text[index..].starts_with("_x") {
            encoded.push(character);
        } else {
            encoded.push_str(&format!("_x{:04x}_", u32::from(character)));
        }
    }
    encoded
}

/// The text that was meant.
pub(super) fn decode(text: &str) -> String {
    let mut decoded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(character) = rest.chars().next() {
        let (meant, length) = escape(rest).unwrap_or((character, character.len_utf8()));
        decoded.push(meant);
        rest = &rest[length..];
    }
    decoded
}

/// The character that the escape at the beginning stands for, and the escape's length.
fn escape(text: &str) -> Option<(char, usize)> {
    let (digits, _) = text.strip_prefix("_x")?.split_once('_')?;
    let fits = (4..=6).contains(&digits.len()) && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let meant = u32::from_str_radix(digits, 16).ok().filter(|_| fits).and_then(char::from_u32)?;
    Some((meant, digits.len() + 3))
}

/// A key as the path of a URL has it: its slashes are real ones, because `%2F` is another blob.
pub(super) fn encode_path(key: &str) -> String {
    utf8_percent_encode(key, UNRESERVED).to_string().replace("%2F", "/")
}

/// Why Azure cannot hold an object of this key, or not under this very name (Microsoft's "Naming containers and blobs").
pub(super) fn unfit(key: &str) -> Option<&'static str> {
    if key.split('/').any(|segment| matches!(segment, "." | "..")) {
        return Some("a URL cannot hold a segment . or ..");
    }
    if key.contains('\\') {
        return Some("Azure may read a backslash as a slash");
    }
    if key.split('/').any(|segment| segment.ends_with('.')) {
        return Some("Azure may drop a dot at the end of a segment");
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

    use super::{decode, encode_name, encode_path, encode_tag, unfit};

    #[test]
    fn what_azure_cannot_hold_is_escaped() {
        assert_eq!(encode_name("owner"), "owner");
        assert_eq!(encode_name("owner-id"), "owner_x002d_id");
        assert_eq!(encode_name("7up"), "_x0037_up");
        assert_eq!(encode_name("a_x0041_"), "a_x005f_x0041_");
        assert_eq!(encode_name("_x0000-"), "_x005f_x0000_x002d_");
        assert_eq!(decode("_x005f_x0000_x002d_"), "_x0000-");
        assert_eq!(encode_tag("attachment +/=:@ more"), "attachment +/=:_x0040_ more");
        assert_eq!(encode_path("a//b c/%"), "a//b%20c/%25");
    }

    #[test]
    fn keys_that_would_become_another_ones_are_known() {
        for key in ["..", "a/./b", "a\\b", "a./b", "a."] {
            assert!(unfit(key).is_some(), "{key}");
        }
        for key in ["...x", "a.b", ".a", "a/", "//"] {
            assert!(unfit(key).is_none(), "{key}");
        }
    }

    proptest! {
        #[test]
        fn any_name_and_any_tag_come_back(text in "\\PC*|[_x0-9a-f-]*") {
            let name = encode_name(&text);
            prop_assert!(name.bytes().all(|byte| byte == b'_' || byte.is_ascii_lowercase() || byte.is_ascii_digit()));
            prop_assert_eq!(decode(&name), text.clone());
            prop_assert_eq!(decode(&encode_tag(&text)), text);
        }
    }
}
