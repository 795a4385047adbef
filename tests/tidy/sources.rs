//! The project's files, and the rules that each stands under by itself: names of modules, imports, length, what must not be
//! shipped.

use std::path::{Path, PathBuf};

use crate::{
    Rule, Violation,
    tokens::{Token, tokens},
};

/// Longest file, in lines, that needs no reason.
pub(crate) const LINES_WITHOUT_A_REASON: usize = 600;

/// Begins the line, in a longer file's header, that gives the reason.
pub(crate) const REASON: &str = "//! Long because: ";

/// Names that say nothing of what a module is about.
const EMPTY_NAMES: &[&str] = &["util", "utils", "common", "helper", "helpers", "misc"];

/// A file as read.
pub(crate) struct SourceFile {
    /// From the repository's root.
    pub(crate) path: PathBuf,
    pub(crate) text: String,
}

impl SourceFile {
    pub(crate) fn violation(&self, line: usize, rule: Rule, message: impl Into<String>) -> Violation {
        Violation { path: self.path.clone(), line, rule, message: message.into() }
    }

    /// The module it is, from the crate's root, if it lies in `src/`: empty for `lib.rs` and `main.rs`.
    pub(crate) fn module(&self) -> Option<Vec<String>> {
        let inside = self.path.strip_prefix("src").ok()?.with_extension("");
        let mut module: Vec<String> = inside.iter().map(|part| part.to_string_lossy().into_owned()).collect();
        if module.len() == 1 && (module[0] == "lib" || module[0] == "main") || module.last().is_some_and(|name| name == "mod") {
            module.pop();
        }
        Some(module)
    }
}

/// The files below `directories` of `root` whose name ends in one of `endings`, sorted.
pub(crate) fn files(root: &Path, directories: &[&str], endings: &[&str]) -> Vec<SourceFile> {
    let mut found = Vec::new();
    for directory in directories {
        for entry in ignore::WalkBuilder::new(root.join(directory)).hidden(false).build() {
            let entry = entry.unwrap_or_else(|error| panic!("{directory} can be walked: {error}"));
            let path = entry.path();
            if path.is_file() && endings.iter().any(|ending| path.to_string_lossy().ends_with(ending)) {
                // Golden repositories and the like are bytes, not text.
                let Ok(text) = std::fs::read_to_string(path) else { continue };
                let path = path.strip_prefix(root).expect("what is found below the root begins with it").to_owned();
                found.push(SourceFile { path, text });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// The rules of Rust files.
pub(crate) fn check(files: &[SourceFile]) -> Vec<Violation> {
    let mut found = Vec::new();
    for file in files {
        let tokens = tokens(&file.text);
        check_length(file, &mut found);
        check_names(file, &tokens, &mut found);
        check_globs(file, &tokens, &mut found);
        check_words(file, &tokens, &mut found);
    }
    found
}

fn check_length(file: &SourceFile, found: &mut Vec<Violation>) {
    let lines = file.text.lines().count();
    let reason = file.text.lines().find_map(|line| line.strip_prefix(REASON));
    if lines > LINES_WITHOUT_A_REASON && reason.is_none_or(|reason| reason.trim().len() < 10) {
        found.push(file.violation(
            lines,
            Rule::Length,
            format!("{lines} lines, over {LINES_WITHOUT_A_REASON}: split it by subject, or state why not in its header: {REASON}…"),
        ));
    }
}

fn check_names(file: &SourceFile, tokens: &[Token], found: &mut Vec<Violation>) {
    let mut complain = |line, name: &str| {
        let message = format!("a module called '{name}' says nothing of its subject: name it after what it is about");
        found.push(file.violation(line, Rule::Names, message));
    };
    for part in file.path.with_extension("").iter().map(|part| part.to_string_lossy()) {
        if EMPTY_NAMES.contains(&part.as_ref()) {
            complain(1, &part);
        }
    }
    for pair in tokens.windows(3) {
        if pair[0].text == "mod" && pair[2].text == "{" && EMPTY_NAMES.contains(&pair[1].text.as_str()) {
            complain(pair[1].line, &pair[1].text);
        }
    }
}

fn check_globs(file: &SourceFile, tokens: &[Token], found: &mut Vec<Violation>) {
    let mut importing = false;
    for (at, token) in tokens.iter().enumerate() {
        match token.text.as_str() {
            // `use<'a>` in a type is a capture, not an import.
            "use" => importing = tokens.get(at + 1).is_some_and(|next| next.text != "<"),
            ";" => importing = false,
            "*" if importing => {
                found.push(file.violation(token.line, Rule::Globs, "a glob import hides what is used: name it"));
            }
            _ => {}
        }
    }
}

fn check_words(file: &SourceFile, tokens: &[Token], found: &mut Vec<Violation>) {
    let text = |at: usize| tokens.get(at).map_or("", |token| token.text.as_str());
    let shipped = file.path.starts_with("src") && file.path != Path::new("src/clock.rs");
    for (at, token) in tokens.iter().enumerate() {
        match token.text.as_str() {
            "todo" | "unimplemented" if text(at + 1) == "!" => {
                let message =
                    format!("{}! is a hole that someone falls into at night: write it, or leave the feature out", token.text);
                found.push(file.violation(token.line, Rule::Unfinished, message));
            }
            "ignore" if text(at.wrapping_sub(1)) == "[" && text(at.wrapping_sub(2)) == "#" => {
                let message = "an ignored test is a skipped one: run it, or take it out".to_owned();
                found.push(file.violation(token.line, Rule::Unfinished, message));
            }
            "Utc" | "Local" | "SystemTime" | "Instant" if shipped && text(at + 1) == "::" && text(at + 2) == "now" => {
                let message =
                    format!("{}::now() outside src/clock.rs: have a SharedClock handed in, so that a test can set it", token.text);
                found.push(file.violation(token.line, Rule::Clock, message));
            }
            _ => {}
        }
    }
}

/// Refuses what looks like a real key in any text of the project. Golden repositories need their identity, and are left out.
pub(crate) fn check_secrets(files: &[SourceFile]) -> Vec<Violation> {
    let mut found = Vec::new();
    for file in files.iter().filter(|file| !file.path.starts_with("tests/golden")) {
        for (index, line) in file.text.lines().enumerate() {
            if let Some(kind) = secret(line) {
                let message = format!(
                    "this looks like {kind}: make it when it is needed, or refer to a file, an environment variable or a credential"
                );
                found.push(file.violation(index + 1, Rule::Secrets, message));
            }
        }
    }
    found
}

fn secret(line: &str) -> Option<&'static str> {
    let run = |after: &str, length: usize| {
        line.split(after).skip(1).any(|rest| {
            let word: String = rest.chars().take_while(|c| c.is_ascii_uppercase() || c.is_ascii_digit()).collect();
            // Providers' documentation marks its sample keys so.
            word.len() >= length && !word.ends_with("EXAMPLE")
        })
    };
    if run(concat!("AGE-SECRET-", "KEY-1"), 50) {
        return Some("an age identity");
    }
    if run(concat!("AK", "IA"), 16) || run(concat!("AS", "IA"), 16) {
        return Some("an AWS access key");
    }
    (line.contains(concat!("-----BEG", "IN ")) && line.contains(concat!("PRIVATE ", "KEY-----"))).then_some("a private key")
}
