//! The house rules, read from the files themselves: which room may use which, what files may be called and how long they are, and
//! whether the documents tell the truth. Each rule is also seen to refuse: the planted faults are in `planted.rs`.

mod documents;
#[cfg(test)] // which it always is: said so that clippy takes its helpers for tests
mod planted;
mod rooms;
mod sources;
mod tokens;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::LazyLock,
};

/// What was broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rule {
    Rooms,
    Names,
    Globs,
    Length,
    Unfinished,
    Clock,
    Secrets,
    Documents,
}

/// One place where a rule is broken, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Violation {
    /// From the repository's root.
    pub(crate) path: PathBuf,
    /// 1-based.
    pub(crate) line: usize,
    pub(crate) rule: Rule,
    pub(crate) message: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}: {:?}: {}", self.path.display(), self.line, self.rule, self.message)
    }
}

/// Where Rust is written.
const RUST: &[&str] = &["src", "tests", "benches"];

/// Every text that is shipped or read by people.
const TEXTS: &[&str] = &["src", "tests", "benches", "policies", "systemd", "docs", "demo", "testbed", "README.md", "deny.toml"];
const TEXT_ENDINGS: &[&str] =
    &[".rs", ".toml", ".md", ".sql", ".service", ".timer", ".json", ".txt", "/run", "/make-files", "/install", "/with-servers"];

/// Asked of the running cargo: what was compiled in is another place's if two checkouts share a target directory.
fn repository() -> &'static Path {
    static ROOT: LazyLock<PathBuf> = LazyLock::new(|| {
        let root = std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        assert!(root.join("src/lib.rs").exists(), "{} is no checkout of farshore: run this through cargo test", root.display());
        root
    });
    &ROOT
}

#[track_caller]
fn assert_none(found: &[Violation]) {
    let list: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert!(found.is_empty(), "{} house rules broken:\n{}\n", found.len(), list.join("\n"));
}

/// The directories of `of` that the repository has.
pub(crate) fn present(root: &Path, of: &[&'static str]) -> Vec<&'static str> {
    of.iter().copied().filter(|directory| root.join(directory).exists()).collect()
}

#[test]
fn no_room_uses_one_above_it() {
    let files = sources::files(repository(), &["src"], &[".rs"]);
    assert!(files.len() > 10, "src/ was hardly read: {} files", files.len());
    assert_none(&rooms::check(&files));
}

#[test]
fn every_room_of_the_table_exists() {
    let mut table: Vec<&str> = rooms::TABLE.iter().map(|(name, _)| *name).collect();
    table.sort_unstable();
    assert_eq!(rooms::rooms(repository()), table, "tests/tidy/rooms.rs must list the rooms that src/ has");
}

#[test]
fn names_imports_and_lengths_are_as_the_house_has_them_and_nothing_is_unfinished() {
    assert_none(&sources::check(&sources::files(repository(), &present(repository(), RUST), &[".rs"])));
}

#[test]
fn nothing_holds_what_looks_like_a_real_key() {
    assert_none(&sources::check_secrets(&sources::files(repository(), &present(repository(), TEXTS), TEXT_ENDINGS)));
}

#[test]
fn every_path_that_a_document_names_exists() {
    assert_none(&documents::check_paths(repository(), &documents::documents(repository())));
}

#[test]
fn the_tree_in_the_architecture_is_that_of_the_sources() {
    let documents = documents::documents(repository());
    let architecture = documents.iter().find(|document| document.path == Path::new("ARCHITECTURE.md"));
    assert_none(&documents::check_tree(repository(), architecture.expect("documents() reads ARCHITECTURE.md or fails")));
}
