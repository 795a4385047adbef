//! What the documents say about the repository must be so: the paths they name exist, and the tree in `ARCHITECTURE.md` is that
//! of `src/`.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use crate::{
    Rule, Violation, present,
    sources::{SourceFile, files},
};

/// `README.md`, `ARCHITECTURE.md`, `CHANGELOG.md`, and everything in `docs/`.
pub(crate) fn documents(root: &Path) -> Vec<SourceFile> {
    let mut documents = files(root, &present(root, &["docs"]), &[".md"]);
    for name in ["README.md", "ARCHITECTURE.md", "CHANGELOG.md"] {
        let text = std::fs::read_to_string(root.join(name)).unwrap_or_else(|error| panic!("{name} can be read: {error}"));
        documents.push(SourceFile { path: PathBuf::from(name), text });
    }
    documents
}

/// Refuses paths in backticks, and targets of links, that lead nowhere.
pub(crate) fn check_paths(root: &Path, documents: &[SourceFile]) -> Vec<Violation> {
    let mut found = Vec::new();
    for document in documents {
        let mut fenced = false;
        for (index, line) in document.text.lines().enumerate() {
            if line.trim_start().starts_with("```") {
                fenced = !fenced;
                continue;
            }
            if fenced {
                continue;
            }
            for path in line.split('`').skip(1).step_by(2).filter_map(repository_path) {
                if !root.join(&path).exists() {
                    let message = format!("'{path}' does not exist: mend the name, or leave it out until it does");
                    found.push(document.violation(index + 1, Rule::Documents, message));
                }
            }
            for target in link_targets(line) {
                let directory = document.path.parent().unwrap_or(Path::new(""));
                if !root.join(directory).join(&target).exists() {
                    let message = format!("the link to '{target}' leads nowhere: targets are relative to the document");
                    found.push(document.violation(index + 1, Rule::Documents, message));
                }
            }
        }
    }
    found
}

/// Directories at the repository's top. What a build leaves there is none of them.
const DIRECTORIES: &[&str] = &["src", "tests", "policies", "systemd", "docs", "benches", "testbed", "demo", ".ci"];

/// What is quoted, if it looks like a path of this repository: it begins with one of its directories, or is a Markdown file's
/// name. Patterns and placeholders are none.
fn repository_path(quoted: &str) -> Option<String> {
    let word = quoted.split_whitespace().next()?.trim_start_matches("./").trim_end_matches(['/', ',', ':']);
    if word.contains(['*', '…', '<', '{', '$', '(']) || word.contains("NNNN") {
        return None;
    }
    let directory = word.split_once('/').is_some_and(|(first, _)| DIRECTORIES.contains(&first));
    let file = !word.contains('/') && word.ends_with(".md");
    (directory || file).then(|| word.split('#').next().unwrap_or(word).to_owned())
}

/// Relative targets of `[text](target)` on a line.
fn link_targets(line: &str) -> Vec<String> {
    line.split("](")
        .skip(1)
        .filter_map(|rest| rest.split_once(')'))
        .map(|(target, _)| target.split('#').next().unwrap_or(target).to_owned())
        .filter(|target| !target.is_empty() && !target.contains("://") && !target.starts_with("mailto:"))
        .collect()
}

/// Compares the tree drawn in `ARCHITECTURE.md` (the block of code that begins with `src/`) with `src/`. What is drawn must
/// exist; everything directly in `src/` must be drawn; of a directory that is drawn with its contents, all contents must be
/// (a `mod.rs` goes without saying).
pub(crate) fn check_tree(root: &Path, architecture: &SourceFile) -> Vec<Violation> {
    let complain = |line, message: String| architecture.violation(line, Rule::Documents, message);
    let Some(drawn) = drawn_tree(&architecture.text) else {
        return vec![complain(1, "there is no block of code that begins with 'src/': draw the tree".into())];
    };
    let first_line = drawn.first().map_or(1, |(line, _)| *line);
    let mut found = Vec::new();
    for (line, path) in &drawn {
        if !root.join(path).exists() {
            found.push(complain(*line, format!("{path} is drawn and does not exist")));
        }
    }
    let paths: BTreeSet<&str> = drawn.iter().map(|(_, path)| path.trim_end_matches('/')).collect();
    let with_contents: BTreeSet<&str> =
        paths.iter().filter_map(|path| path.rsplit_once('/')).map(|(directory, _)| directory).collect();
    for directory in with_contents {
        let Ok(contents) = std::fs::read_dir(root.join(directory)) else { continue };
        for entry in contents {
            let name = entry.expect("src/ can be read").file_name().to_string_lossy().into_owned();
            let path = format!("{directory}/{name}");
            if name != "mod.rs" && !paths.contains(path.as_str()) {
                found.push(complain(first_line, format!("{path} exists and is not drawn: add it with its one line")));
            }
        }
    }
    found
}

/// Line and path of everything drawn, `src/` first. Two spaces of indentation are one level; the name is the line's first word.
fn drawn_tree(text: &str) -> Option<Vec<(usize, String)>> {
    let mut lines = text.lines().enumerate().skip_while(|(_, line)| line.split_whitespace().next() != Some("src/"));
    let (index, _) = lines.next()?;
    let mut levels = vec!["src".to_owned()];
    let mut drawn = vec![(index + 1, "src/".to_owned())];
    for (index, line) in lines.take_while(|(_, line)| !line.starts_with("```") && line.starts_with("  ")) {
        let level = (line.len() - line.trim_start().len()) / 2;
        let Some(name) = line.split_whitespace().next() else { continue };
        levels.truncate(level);
        drawn.push((index + 1, format!("{}/{name}", levels.join("/"))));
        levels.push(name.trim_end_matches('/').to_owned());
    }
    Some(drawn)
}
