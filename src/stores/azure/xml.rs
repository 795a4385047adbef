//! Azure's XML as a tree, with every character of its texts: keys may begin or end with white space, which decoders of types drop.

use percent_encoding::percent_decode_str;
use quick_xml::{Reader, escape::resolve_predefined_entity, events::Event};

/// Azure's documents are three to six elements deep; a hostile one may be deeper.
const MOST_DEPTH: usize = 16;

/// An element.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Element {
    pub(super) name: String,
    /// Of a listed name that XML cannot hold: its text is percent-encoded.
    encoded: bool,
    text: String,
    children: Vec<Element>,
}

impl Element {
    /// The first child of that name.
    pub(super) fn child(&self, name: &str) -> Option<&Self> {
        self.children.iter().find(|child| child.name == name)
    }

    /// The text of the first child of that name, unless it is empty.
    pub(super) fn text_of(&self, name: &str) -> Option<&str> {
        self.child(name).map(|child| child.text.as_str()).filter(|text| !text.is_empty())
    }

    /// The children of a child of that name.
    pub(super) fn children_of(&self, name: &str) -> &[Self] {
        self.child(name).map_or(&[], |child| &child.children)
    }

    /// The text as it was meant; `None` if it is not UTF-8.
    pub(super) fn plain(&self) -> Option<String> {
        if !self.encoded {
            return Some(self.text.clone());
        }
        percent_decode_str(&self.text).decode_utf8().ok().map(|text| text.into_owned())
    }
}

/// Reads a document's outermost element; `None` if it is none.
pub(super) fn read(document: &[u8]) -> Option<Element> {
    let document = document.strip_prefix(b"\xef\xbb\xbf").unwrap_or(document);
    let mut reader = Reader::from_reader(document);
    let mut open: Vec<Element> = Vec::new();
    loop {
        match reader.read_event().ok()? {
            Event::Start(start) => {
                let name = std::str::from_utf8(start.local_name().into_inner()).ok()?.to_owned();
                let encoded = start.try_get_attribute("Encoded").ok()?.is_some_and(|value| *value.value == *b"true");
                open.push(Element { name, encoded, ..Element::default() });
                if open.len() > MOST_DEPTH {
                    return None;
                }
            }
            Event::Empty(empty) => {
                let name = std::str::from_utf8(empty.local_name().into_inner()).ok()?.to_owned();
                open.last_mut()?.children.push(Element { name, ..Element::default() });
            }
            Event::End(_) => {
                let done = open.pop()?;
                match open.last_mut() {
                    Some(parent) => parent.children.push(done),
                    None => return Some(done),
                }
            }
            Event::Text(text) => {
                if let Some(element) = open.last_mut() {
                    element.text.push_str(std::str::from_utf8(&text).ok()?);
                }
            }
            Event::CData(text) => open.last_mut()?.text.push_str(std::str::from_utf8(&text).ok()?),
            Event::GeneralRef(reference) => {
                let element = open.last_mut()?;
                match reference.resolve_char_ref().ok()? {
                    Some(character) => element.text.push(character),
                    None => element.text.push_str(resolve_predefined_entity(std::str::from_utf8(&reference).ok()?)?),
                }
            }
            Event::Eof => return None,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::read;

    #[test]
    fn texts_keep_every_character() {
        let document =
            b"\xef\xbb\xbf<?xml version=\"1.0\"?><A><B><Name> a&amp;&#xfc; </Name><Name Encoded=\"true\">%0A%25</Name><N/></B></A>";
        let root = read(document).unwrap();
        let names: Vec<_> = root.children_of("B").iter().map(|name| name.plain().unwrap()).collect();
        assert_eq!(names, [" a&ü ", "\n%", ""]);
    }

    #[test]
    fn what_is_no_document_is_nothing() {
        for document in ["", "<A>", "text", "<A><B></A>", "<A>&unknown;</A>", &"<A>".repeat(100_000)] {
            assert_eq!(read(document.as_bytes()), None, "{document:.20}");
        }
    }
}
