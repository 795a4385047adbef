//! Which room may use which: `ARCHITECTURE.md`'s table, read against every path in `src/` that leads from one room to another
//! (`use crate::…`, grouped or not, `crate::…` within an expression, `super::…` that climbs out).

use std::path::Path;

use crate::{
    Rule, Violation,
    sources::SourceFile,
    tokens::{Token, tokens},
};

/// A room and those it may use, in order of dependency.
pub(crate) const TABLE: &[(&str, &[&str])] = &[
    ("clock", &[]),
    ("policy", &[]),
    ("report", &[]),
    ("progress", &["report"]),
    ("stores", &["clock", "progress"]),
    ("repository", &["clock", "progress", "stores"]),
    ("sources", &["clock", "progress", "stores"]),
    ("operations", &["clock", "policy", "progress", "report", "repository", "sources", "stores"]),
    ("cli", &["clock", "operations", "policy", "progress", "report", "repository", "sources", "stores"]),
];

/// `operations` sees the trait [`Store`] and never which store it is; `cli` assembles them.
const STORES_OF_A_KIND: &[&str] = &["azure", "filesystem", "s3"];

/// Refuses paths that lead where the table does not allow, and rooms that are not in it.
pub(crate) fn check(files: &[SourceFile]) -> Vec<Violation> {
    let mut found = Vec::new();
    for file in files {
        let Some(module) = file.module() else { continue };
        // The crate's root (lib.rs, main.rs) assembles; everything else lies in a room.
        let Some(room) = module.first().cloned() else { continue };
        let Some((_, allowed)) = TABLE.iter().find(|(name, _)| *name == room) else {
            found.push(file.violation(
                1,
                Rule::Rooms,
                format!("room '{room}' has no row in the table of tests/tidy/rooms.rs: decide what it may use, there and in ARCHITECTURE.md"),
            ));
            continue;
        };
        for (line, path) in paths(&file.text, &module) {
            let Some(target) = path.first().filter(|target| TABLE.iter().any(|(name, _)| name == target)) else { continue };
            if *target != room && !allowed.contains(&target.as_str()) {
                let may = if allowed.is_empty() { "nothing of ours".to_owned() } else { allowed.join(", ") };
                found.push(file.violation(
                    line,
                    Rule::Rooms,
                    format!(
                        "{room} uses {}, and may use {may}: move what is shared down, or hand it in from above",
                        path.join("::")
                    ),
                ));
            }
            if room == "operations"
                && target == "stores"
                && path.get(1).is_some_and(|kind| STORES_OF_A_KIND.contains(&kind.as_str()))
            {
                found.push(file.violation(
                    line,
                    Rule::Rooms,
                    format!("operations names {}: take a SharedStore, and let cli decide which it is", path.join("::")),
                ));
            }
        }
    }
    found
}

/// Every path in `text`, a file of module `module`, that starts at the crate's root or climbs: from the root, with its line.
pub(crate) fn paths(text: &str, module: &[String]) -> Vec<(usize, Vec<String>)> {
    let tokens = tokens(text);
    let mut found = Vec::new();
    // Modules within the file, with the depth of braces at which each ends.
    let mut inline: Vec<(String, usize)> = Vec::new();
    let mut depth = 0_usize;
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        let text = |ahead: usize| tokens.get(at + ahead).map_or("", |token| token.text.as_str());
        match token.text.as_str() {
            "mod" if text(2) == "{" => {
                depth += 1;
                inline.push((text(1).to_owned(), depth));
                at += 3;
                continue;
            }
            "{" => depth += 1,
            "}" => {
                if inline.last().is_some_and(|(_, ends)| *ends == depth) {
                    inline.pop();
                }
                depth = depth.saturating_sub(1);
            }
            "crate" | "super" if text(1) == "::" => {
                let mut here: Vec<String> = module.to_vec();
                here.extend(inline.iter().map(|(name, _)| name.clone()));
                at = tree(&tokens, at, here, &mut found);
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    found
}

/// Reads one path, or a tree of them in braces, from `tokens[at]`, and returns where it ends. `prefix` is what stands before it
/// (at its start: the module that it is written in, out of which `super` climbs).
fn tree(tokens: &[Token], mut at: usize, mut prefix: Vec<String>, found: &mut Vec<(usize, Vec<String>)>) -> usize {
    let line = tokens.get(at).map_or(0, |token| token.line);
    while let Some(token) = tokens.get(at) {
        match token.text.as_str() {
            "crate" => prefix.clear(),
            "super" => {
                prefix.pop();
            }
            "self" => {}
            "{" => {
                at += 1;
                while tokens.get(at).is_some_and(|token| token.text != "}") {
                    if tokens[at].text == "," {
                        at += 1;
                    } else {
                        let before = at;
                        at = tree(tokens, at, prefix.clone(), found).max(before + 1);
                    }
                }
                return at + 1;
            }
            _ if token.is_name() => prefix.push(token.text.clone()),
            _ => break,
        }
        at += 1;
        match tokens.get(at).map(|token| token.text.as_str()) {
            Some("::") => at += 1,
            Some("as") => {
                at += 2;
                break;
            }
            _ => break,
        }
    }
    found.push((line, prefix));
    at
}

/// Rooms in an order in which each stands after all it uses, or the rooms that are left over because they lie on a cycle.
pub(crate) fn order<'a>(table: &[(&'a str, &'a [&'a str])]) -> Result<Vec<&'a str>, Vec<&'a str>> {
    let mut ordered: Vec<&str> = Vec::new();
    loop {
        let left: Vec<_> = table.iter().filter(|(name, _)| !ordered.contains(name)).collect();
        if left.is_empty() {
            return Ok(ordered);
        }
        match left.iter().find(|(_, uses)| uses.iter().all(|used| ordered.contains(used))) {
            Some((name, _)) => ordered.push(name),
            None => return Err(left.iter().map(|(name, _)| *name).collect()),
        }
    }
}

/// The rooms that `src/` really has.
pub(crate) fn rooms(root: &Path) -> Vec<String> {
    let mut rooms: Vec<String> = std::fs::read_dir(root.join("src"))
        .expect("src/ can be read")
        .map(|entry| entry.expect("src/ can be read").file_name().to_string_lossy().trim_end_matches(".rs").to_owned())
        .filter(|name| name != "lib" && name != "main")
        .collect();
    rooms.sort();
    rooms
}

#[cfg(test)]
mod tests {
    use super::{TABLE, order, paths};

    fn seen(text: &str, module: &str) -> Vec<String> {
        let module: Vec<String> = module.split("::").map(str::to_owned).collect();
        paths(text, &module).into_iter().map(|(line, path)| format!("{line} {}", path.join("::"))).collect()
    }

    #[test]
    fn grouped_nested_and_renamed_imports_are_all_seen() {
        let text = "use crate::{\n  clock::SharedClock,\n  stores::{error::{A, B as C}, self},\n};\npub use crate::report as r;";
        let expected = ["2 clock::SharedClock", "3 stores::error::A", "3 stores::error::B", "3 stores", "5 report"];
        assert_eq!(seen(text, "sources"), expected);
    }

    #[test]
    fn paths_in_expressions_types_and_macros_are_seen() {
        let text = "fn f(x: &crate::cli::Flags) -> Vec<crate::policy::Policy> { vec![crate::operations::backup::run::<u8>(x)] }";
        assert_eq!(seen(text, "stores::s3"), ["1 cli::Flags", "1 policy::Policy", "1 operations::backup::run"]);
    }

    #[test]
    fn climbing_out_with_super_is_resolved_from_where_it_is_written() {
        assert_eq!(seen("use super::super::operations::X;", "stores::s3"), ["1 operations::X"]);
        assert_eq!(seen("use super::StoreError;", "stores::s3"), ["1 stores::StoreError"]);
        let nested = "mod tests {\n use super::super::error::E;\n fn f() {} }\nuse super::super::cli;";
        assert_eq!(seen(nested, "stores::s3"), ["2 stores::error::E", "4 cli"]);
    }

    #[test]
    fn visibility_is_no_use() {
        assert_eq!(seen("pub(crate) fn f() {} pub(super) fn g() {}", "stores::s3"), Vec::<String>::new());
    }

    #[test]
    fn the_table_itself_has_no_cycle() {
        assert_eq!(order(TABLE).map(|ordered| ordered.len()), Ok(TABLE.len()));
    }

    #[test]
    fn a_cycle_in_a_table_is_found() {
        assert_eq!(order(&[("a", &["b"][..]), ("b", &["c"]), ("c", &["b"]), ("d", &[])]), Err(vec!["a", "b", "c"]));
    }
}
