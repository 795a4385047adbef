//! Values as they travel in headers of requests, alike for all stores that speak HTTP: RFC 2047 words, tags, ETags, ranges.

use std::{collections::BTreeMap, ops::Range};

use base64::{Engine, engine::general_purpose::STANDARD};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// What a URL may hold unescaped anywhere (RFC 3986, 2.3).
pub(super) const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A metadata value as a header may hold it: ASCII as it is, anything else as an RFC 2047 encoded word, as S3 itself answers.
pub(super) fn encode_value(value: &str) -> String {
    let plain = value.bytes().all(|byte| (0x20..0x7f).contains(&byte)) && value.trim() == value && !value.contains("=?");
    if plain { value.to_owned() } else { format!("=?UTF-8?B?{}?=", STANDARD.encode(value)) }
}

/// A metadata value as it was meant: encoded words decoded, everything else as it is.
pub(super) fn decode_value(value: &str) -> String {
    let mut decoded: Vec<u8> = Vec::new();
    let mut rest = value;
    let mut after_word = false;
    while let Some(start) = rest.find("=?") {
        let Some((word, length)) = encoded_word(&rest[start..]) else {
            decoded.extend_from_slice(&rest.as_bytes()[..start + 2]);
            rest = &rest[start + 2..];
            after_word = false;
            continue;
        };
        // White space between two encoded words is not part of the value (RFC 2047, 6.2).
        if !(after_word && rest[..start].trim().is_empty()) {
            decoded.extend_from_slice(&rest.as_bytes()[..start]);
        }
        decoded.extend_from_slice(&word);
        rest = &rest[start + length..];
        after_word = true;
    }
    decoded.extend_from_slice(rest.as_bytes());
    String::from_utf8(decoded).unwrap_or_else(|_| value.to_owned())
}

/// The bytes of the encoded word that `text` begins with, and its length. Only UTF-8, as S3 has it.
fn encoded_word(text: &str) -> Option<(Vec<u8>, usize)> {
    let mut fields = text.strip_prefix("=?")?.splitn(3, '?');
    let (charset, encoding, rest) = (fields.next()?, fields.next()?, fields.next()?);
    let (body, _) = rest.split_once("?=")?;
    if !charset.eq_ignore_ascii_case("utf-8") {
        return None;
    }
    let bytes = match encoding {
        "B" | "b" => STANDARD.decode(body).ok()?,
        "Q" | "q" => quoted(body)?,
        _ => return None,
    };
    Some((bytes, 2 + charset.len() + 1 + encoding.len() + 1 + body.len() + 2))
}

fn quoted(body: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(body.len());
    let mut rest = body.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'_' => b' ',
            b'=' => {
                let high = char::from(rest.next()?).to_digit(16)?;
                let low = char::from(rest.next()?).to_digit(16)?;
                u8::try_from(high * 16 + low).ok()?
            }
            other => other,
        });
    }
    Some(bytes)
}

/// Tags as the headers `x-amz-tagging` and `x-ms-tags` want them; `None` if there are none.
pub(super) fn encode_tags(tags: &BTreeMap<String, String>) -> Option<String> {
    let pairs: Vec<_> = tags
        .iter()
        .map(|(name, value)| format!("{}={}", utf8_percent_encode(name, UNRESERVED), utf8_percent_encode(value, UNRESERVED)))
        .collect();
    (!pairs.is_empty()).then(|| pairs.join("&"))
}

/// An ETag without its quotes.
pub(super) fn plain_etag(etag: Option<&str>) -> String {
    etag.unwrap_or_default().trim_matches('"').to_owned()
}

/// A range as HTTP writes it, its end included. Ends beyond any object are left out: some servers read them as negative.
pub(super) fn range_header(range: &Range<u64>) -> String {
    if range.end > 1 << 62 { format!("bytes={}-", range.start) } else { format!("bytes={}-{}", range.start, range.end - 1) }
}

/// Start, end (exclusive) and whole size of `bytes 0-9/100`.
pub(super) fn content_range(header: &str) -> Option<(u64, u64, u64)> {
    let (range, size) = header.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last, size) = (first.parse().ok()?, last.parse::<u64>().ok()?, size.parse().ok()?);
    (first <= last && last < size).then(|| (first, last + 1, size))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

    use super::{content_range, decode_value, encode_value, range_header};

    #[test]
    fn both_encodings_of_rfc_2047_are_read() {
        assert_eq!(decode_value("=?UTF-8?Q?Gr=C3=BC=C3=9Fe_2?="), "Grüße 2");
        assert_eq!(decode_value("=?utf-8?b?R3LDvMOfZQ==?= =?UTF-8?Q?=21?="), "Grüße!");
        assert_eq!(decode_value("a =?UTF-8?Q?=C3=BC?= b"), "a ü b");
        assert_eq!(decode_value("=?ISO-8859-1?Q?=FC?="), "=?ISO-8859-1?Q?=FC?=");
        assert_eq!(decode_value("what=?UTF-8?"), "what=?UTF-8?");
    }

    proptest! {
        #[test]
        fn any_value_survives_a_header(value in "\\PC*|[ =?UTF8Bq_\n]*") {
            let header = encode_value(&value);
            prop_assert!(header.bytes().all(|byte| (0x20..0x7f).contains(&byte)));
            prop_assert_eq!(decode_value(&header), value);
        }
    }

    #[test]
    fn ranges_are_written_and_read_as_http_has_them() {
        assert_eq!(range_header(&(0..10)), "bytes=0-9");
        assert_eq!(range_header(&(5..u64::MAX)), "bytes=5-");
        assert_eq!(content_range("bytes 0-9/100"), Some((0, 10, 100)));
        for wrong in ["bytes */100", "bytes 9-0/100", "bytes 0-100/100", "items 0-9/100", ""] {
            assert_eq!(content_range(wrong), None, "{wrong}");
        }
    }
}
