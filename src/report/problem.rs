//! Problems that do not stop the work.

use serde::{Deserialize, Serialize};

use super::printable;

/// Something that went wrong without stopping the work: what it hit, and what happened with the next step to take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The thing it concerns: a path, an object key, a table.
    pub subject: String,
    /// What happened, and what to do about it. Never holds a secret.
    pub message: String,
}

impl Problem {
    /// A problem with `subject`.
    pub fn new(subject: impl Into<String>, message: impl Into<String>) -> Self {
        Self { subject: subject.into(), message: message.into() }
    }
}

/// Problems shown in full in a text; the JSON has all of them.
const MOST_LINES: usize = 50;

/// The problems as lines of a text; nothing if there are none.
pub fn problem_lines(problems: &[Problem]) -> String {
    if problems.is_empty() {
        return String::new();
    }
    let mut lines = format!("\n{} problem{}:\n", problems.len(), if problems.len() == 1 { "" } else { "s" });
    for problem in problems.iter().take(MOST_LINES) {
        lines.push_str(&format!("  {}: {}\n", printable(&problem.subject), printable(&problem.message)));
    }
    if problems.len() > MOST_LINES {
        lines.push_str(&format!("  and {} more; --json lists them all\n", problems.len() - MOST_LINES));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::{Problem, problem_lines};

    #[test]
    fn many_problems_are_shown_in_part_and_counted_in_full() {
        let problems: Vec<_> = (0..60).map(|index| Problem::new(format!("file{index}"), "unreadable")).collect();
        let lines = problem_lines(&problems);
        assert!(lines.starts_with("\n60 problems:\n  file0: unreadable\n"), "{lines}");
        assert!(lines.ends_with("  file49: unreadable\n  and 10 more; --json lists them all\n"), "{lines}");
        assert_eq!(problem_lines(&[]), "");
    }
}
