//! Rows that a drill counted.

use serde::{Deserialize, Serialize};

/// The rows of a database.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseRows {
    /// Its name.
    pub database: String,
    /// Tables and materialized views that were counted.
    pub tables: u64,
    /// Rows of all of these.
    pub rows: u64,
    /// Those that were not counted: for want of time, or because they could not be read.
    pub uncounted: u64,
    /// Those that have the most rows, the one with the most first; none without any.
    pub largest: Vec<TableRows>,
}

/// The rows of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableRows {
    /// `schema.name`, quoted where SQL wants that.
    pub table: String,
    /// How many.
    pub rows: u64,
}
