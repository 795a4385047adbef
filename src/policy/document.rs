//! A TOML document that knows where each of its values stands, and the list of what was found wrong in it.
//!
//! serde stops at the first mistake and, inside a tagged enum, forgets where it was; this does neither.

use std::{fmt, ops::Range};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::PolicyProblem;

/// One step into a document.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Key(String),
    Index(usize),
}

/// A way into a document: `source`, then the second, then `url`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Path(Vec<Step>);

impl Path {
    /// The whole document.
    pub fn root() -> Self {
        Self::default()
    }

    /// One key further in.
    pub fn key(&self, key: &str) -> Self {
        self.with(Step::Key(key.to_owned()))
    }

    /// One element further in, from 0.
    pub fn index(&self, index: usize) -> Self {
        self.with(Step::Index(index))
    }

    fn with(&self, step: Step) -> Self {
        let mut steps = self.0.clone();
        steps.push(step);
        Self(steps)
    }
}

/// A parsed document.
pub struct Document<'text> {
    text: &'text str,
    root: Spanned<DeValue<'text>>,
    line_starts: Vec<usize>,
}

impl fmt::Debug for Document<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The text may hold a secret that should not be there.
        formatter.debug_struct("Document").field("bytes", &self.text.len()).finish_non_exhaustive()
    }
}

impl<'text> Document<'text> {
    /// Parses as much of `text` as is TOML; the second value is what is not.
    pub fn parse(text: &'text str) -> (Self, Vec<PolicyProblem>) {
        let (table, errors) = DeTable::parse_recoverable(text);
        let span = table.span();
        let line_starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        let document = Self { text, root: Spanned::new(span, DeValue::Table(table.into_inner())), line_starts };
        let problems = errors
            .iter()
            .map(|error| {
                let (line, column) = document.line_and_column(error.span().map_or(0, |span| span.start));
                PolicyProblem { line, column, key: String::new(), message: format!("not TOML: {}", error.message()) }
            })
            .collect();
        (document, problems)
    }

    /// The whole document, a table.
    pub fn root(&self) -> &Spanned<DeValue<'text>> {
        &self.root
    }

    /// Line and column (in characters), both from 1, of a byte of the text.
    fn line_and_column(&self, offset: usize) -> (usize, usize) {
        let line = self.line_starts.partition_point(|start| *start <= offset).max(1);
        let start = self.line_starts[line - 1];
        let column = self.text.get(start..offset).map_or(0, |before| before.chars().count()) + 1;
        (line, column)
    }

    /// Where the value at `path` stands, or the innermost table around it that is there; and the path as an operator reads it,
    /// with elements called by their names: `source[db].url`, `source[#2]`.
    fn locate(&self, path: &Path) -> (Range<usize>, String) {
        let mut at = Some(&self.root);
        // The document's own span is all of it: what is missing there is said at its beginning.
        let mut span = 0..0;
        let mut name = String::new();
        for step in &path.0 {
            match step {
                Step::Key(key) => {
                    if !name.is_empty() {
                        name.push('.');
                    }
                    name.push_str(key);
                    at = at.and_then(|value| value.get_ref().as_table()).and_then(|table| table.get(key.as_str()));
                }
                Step::Index(index) => {
                    at = at.and_then(|value| value.get_ref().as_array()).and_then(|array| array.get(*index));
                    match at.and_then(own_name).filter(|own| !own.is_empty()) {
                        Some(own) => name.push_str(&format!("[{}]", own.escape_debug())),
                        None => name.push_str(&format!("[#{}]", index + 1)),
                    }
                }
            }
            if let Some(value) = at {
                span = value.span();
            }
        }
        (span, name)
    }

    fn value(&self, path: &Path) -> Option<&Spanned<DeValue<'text>>> {
        path.0.iter().try_fold(&self.root, |at, step| match step {
            Step::Key(key) => at.get_ref().as_table()?.get(key.as_str()),
            Step::Index(index) => at.get_ref().as_array()?.get(*index),
        })
    }

    fn key_span(&self, path: &Path, key: &str) -> Option<Range<usize>> {
        self.value(path)?.get_ref().as_table()?.get_key_value(key).map(|(key, _)| key.span())
    }

    /// The names of the elements of the top-level array `array`, whatever else may be wrong with them or with it.
    pub fn names(&self, array: &str) -> Vec<Option<&str>> {
        let Some(value) = self.root.get_ref().as_table().and_then(|table| table.get(array)) else { return Vec::new() };
        match value.get_ref() {
            DeValue::Array(elements) => elements.iter().map(own_name).collect(),
            _ => vec![own_name(value)],
        }
    }
}

fn own_name<'value>(value: &'value Spanned<DeValue<'_>>) -> Option<&'value str> {
    value.get_ref().as_table()?.get("name")?.get_ref().as_str()
}

/// What was found wrong, as it is found.
#[derive(Debug)]
pub struct Findings<'document> {
    document: &'document Document<'document>,
    found: Vec<PolicyProblem>,
}

impl<'document> Findings<'document> {
    /// Nothing yet.
    pub fn new(document: &'document Document<'document>) -> Self {
        Self { document, found: Vec::new() }
    }

    /// Whether anything stands at `path`, of use or not.
    pub fn is_there(&self, path: &Path) -> bool {
        self.document.value(path).is_some()
    }

    /// Something is wrong with the value at `path` (or with its absence).
    pub fn add(&mut self, path: &Path, message: impl Into<String>) {
        let (span, key) = self.document.locate(path);
        self.push(span.start, key, message.into());
    }

    /// Something is wrong with the key `key` itself, in the table at `path`.
    pub fn add_at_key(&mut self, path: &Path, key: &str, message: impl Into<String>) {
        let inner = path.key(key);
        let (span, name) = self.document.locate(&inner);
        let start = self.document.key_span(path, key).map_or(span.start, |span| span.start);
        self.push(start, name, message.into());
    }

    fn push(&mut self, offset: usize, key: String, message: String) {
        let (line, column) = self.document.line_and_column(offset);
        self.found.push(PolicyProblem { line, column, key, message });
    }

    /// All of them, in the order of the file.
    pub fn into_sorted(mut self) -> Vec<PolicyProblem> {
        self.found.sort_by_key(|problem| (problem.line, problem.column));
        self.found
    }
}
