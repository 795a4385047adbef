//! Plain text tables: columns, no lines, the same wherever they are printed, so that they survive a log and a mail.

use std::fmt;

use comfy_table::{Cell, CellAlignment, ContentArrangement, TableStyle, presets};

use super::printable;

/// On which side of its column a value stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// Words.
    Left,
    /// Figures.
    Right,
}

/// A table of text.
#[derive(Debug)]
pub struct Table {
    alignments: Vec<Align>,
    inner: comfy_table::Table,
}

impl Table {
    /// A table with a heading and an alignment for each column.
    pub fn new(columns: &[(&str, Align)]) -> Self {
        const STYLE: TableStyle = presets::NOTHING;
        let mut inner = comfy_table::Table::new();
        // Neither the width of a terminal nor its colours: a report is a value, and reads the same everywhere.
        inner.load_style(STYLE).force_no_tty().set_content_arrangement(ContentArrangement::Disabled);
        let alignments: Vec<Align> = columns.iter().map(|(_, align)| *align).collect();
        let mut table = Self { alignments, inner };
        let header = table.cells(columns.iter().map(|(heading, _)| (*heading).to_owned()).collect());
        table.inner.set_header(header);
        table
    }

    /// Adds a row, one value for each column.
    pub fn row(&mut self, values: Vec<String>) -> &mut Self {
        let cells = self.cells(values);
        self.inner.add_row(cells);
        self
    }

    fn cells(&self, values: Vec<String>) -> Vec<Cell> {
        let aligned = values.into_iter().zip(&self.alignments);
        aligned
            .map(|(value, align)| {
                let side = match align {
                    Align::Left => CellAlignment::Left,
                    Align::Right => CellAlignment::Right,
                };
                Cell::new(printable(&value)).set_alignment(side)
            })
            .collect()
    }

    /// Whether it has no rows.
    pub fn is_empty(&self) -> bool {
        self.inner.is_empty()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in self.inner.lines() {
            // Each column is padded by one on both sides; the first one's stays as an indent.
            writeln!(formatter, " {}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Align, Table};

    #[test]
    fn columns_line_up_and_no_line_ends_in_spaces() {
        let mut table = Table::new(&[("phase", Align::Left), ("time", Align::Right)]);
        table.row(vec!["obtain keys".into(), "0.4 s".into()]).row(vec!["database\ttransfer".into(), "12.3 s".into()]);
        assert_eq!(
            table.to_string(),
            "  phase                 time\n  obtain keys          0.4 s\n  database\\ttransfer  12.3 s\n"
        );
    }
}
