//! What is wrong with a policy, and where.

use std::fmt;

/// One thing that is wrong in a policy file.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct PolicyProblem {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// The key it concerns, for instance `source[db].url`; empty if it concerns the whole file.
    pub key: String,
    /// What is wrong, and what would be right. Never repeats a value that may be a secret.
    pub message: String,
}

impl fmt::Display for PolicyProblem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}: ", self.line, self.column)?;
        if !self.key.is_empty() {
            write!(formatter, "{}: ", self.key)?;
        }
        formatter.write_str(&self.message)
    }
}

/// Everything that is wrong in one policy file, in the order of the file; never empty.
///
/// It reads one problem a line, `file:line:column: key: what is wrong; what would be right`, as editors and compilers do. The
/// file's own lines are not quoted: one of them may hold a secret that should not be there.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct PolicyErrors {
    /// The file, or where else the text came from.
    pub origin: String,
    /// The problems.
    pub problems: Vec<PolicyProblem>,
}

impl fmt::Display for PolicyErrors {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                formatter.write_str("\n")?;
            }
            write!(formatter, "{}:{problem}", self.origin)?;
        }
        Ok(())
    }
}

impl std::error::Error for PolicyErrors {}
