//! Names and literals as SQL wants them, and as paths of entries.

use std::fmt::Write as _;

/// A quoted identifier; always quoted, so that no keyword of a newer server changes its meaning.
pub(super) fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// `"schema"."name"`.
pub(super) fn qualified(schema: &str, name: &str) -> String {
    format!("{}.{}", identifier(schema), identifier(name))
}

/// A string literal that means the same whatever `standard_conforming_strings` says.
pub(super) fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') { format!("E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
}

/// A list of quoted identifiers.
pub(super) fn identifiers<S: AsRef<str>>(names: &[S]) -> String {
    names.iter().map(|name| identifier(name.as_ref())).collect::<Vec<_>>().join(", ")
}

/// One level of an entry's path: `/`, `%` and control characters are escaped as in URLs; everything else stands for itself.
pub(super) fn path_level(name: &str) -> String {
    let mut level = String::with_capacity(name.len());
    for character in name.chars() {
        match character {
            '/' | '%' | '\0'..='\x1f' | '\x7f' => {
                // Writing into a String cannot fail.
                let _ = write!(level, "%{:02X}", u32::from(character));
            }
            other => level.push(other),
        }
    }
    level
}

/// `name=value` of `pg_db_role_setting` as the tail of a `SET`. Lists of quoted names (`search_path` and its like) must be written
/// element by element: as one literal they would become one name that holds commas.
pub(super) fn setting(assignment: &str) -> Option<String> {
    const LISTS: [&str; 6] = [
        "local_preload_libraries",
        "search_path",
        "session_preload_libraries",
        "shared_preload_libraries",
        "temp_tablespaces",
        "unix_socket_directories",
    ];
    let (name, value) = assignment.split_once('=')?;
    let written = if LISTS.contains(&name.to_ascii_lowercase().as_str()) {
        let elements = list_elements(value);
        if elements.is_empty() {
            "''".to_owned()
        } else {
            elements.iter().map(|element| literal(element)).collect::<Vec<_>>().join(", ")
        }
    } else {
        literal(value)
    };
    // Extensions' settings have a dotted name; each part is quoted by itself.
    let name = name.split('.').map(identifier).collect::<Vec<_>>().join(".");
    Some(format!("{name} TO {written}"))
}

/// The elements of a setting that is a list of names.
pub(super) fn list_elements(value: &str) -> Vec<String> {
    let mut elements = Vec::new();
    let mut rest = value.trim_start();
    while !rest.is_empty() {
        let mut element = String::new();
        if let Some(quoted) = rest.strip_prefix('"') {
            let mut characters = quoted.char_indices().peekable();
            let mut end = quoted.len();
            while let Some((at, character)) = characters.next() {
                if character != '"' {
                    element.push(character);
                } else if characters.next_if(|(_, next)| *next == '"').is_some() {
                    element.push('"');
                } else {
                    end = at + 1;
                    break;
                }
            }
            rest = &quoted[end..];
        } else {
            let end = rest.find(',').unwrap_or(rest.len());
            element.push_str(rest[..end].trim_end());
            rest = &rest[end..];
        }
        elements.push(element);
        rest = rest.trim_start().trim_start_matches(',').trim_start();
    }
    elements
}

#[cfg(test)]
mod tests {
    use super::{identifier, literal, path_level, setting};

    #[test]
    fn names_with_quotes_stay_one_name() {
        assert_eq!(identifier("a\"b"), "\"a\"\"b\"");
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal("back\\slash"), "E'back\\\\slash'");
    }

    #[test]
    fn a_slash_in_a_name_does_not_make_a_level() {
        assert_eq!(path_level("a/b%c\n"), "a%2Fb%25c%0A");
        assert_eq!(path_level("Größe"), "Größe");
    }

    #[test]
    fn a_search_path_stays_a_list_of_names() {
        assert_eq!(setting("search_path=\"$user\", public, \"a,\"\"b\"").unwrap(), "\"search_path\" TO '$user', 'public', 'a,\"b'");
        assert_eq!(setting("search_path=").unwrap(), "\"search_path\" TO ''");
        assert_eq!(setting("work_mem=64MB").unwrap(), "\"work_mem\" TO '64MB'");
        assert_eq!(setting("my.thing=a, b").unwrap(), "\"my\".\"thing\" TO 'a, b'");
    }
}
