//! Each rule is seen to refuse: a fault is planted in a temporary copy, and must be named with its file and line.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{
    Rule, Violation,
    documents::{check_paths, check_tree},
    repository, rooms,
    sources::{self, LINES_WITHOUT_A_REASON, REASON, SourceFile},
};

/// A copy of `src/` in a directory that goes away.
fn copy_of_src() -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for file in sources::files(repository(), &["src"], &[".rs"]) {
        let to = copy.path().join(&file.path);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::write(to, file.text).unwrap();
    }
    copy
}

/// Adds `text` to the end of a file of the copy and returns the line on which it begins.
fn plant(copy: &Path, path: &str, text: &str) -> usize {
    let path = copy.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let before = fs::read_to_string(&path).unwrap_or_default();
    fs::write(&path, format!("{before}{text}\n")).unwrap();
    before.lines().count() + 1
}

fn rooms_of(copy: &Path) -> Vec<Violation> {
    rooms::check(&sources::files(copy, &["src"], &[".rs"]))
}

fn rust_of(copy: &Path) -> Vec<Violation> {
    sources::check(&sources::files(copy, &["src"], &[".rs"]))
}

/// That exactly one rule is broken, at one place.
#[track_caller]
fn assert_one(found: &[Violation], path: &str, line: usize, rule: Rule, about: &str) {
    assert_eq!(found.len(), 1, "{found:#?}");
    assert_eq!((found[0].path.as_path(), found[0].line, found[0].rule), (Path::new(path), line, rule), "{}", found[0]);
    assert!(found[0].message.contains(about), "{}", found[0]);
}

#[test]
fn an_upward_import_is_refused() {
    let copy = copy_of_src();
    assert_eq!(rooms_of(copy.path()), []);
    let line = plant(copy.path(), "src/stores/mod.rs", "use crate::operations::BackupRequest;");
    assert_one(&rooms_of(copy.path()), "src/stores/mod.rs", line, Rule::Rooms, "stores uses operations::BackupRequest");
}

#[test]
fn an_upward_path_is_refused_however_it_is_written() {
    for (path, text, about) in [
        ("src/clock.rs", "use crate::{\n    report::Check,\n};", "clock uses report::Check"),
        ("src/progress.rs", "fn f() { crate::clock::SystemClock::shared(); }", "progress uses clock::SystemClock::shared"),
        ("src/sources/entry.rs", "use super::super::repository::Chunk;", "sources uses repository::Chunk"),
        ("src/report/problem.rs", "mod inner { use super::super::super::cli::Flags; }", "report uses cli::Flags"),
        ("src/operations/mod.rs", "use crate::stores::s3::S3Store;", "operations names stores::s3::S3Store"),
    ] {
        let copy = copy_of_src();
        let line = plant(copy.path(), path, text) + usize::from(text.contains('\n'));
        assert_one(&rooms_of(copy.path()), path, line, Rule::Rooms, about);
    }
}

#[test]
fn a_room_that_nobody_decided_on_is_refused() {
    let copy = copy_of_src();
    plant(copy.path(), "src/transport/mod.rs", "//! Bytes.");
    assert_one(&rooms_of(copy.path()), "src/transport/mod.rs", 1, Rule::Rooms, "room 'transport' has no row");
}

#[test]
fn a_module_called_after_nothing_is_refused() {
    let copy = copy_of_src();
    plant(copy.path(), "src/stores/util.rs", "//! Odds and ends.");
    assert_one(&rust_of(copy.path()), "src/stores/util.rs", 1, Rule::Names, "'util'");
    let copy = copy_of_src();
    let line = plant(copy.path(), "src/clock.rs", "mod helpers { }");
    assert_one(&rust_of(copy.path()), "src/clock.rs", line, Rule::Names, "'helpers'");
}

#[test]
fn a_glob_import_is_refused_even_in_tests() {
    for text in ["use std::fmt::*;", "use std::{io, fmt::{self, *}};", "#[cfg(test)] mod tests { use super::*; }"] {
        let copy = copy_of_src();
        let line = plant(copy.path(), "src/clock.rs", text);
        assert_one(&rust_of(copy.path()), "src/clock.rs", line, Rule::Globs, "glob");
    }
}

#[test]
fn a_long_file_needs_a_reason() {
    let body = "// line\n".repeat(LINES_WITHOUT_A_REASON);
    let copy = copy_of_src();
    plant(copy.path(), "src/stores/long.rs", &format!("//! Much.\n{body}"));
    let found = rust_of(copy.path());
    assert_eq!((found.len(), found[0].rule), (1, Rule::Length), "{found:#?}");

    let copy = copy_of_src();
    plant(copy.path(), "src/stores/long.rs", &format!("//! Much.\n{REASON}one table that is read as a whole.\n{body}"));
    assert_eq!(rust_of(copy.path()), []);
}

#[test]
fn what_is_unfinished_or_asks_the_machine_for_the_time_is_refused() {
    for (text, rule, about) in [
        ("fn f() { todo!() }", Rule::Unfinished, "todo!"),
        ("fn f() { unimplemented!(\"x\") }", Rule::Unfinished, "unimplemented!"),
        ("#[ignore = \"slow\"] fn f() {}", Rule::Unfinished, "ignored test"),
        ("fn f() { chrono::Utc::now(); }", Rule::Clock, "Utc::now()"),
        ("fn f() { std::time::Instant::now(); }", Rule::Clock, "Instant::now()"),
    ] {
        let copy = copy_of_src();
        let line = plant(copy.path(), "src/progress.rs", text);
        assert_one(&rust_of(copy.path()), "src/progress.rs", line, rule, about);
    }
}

#[test]
fn what_looks_like_a_key_is_refused_and_a_documented_sample_is_not() {
    let key = |line: String| sources::check_secrets(&[SourceFile { path: PathBuf::from("demo/x.sql"), text: format!("\n{line}") }]);
    for (line, about) in [
        (format!("identity = AGE-SECRET-{}{}", "KEY-1", "Q".repeat(58)), "an age identity"),
        (format!("key AK{}{}", "IA", "B7".repeat(8)), "an AWS access key"),
        (format!("-----{} RSA PRIVATE {}-----", "BEGIN", "KEY"), "a private key"),
    ] {
        assert_one(&key(line), "demo/x.sql", 2, Rule::Secrets, about);
    }
    assert_eq!(key(format!("key AK{}{}", "IA", "IOSFODNN7EXAMPLE")), []);
    assert_eq!(key("age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p".into()), []);
}

#[test]
fn a_path_in_a_document_that_does_not_exist_is_refused() {
    let document = |text: &str| [SourceFile { path: PathBuf::from("tests/x.md"), text: text.into() }];
    let check = |text: &str| check_paths(repository(), &document(text));
    assert_one(&check("one\nsee `src/nowhere.rs` there"), "tests/x.md", 2, Rule::Documents, "'src/nowhere.rs'");
    assert_one(&check("see [it](nowhere.md#part)"), "tests/x.md", 1, Rule::Documents, "'nowhere.md'");
    assert_one(&check("`NOWHERE.md`"), "tests/x.md", 1, Rule::Documents, "'NOWHERE.md'");
    let fine = "`src/clock.rs`, `src/`, `tests/*.rs`, `docs/decisions/NNNN-x.md`, `packs/ab`, `crate::clock`, [out](https://x.org/y), \
        [up](../Cargo.toml)\n```\n`src/nowhere.rs`\n```\n";
    assert_eq!(check(fine), []);
}

#[test]
fn a_tree_that_is_not_that_of_the_sources_is_refused() {
    let copy = tempfile::tempdir().unwrap();
    plant(copy.path(), "src/a.rs", "");
    plant(copy.path(), "src/b/mod.rs", "");
    plant(copy.path(), "src/b/c.rs", "");
    let check = |tree: &str| {
        let text = format!("# Tree\n\n```\n{tree}```\n");
        check_tree(copy.path(), &SourceFile { path: PathBuf::from("ARCHITECTURE.md"), text })
    };
    assert_eq!(check("src/\n  a.rs   one\n  b/     two\n"), []);
    assert_eq!(check("src/\n  a.rs   one\n  b/     two\n    c.rs\n"), []);
    assert_one(&check("src/\n  a.rs\n  b/\n  d/\n"), "ARCHITECTURE.md", 7, Rule::Documents, "src/d/ is drawn");
    assert_one(&check("src/\n  a.rs\n"), "ARCHITECTURE.md", 4, Rule::Documents, "src/b exists and is not drawn");
    plant(copy.path(), "src/b/e.rs", "");
    assert_one(&check("src/\n  a.rs\n  b/\n    c.rs\n"), "ARCHITECTURE.md", 4, Rule::Documents, "src/b/e.rs exists");
    assert_one(
        &check_tree(copy.path(), &SourceFile { path: PathBuf::from("ARCHITECTURE.md"), text: String::new() }),
        "ARCHITECTURE.md",
        1,
        Rule::Documents,
        "draw the tree",
    );
}
